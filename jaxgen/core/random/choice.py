"""A choice by weight, at a cost that does not grow with the number of weights.

Up to 16 levels the cumulative weights are compared one by one. Above, Walker's alias method: every
level has a cell of equal size, part of which belongs to another level, its alias. Levels beyond
4096 are put in groups, a group is chosen by alias and a level within it by bisection, which keeps
the table small enough to be made anew in every call.
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
    """How many random words ``choose`` needs for a number of levels."""
    return 1 if count <= _CELLS else 2


def choose(weights: jax.Array, words: jax.Array) -> jax.Array:
    """The level that random words pick, each in proportion to its weight; int32.

    Args:
      weights: (k,), not negative, with a positive sum. A level of no weight is never picked.
      words: (words_for(k),) uint32, or more, such as ``Bits((2,))`` gives.

    Probabilities are right to k 2**-32, and as far as a cumulative sum of 4096 weights is.
    """
    count = weights.shape[0]
    if count <= _FEW:
        return _compare(weights, words[0])
    width = 1 << max(0, (-(-count // _CELLS) - 1).bit_length())
    groups = -(-count // width)
    padded = jnp.pad(weights, (0, groups * width - count)).reshape(groups, width)
    inside = _cumulative(padded, 1)
    table = _alias_table(inside[:, -1])
    keep, alias = computed_once(table, weights[0])  # else a cell is made anew for every draw
    cell, part = _multiply(words[0], groups)
    kept = part.astype(keep.dtype) * keep.dtype.type(2.0**-32) < _take(keep, cell)
    group = jnp.where(kept, cell, _take(alias, cell))
    if width == 1:
        return group
    aim = uniform32(words[1]).astype(inside.dtype) * inside[group, -1]
    return group * width + _bisect(inside.ravel(), group * width, width, aim)


def _compare(weights, word):
    cumulative = _cumulative(weights, 0)
    aim = uniform32(word).astype(weights.dtype) * cumulative[-1]
    level = jnp.zeros((), jnp.int32)
    for k in range(weights.shape[0] - 1):
        level = level + (aim >= cumulative[k])
    return level


def _cumulative(weights, axis: int):
    """Sums that do not fall and do not move at a weight of zero, as a parallel sum's rounding may.

    Times a number below 1, the last of them stays below itself.
    """
    return lax.cummax(jnp.where(weights > 0, jnp.cumsum(weights, axis), 0), axis=axis)


def _alias_table(weights):
    """Of each cell: the share that it keeps, (k,), and the level that has the rest, (k,) int32.

    Heavy levels in turn fill up the light ones; by prefix sums of what is lacking and what is over,
    each step is known without those before it.

    Source: Walker 1977, "An efficient method for generating discrete random variables with general
    distributions"; Huebschle-Schneider and Sanders 2022, "Parallel weighted random sampling".
    """
    count = weights.shape[0]
    size = weights * (count / weights.sum())
    lacking = _cumulative(jnp.maximum(1 - size, 0), 0)
    over = _cumulative(jnp.maximum(size - 1, 0), 0)
    lacking_before, over_before = (jnp.pad(v, (1, 0))[:-1] for v in (lacking, over))
    # by the sums alone: a compiler may round size anew, and differently, in each place it is read
    heavy, light = over > over_before, lacking > lacking_before
    # a light level is filled by the first heavy one not used up, a heavy one by the next heavy
    filler = jnp.searchsorted(over, jnp.where(heavy, over, lacking_before), side="right")
    used_up = jnp.searchsorted(lacking, over, side="left")  # the light level that uses it up
    rest = 1 + over - lacking[jnp.minimum(used_up, count - 1)]
    whole = ~light & ~(heavy & (filler < count) & (used_up < count))
    keep = jnp.where(whole, 1, jnp.clip(jnp.where(heavy, rest, size), 0, 1))
    last_heavy = jnp.searchsorted(over, over[-1], side="left")
    return keep, jnp.minimum(filler, last_heavy).astype(jnp.int32)


def _multiply(word, count: int):
    """High word, as int32, and low word of the 64-bit product word x count."""
    a, b = word >> np.uint32(16), word & np.uint32(0xFFFF)
    low = b * np.uint32(count)  # count < 2^16
    high = a * np.uint32(count) + (low >> np.uint32(16))
    return (high >> np.uint32(16)).astype(jnp.int32), word * np.uint32(count)


def _bisect(sorted_rows, first, width: int, aim):
    """How many of sorted_rows[first : first + width] are at most ``aim``, at most width - 1."""
    place = jnp.zeros_like(first)
    step = width // 2
    while step:
        place = jnp.where(_take(sorted_rows, first + place + step - 1) <= aim, place + step, place)
        step //= 2
    return place


def _take(table, index):
    return table.at[index].get(mode="promise_in_bounds")
