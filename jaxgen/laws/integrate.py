"""Integrals of a density over the places where its samples lie."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxgen.laws.subject import NotJudged, Subject

_TOP = {1: 64, 2: 32}  # cells along each feature before any is split
_TOLERANCE = 5e-8  # change of a cell's probability at which splitting stops
_SPLITS = 10
_BUDGET = 2**21  # points
_STATES = 4096
_DRAWS = 4 * 65536


def once(integral: Callable[[Subject], Any]) -> Callable[[Subject], Any]:
    """An integral that is computed once for a subject, whatever laws ask for it."""

    @functools.wraps(integral)
    def known(subject):
        if integral.__name__ not in subject.integrals:
            subject.integrals[integral.__name__] = integral(subject)
        return subject.integrals[integral.__name__]

    return known


@once
def states(subject: Subject) -> tuple[np.ndarray, np.ndarray]:
    """All events that samples suggest, one step beyond their range too, with probabilities."""
    u = subject.chart.drop(subject.samples)
    levels = [np.arange(low - 1, high + 2) for low, high in zip(u.min(0), u.max(0), strict=True)]
    if math.prod(map(len, levels)) > _STATES:
        raise NotJudged("too many states")
    every = np.array(list(itertools.product(*levels)), np.float64)
    return every, np.exp(subject.log_prob(subject.chart.lift(every)).astype(np.float64))


@once
def cells(subject: Subject) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of the cells of a regular grid around the samples, by adaptive quadrature.

    Gauss-Legendre with three points a side; a cell is split in halves until its value settles, so
    that edges of the density are found.

    Returns:
      (cells,) probabilities and the (cells,) counts of samples.
    """
    u = subject.chart.drop(subject.samples).astype(np.float64)
    dim, top = u.shape[1], _TOP[u.shape[1]]
    reach = u.max(0) - u.min(0)
    low = u.min(0) - 0.5 * reach
    width = 2 * reach / top

    def integrate(corner, width):
        place = np.array([-math.sqrt(0.6), 0.0, math.sqrt(0.6)]) / 2 + 0.5
        weight = np.array([5.0, 8.0, 5.0]) / 18
        places = np.array(list(itertools.product(place, repeat=dim)))
        weights = np.array([math.prod(w) for w in itertools.product(weight, repeat=dim)])
        points = corner[:, None] + places * width
        score = subject.log_prob(subject.chart.lift(points.reshape(-1, dim)))
        density = np.exp(score.astype(np.float64)).reshape(len(corner), -1)
        return density @ weights * math.prod(width)

    index = np.array(list(itertools.product(range(top), repeat=dim)))
    owner, corner = np.arange(len(index)), low + index * width
    value = integrate(corner, width)
    total = np.zeros(len(index))
    halves = np.array(list(itertools.product((0, 1), repeat=dim)))
    points = 0
    for _ in range(_SPLITS):
        width = width / 2
        parts = (corner[:, None] + halves * width).reshape(-1, dim)
        points += len(parts) * 3**dim
        new = integrate(parts, width).reshape(-1, 2**dim)
        settled = np.abs(new.sum(1) - value) < _TOLERANCE
        np.add.at(total, owner[settled], new[settled].sum(1))
        owner, corner = owner[~settled], parts.reshape(-1, 2**dim, dim)[~settled].reshape(-1, dim)
        owner, value = owner.repeat(2**dim), new[~settled].ravel()
        if not len(owner) or points > _BUDGET:
            break
    np.add.at(total, owner, value)
    place = np.clip(((u - low) / (2 * reach / top)).astype(int), 0, top - 1)
    flat = np.ravel_multi_index(tuple(place.T), (top,) * dim)
    return total, np.bincount(flat, minlength=len(index))


@once
def importance(subject: Subject) -> tuple[np.ndarray, np.ndarray]:
    """Points (m, dim) and weights density / proposal, whose mean is the density's integral.

    The proposal knows the samples' mean and covariance (Student t, 5 degrees of freedom, spread by
    1.5) and, for whole-valued features, how often each value came.
    """
    import scipy.special

    chart, rng = subject.chart, np.random.default_rng(1)
    u = chart.drop(subject.samples).astype(np.float64)
    points = np.zeros((_DRAWS, chart.dim))
    log_proposal = np.zeros(_DRAWS)
    smooth = np.flatnonzero(~chart.discrete)
    if len(smooth):
        degrees, dim = 5, len(smooth)
        mean, covariance = u[:, smooth].mean(0), np.atleast_2d(np.cov(u[:, smooth].T))
        correlation = covariance / np.sqrt(np.outer(*[np.diag(covariance)] * 2))
        if np.linalg.eigvalsh(correlation)[0] < 1e-9:
            raise NotJudged("samples lie on a surface")
        root = np.linalg.cholesky(1.5 * covariance)
        radius = np.sqrt(rng.chisquare(degrees, (_DRAWS, 1)) / degrees)
        z = rng.normal(size=(_DRAWS, dim)) / radius
        points[:, smooth] = mean + z @ root.T
        log_proposal += (
            scipy.special.gammaln((degrees + dim) / 2)
            - scipy.special.gammaln(degrees / 2)
            - dim / 2 * math.log(degrees * math.pi)
            - np.log(np.diag(root)).sum()
            - (degrees + dim) / 2 * np.log1p((z**2).sum(1) / degrees)
        )
    for j in np.flatnonzero(chart.discrete):
        values, counts = np.unique(u[:, j], return_counts=True)
        values = np.concatenate([[values[0] - 1], values, [values[-1] + 1]])
        chance = 0.9 * np.concatenate([[0], counts, [0]]) / counts.sum() + 0.1 / len(values)
        pick = rng.choice(len(values), _DRAWS, p=chance)
        points[:, j] = values[pick]
        log_proposal += np.log(chance[pick])
    rounded = chart.lift(points).astype(subject.dtype)
    return points, np.exp(subject.log_prob(rounded).astype(np.float64) - log_proposal)
