"""Noise: what a model's randomness is made of, drawn in bulk and keyed by row.

A model says what noise ONE event takes, as a pytree of the leaves below. ``draw`` fills it for many
rows. The bits of a row depend on the key and the row's number alone, never on the batch, the block
or the device it is drawn in:

    word pair j of leaf i in row r  =  threefry2x32(fold_in(fold_in(key, i), j), (r_hi, r_lo))

where r is a 64-bit row number in two uint32 words (Salmon et al. 2011, "Parallel random numbers: as
easy as 1, 2, 3"). At 32 bits, scalar e of a leaf takes word e mod 2 of pair e // 2; at 64 bits a
scalar takes a whole pair.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.spec import Spec


class Uniform(Spec):
    """Uniform on the open interval (0, 1), midpoints of 2**23 (f32) or 2**52 (f64) cells."""

    shape: tuple[int, ...] = ()


class Normal(Spec):
    """Standard normal. The tail ends at 6.7 sigma in f32 and 8.6 in f64."""

    shape: tuple[int, ...] = ()


class Bits(Spec):
    """Uniform uint32 words."""

    shape: tuple[int, ...] = ()


class Key(Spec):
    """One typed PRNG key a row, for a model that cannot name its noise beforehand."""


Leaf = Uniform | Normal | Bits | Key


def is_leaf(value: Any) -> bool:
    return isinstance(value, Leaf)


def draw(noise: Any, key: jax.Array, start: Any, n: int, dtype: Any) -> Any:
    """Noise for rows start .. start + n - 1.

    Args:
      noise: pytree of noise leaves, for one event.
      key: a typed PRNG key.
      start: (2,) uint32, high and low word of the first row's number.
      n: number of rows.
      dtype: float dtype of Uniform and Normal leaves.

    Returns:
      The pytree with each leaf an array of the leaf's shape and the rows on a LAST axis of size n,
      which is the fast layout for elementwise work.
    """
    key0, key1 = key_words(key)
    low = start[1] + lax.iota(jnp.uint32, n)
    row = start[0] + (low < start[1]).astype(jnp.uint32), low
    leaves, tree = jax.tree_util.tree_flatten(noise, is_leaf=is_leaf)
    drawn = []
    for i, leaf in enumerate(leaves):
        # fold_in(key, i) of JAX's threefry keys is the hash of the counter (0, i)
        leaf_key = threefry2x32(key0, key1, jnp.uint32(0), jnp.uint32(i))
        drawn.append(_draw_leaf(leaf, leaf_key, row, dtype))
    return jax.tree_util.tree_unflatten(tree, drawn)


def key_words(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The two words of a threefry key; a key of another kind is hashed down to two."""
    words = jax.random.key_data(key)
    if words.shape != (2,):
        words = jax.random.bits(key, (2,), jnp.uint32)
    return words[0], words[1]


def threefry2x32(key0, key1, count0, count1):
    """Threefry-2x32 with 20 rounds: the hash of JAX's default keys, unrolled so it fuses."""
    keys = (key0, key1, key0 ^ key1 ^ np.uint32(0x1BD11BDA))
    x0, x1 = count0 + keys[0], count1 + keys[1]
    for group in range(5):
        for turn in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
            x0 = x0 + x1
            x1 = (x1 << np.uint32(turn)) | (x1 >> np.uint32(32 - turn))
            x1 = x0 ^ x1
        x0 = x0 + keys[(group + 1) % 3]
        x1 = x1 + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x0, x1


def _draw_leaf(leaf, leaf_key, row, dtype):
    high, low = row
    n = high.shape[0]
    if isinstance(leaf, Key):
        key0, key1 = _pair_keys(leaf_key, 1)
        words = threefry2x32(key0, key1, high, low)
        return jax.random.wrap_key_data(jnp.stack(words, -1), impl="threefry2x32")
    size = math.prod(leaf.shape)
    work = jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32
    double = work == jnp.float64 and not isinstance(leaf, Bits)
    evened = size + size % 2 if isinstance(leaf, Normal) or not double else size
    pairs = evened if double else evened // 2
    key0, key1 = _pair_keys(leaf_key, pairs)
    a, b = threefry2x32(key0[:, None], key1[:, None], high[None], low[None])
    if isinstance(leaf, Bits):
        values = jnp.stack([a, b], 1)
    elif isinstance(leaf, Uniform):
        values = _uniform64(a, b) if double else jnp.stack([_uniform32(a), _uniform32(b)], 1)
    elif double:
        values = _box_muller(_uniform64(a[0::2], b[0::2]), _uniform64(a[1::2], b[1::2]))
    else:
        # the radius keeps all 32 bits: a coarser grid would end the tail near 5.8 sigma
        radius = a.astype(work) * work(2.0**-32) + work(2.0**-33)
        values = _box_muller(radius, _uniform32(b))
    values = values.reshape(math.prod(values.shape[:-1]), n)[:size].reshape(*leaf.shape, n)
    if isinstance(leaf, Uniform) and jnp.finfo(dtype).bits < 32:
        values = jnp.clip(values, None, 1 - jnp.finfo(dtype).epsneg)  # rounding would reach 1
    return values if isinstance(leaf, Bits) else values.astype(dtype)


def _pair_keys(leaf_key, pairs: int) -> Any:
    j = lax.iota(jnp.uint32, pairs)
    return threefry2x32(leaf_key[0], leaf_key[1], jnp.zeros_like(j), j)


def _uniform32(word):
    return ((word >> np.uint32(9)).astype(jnp.float32) + np.float32(0.5)) * np.float32(2.0**-23)


def _uniform64(high, low):
    word = (high.astype(jnp.uint64) << np.uint64(32)) | low.astype(jnp.uint64)
    return ((word >> np.uint64(12)).astype(jnp.float64) + 0.5) * 2.0**-52


def _box_muller(u, v):
    """Two standard normals from two uniforms (Box and Muller 1958), interleaved on axis 1."""
    radius, angle = jnp.sqrt(-2 * jnp.log(u)), 2 * np.pi * v
    return jnp.stack([radius * jnp.cos(angle), radius * jnp.sin(angle)], 1)
