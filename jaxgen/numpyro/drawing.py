"""Draws of a program's sites by ``jaxgen.random``, several times as fast as ``jax.random``'s."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.primitives import Messenger

from jaxgen import random

_WRAPPERS = dist.Independent, dist.ExpandedDistribution, dist.MaskedDistribution


class Drawing(Messenger):
    """Handler that draws sites of common families itself; it goes around ``handlers.seed``."""

    def process_message(self, msg):
        known = msg["value"] is not None or msg["kwargs"].get("rng_key") is None
        if msg["type"] != "sample" or known:
            return
        family = _unwrapped(msg["fn"])
        if type(family) in _FAMILIES:
            shape = (*msg["kwargs"]["sample_shape"], *msg["fn"].batch_shape, *msg["fn"].event_shape)
            key = jax.random.wrap_key_data(msg["kwargs"]["rng_key"], impl="threefry2x32")
            msg["value"] = _FAMILIES[type(family)](family, key, shape)


def _unwrapped(fn):
    while isinstance(fn, _WRAPPERS):
        fn = fn.base_dist
    return fn


def _normals(key, shape, like):
    """Standard normals; their rows are scalars, the fastest layout under a ``vmap`` of keys."""
    dtype = jnp.result_type(like, jnp.result_type(float))
    return random.normal(key, (math.prod(shape),), dtype=dtype).reshape(shape)


def _normal(fn, key, shape):
    return fn.loc + fn.scale * _normals(key, shape, fn.loc)


def _multivariate(fn, key, shape):
    noise = _normals(key, shape, fn.loc)
    return fn.loc + jnp.einsum("...ij,...j->...i", fn.scale_tril, noise)


_FAMILIES = {
    dist.Normal: _normal,
    dist.HalfNormal: lambda fn, key, shape: fn.scale * abs(_normals(key, shape, fn.scale)),
    dist.LogNormal: lambda fn, key, shape: jnp.exp(_normal(fn, key, shape)),
    dist.MultivariateNormal: _multivariate,
}
