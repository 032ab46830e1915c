"""Proposals for importance sampling: Student t distributions around the modes of a density."""

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
from jaxgen.models.normal.matrices import inverse_of_tril

MODES = 2  # modes in a proposal
_STEPS = 8  # of Newton's method in a search
_REFINED = 3  # the same, if the start is a mode of a similar density
_SHORTER = 8.0  # ratio of consecutive step lengths that a step tries
_LENGTHS = 4  # how many lengths it tries: 1, 1/8, 1/64 and 1/512
_DEGREES = 6  # of freedom of the Student t, an even number
_FLOOR = 0.05  # least curvature of a proposal, for a prior of unit variance
_WRITTEN_OUT = 4  # largest d for which a Cholesky factor is computed without a loop
_LEAST = 0.1  # weight that is shared evenly among the modes
_DISTANCE = 1.0  # squared distance, in standard deviations, beyond which two modes are different

LogDensity = Callable[[jax.Array], jax.Array]


class Modes(NamedTuple):
    """Modes of a density, in standard coordinates, in which the prior has about unit variance."""

    middle: jax.Array  # (d,), median of the prior
    unit: jax.Array  # (d,), spread of the prior
    points: jax.Array  # (MODES, d)
    heights: jax.Array  # (MODES,), log density
    precisions: jax.Array  # (MODES, d, d), negative Hessians


class Proposal(NamedTuple):
    """A mixture of Student t distributions."""

    modes: Modes
    whitenings: jax.Array  # (MODES, d, d), W in the squared distance |W (x - mode)|^2
    scales: jax.Array  # (MODES, d, d), inverses of the whitenings
    shares: jax.Array  # (MODES,), shares of the mass of the density


def search(log_density: LogDensity, draws: jax.Array) -> Modes:
    """Modes of a density, found by Newton's method from some draws of the prior.

    It starts at the draw of highest density, at the reflection of that draw, at the median of the
    draws, and at the best draw among those far from the first.

    Args:
      log_density: function of one point (d,); it may be -inf or NaN at some points.
      draws: finite draws of the prior (n, d).
    """
    low, middle, high = jnp.quantile(draws, jnp.array([0.16, 0.5, 0.84], draws.dtype), axis=0)
    unit = jnp.where(high > low, (high - low) / 2, 1)
    points = (draws - middle) / unit
    density = _standardized(log_density, middle, unit)
    scores = jax.vmap(density)(points)
    best = points[scores.argmax()]
    distances = ((points - best) ** 2).sum(1)
    far = jnp.where(distances >= jnp.median(distances), scores, -jnp.inf)
    starts = jnp.stack([best, -best, jnp.zeros_like(best), points[far.argmax()]])
    return Modes(middle, unit, *_distinct(*_climb(density, starts, _STEPS)))


def refine(log_density: LogDensity, modes: Modes) -> Modes:
    """Modes of a density, found from the modes of a similar density."""
    density = _standardized(log_density, modes.middle, modes.unit)
    return Modes(modes.middle, modes.unit, *_climb(density, modes.points, _REFINED))


def differentiable(log_density: LogDensity, modes: Modes) -> Modes:
    """The same modes, with gradients in what the density depends on.

    The derivative of a mode is the inverse of the precision times that of the gradient of the log
    density. Samples then move with the mode, so that their weights change little and the gradients
    of an estimate have little noise.
    """
    density = _standardized(log_density, modes.middle, modes.unit)

    def moved(point, precision):
        step = _newton(precision, jax.grad(density)(point), _FLOOR)
        return point + step - lax.stop_gradient(step)

    modes = lax.stop_gradient(modes)
    return modes._replace(points=jax.vmap(moved)(modes.points, modes.precisions))


def proposal(modes: Modes) -> Proposal:
    """Student t distributions at the modes, with the curvature and mass of the density there."""
    factors = jax.vmap(lambda precision: _factor(precision, _FLOOR))(modes.precisions)
    scales = jnp.swapaxes(inverse_of_tril(factors), 1, 2)
    masses = modes.heights - _log_diagonals(factors)
    shares = jax.nn.softmax(jnp.where(jnp.isfinite(masses), masses, -1e30))
    shares = (1 - _LEAST) * shares + _LEAST / len(shares)
    return Proposal(modes, jnp.swapaxes(factors, 1, 2), scales, shares)


def sample(proposal: Proposal, key: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Draws (count, d), and the log weight of each component among them.

    Each component makes a fixed number of draws, about its share of them, which lowers the noise of
    an estimate. The weight of a component is the exact proportion of its draws.
    """
    modes = proposal.modes
    _, dim = modes.points.shape
    noise = random.normal(key, (count, dim + _DEGREES), dtype=modes.points.dtype)
    noise = computed_once(noise, key_words(key)[0])
    quantiles = (jnp.arange(count) + 0.5) / count
    component = (quantiles[:, None] > jnp.cumsum(proposal.shares)[:-1]).sum(1)
    length = jnp.sqrt(_DEGREES / (noise[:, dim:] ** 2).sum(1))
    chosen = component == jnp.arange(len(proposal.shares))[:, None]
    steps = jax.vmap(lambda scale: _times(scale, noise[:, :dim] * length[:, None]))(proposal.scales)
    points = jnp.where(chosen[..., None], modes.points[:, None] + steps, 0).sum(0)
    return modes.middle + modes.unit * points, jnp.log(chosen.mean(1))


def log_prob(proposal: Proposal, log_weights: jax.Array, x: jax.Array) -> jax.Array:
    """Log density (n,) of x (n, d) under a mixture of the components with those weights."""
    modes = proposal.modes
    points = (x - modes.middle) / modes.unit
    dim = x.shape[1]

    def of_component(mode, whitening):
        squared = (_times(whitening, points - mode) ** 2).sum(-1)
        return _log_diagonals(whitening) - (_DEGREES + dim) / 2 * jnp.log1p(squared / _DEGREES)

    constant = math.lgamma((_DEGREES + dim) / 2) - math.lgamma(_DEGREES / 2)
    constant -= dim / 2 * math.log(_DEGREES * math.pi)
    each = jax.vmap(of_component)(modes.points, proposal.whitenings)
    total = logsumexp(each + log_weights[:, None], 0)
    return total + constant - jnp.log(modes.unit).sum()


def _standardized(log_density, middle, unit):
    """The log density as a function of standard coordinates, with -inf in place of NaN."""

    def density(point):
        value = log_density(middle + unit * point)
        return jnp.where(jnp.isnan(value), -jnp.inf, value)

    return density


def _climb(density, starts, steps):
    """The points that damped steps of Newton's method reach from some starts.

    Returns the points (n, d), their log density, and their precisions before the last step.
    """
    lengths = _SHORTER ** -jnp.arange(_LENGTHS, dtype=starts.dtype)

    def slope_twice(point):
        slope = jax.grad(density)(point)
        return slope, slope

    def step(point):
        hessian, slope = jax.jacfwd(slope_twice, has_aux=True)(point)
        precision = -_finite(hessian)
        direction = _newton(precision, slope, 1.0)
        trials = jnp.concatenate([point[None], point + lengths[:, None] * direction])
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
    """Lower Cholesky factor of a precision (d, d), or of a positive definite matrix near it.

    The absolute value of a pivot replaces a negative pivot, so that Newton's method leaves a saddle
    point or a minimum by steps of the right length. Pivots are at least ``floor``, and columns are
    clipped so that later pivots can be.
    """
    rows = jnp.arange(len(precision))

    def column(rest, j):
        diagonal = jnp.diagonal(rest)
        pivot = jnp.sqrt(jnp.maximum(jnp.abs(rest[j, j]), floor))
        longest = jnp.sqrt(jnp.maximum(diagonal - floor, 0))
        below = jnp.where(rows > j, jnp.clip(rest[:, j] / pivot, -longest, longest), 0)
        return rest - below[:, None] * below, jnp.where(rows == j, pivot, below)

    if len(precision) > _WRITTEN_OUT:
        return lax.scan(column, precision, rows)[1].T
    columns = []
    for j in range(len(precision)):
        precision, entries = column(precision, j)
        columns.append(entries)
    return jnp.stack(columns, 1)


def _distinct(points, heights, precisions):
    """The highest point, and the highest of the points that are a different mode."""
    best = heights.argmax()
    factor = _factor(precisions[best], _FLOOR)
    squared = (_times(factor.T, points - points[best]) ** 2).sum(1)
    is_other = squared > _DISTANCE
    other = jnp.where(is_other.any(), jnp.where(is_other, heights, -jnp.inf).argmax(), best)
    chosen = jnp.stack([best, other])
    return points[chosen], heights[chosen], precisions[chosen]


def _times(matrices, vectors):
    # elementwise work is fused; products of many small matrices are slow
    return (matrices * vectors[..., None, :]).sum(-1)


def _log_diagonals(tril):
    return jnp.log(jnp.diagonal(tril, axis1=-2, axis2=-1)).sum(-1)


def _finite(values):
    return jnp.where(jnp.isfinite(values), values, 0)
