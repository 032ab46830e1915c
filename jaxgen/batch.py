"""The pure layer: a model's one-event methods over a batch of rows.

These functions compose under jit, vmap, grad and scan. ``Fitted`` and the engine call them too, so
a draw or a score is the same inside a user's jit as outside it.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import inputs
from jaxgen.model import Model, Params
from jaxgen.numerics import computed_once
from jaxgen.random import draw
from jaxgen.threefry import key_words


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
    noise = draw(model.noise(), key, jnp.asarray(start), n, inputs.float_dtype(params))
    width = math.prod(model.event_shape)
    # an odd width would be written a number at a time
    if not (model.elementwise and (width == 1 or width % 2 == 0)):
        noise = computed_once(noise, key_words(key)[0])
    return jax.vmap(model.push, in_axes=(None, -1, None if y is None else 0))(params, noise, y)


def log_prob_rows(model, params, x, y):
    """Scores of checked rows (n, *event_shape)."""

    def one(x, y):
        finite = jnp.isfinite(x).all()
        # a model never sees a value that is not finite, so neither its density nor its gradient
        # has to be right there
        score = model.log_prob(params, jnp.where(finite, x, jnp.zeros_like(x)), y)
        score = jnp.where(finite, score, -jnp.inf)
        unknown = jnp.isnan(x).any() if y is None else jnp.isnan(x).any() | jnp.isnan(y).any()
        return jnp.where(unknown, jnp.nan, score)

    return jax.vmap(one, in_axes=(0, None if y is None else 0))(x, y)


def push_rows(model, params, noise, y):
    """Events made of noise whose rows lead."""
    return jax.vmap(model.push, in_axes=(None, 0, None if y is None else 0))(params, noise, y)


def pull_rows(model, params, x, y):
    """Noise of events, rows leading."""
    return jax.vmap(model.pull, in_axes=(None, 0, None if y is None else 0))(params, x, y)
