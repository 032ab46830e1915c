"""Events of 784 features: binary pixels and a diagonal normal; the peer is NumPy."""

import numpy as np

from benchmarks import twins
from benchmarks.harness import agreement
from jaxgen import models

DIM = 784


def run(harness):
    n = harness.pick(10_000, 500)
    for name, twin in (("Bernoulli", _Pixels()), ("Gaussian, diagonal", _Diagonal())):
        case = f"{name}, {n:,} x {DIM}"
        makes = {"jaxgen": twin.ours_sample, "NumPy": twin.numpy_sample}
        work = ("bytes", 4 * DIM * n)
        yield from harness.compare(f"{case}, sample", n, makes, n=n, work=work)
        makes = {"jaxgen": twin.ours_log_prob, "NumPy": twin.numpy_log_prob}
        work, examine = ("flops", 4 * DIM * n), agreement(0.01)
        x = twin.events(n)
        yield from harness.compare(f"{case}, log_prob", x, makes, n=n, work=work, examine=examine)


class _Pixels(twins.Twin):
    def __init__(self):
        logits = np.random.default_rng(0).normal(size=DIM)
        super().__init__(models.Bernoulli((DIM,)), logits=logits)

    def numpy_sample(self, n):
        rng, probs = np.random.default_rng(1), 1 / (1 + np.exp(-self.params["logits"]))
        return lambda: rng.random((n, DIM), dtype=np.float32) < probs

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
            rng.standard_normal(out=out, dtype=np.float32)
            out *= self.params["scale"]
            out += self.params["mean"]

        return fill

    def numpy_log_prob(self, x):
        mean, scale = self.params.values()
        constant = np.log(scale).sum() + 0.5 * DIM * twins.LOG_2PI

        def call():
            z = (x - mean) / scale
            return -0.5 * np.einsum("ij,ij->i", z, z) - constant

        return call
