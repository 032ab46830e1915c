"""Draws of a level in proportion to weights, at a cost independent of the number of levels.

For up to 16 levels, a random number is compared with each cumulative weight. For more, Walker's
alias method is used: each level has a cell of equal size, and a part of the cell belongs to another
level, its alias. More than 4096 levels are divided into groups: a group is drawn by alias, and a
level in it by bisection. That keeps the table small enough to compute it in each call.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.core.numerics import computed_once
from jaxgen.core.random.threefry import uniform32

_FEW = 16
_CELLS = 4096


def words_for(count: int) -> int:
    """The number of random words that ``choose`` needs for a number of levels."""
    return 1 if count <= _CELLS else 2


def choose(weights: jax.Array, words: jax.Array) -> jax.Array:
    """A level 0 .. k - 1 drawn in proportion to its weight, int32.

    The errors of probabilities are k 2**-32 and the rounding errors of a cumulative sum of 4096
    weights.

    Args:
      weights: (k,), not negative, with a positive sum. A level of weight zero is never drawn.
      words: at least words_for(k) random words, uint32, such as noise of a ``Bits((2,))`` leaf.
    """
    count = weights.shape[0]
    if count <= _FEW:
        return _compare(weights, words[0])
    width = 1 << max(0, (-(-count // _CELLS) - 1).bit_length())
    groups = -(-count // width)
    padded = jnp.pad(weights, (0, groups * width - count)).reshape(groups, width)
    inside = _cumulative(padded, 1)
    table = _alias_table(inside[:, -1])
    keep, alias = computed_once(table, weights[0])  # else each draw recomputes its cell
    cell, part = _multiply(words[0], groups)
    kept = part.astype(keep.dtype) * keep.dtype.type(2.0**-32) < _take(keep, cell)
    group = jnp.where(kept, cell, _take(alias, cell))
    if width == 1:
        return group
    aim = uniform32(words[1]).astype(inside.dtype) * inside[group, -1]
    return group * width + _bisect(inside.ravel(), group * width, width, aim)


def _compare(weights: jax.Array, word: jax.Array) -> jax.Array:
    cumulative = _cumulative(weights, 0)
    aim = uniform32(word).astype(weights.dtype) * cumulative[-1]
    level = jnp.zeros((), jnp.int32)
    for k in range(weights.shape[0] - 1):
        level = level + (aim >= cumulative[k])
    return level


def _cumulative(weights: jax.Array, axis: int) -> jax.Array:
    """Cumulative sums that never decrease, and are constant where a weight is zero.

    The rounding of a parallel sum may violate both. The last sum, times a number below 1, is less
    than the last sum.
    """
    return lax.cummax(jnp.where(weights > 0, jnp.cumsum(weights, axis), 0), axis=axis)


def _alias_table(weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The share of each cell that its level keeps, (k,), and the level of the rest, (k,) int32.

    Levels above the mean weight fill up the cells of levels below it, one after the other. With
    prefix sums of deficits and excesses, all steps are computed in parallel.

    Source: Walker 1977, "An efficient method for generating discrete random variables with general
    distributions"; Huebschle-Schneider and Sanders 2022, "Parallel weighted random sampling".
    """
    count = weights.shape[0]
    size = weights * (count / weights.sum())
    lacking = _cumulative(jnp.maximum(1 - size, 0), 0)
    over = _cumulative(jnp.maximum(size - 1, 0), 0)
    lacking_before, over_before = (jnp.pad(v, (1, 0))[:-1] for v in (lacking, over))
    # from the sums alone: a compiler may recompute size with other rounding in each consumer
    heavy, light = over > over_before, lacking > lacking_before
    # a light cell is filled by the first heavy level with an excess left, a heavy one by the next
    filler = jnp.searchsorted(over, jnp.where(heavy, over, lacking_before), side="right")
    used_up = jnp.searchsorted(
        lacking, over, side="left"
    )  # the light level that uses up the excess
    rest = 1 + over - lacking[jnp.minimum(used_up, count - 1)]
    whole = ~light & ~(heavy & (filler < count) & (used_up < count))
    keep = jnp.where(whole, 1, jnp.clip(jnp.where(heavy, rest, size), 0, 1))
    last_heavy = jnp.searchsorted(over, over[-1], side="left")
    return keep, jnp.minimum(filler, last_heavy).astype(jnp.int32)


def _multiply(word: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """The high word, as int32, and the low word of the 64-bit product word x count."""
    a, b = word >> np.uint32(16), word & np.uint32(0xFFFF)
    low = b * np.uint32(count)  # count < 2^16
    high = a * np.uint32(count) + (low >> np.uint32(16))
    return (high >> np.uint32(16)).astype(jnp.int32), word * np.uint32(count)


def _bisect(sorted_rows: jax.Array, first: jax.Array, width: int, aim: jax.Array) -> jax.Array:
    """How many of sorted_rows[first : first + width] are at most ``aim``; at most width - 1."""
    place = jnp.zeros_like(first)
    step = width // 2
    while step:
        place = jnp.where(_take(sorted_rows, first + place + step - 1) <= aim, place + step, place)
        step //= 2
    return place


def _take(table: jax.Array, index: jax.Array) -> jax.Array:
    return table.at[index].get(mode="promise_in_bounds")
