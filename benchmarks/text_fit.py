"""Training steps of a transformer of nanoGPT's size for a CPU, beside the same in torch."""

import jax
import numpy as np

from benchmarks.machine import torch_device
from benchmarks.peer_process import Apart
from benchmarks.text_sample import LAYERS, LENGTH, SIZES, VOCABULARY, WIDTH, model
from benchmarks.training_steps import compare_steps
from jaxgen.training import Adam, fit

BATCH = 12


def run(harness):
    few, many = harness.pick((20, 120), (1, 2))
    case = f"{BATCH} x {LENGTH} tokens, {LAYERS} layers of {WIDTH}"
    sides = {"jaxgen": ours, "torch": theirs}
    return compare_steps(harness, case, few, many, tokens, sides, {"torch": 0.8})


def tokens(steps):
    drawn = np.random.default_rng(0).integers(0, VOCABULARY, (steps * BATCH, LENGTH))
    return drawn.astype(np.int32)


def ours(tokens, steps):
    optimizer, held = Adam(1e-3, clip=1.0), tokens[:1]
    options = {"epochs": 1, "batch_size": BATCH, "validation": held, "optimizer": optimizer}
    return lambda: fit(model(), tokens, key=jax.random.key(0), progress=False, **options).params


def theirs(tokens, steps):
    return Apart("torch_transformer", "steps", SIZES, tokens, BATCH, torch_device())
