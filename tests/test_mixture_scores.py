"""Scores and gradients of mixtures against scores in float64, for each way to compute them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgen
from jaxgen import models

DIMS = 9, 17, 40  # sums written out, products, products of some rows at a time with a remainder
COMPONENTS = 3


def mixture(dim, covariance="full", offset=0.0, width=1.0):
    """A mixture, its params and rows in float32, and the scores of the rows in float64."""
    rng = np.random.default_rng(dim)
    model = models.GaussianMixture(dim, COMPONENTS, covariance)
    mean = (offset * rng.normal(size=(COMPONENTS, dim))).astype(np.float32)
    full = covariance == "full"
    noise = 0.2 * np.tril(rng.normal(size=(COMPONENTS, dim, dim)), -1) / np.sqrt(dim)
    scale = (width * (noise + np.eye(dim))).astype(np.float32)
    scale = scale if full else scale[:, 0] + np.float32(width)
    logits = np.log([0.2, 0.3, 0.5]).astype(np.float32)
    params = {"logits": logits, "mean": mean, "scale_tril" if full else "scale": scale}
    which = rng.integers(0, COMPONENTS, 1500)  # more rows than one tile holds
    x = (mean[which] + width * rng.normal(size=(len(which), dim))).astype(np.float32)
    return model, params, x, score(params, x)


def score(params, x):
    """log p of rows in float64, by a solution for each component."""
    logits, mean, scale = (np.asarray(v, np.float64) for v in params.values())
    scale = scale if scale.ndim == 3 else np.eye(scale.shape[1]) * scale[:, None]
    terms = []
    for k, root in enumerate(scale):
        z = np.linalg.solve(root, (x - mean[k]).T)
        terms.append(logits[k] - np.log(np.diag(root)).sum() - 0.5 * (z * z).sum(0))
    return np.logaddexp.reduce(terms) - 0.5 * x.shape[1] * np.log(2 * np.pi)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
@pytest.mark.parametrize("dim", DIMS)
def test_narrow_components_far_apart_keep_their_digits(dim, covariance):
    model, params, x, exact = mixture(dim, covariance, offset=1e3, width=1e-2)
    scores = np.asarray(jaxgen.Fitted(model, params).log_prob(x), np.float64)
    # distances in scales have 1e-7 of their size, those from a shared centre would have 1e-2
    np.testing.assert_allclose(scores, exact, rtol=1e-5, atol=dim * 3e-5)


@pytest.mark.parametrize("dim", DIMS)
def test_gradients(dim):
    model, params, x, _ = mixture(dim, offset=1.0)
    x = x[:4].copy()
    x[0] = 1e25  # where the density underflows

    @jax.jit
    def scores_and_gradients(params, x):
        scores, pull = jax.vjp(lambda p, x: jaxgen.log_prob(model, p, x), params, x)
        return scores, *pull(jnp.ones_like(scores))

    scores, by_params, by_x = scores_and_gradients(params, x)
    assert scores[0] == -np.inf
    assert np.isfinite(scores[1:]).all()
    assert not np.asarray(by_x)[0].any()
    rows, step = np.asarray(x[1:], np.float64), 1e-5
    for name, feature in (("mean", (1, 2)), ("scale_tril", (2, dim - 1, dim - 2))):
        ends = []
        for sign in (1, -1):
            moved = {k: np.asarray(v, np.float64) for k, v in params.items()}
            moved[name][feature] += sign * step
            ends.append(score(moved, rows).sum())
        expected = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(by_params[name][feature], expected, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("dim", DIMS)
def test_an_em_step_has_the_moments_of_its_responsibilities(dim):
    model, params, x, exact = mixture(dim, offset=1.0)
    weights = np.linspace(0.5, 1.5, len(x)).astype(np.float32)
    new, mean_score = jax.jit(model.em_step)(params, x, None, weights)
    np.testing.assert_allclose(mean_score, (weights * exact).sum() / weights.sum(), rtol=1e-5)
    share = np.asarray(jaxgen.Fitted(model, params).responsibilities(x), np.float64)
    share = share * weights[:, None]
    mean = share.T @ x / share.sum(0)[:, None]
    np.testing.assert_allclose(new["mean"], mean, atol=1e-4)
    centred = x[None] - mean[:, None]
    matrices = np.einsum("nk,kni,knj->kij", share, centred, centred) / share.sum(0)[:, None, None]
    np.testing.assert_allclose(model.covariances(new), matrices, atol=2e-4)
