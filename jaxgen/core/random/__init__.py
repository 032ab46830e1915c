"""Noise leaves of models, and fast random numbers keyed by row.

A model states the noise of ONE event as a pytree of the leaves below, and ``draw`` draws it for
many rows. The bits of a row depend only on the key and on the number of the row, not on the batch,
the block or the device:

    word pair j of leaf i in row r  =  threefry2x32(fold_in(fold_in(key, i), j), (r_hi, r_lo))

where r is a 64-bit row number in two uint32 words (Salmon et al. 2011, "Parallel random numbers: as
easy as 1, 2, 3"). At 32 bits, scalar e of a leaf uses word e mod 2 of pair e // 2, and a normal
scalar uses both words of that pair; at 64 bits a uniform scalar uses all of pair e.

``uniform``, ``normal``, ``exponential``, ``gumbel`` and ``categorical`` return the same numbers as
arrays. They are faster than the functions of the same names in ``jax.random``. They are pure and
work within jit, vmap and grad; they are fast within jit.

>>> jaxgen.random.normal(jax.random.key(0), (1000, 3)).shape
(1000, 3)
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.core.promotion import standard_promotion
from jaxgen.core.random import threefry
from jaxgen.core.random.choice import choose, words_for
from jaxgen.core.spec import Spec


class Uniform(Spec):
    """Uniform on (0, 1), midpoints of 2**23 cells in float32 or 2**52 cells in float64."""

    shape: tuple[int, ...] = ()


class Normal(Spec):
    """Standard normal. The tail ends at 6.7 sigma in float32 and at 8.6 sigma in float64."""

    shape: tuple[int, ...] = ()


class Bits(Spec):
    """Uniform uint32 words."""

    shape: tuple[int, ...] = ()


class Key(Spec):
    """A typed PRNG key for each row, for a model that cannot state its noise as arrays."""


class Events(Spec):
    """The number of training events, a leaf for ``Learning.noise`` only; it is not random."""


Leaf = Uniform | Normal | Bits | Key | Events


def is_leaf(value: Any) -> bool:
    """Whether a value is a noise leaf."""
    return isinstance(value, Leaf)


def draw(noise: Any, key: jax.Array, start: Any, n: int, dtype: Any, events: Any = None) -> Any:
    """Noise for rows start .. start + n - 1.

    Args:
      noise: pytree of noise leaves, for one event.
      key: a typed PRNG key.
      start: (2,) uint32, high and low word of the number of the first row.
      n: number of rows.
      dtype: float dtype of Uniform and Normal leaves.
      events: the value of ``Events`` leaves, a scalar.

    Returns:
      The pytree with arrays (*leaf.shape, n): rows are on the LAST axis, which is the fast layout
      for elementwise work.
    """
    key0, key1 = threefry.key_words(key)
    low = start[1] + lax.iota(jnp.uint32, n)
    row = start[0] + (low < start[1]).astype(jnp.uint32), low
    leaves, tree = jax.tree_util.tree_flatten(noise, is_leaf=is_leaf)
    drawn = []
    for i, leaf in enumerate(leaves):
        if isinstance(leaf, Events):
            drawn.append(jnp.broadcast_to(jnp.asarray(events, dtype), (n,)))
            continue
        # fold_in(key, i) of JAX's threefry keys is the hash of the counter (0, i)
        leaf_key = threefry.threefry2x32(key0, key1, jnp.uint32(0), jnp.uint32(i))
        drawn.append(_draw_leaf(leaf, leaf_key, row, dtype))
    return jax.tree_util.tree_unflatten(tree, drawn)


@standard_promotion
def uniform(
    key: jax.Array, shape: tuple[int, ...], *, start: int = 0, dtype: Any = jnp.float32
) -> jax.Array:
    """Uniform numbers on (0, 1), of shape (rows, ...); a row does not depend on the number of rows.

    Args:
      key: a typed PRNG key.
      shape: number of rows, then the shape of a row.
      start: number of the first row, at most 2**64 - rows, to make a large array in pieces.
      dtype: a float dtype.

    Raises:
      ValueError: start is out of range.
    """
    return _draw_array(Uniform(shape[1:]), key, shape, start, dtype)


@standard_promotion
def normal(
    key: jax.Array, shape: tuple[int, ...], *, start: int = 0, dtype: Any = jnp.float32
) -> jax.Array:
    """Standard normal numbers: see ``uniform`` for the arguments, ``Normal`` for the tails."""
    return _draw_array(Normal(shape[1:]), key, shape, start, dtype)


@standard_promotion
def exponential(key: jax.Array, shape: tuple[int, ...], *, start: int = 0) -> jax.Array:
    """Exponential numbers of rate 1 in float32, from 1.2e-10 to 22.9: see ``uniform``."""
    return threefry.exponential32(_draw_array(Bits(shape[1:]), key, shape, start, jnp.float32))


@standard_promotion
def gumbel(key: jax.Array, shape: tuple[int, ...], *, start: int = 0) -> jax.Array:
    """Standard Gumbel numbers in float32, from -3.1 to 22.9: see ``uniform``."""
    return threefry.gumbel32(_draw_array(Bits(shape[1:]), key, shape, start, jnp.float32))


@standard_promotion
def categorical(
    key: jax.Array, logits: jax.Array, shape: tuple[int, ...], *, start: int = 0
) -> jax.Array:
    """Levels 0 .. k - 1, int32, in proportion to exp(logits), logits (k,): see ``uniform``.

    The time for a draw does not grow with k: see ``jaxgen.core.random.choice``.
    """
    words = words_for(len(logits))
    drawn = _draw_array(Bits((*shape[1:], words)), key, (*shape, words), start, jnp.float32)
    pick = jax.vmap(lambda words: choose(jax.nn.softmax(logits), words))
    return pick(drawn.reshape(-1, words)).reshape(shape)


@standard_promotion
def permute(key: jax.Array, index: jax.Array, n: Any, bound: int | None = None) -> jax.Array:
    """The values of a random permutation of 0 .. n - 1 at the numbers ``index``, uint32.

    A keyed Feistel network permutes the numbers up to the next power of two; values outside
    0 .. n - 1 are permuted again until they are inside (cycle walking). The work is elementwise. On
    a CPU it is many times as fast as ``jax.random.permutation``, which sorts random words.

    Args:
      key: a typed PRNG key.
      index: integers in [0, n); the values at other integers have no meaning.
      n: an integer up to 2**32 - 1; it may be traced if ``bound`` is given.
      bound: a static integer of at least n.

    Source: Black and Rogaway 2002, "Ciphers with arbitrary finite domains".
    """
    words = jax.random.bits(key, (2 * _ROUNDS,), jnp.uint32)
    return _permuted(words, index, n, n if bound is None else bound)


def permutations(key: jax.Array, shape: tuple[int, ...], n: int) -> Callable[[Any], jax.Array]:
    """Random permutations of 0 .. n - 1, one for each entry of an array of the given shape.

    Returns:
      A function of an integer i in [0, n) that returns the values of the permutations at i,
      (*shape) uint32, so that not all n arrays are in memory at once. See ``permute``.
    """
    words = jax.random.bits(key, (2 * _ROUNDS, *shape), jnp.uint32)
    return lambda i: _permuted(words, jnp.broadcast_to(jnp.asarray(i), shape), n, n)


def _permuted(words: jax.Array, index: Any, n: Any, bound: int) -> jax.Array:
    bits = max((bound - 1).bit_length(), 2)
    low_bits = bits // 2
    low_mask = np.uint32((1 << low_bits) - 1)
    high_mask = np.uint32((1 << (bits - low_bits)) - 1)

    def once(number: jax.Array) -> jax.Array:
        high, low = number >> np.uint32(low_bits), number & low_mask
        for i in range(_ROUNDS):
            high = high ^ (_mix(low ^ words[2 * i]) & high_mask)
            low = low ^ (_mix(high ^ words[2 * i + 1]) & low_mask)
        return (high << np.uint32(low_bits)) | low

    n = jnp.asarray(n, jnp.uint32)
    index = jnp.asarray(index).astype(jnp.uint32)
    start = jnp.where(index < n, once(index), 0)
    return lax.while_loop(lambda v: (v >= n).any(), lambda v: jnp.where(v >= n, once(v), v), start)


_ROUNDS = 5


def _mix(word: jax.Array) -> jax.Array:
    """lowbias32 of Wellons 2018, "Prospecting for hash functions"."""
    word = (word ^ (word >> np.uint32(16))) * np.uint32(0x7FEB352D)
    word = (word ^ (word >> np.uint32(15))) * np.uint32(0x846CA68B)
    return word ^ (word >> np.uint32(16))


def _draw_array(
    leaf: Leaf, key: jax.Array, shape: tuple[int, ...], start: int, dtype: Any
) -> jax.Array:
    """The numbers of a leaf for shape[0] rows from row ``start``, with rows on the first axis."""
    start = operator.index(start)
    if not 0 <= start <= 2**64 - shape[0]:
        raise ValueError(f"start must be from 0 to 2**64 - rows; got {start}")
    words = jnp.array([start >> 32, start & 0xFFFFFFFF], jnp.uint32)
    return jnp.moveaxis(draw(leaf, key, words, shape[0], dtype), -1, 0)


def _draw_leaf(leaf: Any, leaf_key: Any, row: Any, dtype: Any) -> jax.Array:
    high, low = row
    if isinstance(leaf, Key):
        key0, key1 = threefry.threefry2x32(leaf_key[0], leaf_key[1], jnp.uint32(0), jnp.uint32(0))
        words = threefry.threefry2x32(key0, key1, high, low)
        return jax.random.wrap_key_data(jnp.stack(words, -1), impl="threefry2x32")
    work = jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32
    # Each scalar hashes its counter, though two scalars share a pair: on a CPU it takes ten times
    # as long to compute both words once and interleave them.
    scalar = lax.iota(jnp.uint32, math.prod(leaf.shape))[:, None]
    second = scalar % np.uint32(2) == 1

    def pair(j: jax.Array) -> tuple[jax.Array, jax.Array]:
        key0, key1 = threefry.threefry2x32(leaf_key[0], leaf_key[1], jnp.zeros_like(j), j)
        return threefry.threefry2x32(key0, key1, high[None], low[None])

    if work == jnp.float32 or isinstance(leaf, Bits):
        a, b = pair(scalar // np.uint32(2))
        if isinstance(leaf, Normal):
            values = threefry.normal32(a, b, second)
        else:
            values = jnp.where(second, b, a)
            values = values if isinstance(leaf, Bits) else threefry.uniform32(values)
    elif isinstance(leaf, Uniform):
        values = threefry.uniform64(*pair(scalar))
    else:
        # as constants: computed from the iota, they make jax 0.12 compile for minutes
        first = np.arange(math.prod(leaf.shape), dtype=np.uint32)[:, None] // 2 * 2
        radius, angle = (threefry.uniform64(*pair(jnp.asarray(j))) for j in (first, first + 1))
        values = threefry.normal64(radius, angle, second)
    values = values.reshape(*leaf.shape, high.shape[0])
    if isinstance(leaf, Uniform) and jnp.finfo(dtype).bits < 32:
        values = jnp.clip(values, None, 1 - jnp.finfo(dtype).epsneg)  # else rounding could give 1
    return values if isinstance(leaf, Bits) else values.astype(dtype)
