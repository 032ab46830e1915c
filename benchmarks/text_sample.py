"""Tokens drawn from a transformer: torch with a cache of keys and values, and without."""

import jax

from benchmarks import twins
from benchmarks.machine import torch_device
from benchmarks.peer_process import Apart
from jaxgen import Fitted, models, networks

VOCABULARY, WIDTH, HEADS, LAYERS, LENGTH = 65, 128, 4, 4, 64
SIZES = VOCABULARY, WIDTH, HEADS, LAYERS


def model(length=LENGTH):
    network = networks.Transformer(WIDTH, HEADS, LAYERS)
    return models.Autoregressive(length, VOCABULARY, network, stop=False)


def run(harness):
    cases = (1, True, None), (64, True, 1), (64, False, 8), (512, True, None)
    for rows, cached, least in harness.pick(cases, cases[:1]):
        peer = "torch" if cached else "torch, no cache"
        case = f"{rows} x {LENGTH} tokens, {LAYERS} layers of {WIDTH}"
        makes = {"jaxgen": ours, peer: theirs(cached)}
        yield from harness.compare(case, rows, makes, {peer: least}, n=rows * LENGTH)


def ours(rows):
    spec = model()
    fitted = Fitted(spec, spec.init(jax.random.key(0)))
    return lambda: fitted.sample(twins.KEY, rows)


def theirs(cached):
    def make(rows):
        return Apart("torch_transformer", "draw", SIZES, rows, LENGTH, cached, torch_device())

    return make
