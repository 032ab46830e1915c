"""Conditionals and marginals by importance sampling, against closed forms and integrals.

A Kolmogorov-Smirnov test of N samples at _GAP fails for a right sampler with probability 3e-8, and
an estimate is five standard errors off with probability 6e-7; keys are fixed, so a pass stays a
pass.
"""

import functools
import math
import warnings
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp, softmax
from scipy.stats import kstest, multivariate_normal, norm

import jaxgen
from jaxgen import Fitted, Model, bijectors, compose, domains, models
from jaxgen.compose import GivenByImportance, MarginalByImportance
from jaxgen.core.model import Traits
from jaxgen.core.precision import enable_x64
from jaxgen.core.random import Normal
from jaxgen.laws.subject import away_from_init
from jaxgen.training import parts

N = 10_000
_GAP = 0.03
_GLOBE = (domains.Circle(-180.0, 180.0), domains.Interval(-90.0, 90.0))


class _Hidden:
    """Removes the closed forms of a family."""

    def marginal(self, params, features):
        raise NotImplementedError

    def given(self, params, features, values):
        raise NotImplementedError


class HiddenGaussian(_Hidden, models.Gaussian):
    pass


class HiddenMixture(_Hidden, models.GaussianMixture):
    pass


class HiddenBox(_Hidden, models.Box):
    pass


class HiddenLevels(_Hidden, models.Categorical):
    pass


class Square(Model):
    """Independent normals in a (2, 2) event."""

    event_shape: ClassVar[tuple[int, ...]] = (2, 2)

    def init(self, key, x=None, y=None):
        return {"mean": jnp.array([[0.0, 1.0], [2.0, 3.0]])}

    def log_prob(self, params, x, y=None):
        return (-0.5 * (x - params["mean"]) ** 2 - 0.5 * math.log(2 * math.pi)).sum()

    def noise(self):
        return Normal((2, 2))

    def push(self, params, noise, y=None):
        return params["mean"] + noise


class Banana(Model):
    """x_1 is near 5 x_0^2, so given a large x_1, x_0 has two narrow modes."""

    event_shape: ClassVar[tuple[int, ...]] = (2,)

    def init(self, key, x=None, y=None):
        return {"scale": jnp.array(0.01)}

    def log_prob(self, params, x, y=None):
        z = jnp.stack([x[0], (x[1] - 5 * x[0] ** 2) / params["scale"]])
        return -0.5 * (z * z).sum() - math.log(2 * math.pi) - jnp.log(params["scale"])

    def noise(self):
        return Normal((2,))

    def push(self, params, noise, y=None):
        return jnp.stack([noise[0], 5 * noise[0] ** 2 + params["scale"] * noise[1]])


class NoDensity(Banana):
    traits = Traits(density="none")


class IgnoresWeights(GivenByImportance):
    """A planted bug: it returns draws from the proposal as if they were from the conditional."""

    def _propose(self, params, noise):
        x, log_weight = super()._propose(params, noise)
        return x, 0 * log_weight


def gaussian():
    params = {
        "mean": jnp.array([10.0, -3.0, 0.5]),
        "scale_tril": jnp.array([[2.0, 0.0, 0.0], [1.5, 0.5, 0.0], [-0.3, 0.4, 0.2]]),
    }
    return Fitted(HiddenGaussian(3), params), Fitted(models.Gaussian(3), params)


def mixture():
    """A mixture in which x_1 given x_0 = 0 has two distant modes."""
    params = {
        "logits": jnp.log(jnp.array([0.5, 0.3, 0.2])),
        "mean": jnp.array([[0.0, -4.0], [0.5, 3.0], [6.0, 0.0]]),
        "scale_tril": jnp.array(
            [[[1.0, 0], [0.2, 0.3]], [[1.0, 0], [-0.4, 0.7]], [[1.0, 0], [2, 1]]]
        ),
    }
    return Fitted(HiddenMixture(2, components=3), params), Fitted(
        models.GaussianMixture(2, 3), params
    )


PAIRS = {
    "gaussian, one given": (gaussian, {1: -1.0}),
    "gaussian, two given": (gaussian, {2: 0.7, 0: 8.0}),
    "gaussian, four deviations out": (gaussian, {1: 3.3}),
    "mixture": (mixture, {0: 0.0}),
    "mixture, between the modes": (mixture, {0: 3.5}),
}


def pair(name):
    make, values = PAIRS[name]
    hidden, exact = make()
    return hidden, exact, values


@functools.cache
def given(name):
    """A conditional by importance sampling, the same in closed form, and the exact model."""
    hidden, exact, values = pair(name)
    return hidden.given(values), exact.given(values), exact


@pytest.fixture
def few_events(monkeypatch):
    """Make proposals from fewer events: faster, and sufficient for proposals of few normals."""
    monkeypatch.setattr(parts, "_EVENTS", 2048)


def gap(part, truth):
    """Largest Kolmogorov-Smirnov distance, over features, of samples from the truth.

    truth: a distribution function, or a fitted normal or mixture of normals.
    """
    ours = np.asarray(part.sample(jax.random.key(1), N))
    if callable(truth):
        return kstest(ours[:, 0], truth).statistic
    share, mean, covariance = normals(truth)
    scale = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    return max(
        kstest(
            q, lambda q, j=j: norm.cdf((q[:, None] - mean[:, j]) / scale[:, j]) @ share
        ).statistic
        for j, q in enumerate(ours.T)
    )


def normals(truth):
    """Weights, means and covariances, (n, ...) in float64, of a normal or a mixture of normals."""
    share = softmax(np.asarray(truth.params.get("logits", [0.0]), np.float64))
    mean, tril = (np.asarray(truth.params[k], np.float64) for k in ("mean", "scale_tril"))
    tril = np.tril(tril.reshape(len(share), *tril.shape[-2:]))
    return share, mean.reshape(len(share), -1), tril @ tril.swapaxes(1, 2)


def log_density(truth, x, features=slice(None)):
    """Log density of the features at x (n, features)."""
    share, mean, covariance = normals(truth)
    mean, covariance = mean[:, features], covariance[:, features][:, :, features]
    scores = [multivariate_normal.logpdf(x, m, c) for m, c in zip(mean, covariance, strict=True)]
    return logsumexp(np.reshape(scores, (len(share), -1)), 0, b=share[:, None])


@pytest.mark.parametrize("name", PAIRS)
def test_given_agrees_with_the_closed_form(few_events, name):
    part, truth, exact = given(name)
    values = PAIRS[name][1]
    assert isinstance(part.model, GivenByImportance)
    assert truth.history["method"] == "closed form"
    assert part.history["method"] == "importance sampling"
    assert part.history["effective_sample_size"] > 0.3 * part.history["of"]
    assert gap(part, truth) < _GAP

    wanted = log_density(exact, [list(values.values())], list(values))[0]
    error = part.history["log_prob_error"]
    assert 0 < error < 0.05
    assert abs(float(part.params["log_total"]) - wanted) < 5 * error
    x = np.asarray(part.sample(jax.random.key(1), N))[:50]
    assert np.allclose(part.log_prob(x), log_density(truth, x), atol=5 * error + 1e-4)


def test_a_sampler_that_ignores_weights_is_detected(few_events):
    part, truth, _ = given("mixture, between the modes")
    spec = part.model
    bad = IgnoresWeights(spec.base, spec.features, spec.candidates, spec.components)
    assert gap(part, truth) < _GAP < gap(Fitted(bad, part.params), truth)


@pytest.mark.parametrize("name", ["gaussian, two given", "mixture"])
def test_marginal_agrees_with_the_closed_form(few_events, name):
    hidden, exact, values = pair(name)
    part = hidden.marginal(list(values))
    assert isinstance(part.model, MarginalByImportance)
    assert part.model.traits.density == "estimate"
    drawn = np.asarray(hidden.sample(jax.random.key(4), 2048))[:100, list(values)]
    # up to rounding, as the two programs add the terms of an event in different loops
    np.testing.assert_allclose(part.sample(jax.random.key(4), 100), drawn, rtol=1e-6, atol=1e-6)

    error = part.history["log_prob_error"]
    assert part.history["effective_sample_size"] > 0.3 * part.history["of"]
    off = np.asarray(part.log_prob(drawn)) - log_density(exact, drawn, list(values))
    assert np.sqrt((off**2).mean()) < 2 * error < 0.2


def test_flow_on_the_globe():
    feature, value, other = 1, 60.0, _GLOBE[0]
    flow = models.SplineCoupling(2, 2, 8, 1, 4, domain=_GLOBE)
    fitted = Fitted(flow, away_from_init(flow, jax.random.key(0)))
    edges = np.linspace(other.low, other.high, 20_001)
    middles = (edges[1:] + edges[:-1]) / 2
    points = np.full((len(middles), 2), value, np.float32)
    points[:, 1 - feature] = middles
    cells = np.exp(np.asarray(fitted.log_prob(points), np.float64)) * np.diff(edges)
    total = cells.sum()

    part = fitted.given({feature: value})
    assert gap(part, lambda q: np.interp(q, edges, np.append(0, cells.cumsum()) / total)) < _GAP
    error = part.history["log_prob_error"]
    assert abs(float(part.params["log_total"]) - math.log(total)) < 5 * error
    assert part.log_prob(np.array([[other.high + 1]]))[0] == -np.inf

    alone = fitted.marginal([feature])
    found = float(alone.log_prob(np.array([[value]], np.float32))[0])
    assert abs(found - math.log(total)) < 5 * alone.history["log_prob_error"]


def test_features_by_name_and_place(few_events):
    hidden, _ = gaussian()
    hidden.columns = ("a", "b", "c")
    part = hidden.given({"c": 0.7, -3: 8.0})
    assert part.columns == ("b",)
    assert part.model.features == (2, 0)
    assert np.array_equal(part.params["values"], np.array([0.7, 8.0], np.float32))
    assert hidden.marginal(["c", 0]).columns == ("c", "a")
    assert hidden.marginal("c").model.features == (2,)
    assert gaussian()[0].marginal(2).columns is None


def test_all_features_in_another_order():
    hidden, exact = gaussian()
    x = exact.sample(jax.random.key(0), 5)
    part = hidden.marginal([2, 0, 1])
    assert part.history == {"method": "closed form"}
    assert np.allclose(part.log_prob(x[:, np.array([2, 0, 1])]), exact.log_prob(x), rtol=1e-5)


def test_parts_of_parts(few_events):
    hidden, exact = gaussian()
    two = hidden.marginal([2, 0])
    one = two.marginal([1])
    assert one.history == {"method": "closed form"}
    assert one.model.features == (0,)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nested = hidden.given({1: -1.0}).given({1: 0.7})  # x_1 and then x_2 are given, x_0 is left
    assert nested.model.base.features == (1,)
    assert gap(nested, exact.given({1: -1.0, 2: 0.7})) < _GAP


def test_events_of_any_shape(few_events):
    fitted = Fitted(Square(), Square().init(None))
    part = fitted.given({0: 0.5, 3: 3.0})
    assert part.sample(jax.random.key(0), 3).shape == (3, 2)
    exact = {"mean": np.array([1.0, 2.0]), "scale_tril": np.eye(2)}
    assert gap(part, Fitted(models.Gaussian(2), exact)) < _GAP
    assert np.allclose(
        fitted.marginal([2]).log_prob([[2.0]]), -0.5 * math.log(2 * math.pi), atol=0.05
    )
    with pytest.raises(NotImplementedError, match="leave a feature out"):
        fitted.marginal([1, 0, 2, 3])


def test_the_same_key_gives_the_same_model(few_events, tmp_path):
    hidden, _ = gaussian()
    part, again = given("gaussian, one given")[0], hidden.given({1: -1.0}, key=jax.random.key(0))
    other = hidden.given({1: -1.0}, key=jax.random.key(1))
    assert part.params["log_total"] == again.params["log_total"] != other.params["log_total"]
    draws = part.sample(jax.random.key(1), 10)
    for same in (part, hidden.marginal([1])):
        wanted, scores = same.sample(jax.random.key(1), 10), None
        path = tmp_path / "part.jaxgen"
        same.save(path)
        loaded = jaxgen.load(path)
        assert loaded.model == same.model
        assert np.array_equal(loaded.sample(jax.random.key(1), 10), wanted)
        scores = same.log_prob(wanted)
        assert np.array_equal(loaded.log_prob(wanted), scores)
    inside = jax.jit(lambda fitted, key: fitted.sample(key, 10))(part, jax.random.key(1))
    assert np.allclose(inside, draws, rtol=1e-5)
    block = next(part.stream(jax.random.key(1), 5, start=5))
    assert np.allclose(block, draws[5:], rtol=1e-5)


def test_float64(few_events):
    with enable_x64(True):
        hidden, _ = gaussian()
        hidden.params = jax.tree_util.tree_map(lambda v: v.astype(jnp.float64), hidden.params)
        part = hidden.given({1: -1.0})
        x = part.sample(jax.random.key(0), 3)
        assert x.dtype == np.float64
        assert {v.dtype for v in jax.tree_util.tree_leaves(part.params)} == {np.dtype(np.float64)}
        scores = part.log_prob(x)
    wanted = log_density(given("gaussian, one given")[1], x)
    assert np.allclose(scores, wanted, atol=5 * part.history["log_prob_error"])


def test_values_without_density_are_refused(few_events):
    box = Fitted(HiddenBox(2), {"low": jnp.zeros(2), "high": jnp.ones(2)})
    assert gap(box.given({0: 0.5}), lambda q: np.clip(q, 0, 1)) < _GAP
    for values in ({0: 1.5}, {1: -1e-3}):
        with pytest.raises(ValueError, match=r"zero density at \{"):
            box.given(values)
    closed = Fitted(models.Box(2), box.params)
    with pytest.raises(ValueError, match=r"zero density at \{0: 1.5\}"):
        closed.given({0: 1.5})


def test_poor_proposals_warn():
    fitted = Fitted(Banana(), Banana().init(None))
    with pytest.warns(RuntimeWarning, match="draws and log densities will be poor"):
        part = fitted.given({1: 90.0})
    assert part.history["effective_sample_size"] < 100


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda f: f.given({}), ValueError, "at least one feature must be named, got none"),
        (lambda f: f.given({0: 1, 1: 1, 2: 1}), ValueError, "at least one feature must be left"),
        (lambda f: f.given({0: 1, -3: 1}), ValueError, r"named once, got \[0, -3\]"),
        (lambda f: f.given({3: 1}), ValueError, "features 0 .. 2, got 3"),
        (lambda f: f.given({"a": 1}), ValueError, "no feature 'a'; it has no names"),
        (lambda f: f.given({1.5: 1}), TypeError, "or a name, got 1.5"),
        (lambda f: f.given({True: 1}), TypeError, "or a name, got True"),
        (lambda f: f.given([1, 2]), TypeError, r"must be a dict, .*got \[1, 2\]"),
        (lambda f: f.given({0: "1"}), TypeError, "value of 0 must be a number, got '1'"),
        (lambda f: f.given({0: [1.0]}), TypeError, r"value of 0 must be a number, got \[1.0\]"),
        (lambda f: f.given({0: None}), TypeError, "value of 0 must be a number, got None"),
        (lambda f: f.given({0: np.nan}), ValueError, "value of 0 must be finite, got nan"),
        (lambda f: f.given({0: 1.0}, key=3), TypeError, "key must be a PRNG key"),
        (lambda f: f.marginal([]), ValueError, "at least one feature must be named, got none"),
        (lambda f: f.marginal([0, 0]), ValueError, r"named once, got \[0, 0\]"),
        (lambda f: f.marginal([-4]), ValueError, "features 0 .. 2, got -4"),
        (lambda f: f.marginal(None), TypeError, "or a name, got None"),
    ],
)
def test_malformed_calls_are_refused(call, error, text):
    with pytest.raises(error, match=text):
        call(gaussian()[0])


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (models.SplineCoupling(2, 1, 4, 1, 4, y_shape=(1,)), "must have no y"),
        (HiddenLevels((2,), levels=3), "must be real numbers"),
        (NoDensity(), "the density, not 'none'"),
        (compose.Transformed(models.Gaussian(2), bijectors.Simplex()), "fill no volume"),
    ],
)
def test_models_it_cannot_take(few_events, model, reason):
    fitted = Fitted(model, jax.jit(model.init)(jax.random.key(0)))
    with pytest.raises(NotImplementedError, match=reason):
        fitted.given({0: 0.5})
    with pytest.raises(NotImplementedError, match=reason):
        fitted.marginal([0])


def test_it_runs_on_the_host():
    hidden, exact = gaussian()
    with pytest.raises(TypeError, match="runs on the host"):
        jax.jit(lambda fitted: fitted.given({0: 9.0}).params)(hidden)
    inside = jax.jit(lambda fitted, value: fitted.given({0: value}).params)(exact, 9.0)
    outside = exact.given({0: 9.0}).params
    assert np.allclose(inside["mean"], outside["mean"], rtol=1e-5)


def test_invalid_specs():
    for features in ((), (0, 1), (2,), (0, 0)):
        with pytest.raises(ValueError, match="some, but not all"):
            GivenByImportance(models.Gaussian(2), features)
    with pytest.raises(ValueError, match="must have no y"):
        MarginalByImportance(models.SplineCoupling(2, y_shape=()), (0,))
    spec = MarginalByImportance(models.Gaussian(2), (0,))
    with pytest.raises(NotImplementedError, match="fit its base"):
        spec.loss({}, (), np.zeros(1))
