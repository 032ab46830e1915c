"""Training steps of a transformer of nanoGPT's size for a CPU, beside the same in torch."""

import functools

import jax
import numpy as np

from benchmarks.machine import torch_device
from benchmarks.peer_process import Apart
from benchmarks.text_sample import LAYERS, LENGTH, SIZES, VOCABULARY, WIDTH, model
from jaxgen.training import Adam, fit

BATCH = 12


def run(harness):
    """The time of a step from long fits minus short ones, as a fit also scores and compiles."""
    few, many = harness.pick((20, 120), (1, 2))
    sides = {"jaxgen": ours, "torch": theirs}
    rows = []
    for steps, targets in ((few, None), (many, {"torch": "step_ratio >= 0.8"})):
        tokens = np.random.default_rng(0).integers(0, VOCABULARY, (steps * BATCH, LENGTH))
        makes = {name: functools.partial(make, steps=steps) for name, make in sides.items()}
        case = f"{steps} steps of {BATCH} x {LENGTH} tokens, {LAYERS} layers of {WIDTH}"
        rows.append(harness.compare(case, tokens.astype(np.int32), makes, targets))
    for before, row in zip(*rows, strict=True):
        if before["seconds_median"] and row["seconds_median"]:
            more = row["seconds_median"] - before["seconds_median"]
            row["step_seconds"] = more / (many - few)
            row["step_ratio"] = row["step_seconds"] / rows[1][0]["step_seconds"]
    return rows[0] + rows[1]


def ours(tokens, steps):
    optimizer, held = Adam(1e-3, clip=1.0), tokens[:1]
    options = {"epochs": 1, "batch_size": BATCH, "validation": held, "optimizer": optimizer}
    return lambda: fit(model(), tokens, key=jax.random.key(0), progress=False, **options).params


def theirs(tokens, steps):
    return Apart("torch_transformer", "steps", SIZES, tokens, BATCH, torch_device())
