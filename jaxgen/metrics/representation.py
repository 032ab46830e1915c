"""Representation: does the way back exist, does it lead home, and is what it finds pure noise?"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgen.core.random import Normal, Uniform, is_leaf

_COORDINATES = 2048  # correlations beyond this many coordinates are left to a random subset
_ndtr = jax.jit(jax.scipy.special.ndtr)  # a dozen operations, each compiled alone otherwise


class RoundTrip(NamedTuple):
    """What ``round_trip`` returns."""

    largest: float
    median: float


class NoiseFit(NamedTuple):
    """What ``noise_fit`` returns."""

    ks_max: float
    ks_mean: float
    correlation: float


def round_trip(there_and_back, x) -> RoundTrip:
    """Error of ``push(pull(x))``: the largest and the median over events of max_j |x'_j - x_j|.

    Args:
      there_and_back: (n, *event_shape), the events after ``pull`` and ``push``.
      x: (n, *event_shape).

    Returns:
      ``RoundTrip(largest, median)`` in units of x; NaN where an event came back as NaN.
    """
    back, x = np.asarray(there_and_back, np.float64), np.asarray(x, np.float64)
    errors = np.abs(back - x).reshape(len(x), -1).max(1)
    return RoundTrip(float(errors.max()), float(np.median(errors)))


def noise_columns(noise: Any, values: Any) -> tuple[np.ndarray, np.ndarray]:
    """Pulled noise as one table of coordinates, and each coordinate as a probability.

    Args:
      noise: the model's ``noise()``, a pytree of leaves.
      values: the same pytree of arrays (n, *leaf.shape), what ``pull`` returned.

    Returns:
      (n, d) values of the Normal and Uniform leaves side by side, and (n, d) the distribution
      function of the declared noise at them, uniform on (0, 1) where the model is p_data.

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


def ks_distance(probabilities) -> np.ndarray:
    """Kolmogorov-Smirnov distance sup_u |F_n(u) - u| of each column from Uniform(0, 1).

    Args:
      probabilities: (n, d), the declared distribution function at the data.

    Returns:
      (d,) in [0, 1]. Under the declared law sqrt(n) D passes 1.36 with probability .05 a column.
    """
    u = np.sort(np.asarray(probabilities, np.float64), axis=0)
    n = len(u)
    step = np.arange(n)[:, None] / n
    return np.maximum(u - step, step + 1 / n - u).max(0)


def largest_correlation(columns) -> float:
    """Largest absolute Pearson correlation between two different columns of (n, d); 0 if d = 1."""
    columns = np.asarray(columns, np.float64)
    d = columns.shape[1]
    if d > _COORDINATES:
        kept = np.random.default_rng(0).choice(d, _COORDINATES, replace=False)
        columns = columns[:, kept]
    if d == 1:
        return 0.0
    centred = columns - columns.mean(0)
    scale = np.sqrt((centred**2).sum(0))
    unit = centred / np.where(scale > 0, scale, 1)  # a constant column correlates with nothing
    correlation = np.abs(unit.T @ unit)
    np.fill_diagonal(correlation, 0)
    return float(correlation.max())


def chance_levels(n: int, d: int) -> NoiseFit:
    """What ``noise_fit`` gives for n events and d coordinates where the model is p_data.

    ``ks_max`` and ``correlation`` are levels passed with probability at most .05, by the bounds of
    Dvoretzky, Kiefer, Wolfowitz and Massart and of normal tails, summed over columns or pairs;
    ``ks_mean`` is the mean of the Kolmogorov distribution, sqrt(pi / 2) ln 2 / sqrt(n).
    """
    kept = min(d, _COORDINATES)
    pairs = max(1, kept * (kept - 1) // 2)
    return NoiseFit(
        ks_max=math.sqrt(math.log(2 * d / 0.05) / (2 * n)),
        ks_mean=math.sqrt(math.pi / 2) * math.log(2) / math.sqrt(n),
        correlation=math.sqrt(2 * math.log(pairs / 0.05) / n),
    )


def noise_fit(noise: Any, values: Any) -> NoiseFit:
    """How far pulled data are from the noise that the model declares.

    Args:
      noise: the model's ``noise()``, a pytree of leaves.
      values: the same pytree of arrays (n, *leaf.shape), what ``pull`` returned.

    Returns:
      ``ks_max`` and ``ks_mean``, the Kolmogorov-Smirnov distance over coordinates, and
      ``correlation``, the largest absolute correlation between two coordinates.
    """
    columns, probabilities = noise_columns(noise, values)
    ks = ks_distance(probabilities)
    return NoiseFit(float(ks.max()), float(ks.mean()), largest_correlation(columns))
