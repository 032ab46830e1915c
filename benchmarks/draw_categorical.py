"""Draws of a categorical: a binary search in NumPy, and jax.random."""

import jax
import numpy as np

from benchmarks import twins
from jaxgen import models


def run(harness):
    # jax.random needs n x levels numbers, so that both sides draw fewer events
    sizes = harness.pick({"NumPy": 10**6, "jax.random": 10**5}, {"NumPy": 10**4, "jax.random": 500})
    for levels in harness.pick((10, 100, 1000), (1000,)):
        twin = _Levels(levels)
        peers = {"NumPy": twin.numpy_sample, "jax.random": twin.jax_random_sample}
        targets = {"NumPy": 20, "jax.random": 50} if levels == 1000 else None
        for name, n in sizes.items():
            makes = {"jaxgen": twin.ours_sample, name: peers[name]}
            case, work = f"{n:,} of {levels:,} levels", ("bytes", 4 * n)
            yield from harness.compare(case, n, makes, targets, n=n, work=work)


class _Levels(twins.Twin):
    def __init__(self, levels):
        self.probs = np.random.default_rng(0).dirichlet(np.ones(levels))
        super().__init__(models.Categorical((), levels=levels), logits=np.log(self.probs))

    def numpy_sample(self, n):
        rng, cdf = np.random.default_rng(1), np.cumsum(self.probs).astype(np.float32)
        cdf[-1] = 1
        return lambda: np.searchsorted(cdf, rng.random(n, dtype=np.float32), "right")

    def jax_random_sample(self, n):
        logits = self.fitted.params["logits"]
        draw = jax.jit(lambda key: jax.random.categorical(key, logits, shape=(n,)))
        return lambda: draw(twins.KEY)
