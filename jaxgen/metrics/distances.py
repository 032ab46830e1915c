"""Euclidean distances between rows, computed block by block on the host in float64.

They are in float64 for any JAX dtype, since metrics must not depend on an offset of the data. A few
thousand rows take less than a second.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

_BLOCK = 2**19  # pairs in memory at once: 4 MiB
_DIRECT = 6  # with at most so many coordinates, differences are exact and as fast as a product
_TIE = 1e-9  # relative; sums of equal terms in different orders still count as equal


def rows(x: ArrayLike) -> np.ndarray:
    """Events (n, *event_shape) as float64 rows (n, dim); scalar events as (n, 1)."""
    x = np.asarray(x)
    return x.reshape(len(x), -1).astype(np.float64)


def blocks(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Squared distances |a_i - b_j|^2, for one block of rows of ``a`` after another.

    Args:
      a: (n, d) float64 rows.
      b: (m, d) float64 rows.

    Yields:
      The slice of rows of ``a``, and their squared distances to all rows of ``b``, (block, m).
    """
    direct = a.shape[1] <= _DIRECT
    if not direct:
        # a common offset would cause cancellation in the product form
        centre = b.mean(0)
        a, b = a - centre, b - centre
        b_norm = (b * b).sum(1)
    step = max(1, _BLOCK // max(1, len(b)))
    for start in range(0, len(a), step):
        part = slice(start, start + step)
        if direct:
            squared = np.zeros((len(a[part]), len(b)))
            for j in range(a.shape[1]):
                difference = a[part, j, None] - b[:, j]
                difference *= difference
                squared += difference
        else:
            size = (a[part] ** 2).sum(1)[:, None] + b_norm
            squared = size - 2 * a[part] @ b.T
            # for equal rows this is rounding error of either sign
            squared[squared < 1e-13 * size] = 0
        yield part, squared


def nearest(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The distance from each row of ``a`` to the nearest row of ``b``: (n,), in units of x."""
    found = np.empty(len(a))
    for part, squared in blocks(a, b):
        found[part] = squared.min(1)
    return np.sqrt(found)


def squared_radii(x: np.ndarray, k: int) -> np.ndarray:
    """The squared distance (n,) from each row to its k-th nearest other row, widened for ties.

    Raises:
      ValueError: k is below 1, or there are at most k rows.
    """
    if not 1 <= k < len(x):
        raise ValueError(f"k must be at least 1 and below the number of rows {len(x)}, got {k}")
    found = np.empty(len(x))
    for part, squared in blocks(x, x):
        # in order, entry 0 is the row itself, at distance 0
        found[part] = np.partition(squared, k, axis=1)[:, k]
    return found * (1 + _TIE)


def mean_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The mean of |a_i - b_j| over all pairs; if ``b is a``, over pairs of different rows."""
    total = sum(np.sqrt(squared).sum() for _, squared in blocks(a, b))
    pairs = len(a) * (len(a) - 1) if b is a else len(a) * len(b)
    return float(total / pairs)
