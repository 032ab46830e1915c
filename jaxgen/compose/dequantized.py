"""Dequantisation: uniform noise makes discrete data continuous."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from jaxgen.core.constraints import bounds
from jaxgen.core.families import modulate
from jaxgen.core.model import Model
from jaxgen.core.random import Uniform
from jaxgen.core.wrapper import Inner, Wrapper


class Dequantized(Wrapper):
    """x = level + u with u uniform on [0, 1): log p(x) = log p_base(floor(x)), exactly.

    This makes a discrete model comparable with densities. A model of pixels 0 .. 255 becomes one
    of images with uniform noise; ``Transformed`` with ``bijectors.Inverse(Interval(...))`` then
    gives the density in logit space that the literature reports.

    Args:
      base: discrete model of integer levels low .. high, such as a Categorical.

    Params: those of the base.

    Source: Uria, Murray and Larochelle 2013, "RNADE".

    >>> images = Dequantized(MaskedAutoregressive(784, head="categorical", levels=256))
    """

    base: Model

    def __post_init__(self):
        super().__post_init__()
        if not self.base.support.is_discrete or self._levels is None:
            raise ValueError(
                f"Dequantized: base must be a discrete model of bounded levels, got {self.base}"
            )

    @property
    def inner(self):
        return (Inner(self.base),)

    @property
    def support(self):
        low, high = self._levels
        interval = constraints.interval(low, high + 1)
        return constraints.independent(interval, len(self.event_shape))

    def log_prior(self, params):
        return self.base.log_prior(params)

    def init(self, key, x=None, y=None):
        return self.base.init(key, None if x is None else self._level(x), y)

    def log_prob(self, params, x, y=None):
        low, high = self._levels
        inside = ((x >= low) & (x <= high + 1)).all()
        score = self.base.log_prob(params, self._level(jnp.where(inside, x, low)), y)
        return jnp.where(inside, score, -jnp.inf)

    def loss(self, params, noise, x, y=None):
        return self.base.loss(params, noise, self._level(x), y)

    def modulate(self, params, change):
        return modulate(self.base, params, change)

    def noise(self):
        return {"base": self.base.noise(), "offset": Uniform(self.event_shape)}

    def push(self, params, noise, y=None):
        level = self.base.push(params, noise["base"], y).astype(noise["offset"].dtype)
        # a sum that rounds up would belong to the next level
        return jnp.minimum(level + noise["offset"], jnp.nextafter(level + 1, level))

    def marginal(self, params, features):
        part, params = self.base.marginal(params, features)
        return Dequantized(part), params

    def given(self, params, features, values):
        part, params = self.base.given(params, features, self._level(values))
        return Dequantized(part), params

    def estimate(self, x, y=None, weights=None):
        return self.base.estimate(self._level(x), y, weights)

    def em_step(self, params, x, y=None, weights=None):
        return self.base.em_step(params, self._level(x), y, weights)

    def _level(self, x):
        xp = np if isinstance(x, np.ndarray) else jnp
        low, high = self._levels
        return xp.clip(xp.floor(x), low, high)

    @property
    def _levels(self):
        """Lowest and highest level, or None."""
        found = bounds(self.base.support)
        return None if found is None else tuple(map(int, found))
