"""A wrapper that the library does not know, declared by ``inner`` alone, works everywhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from learners import Noisy, Regression

import jaxgen
from jaxgen import bijectors, compose, models
from jaxgen.core.model import Learning, Traits, is_invertible
from jaxgen.core.wrapper import Inner, Wrapper, inner_of
from jaxgen.data import model_file
from jaxgen.training.rows import has_own_loss

KEY = jax.random.key(0)


class Renamed(Wrapper):
    """The same model with names for its features; its params are one level deeper."""

    base: jaxgen.Model
    names: tuple[str, ...]

    same_events = True

    @property
    def inner(self):
        return (Inner(self.base, ("held", "base")),)


class Doubled(Wrapper):
    """x = 2 z; it defines only some methods."""

    base: jaxgen.Model

    @property
    def inner(self):
        return (Inner(self.base, ("base",)),)

    def init(self, key, x=None, y=None):
        return {"base": self.base.init(key, None if x is None else x / 2, y)}

    def log_prob(self, params, x, y=None):
        size = np.prod(self.event_shape)
        return self.base.log_prob(params["base"], x / 2, y) - size * jnp.log(2.0)

    def noise(self):
        return self.base.noise()

    def push(self, params, noise, y=None):
        return 2 * self.base.push(params["base"], noise, y)


def renamed(model):
    return Renamed(model, ("a", "b"))


def place(params):
    return {"held": {"base": params}}


def data(n=300, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    return rng.normal(size=(n, 2)) * [30.0, 0.02] + [5, 1] + 40 * y[:, None] * [1, 0.001], y


def assert_same(a, b, places=6):
    for one, other in zip(*map(jax.tree_util.tree_leaves, (a, b)), strict=True):
        np.testing.assert_allclose(one, other, rtol=10.0**-places, atol=10.0**-places)


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (models.Box(2), {}),  # frozen bounds, closed form, missing values
        (models.Histogram((4, 4)), {}),
        (models.Gaussian(2), {}),
        (models.Gaussian(2), {"optimizer": jaxgen.training.Adam(1e-2), "epochs": 2}),
        (models.GaussianMixture(2, components=2), {}),
        (models.KDE(2), {}),
        (models.SplineCoupling(2, layers=1, width=8, depth=1, bins=4), {"epochs": 2}),
        (compose.Product((models.Box(1), models.Gaussian(1))), {}),
        (compose.Transformed(models.Gaussian(2), bijectors.Permute((1, 0))), {}),
    ],
    ids=str,
)
def test_fits_and_scores_as_the_model_inside(model, settings):
    x, _ = data()
    plain = jaxgen.fit(model, x, key=KEY, **settings)
    fitted = jaxgen.fit(renamed(model), x, key=KEY, **settings)
    assert_same(fitted.params, place(plain.params))
    assert fitted.history["stopped"] == plain.history["stopped"]
    assert_same(fitted.log_prob(x), plain.log_prob(x))
    assert_same(fitted.sample(KEY, 5), plain.sample(KEY, 5))
    assert is_invertible(fitted.model) == is_invertible(model)
    if is_invertible(model):
        assert_same(fitted.pull(x), plain.pull(x))


def test_the_support_at_some_params():
    x, _ = data()
    box = models.Box(2)
    plain, fitted = (jaxgen.fit(m, x, key=KEY) for m in (box, renamed(box)))
    supports = [jaxgen.numpyro.as_distribution(f).support for f in (plain, fitted)]
    outside = x.max(0) + 1
    assert [bool(support(outside)) for support in supports] == [False, False]


def test_frozen_params_stay_under_weight_decay():
    x, _ = data()
    start = jaxgen.fit(renamed(models.Box(2, margin=0.5)), x, key=KEY)
    settings = {"optimizer": jaxgen.training.Adam(1e-2, weight_decay=0.5), "epochs": 2}
    with pytest.raises(ValueError, match="freeze leaves no param to learn"):
        jaxgen.fit(start, x, key=KEY, **settings)
    assert start.model.learning.frozen == ("held/base/low", "held/base/high")


@pytest.mark.parametrize(
    "model",
    [models.Gaussian(2, "diagonal"), models.Gaussian(2), models.GaussianMixture(2, components=2)],
    ids=str,
)
def test_missing_values(model):
    x, _ = data()
    x[np.random.default_rng(1).random(x.shape) < 0.2] = np.nan
    x = x[~np.isnan(x).all(1)]
    plain, fitted = (jaxgen.fit(m, x, key=KEY) for m in (model, renamed(model)))
    assert_same(fitted.params, place(plain.params))
    assert_same(fitted.log_prob(x), plain.log_prob(x))
    assert_same(fitted.impute(x, KEY), plain.impute(x, KEY))


@pytest.mark.parametrize("settings", [{}, {"optimizer": jaxgen.training.Adam(1e-2), "epochs": 2}])
def test_labels(settings):
    """A wrapper around a model of labels, and inside one."""
    x, y = data()
    names = np.array(["apple", "pear", "plum"])[y]
    model = compose.PerClass(models.Gaussian(2), 3)
    plain = jaxgen.fit(model, x, names, key=KEY, **settings)
    inside = jaxgen.fit(
        compose.PerClass(renamed(models.Gaussian(2)), 3), x, names, key=KEY, **settings
    )
    assert_same(inside.params["model"], place(plain.params["model"]))
    around = jaxgen.fit(renamed(model), x, names, key=KEY, **settings)
    assert around.labels == ("apple", "pear", "plum")
    assert_same(around.params["held"]["base"]["logits"], plain.params["logits"])
    for fitted in (inside, around):
        assert fitted.classify(x).shape == (300, 3)
        assert fitted.sample(KEY, 4, "pear").shape == (4, 2)
    if not settings:
        assert_same(around.classify(x), plain.classify(x), 4)


def test_frequencies_are_counted_wherever_they_are():
    """Label frequencies are not trained, and are counted in copies of a model too."""
    x, y = data()
    labelled = compose.PerClass(models.Gaussian(2), 3)
    x, y = x[30:], y[30:]
    weights = 1.0 + (y == 2)
    mixture = compose.Mixture(renamed(labelled), 2)
    fitted = jaxgen.fit(mixture, x, y, key=KEY, weights=weights, epochs=1)
    logits = fitted.params["component"]["held"]["base"]["logits"]
    np.testing.assert_allclose(np.exp(logits), [[0.25, 0.25, 0.5]] * 2, rtol=1e-5)


def test_a_loss_of_its_own():
    """The loss inside is minimised with its noise, and the start is checked by it."""

    class NoisyPair(Noisy):
        event_shape = (2,)

        def loss(self, params, noise, x, y=None):
            return super().loss(params, noise, x[0])

    inside, outside = NoisyPair(), renamed(NoisyPair())
    assert has_own_loss(outside)
    assert outside.traits.density == "none"
    plain, fitted = (jaxgen.fit(m, data()[0], key=KEY, epochs=2) for m in (inside, outside))
    assert_same(fitted.params, place(plain.params))
    assert fitted.history["train"] == plain.history["train"]


def test_ensembles_and_many_data_sets():
    x, _ = data()
    flow = models.SplineCoupling(2, layers=1, width=8, depth=1, bins=4)
    plain, fitted = (jaxgen.fit(m, x, key=KEY, epochs=1, ensemble=2) for m in (flow, renamed(flow)))
    assert_same(fitted.params["component"], place(plain.params["component"]))
    sets = np.stack([x, x[::-1]])
    each, inside = (jaxgen.fit_each(m, sets, key=KEY, epochs=1) for m in (renamed(flow), flow))
    assert_same(each.params, place(inside.params))


def test_parts_keep_the_wrapper():
    x, y = data()
    fitted = jaxgen.fit(renamed(models.Gaussian(2)), x, key=KEY)
    part = fitted.marginal([1])
    assert part.model == Renamed(models.Gaussian(1), ("a", "b"))
    assert part.history["method"] == "closed form"
    assert fitted.given({0: 5.0}).history["method"] == "closed form"
    labelled = jaxgen.fit(renamed(compose.PerClass(models.Gaussian(2), 3)), x, y, key=KEY)
    given = labelled.given({0: 5.0})
    plain = jaxgen.fit(compose.PerClass(models.Gaussian(2), 3), x, y, key=KEY).given({0: 5.0})
    assert_same(given.classify(x[:, 1:]), plain.classify(x[:, 1:]), 4)


def test_values_say_something_about_the_label():
    """p(y | values) differs from p(y), so a model of labels does not just forward ``given``."""
    model = compose.Labelled(compose.Product((Regression(), Regression())), 3)
    slope = {"slope": jnp.ones(())}
    logits = jnp.log(jnp.array([0.2, 0.3, 0.5]))
    fitted = jaxgen.Fitted(model, {"logits": logits, "model": (slope, slope)})
    assert fitted.marginal([1]).model.classes == 3
    given = fitted.given({0: 1.0})
    whole = np.array([[1.0, 0.5], [1.0, 2.0]])
    assert_same(given.classify(whole[:, 1:]), fitted.classify(whole), 4)
    changed = np.asarray(given.model.log_prior(given.params))
    assert_same(changed, fitted.marginal([0]).classify(whole[:1, :1])[0], 4)


def test_a_file_holds_it(tmp_path):
    x, _ = data()
    fitted = jaxgen.fit(renamed(models.Gaussian(2)), x, key=KEY)
    fitted.save(tmp_path / "m")
    loaded = model_file.load(tmp_path / "m")
    assert loaded.model == fitted.model
    assert_same(loaded.params, fitted.params)


def test_it_keeps_the_laws():
    jaxgen.check(renamed(models.Gaussian(2)))
    jaxgen.check(Doubled(models.Gaussian(2)))


def test_what_a_wrapper_does_not_define_is_not_promised():
    """A wrapper whose events differ does not inherit closed forms, missing values or units."""
    doubled = Doubled(models.Gaussian(2))
    assert doubled.learning == Learning("gradient")
    assert doubled.traits == Traits(invertible=False)
    assert not is_invertible(doubled)
    with pytest.raises(NotImplementedError, match="no closed form"):
        doubled.estimate(np.zeros((3, 2)))
    with pytest.raises(NotImplementedError, match="Doubled has no marginals"):
        doubled.marginal(doubled.init(KEY), (0,))
    x, _ = data()
    x[0, 0] = np.nan
    with pytest.raises(ValueError, match="finite"):
        jaxgen.fit(doubled, x, key=KEY)


def test_inner_models_are_listed():
    assert inner_of(models.Gaussian(2)) == ()
    nested = renamed(compose.PerClass(models.Gaussian(2), 3))
    (first,) = inner_of(nested)
    (second,) = inner_of(first.model)
    assert (second.model, second.copies, second.per_label) == (models.Gaussian(2), 3, True)
