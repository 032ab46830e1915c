"""Log densities of sites: defined everywhere, with finite gradients, accurate for large counts."""

from __future__ import annotations

import copy
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import gammaln
from jax.typing import ArrayLike

_SMALL = 0.1  # relative difference of a count from its rate below which a series is used
_TERMS = 9  # number of terms of that series
_STIRLING = 16  # smallest count for which Stirling's series is used


def log_prob_within(fn: Any, value: ArrayLike) -> jax.Array:
    """log p of a value in nats, of the distribution's batch shape; -inf outside the support.

    A masked entry counts as not observed: its log p is 0 for every value.
    """
    if isinstance(fn, dist.MaskedDistribution):
        mask = jnp.broadcast_to(fn._mask, fn.batch_shape)
        return jnp.where(mask, log_prob_within(fn.base_dist, value), 0)
    if isinstance(fn, dist.Independent):
        log_p = log_prob_within(fn.base_dist, value)
        return log_p.sum(tuple(range(-fn.reinterpreted_batch_ndims, 0)))
    if isinstance(fn, dist.ExpandedDistribution) and is_masked(fn):
        return jnp.broadcast_to(log_prob_within(fn.base_dist, value), fn.batch_shape)
    inside = fn.support(value)
    event_inside = jnp.reshape(inside, (*inside.shape, *[1] * fn.event_dim))
    safe = jnp.where(event_inside, value, fn.support.feasible_like(value))
    return jnp.where(inside, _with_gradients(fn).log_prob(safe), -jnp.inf)


def is_masked(fn: Any) -> bool:
    """Whether a distribution has a mask, inside or outside ``to_event``."""
    while isinstance(fn, dist.Independent | dist.ExpandedDistribution):
        fn = fn.base_dist
    return isinstance(fn, dist.MaskedDistribution)


class _Poisson(dist.Poisson):
    """A Poisson with gradients at rate 0 and an accurate density for large counts."""

    def log_prob(self, value):
        is_zero, rate = value == 0, jnp.asarray(self.rate)
        positive = ~is_zero & (rate > 0)
        score = poisson_log_prob(jnp.where(positive, value, 1), jnp.where(positive, rate, 1))
        otherwise = jnp.where(is_zero, -rate, jnp.where(rate == 0, -jnp.inf, jnp.nan))
        return jnp.where(positive, score, otherwise.astype(score.dtype))


def poisson_log_prob(count: ArrayLike, rate: ArrayLike) -> jax.Array:
    """log p of counts > 0, in nats, without subtracting large numbers.

    Source: Loader 2000, "Fast and accurate computation of binomial probabilities".
    """
    dtype = jnp.result_type(rate, float)
    count, rate = jnp.asarray(count, dtype), jnp.asarray(rate, dtype)
    change = (count - rate) / rate
    is_small = jnp.abs(change) < _SMALL
    small = jnp.where(is_small, change, 0)
    series = sum((-small) ** (i - 2) / (i * (i - 1)) for i in range(2, _TERMS + 2)) * small**2
    large = jnp.where(is_small, 1.0, change)
    plain = (1 + large) * jnp.log1p(large) - large
    deviance = rate * jnp.where(is_small, series, plain)
    return -deviance - _stirling_error(count) - 0.5 * jnp.log(2 * math.pi * count)


def _stirling_error(count):
    """log(n!) minus Stirling's approximation of it."""
    many = jnp.maximum(count, _STIRLING)
    series = (1 / 12 - (1 / 360 - 1 / 1260 / many**2) / many**2) / many
    few = jnp.clip(count, 1, _STIRLING)
    exact = gammaln(few + 1) - (few + 0.5) * jnp.log(few) + few - 0.5 * math.log(2 * math.pi)
    return jnp.where(count < _STIRLING, exact, series)


def _with_gradients(fn):
    """The distribution with every Poisson in it replaced by ``_Poisson``."""
    if type(fn) is dist.Poisson:
        return _Poisson(fn.rate)
    if isinstance(getattr(fn, "base_dist", None), dist.Distribution):
        fn = copy.copy(fn)
        fn.base_dist = _with_gradients(fn.base_dist)
    return fn
