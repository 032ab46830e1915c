"""Posteriors of programs by gradients, compared with exact ones, and their diagnostics."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import programs
import pytest
from numpyro.infer.autoguide import AutoMultivariateNormal

import jaxgen
from jaxgen.core.precision import enable_x64
from jaxgen.laws import count_compiles
from jaxgen.numpyro import (
    FullRank,
    Guide,
    MeanField,
    Point,
    from_program,
    posterior,
)

KEY = jax.random.key(0)
NOISE = 0.5
RNG = np.random.default_rng(0)


def line(y, x=None):
    """A linear regression with known noise, whose posterior is normal."""
    coefficients = numpyro.sample("b", dist.Normal(0, 1000).expand([y.shape[1]]).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("x", dist.Normal(y @ coefficients, NOISE), obs=x)


def regression(y, x=None):
    """A linear regression with an intercept and unknown noise."""
    intercept = numpyro.sample("intercept", dist.Normal(0, 10))
    slope = numpyro.sample("slope", dist.Normal(0, 10))
    scale = numpyro.sample("scale", dist.HalfNormal(5))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("x", dist.Normal(intercept + slope * y, scale), obs=x)


def logistic(y, x=None):
    slope = numpyro.sample("slope", dist.Normal(0, 2).expand([2]).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("x", dist.Bernoulli(logits=y @ slope), obs=x)


def schools(y, x=None):
    """Eight schools, centred: the effects and their spread are globals."""
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    effects = numpyro.sample("effects", dist.Normal(mu, tau).expand([8]).to_event(1))
    with numpyro.plate("rows", len(y)):
        school = y[:, 0].astype(int).clip(0, 7)
        numpyro.sample("x", dist.Normal(effects[school], y[:, 1]), obs=x)


def years(n):
    """Columns of ones and years; their coefficients have the correlation -0.99995."""
    return np.stack([np.ones(n), RNG.integers(1950, 2021, n)], 1)


def exact(x, y, weights=None):
    """Mean and covariance of the posterior of ``line``."""
    weights = np.ones(len(x)) if weights is None else weights
    precision = (y * weights[:, None]).T @ y / NOISE**2 + np.eye(y.shape[1]) / 1000**2
    covariance = np.linalg.inv(precision)
    return covariance @ (y * weights[:, None]).T @ x / NOISE**2, covariance


def normal_of(params):
    """Mean and covariance of the normal that params of ``FullRank`` define, in float64."""
    own = {name: np.asarray(v, np.float64) for name, v in params.items()}
    tril = np.diag(np.exp(own["pace"] * own["log_scale"]))
    tril[np.tril_indices(len(tril), -1)] = own["pace"] * own["lower"]
    root = own["frame"] @ tril
    return own["middle"] + own["frame"] @ (own["pace"] * own["loc"]), root @ root.T


def check_near(params, mean, covariance):
    """Check means to 0.1 standard deviations, standard deviations to 10 %, correlations to 0.1."""
    found, of = normal_of(params)
    whitening = np.linalg.inv(np.linalg.cholesky(covariance))
    np.testing.assert_allclose(whitening @ (found - mean), 0, atol=0.1)
    np.testing.assert_allclose(np.sqrt(np.diag(of) / np.diag(covariance)), 1, rtol=0.1)
    np.testing.assert_allclose(whitening @ of @ whitening.T, np.eye(len(mean)), atol=0.2)


@functools.cache
def line_fit(n):
    y = years(n)
    x = y @ [-40, 0.02] + NOISE * RNG.normal(size=n)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return jaxgen.fit(from_program(line, y_shape=(2,)), x, y, key=KEY), x, y


@pytest.mark.parametrize("n", [20, 1000, 100_000])
def test_the_default_posterior_is_the_exact_one(n):
    """With the year as predictor, in float32, and without a warning."""
    fitted, x, y = line_fit(n)
    assert fitted.model.posterior == FullRank()
    mean, covariance = exact(x, y)
    check_near(fitted.params["posterior"], mean, covariance)
    assert fitted.history["pareto_k"] < 0.7
    assert fitted.history["efficiency"] > 0.9
    assert fitted.history["converged"]
    assert fitted.history["shift"]["b"] < 0.1
    assert abs(fitted.history["deviation"]["b"] - 1) < 0.1


def test_draws_have_the_moments_of_the_normal():
    fitted, _, _ = line_fit(20)
    mean, covariance = normal_of(fitted.params["posterior"])
    draws = np.asarray(posterior(fitted)["b"], np.float64)
    whitening = np.linalg.inv(np.linalg.cholesky(covariance))
    z = (draws - mean) @ whitening.T
    np.testing.assert_allclose(z.mean(0), 0, atol=0.01)
    np.testing.assert_allclose(z.T @ z / len(z), np.eye(2), atol=0.02)


def test_an_uncentred_intercept():
    """Its posterior has the standard deviation 0.85 of least squares; a mean field gives 0.16."""
    y = RNG.uniform(40, 60, 100)
    x = 2 + 0.5 * y + RNG.normal(size=100)
    fitted = jaxgen.fit(from_program(regression, y_shape=()), x, y, key=KEY)
    design = np.stack([np.ones(100), y], 1)
    best, squares = np.linalg.lstsq(design, x)[:2]
    deviation = np.sqrt(np.linalg.inv(design.T @ design)[0, 0] * squares[0] / 98)
    values = posterior(fitted)
    assert abs(values["intercept"].mean() - best[0]) < 0.1 * deviation
    np.testing.assert_allclose(values["intercept"].std(), deviation, rtol=0.1)
    correlation = np.corrcoef(values["intercept"], values["slope"])[0, 1]
    assert correlation < -0.98
    assert fitted.history["pareto_k"] < 0.7


def test_weights_count_as_rows_and_padding_does_not():
    y = RNG.normal(size=(30, 2))
    x = y @ [1.0, -1.0] + NOISE * RNG.normal(size=30)
    weights = RNG.integers(0, 9, 30).astype(float)
    model = from_program(line, y_shape=(2,))
    fitted = jaxgen.fit(model, x, y, key=KEY, weights=weights)
    check_near(fitted.params["posterior"], *exact(x, y, weights))


def test_few_events_of_a_logistic_regression_by_quadrature():
    y = RNG.normal(size=(20, 2))
    x = (y[:, 0] > 0).astype(float)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = posterior(jaxgen.fit(from_program(logistic, y_shape=(2,)), x, y, key=KEY))["slope"]
    grid = np.linspace(-8, 12, 201)
    points = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
    logits = points @ y.T
    log_p = (x * logits - np.logaddexp(0, logits)).sum(1) - (points**2).sum(1) / 8
    weights = np.exp(log_p - log_p.max())
    weights /= weights.sum()
    mean = weights @ points
    deviation = np.sqrt(weights @ (points - mean) ** 2)
    np.testing.assert_allclose(np.mean(values, 0), mean, atol=0.15 * deviation.min())
    np.testing.assert_allclose(np.std(values, 0), deviation, rtol=0.15)


def test_many_globals_have_a_mean_field():
    def wide(n, x=None):
        center = numpyro.sample("center", dist.Normal(0, 1).expand([65]).to_event(1))
        with numpyro.plate("rows", n):
            numpyro.sample("x", dist.Normal(center, 1).to_event(1), obs=x)

    assert from_program(wide).posterior == MeanField()
    assert from_program(programs.factors).posterior == MeanField()  # without globals
    assert from_program(programs.classes, classes=3).model.posterior == MeanField()
    assert from_program(programs.scaled).posterior == FullRank()


# Diagnostics.


@pytest.mark.parametrize("kind", [MeanField(), Guide(AutoMultivariateNormal)], ids=str)
def test_a_posterior_far_from_the_exact_one_is_named(kind):
    """Neither finds the correlation of the intercept and the year by gradient steps alone."""
    _, x, y = line_fit(1000)
    model = from_program(line, y_shape=(2,), posterior=kind)
    with pytest.warns(RuntimeWarning, match=r"program .*line by .* k = .*'b' \(mean") as found:
        fitted = jaxgen.fit(model, x, y, key=KEY, epochs=300)
    assert len(found) == 1
    assert "FullRank()" in str(found[0].message)
    assert fitted.history["pareto_k"] > 0.7
    assert fitted.history["efficiency"] < 0.1


def test_a_mean_field_is_right_about_one_number():
    x = RNG.normal(size=50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = from_program(programs.normal, posterior=MeanField())
        fitted = jaxgen.fit(model, x, key=KEY, epochs=2000)
    assert fitted.history["efficiency"] > 0.98
    assert fitted.history["shift"]["mean"] < 0.1
    assert abs(fitted.history["deviation"]["mean"] - 1) < 0.1


def test_a_funnel_is_named():
    y = np.stack([np.arange(8), programs.ERRORS], 1)
    model = from_program(schools, y_shape=(2,))
    with pytest.warns(RuntimeWarning, match=r"schools by FullRank .* k = .*'tau'.*take NUTS"):
        fitted = jaxgen.fit(model, programs.EFFECTS, y, key=KEY)
    assert fitted.history["pareto_k"] > 0.7
    assert fitted.history["shift"]["tau"] > 0.5 > fitted.history["shift"]["mu"]


def test_training_that_ends_early_is_named():
    """The mean is 10 standard deviations of the prior away, too far for 20 steps."""
    model = from_program(programs.normal, posterior=MeanField())
    with pytest.warns(RuntimeWarning, match=r"still rising; train for more epochs"):
        fitted = jaxgen.fit(model, np.full(100, 10.0), key=KEY, epochs=20)
    assert not fitted.history["converged"]


def test_a_point_has_no_ratios():
    fitted = jaxgen.fit(from_program(programs.normal, posterior=Point()), np.zeros(5), key=KEY)
    assert fitted.history["converged"]
    assert "pareto_k" not in fitted.history


def test_members_classes_and_data_sets_each_have_a_history():
    model = from_program(programs.normal)
    x = RNG.normal(size=(2, 60))
    both = jaxgen.fit(model, x[0], key=KEY, ensemble=2, epochs=30)
    per_class = jaxgen.compose.PerClass(model, 2)
    classes = jaxgen.fit(per_class, x.ravel(), np.repeat([0, 1], 60), key=KEY, epochs=30)
    each = jaxgen.fit_each(model, x, key=KEY, epochs=30)
    for history, name in ((both, "members"), (classes, "classes"), (each, "fits")):
        assert [own["pareto_k"] < 0.7 for own in history.history[name]] == [True, True]
    for params in (classes.params["model"]["posterior"], each.params["posterior"]):
        for i in range(2):
            own = {name: v[i] for name, v in params.items()}
            check_near(own, np.array([x[i].sum() / 61]), np.eye(1) / 61)


def test_a_second_fit_compiles_nothing():
    model = from_program(programs.regression, y_shape=(2,))
    fitted = jaxgen.fit(model, programs.X, programs.Y, key=KEY, epochs=10)
    fitted.log_prob(programs.X, programs.Y)
    with count_compiles() as compiled:
        again = jaxgen.fit(model, programs.X + 1, programs.Y, key=KEY, epochs=10)
        again.log_prob(programs.X, programs.Y)
    assert compiled == [0]


def test_x64():
    with enable_x64(True):
        y = RNG.normal(size=(30, 2))
        x = y @ [1.0, -1.0] + NOISE * RNG.normal(size=30)
        fitted = jaxgen.fit(from_program(line, y_shape=(2,)), x, y, key=KEY, epochs=5)
        check_near(fitted.params["posterior"], *exact(x, y))
        leaves = jax.tree_util.tree_leaves(fitted.params)
        assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float64")}
