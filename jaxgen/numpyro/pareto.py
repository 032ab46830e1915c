"""Pareto k, a measure of how far the mean of importance weights can be trusted."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jaxgen.core import places
from jaxgen.core.places import Message
from jaxgen.core.warn import warn

FEWEST = 25  # fewest weights for which the tail has five of them
TRUSTED = 0.7  # largest k for which the mean of importance weights can be trusted


def pareto_k(log_weights: jax.Array) -> jax.Array:
    """Shape k of a generalised Pareto distribution fitted to the largest importance weights.

    The mean of the weights converges fast for k < 0.5 and slowly for k up to 0.7; above 0.7 it
    cannot be trusted. k is inf if the tail has fewer than five weights (up to 20 weights in all),
    if no weight is positive, or if a weight is NaN or infinite. It is -inf if the largest weights
    are equal up to rounding.

    Args:
      log_weights: logarithms of the weights (S,), in any order, up to a constant; -inf is a weight
        of zero.

    Source: Vehtari et al. 2024, "Pareto smoothed importance sampling", with the estimate of
    Zhang & Stephens 2009 and a prior on k worth 10 weights around 0.5.
    """
    size = len(log_weights)
    length = math.ceil(min(0.2 * size, 3 * math.sqrt(size)))
    if length < 5:
        return jnp.full((), jnp.inf, log_weights.dtype)
    largest = lax.top_k(log_weights, length + 1)[0][::-1]
    cutoff, tail, top = largest[0], largest[1:], largest[-1]
    is_valid = jnp.isfinite(top) & ~jnp.isnan(log_weights).any()
    tail = jnp.where(is_valid, tail, 0)
    # exp(tail) - exp(cutoff), divided by the largest weight
    excess = -jnp.exp(tail - jnp.where(is_valid, top, 0)) * jnp.expm1(cutoff - tail)
    above = excess > 0
    count = above.sum()
    enough = is_valid & (count >= 5)
    k = _zhang_stephens(jnp.where(enough, excess, jnp.arange(1.0, length + 1)), above | ~enough)
    rounding = 8 * jnp.finfo(top.dtype).eps * jnp.maximum(1, jnp.abs(top))
    k = jnp.where(enough, k, jnp.inf)
    return jnp.where(is_valid & (top - cutoff <= rounding), -jnp.inf, k)


def warn_of_tails(k: ArrayLike, name: str) -> None:
    """Warn of rows whose estimate of log p cannot be trusted.

    Args:
      k: Pareto k of the importance weights of each row (n,); NaN where it is unknown.
      name: name of the program.
    """
    k = np.ravel(k)
    high = int((k > TRUSTED).sum())
    if high:
        worst = int(np.nanargmax(k))
        warn(
            Message(
                f"program {name}: log p of {high} of {len(k)} rows cannot be trusted: Pareto k of "
                f"their importance weights is above {TRUSTED}, and largest with {k[worst]:.3g} in ",
                places.row(worst), "; pass more samples or a proposal to from_program",
            )
        )  # fmt: skip


def _zhang_stephens(excess, above):
    """k of excesses over a cutoff, in ascending order; only those that ``above`` marks count."""
    length, count = len(excess), above.sum()
    quartile = excess[length - count + (count / 4 + 0.5).astype(int) - 1]
    points = 30 + jnp.floor(jnp.sqrt(count))
    number = jnp.arange(1, 31 + math.isqrt(length)) - 0.5
    is_used = number < points
    rates = (1 - jnp.sqrt(points / number)) / (3 * quartile) + 1 / excess[-1]
    safe = jnp.where(above, excess, 0)
    ks = jnp.log1p(-rates[:, None] * safe).sum(1) / count
    profile = count * (jnp.log(-rates / ks) - ks - 1)
    weights = jax.nn.softmax(jnp.where(is_used, profile, -jnp.inf))
    rate = jnp.where(is_used, rates * weights, 0).sum()
    k = jnp.log1p(-rate * safe).sum() / count
    return (count * k + 10 * 0.5) / (count + 10)
