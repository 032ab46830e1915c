"""Counter-based random words, and random numbers from them.

All functions are elementwise, so that a compiler fuses them into the consumers of the numbers. On a
CPU the polynomials below are several times as fast as ``jnp.log`` and ``jnp.cos``, which do not
vectorise.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.core.numerics import polynomial

# Minimax polynomials. LOG: (log(1 + f) - f + f^2 / 2) / f^3 on sqrt(1/2) - 1 <= f <= sqrt(2) - 1,
# relative error of the log 3e-8; SINE: sin(2 pi t) / t in t^2 on t <= 1/4, relative error 5e-9.
_LOG = (0.33333910, -0.25001338, 0.19963062, -0.16577585, 0.14914788, -0.14267485, 0.087003656)
_SINE = (6.2831855, -41.341679, 81.602234, -76.575020, 39.711090)
_LN2_HIGH, _LN2_LOW = (
    0.693359375,
    -2.12194440e-4,
)  # the first has few bits, so that its multiples are exact
_SQRT_HALF_BITS = 0x3F3504F3
_SQRT_HALF_WORD = 0xB504F334  # sqrt(1/2) 2^32


Word = Any  # uint32 arrays or scalars


def threefry2x32(key0: Word, key1: Word, count0: Word, count1: Word) -> tuple[Word, Word]:
    """The Threefry-2x32 hash with 20 rounds, that of JAX's default keys, unrolled for fusion.

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
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


def key_words(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The two words of a threefry key; a key of another implementation is hashed to two words."""
    words = jax.random.key_data(key)
    if words.shape != (2,):
        words = jax.random.bits(key, (2,), jnp.uint32)
    return words[0], words[1]


def uniform32(word: Word) -> jax.Array:
    """Uniform float32 numbers, midpoints of 2^23 cells of (0, 1); of 2^24, the last would be 1."""
    return ((word >> np.uint32(9)).astype(jnp.float32) + np.float32(0.5)) * np.float32(2.0**-23)


def uniform64(high: Word, low: Word) -> jax.Array:
    """Uniform float64 numbers, midpoints of 2^52 cells of (0, 1)."""
    word = (high.astype(jnp.uint64) << np.uint64(32)) | low.astype(jnp.uint64)
    return ((word >> np.uint64(12)).astype(jnp.float64) + 0.5) * 2.0**-52


def exponential32(word: Word) -> jax.Array:
    """-log u for u = (word + 1/2) / 2^32: from 1.2e-10 to 22.9, correct to a few ulp."""
    # near u = 1 it is -log(1 - v) of a v without rounding error
    near_one = word >= np.uint32(_SQRT_HALF_WORD)
    v = jnp.where(near_one, ~word, word).astype(jnp.float32)
    v = v * np.float32(2.0**-32) + np.float32(2.0**-33)
    f, exponent = _split(v)
    return -_log(jnp.where(near_one, -v, f), jnp.where(near_one, 0, exponent))


def gumbel32(word: Word) -> jax.Array:
    """-log(-log u) for u as in ``exponential32``: from -3.1 to 22.9."""
    return -_log(*_split(exponential32(word)))


def normal32(radius: Word, angle: Word, second: Any) -> jax.Array:
    """The first or second standard normal number from a pair of words (Box and Muller 1958).

    The radius uses all 32 bits of its word; with fewer, the tail would end near 5.8 sigma.
    """
    quarter = jnp.where(second, np.uint32(0), np.uint32(1 << 30))  # cos t = sin(t + a quarter)
    turn = lax.bitcast_convert_type(angle + quarter, jnp.int32).astype(jnp.float32)
    turn = turn * np.float32(2.0**-32)  # in [-1/2, 1/2]
    folded = jnp.minimum(jnp.abs(turn), np.float32(0.5) - jnp.abs(turn))
    sine = folded * polynomial(folded * folded, _SINE)
    size = jnp.sqrt(np.float32(2) * exponential32(radius)) * sine
    return jnp.where(turn < 0, -size, size)


def normal64(radius: jax.Array, angle: jax.Array, second: Any) -> jax.Array:
    """The first or second standard normal number from two uniform float64 numbers."""
    turn = 2 * math.pi * angle
    return jnp.sqrt(-2 * jnp.log(radius)) * jnp.where(second, jnp.sin(turn), jnp.cos(turn))


def _split(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """f and e of x = (1 + f) 2^e with sqrt(1/2) <= 1 + f < sqrt(2), for positive normal x."""
    bits = lax.bitcast_convert_type(x, jnp.int32) - np.int32(_SQRT_HALF_BITS)
    mantissa = (bits & np.int32(0x007FFFFF)) + np.int32(_SQRT_HALF_BITS)
    f = lax.bitcast_convert_type(mantissa, jnp.float32) - 1
    return f, (bits >> np.int32(23)).astype(jnp.float32)


def _log(f: jax.Array, exponent: jax.Array) -> jax.Array:
    square = f * f
    tail = f * square * polynomial(f, _LOG) + exponent * np.float32(_LN2_LOW)
    return f + (tail - np.float32(0.5) * square) + exponent * np.float32(_LN2_HIGH)
