"""What a masked network puts out for a feature: the numbers of a density, or of a map.

Arrays take features first and, if any, rows last; numbers of one feature lead both.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.core.families import namespace
from jaxgen.core.numerics import logsumexp
from jaxgen.core.promotion import standard_promotion
from jaxgen.networks.frame import FURTHEST

_LOG_2PI = math.log(2 * math.pi)
_STEEPEST = 3.0  # log scale of an affine map
_NARROWEST = 7.0  # log scale of a part of a mixture
RANK = 16  # features of a row of logits, where there are more levels than twice as many
LARGEST = 40.0  # of a logit: sums of exponentials need no more care
LOGITS = 2**19  # computed at once
CHANNELS = 4  # numbers in which a level is told to the network


def affine_forward(u, x):
    """z = (x - shift) exp(-log scale), and the log slopes; u is (2, *x.shape)."""
    log_scale = _STEEPEST * jnp.tanh(u[1] / _STEEPEST)
    return (x - u[0]) * jnp.exp(-log_scale), -log_scale


def affine_inverse(u, z):
    """x of z."""
    log_scale = _STEEPEST * jnp.tanh(u[1] / _STEEPEST)
    return z * jnp.exp(log_scale) + u[0]


class Mixture(NamedTuple):
    """Normal mixture of each feature, from (3 count, ...) numbers."""

    log_weights: jax.Array
    means: jax.Array
    log_scales: jax.Array

    @classmethod
    def of(cls, u):
        logits, means, log_scales = jnp.split(u, 3)
        count = len(logits)
        # parts that start alike would stay so
        apart = np.linspace(-1, 1, count) if count > 1 else np.zeros(1)
        apart = apart.reshape(-1, *[1] * (u.ndim - 1)).astype(u.dtype)
        log_scales = jnp.clip(log_scales, -_NARROWEST, _NARROWEST)
        return cls(jax.nn.log_softmax(logits, 0), means + apart, log_scales)

    def log_prob(self, x):
        far = jnp.abs(x) > FURTHEST**0.5
        z = (jnp.where(far, 0, x) - self.means) * jnp.exp(-self.log_scales)
        score = logsumexp(self.log_weights - self.log_scales - 0.5 * z * z, 0) - 0.5 * _LOG_2PI
        return jnp.where(far, -jnp.inf, score)

    def draw(self, uniform, normal):
        which = draw_level(self.log_weights, uniform)
        place = lax.broadcasted_iota(jnp.int32, self.means.shape, 0)

        def own(v):
            return jnp.where(place == which, v, 0).sum(0)

        return own(self.means) + jnp.exp(own(self.log_scales)) * normal


@jax.custom_jvp
def log_prob_of_level(logits, level):
    """Log probability of levels, of logits (levels, ...), clipped to -LARGEST .. LARGEST."""
    return _log_prob_of_level(logits, level)[0]


@log_prob_of_level.defjvp
@standard_promotion
def _log_prob_of_level_jvp(primals, tangents):
    # elementwise but for the sum, which is not computed for a gradient
    logits, level = primals
    score, weights, total = _log_prob_of_level(logits, level)
    place = lax.broadcasted_iota(level.dtype, logits.shape, 0)
    slope = jnp.where(place == level, 1, 0) - weights / total
    slope = jnp.where(jnp.abs(logits) < LARGEST, slope, 0)
    return score, (slope * tangents[0]).sum(0)


def _log_prob_of_level(logits, level):
    weights = jnp.exp(jnp.clip(logits, -LARGEST, LARGEST))
    total = _total(weights)
    chosen = jnp.take_along_axis(logits, level[None], 0)[0]
    return jnp.clip(chosen, -LARGEST, LARGEST) - jnp.log(total), weights, total


def _total(weights):
    """Sums over the first axis, as a matrix product: elementwise work before it stays vectors."""
    flat = weights.reshape(len(weights), -1)
    total = jnp.matmul(jnp.ones((1, len(flat)), flat.dtype), flat, precision=lax.Precision.HIGHEST)
    return total.reshape(weights.shape[1:])


def draw_level(logits, uniform):
    """Levels in proportion to exp of the clipped logits, from a uniform number each."""
    weights = jnp.exp(jnp.clip(logits, -LARGEST, LARGEST))
    upto = np.tri(len(logits), dtype=logits.dtype)
    ends = jnp.tensordot(upto, weights, 1, precision=lax.Precision.HIGHEST)
    return (uniform * ends[-1] >= ends[:-1]).sum(0).astype(jnp.int32)


def levels_init(key, dim: int, levels: int, x=None) -> dict:
    """``log_shares`` (levels, dim) of each feature's levels, from data when given; and tables.

    ``meaning`` (channels, levels) is how a level is told to the network, ``table`` (levels, rank)
    makes logits of what comes out of it, where that is fewer numbers than levels.
    """
    keys = jax.random.split(key)
    meaning = jax.random.normal(keys[0], (CHANNELS, levels))
    meaning = meaning.at[0].set(np.linspace(-1.7, 1.7, levels))  # levels may be in order
    params = {"log_shares": jnp.full((levels, dim), -math.log(levels)), "meaning": meaning}
    if x is not None:
        # one event spread evenly over the levels, lest an unseen one be impossible
        xp = namespace(x)
        counts: Any = np.full((levels, dim), 1 / levels)
        if xp is jnp:
            counts = jnp.asarray(counts).at[x.astype(int), jnp.arange(dim)].add(1)
        else:
            np.add.at(counts, (np.asarray(x, int), np.arange(dim)), 1)
        params["log_shares"] = jnp.asarray(xp.log(counts / counts.sum(0)))
    if levels > 2 * RANK:
        params["table"] = jax.random.normal(keys[1], (levels, RANK))
    return params
