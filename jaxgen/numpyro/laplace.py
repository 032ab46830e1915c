"""Proposals of importance sampling that follow a density: Student t around its modes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxgen.core import random
from jaxgen.core.numerics import computed_once, logsumexp
from jaxgen.core.random.threefry import key_words
from jaxgen.models.gaussian import inverse_of_tril

KEPT = 2  # modes that a proposal has
_STARTS = 4  # of a search, most of which end in the same mode
_STEPS = 8  # of Newton's method in a search
_REFINED = 3  # and from modes of a density nearby
_SHORTER = 8.0  # ratio of the step lengths tried,
_LENGTHS = 4  # so many: from 1 to 1/512
_DEGREES = 6  # of freedom of Student's t, even
_FLOOR = 0.05  # least curvature of a proposal, of a prior of unit variance
_WRITTEN_OUT = 4  # largest d up to which a Cholesky factor is not a loop
_LEAST = 0.1  # weight that the modes share whatever their height
_APART = 1.0  # squared distance, in deviations, of two modes that differ

LogDensity = Callable[[jax.Array], jax.Array]


class Modes(NamedTuple):
    """Modes of a density, in coordinates in which the prior has about unit variance."""

    middle: jax.Array  # (d,), of the prior
    unit: jax.Array  # (d,), its deviations
    places: jax.Array  # (KEPT, d)
    heights: jax.Array  # (KEPT,), log density
    precisions: jax.Array  # (KEPT, d, d), the negative Hessians


class Proposal(NamedTuple):
    """A mixture of Student t."""

    modes: Modes
    whitenings: jax.Array  # (KEPT, d, d), W of a squared distance |W (x - mode)|^2
    scales: jax.Array  # (KEPT, d, d), their inverses
    shares: jax.Array  # (KEPT,), of the density's mass


def search(log_density: LogDensity, draws: jax.Array) -> Modes:
    """Modes of a density, found from the best of some draws of a prior.

    Newton's method starts at the best draw, at its reflection, at the prior's middle and at the
    best of the draws that lie far from the best.

    Args:
      log_density: function of one point (d,); it may be -inf or NaN somewhere.
      draws: (n, d), finite.
    """
    low, middle, high = jnp.quantile(draws, jnp.array([0.16, 0.5, 0.84], draws.dtype), axis=0)
    unit = jnp.where(high > low, (high - low) / 2, 1)
    inside = (draws - middle) / unit
    density = _framed(log_density, middle, unit)
    scores = jax.vmap(density)(inside)
    best = inside[scores.argmax()]
    distances = ((inside - best) ** 2).sum(1)
    far = jnp.where(distances >= jnp.median(distances), scores, -jnp.inf)
    starts = jnp.stack([best, -best, jnp.zeros_like(best), inside[far.argmax()]])
    return Modes(middle, unit, *_distinct(*_climb(density, starts, _STEPS)))


def refine(log_density: LogDensity, modes: Modes) -> Modes:
    """Modes of a density from those of one nearby."""
    density = _framed(log_density, modes.middle, modes.unit)
    return Modes(modes.middle, modes.unit, *_climb(density, modes.places, _REFINED))


def follow(log_density: LogDensity, modes: Modes) -> Modes:
    """The same modes, which gradients move with what the density depends on.

    A mode moves by the inverse of the precision times the change of the slope. Weights of samples
    that move along change little, and so their gradients have little noise.
    """
    density = _framed(log_density, modes.middle, modes.unit)

    def moved(place, precision):
        step = _newton(precision, jax.grad(density)(place), _FLOOR)
        return place + step - lax.stop_gradient(step)

    modes = lax.stop_gradient(modes)
    return modes._replace(places=jax.vmap(moved)(modes.places, modes.precisions))


def proposal(modes: Modes) -> Proposal:
    """Student t around the modes, with the density's curvature there and a share of its mass."""
    factors = jax.vmap(lambda precision: _factor(precision, _FLOOR))(modes.precisions)
    scales = jnp.swapaxes(inverse_of_tril(factors), 1, 2)
    masses = modes.heights - _log_diagonals(factors)
    shares = jax.nn.softmax(jnp.where(jnp.isfinite(masses), masses, -1e30))
    shares = (1 - _LEAST) * shares + _LEAST / len(shares)
    return Proposal(modes, jnp.swapaxes(factors, 1, 2), scales, shares)


def sample(proposal: Proposal, key: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Draws (count, d), and their log density (count,).

    Each component makes a fixed number of the draws, close to its share of them, and has just that
    weight in the density: an estimate by such draws has less noise.
    """
    modes = proposal.modes
    _, dim = modes.places.shape
    noise = random.normal(key, (count, dim + _DEGREES), dtype=modes.places.dtype)
    noise = computed_once(noise, key_words(key)[0])
    marks = (jnp.arange(count) + 0.5) / count
    which = (marks[:, None] > jnp.cumsum(proposal.shares)[:-1]).sum(1)
    length = jnp.sqrt(_DEGREES / (noise[:, dim:] ** 2).sum(1))
    own = which == jnp.arange(len(proposal.shares))[:, None]
    steps = jax.vmap(lambda scale: _times(scale, noise[:, :dim] * length[:, None]))(proposal.scales)
    inside = jnp.where(own[..., None], modes.places[:, None] + steps, 0).sum(0)
    return modes.middle + modes.unit * inside, jnp.log(own.mean(1))


def log_prob(proposal: Proposal, log_weights: jax.Array, points: jax.Array) -> jax.Array:
    """Log density (n,) of points (n, d) under a mixture of the components with those weights."""
    modes = proposal.modes
    inside = (points - modes.middle) / modes.unit
    dim = points.shape[1]

    def of_mode(place, whitening):
        squared = (_times(whitening, inside - place) ** 2).sum(-1)
        return _log_diagonals(whitening) - (_DEGREES + dim) / 2 * jnp.log1p(squared / _DEGREES)

    constant = math.lgamma((_DEGREES + dim) / 2) - math.lgamma(_DEGREES / 2)
    constant -= dim / 2 * math.log(_DEGREES * math.pi)
    each = jax.vmap(of_mode)(modes.places, proposal.whitenings)
    total = logsumexp(each + log_weights[:, None], 0)
    return total + constant - jnp.log(modes.unit).sum()


def _framed(log_density, middle, unit):
    def density(place):
        value = log_density(middle + unit * place)
        return jnp.where(jnp.isnan(value), -jnp.inf, value)

    return density


def _climb(density, starts, steps):
    """Points from which a few damped steps of Newton's method lead no further up.

    Returns the points (n, d), their log density, and their precisions, of the step before.
    """
    lengths = _SHORTER ** -jnp.arange(_LENGTHS, dtype=starts.dtype)

    def slope_twice(place):
        slope = jax.grad(density)(place)
        return slope, slope

    def step(place):
        hessian, slope = jax.jacfwd(slope_twice, has_aux=True)(place)
        precision = -_finite(hessian)
        direction = _newton(precision, slope, 1.0)
        trials = jnp.concatenate([place[None], place + lengths[:, None] * direction])
        heights = jax.vmap(density)(trials)
        best = heights.argmax()
        return trials[best], heights[best], precision

    state = starts, jnp.zeros_like(starts[:, 0]), jnp.zeros((*starts.shape, starts.shape[1]))
    return lax.fori_loop(0, steps, lambda _, state: jax.vmap(step)(state[0]), state)


def _newton(precision, slope, floor):
    """Newton's step: the inverse of the precision times the slope."""
    inverse = inverse_of_tril(_factor(precision, floor))
    return _times(inverse.T, _times(inverse, _finite(slope)))


def _factor(precision, floor):
    """Lower Cholesky factor of a precision (d, d), made positive definite where it is not.

    A pivot counts by its absolute value, so that Newton's method leaves a saddle or a minimum by
    steps of the right length, and is at least ``floor``; columns are kept to what that leaves.
    """
    rows = jnp.arange(len(precision))

    def column(rest, j):
        left = jnp.diagonal(rest)
        pivot = jnp.sqrt(jnp.maximum(jnp.abs(rest[j, j]), floor))
        longest = jnp.sqrt(jnp.maximum(left - floor, 0))
        below = jnp.where(rows > j, jnp.clip(rest[:, j] / pivot, -longest, longest), 0)
        return rest - below[:, None] * below, jnp.where(rows == j, pivot, below)

    if len(precision) > _WRITTEN_OUT:
        return lax.scan(column, precision, rows)[1].T
    columns = []
    for j in range(len(precision)):
        precision, own = column(precision, j)
        columns.append(own)
    return jnp.stack(columns, 1)


def _distinct(places, heights, precisions):
    """The highest of the places, and the highest of the others that is not the same mode."""
    best = heights.argmax()
    factor = _factor(precisions[best], _FLOOR)
    squared = (_times(factor.T, places - places[best]) ** 2).sum(1)
    apart = jnp.where(squared > _APART, heights, -jnp.inf)
    other = jnp.where((squared > _APART).any(), apart.argmax(), best)
    chosen = jnp.stack([best, other])
    return places[chosen], heights[chosen], precisions[chosen]


def _times(matrices, vectors):
    # by elementwise work, which is fused; products of many small matrices are slow
    return (matrices * vectors[..., None, :]).sum(-1)


def _log_diagonals(tril):
    return jnp.log(jnp.diagonal(tril, axis1=-2, axis2=-1)).sum(-1)


def _finite(values):
    return jnp.where(jnp.isfinite(values), values, 0)
