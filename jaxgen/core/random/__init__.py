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
work within jit, vmap and grad; outside, they compile a program for each shape, as ``jax.random``
does.

>>> jaxgen.random.normal(jax.random.key(0), (1000, 3)).shape
(1000, 3)
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.core import compiler
from jaxgen.core.numerics import computed_once
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


def draw(
    noise: Any,
    key: jax.Array,
    start: Any,
    n: int,
    dtype: Any,
    events: Any = None,
    *,
    axis: int = -1,
    fused: bool = False,
) -> Any:
    """Noise for rows start .. start + n - 1.

    Args:
      noise: pytree of noise leaves, for one event.
      key: a typed PRNG key.
      start: (2,) uint32, high and low word of the number of the first row.
      n: number of rows.
      dtype: float dtype of Uniform and Normal leaves.
      events: the value of ``Events`` leaves, a scalar.
      axis: the axis of rows in the results: -1, which is the fast layout for elementwise work on
        single features, or 0.
      fused: whether the caller reads each scalar once, so that XLA on a CPU need not store it.

    Returns:
      The pytree with arrays (*leaf.shape, n), or (n, *leaf.shape) for axis 0.
    """
    key0, key1 = threefry.key_words(key)
    leaves, tree = jax.tree_util.tree_flatten(noise, is_leaf=is_leaf)
    drawn = []
    for i, leaf in enumerate(leaves):
        if isinstance(leaf, Events):
            drawn.append(jnp.broadcast_to(jnp.asarray(events, dtype), (n,)))
            continue
        # fold_in(key, i) of JAX's threefry keys is the hash of the counter (0, i)
        leaf_key = threefry.threefry2x32(key0, key1, jnp.uint32(0), jnp.uint32(i))
        drawn.append(_draw_leaf(leaf, leaf_key, start, n, dtype, axis, fused))
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
    return _draw_array(Bits(shape[1:]), key, shape, start, jnp.float32, threefry.exponential32)


@standard_promotion
def gumbel(key: jax.Array, shape: tuple[int, ...], *, start: int = 0) -> jax.Array:
    """Standard Gumbel numbers in float32, from -3.1 to 22.9: see ``uniform``."""
    return _draw_array(Bits(shape[1:]), key, shape, start, jnp.float32, threefry.gumbel32)


@standard_promotion
def categorical(
    key: jax.Array, logits: jax.Array, shape: tuple[int, ...], *, start: int = 0
) -> jax.Array:
    """Levels 0 .. k - 1, int32, in proportion to exp(logits), logits (k,): see ``uniform``.

    The time for a draw does not grow with k: see ``jaxgen.core.random.choice``.
    """
    return _choices(shape, key, _start_words(shape, start), logits)


@functools.partial(compiler.jit, static_argnums=0)
def _choices(shape: tuple[int, ...], key: Any, start: Any, logits: Any) -> jax.Array:
    words = words_for(len(logits))
    drawn = draw(Bits((*shape[1:], words)), key, start, shape[0], jnp.float32, axis=0)
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
    bits = _bits(n if bound is None else bound)
    return _permute(bits, key, jnp.asarray(index), jnp.asarray(n, jnp.uint32))


@functools.partial(compiler.jit, static_argnums=0)
def _permute(bits: int, key: Any, index: Any, n: Any) -> jax.Array:
    return _permuted(jax.random.bits(key, (2 * _ROUNDS,), jnp.uint32), index, n, bits)


def permutations(key: jax.Array, shape: tuple[int, ...], n: int) -> Callable[[Any], jax.Array]:
    """Random permutations of 0 .. n - 1, one for each entry of an array of the given shape.

    Returns:
      A function of an integer i in [0, n) that returns the values of the permutations at i,
      (*shape) uint32, so that not all n arrays are in memory at once. See ``permute``.
    """
    words = jax.random.bits(key, (2 * _ROUNDS, *shape), jnp.uint32)
    return lambda i: _permuted(words, jnp.broadcast_to(jnp.asarray(i), shape), n, _bits(n))


def _bits(bound: int) -> int:
    """The bits of the numbers that a network permutes, at least 0 .. bound - 1."""
    return max((bound - 1).bit_length(), 2)


def _permuted(words: jax.Array, index: Any, n: Any, bits: int) -> jax.Array:
    low_bits = bits // 2
    low_mask = np.uint32((1 << low_bits) - 1)
    high_mask = np.uint32((1 << (bits - low_bits)) - 1)

    def once(number: jax.Array) -> jax.Array:
        high, low = number >> np.uint32(low_bits), number & low_mask
        for i in range(_ROUNDS):
            high = high ^ (_mix(low ^ words[2 * i]) & high_mask)
            low = low ^ (_mix(high ^ words[2 * i + 1]) & low_mask)
        return (high << np.uint32(low_bits)) | low

    def again(carry: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
        first, number = carry  # the first time in the loop too, so that it is compiled once
        return jnp.zeros_like(first), jnp.where(first | (number >= n), once(number), number)

    n = jnp.asarray(n, jnp.uint32)
    index = jnp.asarray(index).astype(jnp.uint32)
    start = jnp.ones((), bool), jnp.where(index < n, index, 0)
    return lax.while_loop(lambda carry: carry[0] | (carry[1] >= n).any(), again, start)[1]


_ROUNDS = 5


def _mix(word: jax.Array) -> jax.Array:
    """lowbias32 of Wellons 2018, "Prospecting for hash functions"."""
    word = (word ^ (word >> np.uint32(16))) * np.uint32(0x7FEB352D)
    word = (word ^ (word >> np.uint32(15))) * np.uint32(0x846CA68B)
    return word ^ (word >> np.uint32(16))


def _draw_array(
    leaf: Leaf,
    key: jax.Array,
    shape: tuple[int, ...],
    start: int,
    dtype: Any,
    transform: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """The numbers of a leaf for shape[0] rows from row ``start``, with rows on the first axis."""
    words = _start_words(shape, start)
    return _array(leaf, shape[0], jnp.dtype(dtype), transform, key, words)


def _start_words(shape: tuple[int, ...], start: int) -> np.ndarray:
    """The high and the low word of the number of the first row."""
    start = operator.index(start)
    if not 0 <= start <= 2**64 - shape[0]:
        raise ValueError(f"start must be from 0 to 2**64 - rows; got {start}")
    return row_words(start)


@functools.partial(compiler.jit, static_argnums=(0, 1, 2, 3))
def _array(leaf: Any, n: int, dtype: Any, transform: Any, key: Any, start: Any) -> jax.Array:
    if math.prod(leaf.shape) <= 2:
        values = jnp.moveaxis(draw(leaf, key, start, n, dtype, fused=True), -1, 0)
    else:
        values = draw(leaf, key, start, n, dtype, axis=0)
    return values if transform is None else transform(values)


def _draw_leaf(
    leaf: Any, leaf_key: Any, start: Any, n: int, dtype: Any, axis: int, fused: bool
) -> jax.Array:
    if isinstance(leaf, Key):
        key0, key1 = threefry.threefry2x32(leaf_key[0], leaf_key[1], jnp.uint32(0), jnp.uint32(0))
        words = threefry.threefry2x32(key0, key1, *later(start, lax.iota(jnp.uint32, n)))
        return jax.random.wrap_key_data(jnp.stack(words, -1), impl="threefry2x32")
    size = math.prod(leaf.shape)
    wide = jnp.dtype(dtype) == jnp.float64 and not isinstance(leaf, Bits)
    if fused or wide or size <= 1 or isinstance(leaf, Bits):
        values = _each_scalar(leaf, leaf_key, start, n, size, wide, axis)
        values = values if fused else computed_once(values, leaf_key[0])
    else:
        values = _in_pairs(leaf, leaf_key, start, n, size, axis)
    shape = (*leaf.shape, n) if axis else (n, *leaf.shape)
    values = values.reshape(shape)
    if isinstance(leaf, Uniform) and jnp.finfo(dtype).bits < 32:
        values = jnp.clip(values, None, 1 - jnp.finfo(dtype).epsneg)  # else rounding could give 1
    return values if isinstance(leaf, Bits) else values.astype(dtype)


def _in_pairs(leaf: Any, leaf_key: Any, start: Any, n: int, size: int, axis: int) -> jax.Array:
    """float32 scalars (size, n), or (n, size) for axis 0, of which two share a hash.

    XLA on a CPU would compute two arrays with a hash for each, so both numbers are stored as one
    complex number.
    """
    pairs = -(-size // 2)
    table = _Table(start, n, pairs, axis)
    a, b = table.words(leaf_key, table.column)
    if isinstance(leaf, Normal):
        both = lax.complex(threefry.normal32(a, b, False), threefry.normal32(a, b, True))
    else:
        both = lax.complex(threefry.uniform32(a), threefry.uniform32(b))
    both = table.cut(computed_once(both, leaf_key[0]))
    each = jnp.stack([both.real, both.imag], 1 if axis else 2)
    return each.reshape(2 * pairs, n)[:size] if axis else each.reshape(n, 2 * pairs)[:, :size]


def _each_scalar(
    leaf: Any, leaf_key: Any, start: Any, n: int, size: int, wide: bool, axis: int
) -> jax.Array:
    """Scalars (size, n), or (n, size) for axis 0, each with a hash of its own."""
    # of constants in float64, since jax 0.12 compiles it for minutes with an iota
    table = _Table(start, n, size, axis, np.arange if wide else jnp.arange)
    second = table.column % np.uint32(2) == 1
    if not wide:
        a, b = table.words(leaf_key, table.column // np.uint32(2))
        if isinstance(leaf, Normal):
            values = threefry.normal32(a, b, second)
        else:
            values = jnp.where(second, b, a)
            values = values if isinstance(leaf, Bits) else threefry.uniform32(values)
    elif isinstance(leaf, Uniform):
        values = threefry.uniform64(*table.words(leaf_key, table.column))
    else:
        first = table.column // np.uint32(2) * np.uint32(2)
        radius, angle = (
            threefry.uniform64(*table.words(leaf_key, j)) for j in (first, first + np.uint32(1))
        )
        values = threefry.normal64(radius, angle, second)
    return table.cut(values)


class _Table:
    """The counters of n rows of some width, in a shape whose last axis is long enough to be fast.

    On axis -1 rows are last. On axis 0 they are first, and several rows lie on one line, as loops
    over few numbers are not vectorised.

    Attributes:
      column: the place in its row of each number on a line; it broadcasts to the lines.
    """

    def __init__(self, start: Any, n: int, width: int, axis: int, arange: Any = jnp.arange):
        self.n, self.width, self.axis = n, width, axis
        self.rows = rows = 1 if width >= _LINE else max(min(_LINE, n), 1)  # of a line
        numbers = arange(width, dtype=np.uint32)
        if axis:
            self.column, self.row = numbers[:, None], later(start, lax.iota(jnp.uint32, n)[None])
            return
        self.column = numbers if rows == 1 else np.tile(np.arange(width, dtype=np.uint32), rows)
        place = np.repeat(np.arange(rows, dtype=np.uint32), 1 if rows == 1 else width)
        lines = lax.iota(jnp.uint32, -(-n // rows)) * np.uint32(rows)
        self.row = later(start, lines[:, None] + place)

    def words(self, leaf_key: Any, j: Any) -> tuple[jax.Array, jax.Array]:
        """The words of pair j of each row."""
        j = jnp.asarray(j)
        keys = threefry.threefry2x32(leaf_key[0], leaf_key[1], jnp.zeros_like(j), j)
        if not self.axis:  # else each row would hash them again
            keys = computed_once(keys, leaf_key[0])
        return threefry.threefry2x32(*keys, *self.row)

    def cut(self, values: jax.Array) -> jax.Array:
        """Values of the table as (width, n), or (n, width) for axis 0."""
        if self.axis:
            return values
        return values.reshape(values.shape[0] * self.rows, self.width)[: self.n]


_LINE = 16  # numbers on a line of noise, at least


def row_words(row: int) -> np.ndarray:
    """A row number as two uint32 words, the high word first."""
    return np.array([row >> 32 & 0xFFFFFFFF, row & 0xFFFFFFFF], np.uint32)


def later(start: Any, rows: Any) -> tuple[jax.Array, jax.Array]:
    """``start`` plus ``rows``, as its high and low word."""
    low = jnp.asarray(start)[1] + jnp.asarray(rows, jnp.uint32)
    return jnp.asarray(start)[0] + (low < jnp.asarray(start)[1]).astype(jnp.uint32), low
