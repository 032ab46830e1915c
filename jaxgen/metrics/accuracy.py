"""Accuracy: how close the model's density is to that of the data."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxgen.metrics.distances import blocks, mean_distance, rows, squared_radii


class Mean(NamedTuple):
    """A mean over events.

    Attributes:
      value: the mean.
      se: its standard error.
    """

    value: float
    se: float


class Neighbours(NamedTuple):
    """The metrics of ``neighbours``, all shares except density, which may be above 1.

    Attributes:
      precision: share of samples close to real events.
      recall: share of real events close to samples.
      density: how many real events samples are close to, relative to real data.
      coverage: share of real events with a sample nearby.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def mean_and_error(values: ArrayLike) -> Mean:
    """The mean over events and its standard error s / sqrt(n), s the sample standard deviation.

    Args:
      values: (n,). If one is -inf, the mean is -inf and the error NaN.

    Returns:
      ``Mean(value, se)`` in the unit of the values; the error of a single value is NaN.

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
    """The code length of a mean log-likelihood in bits per dimension: -mean / (dim ln 2).

    Args:
      log_likelihood: mean log p(x), in nats per event.
      dim: number of scalars in an event.

    Returns:
      Bits per scalar. For a density they are relative to unit cells, so they may be negative.
    """
    return -log_likelihood / (dim * math.log(2))


def kl_divergence(log_p: ArrayLike, log_q: ArrayLike) -> Mean:
    """KL(p || q) = E_p[log p(x) - log q(x)], estimated from events drawn from p.

    Args:
      log_p: (n,) log p(x) of events x drawn from p, in nats. Events of -inf are left out.
      log_q: (n,) log q(x), in nats.

    Returns:
      ``Mean(value, se)`` in nats; inf if q is zero at some event.

    Raises:
      ValueError: the shapes differ, or p is zero at all events.
    """
    log_p, log_q = np.asarray(log_p, np.float64), np.asarray(log_q, np.float64)
    if log_p.shape != log_q.shape:
        raise ValueError(
            f"log_p and log_q must have the same shape; got {log_p.shape} and {log_q.shape}"
        )
    inside = log_p != -np.inf
    return mean_and_error(log_p[inside] - log_q[inside])


def neighbours(real: ArrayLike, samples: ArrayLike, k: int = 5) -> Neighbours:
    """Precision, recall, density and coverage from distances to the k-th nearest neighbour.

    Let B(x_i) be the ball around x_i that reaches the k-th nearest neighbour of x_i in the set of
    x_i. Then for real events r_1 .. r_n and samples s_1 .. s_m

        precision = share of samples inside some B(r_i)
        recall    = share of real events inside some B(s_j)
        density   = 1 / (k m) sum_ij [s_j in B(r_i)]
        coverage  = share of B(r_i) that contain some sample

    If both sets come from one distribution, n = m and n is large, density is 1 and coverage
    1 - 2^-k on average; precision and recall depend on the dimension.

    Args:
      real: (n, *event_shape); distances are Euclidean between flattened events.
      samples: (m, *event_shape).
      k: number of the neighbour.

    Returns:
      ``Neighbours(precision, recall, density, coverage)``.

    Raises:
      ValueError: a set has k rows or fewer.

    Sources: precision and recall, Kynkaanniemi et al. 2019, "Improved precision and recall metric
    for assessing generative models", eq. 1 to 2; density and coverage, Naeem et al. 2020, "Reliable
    fidelity and diversity metrics for generative models", section 3.
    """
    real, samples = rows(real), rows(samples)
    real_radius, sample_radius = squared_radii(real, k), squared_radii(samples, k)
    held = np.zeros(len(samples), int)  # how many balls of real events contain each sample
    covered = recalled = 0
    for part, squared in blocks(real, samples):
        inside = squared <= real_radius[part, None]
        held += inside.sum(0)
        covered += int(inside.any(1).sum())
        recalled += int((squared <= sample_radius).any(1).sum())
    return Neighbours(
        precision=float((held > 0).mean()),
        recall=recalled / len(real),
        density=float(held.mean() / k),
        coverage=covered / len(real),
    )


def vote_of_neighbours(
    rows: np.ndarray, x: np.ndarray, labels: np.ndarray, k: int = 5
) -> np.ndarray:
    """The most frequent label among the k nearest of the events x.

    In a tie it is the label of the nearest event if that is among them, else the smallest label.
    Distances are Euclidean, with the features in units of their standard deviations in x.

    Args:
      rows: (m, d) events to classify.
      x: (n, d) events with known labels.
      labels: (n,) their labels, whole numbers from 0.
      k: the number of neighbours; all of x if it has fewer rows.

    Returns:
      (m,) labels.
    """
    centre, scale = x.mean(0), x.std(0)
    scale = np.where(scale > 0, scale, 1)
    x, rows = (x - centre) / scale, (rows - centre) / scale
    k, found = min(k, len(x)), np.empty(len(rows), int)
    for part, squared in blocks(rows, x):
        near = labels[np.argpartition(squared, k - 1, axis=1)[:, :k]]
        votes = (near[:, :, None] == np.arange(labels.max() + 1)).sum(1).astype(float)
        votes[np.arange(len(votes)), labels[squared.argmin(1)]] += 0.5
        found[part] = votes.argmax(1)
    return found


def energy_distance(x: ArrayLike, y: ArrayLike) -> float:
    """The energy distance between two sets of events, by the unbiased estimator.

        D = 2 E|X - Y| - E|X - X'| - E|Y - Y'|

    where each mean is over pairs of different rows (a U-statistic). For two sets from one
    distribution its mean is 0, and its value may be negative.

    Args:
      x: (n, *event_shape); distances are Euclidean between flattened events.
      y: (m, *event_shape).

    Returns:
      D, in the units of x.

    Raises:
      ValueError: a set has fewer than two rows.

    Source: Szekely and Rizzo 2013, "Energy statistics: a class of statistics based on distances"
    (which has the biased V-statistic).
    """
    x, y = rows(x), rows(y)
    if min(len(x), len(y)) < 2:
        raise ValueError(f"x and y must have at least two rows; got {len(x)} and {len(y)}")
    return 2 * mean_distance(x, y) - mean_distance(x, x) - mean_distance(y, y)
