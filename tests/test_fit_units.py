"""Fits of data in raw units: any offset and scale, narrow and far clusters, awkward columns.

The law "units" holds every family that rescales to this; here are the others, and ordinary data
with which EM used to give up.
"""

import jax
import numpy as np
import pytest

import jaxgen
from jaxgen import compose, models, networks
from jaxgen.core.inputs import check_resolution
from jaxgen.core.precision import enable_x64
from jaxgen.data import tables
from jaxgen.training import Adam

KEY = jax.random.key(0)
GIVEN_Y = compose.Conditional(networks.MLP((), 4, 1), models.Gaussian(1, jitter=1e-6))


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


@pytest.mark.parametrize("covariance", ["full", "tied", "diagonal", "spherical"])
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
        assert np.allclose(
            np.diagonal(fitted.params["scale_tril"], axis1=-2, axis2=-1), 1e-4, rtol=0.1
        )


@pytest.mark.parametrize(("table", "components"), [("wine", 4), ("wine", 16), ("breast_cancer", 4)])
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


def near(offset, deviation=1.0, rows=2000):
    return offset + deviation * rng().normal(size=(rows, 1))


TOO_FINE = {
    "an offset": near(1e8),
    "seconds since 1970": near(1.7e9, 30.0),
    "whole seconds": np.round(near(1.7e9, 30.0)).astype(np.int64),
    "few rows": near(1e8, rows=5),
    "negative": near(-3e7),
    "a narrow cluster far from others": np.r_[np.zeros((1000, 1)), near(1e8, rows=1000)],
    "rounding noise": 0.1 + 1e-17 * rng().integers(2, size=(100, 1)),
    "large integers": 10**17 + rng().integers(0, 100, size=(500, 1)),
}
FINE = {
    "an offset": near(1e3),
    "a year": near(2010.0, 3.0),
    "days": near(2.45e6, 1000.0),
    "whole numbers": 10**7 + rng().integers(0, 100, size=(500, 1)),
    "nanoseconds of years": 17 * 10**17 + rng().integers(0, 10**17, size=(500, 1)),
    "many scales": np.exp(20 * rng().normal(size=(2000, 1))),
    "rounded sums": np.array([[0.1 + 0.2], [0.3], [0.1], [0.7], [0.1 * 7]]),
    "in float32 already": near(1e8).astype(np.float32),
    "a constant": np.full((100, 1), 1e8 + 0.3),
}


@pytest.mark.parametrize("name", TOO_FINE)
def test_data_that_float32_cannot_tell_apart_is_refused(name):
    x = np.concatenate([TOO_FINE[name], 0 * TOO_FINE[name]], 1)
    for model, data, where in (
        (models.Gaussian(2, jitter=1e-6), (x,), "x needs .* float32 .* feature 0 .* subtract"),
        (models.Box(2), (x,), "x needs"),
        (GIVEN_Y, (x[:, 1:], x[:, 0]), "y needs"),
    ):
        with pytest.raises(ValueError, match=where):
            jaxgen.fit(model, *data, key=KEY)


@pytest.mark.parametrize("name", FINE)
def test_data_that_float32_can_tell_apart_is_taken(name):
    check_resolution(FINE[name], "x")


def test_float64_takes_what_float32_cannot():
    x = near(1e8)
    with enable_x64(True):
        fitted = jaxgen.fit(models.Gaussian(1), x, key=KEY)
        assert np.asarray(fitted.log_prob(x)).mean() == pytest.approx(-1.42, abs=0.03)


def test_conditions_beyond_32_bits_are_those_that_were_given():
    y = rng().integers(2_900_000_000, 3_100_000_000, size=300)
    x = ((y - 3e9) / 1e8)[:, None] + rng().normal(size=(300, 1))
    fitted = jaxgen.fit(GIVEN_Y, x, y, key=KEY, epochs=1)
    assert np.array_equal(fitted.log_prob(x, y), fitted.log_prob(x, y.astype(float)))
    draws = [fitted.sample(KEY, 5, value) for value in (3_000_000_000, 3e9)]
    assert np.array_equal(*draws)
    with pytest.raises(ValueError, match="y must fit in float32"):
        fitted.log_prob(x, 1e300)


def test_masked_entries_are_missing_values(tmp_path):
    x = rng().normal(size=(200, 2))
    x[::9, 0] = -9999
    masked, blank = np.ma.masked_equal(x, -9999), np.where(x == -9999, np.nan, x)
    fitted, wanted = (
        jaxgen.fit(models.Gaussian(2, "diagonal"), v, key=KEY) for v in (masked, blank)
    )
    assert np.array_equal(fitted.params["mean"], wanted.params["mean"])
    assert np.array_equal(fitted.log_prob(masked), wanted.log_prob(blank))
    assert np.array_equal(fitted.impute(masked, KEY), wanted.impute(blank, KEY))
    tables.write(tmp_path / "x.csv", masked)
    assert np.array_equal(tables.read(tmp_path / "x.csv").values, blank, equal_nan=True)
    whole = np.ma.masked_equal(np.arange(200) % 4, 3)
    with pytest.raises(ValueError, match="y must be known, but is masked in row 3"):
        jaxgen.fit(
            compose.PerClass(models.Gaussian(2), 3), blank[1:2].repeat(200, 0), whole, key=KEY
        )
    with pytest.raises(ValueError, match="weights must be finite"):
        jaxgen.fit(models.Gaussian(2), x, weights=whole, key=KEY)
    with pytest.raises(ValueError, match="x must be finite, but holds NaN"):
        jaxgen.fit(models.KDE(2), masked, key=KEY)


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
    x = 1e4 * rng().normal(size=(300, 2)) + 1e5 * (1 + np.arange(300)[:, None] % 2)
    model = models.GaussianMixture(2, 2)
    fitted = jaxgen.fit(model, x, key=KEY)
    assert fitted.history["stopped"] == "converged"
    again = jaxgen.fit(fitted, x, key=KEY)
    assert again.history["steps"] <= 2
    assert again.history["train"][0] == pytest.approx(fitted.history["train"][-1], abs=1e-4)
    frozen = jaxgen.fit(fitted, x, key=KEY, optimizer=Adam(1e-3), epochs=2, freeze="mean")
    assert np.array_equal(frozen.params["mean"], fitted.params["mean"])
