"""Images of 28 x 28 pixels drawn from each family, beside the same networks in torch."""

import functools

import jax

from benchmarks import image_models, twins
from benchmarks.machine import torch_device
from benchmarks.peer_process import Apart
from jaxgen import Fitted

CASES = (("vae", 4096), ("diffusion", 64), ("pixels", 256))  # the model, and images in a call


def run(harness):
    for name, rows in harness.pick(CASES, [(name, 4) for name, _ in CASES]):
        sides = {"jaxgen": functools.partial(ours, name=name)}
        sides["torch"] = functools.partial(theirs, name=name)
        yield from harness.compare(f"{rows} images, {name}", rows, sides, {"torch": 1.0}, n=rows)


def ours(rows, name):
    spec = getattr(image_models, name)()
    fitted = Fitted(spec, spec.init(jax.random.key(0)))
    return lambda: fitted.sample(twins.KEY, rows)


def theirs(rows, name):
    return Apart("torch_images", "draw", name, rows, torch_device())
