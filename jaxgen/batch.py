"""The pure layer: a model's one-event methods over a batch of rows.

These functions compose under jit, vmap, grad and scan. ``Fitted`` and the engine call them too, so
a draw or a score is the same inside a user's jit as outside it.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen import inputs
from jaxgen.lanes import over_rows
from jaxgen.model import Model, Params
from jaxgen.numerics import computed_once
from jaxgen.random import draw
from jaxgen.threefry import key_words

_WIDER = 64  # an accelerator's tiles, as multiples of those that suit the caches of one CPU core


def sample(model: Model, params: Params, key: jax.Array, n: int, y=None) -> jax.Array:
    """n events, (n, *event_shape). The first 10 of 1000 are the 10 of ``n = 10``.

    Args:
      model: the spec.
      params: its params.
      key: a typed PRNG key.
      n: number of events, static under jit.
      y: conditions (n, *y_shape), or one of y_shape for all; None for an unconditional model.

    Raises:
      TypeError, ValueError: an argument of the wrong kind, shape or range, by its name.
    """
    key, n = inputs.as_key(key), inputs.as_count(n)
    y = inputs.as_conditions(model, y, (n,), inputs.float_dtype(params))
    return sample_rows(model, params, key, np.zeros(2, np.uint32), n, y)


def log_prob(model: Model, params: Params, x, y=None) -> jax.Array:
    """log p(x) or log p(x|y) in nats, of shape x.shape without the event dimensions.

    Total: -inf outside the support and at +-inf, NaN where x or y is NaN.

    Args:
      model: the spec.
      params: its params.
      x: events (..., *event_shape), with at least one batch dimension.
      y: conditions (..., *y_shape), or one of y_shape for all; None for an unconditional model.

    Raises:
      TypeError, ValueError: an argument of the wrong kind or shape, by its name.
    """
    dtype = inputs.float_dtype(params)
    x = jnp.asarray(inputs.as_events(model, x, dtype))
    batch = x.shape[: x.ndim - len(model.event_shape)]
    y = inputs.as_conditions(model, y, batch, dtype)
    x = x.reshape(-1, *model.event_shape)
    if y is not None:
        y = jnp.reshape(y, (x.shape[0], *y.shape[len(batch) :]))
    return log_prob_rows(model, params, x, y).reshape(batch)


def push(model: Model, params: Params, noise, y=None) -> jax.Array:
    """Events (n, *event_shape) that noise makes: a pytree like ``model.noise()``, rows leading."""
    noise, n = inputs.as_noise(model, noise)
    y = inputs.as_conditions(model, y, (n,), inputs.float_dtype(params))
    return push_rows(model, params, noise, y)


def pull(model: Model, params: Params, x, y=None):
    """The noise that makes events (n, *event_shape); the inverse of ``push``."""
    dtype = inputs.float_dtype(params)
    x = jnp.asarray(inputs.as_events(model, x, dtype))
    y = inputs.as_conditions(model, y, x.shape[: x.ndim - len(model.event_shape)], dtype)
    return pull_rows(model, params, x, y)


def sample_rows(model, params, key, start, n, y):
    """Events of rows start .. start + n - 1; start is (2,) uint32, high word first."""
    once = not (model.elementwise and _even(model))

    def rows(first, count, y):
        noise = draw(model.noise(), key, jnp.stack(_later(start, first)), count, dtype)
        if once:
            noise = computed_once(noise, key_words(key)[0])
        return over_rows(model.push, (None, -1, None if y is None else 0))(params, noise, y)

    dtype = inputs.float_dtype(params)
    return _in_tiles(model.tile, rows, n, y)


def log_prob_rows(model, params, x, y):
    """Scores of checked rows (n, *event_shape)."""

    def one(x, y):
        return _total(x, y, lambda x: model.log_prob(params, x, y), -jnp.inf)

    def rows(_, __, xy):
        return over_rows(one, (0, None if y is None else 0))(*xy)

    return _in_tiles(model.tile, rows, len(x), (x, y))


def loss_rows(model, params, key, x, y):
    """Losses of checked rows, with noise of their own; one event's does not depend on others."""

    def one(noise, x, y):
        return _total(x, y, lambda x: model.loss(params, noise, x, y), jnp.inf)

    def rows(first, count, xy):
        start = jnp.stack(_later(np.zeros(2, np.uint32), first))
        noise = draw(model.loss_noise(), key, start, count, x.dtype)
        if jax.tree_util.tree_leaves(noise):
            noise = computed_once(noise, key_words(key)[0])
        return over_rows(one, (-1, 0, None if y is None else 0))(noise, *xy)

    return _in_tiles(model.tile, rows, len(x), (x, y))


def _total(x, y, score, at_infinity):
    """``score`` of a finite x; else ``at_infinity``, or NaN where x or y is."""
    finite = jnp.isfinite(x).all()
    # a model never sees a value that is not finite, so neither its density nor its gradient
    # has to be right there
    value = jnp.where(finite, score(jnp.where(finite, x, jnp.zeros_like(x))), at_infinity)
    unknown = jnp.isnan(x).any() if y is None else jnp.isnan(x).any() | jnp.isnan(y).any()
    return jnp.where(unknown, jnp.nan, value)


def _in_tiles(tile, rows, n, leading):
    """``rows(first, count, leading)`` over n rows, at most ``tile`` of them at once.

    A network's matrix products then have one shape whatever n is, and activations that fit caches.
    ``leading`` is a pytree of arrays whose rows lead.
    """
    if tile is not None and jax.default_backend() != "cpu":
        tile *= _WIDER
    if tile is None or n <= tile:
        return rows(0, n, leading)
    count = -(-n // tile)

    def cut(v):
        v = jnp.asarray(v)
        padding = jnp.broadcast_to(v[:1], (count * tile - n, *v.shape[1:]))
        v = jnp.concatenate([v, padding]) if count * tile > n else v
        return v.reshape(count, tile, *v.shape[1:])

    firsts = jnp.arange(count, dtype=jnp.uint32) * np.uint32(tile)
    tiles = firsts, jax.tree_util.tree_map(cut, leading)
    out = lax.map(lambda own: rows(own[0], tile, own[1]), tiles)
    return jax.tree_util.tree_map(lambda v: v.reshape(-1, *v.shape[2:])[:n], out)


def _later(start, rows):
    """The row number ``start`` (high and low word) and so many rows more."""
    low = jnp.asarray(start)[1] + jnp.asarray(rows, jnp.uint32)
    return jnp.asarray(start)[0] + (low < jnp.asarray(start)[1]).astype(jnp.uint32), low


def _even(model):
    width = math.prod(model.event_shape)
    return width == 1 or width % 2 == 0  # an odd width would be written a number at a time


def push_rows(model, params, noise, y):
    """Events made of noise whose rows lead."""
    return _each(model, model.push, params, noise, y)


def pull_rows(model, params, x, y):
    """Noise of events, rows leading."""
    return _each(model, model.pull, params, x, y)


def _each(model, method, params, values, y):
    def rows(_, __, both):
        return over_rows(method, (None, 0, None if y is None else 0))(params, *both)

    n = len(jax.tree_util.tree_leaves(values)[0])
    return _in_tiles(model.tile, rows, n, (values, y))
