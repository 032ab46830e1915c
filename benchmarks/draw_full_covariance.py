"""Normal draws with a full covariance, 2,000,000 numbers in rows of several widths.

NumPy multiplies a new array of standard normals by the factor, then adds the mean in place.
"""

import numpy as np

from benchmarks import twins

NUMBERS = 2_000_000


def run(harness):
    for dim in harness.pick((2, 3, 5, 7, 16, 64), (3, 16)):
        n = harness.pick(NUMBERS, 20_000) // dim
        twin = twins.Gaussian(dim)
        makes = {"jaxgen": twin.ours_sample, "NumPy": lambda n, twin=twin: _numpy(twin, n)}
        case, work = f"{n:,} x {dim}", ("bytes", 4 * dim * n)
        yield from harness.compare(case, n, makes, {"NumPy": 4}, n=n, work=work)


def _numpy(twin, n):
    rng, shape, factor = np.random.default_rng(1), (n, len(twin.mean)), twin.scale.T

    def call():
        out = rng.standard_normal(shape, dtype=np.float32) @ factor
        out += twin.mean
        return out

    return call
