"""Events of 784 features: binary pixels and a diagonal normal.

The peer is NumPy in blocks of rows that caches hold. For pixels it compares raw words of 32 bits
with the probabilities, which is twice as fast as uniform numbers.
"""

import numpy as np

from benchmarks import twins
from benchmarks.harness import agreement
from jaxgen import models

DIM = 784
ROWS = 100  # of a block of NumPy


def run(harness):
    n = harness.pick(10_000, 500)
    for name, twin in (("Bernoulli", _Pixels()), ("Gaussian, diagonal", _Diagonal())):
        case = f"{name}, {n:,} x {DIM}"
        makes = {"jaxgen": twin.ours_sample, "NumPy": twin.numpy_sample}
        work = ("bytes", 4 * DIM * n)
        yield from harness.compare(f"{case}, sample", n, makes, {"NumPy": 3}, n=n, work=work)
        makes = {"jaxgen": twin.ours_log_prob, "NumPy": twin.numpy_log_prob}
        work, examine = ("flops", 4 * DIM * n), agreement(0.01)
        x = twin.events(n)
        yield from harness.compare(
            f"{case}, log_prob", x, makes, {"NumPy": 3}, n=n, work=work, examine=examine
        )


class _Pixels(twins.Twin):
    def __init__(self):
        logits = np.random.default_rng(0).normal(size=DIM)
        super().__init__(models.Bernoulli((DIM,)), logits=logits)

    def numpy_sample(self, n):
        words = np.random.SFC64(1)
        below = (2.0**32 / (1 + np.exp(-self.params["logits"].astype(float)))).astype(np.uint32)

        def call():
            out = np.empty((n, DIM), bool)
            for block in _blocks(out):
                drawn = words.random_raw(block.size // 2).view(np.uint32)
                np.less(drawn.reshape(block.shape), below, out=block)
            return out

        return call

    def numpy_log_prob(self, x):
        logits = self.params["logits"]
        constant = np.logaddexp(0, logits).sum()
        return lambda: x @ logits - constant


class _Diagonal(twins.Twin):
    def __init__(self):
        rng = np.random.default_rng(0)
        mean, scale = rng.normal(size=DIM), rng.uniform(0.5, 2, DIM)
        super().__init__(models.Gaussian(DIM, "diagonal"), mean=mean, scale=scale)

    def numpy_fill(self, rng):
        def fill(out):
            for block in _blocks(out):
                rng.standard_normal(out=block, dtype=np.float32)
                block *= self.params["scale"]
                block += self.params["mean"]

        return fill

    def numpy_log_prob(self, x):
        mean, scale = self.params.values()
        constant = np.log(scale).sum() + 0.5 * DIM * twins.LOG_2PI

        half, buffer = -0.5 / scale**2, np.empty((ROWS, DIM), np.float32)

        def call():
            out = np.full(len(x), -constant, np.float32)
            for block, rows in zip(_blocks(out), _blocks(x), strict=True):
                z = np.subtract(rows, mean, out=buffer[: len(rows)])
                block += np.square(z, out=z) @ half
            return out

        return call


def _blocks(array):
    return (array[i : i + ROWS] for i in range(0, len(array), ROWS))
