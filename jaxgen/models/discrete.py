"""Independent discrete features: pixels on or off, or levels such as words of a vocabulary."""

from __future__ import annotations

import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from jaxgen.choice import choose, words_for
from jaxgen.model import Model, namespace
from jaxgen.random import Bits, Uniform
from jaxgen.spec import AtLeast, Count, NonNegative


class Bernoulli(Model):
    """Independent bits: log p(x) = sum_j x_j log q_j + (1 - x_j) log(1 - q_j), x_j in {0, 1}.

    Args:
      shape: shape of an event, such as (28, 28).
      smoothing: pseudo-count of each value; 1 is Laplace's rule.

    Params: ``logits``, of the event's shape, log q / (1 - q).

    >>> fitted = jaxgen.fit(Bernoulli((28, 28)), images > 127, key=jax.random.key(0))
    """

    shape: tuple[Count, ...]
    smoothing: NonNegative = 1.0

    elementwise = True
    fit_method = "closed_form"

    @property
    def event_shape(self):
        return self.shape

    @property
    def support(self):
        return constraints.independent(constraints.boolean, len(self.shape))

    def init(self, key, x=None, y=None):
        return {"logits": jnp.zeros(self.shape)} if x is None else self.estimate(x)

    def estimate(self, x, y=None, weights=None):
        xp = namespace(x, weights)
        weights = xp.ones(len(x), x.dtype) if weights is None else weights
        on = xp.tensordot(weights, x, 1)
        off = xp.tensordot(weights, 1 - x, 1)
        with np.errstate(divide="ignore"):
            return {"logits": xp.log(on + self.smoothing) - xp.log(off + self.smoothing)}

    def log_prob(self, params, x, y=None):
        inside = ((x == 0) | (x == 1)).all()
        # of either value, computed once for all events
        on, off = jax.nn.log_sigmoid(params["logits"]), jax.nn.log_sigmoid(-params["logits"])
        return jnp.where(inside, jnp.where(x == 1, on, off).sum(), -jnp.inf)

    def noise(self):
        return Uniform(self.shape)

    def push(self, params, noise, y=None):
        return (noise < jax.nn.sigmoid(params["logits"])).astype(jnp.int32)


class Categorical(Model):
    """Independent features of ``levels`` values each: log p(x) = sum_j log q_j[x_j].

    Args:
      shape: shape of an event, such as (28, 28) pixels or (12,) words.
      levels: number of values; x holds 0 .. levels - 1.
      smoothing: pseudo-count of each value; 1 is Laplace's rule.

    Params: ``logits``, shape (*shape, levels), used up to a constant.

    >>> fitted = jaxgen.fit(Categorical((28, 28), levels=256), images, key=jax.random.key(0))
    """

    shape: tuple[Count, ...]
    levels: Annotated[int, AtLeast(2)]
    smoothing: NonNegative = 1.0

    fit_method = "closed_form"

    @property
    def event_shape(self):
        return self.shape

    @property
    def support(self):
        levels = constraints.integer_interval(0, self.levels - 1)
        return constraints.independent(levels, len(self.shape))

    def init(self, key, x=None, y=None):
        if x is not None:
            return self.estimate(x)
        return {"logits": jnp.zeros((*self.shape, self.levels))}

    def estimate(self, x, y=None, weights=None):
        xp = namespace(x, weights)
        weights = xp.ones(len(x), x.dtype) if weights is None else weights
        features = math.prod(self.shape)
        flat = x.reshape(len(x), features).astype(int) + self.levels * xp.arange(features)
        repeated = xp.broadcast_to(weights[:, None], flat.shape).ravel()
        size = features * self.levels
        counts: Any
        if xp is np:
            counts = np.bincount(flat.ravel(), repeated, minlength=size)
        else:
            counts = jnp.zeros(size, weights.dtype).at[flat.ravel()].add(repeated)
        counts = counts.reshape(*self.shape, self.levels) + self.smoothing
        with np.errstate(divide="ignore"):
            return {"logits": xp.log(counts / counts.sum(-1, keepdims=True))}

    def log_prob(self, params, x, y=None):
        level = x.astype(jnp.int32)
        inside = ((level == x) & (level >= 0) & (level < self.levels)).all()
        level = level.clip(0, self.levels - 1)
        log_probs = jax.nn.log_softmax(params["logits"], -1)
        score = jnp.take_along_axis(log_probs, level[..., None], -1).sum()
        return jnp.where(inside, score, -jnp.inf)

    def noise(self):
        return Bits((*self.shape, words_for(self.levels)))

    def push(self, params, noise, y=None):
        probs = jax.nn.softmax(params["logits"], -1).reshape(-1, self.levels)
        return jax.vmap(choose)(probs, noise.reshape(-1, noise.shape[-1])).reshape(self.shape)
