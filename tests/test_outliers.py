"""Outliers: percentiles that compare rows with different values missing, and values to blame."""

import jax
import numpy as np
import pytest
from scipy.stats import kstest

import jaxgen
from jaxgen import compose, models
from jaxgen.metrics import outlier_scores, outliers

KEY, N, DRAWS = jax.random.key(0), 1000, 4000
RNG = np.random.default_rng(0)
MIX = np.array([[1, 0.9, 0], [0, 0.4, 0], [0, 0, 1]])
X = RNG.normal(size=(500, 3)) @ MIX * [1, 100, 1e-3] + [0, 500, 0]
Y = np.array(["pear", "plum"])[np.arange(500) % 2]
BLANK = RNG.random((N, 3)) < 0.3
FLOW = models.MaskedAutoregressive(3, 1, 4, 1, "affine", y_shape=(1,))


@pytest.fixture(scope="module")
def fits():
    plum = (Y == "plum")[:, None]  # another mean and deviation
    labelled = np.where(plum, 3 * X + [1, 200, 0], X)
    gaussian = jaxgen.fit(models.Gaussian(), X, key=KEY)
    gaussian.columns = ("a", "b", "c")
    return {
        "gaussian": gaussian,
        "per class": jaxgen.fit(compose.PerClass(models.Gaussian()), labelled, Y, key=KEY),
        "kde": jaxgen.fit(models.KDE(), X, key=KEY),
        "flow": jaxgen.Fitted(FLOW, FLOW.init(KEY)),
    }


@pytest.mark.parametrize(
    ("name", "labels", "blank"),
    [
        ("gaussian", False, False),
        ("gaussian", False, True),
        ("per class", False, True),
        ("per class", True, True),
        ("kde", False, False),
        ("flow", True, False),
    ],
)
def test_draws_of_the_model_have_uniform_percentiles(fits, name, labels, blank):
    """Whatever is missing, and given y or not, with a mean blame of 0."""
    fitted = fits[name]
    y = np.linspace(-2, 2, N)[:, None] if name == "flow" else None
    if labels and name != "flow":
        x, y = fitted.sample(jax.random.key(1), N, with_labels=True)
    else:
        x = fitted.sample(jax.random.key(1), N, y)
    x = np.where(BLANK, np.nan, x) if blank else np.asarray(x)
    found = outliers(fitted, x, y, key=KEY, n_samples=DRAWS)
    draws = 2**20 // N if name == "flow" else DRAWS
    # rows are independent, but rows of one set share their draws
    limit = 1.95 * (1 / N + 1 / draws) ** 0.5  # exceeded by one seed in a thousand
    assert kstest(found.percentile / 100, "uniform").statistic < limit
    shown = ~BLANK if blank else np.ones_like(BLANK)
    np.testing.assert_array_equal(np.isnan(found.blame), ~shown)
    mean = np.nanmean(found.blame)
    assert abs(mean) < 0.1
    expected = fitted.log_prob(x[:9], None if y is None else y[:9])
    np.testing.assert_allclose(found.log_prob[:9], expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["gaussian", "per class", "kde"])
def test_a_planted_value_is_found_and_blamed(fits, name):
    fitted = fits[name]
    x = np.array(fitted.sample(jax.random.key(2), N))
    x[7, 1] += 5 * x[:, 1].std()
    x[8] = x[9]
    x[8, 0] += 3 * x[:, 0].std()  # usual alone, unusual beside feature 1
    found = outliers(fitted, x, key=KEY)
    assert {7, 8} <= set(found.worst(20).tolist())
    assert found.worst(1) == [7]
    assert found.percentile[7] < 0.1
    assert found.most_blamed()[7] == 1
    assert found.most_blamed()[8] in (0, 1)
    assert found.blame[8, 2] < found.blame[8, :2].max()
    assert found.blame[7, 1] > 10


def test_units_do_not_matter(fits):
    units = np.array([1e3, 1e-2, 1e5])
    fitted = jaxgen.fit(models.Gaussian(), X * units, key=KEY)
    x = np.where(BLANK[:500], np.nan, X)
    before = outliers(fits["gaussian"], x, key=KEY)
    after = outliers(fitted, x * units, key=KEY)
    np.testing.assert_allclose(after.percentile, before.percentile, atol=0.2)
    np.testing.assert_allclose(after.blame, before.blame, atol=0.05)


def test_rows_without_density(fits):
    box = jaxgen.Fitted(models.Box(2), {"low": np.zeros(2), "high": np.ones(2)})
    x = [[0.5, 0.5], [0.5, 3], [-1, 3], [np.nan, 3], [np.nan, np.nan]]
    found = outliers(box, x, key=KEY, n_samples=100)
    np.testing.assert_allclose(found.percentile, [50, 50 / 101, 50 / 101, 50 / 101, 50])
    np.testing.assert_array_equal(found.most_blamed()[1:], [1, -1, 1, -1])
    assert found.blame[1, 1] == np.inf
    assert abs(found.blame[0]).max() < 1e-6
    lines = str(found).splitlines()
    assert lines[1].split() == ["1", "0.495", "%", "-inf", "0", "x1=3", "(inf)"]
    assert lines[2].endswith(" -")


def test_equal_scores_count_half():
    bits = jaxgen.Fitted(models.Bernoulli((2,)), {"logits": np.array([0.0, -30.0])})
    found = outliers(bits, np.array([[0, 0], [1, 0], [0, 1]]), key=KEY, n_samples=100)
    np.testing.assert_allclose(found.percentile, [50, 50, 50 / 101])
    assert found.most_blamed()[2] == 1


def test_work_is_bounded(fits, monkeypatch):
    x = np.where(BLANK, np.nan, fits["gaussian"].sample(jax.random.key(1), N))
    whole = outliers(fits["kde"], X[:50], key=KEY)
    monkeypatch.setattr(outlier_scores, "_NUMBERS", 4000)
    cut = outliers(fits["kde"], X[:50], key=KEY)
    np.testing.assert_allclose(cut.percentile, whole.percentile)
    np.testing.assert_allclose(cut.blame, whole.blame, atol=1e-4)
    monkeypatch.setattr(outlier_scores, "_BLAMED", 30)
    some = outliers(fits["kde"], X[:50], key=KEY)
    measured = np.flatnonzero(np.isfinite(some.blame).all(1))
    assert set(measured) == set(whole.worst(10))
    np.testing.assert_allclose(some.blame[measured], whole.blame[measured], atol=1e-4)
    assert (some.most_blamed()[whole.worst()[10:]] == -1).all()
    monkeypatch.setattr(outlier_scores, "_SCORES", 500)
    found = outliers(fits["gaussian"], x, key=KEY)
    assert found.percentile.min() == 50 / 101  # the least number of draws
    assert kstest(found.percentile / 100, "uniform").statistic < 0.15


def test_errors_name_the_argument(fits):
    with pytest.raises(ValueError, match=r"NaN, first in row 3\), which KDE does not take"):
        outliers(fits["kde"], np.where(np.arange(500)[:, None] == 3, np.nan, X), key=KEY)
    with pytest.raises(
        ValueError, match=r"x must have one batch dimension, not empty; got shape \(0, 3\)"
    ):
        outliers(fits["kde"], X[:0], key=KEY)
    with pytest.raises(ValueError, match="n_samples must be at least 2"):
        outliers(fits["kde"], X, key=KEY, n_samples=1)
    with pytest.raises(ValueError, match="y is missing"):
        outliers(fits["flow"], X, key=KEY)


def test_a_table_and_names(fits):
    table = {"c": X[:9, 2], "a": X[:9, 0], "b": X[:9, 1], "city": ["Oslo"] * 9}
    found = outliers(fits["gaussian"], table, key=KEY, n_samples=100)
    assert found.columns == ("a", "b", "c")
    np.testing.assert_allclose(found.x, X[:9], rtol=1e-6)
    rows = found.table(3, [f"id{i}" for i in range(9)]).splitlines()
    assert len(rows) == 4
    assert rows[1].startswith(f"id{found.worst(1)[0]} ")
