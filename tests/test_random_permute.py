"""Random permutations of 0 .. n - 1: bijective, uniform over keys, and without order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxgen.core.random import permute
from jaxgen.laws.subject import P_VALUE, enable_x64

KEY = jax.random.key(42)
N = 1_000_000


def fits(counts):
    """Whether counts are equal up to chance, by a chi-square test."""
    return scipy.stats.chisquare(counts).pvalue > P_VALUE


@pytest.mark.parametrize("n", [1, 2, 3, 10, 1000, 4096, 4097])
def test_permute_is_a_bijection(n):
    """The image of an index does not depend on the other indices or their shape."""
    some = np.random.default_rng(0).integers(0, n, (5, 2))
    each = jax.jit(lambda key, *indices: [permute(key, index, n) for index in indices])
    whole, moved, one = map(np.asarray, each(KEY, np.arange(n), some, some[0, 0]))
    assert whole.dtype == np.uint32
    np.testing.assert_array_equal(np.sort(whole), np.arange(n))
    np.testing.assert_array_equal(moved, whole[some])
    np.testing.assert_array_equal(one, whole[some[0, 0]])


def test_permute_outside_of_jit_under_vmap_and_x64():
    send = jax.jit(lambda key: permute(key, jnp.arange(100), 100))
    keys = jax.random.split(KEY, 3)
    alone = np.stack([send(key) for key in keys])
    np.testing.assert_array_equal(jax.vmap(send)(keys), alone)
    np.testing.assert_array_equal(permute(keys[0], np.arange(100), 100), alone[0])
    assert len(np.unique(alone, axis=0)) == 3
    with enable_x64(True):
        wide = np.asarray(send(keys[0]))
    assert wide.dtype == np.uint32
    np.testing.assert_array_equal(wide, alone[0])


def test_permute_with_a_traced_size():
    """One program serves all sizes up to the bound."""
    traced = jax.jit(lambda index, n: permute(KEY, index, n, bound=300))
    for n in (1, 2, 3, 10, 256, 257, 300):
        image = np.asarray(traced(np.arange(300), n))[:n]
        np.testing.assert_array_equal(np.sort(image), np.arange(n))
    known = jax.jit(lambda index: permute(KEY, index, 300))
    np.testing.assert_array_equal(image, known(np.arange(300)))


@pytest.mark.parametrize("n", [2**31, 2**32 - 1])
def test_permute_of_many(n):
    index = np.random.default_rng(0).integers(0, n, 100_000, np.uint32)
    image = np.asarray(jax.jit(lambda index: permute(KEY, index, n))(index))
    assert len(np.unique(image)) == len(np.unique(index))
    assert scipy.stats.kstest(image / n, "uniform").pvalue > P_VALUE


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_permute_is_fair_over_keys(n):
    """Every number takes every place, and every distance to its neighbour, equally often."""
    keys = jax.random.split(KEY, 20_000)
    image = np.asarray(jax.jit(jax.vmap(lambda key: permute(key, jnp.arange(n), n)))(keys))
    for column in image.T:
        assert fits(np.bincount(column, minlength=n))
    gap = (image[:, 1].astype(int) - image[:, 0]) % n
    assert (gap > 0).all()
    if n > 2:
        assert fits(np.bincount(gap, minlength=n)[1:])


def test_permute_leaves_no_order():
    send = jax.jit(lambda key: permute(key, jnp.arange(N), N))
    image = np.asarray(send(KEY)).astype(float)
    assert abs(np.corrcoef(image, np.arange(N))[0, 1]) < 5 / N**0.5
    assert abs(np.corrcoef(image[1:], image[:-1])[0, 1]) < 5 / N**0.5
    other = np.asarray(send(jax.random.key(43)))
    assert abs(np.corrcoef(image, other)[0, 1]) < 5 / N**0.5
