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
_STEPS = 30  # Lloyd iterations: a start for EM need not have converged


def responsibilities(key: jax.Array, x: Any, count: int, used: int | None = None) -> jax.Array:
    """Clusters of the rows of x, one-hot (n, count): 1 for the nearest of ``count`` centres.

    Args:
      key: a typed PRNG key.
      x: (n, ...) events, taken as flat vectors.
      count: number of clusters; some stay empty if there are fewer distinct rows.
      used: number of clusters that may have rows, the first ones; None for all.

    Source: Arthur and Vassilvitskii 2007, "k-means++: the advantages of careful seeding".
    """
    # centred in the precision of the data: in float32 a large offset would cost digits
    flat = x.reshape(len(x), -1)
    flat = flat - flat.mean(0)
    limit = np.int32(count if used is None else used)
    return _cluster(key, jnp.asarray(flat, jnp.result_type(float)), count, limit)


@functools.partial(jax.jit, static_argnums=2)
def _cluster(key, x, count, used):
    pick_key, seed_key = jax.random.split(key)
    sample = x
    if len(x) > _ROWS:
        sample = x[jax.random.randint(pick_key, (_ROWS,), 0, len(x))]

    def lloyd(_, centres):
        shares = nearest(sample, centres, used)
        size = shares.sum(0)[:, None]
        return jnp.where(size > 0, (shares.T @ sample) / jnp.maximum(size, 1), centres)

    centres = lax.fori_loop(0, _STEPS, lloyd, _seed(seed_key, sample, count, used))
    return nearest(x, centres, used)


def nearest(x: jax.Array, centres: jax.Array, used: Any = None) -> jax.Array:
    """The nearest of the centres (count, dim) for each row of x (n, dim), one-hot (n, count).

    used: number of centres to choose from, the first ones; None for all.
    """
    distances = _distances(x, centres)
    if used is not None:
        distances = jnp.where(jnp.arange(len(centres)) < used, distances, jnp.inf)
    return jax.nn.one_hot(distances.argmin(1), len(centres), dtype=x.dtype)


def _seed(key, x, count, used):
    """Rows of x as the first centres.

    Each is the best of a few candidates, which are drawn in proportion to the squared distance to
    the nearest of the centres before it.
    """
    tries = 2 + int(math.log(count))
    keys = jax.random.split(key, count)
    centres = jnp.zeros((count, x.shape[1]), x.dtype)
    centres = centres.at[0].set(x[jax.random.randint(keys[0], (), 0, len(x))])
    distances = ((x - centres[0]) ** 2).sum(1)

    def add(k, carry):
        centres, distances = carry
        cdf = jnp.cumsum(distances)
        draws = jax.random.uniform(keys[k], (tries,), x.dtype) * cdf[-1]
        rows = jnp.searchsorted(cdf, draws, side="right").clip(max=len(x) - 1)
        candidates = lax.map(lambda row: jnp.minimum(distances, ((x - x[row]) ** 2).sum(1)), rows)
        best = candidates.sum(1).argmin()
        return centres.at[k].set(x[rows[best]]), candidates[best]

    return lax.fori_loop(1, used, add, (centres, distances))[0]


def _distances(x, centres):
    """Squared distances (n, count), up to a constant for each row."""
    product = jnp.matmul(x, centres.T, precision=lax.Precision.HIGHEST)
    return (centres**2).sum(1) - 2 * product  # |x|^2 is the same for every centre
