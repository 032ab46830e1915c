"""Functions of ``jaxgen.random``: rows, dtypes, transformations, distributions of many draws.

A statistical test here fails for right code with probability 2e-5; keys are fixed.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxgen import random
from jaxgen.core.random import Normal, Uniform, draw
from jaxgen.laws.subject import P_VALUE, enable_x64

KEY = jax.random.key(42)
N = 1_000_000
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
    """Equal up to rounding: XLA may fuse multiplications and sums differently in two programs."""
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_shape_and_dtype():
    def of_shapes(key, shapes):
        return {name: [f(key, shape) for shape in shapes] for name, f in BY_HAND.items()}

    full, empty = [(1,), (5,), (5, 2), (3, 2, 3)], [(0,), (4, 0)]
    drawn = jax.eval_shape(lambda key: of_shapes(key, full), KEY)
    none = jax.jit(lambda key: of_shapes(key, empty))(KEY)
    for name in BY_HAND:
        for one, shape in zip(drawn[name] + none[name], full + empty, strict=True):
            assert one.shape == shape
            assert one.dtype == (jnp.int32 if name == "categorical" else jnp.float32)


@by_name
@pytest.mark.parametrize("start", [2**64, 2**64 - 299, 2**70, -1])
def test_a_start_beyond_the_last_row_is_refused(name, start):
    with pytest.raises(ValueError, match=r"start must be from 0 to 2\*\*64 - rows"):
        BY_HAND[name](KEY, (300, 2), start=start)


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


@pytest.mark.optimized
def test_a_row_does_not_depend_on_the_number_of_columns():
    narrow, wide = (
        jax.jit(lambda key, s=shape: {name: f(key, s) for name, f in BY_HAND.items()})(KEY)
        for shape in ((6, 2), (6, 5))
    )
    for name in BY_HAND:
        np.testing.assert_array_equal(narrow[name], wide[name][:, :2], name)


def assert_what_models_get(dtypes):
    """One program draws all arrays by hand, another as noise of a model; they are equal."""
    start, leaves = 2**33 + 1, {"uniform": Uniform((3,)), "normal": Normal((3,))}
    words = np.array([start >> 32, start & 0xFFFFFFFF], np.uint32)

    def made(one):
        return jax.jit(lambda: {(n, d.__name__): one(n, d) for n in leaves for d in dtypes})()

    got = made(lambda name, dtype: BY_HAND[name](KEY, (1000, 3), start=start, dtype=dtype))
    wanted = made(lambda name, dtype: draw(leaves[name], KEY, words, 1000, dtype))
    for name in leaves:
        for dtype in dtypes:
            own = got[name, dtype.__name__]
            assert own.dtype == dtype
            np.testing.assert_array_equal(own, np.asarray(wanted[name, dtype.__name__]).T)
            if name == "uniform":
                assert 0 < own.min() < own.max() < 1


@pytest.mark.optimized
def test_by_hand_equals_the_noise_of_models():
    assert_what_models_get([jnp.float32, jnp.float16, jnp.bfloat16])


def test_by_hand_in_float64_equals_the_noise_of_models():
    with enable_x64(True):
        assert_what_models_get([jnp.float64])


@by_name
def test_by_hand_under_transformations(name):
    keys, shape = jax.random.split(KEY, 3), (40, 2)
    alone = [np.asarray(by_hand(name, shape, key)) for key in keys]
    same(jax.vmap(drawer(name, shape))(keys), np.stack(alone))
    same(BY_HAND[name](keys[0], shape), alone[0])  # without jit
    assert not np.array_equal(alone[0], alone[1])
    with enable_x64(True):
        wide = by_hand(name, shape, keys[0])
    assert wide.dtype == alone[0].dtype
    np.testing.assert_array_equal(wide, alone[0])


@pytest.mark.optimized
@pytest.mark.parametrize("name", LAWS)
def test_by_hand_follows_its_law(name):
    drawn = np.asarray(by_hand(name, (N // 2, 2), start=2**32 - 1000))
    for values in drawn.T:
        assert scipy.stats.kstest(values, LAWS[name].cdf).pvalue > P_VALUE
    assert abs(scipy.stats.spearmanr(*drawn.T[:, ::5]).statistic) < 5 / (N / 10) ** 0.5


def test_categorical_under_vmap_of_logits():
    """Each row of logits gives its own draws, and no level of probability zero."""
    possible = np.arange(20) % 3 == 1
    many = np.stack([LOGITS, np.where(possible, 0, -np.inf).astype(np.float32)])
    draw_one = jax.jit(lambda logits: random.categorical(KEY, logits, (2000, 2)))
    got = np.asarray(jax.vmap(draw_one)(many))
    np.testing.assert_array_equal(got, np.stack([draw_one(logits) for logits in many]))
    assert set(got[1].ravel()) == set(range(1, 20, 3))


# ten million draws

MANY = 10_000_000
BINS = 1000


@functools.cache
def ten_million(name):
    return np.asarray(by_hand(name, (MANY,), start=2**40))


def fits(counts, probs=None):
    """Whether counts agree with probabilities, equal by default, by a chi-square test."""
    wanted = None if probs is None else counts.sum() * probs
    return scipy.stats.chisquare(counts, wanted).pvalue > P_VALUE


@pytest.mark.optimized
@pytest.mark.parametrize("name", LAWS)
def test_ten_million_fall_evenly_into_bins_of_equal_probability(name):
    edges = LAWS[name].ppf(np.arange(1, BINS) / BINS)
    below = np.searchsorted(np.sort(ten_million(name)), edges)
    assert fits(np.diff(below, prepend=0, append=MANY))


@pytest.mark.optimized
def test_ten_million_categoricals():
    probs = np.random.default_rng(1).dirichlet(np.ones(BINS)).clip(1e-6)
    probs /= probs.sum()
    logits = np.float32(np.log(probs) + 5)
    drawn = jax.jit(lambda key: random.categorical(key, logits, (MANY,)))(KEY)
    assert fits(np.bincount(drawn, minlength=BINS), probs)


@pytest.mark.optimized
def test_moments_and_tails_of_ten_million_normals():
    z = ten_million("normal").astype(np.float64)
    square = z * z
    moments = z.mean(), square.mean(), (square * z).mean(), (square * square).mean()
    for moment, wanted, variance in zip(moments, (0, 1, 0, 3), (1, 2, 15, 96), strict=True):
        assert abs(moment - wanted) < 5 * (variance / MANY) ** 0.5
    z -= moments[0]
    square = z * z
    skew = (square * z).mean() / square.mean() ** 1.5
    kurtosis = (square * square).mean() / square.mean() ** 2 - 3
    assert abs(skew) < 5 * (6 / MANY) ** 0.5
    assert abs(kurtosis) < 5 * (24 / MANY) ** 0.5
    in_order = np.sort(ten_million("normal"))
    for sigma in (3, 4, 5):
        above = MANY - np.searchsorted(in_order, sigma, "right")
        for count in (above, np.searchsorted(in_order, -sigma)):
            assert scipy.stats.binomtest(int(count), MANY, scipy.stats.norm.sf(sigma)).pvalue > (
                P_VALUE
            )
