"""NaN as a missing value, in the public fit, log_prob, classify and impute."""

import jax
import numpy as np
import pytest

import jaxgen
from jaxgen import compose, models
from jaxgen.training import Adam

KEY = jax.random.key(0)
COVARIANCE = np.array([[1.0, 0.8, 0.3], [0.8, 1.5, 0.2], [0.3, 0.2, 0.7]])


def events(n=4000, share=0.2, seed=0):
    """Complete rows of a normal, and the same rows with missing values; no row is empty."""
    rng = np.random.default_rng(seed)
    x = rng.multivariate_normal([1.0, -2.0, 5.0], COVARIANCE, n)
    holes = np.where(rng.random(x.shape) < share, np.nan, x)
    holes[np.isnan(holes).all(1), 0] = 1.0
    return x, holes


MODELS = (
    models.Gaussian(3),
    models.Gaussian(3, "diagonal"),
    models.GaussianMixture(3, 2),
    models.GaussianMixture(3, 2, "diagonal"),
    models.Box(3),
    compose.Product((models.Gaussian(2), models.Box(1))),
    compose.Mixture(models.Gaussian(3, "diagonal", jitter=1e-3), 2),
    compose.PerClass(models.Gaussian(3), 2),
    compose.PerClass(models.GaussianMixture(3, 2), 2),
)


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_learns_scores_and_completes(model):
    x, holes = events()
    y = (x[:, 0] > 1).astype(int) if model.classes else None
    fitted = jaxgen.fit(model, holes, y, key=KEY)
    whole = jaxgen.fit(model, x, y, key=KEY)
    gap = np.asarray(whole.log_prob(x), np.float64) - np.asarray(fitted.log_prob(x))
    gap = gap[np.isfinite(gap)]  # a box of fewer values is smaller, so some rows have zero density
    assert len(gap) > 0.99 * len(x)
    assert abs(gap.mean()) < (0.2 if "Box" in repr(model) else 0.05)
    empty = np.full((1, 3), np.nan)
    *scores, nothing = np.asarray(fitted.log_prob(np.concatenate([holes, empty])))
    assert np.isfinite(scores).all()
    assert nothing == pytest.approx(0.0, abs=1e-5)
    inside = jax.jit(lambda x: jaxgen.log_prob(model, fitted.params, x))
    np.testing.assert_allclose(inside(holes.astype(np.float32)), scores, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(inside(x.astype(np.float32)), fitted.log_prob(x), rtol=1e-4)
    filled = np.asarray(fitted.impute(holes, KEY))
    known = ~np.isnan(holes)
    assert np.isfinite(filled).all()
    assert (filled[known] == holes.astype(np.float32)[known]).all()
    assert not (filled == np.asarray(fitted.impute(holes, jax.random.key(1)))).all()
    if model.classes:
        # up to rounding, which in matrix products depends on the size of the block
        np.testing.assert_allclose(filled[:7], fitted.impute(holes[:7], KEY), rtol=1e-5)
        log_p = np.asarray(fitted.classify(empty))[0]
        np.testing.assert_allclose(log_p, model.log_prior(fitted.params), atol=1e-5)


def test_a_missing_value_follows_the_label_that_the_rest_suggests():
    """Classes are far apart with frequencies 9 to 1; values of the rare class follow it."""
    rng = np.random.default_rng(0)
    label = (rng.random(2000) < 0.1).astype(int)
    x = 20.0 * label[:, None] + rng.normal(size=(2000, 2))
    fitted = jaxgen.fit(compose.PerClass(models.Gaussian(2), 2), x, label, key=KEY)
    rare = np.where([True, False], x[label == 1], np.nan)
    filled = np.asarray(fitted.impute(rare, KEY))
    np.testing.assert_allclose(filled[:, 1].mean(), 20, atol=0.5)


def test_rows_of_zero_density_are_not_imputed():
    """NaN stays where the other values have zero density under the model or the given label."""
    x = np.random.default_rng(0).uniform(size=(200, 2))
    label = np.arange(200) % 2
    boxes = jaxgen.fit(compose.PerClass(models.Box(2), 2), x + 5.0 * label[:, None], label, key=KEY)
    nan = np.nan
    rows = np.array([[0.5, nan], [5.5, nan], [3.0, nan], [nan, np.inf], [nan, nan], [9.0, 9.0]])
    for y, drawn in ((None, [0, 1, 4, 5]), (0, [0, 4, 5]), (1, [1, 4, 5])):
        filled = np.asarray(boxes.impute(rows, KEY, y))
        known = ~np.isnan(rows)
        assert (filled[known] == rows.astype(np.float32)[known]).all()
        assert np.flatnonzero(~np.isnan(filled).any(1)).tolist() == drawn
    # a traced value cannot raise, so the result is NaN
    given = jax.jit(lambda value: boxes.given({0: value}).log_prob(rows[:1, :1]))
    assert np.isfinite(given(0.5))
    assert np.isnan(given(3.0))


def test_recovers_a_covariance_that_imputed_means_would_bias():
    _, holes = events(20_000, 0.3)
    fitted = jaxgen.fit(models.Gaussian(3), holes, key=KEY)
    scale = np.asarray(fitted.params["scale_tril"], np.float64)
    assert np.abs(scale @ scale.T - COVARIANCE).max() < 0.05
    assert fitted.history["method"] == "em"
    assert np.diff(fitted.history["train"]).min() > -1e-5
    filled = np.asarray(fitted.impute(holes, KEY))
    assert np.abs(np.cov(filled.T) - COVARIANCE).max() < 0.06


def test_levels():
    """Independent discrete features: each is estimated from the rows that have a value of it."""
    rng = np.random.default_rng(0)
    x = rng.choice(3, size=(2000, 4), p=[0.5, 0.3, 0.2]).astype(float)
    x[rng.random(x.shape) < 0.3] = np.nan
    x = x[~np.isnan(x).all(1)]
    fitted = jaxgen.fit(models.Categorical((4,), levels=3), x, key=KEY)
    wanted = [np.bincount(c[~np.isnan(c)].astype(int)) for c in x.T]
    probs = np.exp(np.asarray(fitted.params["logits"]))
    np.testing.assert_allclose(probs, [(w + 1) / (w + 1).sum() for w in wanted], rtol=1e-5)
    filled = np.asarray(fitted.impute(x, KEY))
    assert set(np.unique(filled)) == {0, 1, 2}


def test_one_clear_error():
    x, holes = events(300)
    column, row = x.copy(), holes.copy()
    column[:, 1] = np.nan
    row[17] = np.nan
    whole = jaxgen.fit(models.Gaussian(3), x, key=KEY)
    flow = models.SplineCoupling(3, 2, 4, 1, 3)
    for call, kind, message in (
        (lambda: jaxgen.fit(models.Gaussian(3), column, key=KEY), ValueError, "in feature 1"),
        (lambda: jaxgen.fit(models.Gaussian(3), row, key=KEY), ValueError, "in row 17"),
        (lambda: jaxgen.fit(flow, holes, key=KEY), ValueError, "x must be finite, but holds NaN"),
        (lambda: jaxgen.fit(models.KDE(3), holes, key=KEY), ValueError, "x must be finite"),
        (
            lambda: jaxgen.fit(models.Gaussian(3), holes, key=KEY, optimizer=Adam()),
            ValueError,
            "x must be finite",
        ),
        (
            lambda: jaxgen.fit(models.Gaussian(3), np.where(x > 3, np.inf, holes), key=KEY),
            ValueError,
            "infinite",
        ),
        (
            lambda: jaxgen.Fitted(flow, {}).impute(holes, KEY),
            NotImplementedError,
            "cannot draw missing values",
        ),
        (lambda: whole.impute(holes[:, :2], KEY), ValueError, "x must have shape"),
    ):
        with pytest.raises(kind, match=message):
            call()
