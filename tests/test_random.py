"""Noise: its bits against JAX's own threefry, its laws, its precision.

A statistical test here fails for right code with probability 2e-5; keys are fixed.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxgen import random, threefry
from jaxgen.check.subject import P_VALUE, enable_x64
from jaxgen.random import Bits, Key, Normal, Uniform, draw, permute
from jaxgen.threefry import threefry2x32

KEY = jax.random.key(42)
N = 1_000_000


def rows(noise, start=0, n=4, key=KEY, dtype=jnp.float32):
    words = np.array([start >> 32, start & 0xFFFFFFFF], np.uint32)
    drawn = jax.jit(lambda key, words: draw(noise, key, words, n, dtype))(key, words)
    return jax.tree_util.tree_map(np.asarray, drawn)


def documented_pair(key, leaf, pair, row):
    """threefry2x32(fold_in(fold_in(key, i), j), (r_hi, r_lo)), by JAX's own functions."""
    folded = jax.random.fold_in(jax.random.fold_in(key, leaf), pair)
    counter = np.array([row >> 32, row & 0xFFFFFFFF], np.uint32)
    return np.asarray(jax.extend.random.threefry_2x32(jax.random.key_data(folded), counter))


@pytest.mark.parametrize("row", [0, 3, 2**32 - 1, 2**32, 2**40 + 17, 2**64 - 1])
def test_bits_are_the_documented_ones(row):
    noise = (Bits(()), Bits((2, 3)))
    got = rows(noise, row, 1)
    np.testing.assert_array_equal(got[0][0], documented_pair(KEY, 0, 0, row)[0])
    wanted = np.concatenate([documented_pair(KEY, 1, pair, row) for pair in range(3)])
    np.testing.assert_array_equal(got[1][..., 0], wanted.reshape(2, 3))


def test_threefry_is_jaxs():
    key, counts = np.array([1, 2], np.uint32), np.arange(8, dtype=np.uint32)
    wanted = jax.extend.random.threefry_2x32(key, counts)
    got = threefry2x32(*map(jnp.uint32, key), counts[:4], counts[4:])
    np.testing.assert_array_equal(np.concatenate(got), wanted)


def test_rows_cross_the_low_word():
    across = rows(Bits((3,)), 2**32 - 2, 5)
    for i in range(5):
        one = rows(Bits((3,)), 2**32 - 2 + i, 1)
        np.testing.assert_array_equal(across[:, i : i + 1], one)
    low = rows(Bits((3,)), 0, 3)
    assert not np.array_equal(across[:, 2:], low)  # the high word is used


@pytest.mark.parametrize("leaf", [Uniform((3,)), Normal((3,)), Bits((3,)), Key()], ids=str)
def test_a_row_is_the_same_in_any_block(leaf):
    raw = jax.random.key_data if isinstance(leaf, Key) else np.asarray
    take = lambda a, b: raw(draw(leaf, KEY, np.array([0, a], np.uint32), b, jnp.float32))  # noqa: E731
    large = take(0, 12)
    axis = 0 if isinstance(leaf, Key) else -1
    np.testing.assert_array_equal(np.take(large, range(5, 9), axis), take(5, 4))


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
        for power, wanted, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
            error = (variance / N) ** 0.5
            assert abs((values.astype(np.float64) ** power).mean() - wanted) < 5 * error
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
    a, b = rows((Uniform(()), Uniform(())), 0, N)
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / N**0.5
    assert abs(np.corrcoef(a[1:], a[:-1])[0, 1]) < 5 / N**0.5
    other = rows(Uniform(()), 0, N, key=jax.random.key(43))
    assert abs(np.corrcoef(a, other)[0, 1]) < 5 / N**0.5


def test_ends_of_the_open_interval():
    """The smallest and largest words give numbers within (0, 1) and finite normals."""
    ends = jnp.array([0, 2**32 - 1], jnp.uint32)
    u = np.asarray(threefry.uniform32(ends))
    assert u[0] > 0
    assert u[1] < 1
    for second in (False, True):
        z = np.asarray(threefry.normal32(ends[:, None], ends, jnp.asarray(second)))
        assert np.isfinite(z).all()
    with enable_x64(True):
        u = np.asarray(threefry.uniform64(ends, ends))
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
    keys = draw(Key(), KEY, np.zeros(2, np.uint32), 1000, jnp.float32)
    assert jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    words = np.asarray(jax.random.key_data(keys))
    assert len(np.unique(words, axis=0)) == 1000
    u = np.asarray(jax.vmap(jax.random.uniform)(keys))
    assert scipy.stats.kstest(u, "uniform").pvalue > P_VALUE


def test_shapes_of_leaves():
    drawn = rows({"a": Uniform(()), "b": (Normal((0,)), Bits((2, 1)))}, 0, 5)
    assert drawn["a"].shape == (5,)
    assert drawn["b"][0].shape == (0, 5)
    assert drawn["b"][1].shape == (2, 1, 5)


def test_other_kinds_of_key_work():
    key = jax.random.key(1, impl="rbg")
    assert np.isfinite(rows(Normal((2,)), key=key)).all()


# the functions for use by hand

LOGITS = np.log(np.random.default_rng(0).dirichlet(np.ones(20))).astype(np.float32)
BY_HAND = {
    "uniform": random.uniform,
    "normal": random.normal,
    "exponential": random.exponential,
    "gumbel": random.gumbel,
    "categorical": lambda key, shape, **options: random.categorical(key, LOGITS, shape, **options),
}
LAWS = {
    "uniform": scipy.stats.uniform,
    "normal": scipy.stats.norm,
    "exponential": scipy.stats.expon,
    "gumbel": scipy.stats.gumbel_r,
}
by_name = pytest.mark.parametrize("name", BY_HAND)


def by_hand(name, shape, key=KEY, **options):
    return drawer(name, shape, *options.items())(key)


@functools.cache
def drawer(name, shape, *options):
    return jax.jit(lambda key: BY_HAND[name](key, shape, **dict(options)))


def same(a, b):
    """Equal to rounding: XLA joins multiplications and sums in one program and not in another."""
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@by_name
def test_shape_and_dtype(name):
    shapes = [(0,), (1,), (5,), (5, 2), (4, 0), (3, 2, 3)]
    drawn = jax.jit(lambda key: [BY_HAND[name](key, shape) for shape in shapes])(KEY)
    for one, shape in zip(drawn, shapes, strict=True):
        assert one.shape == shape
        assert one.dtype == (jnp.int32 if name == "categorical" else jnp.float32)


@by_name
@pytest.mark.parametrize("first", [2**32 - 5, 2**64 - 12])
def test_start_is_an_offset_into_a_longer_draw(name, first):
    @jax.jit
    def draws(key):
        cuts = ((12, 0), (5, 0), (4, 7))
        return [BY_HAND[name](key, (n, 3), start=first + shift) for n, shift in cuts]

    whole, prefix, part = draws(KEY)
    same(prefix, whole[:5])
    same(part, whole[7:11])
    assert len(np.unique(whole)) > 5


@by_name
def test_a_row_does_not_depend_on_the_number_of_columns(name):
    np.testing.assert_array_equal(by_hand(name, (6, 2)), by_hand(name, (6, 5))[:, :2])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize(("name", "leaf"), [("uniform", Uniform((3,))), ("normal", Normal((3,)))])
def test_by_hand_is_what_models_get(name, leaf, dtype):
    got = by_hand(name, (1000, 3), start=2**33 + 1, dtype=dtype)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, rows(leaf, 2**33 + 1, 1000, dtype=dtype).T)
    if name == "uniform":
        assert 0 < got.min() < got.max() < 1


@pytest.mark.parametrize("name", ["uniform", "normal"])
def test_by_hand_in_float64(name):
    with enable_x64(True):
        got = by_hand(name, (1000, 3), dtype=jnp.float64)
        leaf = Uniform((3,)) if name == "uniform" else Normal((3,))
        np.testing.assert_array_equal(got, rows(leaf, 0, 1000, dtype=jnp.float64).T)
    assert got.dtype == np.float64


@by_name
def test_by_hand_under_transformations(name):
    keys, shape = jax.random.split(KEY, 3), (40, 2)
    alone = [by_hand(name, shape, key) for key in keys]
    same(jax.vmap(drawer(name, shape))(keys), np.stack(alone))
    same(BY_HAND[name](keys[0], shape), alone[0])  # outside of jit
    assert not np.array_equal(alone[0], alone[1])
    with enable_x64(True):
        wide = by_hand(name, shape, keys[0])
    assert wide.dtype == alone[0].dtype
    np.testing.assert_array_equal(wide, alone[0])


@pytest.mark.parametrize("name", LAWS)
def test_by_hand_follows_its_law(name):
    drawn = np.asarray(by_hand(name, (N // 2, 2), start=2**32 - 1000))
    for values in drawn.T:
        assert scipy.stats.kstest(values, LAWS[name].cdf).pvalue > P_VALUE
    assert abs(scipy.stats.spearmanr(*drawn.T[:, ::5]).statistic) < 5 / (N / 10) ** 0.5


def test_categorical_under_vmap_of_logits():
    """Each row of logits draws what it draws alone, and never a level of probability zero."""
    possible = jnp.arange(20) % 3 == 1
    many = jnp.stack([jnp.asarray(LOGITS), jnp.where(possible, 0, -jnp.inf)])
    draw_one = jax.jit(lambda logits: random.categorical(KEY, logits, (2000, 2)))
    got = np.asarray(jax.vmap(draw_one)(many))
    np.testing.assert_array_equal(got, np.stack([draw_one(logits) for logits in many]))
    assert set(got[1].ravel()) == set(range(1, 20, 3))


def exact_exponential(word):
    """-log((word + 1/2) / 2^32) in float64, by the distance from 1 where that is shorter."""
    word = word.astype(np.float64)
    u, rest = (word + 0.5) / 2**32, (2**32 - word - 0.5) / 2**32
    return np.where(u < 0.5, -np.log(u), -np.log1p(-rest))


_RANDOM_WORDS = np.random.default_rng(0).integers(0, 2**32, N, np.uint32)
_ENDS = [0, 1, 2**31 - 1, 2**31, *range(0xB504F332, 0xB504F336), 2**32 - 2, 2**32 - 1]
WORDS = {
    "ends": np.array(_ENDS, np.uint32),
    "first": np.arange(10_000, dtype=np.uint32),
    "last": (2**32 - 1 - np.arange(10_000)).astype(np.uint32),
    "around the change of formula": (0xB504F333 - 5000 + np.arange(10_000)).astype(np.uint32),
    "random": _RANDOM_WORDS,
}


@pytest.mark.parametrize("which", WORDS)
def test_exponential_keeps_its_digits(which):
    words = WORDS[which]
    wanted = exact_exponential(words)
    for function in (threefry.exponential32, jax.jit(threefry.exponential32)):
        got = np.asarray(function(words))
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, wanted, rtol=4e-7)


@pytest.mark.parametrize("which", WORDS)
def test_gumbel_keeps_its_digits(which):
    got = np.asarray(jax.jit(threefry.gumbel32)(WORDS[which]))
    assert got.dtype == np.float32
    # near its zero it is right absolutely, not relatively
    np.testing.assert_allclose(got, -np.log(exact_exponential(WORDS[which])), rtol=4e-7, atol=4e-7)


def test_documented_ends():
    """From 1.2e-10 to 22.9, from -3.1 to 22.9."""
    ends = np.array([0, 2**32 - 1], np.uint32)
    np.testing.assert_allclose(threefry.exponential32(ends), [22.87386, 1.164153e-10], rtol=1e-6)
    np.testing.assert_allclose(threefry.gumbel32(ends), [-3.129995, 22.87386], rtol=1e-6)


@pytest.mark.parametrize("second", [False, True], ids=["cos", "sin"])
def test_normal_is_box_and_mullers(second):
    ends = WORDS["ends"]
    turns = np.arange(16, dtype=np.uint32) * 2**28
    turns = np.concatenate([turns, turns + 1, turns - 1, ends])
    radius = np.concatenate([_RANDOM_WORDS, np.repeat(ends, len(turns))])
    angle = np.concatenate([_RANDOM_WORDS[::-1], np.tile(turns, len(ends))])
    wave = np.sin if second else np.cos
    wanted = np.sqrt(2 * exact_exponential(radius)) * wave(2 * np.pi * angle / 2**32)
    got = jax.jit(threefry.normal32)(radius, angle, np.bool_(second))
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
    """As documented: 6.7 sigma in float32, 8.6 in float64, on both sides of both waves."""
    radius = np.zeros(4, np.uint32)
    angle = np.arange(4, dtype=np.uint32) * 2**30
    for second in (False, True):
        z = np.asarray(threefry.normal32(radius, angle, np.bool_(second)))
        np.testing.assert_allclose([z.max(), -z.min()], (2 * 33 * np.log(2)) ** 0.5, rtol=1e-6)
    assert 6.7 < z.max() < 6.8
    with enable_x64(True):
        least = threefry.uniform64(radius, radius)
        z = np.asarray(threefry.normal64(least, np.arange(4) / 4, np.bool_(False)))
    np.testing.assert_allclose([z.max(), -z.min()], (2 * 53 * np.log(2)) ** 0.5, rtol=1e-12)
    assert 8.5 < z.max() < 8.6


# ten million

MANY = 10_000_000
BINS = 1000


def fits(counts, probs=None):
    """Whether counts agree with probabilities, by default equal ones, by a chi-square test."""
    wanted = None if probs is None else counts.sum() * probs
    return scipy.stats.chisquare(counts, wanted).pvalue > P_VALUE


@pytest.mark.parametrize("name", LAWS)
def test_ten_million_fall_evenly_into_bins_of_equal_probability(name):
    drawn = np.asarray(by_hand(name, (MANY,)))
    edges = LAWS[name].ppf(np.arange(1, BINS) / BINS)
    assert fits(np.bincount(np.searchsorted(edges, drawn, "right"), minlength=BINS))


def test_ten_million_categoricals():
    probs = np.random.default_rng(1).dirichlet(np.ones(BINS)).clip(1e-6)
    probs /= probs.sum()
    logits = jnp.asarray(np.log(probs) + 5, jnp.float32)
    drawn = jax.jit(lambda key: random.categorical(key, logits, (MANY,)))(KEY)
    assert fits(np.bincount(drawn, minlength=BINS), probs)


def test_moments_and_tails_of_ten_million_normals():
    z = np.asarray(by_hand("normal", (MANY,), start=2**40)).astype(np.float64)
    for power, wanted, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((z**power).mean() - wanted) < 5 * (variance / MANY) ** 0.5
    assert abs(scipy.stats.skew(z)) < 5 * (6 / MANY) ** 0.5
    assert abs(scipy.stats.kurtosis(z)) < 5 * (24 / MANY) ** 0.5
    for sigma in (3, 4, 5):
        for side in (z, -z):
            count = int((side > sigma).sum())
            assert scipy.stats.binomtest(count, MANY, scipy.stats.norm.sf(sigma)).pvalue > P_VALUE


# permutations


@pytest.mark.parametrize("n", [1, 2, 3, 10, 1000, 4096, 4097])
def test_permute_is_a_bijection(n):
    """On any indices, in any order and shape, it is what it is on all of them."""
    send = jax.jit(lambda key, index: permute(key, index, n))
    whole = np.asarray(send(KEY, np.arange(n)))
    assert whole.dtype == np.uint32
    np.testing.assert_array_equal(np.sort(whole), np.arange(n))
    some = np.random.default_rng(0).integers(0, n, (5, 2))
    np.testing.assert_array_equal(send(KEY, some), whole[some])
    np.testing.assert_array_equal(permute(KEY, some[0, 0], n), whole[some[0, 0]])


def test_permute_under_vmap_and_x64():
    send = jax.jit(lambda key: permute(key, jnp.arange(100), 100))
    keys = jax.random.split(KEY, 3)
    alone = np.stack([send(key) for key in keys])
    np.testing.assert_array_equal(jax.vmap(send)(keys), alone)
    assert len(np.unique(alone, axis=0)) == 3
    with enable_x64(True):
        wide = np.asarray(send(KEY))
    assert wide.dtype == np.uint32
    np.testing.assert_array_equal(wide, send(KEY))


def test_permute_with_a_traced_size():
    """One program for all sizes up to the bound."""
    traced = jax.jit(lambda index, n: permute(KEY, index, n, bound=5000))
    for n in (1, 2, 3, 10, 1000, 4097, 5000):
        image = np.asarray(traced(jnp.arange(5000), n))[:n]
        np.testing.assert_array_equal(np.sort(image), np.arange(n))
    np.testing.assert_array_equal(image, permute(KEY, np.arange(5000), 5000))


@pytest.mark.parametrize("n", [2**31, 2**32 - 1])
def test_permute_of_many(n):
    index = np.random.default_rng(0).integers(0, n, 100_000, np.uint32)
    image = np.asarray(permute(KEY, index, n))
    assert len(np.unique(image)) == len(np.unique(index))
    assert scipy.stats.kstest(image / n, "uniform").pvalue > P_VALUE


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_permute_is_fair_over_keys(n):
    """Every number goes everywhere, and neighbours everywhere else, equally often."""
    keys = jax.random.split(KEY, 20_000)
    image = np.asarray(jax.jit(jax.vmap(lambda key: permute(key, jnp.arange(n), n)))(keys))
    for column in image.T:
        assert fits(np.bincount(column, minlength=n))
    gap = (image[:, 1].astype(int) - image[:, 0]) % n
    assert (gap > 0).all()
    if n > 2:
        assert fits(np.bincount(gap, minlength=n)[1:])


def test_permute_leaves_no_order():
    image = np.asarray(permute(KEY, np.arange(N), N)).astype(float)
    assert abs(np.corrcoef(image, np.arange(N))[0, 1]) < 5 / N**0.5
    assert abs(np.corrcoef(image[1:], image[:-1])[0, 1]) < 5 / N**0.5
    other = np.asarray(permute(jax.random.key(43), np.arange(N), N))
    assert abs(np.corrcoef(image, other)[0, 1]) < 5 / N**0.5
