"""The histogram density, constant on each cell of a regular grid."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.constraints import support_within
from jaxgen.core.families import namespace, others
from jaxgen.core.model import Learning, Model, Traits
from jaxgen.core.numerics import logsumexp
from jaxgen.core.places import Message, feature, row
from jaxgen.core.random import Bits, Uniform
from jaxgen.core.random.choice import choose, words_for
from jaxgen.core.spec import Count, NonNegative


class Histogram(Model):
    """Density p(x) = probability of x's cell / volume of the cell; zero outside the bounds.

    Args:
      bins: number of cells along each feature.
      bounds: (low, high) of each feature, in the units of x; None for those of the data.
      smoothing: pseudo-count added to each cell, so that no cell has probability zero.

    Params: ``log_probs`` of the cells, shape bins, up to a constant; ``low`` and ``high`` (dim,).

    Raises:
      ValueError: when fitted to data outside the given bounds or, without bounds, to data with a
        constant feature.

    >>> fitted = jaxgen.fit(Histogram((36, 72)), x, key=jax.random.key(0))
    """

    bins: tuple[Count, ...]
    bounds: tuple[tuple[float, float], ...] | None = None
    smoothing: NonNegative = 0.03

    learning = Learning("closed_form", frozen=("low", "high"))

    @functools.cached_property
    def traits(self):
        return Traits(support_at=support_within, degrees_of_freedom=self._degrees_of_freedom)

    def __post_init__(self):
        super().__post_init__()
        if not self.bins:
            raise ValueError("Histogram: bins must have at least one entry, got ()")
        if self.bounds is not None:
            if len(self.bounds) != len(self.bins):
                raise ValueError(
                    "Histogram: bounds must have one (low, high) for each feature, "
                    f"{len(self.bins)} in all, got {len(self.bounds)}"
                )
            if any(not low < high for low, high in self.bounds):
                raise ValueError(f"Histogram: bounds must have low < high, got {self.bounds}")

    @property
    def event_shape(self):
        return (len(self.bins),)

    def init(self, key, x=None, y=None):
        if x is not None:
            return self.estimate(x)
        low, high = self._bounds(np.array([[0.0], [1.0]]).repeat(len(self.bins), 1), np)
        return {
            "log_probs": jnp.full(self.bins, -math.log(math.prod(self.bins))),
            "low": jnp.asarray(low, float),
            "high": jnp.asarray(high, float),
        }

    def estimate(self, x, y=None, weights=None):
        xp = namespace(x, weights)
        low, high = self._bounds(x, xp)
        if xp is np:
            outside = np.argwhere((x < low) | (x > high))
            if len(outside):
                where = row(outside[0][0]), " in ", feature(outside[0][1])
                raise ValueError(
                    Message(f"x must lie within the bounds of {self}; ", *where, " does not")
                )
            if (low == high).any():
                constant = feature((low == high).argmax())
                raise ValueError(Message("x is constant in ", constant, f": pass bounds to {self}"))
        cells = math.prod(self.bins)
        # the dtype and operations of log_prob, so that an event at an edge has the same cell there
        dtype = jnp.result_type(float) if xp is np else x.dtype
        narrow, start, end = x.astype(dtype), low.astype(dtype), high.astype(dtype)
        bins = xp.asarray(self.bins, dtype)
        cell = xp.minimum((narrow - start) * (bins / (end - start)), bins - 1).astype(int)
        flat = xp.ravel_multi_index(tuple(cell.T), self.bins, mode="clip")
        weights = xp.ones(len(x), x.dtype) if weights is None else weights
        counts: Any
        if xp is np:
            counts = np.bincount(flat, weights, minlength=cells)
        else:
            counts = jnp.zeros(cells, x.dtype).at[flat].add(weights)
        smoothed = counts + self.smoothing
        probs = (smoothed / smoothed.sum()).reshape(self.bins)
        with np.errstate(divide="ignore"):
            return {"log_probs": xp.log(probs), "low": low, "high": high}

    def log_prob(self, params, x, y=None):
        low, high, log_probs = params["low"], params["high"], params["log_probs"]
        inside = ((x >= low) & (x <= high)).all()
        bins = jnp.asarray(self.bins, x.dtype)
        place = jnp.where(inside, x - low, 0.0) * (bins / (high - low))
        cell = jnp.minimum(place, bins - 1).astype(int)
        log_volume = jnp.log((high - low) / bins).sum()
        total = jnp.log(jnp.exp(log_probs).sum())
        score = log_probs[tuple(cell)] - total - log_volume
        return jnp.where(inside, score, -jnp.inf)

    def modulate(self, params, change):
        moved = params["log_probs"] + change["log_probs"]
        # normalised, so that sums of their exponentials do not overflow
        return {**params, "log_probs": jax.nn.log_softmax(moved, None)}

    def noise(self):
        return {
            "cell": Bits((words_for(math.prod(self.bins)),)),
            "place": Uniform(self.event_shape),
        }

    def push(self, params, noise, y=None):
        low, high = params["low"], params["high"]
        flat = choose(jnp.exp(params["log_probs"]).ravel(), noise["cell"])
        cell = jnp.stack(jnp.unravel_index(flat, self.bins))
        width = (high - low) / jnp.asarray(self.bins, low.dtype)
        return jnp.minimum(low + width * (cell + noise["place"]), high)

    def marginal(self, params, features):
        log_probs = params["log_probs"].transpose((*features, *others(self, features)))
        bins = log_probs.shape[: len(features)]
        return self._part(params, features, logsumexp(log_probs.reshape(*bins, -1), -1))

    def given(self, params, features, values):
        rest, places = others(self, features), np.array(features)
        low, high = params["low"][places], params["high"][places]
        bins = jnp.asarray(self.bins, low.dtype)[places]
        cell = jnp.minimum((values - low) * (bins / (high - low)), bins - 1).astype(int)
        log_probs = params["log_probs"].transpose((*features, *rest))[tuple(cell)]
        return self._part(params, rest, log_probs)

    def _part(self, params, features, log_probs):
        bounds = None if self.bounds is None else tuple(self.bounds[j] for j in features)
        part = Histogram(log_probs.shape, bounds, self.smoothing)
        edges = {name: params[name][np.array(features)] for name in ("low", "high")}
        # normalised, so that sums of their exponentials do not underflow
        return part, {"log_probs": jax.nn.log_softmax(log_probs, None), **edges}

    def _degrees_of_freedom(self, params):
        edges = 2 * len(self.bins) if self.bounds is None else 0
        return math.prod(self.bins) - 1 + edges

    def _bounds(self, x, xp):
        if self.bounds is None:
            return x.min(0), x.max(0)
        low, high = zip(*self.bounds, strict=True)
        return xp.asarray(low, x.dtype), xp.asarray(high, x.dtype)
