"""Heads of masked networks: from the outputs for a feature to its density or to a map of it.

Features are on the first axis and rows, if any, on the last. Where a feature has several numbers,
such as outputs or logits, those are on an axis before the features.
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
_MAX_LOG_SLOPE = 3.0  # largest |log scale| of an affine map
_MAX_LOG_SCALE = 7.0  # largest |log scale| of a component of a mixture
RANK = 16  # rank of the logits where there are more than 2 * RANK levels
MAX_LOGIT = 40.0  # logits are clipped to this size, so that sums of exponentials cannot overflow
LOGITS_AT_ONCE = 2**19  # most logits computed at a time
CHANNELS = 4  # numbers that encode a level for the network


def affine_forward(u: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """z = (x - shift) exp(-log scale), and log dz/dx; outputs u are (2, *x.shape)."""
    log_scale = _MAX_LOG_SLOPE * jnp.tanh(u[1] / _MAX_LOG_SLOPE)
    return (x - u[0]) * jnp.exp(-log_scale), -log_scale


def affine_inverse(u: jax.Array, z: jax.Array) -> jax.Array:
    """x from z, the inverse of ``affine_forward``."""
    log_scale = _MAX_LOG_SLOPE * jnp.tanh(u[1] / _MAX_LOG_SLOPE)
    return z * jnp.exp(log_scale) + u[0]


class Mixture(NamedTuple):
    """A mixture of normals for each feature; fields are (count, features, ...)."""

    log_weights: jax.Array
    means: jax.Array
    log_scales: jax.Array

    @classmethod
    def from_outputs(cls, u: jax.Array) -> Mixture:
        """The mixtures that outputs (3 * count, features, ...) describe."""
        logits, means, log_scales = jnp.split(u, 3)
        count = len(logits)
        # components that start out equal would stay equal, so their means start apart
        apart = np.linspace(-1, 1, count) if count > 1 else np.zeros(1)
        apart = apart.reshape(-1, *[1] * (u.ndim - 1)).astype(u.dtype)
        log_scales = jnp.clip(log_scales, -_MAX_LOG_SCALE, _MAX_LOG_SCALE)
        return cls(jax.nn.log_softmax(logits, 0), means + apart, log_scales)

    def log_prob(self, x: jax.Array) -> jax.Array:
        """Log densities of the features, in nats."""
        far = jnp.abs(x) > FURTHEST**0.5
        z = (jnp.where(far, 0, x) - self.means) * jnp.exp(-self.log_scales)
        score = logsumexp(self.log_weights - self.log_scales - 0.5 * z * z, 0) - 0.5 * _LOG_2PI
        return jnp.where(far, -jnp.inf, score)

    def draw(self, uniform: jax.Array, normal: jax.Array) -> jax.Array:
        """A sample of each feature, from its uniform and its normal noise."""
        chosen = draw_level(self.log_weights, uniform)
        index = lax.broadcasted_iota(jnp.int32, self.means.shape, 0)

        def pick(v):
            return jnp.where(index == chosen, v, 0).sum(0)

        return pick(self.means) + jnp.exp(pick(self.log_scales)) * normal


@jax.custom_jvp
def log_prob_of_level(logits: jax.Array, level: jax.Array) -> jax.Array:
    """Log probabilities of levels (...), by the clipped logits (levels, ...)."""
    return _log_prob_of_level(logits, level)[0]


@log_prob_of_level.defjvp
@standard_promotion
def _log_prob_of_level_jvp(primals, tangents):
    # elementwise except for a sum, which is not computed where only the gradient is needed
    logits, level = primals
    score, weights, total = _log_prob_of_level(logits, level)
    index = lax.broadcasted_iota(level.dtype, logits.shape, 0)
    slope = jnp.where(index == level, 1, 0) - weights / total
    slope = jnp.where(jnp.abs(logits) < MAX_LOGIT, slope, 0)
    return score, (slope * tangents[0]).sum(0)


def _log_prob_of_level(logits, level):
    weights = jnp.exp(jnp.clip(logits, -MAX_LOGIT, MAX_LOGIT))
    total = _total(weights)
    chosen = jnp.take_along_axis(logits, level[None], 0)[0]
    return jnp.clip(chosen, -MAX_LOGIT, MAX_LOGIT) - jnp.log(total), weights, total


def _total(weights):
    """Sums over the first axis, by a matrix product.

    XLA would fuse a reduction with the elementwise work before it, which then is not vectorised.
    """
    flat = weights.reshape(len(weights), -1)
    total = jnp.matmul(jnp.ones((1, len(flat)), flat.dtype), flat, precision=lax.Precision.HIGHEST)
    return total.reshape(weights.shape[1:])


def draw_level(logits: jax.Array, uniform: jax.Array) -> jax.Array:
    """Levels (...), drawn from the clipped logits (levels, ...) with one uniform number each."""
    weights = jnp.exp(jnp.clip(logits, -MAX_LOGIT, MAX_LOGIT))
    lower = np.tri(len(logits), dtype=logits.dtype)
    ends = jnp.tensordot(lower, weights, 1, precision=lax.Precision.HIGHEST)
    return (uniform * ends[-1] >= ends[:-1]).sum(0).astype(jnp.int32)


def levels_init(key: jax.Array, dim: int, levels: int, x: Any = None) -> dict:
    """Params of the categorical head.

    ``log_shares`` (levels, dim) are the log frequencies of each feature's levels in the data x
    (n, dim), or equal if x is None. ``meaning`` (channels, levels) encodes a level for the network.
    ``table`` (levels, rank), present with more than 2 * RANK levels, maps outputs to logits.
    """
    keys = jax.random.split(key)
    meaning = jax.random.normal(keys[0], (CHANNELS, levels))
    meaning = meaning.at[0].set(np.linspace(-1.7, 1.7, levels))  # ordered, as the levels may be
    params = {"log_shares": jnp.full((levels, dim), -math.log(levels)), "meaning": meaning}
    if x is not None:
        # one more event, spread evenly over the levels, keeps every level possible
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
