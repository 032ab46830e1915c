"""Continuous models of whole numbers, learnt with uniform noise."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpyro.distributions import constraints

from jaxgen.bijectors import Interval
from jaxgen.compose.transformed import Transformed
from jaxgen.core.constraints import bounds, innermost
from jaxgen.core.degrees import degrees_of_freedom
from jaxgen.core.families import modulate
from jaxgen.core.model import Model
from jaxgen.core.numerics import logsumexp
from jaxgen.core.random import Uniform, fixed, uniform
from jaxgen.core.spec import Count
from jaxgen.core.wrapper import Inner, Wrapper


class Quantized(Wrapper):
    """x = floor(z) with z from a continuous model on [0, levels], so x is 0 .. levels - 1.

    It is fitted to raw whole numbers: uniform noise on [0, 1) is added to them, new noise in each
    step of gradients, and in a closed form or EM the same noise for every key. The mean loss is
    then an upper bound on -log p(x), where

        p(x) = integral of the density of z over the cell [x, x + 1)

    ``log_prob`` estimates the integral from ``points`` fixed points of the cell, a Latin hypercube
    that is the same for every x. If the density of z varies much within a cell, the estimate is
    lower than log p(x) for most events. ``pull`` returns the noise of the middle of the cell.

    Args:
      base: continuous model, of numbers in [0, levels] (such as a flow whose domain is
        ``Interval(0, levels)``), or of real numbers, which ``bijectors.Interval`` maps there.
      levels: number of values of each feature.
      points: points of a cell at which ``log_prob`` takes the density.

    Params: those of the base, or of its ``Transformed``.

    Source: Theis, van den Oord and Bethge 2016, "A note on the evaluation of generative models";
    Ho et al. 2019, "Flow++" (the estimate).

    >>> pixels = np.random.default_rng(0).binomial(16, 0.3, size=(200, 2))
    >>> found = jaxgen.fit(Quantized(Gaussian(2), levels=17), pixels, key=jax.random.key(0))
    >>> found.sample(jax.random.key(1), 3).dtype
    dtype('int32')
    """

    base: Model
    levels: Count
    points: Count = 16

    def __post_init__(self):
        super().__post_init__()
        number, found = innermost(self.base.support), bounds(self.base.support)
        if number.is_discrete or not (number is constraints.real or found == (0, self.levels)):
            raise ValueError(
                f"Quantized: base must be a continuous model of real numbers or of numbers in "
                f"[0, {self.levels}], got {self.base}"
            )
        if number is constraints.real:
            mapped = Transformed(self.base, Interval(0, self.levels))
            object.__setattr__(self, "base", mapped)

    @property
    def inner(self):
        return (Inner(self.base),)

    def _learning(self):
        learning = super()._learning()
        noise = {"base": self.base.learning.noise, "place": Uniform(self.event_shape)}
        return learning._replace(noise=noise)

    def _traits(self):
        counted = self._degrees_of_freedom
        traits = super()._traits()
        return traits._replace(
            density="estimate", degrees_of_freedom=counted, changeable=("points",)
        )

    def _degrees_of_freedom(self, params):
        return degrees_of_freedom(self.base, params)

    @property
    def support(self):
        whole = constraints.integer_interval(0, self.levels - 1)
        return constraints.independent(whole, len(self.event_shape))

    def log_prior(self, params):
        return self.base.log_prior(params)

    def init(self, key, x=None, y=None):
        return self.base.init(key, None if x is None else _dequantized(x), y)

    def log_prob(self, params, x, y=None):
        inside = ((x == jnp.floor(x)) & (x >= 0) & (x < self.levels)).all()
        x = jnp.where(inside, x, 0)

        def score(place):
            return self.base.log_prob(params, _within(x, place), y)

        scores = lax.map(score, jnp.asarray(self._places(), x.dtype))
        return jnp.where(inside, logsumexp(scores) - math.log(self.points), -jnp.inf)

    def loss(self, params, noise, x, y=None):
        return self.base.loss(params, noise["base"], _within(x, noise["place"]), y)

    def modulate(self, params, change):
        return modulate(self.base, params, change)

    def noise(self):
        return self.base.noise()

    def push(self, params, noise, y=None):
        z = self.base.push(params, noise, y)
        return jnp.clip(jnp.floor(z), 0, self.levels - 1).astype(jnp.int32)

    def pull(self, params, x, y=None):
        return self.base.pull(params, x + 0.5, y)

    def marginal(self, params, features):
        part, params = self.base.marginal(params, features)
        return Quantized(part, self.levels, self.points), params

    def estimate(self, x, y=None, weights=None):
        return self.base.estimate(_dequantized(x), y, weights)

    def em_step(self, params, x, y=None, weights=None):
        return self.base.em_step(params, _dequantized(x), y, weights)

    def _places(self):
        """Points (points, *event_shape) of a cell: by feature, the middles of equal parts of it."""
        shape = (math.prod(self.event_shape), self.points)
        order = np.random.default_rng(0).permuted(
            np.broadcast_to(np.arange(shape[1]), shape), axis=1
        )
        return ((order.T + 0.5) / self.points).reshape(self.points, *self.event_shape)


def _within(x, place):
    """x + place, which does not round up to x + 1."""
    x = lax.stop_gradient(x)  # whole numbers, and nextafter has no derivative
    return jnp.minimum(x + place, jnp.nextafter(x + 1, x))


def _dequantized(x):
    """Events (n, *event_shape) plus noise on (0, 1), the same in each call."""
    if isinstance(x, np.ndarray):
        return x + fixed.generator().uniform(1e-6, 1 - 1e-6, x.shape)
    return _within(x, uniform(jax.random.key(fixed.SEED), x.shape, dtype=x.dtype))
