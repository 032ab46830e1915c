"""The sizes to which arrays are padded; they are few, since programs are compiled for each."""

from __future__ import annotations

import numpy as np

_SMALLEST = 64


def size_class(n: int, per_octave: int = 4) -> int:
    """The size to which n rows are padded, at least 64.

    ``per_octave``, a power of two, is the number of sizes between a power of two and the next. With
    4 of them, the size is at most 1/4 larger than n. All sizes with 4 are sizes with 8.
    """
    bits = per_octave.bit_length() - 1
    step = 1 << max((n - 1).bit_length() - 1 - bits, 6 - bits)
    return max(_SMALLEST, -(-n // step) * step)


def repeated(n: int) -> np.ndarray:
    """The numbers of n rows, repeated in order up to the padded size of n."""
    return np.arange(size_class(n)) % n
