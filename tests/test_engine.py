"""Blocks change no value, and no program is compiled for n."""

import jax
import numpy as np
import pytest

import jaxgen
from jaxgen import engine
from jaxgen.check import count_compiles
from jaxgen.models import Bernoulli, Gaussian, GaussianMixture

KEY = jax.random.key(3)
SIZES = (1, 7, 64, 65, 400, 512, 1000, 5000, 70_000, 200_000)


def mixture():
    return GaussianMixture(2, components=3)


@pytest.fixture
def fitted():
    jax.clear_caches()
    return jaxgen.Fitted(mixture(), mixture().init(jax.random.key(0)))


def test_ten_sizes_compile_once_for_each_rung(fitted):
    with count_compiles() as count:
        samples = [fitted.sample(KEY, n) for n in SIZES]
    rungs = {engine.block_size(fitted.model, fitted.params, n, fitted.model.noise()) for n in SIZES}
    assert count[0] <= len(rungs) <= len(engine.RUNGS)
    for n, x in zip(SIZES, samples, strict=True):
        assert x.shape == (n, 2)
        np.testing.assert_allclose(x, samples[-1][:n], rtol=1e-6, atol=1e-6)


def test_equal_spec_and_new_params_compile_nothing(fitted):
    x = fitted.sample(KEY, 100)
    fitted.log_prob(x)
    twin = jaxgen.Fitted(mixture(), jax.device_put(mixture().init(jax.random.key(9))))
    with count_compiles() as count:
        twin.sample(KEY, 90)
        twin.log_prob(np.asarray(x)[:80])
        twin.log_prob(x)
        twin.log_prob(np.asarray(x, np.float64).reshape(4, 25, 2))
    assert count[0] == 0


def test_ten_is_a_prefix_of_a_thousand(fitted):
    np.testing.assert_array_equal(fitted.sample(KEY, 10), fitted.sample(KEY, 1000)[:10])


def test_jitted_sample_is_fitted_sample(fitted):
    draw = jax.jit(lambda params: jaxgen.sample(fitted.model, params, KEY, 1000))
    np.testing.assert_allclose(draw(fitted.params), fitted.sample(KEY, 1000), rtol=1e-6)


def test_fitted_passes_through_transformations(fitted):
    x = fitted.sample(KEY, 50)
    inside = jax.jit(lambda f, x: f.log_prob(x))(fitted, x)
    np.testing.assert_allclose(inside, fitted.log_prob(x), rtol=1e-5)
    slope = jax.grad(lambda f: f.log_prob(x).mean())(fitted)
    assert slope.params["mean"].shape == (3, 2)


def test_padding_and_wide_events():
    wide = Bernoulli((50, 60))
    params = wide.init(None)
    assert engine.block_size(wide, params, 10**6, wide.noise()) * 3000 * 2 * 4 <= engine.BLOCK_BYTES
    plain = Gaussian(2)
    for n in (1, 64, 65, 5000, 10**6):
        size = engine.block_size(plain, plain.init(None), n)
        assert -(-n // size) * size <= max(2 * n, engine.RUNGS[0], 4 * engine.BLOCK_COST)


def test_no_events(fitted):
    assert fitted.sample(KEY, 0).shape == (0, 2)
    assert fitted.log_prob(np.zeros((0, 2))).shape == (0,)
    assert fitted.log_prob(np.zeros((0, 4, 2))).shape == (0, 4)
