"""``select``: the best of several models, and mixtures that share the programs of the largest."""

import jax
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_iris

import jaxgen
from jaxgen import compose, models

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
CENTRES = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]])
X = CENTRES[RNG.integers(3, size=300)] + RNG.normal(size=(300, 2))
MIXTURES = [models.GaussianMixture(components=k) for k in (1, 2, 3, 4)]


@pytest.fixture(scope="module")
def found():
    return jaxgen.select(MIXTURES, X, key=KEY)


def test_the_true_number_of_components_wins(found):
    assert found.best.model == models.GaussianMixture(2, components=3)
    assert found.best is found.fits[2]
    assert [fitted.model.components for fitted in found.fits] == [1, 2, 3, 4]
    table = str(found).splitlines()
    assert [line.endswith("best") for line in table] == [False, False, False, True, False]


def test_scores_are_those_of_the_fits(found):
    scores = [fitted.bic(X) for fitted in found.fits]
    np.testing.assert_allclose(found.scores, scores, rtol=1e-5)
    alone = jaxgen.fit(models.GaussianMixture(2, components=3), X, key=KEY)
    assert found.best.bic(X) == pytest.approx(alone.bic(X), rel=1e-3)
    assert found.best.history["method"] == "em"


def test_held_out_rows_decide_and_the_best_is_fitted_to_all():
    frame = pd.DataFrame(X, columns=["a", "b"])
    specs = [MIXTURES[0], MIXTURES[2], models.Gaussian()]
    found = jaxgen.select(specs, frame, key=KEY, by="held_out", validation=0.5)
    assert found.best.model == models.GaussianMixture(2, components=3)
    assert found.best.columns == ("a", "b")
    assert found.best is not found.fits[1]
    # a normal by EM and in closed form, from the same half of the rows
    assert found.scores[0] == pytest.approx(found.scores[2], abs=0.01)
    assert (found.fits[1].log_prob(X).mean() - found.scores[1]) < 0.3


@pytest.mark.parametrize(
    "model",
    [
        models.GaussianMixture(2, 2, covariance="full"),
        models.GaussianMixture(2, 2, covariance="tied"),
        models.GaussianMixture(2, 2, covariance="spherical"),
        compose.Mixture(models.Gaussian(2, "diagonal"), 2),
    ],
    ids=repr,
)
def test_a_smaller_mixture_is_a_larger_one_without_some_weights(model):
    sizes = model.traits.components.sizes
    larger = sizes.model(4)
    start = larger.traits.components.sizes.init(2, KEY, np.asarray(X))
    logits = np.asarray(start["logits"])
    assert np.isfinite(logits[:2]).all()
    assert (logits[2:] == -np.inf).all()
    x, weights = jax.numpy.asarray(X, float), jax.numpy.ones(len(X))
    step = jax.jit(lambda m, p: m.em_step(p, x, None, weights), static_argnums=0)
    cut = sizes.resize(start, 2)
    new, score = step(larger, start)
    new_cut, score_cut = step(model, cut)
    assert score == pytest.approx(float(score_cut), rel=1e-5)
    assert (np.asarray(new["logits"])[2:] == -np.inf).all()
    same = jax.tree_util.tree_map(
        lambda a, b: np.allclose(a, b, rtol=1e-3, atol=1e-4), sizes.resize(new, 2), new_cut
    )
    assert all(jax.tree_util.tree_leaves(same))
    back = sizes.resize(sizes.resize(cut, 4), 2)
    jax.tree_util.tree_map(np.testing.assert_array_equal, back, cut)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="by must be one of"):
        jaxgen.select(MIXTURES, X, key=KEY, by="aicc")
    with pytest.raises(ValueError, match="a list of at least one model"):
        jaxgen.select([], X, key=KEY)
    with pytest.raises(ValueError, match="a list of at least one model"):
        jaxgen.select(models.Gaussian(), X, key=KEY)
    with pytest.raises(ValueError, match="validation must hold out some of the 300 rows"):
        jaxgen.select(MIXTURES, X, key=KEY, by="held_out", validation=1.0)
    with pytest.raises(TypeError, match="restart"):
        jaxgen.select(MIXTURES, X, key=KEY, restart=3)
    with pytest.raises(NotImplementedError):
        jaxgen.select([models.KDE()], X, key=KEY)


def test_weights_count_as_rows():
    rows = np.concatenate([X, X + 1000])
    weights = np.repeat([1.0, 0.0], 300)
    for by in ("bic", "held_out"):
        found = jaxgen.select(MIXTURES[1:3], rows, key=KEY, weights=weights, by=by)
        assert found.best.model.components == 3
        assert np.abs(found.scores).max() < 3000


def test_mixtures_inside_other_models_are_fitted_by_themselves():
    labels = (X[:, 0] > 3).astype(int)
    specs = [compose.PerClass(mixture) for mixture in MIXTURES[:2]]
    found = jaxgen.select(specs, X, labels, key=KEY)
    np.testing.assert_allclose(found.scores, [f.bic(X, labels) for f in found.fits], rtol=1e-6)


def test_collapsed_components_are_not_chosen():
    """The values of iris are rounded, and components that hold equal rows score high."""
    mixtures = [models.GaussianMixture(components=k) for k in (2, 4)]
    found = jaxgen.select(mixtures, load_iris().data, key=KEY, restarts=4)
    assert found.best.model.components == 2
    assert found.scores[1] > 600  # 335 with a collapsed component


@pytest.mark.parametrize("covariance", ["full", "diagonal", "spherical"])
def test_a_component_that_collapses_is_warned_of(covariance):
    x = np.where(
        np.arange(300)[:, None] % 2 == 0, 7.0, np.random.default_rng(1).normal(size=(300, 1))
    )
    model = models.GaussianMixture(components=2, covariance=covariance)
    with pytest.warns(RuntimeWarning, match="a component has collapsed onto equal rows"):
        jaxgen.fit(model, x, key=KEY)


EVENLY = np.linspace(-1, 1, 300)[:, None]
NARROW = np.where(np.arange(300)[:, None] % 2 == 0, 1e-4 * EVENLY, EVENLY)


@pytest.mark.parametrize("x", [EVENLY * [1.0, 2.0], NARROW], ids=["a line", "a narrow peak"])
def test_narrow_components_of_different_rows_are_no_collapse(recwarn, x):
    fitted = jaxgen.fit(models.GaussianMixture(components=3), x, key=KEY)
    assert "collapsed" not in fitted.history
    assert not recwarn
