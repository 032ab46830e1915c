"""Mixtures of different models: fits, weights alone, gradients of a fraction, files and parts."""

import jax
import numpy as np
import pytest

import jaxgen
from jaxgen import compose, models

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
SIGNAL = RNG.normal([2.0, 0.0], 0.1, (300, 2))
BACKGROUND = RNG.uniform(-4, 4, (900, 2))
X = np.concatenate([SIGNAL, BACKGROUND])
BOTH = compose.MixtureGeneral((models.Gaussian(2, "diagonal"), models.Box(2)))


@pytest.fixture(scope="module")
def parts():
    return [
        jaxgen.fit(model, x, key=KEY)
        for model, x in zip(BOTH.components, (SIGNAL, BACKGROUND), strict=True)
    ]


@pytest.fixture(scope="module")
def fitted(parts):
    params = BOTH.params_of([0.5, 0.5], *(part.params for part in parts))
    return fit_weights(jaxgen.Fitted(BOTH, params), KEY)


def fit_weights(start, key):
    adam = jaxgen.training.Adam(0.05)
    return jaxgen.fit(start, X, key=key, optimizer=adam, freeze=("components",), epochs=30)


def test_few_numbers_are_learnt_from_all_rows(fitted):
    """A few held-out rows would decide by chance which weights are best."""
    assert fitted.history["validation"] == []
    for seed in range(4):
        other = fit_weights(fitted, jax.random.key(seed))
        shift = BOTH.weights(other.params) - BOTH.weights(fitted.params)
        assert np.abs(shift).max() < 0.005


def test_weights_alone_are_learnt(fitted, parts):
    np.testing.assert_allclose(BOTH.weights(fitted.params), [0.25, 0.75], atol=0.02)
    for part, held in zip(parts, fitted.params["components"], strict=True):
        jax.tree_util.tree_map(np.testing.assert_array_equal, part.params, held)
    labels = np.asarray(fitted.responsibilities(X)).argmax(1)
    assert (labels[:300] == 0).mean() > 0.97
    assert (labels[300:] == 1).mean() > 0.97


def test_density_is_the_weighted_sum(fitted, parts):
    weights = np.asarray(BOTH.weights(fitted.params))
    each = [w * np.exp(part.log_prob(X)) for w, part in zip(weights, parts, strict=True)]
    np.testing.assert_allclose(np.exp(fitted.log_prob(X)), sum(each), rtol=1e-4)


def test_draws_say_their_component(fitted):
    x, component = fitted.sample(KEY, 4000, with_labels=True)
    assert component.mean() == pytest.approx(0.75, abs=0.03)
    np.testing.assert_allclose(np.asarray(x)[component == 0].mean(0), [2.0, 0.0], atol=0.03)
    frame = fitted.sample(KEY, 3, as_frame=True, with_labels=True)
    assert list(frame.columns) == ["x0", "x1", "component"]


def test_gradient_of_a_fraction(parts):
    def loss(fraction):
        params = BOTH.params_of([fraction, 1 - fraction], *(part.params for part in parts))
        return -jaxgen.log_prob(BOTH, params, X).mean()

    slope = jax.jit(jax.grad(loss))
    assert slope(0.2) < 0 < slope(0.3)


def test_all_is_learnt_by_em_and_saved(tmp_path):
    model = compose.MixtureGeneral(
        (
            models.Gaussian(2, "diagonal"),
            compose.Transformed(models.Gaussian(2, "diagonal"), jaxgen.bijectors.Positive()),
        )
    )
    x = np.concatenate([SIGNAL - [5.0, 0.0], np.exp(RNG.normal(0, 0.3, (300, 2)))])
    fitted = jaxgen.fit(model, x, key=KEY)
    assert fitted.history["method"] == "em"
    np.testing.assert_allclose(model.weights(fitted.params), [0.5, 0.5], atol=0.02)
    fitted.save(tmp_path / "m")
    loaded = jaxgen.load(tmp_path / "m")
    np.testing.assert_array_equal(loaded.log_prob(x), fitted.log_prob(x))
    with pytest.raises(ValueError, match="x must hold events in the support of Transformed"):
        jaxgen.fit(model, -np.abs(x), key=KEY)


def test_equal_models_start_from_different_rows():
    two = compose.MixtureGeneral((models.Gaussian(2), models.Gaussian(2)))
    x = np.concatenate([SIGNAL, SIGNAL + 5])
    fitted = jaxgen.fit(two, x, key=KEY)
    means = sorted(float(held["mean"][0]) for held in fitted.params["components"])
    np.testing.assert_allclose(means, [2.0, 7.0], atol=0.05)
    copies = jaxgen.fit(compose.Mixture(models.Gaussian(2), 2), x, key=KEY)
    assert float(fitted.log_prob(x).mean()) == pytest.approx(
        float(copies.log_prob(x).mean()), abs=1e-3
    )
    assert fitted.degrees_of_freedom == copies.degrees_of_freedom == 11


def test_parts_weigh_the_components(fitted):
    given = fitted.given({0: 2.0})
    assert given.model.components == (models.Gaussian(1, "diagonal"), models.Box(1))
    weights = given.model.weights(given.params)
    assert weights[0] > 0.9  # where the signal is


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        compose.MixtureGeneral(())
    with pytest.raises(ValueError, match="same event_shape"):
        compose.MixtureGeneral((models.Gaussian(2), models.Gaussian(3)))
    with pytest.raises(ValueError, match="same kind of numbers"):
        compose.MixtureGeneral((models.Gaussian(2), models.Bernoulli((2,))))
    with pytest.raises(ValueError, match="no labels"):
        compose.MixtureGeneral((models.Gaussian(2), compose.PerClass(models.Gaussian(2), 2)))
    params = BOTH.init(KEY)["components"]
    for weights in ([1.0], [0.0, 0.0], [-1.0, 2.0], [np.nan, 1.0]):
        with pytest.raises(ValueError, match="weights must"):
            BOTH.params_of(weights, *params)
    with pytest.raises(ValueError, match="the params of Gaussian"):
        BOTH.params_of([0.5, 0.5], params[1], params[0])
    with pytest.raises(ValueError, match="params of 2 components"):
        BOTH.params_of([0.5, 0.5], params[0])
