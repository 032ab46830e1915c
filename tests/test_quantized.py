"""Continuous models of whole numbers: ``compose.Quantized``."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jaxgen
from jaxgen import Fitted, bijectors, compose, domains, models

KEY = jax.random.key(32)
EVERY = np.array(list(itertools.product(range(4), repeat=2)))


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(0)
    a = rng.binomial(3, 0.4, size=3000)
    x = np.stack([a, np.clip(a + rng.integers(0, 2, 3000), 0, 3)], 1)
    return jaxgen.fit(compose.Quantized(models.Gaussian(2), levels=4), x, key=KEY)


def test_draws_are_whole_and_follow_the_estimated_probabilities(fitted):
    x = np.asarray(fitted.sample(KEY, 20_000))
    assert x.dtype == np.int32
    p = np.exp(np.asarray(fitted.log_prob(EVERY), np.float64))
    assert p.sum() == pytest.approx(1, abs=0.02)
    shares = np.array([(x == state).all(1).mean() for state in EVERY])
    np.testing.assert_allclose(p, shares, atol=0.015)
    beyond = np.array([[-1, 0], [4, 0], [0.5, 0]])
    assert (np.asarray(fitted.log_prob(beyond)) == -np.inf).all()


def test_the_estimate_is_the_integral_over_the_cell():
    model = compose.Quantized(models.Gaussian(1), levels=4)
    params = {"base": {"mean": jnp.array([0.3]), "scale_tril": jnp.array([[0.8]])}, "bijector": {}}
    found = np.asarray(Fitted(model, params).log_prob(np.arange(4)[:, None]))
    edges = scipy.stats.norm.cdf(scipy.special.logit(np.arange(5) / 4), 0.3, 0.8)
    np.testing.assert_allclose(np.exp(found), np.diff(edges), rtol=2e-3)


def test_the_mean_loss_is_a_bound(fitted):
    model, params = fitted.model, fitted.params
    place = np.random.default_rng(0).random((4000, 2), np.float32)
    cell = jax.vmap(lambda u, x: model.loss(params, {"base": (), "place": u}, x), (0, None))
    losses = jax.jit(jax.vmap(cell, (None, 0)))(place, EVERY.astype(np.float32))
    bound = -np.asarray(losses, np.float64).mean(1)
    exact = np.log(np.exp(-np.asarray(losses, np.float64)).mean(1))
    log_p = np.asarray(fitted.log_prob(EVERY))
    assert (bound < log_p).all()
    np.testing.assert_allclose(log_p, exact, atol=0.3)
    assert model.traits.density == "estimate"


def test_pull_of_whole_numbers_gives_noise_that_makes_them(fitted):
    noise = fitted.pull(EVERY)
    np.testing.assert_array_equal(fitted.push(noise), EVERY)
    found = np.asarray(fitted.path([0, 0], [3, 3], 5))
    np.testing.assert_array_equal(found[[0, -1]], [[0, 0], [3, 3]])
    assert found.dtype == np.int32


def test_noise_does_not_depend_on_the_data():
    """Data are often made from the seed 0, as is the noise of careless code."""
    model = compose.Quantized(models.Gaussian(1), levels=2)
    scales = []
    for seed in (0, 1):
        coins = 1 * (np.random.default_rng(seed).random((500, 1)) > 0.5)
        scales.append(float(jaxgen.fit(model, coins, key=KEY).params["base"]["scale_tril"][0, 0]))
    np.testing.assert_allclose(scales, 1.8, rtol=0.08)


def test_a_flow_learns_labelled_levels():
    y = np.random.default_rng(1).integers(0, 2, 600)
    x = np.stack([6 * y + np.random.default_rng(2).integers(0, 2, 600), 7 - 6 * y], 1)
    flow = models.SplineCoupling(
        2, 2, 8, 1, 4, y_shape=(), y_domain=domains.Levels(2), domain=domains.Interval(0, 8)
    )
    model = compose.Labelled(compose.Quantized(flow, levels=8), 2)
    fitted = jaxgen.fit(
        model, x, y, key=KEY, epochs=120, batch_size=60, validation=0, progress=False
    )
    found = np.asarray(fitted.sample(KEY, 400, np.arange(400) % 2))
    near = np.abs(found[:, 0] - (6 * (np.arange(400) % 2) + 0.5)) < 2
    assert near.mean() > 0.9
    assert (np.asarray(fitted.classify(x)).argmax(1) == y).mean() > 0.98


def test_bases_that_do_not_suit_are_refused():
    flow = models.SplineCoupling(2, domain=domains.Interval(0.0, 4.0))
    assert compose.Quantized(flow, levels=4).base == flow
    mapped = compose.Transformed(models.Gaussian(2), bijectors.Interval(0, 4))
    assert compose.Quantized(models.Gaussian(2), levels=4) == compose.Quantized(mapped, levels=4)
    with pytest.raises(ValueError, match=r"base must be .* numbers in \[0, 5\]"):
        compose.Quantized(flow, levels=5)
    positive = compose.Transformed(models.Gaussian(1), bijectors.Positive())
    for base in (models.Bernoulli((2,)), positive):
        with pytest.raises(ValueError, match="base must be a continuous model"):
            compose.Quantized(base, levels=2)
    template = compose.Quantized(models.Gaussian(), levels=4)
    assert template.for_data(EVERY).event_shape == (2,)
