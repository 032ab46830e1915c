"""Models of events and labels: PerClass, Labelled, Bayes' rule, and how they are fitted."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.datasets import load_digits

import jaxgen
from jaxgen import bijectors, compose, domains, models, networks
from jaxgen.core import labels as core_labels
from jaxgen.laws import count_compiles
from jaxgen.numpyro import as_distribution
from jaxgen.training import Adam

KEY = jax.random.key(0)
GAUSSIANS = compose.PerClass(models.Gaussian(2), 3)
UNEQUAL = (200, 7, 7)  # events of each class; classes of equal size share programs
FLOW = models.SplineCoupling(2, 2, 8, 1, 4)


def events(n=900, classes=3, seed=0):
    """Points around one centre for each label; the classes do not overlap.

    n: number of points, or of each label.
    """
    rng = np.random.default_rng(seed)
    if isinstance(n, tuple):
        y = rng.permutation(np.repeat(np.arange(len(n)), n))
    else:
        y = rng.integers(0, classes, n)
    return np.stack([10.0 * y, y**2.0], 1) + rng.normal(size=(len(y), 2)) * [1.0, 0.3], y


@functools.cache
def gaussians(names=None):
    """Events, their labels, and a fit to them."""
    x, y = events()
    y = y if names is None else np.array(names)[y]
    return x, y, jaxgen.fit(GAUSSIANS, x, y, key=KEY)


def test_digits_against_scipy():
    """Full Gaussians of 64 pixels, one for each digit, against SciPy in float64."""
    digits = load_digits()
    order = np.random.RandomState(0).permutation(len(digits.data))
    x, y = digits.data[order] / 16, digits.target[order]
    train, test, known, rest = x[:1200], x[1200:], y[:1200], y[1200:]
    fitted = jaxgen.fit(
        compose.PerClass(models.Gaussian(64, jitter=0.1), 10), train, known, key=KEY
    )
    floor = 0.1 * np.diag(np.where(train.std(0) > 0, train.var(0), 1))
    joint = np.empty((len(test), 10))
    for k in range(10):
        own = train[known == k]
        covariance = np.cov(own.T, bias=True) + floor
        score = multivariate_normal(own.mean(0), covariance).logpdf(test)
        joint[:, k] = score + np.log(len(own) / len(train))
    total = logsumexp(joint, 1)
    log_p = np.asarray(fitted.classify(test), np.float64)
    assert (log_p.argmax(1) == rest).mean() > 0.97
    assert np.allclose(log_p, joint - total[:, None], rtol=1e-4, atol=1e-3)
    assert np.allclose(fitted.log_prob(test), total, rtol=1e-4)


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        ([0, 1, 2], (0, 1, 2)),
        ([7, -1, 3], (-1, 3, 7)),
        (["pear", "apple", "fig"], ("apple", "fig", "pear")),
    ],
)
def test_names_of_labels(names, labels, tmp_path):
    x, y, fitted = gaussians(tuple(names))
    places = events()[1]
    assert fitted.labels == labels
    fitted.save(tmp_path / "model")
    loaded = jaxgen.load(tmp_path / "model")
    assert loaded.labels == labels
    known = np.array(fitted.labels)
    for own in (fitted, loaded, jaxgen.fit(fitted, x, y, key=KEY)):
        assert (known[np.asarray(own.classify(x)).argmax(1)] == y).all()
        drawn = np.asarray(own.sample(KEY, 100, names[0]))
        assert np.abs(drawn.mean(0) - x[places == 0].mean(0)).max() < 1
        of_rows = np.asarray(own.sample(KEY, len(y), y))
        assert (known[np.asarray(own.classify(of_rows)).argmax(1)] == y).all()
        assert (np.asarray(own.log_prob(x, y)) > np.asarray(own.log_prob(x))).all()


@pytest.mark.parametrize(
    ("model", "epochs"),
    [
        (GAUSSIANS, None),
        (compose.PerClass(models.GaussianMixture(2, 2), 3), None),
        (compose.PerClass(FLOW, 3), 60),
        (
            compose.Labelled(
                models.SplineCoupling(2, 2, 8, 1, 4, y_shape=(), y_domain=domains.Levels(3)), 3
            ),
            1,
        ),
    ],
)
def test_prior_is_counted_and_can_be_given(model, epochs):
    x, y = events(n=1600)
    weights = np.where(y == 0, 3.0, 1.0)
    fitted = jaxgen.fit(model, x, y, key=KEY, weights=weights, epochs=epochs)
    shares = np.bincount(y, weights) / weights.sum()
    np.testing.assert_allclose(np.exp(model.log_prior(fitted.params)), shares, rtol=1e-5)
    scores = np.stack([np.asarray(fitted.log_prob(x, k), np.float64) for k in range(3)], 1)
    other = np.array([0.7, 0.2, 0.1])
    joint = scores + np.log(other)
    wanted = joint - np.logaddexp.reduce(joint, 1)[:, None]
    got = np.asarray(fitted.classify(x, prior=5 * other))
    np.testing.assert_allclose(np.exp(got), np.exp(wanted), atol=2e-4)


def test_draws_follow_the_prior():
    """A chi-square test with 2 degrees of freedom, which fails with probability 1e-4."""
    _, y, fitted = gaussians()
    drawn = np.asarray(fitted.classify(fitted.sample(KEY, 20_000))).argmax(1)
    expected = np.bincount(y) / len(y) * 20_000
    assert ((np.bincount(drawn) - expected) ** 2 / expected).sum() < 18.4


@pytest.mark.parametrize(
    ("model", "n", "epochs"),
    [
        (models.GaussianMixture(2, 2), 1600, None),
        (FLOW, 1600, 60),
        (models.KDE(2), UNEQUAL, None),
        (models.Histogram((8, 8)), 1500, None),
    ],
)
def test_each_class_is_its_own_fit(model, n, epochs):
    """EM and gradients learn from each class what a fit to its events alone learns."""
    x, y = events(n)
    fitted = jaxgen.fit(compose.PerClass(model, 3), x, y, key=KEY, epochs=epochs)
    for k in range(3):
        own = x[y == k]
        alone = jaxgen.fit(model, own, key=KEY, epochs=epochs)
        gap = np.asarray(alone.log_prob(own)) - np.asarray(fitted.log_prob(own, k))
        assert abs(gap.mean()) < 0.05, k


def test_unequal_classes():
    x, y = events(UNEQUAL)
    for model in (models.KDE(2), models.GaussianMixture(2, 2), models.Gaussian(2)):
        fitted = jaxgen.fit(compose.PerClass(model, 3), x, y, key=KEY)
        assert np.isfinite(np.asarray(fitted.log_prob(x, y))).all()
        assert (np.asarray(fitted.classify(x)).argmax(1) == y).mean() > 0.99


def test_classes_share_one_compilation():
    """Ten classes compile the training program once, as one class does."""
    x, y = events(n=4000, classes=10)
    model = models.SplineCoupling(2, 1, 5, 1, 3)  # a spec that no other test compiles
    with count_compiles() as of_one:  # first, because it compiles what both share
        jaxgen.fit(model, x[:400], key=KEY, epochs=1)
    with count_compiles() as of_ten:
        jaxgen.fit(compose.PerClass(model, 10), x, y, key=KEY, epochs=1)
    with count_compiles() as again:
        jaxgen.fit(compose.PerClass(model, 10), x[::-1], y[::-1], key=KEY, epochs=1)
    assert of_ten[0] <= of_one[0] + 15, (of_ten, of_one)
    assert again[0] == 0


def test_inside_transformations():
    x, y, fitted = gaussians()
    model, params = fitted.model, fitted.params

    @jax.jit
    def inside(params, x, y, two_labels, key):
        return (
            jaxgen.log_prob(model, params, x),
            jaxgen.classify(model, params, x),
            jax.grad(lambda p: jaxgen.log_prob(model, p, x, y).mean())(params),
            jaxgen.log_prob(model, params, x[:2], two_labels),
            jaxgen.sample(model, params, key, 5),
        )

    marginal, posterior, slopes, unknown, same = inside(params, x, y, np.array([0, 3]), KEY)
    np.testing.assert_allclose(marginal, fitted.log_prob(x), rtol=1e-5)
    np.testing.assert_allclose(posterior, fitted.classify(x), atol=1e-4)
    assert all(np.isfinite(np.asarray(v)).all() for v in jax.tree_util.tree_leaves(slopes))
    assert np.isfinite(unknown[0])
    assert np.isnan(unknown[1])
    np.testing.assert_allclose(same, fitted.sample(KEY, 5), rtol=1e-5)


def test_one_clear_error():
    x, y, unnamed = gaussians()
    model, fitted = GAUSSIANS, gaussians(("a", "b", "c"))[2]
    plain = jaxgen.fit(models.Gaussian(2), x, key=KEY)
    for call, kind, message in (
        (lambda: fitted.log_prob(x, "d"), ValueError, "unknown label 'd'; known are 'a', 'b', 'c'"),
        (lambda: fitted.sample(KEY, 2, 0), ValueError, "unknown label 0"),
        (lambda: jaxgen.fit(model, x, y + 0.5, key=KEY), TypeError, "y must hold labels"),
        (lambda: jaxgen.fit(model, x, y[:, None], key=KEY), TypeError, "shape \\(900, 1\\)"),
        (lambda: jaxgen.fit(model, x, y[:5], key=KEY), ValueError, "y must have shape"),
        (lambda: jaxgen.fit(model, x, key=KEY), ValueError, "y is missing"),
        (lambda: jaxgen.fit(model, x, y % 2 + 5, key=KEY), ValueError, "3 labels .* holds 2"),
        (
            lambda: jaxgen.fit(model, x, y % 2, key=KEY),
            ValueError,
            "none of its 900 rows has label",
        ),
        (lambda: plain.classify(x), TypeError, "no labels"),
        (lambda: fitted.classify(x, prior=[1, 2]), ValueError, "prior must have shape \\(3,\\)"),
        (lambda: fitted.classify(x, prior=[1, -1, 1]), ValueError, "prior must hold"),
        (lambda: fitted.pull(x), ValueError, "y is missing"),
        (lambda: compose.PerClass(model, 3), ValueError, "model must have y_shape None"),
        (
            lambda: compose.Labelled(models.Gaussian(2), 3),
            ValueError,
            "must have y_shape \\(\\)",
        ),
    ):
        with pytest.raises(kind, match=message):
            call()
    with pytest.raises(ValueError, match="be a label 0"):
        unnamed.log_prob(x, 3)
    with pytest.raises(TypeError, match="ints; got dtype float64"):
        unnamed.log_prob(x, 1.5)


def test_traced_labels():
    """Labels mean the same under jit; an unknown label, which cannot raise there, gives NaN."""
    x, _, named = gaussians((11, 3, 7))
    x, names, places = x[:3], np.array([11, 3, 7]), np.array([2, 0, 1])
    unnamed = jaxgen.Fitted(named.model, named.params)
    twice = jax.tree_util.tree_map(lambda v: np.stack([v, v]), jax.device_get(named.params))
    mixture = {"logits": np.zeros(2), "component": twice}
    mixture = jaxgen.Fitted(compose.Mixture(named.model, 2), mixture, labels=named.labels)
    conditional = compose.Conditional(networks.MLP((), 4, 1, domains.Levels(3)), models.Gaussian(2))
    labelled_network = compose.Labelled(conditional, 3)
    network = jaxgen.Fitted(labelled_network, jax.jit(labelled_network.init)(KEY))
    level = jaxgen.Fitted(conditional, network.params["model"])
    score = named.log_prob(x, names)
    for wanted, call, labels, unknown in (
        (score, lambda y: named.log_prob(x, y), names, 5),
        (score, lambda y: as_distribution(named, y).log_prob(x), names, 2**31 - 1),
        (score, lambda y: unnamed.log_prob(x, y), places, 3),
        (score, lambda y: mixture.log_prob(x, y), names, -1),
        (
            named.marginal([1]).log_prob(x[:, 1:], names),
            lambda y: named.marginal([1]).log_prob(x[:, 1:], y),
            names,
            0,
        ),
        (network.log_prob(x, places), lambda y: network.log_prob(x, y), places, 3),
        (network.sample(KEY, 3, places), lambda y: network.sample(KEY, 3, y), places, -1),
        (network.sample(KEY, 3, places), lambda y: level.sample(KEY, 3, y), 1.0 * places, 0.5),
    ):
        traced = jax.jit(call)
        got = np.asarray(traced(labels))
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
        assert np.isfinite(got).all()
        got = np.asarray(traced(np.array([labels[0], unknown, labels[2]])))
        assert np.isnan(got[1]).all()
        np.testing.assert_allclose(got[[0, 2]], np.asarray(wanted)[[0, 2]], rtol=1e-4, atol=1e-5)


def test_traced_labels_of_the_wrong_type_are_refused():
    x, _, named = gaussians(("a", "b", "c"))
    numbered = gaussians((11, 3, 7))[2]
    of_names = lambda y: named.log_prob(x[:3], y)  # noqa: E731
    of_numbers = lambda y: numbered.log_prob(x[:3], y)  # noqa: E731
    for call, y in (
        (of_names, np.arange(3)),
        (jax.jit(of_names), np.arange(3)),
        (of_numbers, np.array([11.0, 3.5, 7.0])),
        (jax.jit(of_numbers), np.array([11.0, 3.0, 7.0])),
    ):
        with pytest.raises((TypeError, ValueError), match=r"^y(:| must)"):
            call(y)
    with pytest.raises(TypeError, match="a string cannot be an argument"):
        jax.vmap(lambda y: named.sample(KEY, 1, y))(np.arange(3))


def test_traced_priors():
    x, _, fitted = gaussians()
    traced = jax.jit(lambda prior: fitted.classify(x[:5], prior))
    for prior in ([1, 1, 1], [1e-30] * 3, [3e38] * 3, [0.0, 1.0, 2.0]):
        got = traced(np.float32(prior))
        np.testing.assert_allclose(got, fitted.classify(x[:5], prior), rtol=1e-4, atol=1e-4)
    for prior in ([1, -1, 1], [0, 0, 0], [np.inf, 1, 1], [np.nan, 1, 1]):
        assert np.isnan(traced(np.float32(prior))).all()


@pytest.mark.parametrize("distance", [1e3, 1e4, 1e5, 1e8])
def test_probabilities_sum_to_one_far_away(distance):
    """Points between two classes, where both densities are tiny."""
    normals = {"mean": jnp.array([[0.0], [distance]]), "scale_tril": jnp.ones((2, 1, 1))}
    params = {"logits": jnp.zeros(2), "model": normals}
    fitted = jaxgen.Fitted(compose.PerClass(models.Gaussian(1), 2), params)
    log_p = np.asarray(fitted.classify(np.linspace(0, distance, 101)[:, None]), np.float64)
    np.testing.assert_allclose(np.exp(log_p).sum(1), 1, atol=1e-5)


def test_evaluate_takes_names():
    x, names, fitted = gaussians(("a", "b", "c"))
    x, names = x[:300], names[:300]
    for labels, wanted in ((names, fitted.log_prob(x, names)), (None, fitted.log_prob(x))):
        report = jaxgen.evaluate(fitted, x, labels, key=KEY, n_samples=300)
        assert report.accuracy.log_likelihood == pytest.approx(float(wanted.mean()), rel=1e-5)


def test_frequencies_are_counted_inside_other_models():
    """All rows count, not those that a start repeats or validation holds out."""
    x, y = events()
    x = np.exp(x / 10)
    weights = np.where(y == 0, 9.0, 1.0)
    shares = np.bincount(y, weights) / weights.sum()
    more = {"weights": weights, "optimizer": Adam(1e-3), "epochs": 1, "key": KEY}
    diagonal = compose.PerClass(models.Gaussian(2, "diagonal", jitter=0.1), 3)
    for model in (
        compose.Transformed(GAUSSIANS, bijectors.Positive()),
        compose.Mixture(diagonal, 2),
    ):
        fitted = jaxgen.fit(model, x, y, **more)
        assert fitted.history["stopped"] == "epochs"
        np.testing.assert_allclose(np.exp(model.log_prior(fitted.params)), shares, rtol=1e-4)


def test_a_class_of_zero_density_gives_no_nan():
    x, y = events()
    boxes = jaxgen.fit(compose.PerClass(compose.Mixture(models.Box(2), 2), 3), x, y, key=KEY)
    given = boxes.given({0: float(x[0, 0])})
    assert np.isfinite(float(given.log_prob(x[:1, 1:])[0]))
    np.testing.assert_allclose(np.exp(given.classify(x[:1, 1:]))[0], np.eye(3)[y[0]], atol=1e-6)


def test_extreme_priors_and_empty_batches():
    x, _, fitted = gaussians()
    equal = np.asarray(fitted.classify(x[:5], prior=[1, 1, 1]))
    for prior in ([1e-46] * 3, [1e300] * 3, np.full(3, 3e38, np.float32)):
        np.testing.assert_allclose(fitted.classify(x[:5], prior=prior), equal, atol=1e-5)
    none = np.zeros(0, int)
    assert fitted.log_prob(x[:0], none).shape == (0,)
    assert fitted.sample(KEY, 0, none).shape == (0, 2)
    assert fitted.classify(x[:0]).shape == (0, 3)


def test_freeze_names_params_of_the_whole():
    x, y, start = gaussians()
    more = {"optimizer": Adam(1e-2), "epochs": 1, "key": KEY}
    fitted = jaxgen.fit(start, x, y, freeze=("logits", "model/mean"), **more)
    np.testing.assert_array_equal(fitted.params["model"]["mean"], start.params["model"]["mean"])
    moved = fitted.params["model"]["scale_tril"] != start.params["model"]["scale_tril"]
    assert np.asarray(moved).any()
    for names, kind in ((("mean",), ValueError), ((1,), TypeError)):
        with pytest.raises(kind, match="freeze"):
            jaxgen.fit(GAUSSIANS, x, y, freeze=names, **more)


@pytest.mark.parametrize("weights", [None, np.arange(1.0, 6)])
def test_repeated_rows_share_the_weight_of_one(weights):
    rows = np.array([4, 0, 2])
    places, share = core_labels.repeated_rows(rows, 8, weights)
    assert len(places) == 8
    total = np.bincount(places, share, minlength=5)
    np.testing.assert_allclose(total[rows], 1 if weights is None else weights[rows])


def test_a_model_with_fields_for_a_condition_gets_the_label():
    flow = models.SplineCoupling(2, layers=1)
    of_labels = dataclasses.replace(flow, y_shape=(), y_domain=domains.Levels(3))
    assert compose.Labelled(flow, 3) == compose.Labelled(of_labels, 3)
    inside = compose.Quantized(flow, levels=4)
    assert compose.Labelled(inside, 3).model == compose.Quantized(of_labels, levels=4)
    with pytest.raises(ValueError, match=r"must have y_shape \(\)"):
        compose.Labelled(models.Gaussian(2), 3)


PRIOR = {"fig": 0.7, "apple": 0.1, "pear": 0.2}


@pytest.mark.parametrize("kind", [dict, pd.Series])
def test_a_prior_is_taken_by_label(kind):
    x, _, fitted = gaussians(("pear", "apple", "fig"))
    by_position = fitted.classify(x, prior=[0.1, 0.7, 0.2])
    np.testing.assert_array_equal(fitted.classify(x, prior=kind(PRIOR)), by_position)
    for wrong, text in (
        ({"fig": 1.0, "apple": 1.0}, "'pear' is missing"),
        ({**PRIOR, "plum": 0.1}, "unknown label 'plum'; known are 'apple', 'fig', 'pear'"),
        ({0: 0.1, 1: 0.2, 2: 0.7}, "unknown label 0"),
    ):
        with pytest.raises(ValueError, match=f"prior.*{text}"):
            fitted.classify(x, prior=kind(wrong))
    twice = pd.Series([0.1, 0.2, 0.3, 0.4], index=[*PRIOR, "fig"])
    with pytest.raises(ValueError, match=r"each of the labels .* once"):
        fitted.classify(x, prior=twice)
    other = jaxgen.classify(fitted.model, fitted.params, x, pd.Series({2: 0.2, 0: 0.1, 1: 0.7}))
    np.testing.assert_allclose(other, by_position, rtol=1e-5, atol=1e-5)
    traced = jax.jit(lambda p: fitted.classify(x[:5], {"fig": p, "pear": 0.2, "apple": 0.1}))
    np.testing.assert_allclose(traced(0.7), by_position[:5], rtol=1e-4, atol=1e-4)


def test_whole_floats_are_ints():
    x, y, fitted = gaussians((11, 3, 7))
    for floats in (y.astype(float), y.astype(np.float32), jnp.array(y, float), y.astype("O") * 1.0):
        np.testing.assert_array_equal(fitted.log_prob(x, floats), fitted.log_prob(x, y))
        assert jaxgen.fit(GAUSSIANS, x, floats, key=KEY).labels == (3, 7, 11)
    for labels in (np.where(y == 3, 3.5, y), jnp.where(y == 3, 3.5, y)):
        for call in (
            lambda y: fitted.log_prob(x, y),
            lambda y: jaxgen.fit(GAUSSIANS, x, y, key=KEY),
        ):
            with pytest.raises(TypeError, match=r"y must hold labels.*3.5 is no int.*astype"):
                call(labels)


def test_every_model_of_labels_lists_them():
    """Labels 0, 1, ... and bools too, and files and pickles of 0.3.0, which held no such names."""
    x, y, fitted = gaussians()
    again = jaxgen.Fitted(fitted.model, fitted.params)
    old = jaxgen.Fitted.__new__(jaxgen.Fitted)
    state = {name: value for name, value in vars(fitted).items() if name != "y_columns"}
    old.__setstate__({**state, "labels": None})
    for one in (fitted, again, old, jax.tree_util.tree_map(lambda v: v, fitted)):
        assert (one.labels, one.y_columns) == ((0, 1, 2), None)
        assert (np.array(one.labels)[one.classify(x).argmax(-1)] == y).mean() > 0.99
    assert jaxgen.Fitted(models.Gaussian(2), {}).labels is None
    with pytest.raises(ValueError, match="unknown label 'setosa'; known are 0, 1, 2"):
        fitted.log_prob(x, "setosa")
    two = y < 2
    bools = jaxgen.fit(compose.PerClass(models.Gaussian(2), 2), x[two], y[two] == 1, key=KEY)
    assert bools.labels == (False, True)
    drawn = bools.sample(KEY, 6, as_frame=True)["y"]
    assert drawn.dtype == bool
    np.testing.assert_array_equal(
        bools.log_prob(x[:6], drawn), bools.log_prob(x[:6], np.asarray(drawn, int))
    )
    assert bools.bic(x[two], y[two] == 1) == pytest.approx(bools.bic(x[two], y[two]))


def test_given_names_labels_and_features():
    x, y, _ = gaussians()
    frame = pd.DataFrame(x, columns=["width", "height"])
    species = pd.Series(np.array(["a", "b", "c"])[y], name="species")
    named = jaxgen.fit(GAUSSIANS, frame, species, key=KEY)
    with pytest.raises(ValueError, match=r"no feature 'species'.*'species' is its y, an argument"):
        named.given({"species": "a"})
    with pytest.raises(ValueError, match=r"left, got all of them: {'width': 1.0, 'height': 2.0}"):
        named.given({0: 1.0, 1: 2.0})
