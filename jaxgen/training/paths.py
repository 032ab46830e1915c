"""Paths between two events through the noise that makes them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from scipy.special import ndtr, ndtri

from jaxgen.core import engine, inputs, verbs
from jaxgen.core.constraints import discrete_numbers
from jaxgen.core.model import is_invertible
from jaxgen.core.random import Normal, Uniform, is_leaf
from jaxgen.core.tracing import is_tracing


def path(
    fitted: Any, x0: ArrayLike, x1: ArrayLike, steps: int = 8, y0: Any = None, y1: Any = None
) -> jax.Array:
    """Events (steps, *event_shape) on a path from x0 to x1 that stays among likely events.

    The path runs through the noise of the two events, z0 and z1. A step at t from 0 to 1 is pushed
    from

        z = ((1 - t) z0 + t z1) / sqrt((1 - t)^2 + t^2)

    If z0 and z1 are independent and standard normal, so is z. Uniform noise is mapped to normal
    noise by its quantiles, and back. So each step between two independent events of the model is an
    event of the model. The path between an event and itself is not constant.

    Args:
      fitted: a ``Fitted`` model with ``pull``.
      x0, x1: events of event_shape, or tables of one row. They are the first and the last step.
      steps: number of events, at least 2.
      y0: the condition of x0, for a conditional model, as in ``log_prob``.
      y1: the condition of x1; None for y0. Numbers move linearly from y0 to y1, and labels and
        other whole numbers change from y0 to y1 halfway.

    Raises:
      TypeError, ValueError: an argument has the wrong kind, shape or range, an event is outside the
        support, or the noise is not normal or uniform.
      NotImplementedError: the model has no ``pull``.

    Source: Agustsson, Sage, Timofte and Van Gool 2019, "Optimal transport maps for distribution
    preserving operations on latent spaces of generative models".

    >>> path(fitted, x[0], x[1], steps=5).shape
    (5, 2)
    """
    model, dtype = fitted.model, inputs.float_dtype(fitted.params)
    if is_tracing(fitted.params, x0, x1, y0, y1):
        raise TypeError("path runs on the host and cannot be called within jit, grad or vmap")
    if not is_invertible(model):
        raise NotImplementedError(f"path needs pull, which {model} does not have")
    leaves = jax.tree_util.tree_leaves(model.noise(), is_leaf=is_leaf)
    for leaf in leaves:
        if not isinstance(leaf, (Normal, Uniform)):
            raise TypeError(f"path needs noise that is Normal or Uniform; {model} takes {leaf}")
    steps = inputs.as_count(steps, "steps", 2)
    ends = np.stack([_event(fitted, x, name, dtype) for x, name in ((x0, "x0"), (x1, "x1"))])
    t = np.linspace(0, 1, steps)
    y = moved_conditions(fitted, y0, y1, t, dtype)
    y_ends = None if y is None else y[[0, -1]]
    noise = engine.run(verbs.to_pull(model, fitted.params, ends, y_ends), None)
    values, tree = jax.tree_util.tree_flatten(noise)
    for name, row in (("x0", 0), ("x1", 1)):
        if not all(np.isfinite(np.asarray(value)[row]).all() for value in values):
            raise ValueError(f"{name} must be an event of positive density: its noise has no value")
    moved = [_between(leaf, np.asarray(v), t) for leaf, v in zip(leaves, values, strict=True)]
    moved = jax.tree_util.tree_unflatten(tree, moved)
    events = engine.run(verbs.to_push(model, fitted.params, moved, y), None)
    inner = np.asarray(events)[1:-1]
    return jnp.asarray(np.concatenate([ends[:1], inner, ends[1:]]), events.dtype)


def _event(fitted: Any, x: Any, name: str, dtype: Any) -> np.ndarray:
    """One event (*event_shape) in the model's dtype."""
    shape = tuple(fitted.model.event_shape)
    if fitted.columns is not None and hasattr(x, "items") and np.ndim(x) < 2:
        x = {column: np.atleast_1d(value) for column, value in x.items()}  # a dict or a Series
    x = np.asarray(inputs.numbers(fitted.events_of(x, name), name))
    if x.shape not in (shape, (1, *shape)):
        raise ValueError(f"{name} must be one event, of shape {shape}; got shape {x.shape}")
    x = x.reshape(shape).astype(dtype)
    at = fitted.model.traits.support_at
    support = fitted.model.support if at is None else at(fitted.params)
    if not (np.isfinite(x).all() and np.asarray(support(x[None])).all()):
        raise ValueError(f"{name} must be an event of positive density: it is outside the support")
    return x


def moved_conditions(fitted: Any, y0: Any, y1: Any, t: np.ndarray, dtype: Any) -> Any:
    """The conditions of the steps at t of a path, (len(t), *y_shape), or None.

    Raises:
      ValueError: y0 is missing for a conditional model, or one is given for another.
    """
    model = fitted.model
    if model.y_shape is None:
        if not (y0 is None and y1 is None):
            raise ValueError(f"y0 and y1 must be None: {model} is unconditional")
        return None
    if y0 is None:
        raise ValueError(f"y0 is missing: {model} is conditional, with y of shape {model.y_shape}")
    first, last = (
        np.asarray(inputs.as_conditions(model, fitted.conditions_of(y), (1,), dtype))[0]
        for y in (y0, y0 if y1 is None else y1)
    )
    t = t.reshape(-1, *[1] * len(model.y_shape))
    switched = np.where(t < 0.5, first, last)
    whole = discrete_numbers(model.y_support, model.y_shape)
    if whole.all():
        return switched
    return np.where(whole, switched, (1 - t) * first + t * last).astype(dtype)


def _between(leaf: Any, ends: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Noise (len(t), *leaf.shape) between that of two events (2, *leaf.shape)."""
    tiny = float(np.finfo(ends.dtype).eps) / 4
    z = ends.astype(np.float64)
    uniform = isinstance(leaf, Uniform)
    if uniform:
        z = ndtri(np.clip(z, tiny, 1 - tiny))
    t = t.reshape(-1, *[1] * (ends.ndim - 1))
    z = ((1 - t) * z[0] + t * z[1]) / np.sqrt((1 - t) ** 2 + t**2)
    if uniform:
        z = np.clip(ndtr(z), tiny, 1 - 2 * tiny)
    return z.astype(ends.dtype)
