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
        data = functools.partial(images, batch=batch)
        case = f"{batch} images, {name}"
        rows += compare_steps(harness, case, few, many, data, sides, {"torch": least})
    return rows


def images(steps, batch):
    shape = steps * batch, *image_sizes.SHAPE
    return np.random.default_rng(0).integers(0, 2, shape).astype(np.float32)


def ours(images, steps, name, batch):
    model, optimizer = getattr(image_models, name)(), Adam(1e-3, clip=1.0)
    options = {"epochs": 1, "batch_size": batch, "validation": images[:1], "optimizer": optimizer}
    return lambda: fit(model, images, key=jax.random.key(0), progress=False, **options).params


def theirs(images, steps, name, batch):
    return Apart("torch_images", "steps", name, images, batch, torch_device())
