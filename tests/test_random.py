"""Noise: its bits against JAX's threefry, its distributions, its precision.

A statistical test here fails for right code with probability 2e-5; keys are fixed.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxgen.core.random import Bits, Key, Normal, Uniform, draw, threefry
from jaxgen.core.random.threefry import threefry2x32
from jaxgen.laws.subject import P_VALUE, enable_x64

pytestmark = pytest.mark.optimized

KEY = jax.random.key(42)
N = 1_000_000
compiled_draw = jax.jit(draw, static_argnums=(3, 4))


def words_of(number):
    """The high and the low word of a row number."""
    return np.array([number >> 32, number & 0xFFFFFFFF], np.uint32)


def rows(noise, start=0, n=4, key=KEY, dtype=jnp.float32):
    drawn = compiled_draw(noise, key, words_of(start), n, dtype)
    return jax.tree_util.tree_map(np.asarray, drawn)


@jax.jit
def documented_pair(key, leaf, pair, row):
    """threefry2x32(fold_in(fold_in(key, i), j), (r_hi, r_lo)), by JAX's functions."""
    folded = jax.random.fold_in(jax.random.fold_in(key, leaf), pair)
    return jax.extend.random.threefry_2x32(jax.random.key_data(folded), row)


@pytest.mark.parametrize("row", [0, 3, 2**32 - 1, 2**32, 2**40 + 17, 2**64 - 1])
def test_bits_are_the_documented_ones(row):
    noise = (Bits(()), Bits((2, 3)))
    got, row = rows(noise, row, 1), words_of(row)
    np.testing.assert_array_equal(got[0][0], documented_pair(KEY, 0, 0, row)[0])
    wanted = np.concatenate([documented_pair(KEY, 1, pair, row) for pair in range(3)])
    np.testing.assert_array_equal(got[1][..., 0], wanted.reshape(2, 3))


def test_threefry_equals_jaxs():
    key, counts = np.array([1, 2], np.uint32), np.arange(8, dtype=np.uint32)
    wanted = jax.extend.random.threefry_2x32(key, counts)
    got = jax.jit(threefry2x32)(*key, counts[:4], counts[4:])
    np.testing.assert_array_equal(np.concatenate(got), wanted)


def test_rows_cross_the_low_word():
    across = rows(Bits((3,)), 2**32 - 2, 5)
    for i in range(5):
        one = rows(Bits((3,)), 2**32 - 2 + i, 1)
        np.testing.assert_array_equal(across[:, i : i + 1], one)
    low = rows(Bits((3,)), 0, 5)
    assert not np.array_equal(across[:, 2:], low[:, :3])  # the high word is used


def test_a_row_is_the_same_in_any_block():
    noise = (Uniform((3,)), Normal((3,)), Bits((3,)), Key())
    large = compiled_draw(noise, KEY, words_of(0), 12, jnp.float32)
    small = compiled_draw(noise, KEY, words_of(5), 4, jnp.float32)
    for leaf, a, b in zip(noise, large, small, strict=True):
        if isinstance(leaf, Key):
            a, b = jax.random.key_data(a).T, jax.random.key_data(b).T
        np.testing.assert_array_equal(np.asarray(a)[:, 5:9], b, str(leaf))


def test_uniform_follows_its_law():
    u = rows(Uniform((2,)), 0, N)
    for values in u:
        assert scipy.stats.kstest(values, "uniform").pvalue > P_VALUE
    assert abs(np.corrcoef(u)[0, 1]) < 5 / N**0.5
    assert u.min() > 0
    assert u.max() < 1


def test_normal_follows_its_law():
    z = rows(Normal((3,)), 0, N)
    for values in z:
        assert scipy.stats.kstest(values, "norm").pvalue > P_VALUE
        wide = values.astype(np.float64)
        powers = wide, wide**2, wide**2 * wide, wide**2 * wide**2
        for power, wanted, variance in zip(powers, (0, 1, 0, 3), (1, 2, 15, 96), strict=True):
            assert abs(power.mean() - wanted) < 5 * (variance / N) ** 0.5
    # the two numbers of one Box-Muller pair, and their squares, are independent
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert abs(np.corrcoef(z[a], z[b])[0, 1]) < 5 / N**0.5
        assert abs(np.corrcoef(z[a] ** 2, z[b] ** 2)[0, 1]) < 5 / N**0.5
    tail = (np.abs(z) > 4).mean()
    wanted = 2 * scipy.stats.norm.sf(4)
    assert abs(tail - wanted) < 5 * (wanted / z.size) ** 0.5


def test_bits_are_fair_and_independent():
    words = rows(Bits(()), 0, N)
    on = np.unpackbits(words.view(np.uint8).reshape(N, 4), axis=1).astype(np.float64)
    assert np.abs(on.mean(0) - 0.5).max() < 5 * 0.5 / N**0.5
    correlation = np.corrcoef(on.T) - np.eye(32)
    assert np.abs(correlation).max() < 6 / N**0.5


def test_neighbouring_rows_and_leaves_are_independent():
    noise = (Uniform(()), Uniform(()))
    a, b = rows(noise, 0, N)
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / N**0.5
    assert abs(np.corrcoef(a[1:], a[:-1])[0, 1]) < 5 / N**0.5
    other, _ = rows(noise, 0, N, key=jax.random.key(43))
    assert abs(np.corrcoef(a, other)[0, 1]) < 5 / N**0.5


def test_ends_of_the_open_interval():
    """The smallest and largest words give numbers within (0, 1) and finite normals."""
    ends = np.array([0, 2**32 - 1], np.uint32)
    u = np.asarray(jax.jit(threefry.uniform32)(ends))
    assert u[0] > 0
    assert u[1] < 1
    for second in (False, True):
        z = np.asarray(normal32(*np.meshgrid(ends, ends), second))
        assert np.isfinite(z).all()
    with enable_x64(True):
        u = np.asarray(jax.jit(threefry.uniform64)(ends, ends))
        assert u.dtype == np.float64
        assert u[0] > 0
        assert u[1] < 1


def test_float64_uses_all_its_digits():
    with enable_x64(True):
        noise = {"u": Uniform((2,)), "z": Normal((3,)), "bits": Bits((2,))}
        drawn = rows(noise, 2**33, 100_000, dtype=jnp.float64)
    assert drawn["u"].dtype == drawn["z"].dtype == np.float64
    assert drawn["bits"].dtype == np.uint32
    assert (drawn["u"].astype(np.float32) != drawn["u"]).mean() > 0.99
    for values in drawn["u"]:
        assert scipy.stats.kstest(values, "uniform").pvalue > P_VALUE
    for values in drawn["z"]:
        assert scipy.stats.kstest(values, "norm").pvalue > P_VALUE
    assert abs(np.corrcoef(drawn["z"])[0, 1]) < 5 / 100_000**0.5


def test_float32_is_the_same_with_x64_on():
    noise = (Uniform((3,)), Normal((3,)), Bits((3,)))
    off = rows(noise, 2**32 - 5, 64)
    with enable_x64(True):
        on = rows(noise, 2**32 - 5, 64)
    for a, b in zip(off, on, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_key_leaf_gives_each_row_its_own_key():
    keys = compiled_draw(Key(), KEY, words_of(0), 1000, jnp.float32)
    assert jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    words = np.asarray(jax.random.key_data(keys))
    assert len(np.unique(words, axis=0)) == 1000
    u = np.asarray(jax.jit(jax.vmap(jax.random.uniform))(keys))
    assert scipy.stats.kstest(u, "uniform").pvalue > P_VALUE


def test_shapes_of_leaves():
    drawn = rows({"a": Uniform(()), "b": (Normal((0,)), Bits((2, 1)))}, 0, 5)
    assert drawn["a"].shape == (5,)
    assert drawn["b"][0].shape == (0, 5)
    assert drawn["b"][1].shape == (2, 1, 5)


def test_other_kinds_of_key_work():
    key = jax.random.key(1, impl="rbg")
    assert np.isfinite(rows(Normal((2,)), key=key)).all()


# numbers computed from words


def exact_exponential(word):
    """-log((word + 1/2) / 2^32) in float64, from the distance to 1 where that is smaller."""
    word = word.astype(np.float64)
    u, rest = (word + 0.5) / 2**32, (2**32 - word - 0.5) / 2**32
    return np.where(u < 0.5, -np.log(u), -np.log1p(-rest))


_ENDS = [0, 1, 2**31 - 1, 2**31, *range(0xB504F332, 0xB504F336), 2**32 - 2, 2**32 - 1]
ENDS = np.array(_ENDS, np.uint32)
RANDOM = np.random.default_rng(0).integers(0, 2**32, N, np.uint32)
WORDS = np.concatenate(
    [
        ENDS,
        np.arange(10_000, dtype=np.uint32),
        (2**32 - 1 - np.arange(10_000)).astype(np.uint32),
        (0xB504F333 - 5000 + np.arange(10_000)).astype(np.uint32),  # around the switch of formulas
        RANDOM,
    ]
)
exponential32, gumbel32 = jax.jit(threefry.exponential32), jax.jit(threefry.gumbel32)
normal32 = jax.jit(threefry.normal32)


@functools.cache
def exact():
    return exact_exponential(WORDS)


@pytest.mark.parametrize("function", [threefry.exponential32, exponential32], ids=["eager", "jit"])
def test_exponential_keeps_its_digits(function):
    got = np.asarray(function(WORDS))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, exact(), rtol=4e-7)


def test_gumbel_keeps_its_digits():
    got = np.asarray(gumbel32(WORDS))
    assert got.dtype == np.float32
    # near its zero only the absolute error is small
    np.testing.assert_allclose(got, -np.log(exact()), rtol=4e-7, atol=4e-7)


def test_documented_ends():
    """Exponentials range from 1.2e-10 to 22.9, Gumbels from -3.1 to 22.9."""
    ends = np.array([0, 2**32 - 1], np.uint32)
    np.testing.assert_allclose(exponential32(ends), [22.87386, 1.164153e-10], rtol=1e-6)
    np.testing.assert_allclose(gumbel32(ends), [-3.129995, 22.87386], rtol=1e-6)


@pytest.mark.parametrize("second", [False, True], ids=["cos", "sin"])
def test_normal_equals_box_muller(second):
    turns = np.arange(16, dtype=np.uint32) * 2**28
    turns = np.concatenate([turns, turns + 1, turns - 1, ENDS])
    radius = np.concatenate([RANDOM, np.repeat(ENDS, len(turns))])
    angle = np.concatenate([RANDOM[::-1], np.tile(turns, len(ENDS))])
    wave = np.sin if second else np.cos
    wanted = np.sqrt(2 * exact_exponential(radius)) * wave(2 * np.pi * angle / 2**32)
    got = normal32(radius, angle, np.bool_(second))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6)


def test_even_scalars_take_the_cosine_and_odd_ones_the_sine():
    n = 1000
    z, words = rows(Normal((5,)), 0, n), rows(Bits((6,)), 0, n)
    for scalar, values in enumerate(z):
        radius, angle = words[scalar // 2 * 2 : scalar // 2 * 2 + 2]
        wave = np.sin if scalar % 2 else np.cos
        wanted = np.sqrt(2 * exact_exponential(radius)) * wave(2 * np.pi * angle / 2**32)
        np.testing.assert_allclose(values, wanted, rtol=0, atol=2e-6)


def test_where_the_tail_of_normals_ends():
    """The largest normals are 6.7 in float32 and 8.6 in float64, for sine and cosine."""
    radius = np.zeros(4, np.uint32)
    angle = np.arange(4, dtype=np.uint32) * 2**30
    for second in (False, True):
        z = np.asarray(normal32(radius, angle, np.bool_(second)))
        np.testing.assert_allclose([z.max(), -z.min()], (2 * 33 * np.log(2)) ** 0.5, rtol=1e-6)
    assert 6.7 < z.max() < 6.8

    @jax.jit
    def widest(zeros, turns):
        least = threefry.uniform64(zeros, zeros)
        return threefry.normal64(least, turns, np.bool_(False))

    with enable_x64(True):
        z = np.asarray(widest(radius, np.arange(4) / 4))
    np.testing.assert_allclose([z.max(), -z.min()], (2 * 53 * np.log(2)) ** 0.5, rtol=1e-12)
    assert 8.5 < z.max() < 8.6


def test_layouts_hold_the_same_numbers():
    """Rows first or last, with two scalars or one for each hash: the numbers are the same."""
    n, start = 37, np.array([0, 2**32 - 20], np.uint32)  # row numbers cross the low word
    leaves = [Normal((3,)), Uniform((33,)), Bits((3,))]

    @jax.jit
    def layouts(key):
        last = draw(leaves, key, start, n, jnp.float32)
        first = draw(leaves, key, start, n, jnp.float32, axis=0)
        return last, first, draw(leaves, key, start, n, jnp.float32, fused=True)

    for last, first, alone in zip(*layouts(jax.random.key(8)), strict=True):
        np.testing.assert_array_equal(np.moveaxis(first, 0, -1), last)
        np.testing.assert_allclose(alone, last, rtol=1e-6, atol=1e-6)
