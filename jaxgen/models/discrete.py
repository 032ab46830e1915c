"""Independent discrete features: bits such as black-and-white pixels, or levels such as words."""

from __future__ import annotations

import functools
import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpyro.distributions import constraints

from jaxgen.core.families import check_observed, namespace, others
from jaxgen.core.model import Learning, Model, Traits
from jaxgen.core.random import Bits, Uniform
from jaxgen.core.random.choice import choose, words_for
from jaxgen.core.spec import AtLeast, Count, NonNegative


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

    learning = Learning("closed_form", missing="closed_form")
    traits = Traits(elementwise=True, guarded=True)

    @property
    def event_shape(self):
        return self.shape

    @property
    def support(self):
        return constraints.independent(constraints.boolean, len(self.shape))

    def init(self, key, x=None, y=None):
        return {"logits": jnp.zeros(self.shape)} if x is None else self.estimate(x)

    def estimate(self, x, y=None, weights=None, observed=None):
        xp = namespace(x, weights)
        weights = xp.ones(len(x), x.dtype) if weights is None else weights
        off = 1 - x
        if observed is not None:
            if xp is np:
                check_observed(observed)
            x, off = xp.where(observed, x, 0), xp.where(observed, off, 0)
        on, off = xp.tensordot(weights, x, 1), xp.tensordot(weights, off, 1)
        with np.errstate(divide="ignore"):
            return {"logits": xp.log(on + self.smoothing) - xp.log(off + self.smoothing)}

    def log_prob(self, params, x, y=None, observed=None):
        # both log probabilities are independent of x: under vmap they are computed once
        on, off = jax.nn.log_sigmoid(params["logits"]), jax.nn.log_sigmoid(-params["logits"])
        outside = -jnp.inf * jnp.abs(lax.stop_gradient(x))  # NaN where x is NaN
        scores = jnp.where(x == 1, on, jnp.where(x == 0, off, outside))
        return (scores if observed is None else jnp.where(observed, scores, 0)).sum()

    def modulate(self, params, change):
        return {"logits": params["logits"] + change["logits"]}

    def noise(self):
        return Uniform(self.shape)

    def push(self, params, noise, y=None):
        return (noise < jax.nn.sigmoid(params["logits"])).astype(jnp.int32)

    def complete(self, params, noise, x, observed, y=None):
        return jnp.where(observed, x, self.push(params, noise).astype(x.dtype))

    def marginal(self, params, features):
        logits = params["logits"].reshape(-1)[np.array(features)]
        return Bernoulli((len(features),), self.smoothing), {"logits": logits}

    def given(self, params, features, values):
        return self.marginal(params, others(self, features))


class Categorical(Model):
    """Independent features of ``levels`` values each: log p(x) = sum_j log q_j[x_j].

    Args:
      shape: shape of an event, such as (28, 28) pixels or (12,) words.
      levels: number of values; x holds 0 .. levels - 1.
      smoothing: pseudo-count of each value; 1 is Laplace's rule.

    Params: ``logits``, shape (*shape, levels), log q up to a constant for each feature.

    >>> fitted = jaxgen.fit(Categorical((28, 28), levels=256), images, key=jax.random.key(0))
    """

    shape: tuple[Count, ...]
    levels: Annotated[int, AtLeast(2)]
    smoothing: NonNegative = 1.0

    learning = Learning("closed_form", missing="closed_form")

    @functools.cached_property
    def traits(self):
        return Traits(degrees_of_freedom=self._degrees_of_freedom)

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

    def estimate(self, x, y=None, weights=None, observed=None):
        xp = namespace(x, weights)
        weights = xp.ones(len(x), x.dtype) if weights is None else weights
        features = math.prod(self.shape)
        flat = x.reshape(len(x), features).astype(int) + self.levels * xp.arange(features)
        each_weight = xp.broadcast_to(weights[:, None], flat.shape)
        if observed is not None:
            if xp is np:
                check_observed(observed)
            each_weight = xp.where(observed.reshape(flat.shape), each_weight, 0)
        each_weight = each_weight.ravel()
        size = features * self.levels
        counts: Any
        if xp is np:
            counts = np.bincount(flat.ravel(), each_weight, minlength=size)
        else:
            counts = jnp.zeros(size, weights.dtype).at[flat.ravel()].add(each_weight)
        counts = counts.reshape(*self.shape, self.levels) + self.smoothing
        with np.errstate(divide="ignore"):
            return {"logits": xp.log(counts / counts.sum(-1, keepdims=True))}

    def log_prob(self, params, x, y=None, observed=None):
        level = x.astype(jnp.int32)
        inside = (level == x) & (level >= 0) & (level < self.levels)
        level = level.clip(0, self.levels - 1)
        log_probs = jax.nn.log_softmax(params["logits"], -1)
        scores = jnp.take_along_axis(log_probs, level[..., None], -1)
        if observed is not None:
            inside, scores = inside | ~observed, jnp.where(observed, scores[..., 0], 0)
        return jnp.where(inside.all(), scores.sum(), -jnp.inf)

    def modulate(self, params, change):
        return {"logits": params["logits"] + change["logits"]}

    def noise(self):
        return Bits((*self.shape, words_for(self.levels)))

    def push(self, params, noise, y=None):
        probs = jax.nn.softmax(params["logits"], -1).reshape(-1, self.levels)
        return jax.vmap(choose)(probs, noise.reshape(-1, noise.shape[-1])).reshape(self.shape)

    def complete(self, params, noise, x, observed, y=None):
        return jnp.where(observed, x, self.push(params, noise).astype(x.dtype))

    def marginal(self, params, features):
        logits = params["logits"].reshape(-1, self.levels)[np.array(features)]
        return Categorical((len(features),), self.levels, self.smoothing), {"logits": logits}

    def given(self, params, features, values):
        return self.marginal(params, others(self, features))

    def _degrees_of_freedom(self, params):
        return math.prod(self.shape) * (self.levels - 1)
