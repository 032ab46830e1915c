"""Training steps of models of images of 28 x 28 pixels, beside the same networks in torch."""

import functools

import jax
import numpy as np

from benchmarks import image_models, image_sizes
from benchmarks.machine import torch_device
from benchmarks.peer_process import Apart
from benchmarks.training_steps import compare_steps
from jaxgen.training import Adam, fit

CASES = (  # the model, images in a step, numbers of steps, and the least ratio
    ("vae", 128, (20, 220), 1.0),
    ("diffusion", 64, (2, 8), 0.5),
    ("pixels", 32, (4, 24), 1.0),
)


def run(harness):
    rows = []
    for name, batch, steps, least in CASES:
        few, many = harness.pick(steps, (1, 2))
        sides = {
            "jaxgen": functools.partial(ours, name=name, batch=batch),
            "torch": functools.partial(theirs, name=name, batch=batch),
        }
        shape = few * batch, *image_sizes.SHAPE  # an epoch; the many steps are of several
        data = np.random.default_rng(0).integers(0, 2, shape).astype(np.float32)
        case = f"{batch} images, {name}"
        rows += compare_steps(
            harness, case, few, many, lambda _, x=data: x, sides, {"torch": least}
        )
    return rows


def ours(images, steps, name, batch):
    model, epochs = getattr(image_models, name)(), steps * batch // len(images)
    options = {"batch_size": batch, "validation": images[:1], "optimizer": Adam(1e-3, clip=1.0)}
    return lambda: (
        fit(model, images, key=jax.random.key(0), epochs=epochs, progress=False, **options).params
    )


def theirs(images, steps, name, batch):
    epochs = steps * batch // len(images)
    return Apart("torch_images", "steps", name, images, batch, epochs, torch_device())
