"""A random order of rows, made elementwise."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

_ROUNDS = 5


def order(key: jax.Array, n, size: int) -> jax.Array:
    """The numbers 0 .. n - 1 in random order, followed by zeros: (size,) int32.

    A keyed Feistel network permutes the next power of two, and numbers that leave 0 .. n - 1 are
    sent on until they come back (cycle walking). n may be traced. Elementwise work: on a CPU,
    sorting random words takes many times as long.

    Source: Black and Rogaway 2002, "Ciphers with arbitrary finite domains".
    """
    bits = max((size - 1).bit_length(), 2)
    low_bits = bits // 2
    low_mask = jnp.uint32((1 << low_bits) - 1)
    high_mask = jnp.uint32((1 << (bits - low_bits)) - 1)
    words = jax.random.bits(key, (2 * _ROUNDS,), jnp.uint32)

    def permute(number):
        high, low = number >> jnp.uint32(low_bits), number & low_mask
        for i in range(_ROUNDS):
            high = high ^ (_hash(low ^ words[2 * i]) & high_mask)
            low = low ^ (_hash(high ^ words[2 * i + 1]) & low_mask)
        return (high << jnp.uint32(low_bits)) | low

    n = jnp.asarray(n, jnp.uint32)
    place = lax.iota(jnp.uint32, size)
    live = place < n
    start = jnp.where(live, permute(place), 0)
    walked = lax.while_loop(
        lambda v: (v >= n).any(), lambda v: jnp.where(v >= n, permute(v), v), start
    )
    return walked.astype(jnp.int32)


def _hash(word):
    """lowbias32 of Wellons 2018, "Prospecting for hash functions"."""
    word = (word ^ (word >> jnp.uint32(16))) * jnp.uint32(0x7FEB352D)
    word = (word ^ (word >> jnp.uint32(15))) * jnp.uint32(0x846CA68B)
    return word ^ (word >> jnp.uint32(16))
