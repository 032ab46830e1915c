"""Pareto k: how heavy the tail of importance weights is, and so how far to trust their mean."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.core import places
from jaxgen.core.places import Message
from jaxgen.core.warn import warn

FEWEST = 25  # weights in all of which the largest five make a tail
TRUSTED = 0.7  # the largest k with which a mean of importance weights can be trusted


def pareto_k(log_weights: jax.Array) -> jax.Array:
    """Shape k of a generalised Pareto distribution fitted to the largest importance weights.

    The mean of weights with tail index k converges fast for k < 0.5, slowly up to 0.7, and
    cannot be trusted above. k is inf with fewer than five weights in the tail (up to 20 weights
    in all), with no weight above zero, and with a weight that is NaN or infinite; it is -inf if
    the largest weights are equal up to rounding.

    Args:
      log_weights: (S,), in any order, up to a constant; -inf is a weight of zero.

    Source: Vehtari et al. 2024, "Pareto smoothed importance sampling", with the estimate of
    Zhang & Stephens 2009 and a prior on k worth 10 weights around 0.5.
    """
    size = len(log_weights)
    length = math.ceil(min(0.2 * size, 3 * math.sqrt(size)))
    if length < 5:
        return jnp.full((), jnp.inf, log_weights.dtype)
    largest = lax.top_k(log_weights, length + 1)[0][::-1]
    cutoff, tail, top = largest[0], largest[1:], largest[-1]
    sound = jnp.isfinite(top) & ~jnp.isnan(log_weights).any()
    tail = jnp.where(sound, tail, 0)
    # exp(tail) - exp(cutoff), over the largest weight
    excess = -jnp.exp(tail - jnp.where(sound, top, 0)) * jnp.expm1(cutoff - tail)
    above = excess > 0
    count = above.sum()
    enough = sound & (count >= 5)
    k = _zhang_stephens(jnp.where(enough, excess, jnp.arange(1.0, length + 1)), above | ~enough)
    rounding = 8 * jnp.finfo(top.dtype).eps * jnp.maximum(1, jnp.abs(top))
    k = jnp.where(enough, k, jnp.inf)
    return jnp.where(sound & (top - cutoff <= rounding), -jnp.inf, k)


def warn_of_tails(k, name: str) -> None:
    """Warn of rows whose log p is an estimate that cannot be trusted.

    Args:
      k: Pareto k of the importance weights of each row; NaN where it is unknown.
      name: of the program.
    """
    k = np.ravel(k)
    high = int((k > TRUSTED).sum())
    if high:
        worst = int(np.nanargmax(k))
        warn(
            Message(
                f"program {name}: log p of {high} of {len(k)} rows cannot be trusted, because "
                f"Pareto k of their importance weights is above {TRUSTED}, such as {k[worst]:.3g} "
                "in ", places.row(worst), "; pass more samples or a proposal to from_program",
            )
        )  # fmt: skip


def _zhang_stephens(excess, above):
    """k of ascending excesses over a cutoff, of which ``above`` marks those to count."""
    length, count = len(excess), above.sum()
    quartile = excess[length - count + (count / 4 + 0.5).astype(int) - 1]
    points = 30 + jnp.floor(jnp.sqrt(count))
    place = jnp.arange(1, 31 + math.isqrt(length)) - 0.5
    within = place < points
    rates = (1 - jnp.sqrt(points / place)) / (3 * quartile) + 1 / excess[-1]
    safe = jnp.where(above, excess, 0)
    ks = jnp.log1p(-rates[:, None] * safe).sum(1) / count
    profile = count * (jnp.log(-rates / ks) - ks - 1)
    weights = jax.nn.softmax(jnp.where(within, profile, -jnp.inf))
    rate = jnp.where(within, rates * weights, 0).sum()
    k = jnp.log1p(-rate * safe).sum() / count
    return (count * k + 10 * 0.5) / (count + 10)
