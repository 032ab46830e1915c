"""Sums of exponentials, and choices by weight, that stay right at their edges."""

from __future__ import annotations

import jax.numpy as jnp
from jax.scipy import special


def logsumexp(terms, axis=None):
    """log sum exp of terms; -inf with zero gradient where all are -inf, JAX's own gives NaN."""
    near = terms.max(axis) != -jnp.inf  # NaN stays NaN
    known = near if axis is None else jnp.expand_dims(near, axis)
    total = special.logsumexp(jnp.where(known, terms, 0), axis)
    return jnp.where(near, total, -jnp.inf)


def choose(weights, uniform):
    """The index that a uniform number in (0, 1) picks, each in proportion to its weight (k,).

    By inverse CDF. Scaling by the last entry, and a side that skips indices of no weight, keep
    those from being picked.
    """
    cdf = jnp.cumsum(weights)
    return jnp.searchsorted(cdf, uniform * cdf[-1], side="right").clip(max=cdf.size - 1)
