"""Representation: whether ``pull`` inverts ``push`` and gives the declared noise."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from jaxgen.core import inputs
from jaxgen.core.model import Model
from jaxgen.core.random import Normal, Uniform, is_leaf

_COORDINATES = 2048  # with more, correlations are those of a random subset
_ndtr = jax.jit(jax.scipy.special.ndtr)  # else its dozen operations are compiled one by one


class RoundTrip(NamedTuple):
    """The error of ``push(pull(x))``, in units of x.

    Attributes:
      largest: over all events.
      median: over events, of the largest error in an event.
    """

    largest: float
    median: float


class NoiseFit(NamedTuple):
    """How far pulled noise is from the declared distribution.

    Attributes:
      ks_max: the largest Kolmogorov-Smirnov distance of a coordinate.
      ks_mean: the mean Kolmogorov-Smirnov distance over coordinates.
      correlation: the largest absolute correlation between two coordinates.
    """

    ks_max: float
    ks_mean: float
    correlation: float


def round_trip(returned: ArrayLike, x: ArrayLike) -> RoundTrip:
    """The error of x' = push(pull(x)): largest and median over events of max_j |x'_j - x_j|.

    Args:
      returned: x', (n, *event_shape).
      x: (n, *event_shape).

    Returns:
      ``RoundTrip(largest, median)`` in units of x; NaN if x' has NaN.
    """
    returned, x = np.asarray(returned, np.float64), np.asarray(x, np.float64)
    errors = np.abs(returned - x).reshape(len(x), -1).max(1)
    return RoundTrip(float(errors.max()), float(np.median(errors)))


def depend_on_x(model: Model, params: Any) -> list[bool]:
    """Whether ``pull`` computes each leaf of the noise from the event, by its trace.

    It does not compute the noise of the pixels of a VAE, for example, which it sets to its median.
    """
    dtype = inputs.float_dtype(params)
    x = jax.ShapeDtypeStruct(tuple(model.event_shape), dtype)
    kind = np.int32 if model.classes is not None else dtype
    y = None if model.y_shape is None else jax.ShapeDtypeStruct(tuple(model.y_shape), kind)
    jaxpr = jax.make_jaxpr(lambda x, y: model.pull(params, x, y))(x, y).jaxpr
    known = {jaxpr.invars[0]}
    for equation in jaxpr.eqns:
        if any(not hasattr(v, "val") and v in known for v in equation.invars):
            known.update(equation.outvars)
    return [not hasattr(v, "val") and v in known for v in jaxpr.outvars]


def noise_columns(noise: Any, values: Any) -> tuple[np.ndarray, np.ndarray]:
    """Pulled noise as a table of coordinates, and its values of the declared distribution function.

    Args:
      noise: ``model.noise()``, a pytree of leaves.
      values: the result of ``pull``, the same pytree with arrays (n, *leaf.shape).

    Returns:
      (n, d) values of the Normal and Uniform leaves, and (n, d) the declared distribution function
      at these values, which is uniform on (0, 1) if the model is p_data.

    Raises:
      ValueError: the model declares no Normal or Uniform noise.
    """
    leaves = jax.tree.leaves(noise, is_leaf=is_leaf)
    columns, probabilities = [], []
    for leaf, value in zip(leaves, jax.tree.leaves(values), strict=True):
        if not isinstance(leaf, (Normal, Uniform)):
            continue
        value = np.asarray(value)
        value = value.reshape(len(value), math.prod(leaf.shape))
        columns.append(value.astype(np.float64))
        normal = isinstance(leaf, Normal)
        cdf = _ndtr(value) if normal else np.clip(value, 0, 1)
        probabilities.append(np.asarray(cdf, np.float64))
    if not columns:
        raise ValueError("the model declares no Normal or Uniform noise to compare with")
    return np.concatenate(columns, 1), np.concatenate(probabilities, 1)


def ks_distance(probabilities: ArrayLike) -> np.ndarray:
    """The Kolmogorov-Smirnov distance D = sup_u |F_n(u) - u| of each column from Uniform(0, 1).

    Args:
      probabilities: (n, d), the declared distribution function at the data.

    Returns:
      (d,) in [0, 1]. If the column is uniform, sqrt(n) D is above 1.36 with probability .05.
    """
    u = np.sort(np.asarray(probabilities, np.float64), axis=0)
    n = len(u)
    step = np.arange(n)[:, None] / n
    return np.maximum(u - step, step + 1 / n - u).max(0)


def largest_correlation(columns: ArrayLike) -> float:
    """The largest absolute Pearson correlation between two columns of (n, d); 0 if d = 1."""
    columns = np.asarray(columns, np.float64)
    d = columns.shape[1]
    if d > _COORDINATES:
        kept = np.random.default_rng(0).choice(d, _COORDINATES, replace=False)
        columns = columns[:, kept]
    if d == 1:
        return 0.0
    centred = columns - columns.mean(0)
    scale = np.sqrt((centred**2).sum(0))
    unit = centred / np.where(scale > 0, scale, 1)  # a constant column has no correlation
    correlation = np.abs(unit.T @ unit)
    np.fill_diagonal(correlation, 0)
    return float(correlation.max())


def chance_levels(n: int, d: int) -> NoiseFit:
    """Reference values of ``noise_fit`` for n events and d coordinates if the model is p_data.

    ``ks_max`` and ``correlation`` are levels that are exceeded with probability at most .05, by the
    bounds of Dvoretzky, Kiefer, Wolfowitz and Massart and of normal tails, summed over columns or
    pairs; ``ks_mean`` is the mean of the Kolmogorov distribution, sqrt(pi / 2) ln 2 / sqrt(n).
    """
    kept = min(d, _COORDINATES)
    pairs = max(1, kept * (kept - 1) // 2)
    return NoiseFit(
        ks_max=math.sqrt(math.log(2 * d / 0.05) / (2 * n)),
        ks_mean=math.sqrt(math.pi / 2) * math.log(2) / math.sqrt(n),
        correlation=math.sqrt(2 * math.log(pairs / 0.05) / n),
    )


def noise_fit(noise: Any, values: Any) -> NoiseFit:
    """How far pulled noise is from the noise that the model declares.

    Args:
      noise: ``model.noise()``, a pytree of leaves.
      values: the result of ``pull``, the same pytree with arrays (n, *leaf.shape).

    Returns:
      ``NoiseFit(ks_max, ks_mean, correlation)``.

    Raises:
      ValueError: the model declares no Normal or Uniform noise.
    """
    columns, probabilities = noise_columns(noise, values)
    ks = ks_distance(probabilities)
    return NoiseFit(float(ks.max()), float(ks.mean()), largest_correlation(columns))
