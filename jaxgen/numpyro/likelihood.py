"""Log densities of a site's values: total, with finite gradients, and accurate for large counts."""

from __future__ import annotations

import copy
import math
from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import gammaln

_SMALL = 0.1  # relative deviation of a count from its rate up to which a series is used
_TERMS = 9  # of the series
_STIRLING = 16  # counts from which on Stirling's series is used


def log_prob_within(fn: Any, value):
    """log p of a value in nats, shaped as the distribution's batch; -inf outside of the support.

    A masked entry counts as not observed: its log p is 0, whatever its value.
    """
    if isinstance(fn, dist.MaskedDistribution):
        mask = jnp.broadcast_to(fn._mask, fn.batch_shape)
        return jnp.where(mask, log_prob_within(fn.base_dist, value), 0)
    if isinstance(fn, dist.Independent):
        each = log_prob_within(fn.base_dist, value)
        return each.sum(tuple(range(-fn.reinterpreted_batch_ndims, 0)))
    if isinstance(fn, dist.ExpandedDistribution) and is_masked(fn):
        return jnp.broadcast_to(log_prob_within(fn.base_dist, value), fn.batch_shape)
    inside = fn.support(value)
    of_event = jnp.reshape(inside, (*inside.shape, *[1] * fn.event_dim))
    safe = jnp.where(of_event, value, fn.support.feasible_like(value))
    return jnp.where(inside, _with_gradients(fn).log_prob(safe), -jnp.inf)


def is_masked(fn: Any) -> bool:
    """Whether a distribution has a mask, within ``to_event`` or outside of it."""
    while isinstance(fn, dist.Independent | dist.ExpandedDistribution):
        fn = fn.base_dist
    return isinstance(fn, dist.MaskedDistribution)


class _Poisson(dist.Poisson):
    """A Poisson whose density has gradients at rate 0 too, and digits where counts are large."""

    def log_prob(self, value):
        nothing, rate = value == 0, jnp.asarray(self.rate)
        possible = ~nothing & (rate > 0)
        score = poisson_log_prob(jnp.where(possible, value, 1), jnp.where(possible, rate, 1))
        without = jnp.where(nothing, -rate, jnp.where(rate == 0, -jnp.inf, jnp.nan))
        return jnp.where(possible, score, without.astype(score.dtype))


def poisson_log_prob(count, rate):
    """log p of counts > 0, in nats, without the differences of large numbers of its plain form.

    Source: Loader 2000, "Fast and accurate computation of binomial probabilities".
    """
    dtype = jnp.result_type(rate, float)
    count, rate = jnp.asarray(count, dtype), jnp.asarray(rate, dtype)
    change = (count - rate) / rate
    close = jnp.abs(change) < _SMALL
    near = jnp.where(close, change, 0)
    series = sum((-near) ** (i - 2) / (i * (i - 1)) for i in range(2, _TERMS + 2)) * near**2
    apart = jnp.where(close, 1.0, change)
    plain = (1 + apart) * jnp.log1p(apart) - apart
    deviance = rate * jnp.where(close, series, plain)
    return -deviance - _stirling_error(count) - 0.5 * jnp.log(2 * math.pi * count)


def _stirling_error(count):
    """log(n!) less Stirling's approximation of it."""
    many = jnp.maximum(count, _STIRLING)
    series = (1 / 12 - (1 / 360 - 1 / 1260 / many**2) / many**2) / many
    few = jnp.clip(count, 1, _STIRLING)
    exact = gammaln(few + 1) - (few + 0.5) * jnp.log(few) + few - 0.5 * math.log(2 * math.pi)
    return jnp.where(count < _STIRLING, exact, series)


def _with_gradients(fn):
    """The distribution with a better density, within others that wrap it too."""
    if type(fn) is dist.Poisson:
        return _Poisson(fn.rate)
    if isinstance(getattr(fn, "base_dist", None), dist.Distribution):
        fn = copy.copy(fn)
        fn.base_dist = _with_gradients(fn.base_dist)
    return fn
