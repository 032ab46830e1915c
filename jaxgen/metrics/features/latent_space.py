"""Latent coordinates of events, and the events at given coordinates."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from jaxgen.core import inputs, places
from jaxgen.core.model import is_invertible
from jaxgen.core.places import Message
from jaxgen.core.promotion import standard_promotion
from jaxgen.core.random import Normal, Uniform, is_leaf
from jaxgen.metrics.representation import depend_on_x
from jaxgen.training.fitted import Fitted

_MEAN = 32  # quantiles of noise that latents leave out, over which an event is averaged


@standard_promotion
def latents(fitted: Fitted, x: Any, y: Any = None) -> np.ndarray:
    """Latent coordinates of events, (n, d) in float64, each standard normal under the model.

    They are the noise that ``pull`` returns. Uniform noise u becomes the normal quantile of u.
    Noise that does not depend on the event, such as that of the pixels of a VAE, is left out.

    Args:
      fitted: a ``Fitted`` model with ``pull``, such as a flow or a VAE.
      x: events (n, *event_shape), or a table of them.
      y: conditions or labels (n, *y_shape), for a conditional model.

    Raises:
      TypeError, ValueError: an argument has the wrong kind or shape, an event has no finite
        latents, or the model's noise is not normal or uniform.
      NotImplementedError: the model has no ``pull``.

    >>> latents(fitted, x).shape
    (200, 2)
    """
    kept = leaves_of(fitted, "latents")
    model, dtype = fitted.model, inputs.float_dtype(fitted.params)
    x = np.asarray(inputs.as_events(model, fitted.events_of(x), dtype))
    if x.ndim != len(model.event_shape) + 1 or not len(x):
        raise ValueError(f"x must have one batch dimension, not empty; got shape {x.shape}")
    check_known(x, "x")
    at = model.traits.support_at
    support = model.support if at is None else at(fitted.params)
    inside = np.asarray(support(x)).reshape(len(x), -1).all(1)
    _check_rows(inside, "x must hold events of the model's support; ")
    columns = []
    for (leaf, moves), value in zip(kept, jax.tree.leaves(fitted.pull(x, y)), strict=True):
        if not moves:
            continue
        value = np.asarray(value)
        tiny = float(np.finfo(value.dtype).eps) / 4
        z = value.reshape(len(x), math.prod(leaf.shape)).astype(np.float64)
        columns.append(ndtri(np.clip(z, tiny, 1 - tiny)) if isinstance(leaf, Uniform) else z)
    z = np.concatenate(columns, 1)
    _check_rows(np.isfinite(z).all(1), "x must hold events of positive density; ")
    return z


@standard_promotion
def events_of_latents(fitted: Fitted, z: ArrayLike, y: Any = None) -> np.ndarray:
    """The events (n, *event_shape) at latent coordinates z (n, d): the inverse of ``latents``.

    For noise that ``latents`` leaves out, each feature is the mean over quantiles of that noise. So
    a VAE gives the means of its pixels, which for levels need not be whole numbers.

    Args:
      fitted: a ``Fitted`` model with ``pull``.
      z: latent coordinates (n, d).
      y: conditions or labels (n, *y_shape), or one for all.

    Raises:
      TypeError, ValueError, NotImplementedError: as in ``latents``.

    >>> z = latents(fitted, x)
    >>> bool(np.allclose(events_of_latents(fitted, z), x, atol=1e-5))
    True
    """
    kept = leaves_of(fitted, "events_of_latents")
    dtype = inputs.float_dtype(fitted.params)
    z = np.asarray(inputs.numbers(z, "z"), np.float64)
    d = size_of(kept)
    if z.ndim != 2 or z.shape[1] != d:
        raise ValueError(f"z must have shape (n, {d}) for {fitted.model}; got {z.shape}")
    check_known(z, "z")
    tree = jax.tree.structure(fitted.model.noise(), is_leaf=is_leaf)
    quantiles = [0.5] if all(moves for _, moves in kept) else (np.arange(_MEAN) + 0.5) / _MEAN
    mean: Any = 0
    for u in quantiles:
        noise = jax.tree.unflatten(tree, _noise(kept, z, float(ndtri(u)), dtype))
        mean = mean + np.asarray(fitted.push(noise, y)) / len(quantiles)
    return mean


def _noise(kept: list[tuple[Any, bool]], z: np.ndarray, rest: float, dtype: Any) -> list[Any]:
    """The leaves of noise at latents z (n, d), with the normal score ``rest`` in other leaves."""
    tiny, start, noise = float(np.finfo(dtype).eps) / 4, 0, []
    for leaf, moves in kept:
        value = np.full((len(z), *leaf.shape), rest)
        if moves:
            size = math.prod(leaf.shape)
            value = z[:, start : start + size].reshape(value.shape)
            start += size
        if isinstance(leaf, Uniform):
            value = np.clip(ndtr(value), tiny, 1 - 2 * tiny)
        noise.append(value.astype(dtype))
    return noise


def shown_shape(fitted: Fitted) -> tuple[int, ...]:
    """The shape in which an event is drawn: that of an image, if events are flattened images."""
    shape = tuple(fitted.model.event_shape)
    pixels = fitted.pixels
    if pixels is None or pixels.size is None or not pixels.suits(shape):
        return shape
    return (*pixels.size, *pixels.colours)


def names_of_features(fitted: Fitted) -> tuple[str, ...]:
    """Names of the features of events that are vectors; none of other events."""
    shape = fitted.model.event_shape
    if len(shape) > 1:
        return ()
    return tuple(fitted.columns or (f"x{j}" for j in range(math.prod(shape))))


def leaves_of(fitted: Fitted, caller: str) -> list[tuple[Any, bool]]:
    """The leaves of the model's noise, and whether ``pull`` makes each of them from the event."""
    if not isinstance(fitted, Fitted):
        raise TypeError(f"fitted must be a Fitted model, got {type(fitted).__name__}")
    model = fitted.model
    if not is_invertible(model):
        raise NotImplementedError(f"{caller} needs pull, which {model} does not have")
    leaves = jax.tree.leaves(model.noise(), is_leaf=is_leaf)
    for leaf in leaves:
        if not isinstance(leaf, (Normal, Uniform)):
            raise TypeError(f"{caller} needs noise that is Normal or Uniform; {model} takes {leaf}")
    return list(zip(leaves, depend_on_x(model, fitted.params), strict=True))


def size_of(leaves: list[tuple[Any, bool]]) -> int:
    """The number of latent coordinates of leaves of noise."""
    return sum(math.prod(leaf.shape) for leaf, moves in leaves if moves)


def check_known(array: np.ndarray, name: str) -> None:
    bad = ~np.isfinite(array)
    if bad.any():
        where = inputs.first_of(bad, array, name)
        raise ValueError(Message(f"{name} must be finite, but is not in ", *where))


def _check_rows(good: Any, wanted: str) -> None:
    if not good.all():
        raise ValueError(Message(wanted, places.row(good.argmin()), " is not one"))
