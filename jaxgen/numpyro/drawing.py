"""A handler that draws sites by ``jaxgen.random``, several times as fast as by ``jax.random``."""

from __future__ import annotations

import copy
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import lax
from numpyro.primitives import Messenger

from jaxgen.core import random

_WRAPPERS = dist.Independent, dist.ExpandedDistribution, dist.MaskedDistribution
_LARGE = 2.0**30  # smallest rate for which a Poisson is drawn as a rounded normal


class Drawing(Messenger):
    """Handler that draws sites of common families; enter it before ``handlers.seed``.

    Args:
      large_counts: whether to draw counts as floats, as they may exceed JAX's integers.
    """

    def __init__(self, large_counts: bool = False):
        super().__init__()
        self.large_counts = large_counts

    def process_message(self, msg):
        known = msg["value"] is not None or msg["kwargs"].get("rng_key") is None
        if msg["type"] != "sample" or known:
            return
        family = unwrapped(msg["fn"])
        draw = _FAMILIES.get(type(family))
        if self.large_counts and isinstance(family, dist.Poisson | dist.GammaPoisson):
            draw = _large_count
        elif isinstance(family, dist.MultinomialProbs | dist.MultinomialLogits):
            draw = _multinomial if isinstance(family.total_count, jax.core.Tracer) else None
        elif jnp.issubdtype(jnp.result_type(getattr(family, "total_count", 0)), jnp.floating):
            draw = _binomial
        if draw is not None:
            shape = (*msg["kwargs"]["sample_shape"], *msg["fn"].batch_shape, *msg["fn"].event_shape)
            key = jax.random.wrap_key_data(msg["kwargs"]["rng_key"], impl="threefry2x32")
            msg["value"] = draw(family, key, shape)


def unwrapped(fn: Any) -> Any:
    """The distribution inside wrappers that change its shape or mask it."""
    while isinstance(fn, _WRAPPERS):
        fn = fn.base_dist
    return fn


def _normals(key, shape, like):
    """Standard normals, drawn as a vector: the fastest layout under a ``vmap`` over keys."""
    dtype = jnp.result_type(like, jnp.result_type(float))
    return random.normal(key, (math.prod(shape),), dtype=dtype).reshape(shape)


def _normal(fn, key, shape):
    return fn.loc + fn.scale * _normals(key, shape, fn.loc)


def _multivariate(fn, key, shape):
    noise = _normals(key, shape, fn.loc)
    return fn.loc + jnp.einsum("...ij,...j->...i", fn.scale_tril, noise)


def _large_count(fn, key, shape):
    rate_key, count_key, noise_key = jax.random.split(key, 3)
    rate = fn.rate if isinstance(fn, dist.Poisson) else None
    if rate is None:  # a Poisson whose rate has a gamma distribution
        rate = jax.random.gamma(rate_key, jnp.broadcast_to(fn.concentration, shape)) / fn.rate
    rate = jnp.broadcast_to(jnp.asarray(rate, jnp.result_type(float)), shape)
    few = jax.random.poisson(count_key, jnp.minimum(rate, _LARGE), shape).astype(rate.dtype)
    many = jnp.round(rate + jnp.sqrt(rate) * _normals(noise_key, shape, rate))
    return jnp.where(rate < _LARGE, few, many)


def _binomial(fn, key, shape):
    """NumPyro draws for integer totals only, and a total that is part of y is a float."""
    fn = copy.copy(fn)
    fn.total_count = jnp.round(fn.total_count).astype(jnp.result_type(int))
    return fn.expand(shape).sample(key)


def _multinomial(fn, key, shape):
    """Draws one category after another; NumPyro needs a bound for totals that are traced."""
    probs = jnp.moveaxis(jnp.broadcast_to(fn.probs, shape), -1, 0)
    rest = jnp.cumsum(probs[::-1], 0)[::-1]
    chances = jnp.clip(probs / jnp.where(rest > 0, rest, 1), 0, 1)
    total = jnp.broadcast_to(jnp.round(fn.total_count).astype(jnp.result_type(int)), shape[:-1])

    def step(left, category):
        key, chance = category
        count = dist.BinomialProbs(chance, left).sample(key).astype(left.dtype)
        return left - count, count

    _, counts = lax.scan(step, total, (jax.random.split(key, len(chances)), chances))
    return jnp.moveaxis(counts, 0, -1)


_FAMILIES = {
    dist.Normal: _normal,
    dist.HalfNormal: lambda fn, key, shape: fn.scale * abs(_normals(key, shape, fn.scale)),
    dist.LogNormal: lambda fn, key, shape: jnp.exp(_normal(fn, key, shape)),
    dist.MultivariateNormal: _multivariate,
}
