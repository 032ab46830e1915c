"""Densities against other libraries: relative 1e-6 in float64, 1e-4 in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats
from sklearn.mixture import GaussianMixture as SklearnMixture
from sklearn.neighbors import KernelDensity

import jaxgen
from jaxgen.core.precision import enable_x64
from jaxgen.models import KDE, Bernoulli, Box, Categorical, Gaussian, GaussianMixture, Histogram

RNG = np.random.default_rng(0)
DIM = 3
DATA = RNG.normal(size=(400, DIM)) @ RNG.normal(size=(DIM, DIM)) + [5.0, -3.0, 0.5]
QUERY = np.concatenate([DATA[:50], RNG.normal(size=(50, DIM)) * 3 + 2])


def mixture(covariance):
    """scikit-learn's mixture, its params in our form, and its scores."""
    kind = "diag" if covariance == "diagonal" else covariance
    theirs = SklearnMixture(4, covariance_type=kind, random_state=0).fit(DATA)
    params = {"logits": np.log(theirs.weights_), "mean": theirs.means_}
    if covariance in ("full", "tied"):
        params["scale_tril"] = np.linalg.cholesky(theirs.covariances_)
    else:
        params["scale"] = np.sqrt(theirs.covariances_)
    model = GaussianMixture(DIM, 4, covariance)
    return model, params, QUERY, theirs.score_samples(QUERY)


def kernel():
    bandwidth = 0.7
    # a single leaf: the bounds of a deeper tree cost digits far from the data
    tree = KernelDensity(bandwidth=bandwidth, leaf_size=2 * len(DATA), rtol=1e-12)
    theirs = tree.fit(DATA).score_samples(QUERY)
    params = {
        "points": DATA,
        "log_weights": np.zeros(len(DATA)),
        "bandwidth": np.full(DIM, bandwidth),
    }
    return KDE(DIM), params, QUERY, theirs


def full_gaussian():
    mean, cov = DATA.mean(0), np.cov(DATA.T)
    theirs = scipy.stats.multivariate_normal(mean, cov).logpdf(QUERY)
    return Gaussian(DIM), {"mean": mean, "scale_tril": np.linalg.cholesky(cov)}, QUERY, theirs


def diagonal_gaussian():
    mean, scale = DATA.mean(0), DATA.std(0)
    theirs = scipy.stats.norm(mean, scale).logpdf(QUERY).sum(1)
    return Gaussian(DIM, "diagonal"), {"mean": mean, "scale": scale}, QUERY, theirs


def box():
    low, high = DATA.min(0), DATA.max(0)
    theirs = scipy.stats.uniform(low, high - low).logpdf(QUERY).sum(1)
    return Box(DIM), {"low": low, "high": high}, QUERY, theirs


def histogram():
    counts, edges = np.histogramdd(DATA, bins=(3, 4, 5))
    with np.errstate(divide="ignore"):
        log_probs = np.log(counts / counts.sum())
        density = counts / counts.sum() / np.prod([e[1] - e[0] for e in edges])
        cell = [np.searchsorted(e, q, side="right") - 1 for e, q in zip(edges, DATA.T, strict=True)]
        cell = [np.minimum(c, len(e) - 2) for c, e in zip(cell, edges, strict=True)]
        theirs = np.log(density[tuple(cell)])
    low, high = np.array([e[0] for e in edges]), np.array([e[-1] for e in edges])
    inside = np.ones(len(DATA), bool)
    for c, e, q in zip(cell, edges, DATA.T, strict=True):  # points not at the edge of a cell
        inside &= (q - e[c] > 1e-4) & (e[c + 1] - q > 1e-4)
    params = {"log_probs": log_probs, "low": low, "high": high}
    return Histogram((3, 4, 5)), params, DATA[inside], theirs[inside]


def bernoulli():
    logits = RNG.normal(size=(2, 3))
    x = RNG.integers(0, 2, (20, 2, 3))
    theirs = dist.Bernoulli(logits=logits).to_event(2).log_prob(x)
    return Bernoulli((2, 3)), {"logits": logits}, x, theirs


def categorical():
    logits = RNG.normal(size=(4, 5))
    x = RNG.integers(0, 5, (20, 4))
    theirs = dist.Categorical(logits=logits).to_event(1).log_prob(x)
    return Categorical((4,), 5), {"logits": logits}, x, theirs


CASES = {
    "mixture, full": lambda: mixture("full"),
    "mixture, tied": lambda: mixture("tied"),
    "mixture, diagonal": lambda: mixture("diagonal"),
    "mixture, spherical": lambda: mixture("spherical"),
    "kernel": kernel,
    "gaussian, full": full_gaussian,
    "gaussian, diagonal": diagonal_gaussian,
    "box": box,
    "histogram": histogram,
    "bernoulli": bernoulli,
    "categorical": categorical,
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("x64", "rtol"), [(True, 1e-6), (False, 1e-4)])
def test_log_prob(case, x64, rtol):
    with enable_x64(x64):
        model, params, x, expected = CASES[case]()
        params = jax.tree_util.tree_map(lambda v: jnp.asarray(v, float), params)
        ours = jaxgen.Fitted(model, params).log_prob(x)
        assert ours.dtype == (jnp.float64 if x64 else jnp.float32)
        np.testing.assert_allclose(ours, np.asarray(expected), rtol=rtol)
