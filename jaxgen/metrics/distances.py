"""Euclidean distances between rows, a block at a time, on the host in float64.

float64 whatever the JAX dtype: the metrics must not move when data carry a large offset, and a few
thousand rows cost under a second here.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_BLOCK = 2**19  # pairs held at once: 4 MiB
_DIRECT = 6  # up to this many coordinates differences are exact and as fast as a product
_SLACK = 1e-9  # relative; two sums of equal terms in another order still tie


def rows(x) -> np.ndarray:
    """A batch of events as float64 rows: (n, *event_shape) to (n, dim), scalars to (n, 1)."""
    x = np.asarray(x)
    return x.reshape(len(x), -1).astype(np.float64)


def blocks(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Squared distances |a_i - b_j|^2, a block of rows of ``a`` against all of ``b`` at a time.

    Args:
      a: (n, d) float64 rows.
      b: (m, d) float64 rows.

    Yields:
      The slice of rows of ``a``, and their (block, m) squared distances, in squared units of x.
    """
    direct = a.shape[1] <= _DIRECT
    if not direct:
        # the product form cancels unless the common offset is gone
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
            # what is left of equal rows is rounding, and is either sign
            squared[squared < 1e-13 * size] = 0
        yield part, squared


def nearest(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distance from each row of ``a`` to the nearest row of ``b``: (n,), in units of x."""
    found = np.empty(len(a))
    for part, squared in blocks(a, b):
        found[part] = squared.min(1)
    return np.sqrt(found)


def squared_radii(x: np.ndarray, k: int) -> np.ndarray:
    """Squared distance from each row to its k-th nearest other row: (n,), a hair widened for ties.

    Raises:
      ValueError: k < 1, or there are not more than k rows.
    """
    if not 1 <= k < len(x):
        raise ValueError(f"k must be at least 1 and below the number of rows {len(x)}, got {k}")
    found = np.empty(len(x))
    for part, squared in blocks(x, x):
        # entry 0 in order is the row itself, at distance 0
        found[part] = np.partition(squared, k, axis=1)[:, k]
    return found * (1 + _SLACK)


def mean_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Mean of |a_i - b_j| over all pairs; where ``b is a``, over pairs of different rows."""
    total = sum(np.sqrt(squared).sum() for _, squared in blocks(a, b))
    pairs = len(a) * (len(a) - 1) if b is a else len(a) * len(b)
    return float(total / pairs)
