"""Accuracy: is density high where the data are, and low where they are not?"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from jaxgen.metrics.distances import blocks, mean_distance, rows, squared_radii


class Mean(NamedTuple):
    """A mean over events and its standard error."""

    value: float
    se: float


class Neighbours(NamedTuple):
    """What ``neighbours`` returns: all are shares but density, which may pass 1."""

    precision: float
    recall: float
    density: float
    coverage: float


def mean_and_error(values) -> Mean:
    """Mean over events with its standard error: s / sqrt(n), s the sample standard deviation.

    Args:
      values: (n,). One -inf makes the mean -inf and the error NaN.

    Returns:
      ``Mean(value, se)``, in the values' unit; the error of a single value is NaN.

    Raises:
      ValueError: no values.
    """
    values = np.asarray(values, np.float64)
    if values.size == 0:
        raise ValueError("no values to average: the test data are empty")
    mean = float(values.mean())
    if values.size == 1 or not math.isfinite(mean):
        return Mean(mean, math.nan)
    return Mean(mean, float(values.std(ddof=1) / math.sqrt(values.size)))


def bits_per_dim(log_likelihood: float, dim: int) -> float:
    """Mean log-likelihood as a code length: -mean / (dim ln 2).

    Args:
      log_likelihood: mean log p(x), nats an event.
      dim: number of scalars in an event.

    Returns:
      Bits for each scalar. For a density this is relative to unit cells, so it may be negative.
    """
    return -log_likelihood / (dim * math.log(2))


def kl_divergence(log_p, log_q) -> Mean:
    """KL(p || q) = E_p[log p(x) - log q(x)], over events drawn from p.

    Args:
      log_p: (n,) log p(x), nats, for x drawn from p. Rows of -inf have no weight in p: left out.
      log_q: (n,) log q(x), nats.

    Returns:
      ``Mean(value, se)`` in nats; inf where q gives some event no density.

    Raises:
      ValueError: the lengths differ, or p gives no event any density.
    """
    log_p, log_q = np.asarray(log_p, np.float64), np.asarray(log_q, np.float64)
    if log_p.shape != log_q.shape:
        raise ValueError(f"log_p and log_q differ in shape: {log_p.shape} and {log_q.shape}")
    inside = log_p != -np.inf
    return mean_and_error(log_p[inside] - log_q[inside])


def neighbours(real, samples, k: int = 5) -> Neighbours:
    """Precision, recall, density and coverage by balls that reach the k-th nearest neighbour.

    With B(x_i) the ball round x_i that reaches its k-th nearest neighbour in its own set, real
    events r_1 .. r_n and samples s_1 .. s_m:

        precision = share of samples inside some B(r_i)
        recall    = share of real events inside some B(s_j)
        density   = 1 / (k m) sum_ij [s_j in B(r_i)]
        coverage  = share of B(r_i) that hold some sample

    Where both sets come from one distribution, density is 1 and coverage 1 - 2^-k on average, if
    n = m and n is large; precision and recall depend on the dimension.

    Args:
      real: (n, *event_shape); distances are Euclidean over the flattened event.
      samples: (m, *event_shape).
      k: which neighbour the balls reach.

    Returns:
      ``Neighbours(precision, recall, density, coverage)``.

    Raises:
      ValueError: a set has k rows or fewer.

    Sources: precision and recall, Kynkaanniemi et al. 2019, "Improved precision and recall metric
    for assessing generative models", eq. 1 to 2; density and coverage, Naeem et al. 2020, "Reliable
    fidelity and diversity metrics for generative models", section 3.
    """
    real, samples = rows(real), rows(samples)
    real_reach, sample_reach = squared_radii(real, k), squared_radii(samples, k)
    held = np.zeros(len(samples), int)  # how many real balls hold each sample
    covered = recalled = 0
    for part, squared in blocks(real, samples):
        inside = squared <= real_reach[part, None]
        held += inside.sum(0)
        covered += int(inside.any(1).sum())
        recalled += int((squared <= sample_reach).any(1).sum())
    return Neighbours(
        precision=float((held > 0).mean()),
        recall=recalled / len(real),
        density=float(held.mean() / k),
        coverage=covered / len(real),
    )


def energy_distance(x, y) -> float:
    """Energy distance between two sets of events, by the unbiased estimator.

        D = 2 E|X - Y| - E|X - X'| - E|Y - Y'|

    with every mean over pairs of different rows (a U-statistic), so that two sets from one
    distribution give 0 on average, and a single value may fall below it.

    Args:
      x: (n, *event_shape); distances are Euclidean over the flattened event.
      y: (m, *event_shape).

    Returns:
      D in units of x.

    Raises:
      ValueError: a set has fewer than two rows.

    Source: Szekely and Rizzo 2013, "Energy statistics: a class of statistics based on distances"
    (there with the biased V-statistic).
    """
    x, y = rows(x), rows(y)
    if min(len(x), len(y)) < 2:
        raise ValueError(f"each set needs at least two rows, got {len(x)} and {len(y)}")
    return 2 * mean_distance(x, y) - mean_distance(x, x) - mean_distance(y, y)
