"""Integrals of a density over the region where its samples lie."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxgen.laws.subject import NotApplicable, Subject

_CELLS = {1: 64, 2: 32}  # by dimension: cells along each feature before any is split
_TOLERANCE = 5e-8  # a cell whose probability changes by less is not split further
_SPLITS = 10  # largest number of times that a cell is split
_BUDGET = 2**21  # evaluations of the density after which no cell is split
_STATES = 4096  # largest number of states to sum over
_DRAWS = 4 * 65536  # of the proposal in importance sampling


def once(integral: Callable[[Subject], Any]) -> Callable[[Subject], Any]:
    """Decorator: the integral is computed once for each subject, for all laws."""

    @functools.wraps(integral)
    def cached(subject: Subject) -> Any:
        if integral.__name__ not in subject.integrals:
            subject.integrals[integral.__name__] = integral(subject)
        return subject.integrals[integral.__name__]

    return cached


@once
def states(subject: Subject) -> tuple[np.ndarray, np.ndarray]:
    """All combinations of whole values, up to one step beyond the samples, and probabilities.

    Returns:
      (states, dim) coordinates and (states,) probabilities.

    Raises:
      NotApplicable: there are too many.
    """
    u = subject.coordinates.from_events(subject.samples)
    levels = [np.arange(low - 1, high + 2) for low, high in zip(u.min(0), u.max(0), strict=True)]
    if math.prod(map(len, levels)) > _STATES:
        raise NotApplicable("too many states")
    every = np.array(list(itertools.product(*levels)), np.float64)
    scores = subject.log_prob(subject.coordinates.to_events(every))
    return every, np.exp(scores.astype(np.float64))


@once
def cells(subject: Subject) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities of the cells of a regular grid around the samples, by adaptive quadrature.

    The quadrature is Gauss-Legendre with three points a side. A cell is halved along each side
    until its probability settles, so that edges of the density are resolved.

    Returns:
      (cells,) probabilities, (cells,) counts of samples, and (cells, dim) centres.
    """
    u = subject.coordinates.from_events(subject.samples).astype(np.float64)
    dim, count = u.shape[1], _CELLS[u.shape[1]]
    reach = u.max(0) - u.min(0)
    low = u.min(0) - 0.5 * reach
    width = 2 * reach / count

    def integrate(corner: np.ndarray, width: np.ndarray) -> np.ndarray:
        place = np.array([-math.sqrt(0.6), 0.0, math.sqrt(0.6)]) / 2 + 0.5
        weight = np.array([5.0, 8.0, 5.0]) / 18
        places = np.array(list(itertools.product(place, repeat=dim)))
        weights = np.array([math.prod(w) for w in itertools.product(weight, repeat=dim)])
        points = corner[:, None] + places * width
        score = subject.log_prob(subject.coordinates.to_events(points.reshape(-1, dim)))
        density = np.exp(score.astype(np.float64)).reshape(len(corner), -1)
        return density @ weights * math.prod(width)

    index = np.array(list(itertools.product(range(count), repeat=dim)))
    owner, corner = np.arange(len(index)), low + index * width
    centres = corner + width / 2
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
    place = np.clip(((u - low) / (2 * reach / count)).astype(int), 0, count - 1)
    flat = np.ravel_multi_index(tuple(place.T), (count,) * dim)
    return total, np.bincount(flat, minlength=len(index)), centres


@once
def importance(subject: Subject) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights density / proposal, whose mean estimates the integral of the density.

    The proposal is a Student t with 5 degrees of freedom, the mean of the samples and 1.5 times
    their covariance. For whole-valued features it is the frequencies of the values.

    Returns:
      (m, dim) coordinates and (m,) weights.

    Raises:
      NotApplicable: the samples lie on a surface of lower dimension.
    """
    import scipy.special

    coordinates, rng = subject.coordinates, np.random.default_rng(1)
    u = coordinates.from_events(subject.samples).astype(np.float64)
    points = np.zeros((_DRAWS, coordinates.dim))
    log_proposal = np.zeros(_DRAWS)
    smooth = np.flatnonzero(~coordinates.discrete)
    if len(smooth):
        degrees, dim = 5, len(smooth)
        mean, covariance = u[:, smooth].mean(0), np.atleast_2d(np.cov(u[:, smooth].T))
        correlation = covariance / np.sqrt(np.outer(*[np.diag(covariance)] * 2))
        if np.linalg.eigvalsh(correlation)[0] < 1e-9:
            raise NotApplicable("samples lie on a surface of lower dimension")
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
    for j in np.flatnonzero(coordinates.discrete):
        values, counts = np.unique(u[:, j], return_counts=True)
        values = np.concatenate([[values[0] - 1], values, [values[-1] + 1]])
        chance = 0.9 * np.concatenate([[0], counts, [0]]) / counts.sum() + 0.1 / len(values)
        pick = rng.choice(len(values), _DRAWS, p=chance)
        points[:, j] = values[pick]
        log_proposal += np.log(chance[pick])
    rounded = coordinates.to_events(points).astype(subject.dtype)
    return points, np.exp(subject.log_prob(rounded).astype(np.float64) - log_proposal)
