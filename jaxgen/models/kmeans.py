"""k-means clustering with greedy k-means++ seeding, from which fits of mixtures start."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_ROWS = 16384  # most rows from which the centres are computed
_STEPS = 30  # most Lloyd iterations: a start for EM need not have converged


def responsibilities(key: jax.Array, x: Any, count: int, used: int | None = None) -> jax.Array:
    """Clusters of the rows of x, one-hot (n, count): 1 for the nearest of ``count`` centres.

    Args:
      key: a typed PRNG key.
      x: (n, ...) events, taken as flat vectors.
      count: number of clusters; some stay empty if there are fewer distinct rows.
      used: number of clusters that may have rows, the first ones; None for all.

    Source: Arthur and Vassilvitskii 2007, "k-means++: the advantages of careful seeding".
    """
    return _cluster(key, centred(x), count, np.int32(count if used is None else used))


def centred(x: Any) -> jax.Array:
    """The events x (n, ...) as flat vectors less their mean.

    The mean is subtracted in the precision of x, since in float32 a large offset costs digits.
    """
    flat = x.reshape(len(x), -1)
    return jnp.asarray(flat - flat.mean(0), jnp.result_type(float))


@functools.partial(jax.jit, static_argnums=2)
def _cluster(key, x, count, used):
    return cluster(key, x, count, used)


def cluster(key: jax.Array, x: jax.Array, count: int, used: Any) -> jax.Array:
    """As ``responsibilities``, of centred rows (n, dim), for compiled code."""
    x = x.T  # rows last, over which the loops run
    tries, n = 2 + int(math.log(count)), x.shape[1]
    picks = _ROWS if n > _ROWS else 0
    # all random numbers at once: each draw takes long to compile
    draws = jax.random.uniform(key, (picks + 1 + count * tries,), x.dtype)
    sample = x[:, _index(draws[:picks], n)] if picks else x
    first, draws = draws[picks], draws[picks + 1 :].reshape(count, tries)

    def lloyd(carry):
        step, centres, _ = carry
        shares = _nearest(sample, centres, used)
        size = shares.sum(1)[:, None]
        means = (shares @ sample.T) / jnp.maximum(size, 1)
        return step + 1, jnp.where(size > 0, means, centres), centres

    def moving(carry):
        step, centres, before = carry
        return (step < _STEPS) & (centres != before).any()

    centres = _seed(first, draws, sample, used)
    _, centres, _ = lax.while_loop(moving, lloyd, (0, centres, centres + jnp.inf))
    return _nearest(x, centres, used).T


def nearest(x: jax.Array, centres: jax.Array) -> jax.Array:
    """The nearest of the centres (count, dim) for each row of x (n, dim), one-hot (n, count)."""
    return _nearest(x.T, centres, len(centres)).T


def _nearest(x, centres, used):
    """The nearest of the first ``used`` centres for each row, one-hot (count, n); x is (dim, n)."""
    product = jnp.matmul(centres, x, precision=lax.Precision.HIGHEST)
    distances = (centres**2).sum(1)[:, None] - 2 * product  # |x|^2 is the same for every centre

    def closer(k, carry):
        least, label = carry
        return jnp.minimum(distances[k], least), jnp.where(distances[k] < least, k, label)

    # a loop over the centres is several times as fast as argmin
    n = x.shape[1]
    start = jnp.full(n, jnp.inf, x.dtype), jnp.zeros(n, jnp.int32)
    _, label = lax.fori_loop(0, used, closer, start)
    return (label == jnp.arange(len(centres), dtype=label.dtype)[:, None]).astype(x.dtype)


def _index(uniform, n):
    """Indices 0 .. n - 1 from numbers between 0 and 1."""
    return (uniform * n).astype(int).clip(max=n - 1)


def _seed(first, draws, x, used):
    """Rows of x (dim, n) as the first centres, by uniform numbers: one, and draws (count, tries).

    Each is the best of a few candidates, which are drawn in proportion to the squared distance to
    the nearest of the centres before it.
    """
    row = lambda i: x[:, i]  # noqa: E731
    dim, n = x.shape
    centres = jnp.zeros((len(draws), dim), x.dtype).at[0].set(row(_index(first, n)))
    distances = ((x - centres[0][:, None]) ** 2).sum(0)

    def add(k, carry):
        centres, distances = carry
        cdf = jnp.cumsum(distances)
        rows = jnp.searchsorted(cdf, draws[k] * cdf[-1], side="right").clip(max=n - 1)

        def with_centre(i):
            return jnp.minimum(distances, ((x - row(i)[:, None]) ** 2).sum(0))

        candidates = lax.map(with_centre, rows)
        best = candidates.sum(1).argmin()
        return centres.at[k].set(row(rows[best])), candidates[best]

    return lax.fori_loop(1, used, add, (centres, distances))[0]
