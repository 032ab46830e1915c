"""The side of mkl_random, imported in a separate process."""

import mkl_random

from benchmarks.timing import Here

# the fastest of MKL; with its others too, mkl_random 1.5 crashes at times
GENERATORS = "SFMT19937", "MCG31", "MCG59", "ARS5", "PHILOX4X32X10"
METHODS = "ICDF", "BoxMuller", "BoxMuller2"


def uniform(shape):
    """The call that draws a new float64 array, by the generator that is fastest here."""
    return _uniform(shape, min(GENERATORS, key=lambda name: _seconds(_uniform(shape, name))))


def normal(shape):
    """The call that draws a new float64 array, by the fastest generator and method."""
    pairs = [(generator, method) for generator in GENERATORS for method in METHODS]
    return _normal(shape, *min(pairs, key=lambda pair: _seconds(_normal(shape, *pair))))


def _uniform(shape, generator):
    draw = mkl_random.MKLRandomState(1, brng=generator).random_sample
    return lambda: draw(shape)


def _normal(shape, generator, method):
    draw = mkl_random.MKLRandomState(1, brng=generator).standard_normal
    return lambda: draw(shape, method=method)


def _seconds(call):
    """The least time of five calls."""
    return min(Here(call).time(1) for _ in range(5))
