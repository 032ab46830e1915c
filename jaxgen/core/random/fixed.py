"""Random numbers that are the same in every call.

Data is often made by generators with the seeds 0, 1, 2, ... A function that adds random numbers to
data, or chooses rows of it, must not repeat those, as they would depend on the data.
"""

from __future__ import annotations

import numpy as np

SEED = 1_402_671_591  # a random number below 2**31


def generator() -> np.random.Generator:
    """A new NumPy generator with the seed ``SEED``."""
    return np.random.default_rng(SEED)
