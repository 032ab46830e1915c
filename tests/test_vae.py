"""Variational autoencoders: densities against closed forms, likelihoods, conditions and errors."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import multivariate_normal

import jaxgen
from jaxgen import domains, metrics, models, networks
from jaxgen.core.lanes import over_rows

KEY = jax.random.key(0)


class Identity(networks.Network):
    """A network without params whose features are its inputs."""

    def init(self, key, shape):
        return {"none": jnp.zeros(())}

    def apply(self, params, x):
        return x.reshape(-1) + 0 * params["none"]


class Spread(networks.Network):
    """A decoder whose features are an image (2, 3, 4)."""

    def init(self, key, shape):
        return {"w": jax.random.normal(key, (2, 3, 4, *shape))}

    def apply(self, params, x):
        return params["w"] @ x


SMALL = networks.MLP(width=6, depth=1)
LINEAR = models.VAE((3,), 2, encoder=Identity(), decoder=Identity())


def linear_gaussian(spread=0.0):
    """Params of LINEAR whose q(z|x) has the right mean, and the mean and covariance of x.

    The covariance of the posterior is diagonal, so that q can have it; ``spread`` is added to its
    log deviations.
    """
    w, b, s = np.array([[1.5, 0.3], [-0.6, 2.0], [1.0, 0.5]]), np.array([1.0, -2.0, 0.5]), 0.4
    w[:, 1] -= w[:, 0] * (w[:, 0] @ w[:, 1]) / (w[:, 0] @ w[:, 0])
    precision = np.eye(2) + w.T @ w / s**2
    gain = np.linalg.solve(precision, w.T) / s**2
    deviation = np.log(np.diag(precision) ** -0.5)
    params = {
        "frame": {"x": {"shift": np.zeros(3), "scale": np.ones(3)}},
        "encoder": {"features": {"none": np.zeros(())}},
        "decoder": {"features": {"none": np.zeros(())}, "out": {"w": w, "b": b[None]}},
        "likelihood": {"log_scale": np.full(3, math.log(s))},
    }
    # log deviations are 7 tanh(u / 7)
    u = 7 * np.arctanh((deviation + spread) / 7)
    out = {"w": np.concatenate([gain, np.zeros((2, 3))]), "b": np.concatenate([-gain @ b, u])}
    params["encoder"]["out"] = out
    params = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), params)
    return params, b, w @ w.T + s**2 * np.eye(3)


def events_and_truth(mean, covariance, n=400):
    x = np.random.default_rng(1).multivariate_normal(mean, covariance, n).astype(np.float32)
    return x, np.asarray(multivariate_normal.logpdf(x, mean, covariance))


def of_samples(params, x, samples):
    model = dataclasses.replace(LINEAR, samples=samples)
    return np.asarray(jaxgen.Fitted(model, params).log_prob(x))


def test_the_weights_of_a_linear_gaussian_with_its_posterior_are_its_density():
    params, mean, covariance = linear_gaussian()
    x, exact = events_and_truth(mean, covariance)
    np.testing.assert_allclose(of_samples(params, x, 1), exact, atol=1e-3)
    np.testing.assert_allclose(of_samples(params, x, 50), exact, atol=1e-3)
    assert np.allclose(jaxgen.Fitted(LINEAR, params).pull(x)["pixels"], 0)


def test_estimates_rise_from_the_bound_to_the_exact_density():
    params, mean, covariance = linear_gaussian(spread=0.4)
    x, exact = events_and_truth(mean, covariance)
    noise = jax.random.normal(KEY, (500, 2, len(x)))
    losses = jax.jit(over_rows(LINEAR.loss, (None, -1, 0)))
    bound = -np.mean([losses(params, one, x) for one in noise])
    # q is wider by exp(0.4) in both latents: KL(q || posterior) = exp(0.8) / 2 - 1 / 2 - 0.4 each
    gap = math.exp(0.8) - 1 - 0.8
    assert bound == pytest.approx(exact.mean() - gap, abs=0.02)
    few, many = (of_samples(params, x, samples).mean() for samples in (100, 2000))
    assert bound < few <= exact.mean() + 1e-3
    assert many == pytest.approx(exact.mean(), abs=1e-3)


def test_effective_sample_sizes_and_pareto_k():
    params, mean, covariance = linear_gaussian()
    x, exact = events_and_truth(mean, covariance, 10)
    fitted = jaxgen.Fitted(dataclasses.replace(LINEAR, samples=200), params)
    found = metrics.importance_weights(fitted, x)
    np.testing.assert_allclose(found.log_prob, exact, atol=1e-3)
    np.testing.assert_allclose(found.effective_samples, 200, rtol=1e-3)
    wrong = jaxgen.Fitted(fitted.model, linear_gaussian(spread=-1.0)[0])
    found = metrics.importance_weights(wrong, np.concatenate([x, np.full((1, 3), np.inf)]))
    np.testing.assert_allclose(found.log_prob, wrong.log_prob(np.vstack([x, [[np.inf] * 3]])))
    assert (found.effective_samples[:-1] < 150).all()
    assert found.effective_samples[-1] == 0
    assert (found.pareto_k[:-1] > 0.5).all()
    assert np.isnan(found.pareto_k[-1])
    with pytest.raises(TypeError, match="a mean of importance weights"):
        metrics.importance_weights(jaxgen.fit(models.Gaussian(3), x, key=KEY), x)


@pytest.mark.parametrize(
    ("model", "count"),
    [
        (models.VAE((), 1, levels=2), 2),
        (models.VAE((), 1, levels=5), 5),
        (models.VAE((), 1, 5, "categorical"), 5),
        (models.VAE((), 1, 70, "categorical"), 70),
        (models.VAE((), 1, levels=256), 256),
    ],
)
def test_the_likelihoods_of_levels_sum_to_one_and_are_those_of_draws(model, count):
    likelihood = model._likelihood
    x = np.random.default_rng(0).binomial(count - 1, 0.3, 500).astype(float)
    start = likelihood.start(KEY, x)
    noise = (np.arange(20_000) + 0.5).astype(np.float32) / 20_000

    @jax.jit
    def scores_and_draws():
        params, frame = start.params, start.frame
        u = start.bias + jax.random.normal(KEY, (likelihood.numbers,))
        scores = over_rows(lambda x: likelihood.log_prob(params, frame, u, x), 0)
        draws = jax.vmap(lambda v: likelihood.draw(params, frame, u, v))(noise)
        return scores(jnp.arange(float(count))), draws

    scores, draws = scores_and_draws()
    probs = np.exp(np.asarray(scores, np.float64))
    assert probs.sum() == pytest.approx(1, abs=1e-5)
    # draws are quantiles of their noise
    shares = np.bincount(np.asarray(draws), minlength=count) / len(noise)
    np.testing.assert_allclose(shares, probs, atol=2e-4)


def test_a_logistic_far_from_the_levels_has_finite_scores_and_gradients():
    likelihood = models.VAE((), 1, levels=256)._likelihood
    frame = {"shift": jnp.asarray(100.0), "scale": jnp.asarray(50.0)}
    x = jnp.array([0.0, 1.0, 128.0, 254.0, 255.0])

    @jax.jit
    def score(u):
        return likelihood.log_prob({}, frame, u, x)

    slope = jax.jit(jax.jacobian(score))
    for mean, log_scale in ((0.0, -6.9), (50.0, -3.0), (-50.0, 5.0), (0.3, 30.0), (0.0, -30.0)):
        u = jnp.array([mean, log_scale])
        assert np.isfinite(score(u)).all()
        assert np.isfinite(slope(u)).all()


def test_starts_follow_the_data():
    rng = np.random.default_rng(0)
    shares = rng.uniform(0.05, 0.95, (4, 4))
    bits = (rng.random((4000, 4, 4)) < shares).astype(float)
    model = models.VAE((4, 4), 2, levels=2, encoder=SMALL, decoder=SMALL)
    noise = {"latent": np.zeros((1, 2)), "pixels": np.full((1, 4, 4), 0.5)}
    u = model._decode(model.init(KEY, bits), noise["latent"], None)
    np.testing.assert_allclose(jax.nn.sigmoid(u[0, 0]), shares, atol=0.04)
    grey = np.round(rng.normal(100, 20, (4000, 4, 4))).clip(0, 255)
    for model in (models.VAE((4, 4), 2, 256), models.VAE((4, 4), 2), models.VAE((16,), 2)):
        x = grey.reshape(-1, *model.shape)
        params = model.init(KEY, x)
        draws = np.asarray(jaxgen.sample(model, params, KEY, 2000), float)
        assert abs(draws.mean() - 100) < 1
        assert abs(draws.std() - 20) < 1


def test_conditions_change_the_density_and_the_draws():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 1000)
    x = (rng.random((1000, 2, 3)) < np.where(y, 0.9, 0.1)[:, None, None]).astype(int)
    model = models.VAE(
        (2, 3), 1, 2, encoder=SMALL, decoder=Spread(), y_shape=(), y_domain=domains.Levels(2)
    )
    fitted = jaxgen.fit(
        model, x, y, key=KEY, epochs=40, optimizer=jaxgen.training.Adam(2e-2), progress=False
    )
    draws = np.asarray(fitted.sample(KEY, 1000, np.repeat([0, 1], 500)))
    assert draws[:500].mean() < 0.2
    assert draws[500:].mean() > 0.8
    right, wrong = fitted.log_prob(x, y).mean(), fitted.log_prob(x, 1 - y).mean()
    assert right > wrong + 3
    assert right == pytest.approx(6 * (0.9 * math.log(0.9) + 0.1 * math.log(0.1)), abs=0.2)
    again = fitted.push(fitted.pull(x, y), y)
    assert again.shape == x.shape
    assert (np.asarray(again) == y[:, None, None]).mean() > 0.8


def test_free_bits_and_beta_change_the_divergence():
    params = LINEAR.init(KEY)
    model = dataclasses.replace(LINEAR, free_bits=0.25)
    x, noise = jnp.ones(3), jnp.zeros(2)
    # at the start q(z|x) is close to the prior
    gap = jax.jit(lambda: model.loss(params, noise, x) - LINEAR.loss(params, noise, x))()
    assert gap == pytest.approx(0.5, abs=1e-2)
    weighted = dataclasses.replace(model, beta=3.0)
    more = jax.jit(lambda: weighted.loss(params, noise, x) - model.loss(params, noise, x))()
    assert more == pytest.approx(2 * 0.5, abs=1e-2)


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"levels": 2, "likelihood": "gaussian"}, ValueError, "levels must be None for likelihood"),
        ({"likelihood": "logistic"}, ValueError, "levels must be at least 2"),
        ({"levels": 1}, ValueError, "levels must be at least 2 for likelihood 'logistic', got 1"),
        ({"levels": 3, "likelihood": "bernoulli"}, ValueError, "levels must be 2 or None"),
        ({"likelihood": "poisson"}, ValueError, "likelihood must be one of"),
        ({"encoder": networks.MLP((2,))}, ValueError, "encoder must have y_shape None"),
        ({"decoder": networks.MLP((2,))}, ValueError, "decoder must have y_shape None"),
        ({"decoder": 3}, TypeError, "decoder must be a Network"),
        ({"y_domain": domains.Levels(2)}, ValueError, "y_domain must be None"),
        ({"latent": 0}, ValueError, "latent must be at least 1"),
        ({"samples": 0}, ValueError, "samples must be at least 1"),
        ({"free_bits": -1.0}, ValueError, "free_bits must be at least 0"),
    ],
)
def test_bad_fields(fields, error, text):
    with pytest.raises(error, match=text):
        models.VAE((3,), **fields)


def test_events_that_are_no_levels_are_refused():
    x = np.array([[0, 1, 2]] * 5)
    with pytest.raises(ValueError, match="support"):
        jaxgen.fit(models.VAE((3,), 1, levels=2), x, key=KEY)
    fitted = jaxgen.Fitted(models.VAE((3,), 1, 3), models.VAE((3,), 1, 3).init(KEY))
    assert np.isneginf(fitted.log_prob(np.array([[0, 0.5, 1], [0, 1, 3.0]]))).all()
