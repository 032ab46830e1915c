"""Fits of data in raw units: any offset and scale, narrow and far clusters, awkward columns.

The law "units" holds every family that rescales to this; here are the others, and ordinary data
with which EM used to give up.
"""

import jax
import numpy as np
import pytest

import jaxgen
from jaxgen import compose, models
from jaxgen.fit import Adam

KEY = jax.random.key(0)


def rng():
    return np.random.default_rng(0)


def outliers():
    return np.r_[rng().normal(size=(200, 2)), [[1000, 1000], [1100, 1100]]]


def clusters(deviation):
    centres = np.array([[0.0, 0.0], [1000.0, 0.0], [0.0, 1000.0]])
    return np.repeat(centres, 67, 0) + deviation * rng().normal(size=(201, 2))


def cauchy():
    return rng().standard_cauchy(size=(200, 2))


def columns():
    """A constant column, one of few levels, one that is another's copy, one mostly zero."""
    x = rng().normal(size=(200, 2))
    level, rare = rng().integers(3, size=200), np.where(rng().random(200) < 0.05, 4e5, 0)
    return np.stack([x[:, 0], 3 * x[:, 0] + 1e3, level, rare, np.full(200, 7.0)], 1)


def copies():
    return np.repeat(np.array([[0.0, 1.0], [2e6, 3.0]]), 100, 0)


AWKWARD = {
    "outliers": outliers,
    "near clusters": lambda: clusters(10.0),
    "far clusters": lambda: clusters(0.1),
    "farther clusters": lambda: clusters(0.01),
    "heavy tails": cauchy,
    "columns": columns,
    "copies": copies,
    "few rows": lambda: 1e9 * rng().normal(size=(5, 2)),
}


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
@pytest.mark.parametrize("name", AWKWARD)
def test_em_of_a_mixture_never_gives_up(name, covariance):
    x = AWKWARD[name]()
    fitted = jaxgen.fit(models.GaussianMixture(x.shape[1], 4, covariance), x, key=KEY)
    assert not fitted.history["stopped"].startswith("nan")
    assert np.isfinite(fitted.log_prob(x)).all()
    assert all(np.isfinite(leaf).all() for leaf in fitted.params.values())


@pytest.mark.parametrize("name", ["outliers", "columns", "copies"])
def test_em_of_any_mixture_never_gives_up(name):
    x = AWKWARD[name]()
    model = compose.Mixture(models.Gaussian(x.shape[1]), 4)
    fitted = jaxgen.fit(model, x, key=KEY, epochs=20)
    assert not fitted.history["stopped"].startswith("nan")
    assert np.isfinite(fitted.log_prob(x)).all()


@pytest.mark.parametrize("deviation", [10.0, 0.1])
def test_clusters_keep_their_width_however_far_apart_they_are(deviation):
    fitted = jaxgen.fit(models.GaussianMixture(2, 3), clusters(deviation), key=KEY)
    scales = np.diagonal(fitted.params["scale_tril"], axis1=1, axis2=2)
    assert np.allclose(scales, deviation, rtol=0.25)


def test_jitter_is_relative_to_the_data():
    x = 1e-4 * rng().normal(size=(1000, 2))
    for model in (models.GaussianMixture(2, 1), models.Gaussian(2, jitter=1e-6)):
        fitted = jaxgen.fit(model, x, key=KEY)
        assert np.allclose(np.diagonal(fitted.params["scale_tril"], axis1=-2, axis2=-1), 1e-4, rtol=0.1)


@pytest.mark.parametrize(
    ("table", "components"), [("wine", 4), ("wine", 16), ("breast_cancer", 4)]
)
def test_em_on_raw_units_reaches_what_scikit_learn_does_on_standard_ones(table, components):
    """Real tables, of 13 and 30 columns whose deviations differ by up to 2e5."""
    datasets = pytest.importorskip("sklearn.datasets")
    from sklearn.mixture import GaussianMixture

    x = getattr(datasets, f"load_{table}")().data
    scale = x.std(0)
    peer = GaussianMixture(components, n_init=2, random_state=0).fit((x - x.mean(0)) / scale)
    peer_score = peer.score((x - x.mean(0)) / scale) - np.log(scale).sum()
    model = models.GaussianMixture(x.shape[1], components)
    fitted = jaxgen.fit(model, x, key=KEY, restarts=2)
    assert np.asarray(fitted.log_prob(x), float).mean() > peer_score - 0.01


@pytest.mark.parametrize(
    "model",
    [models.Box(2), models.Histogram((3, 4)), compose.Mixture(models.Box(2), 2)],
    ids=["box", "histogram", "boxes"],
)
def test_fits_of_models_with_edges_do_not_depend_on_units(model):
    x = np.r_[rng().uniform(size=(100, 2)), rng().uniform(3, 4, size=(50, 2))]
    scale, shift = np.array([1e-9, 1e7]), np.array([3e-9, -2e8])
    score, other = (
        jaxgen.fit(model, data, key=KEY).log_prob(data) for data in (x, scale * x + shift)
    )
    assert np.allclose(other + np.log(scale).sum(), score, atol=1e-3)


def test_history_is_in_the_units_of_the_data():
    x = 1e-3 * rng().normal(size=(300, 2)) + 5
    x[::7, 1] = np.nan
    y = np.arange(300) % 2
    for model, labels in (
        (models.GaussianMixture(2, 2), None),
        (compose.PerClass(models.GaussianMixture(2, 2), 2), y),
    ):
        fitted = jaxgen.fit(model, x, labels, key=KEY)
        score = np.asarray(fitted.log_prob(x, labels), float).mean()
        assert fitted.history["train"][-1] == pytest.approx(score, abs=1e-3)


def test_a_fit_goes_on_from_params_in_the_units_of_the_data():
    x = 1e4 * rng().normal(size=(300, 2)) + 1e5
    model = models.GaussianMixture(2, 2)
    fitted = jaxgen.fit(model, x, key=KEY)
    again = jaxgen.fit(fitted, x, key=KEY)
    assert again.history["steps"] <= 2
    assert again.history["train"][0] == pytest.approx(fitted.history["train"][-1], abs=1e-4)
    frozen = jaxgen.fit(fitted, x, key=KEY, optimizer=Adam(1e-3), epochs=2, freeze="mean")
    assert np.array_equal(frozen.params["mean"], fitted.params["mean"])
