"""The few sizes that arrays are padded to, for each of which programs are compiled once."""

from __future__ import annotations

import numpy as np

_SMALLEST = 64


def size_class(n: int, an_octave: int = 4) -> int:
    """The padded size of n rows: so many sizes an octave, so at most that part more than n.

    ``an_octave`` is a power of two. Sizes of four an octave are among those of eight.
    """
    bits = an_octave.bit_length() - 1
    step = 1 << max((n - 1).bit_length() - 1 - bits, 6 - bits)
    return max(_SMALLEST, -(-n // step) * step)


def repeated(n: int) -> np.ndarray:
    """Numbers of n rows, repeated from the first on up to a size class."""
    return np.arange(size_class(n)) % n
