"""NumPyro programs as models: their densities, fits, draws and what is told of them."""

import os
import pathlib
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import programs
import pytest
from numpyro.infer import log_likelihood as numpyros_log_likelihood
from numpyro.infer.autoguide import AutoDelta, AutoMultivariateNormal
from scipy.stats import norm
from sklearn.datasets import load_digits

import jaxgen
from jaxgen.check import count_compiles
from jaxgen.model import Model
from jaxgen.numpyro import (
    NUTS,
    Guide,
    MeanField,
    Point,
    as_distribution,
    distil,
    estimate,
    from_program,
    latents,
    log_likelihood,
    posterior,
    predictive,
    sbc,
    to_arviz,
)
from jaxgen.precision import enable_x64
from jaxgen.random import Normal

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
Y = RNG.normal(size=(100, 2))
X = Y @ [1.0, -0.5] + 0.3 * RNG.normal(size=100)


def normal(n, x=None):
    """A mean with a standard normal prior, and unit noise."""
    mean = numpyro.sample("mean", dist.Normal(0, 1))
    with numpyro.plate("rows", n):
        numpyro.sample("x", dist.Normal(mean, 1), obs=x)


def scaled(n, x=None):
    """A scale that is positive."""
    scale = numpyro.sample("scale", dist.HalfNormal(1))
    with numpyro.plate("rows", n):
        numpyro.sample("x", dist.Normal(0, scale), obs=x)


def prior_alone(n, x=None):
    """A global of which the rows say nothing."""
    numpyro.sample("rate", dist.Gamma(3.0, 1.0))
    with numpyro.plate("rows", n):
        numpyro.sample("x", dist.Normal(0, 1), obs=x)


def schools(sigma, x=None):
    """Eight schools, each with an effect of its own."""
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("schools", len(sigma)):
        base = numpyro.sample("base", dist.Normal(0, 1))
        effect = numpyro.deterministic("effect", mu + tau * base)
        numpyro.sample("x", dist.Normal(effect, sigma), obs=x)


EFFECTS = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])
ERRORS = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])


class ExactPosterior(Model):
    """q(z|x) of ``programs.factors``, which is normal."""

    event_shape = (2,)
    y_shape = (3,)

    def init(self, key, x=None, y=None):
        loadings = np.asarray(programs.LOADINGS, np.float64)
        precision = np.eye(2) + loadings.T @ loadings / 0.25
        tril = np.linalg.cholesky(np.linalg.inv(precision))
        return {
            "gain": jnp.asarray(np.linalg.inv(precision) @ loadings.T / 0.25),
            "tril": jnp.asarray(tril),
        }

    def log_prob(self, params, x, y=None):
        return dist.MultivariateNormal(params["gain"] @ y, scale_tril=params["tril"]).log_prob(x)

    def noise(self):
        return Normal((2,))

    def push(self, params, noise, y=None):
        return params["gain"] @ y + params["tril"] @ noise


def exact_factors(x):
    loadings = np.asarray(programs.LOADINGS, np.float64)
    covariance = loadings @ loadings.T + 0.25 * np.eye(3)
    return dist.MultivariateNormal(np.zeros(3), covariance).log_prob(x)


def started(model):
    return jaxgen.Fitted(model, model.init(KEY))


# Fits.


@pytest.mark.parametrize(("jacobian", "mode"), [(False, 2.0), (True, 3.0)])
def test_map_with_and_without_jacobian(jacobian, mode):
    model = from_program(prior_alone, posterior=Point(jacobian))
    fitted = jaxgen.fit(model, np.zeros(1), key=KEY)
    np.testing.assert_allclose(posterior(fitted)["rate"], [mode], rtol=0.01)


@pytest.mark.parametrize("way", [MeanField(), Guide(AutoMultivariateNormal), NUTS(draws=500)])
def test_the_posterior_of_one_event(way):
    """Prior N(0, 1), unit noise, x = 2: the posterior is N(1, .707^2)."""
    # of one event there is one draw a step, so its noise takes long to average out
    more = {} if isinstance(way, NUTS) else {"epochs": 10_000}
    fitted = jaxgen.fit(from_program(normal, posterior=way), np.array([2.0]), key=KEY, **more)
    mean = np.asarray(posterior(fitted)["mean"])
    assert abs(mean.mean() - 1) < 0.05 + 3 * 0.71 / 100**0.5 * (not isinstance(way, MeanField))
    assert abs(mean.std() - 0.707) < 0.05 + 0.1 * isinstance(way, Guide)
    if isinstance(way, MeanField):
        own = {name: v["mean"] for name, v in fitted.params["posterior"].items()}
        assert abs(own["middle"] + own["unit"] * own["loc"] - 1) < 0.05
        assert abs(own["unit"] * np.exp(own["log_scale"]) - 0.707) < 0.05


def test_map_of_one_event():
    for way in (Point(), Guide(AutoDelta, draws=1)):
        fitted = jaxgen.fit(from_program(normal, posterior=way), np.array([2.0]), key=KEY)
        np.testing.assert_allclose(posterior(fitted)["mean"], [1.0], atol=2e-3)


def test_a_fit_finds_its_way_under_a_wide_prior():
    """The posterior lies 800 units from where a fit starts, and is 2 wide."""

    def wide(n, x=None):
        mean = numpyro.sample("mean", dist.Normal(0, 1000))
        with numpyro.plate("rows", n):
            numpyro.sample("x", dist.Normal(mean, 20), obs=x)

    x = 800 + 20 * np.random.default_rng(0).normal(size=100)
    means = posterior(jaxgen.fit(from_program(wide), x, key=KEY))["mean"]
    assert abs(means.mean() - x.mean()) < 0.5
    np.testing.assert_allclose(means.std(), 2, rtol=0.1)


def mixed(discrete):
    """Shares of two clusters, told by draws that no gradient passes."""

    def program(n, x=None):
        share = numpyro.sample("share", dist.Beta(2.0, 2.0))
        with numpyro.plate("rows", n):
            if discrete:
                label = numpyro.sample("label", dist.Bernoulli(share))
                z = numpyro.sample("z", dist.Normal(4 * label - 2, 0.5))
            else:
                shares = dist.Categorical(jnp.stack([1 - share, share]))
                parts = dist.Normal(jnp.array([-2.0, 2.0]), 0.5)
                z = numpyro.sample("z", dist.MixtureSameFamily(shares, parts))
            numpyro.sample("x", dist.Normal(z, 0.5), obs=x)

    return program


@pytest.mark.parametrize("discrete", [True, False])
def test_locals_that_no_gradient_passes_still_tell_of_the_globals(discrete):
    rng = np.random.default_rng(0)
    x = np.where(rng.uniform(size=300) < 0.85, 2, -2) + 0.5**0.5 * rng.normal(size=300)
    model = from_program(mixed(discrete))
    shares = posterior(jaxgen.fit(model, x, key=KEY, epochs=300))["share"]
    grid = np.linspace(0.001, 0.999, 999)
    low, high = (np.exp(-((x[:, None] - at) ** 2)) for at in (-2, 2))
    log_p = np.log((1 - grid) * low + grid * high).sum(0)
    weights = np.exp(log_p - log_p.max()) * grid * (1 - grid)
    weights /= weights.sum()
    mean = weights @ grid
    np.testing.assert_allclose(shares.mean(), mean, atol=0.005)
    np.testing.assert_allclose(shares.std(), (weights @ (grid - mean) ** 2) ** 0.5, rtol=0.1)


def test_a_support_that_a_global_decides():
    def bounded(n, x=None):
        high = numpyro.sample("high", dist.LogNormal(1.0, 0.5))
        with numpyro.plate("rows", n):
            numpyro.sample("x", dist.Uniform(0, high), obs=x)

    fitted = jaxgen.fit(from_program(bounded, posterior=NUTS()), np.array([0.5, 5.0]), key=KEY)
    assert posterior(fitted)["high"].min() >= 5
    assert np.isfinite(as_distribution(fitted).log_prob(4.9))


def test_a_proposal_of_latents_whose_support_the_condition_decides():
    def within(y, x=None):
        with numpyro.plate("rows", len(y)):
            z = numpyro.sample("z", dist.Uniform(0.0, 1 + y))
            numpyro.sample("x", dist.Normal(z, 1.0), obs=x)

    proposal = jaxgen.compose.Conditional(jaxgen.compose.MLP((2,)), jaxgen.models.Gaussian(1))
    model = from_program(within, y_shape=(), samples=20_000, proposal=proposal)
    x, y = np.array([1.0, -0.5]), np.array([0.5, 2.0])
    exact = np.log((norm.cdf(1 + y - x) - norm.cdf(-x)) / (1 + y))
    np.testing.assert_allclose(started(model).log_prob(x, y), exact, atol=0.05)


def test_what_follows_from_an_event_follows_from_the_one_given():
    def remarked(n, x=None):
        mean = numpyro.sample("mean", dist.Normal(0, 1))
        numpyro.deterministic("twice", 2 * mean)
        with numpyro.plate("rows", n):
            own = numpyro.sample("x", dist.Normal(mean, 1), obs=x)
            numpyro.deterministic("residual", own - mean)
            numpyro.sample("echo", dist.Normal(own, 0.1))

    fitted = started(from_program(remarked, posterior=Point()))
    x, values = np.array([5.0, 5.0, -5.0]), posterior(fitted)
    found = latents(fitted, KEY, x)
    np.testing.assert_allclose(found["residual"][0], x - values["mean"][0], rtol=1e-5)
    np.testing.assert_allclose(found["echo"][0], x, atol=0.6)
    np.testing.assert_allclose(values["twice"], 2 * values["mean"])


def test_entries_that_cannot_vary_do_not_disagree():
    def correlated(n, x=None):
        tril = numpyro.sample("tril", dist.LKJCholesky(2, 1.0))
        with numpyro.plate("rows", n):
            numpyro.sample("x", dist.MultivariateNormal(jnp.zeros(2), scale_tril=tril), obs=x)

    x = np.random.default_rng(0).normal(size=(50, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = jaxgen.fit(from_program(correlated, posterior=NUTS(100)), x, key=KEY)
    assert 0.9 < fitted.history["r_hat"]["tril"] < 1.05
    assert fitted.history["ess"]["tril"] > 50


def test_keys_of_another_kind():
    key = jax.random.key(0, impl="rbg")
    fitted = jaxgen.fit(from_program(normal), np.array([2.0]), key=key, epochs=3)
    assert predictive(fitted, key, n=2).shape == (100, 2)
    jaxgen.fit(from_program(normal, posterior=NUTS(4, 4, 1)), np.array([2.0]), key=key)


@pytest.mark.parametrize("weights", [None, np.full(25, 4.0)])
def test_a_prior_weighs_less_the_more_events_there_are(weights):
    n = 100 if weights is None else 25
    x = np.random.default_rng(1).normal(size=n)
    fitted = jaxgen.fit(from_program(normal), x, weights=weights, key=KEY)
    spread = posterior(fitted)["mean"].std()
    np.testing.assert_allclose(spread, (1 + 100) ** -0.5, rtol=0.1)


def test_a_class_whose_events_are_fewer_is_less_certain():
    model = jaxgen.compose.PerClass(from_program(normal), 2)
    y = np.repeat([0, 1], [96, 8])
    fitted = jaxgen.fit(model, np.random.default_rng(1).normal(size=len(y)), y, key=KEY)
    own = {name: v["mean"] for name, v in fitted.params["model"]["posterior"].items()}
    spread = own["unit"] * np.exp(own["log_scale"])
    np.testing.assert_allclose(spread, [97**-0.5, 9**-0.5], rtol=0.15)
    drawn = jaxgen.compose.PerClass(from_program(normal, posterior=NUTS(50, 200, 2)), 2)
    fitted = jaxgen.fit(drawn, np.random.default_rng(1).normal(size=len(y)), y, key=KEY)
    spread = fitted.params["model"]["posterior"]["draws"]["mean"].std(1)
    np.testing.assert_allclose(spread, [97**-0.5, 9**-0.5], rtol=0.3)
    assert len(fitted.history["classes"]) == 2


def test_a_guide_of_ones_own():
    def guide(y):
        loc = numpyro.param("slope_loc", jnp.zeros(2))
        numpyro.sample("slope", dist.Normal(loc, 0.03).to_event(1))
        scale = numpyro.param("scale_loc", 1.0, constraint=dist.constraints.positive)
        numpyro.sample("scale", dist.Delta(scale))

    model = from_program(programs.regression, y_shape=(2,), posterior=Guide(guide))
    fitted = jaxgen.fit(model, X, Y, key=KEY)
    np.testing.assert_allclose(posterior(fitted)["slope"].mean(0), [1, -0.5], atol=0.15)
    np.testing.assert_allclose(posterior(fitted)["scale"], 0.33, atol=0.05)


def test_a_second_fit_compiles_nothing():
    for way in (MeanField(), NUTS(20, 20, 2)):
        model = from_program(programs.regression, y_shape=(2,), posterior=way)
        fitted = jaxgen.fit(model, X, Y, key=KEY)
        fitted.log_prob(X, Y), predictive(fitted, KEY, Y), log_likelihood(fitted, X, Y)
        with count_compiles() as compiled:
            fitted = jaxgen.fit(model, X + 1, Y, key=KEY)
            fitted.log_prob(X, Y), predictive(fitted, KEY, Y), log_likelihood(fitted, X, Y)
        assert compiled == [0]


def test_ensembles_and_checkpoints_apply(tmp_path):
    model = from_program(normal)
    x = np.random.default_rng(1).normal(size=30)
    both = jaxgen.fit(model, x, key=KEY, ensemble=2, epochs=30, checkpoint=tmp_path / "run")
    assert both.model == jaxgen.compose.Mixture(model, 2)
    again = jaxgen.fit(model, x, key=KEY, ensemble=2, epochs=30, checkpoint=tmp_path / "run")
    np.testing.assert_array_equal(both.log_prob(x), again.log_prob(x))


# Many at once.


def test_fits_side_by_side_are_those_in_turn():
    model = from_program(programs.regression, y_shape=(2,))
    x = np.stack([X, X + 1, 2 * X])
    side_by_side = jaxgen.unstack(jaxgen.fit_each(model, x, Y, key=KEY, epochs=50))
    for i, one in enumerate(side_by_side):
        own = jaxgen.fit(model, x[i], Y, key=jax.random.fold_in(KEY, i), epochs=50)
        np.testing.assert_allclose(
            one.log_prob(x[i], Y), own.log_prob(x[i], Y), rtol=1e-3, atol=1e-3
        )
        np.testing.assert_allclose(one.history["train"], own.history["train"], rtol=1e-3, atol=1e-3)


def test_fits_side_by_side_of_other_families_and_by_nuts():
    points = np.random.default_rng(0).normal(size=(3, 64, 2)) * [[[1.0]], [[2.0]], [[4.0]]]
    flow = jaxgen.models.SplineCoupling(2, 2, 6, 1, 4)
    fitted = jaxgen.fit_each(flow, points, key=KEY, epochs=5)
    scores = jax.vmap(lambda one, x: one.log_prob(x).mean())(fitted, points)
    assert (np.diff(scores) < 0).all()
    model = from_program(scaled, posterior=NUTS(50, 100, 2))
    fitted = jaxgen.fit_each(model, points[..., 0], key=KEY)
    scales = fitted.params["posterior"]["draws"]["scale"].mean(1)
    np.testing.assert_allclose(scales, points[..., 0].std(1), rtol=0.15)


def test_fit_each_refuses():
    model = from_program(normal)
    with pytest.raises(ValueError, match=r"x must have shape \(fits, n\)"):
        jaxgen.fit_each(model, np.zeros(3), key=KEY)
    with pytest.raises(ValueError, match="of data set 1: x must be finite"):
        jaxgen.fit_each(model, np.array([[0.0], [np.nan]]), key=KEY)
    with pytest.raises(ValueError, match="gradients or mcmc"):
        jaxgen.fit_each(jaxgen.models.Gaussian(1), np.zeros((2, 3, 1)), key=KEY)


# Densities.


@pytest.mark.parametrize("way", [MeanField(20), NUTS(5, 5, 2)])
def test_scores_are_those_of_numpyro(way):
    fitted = started(from_program(programs.regression, y_shape=(2,), posterior=way))
    values = posterior(fitted)
    wanted = numpyros_log_likelihood(programs.regression, values, Y, x=X)["x"]
    np.testing.assert_allclose(log_likelihood(fitted, X, Y), wanted, rtol=2e-4, atol=1e-3)
    mean = jax.scipy.special.logsumexp(wanted, 0) - np.log(len(wanted))
    np.testing.assert_allclose(fitted.log_prob(X, Y), mean, rtol=2e-4, atol=1e-3)


@pytest.mark.parametrize("n", [1, 7])
def test_discrete_latents_are_summed_over(n):
    """Acceptance: equal to MixtureSameFamily, a single row included."""
    with enable_x64(True):
        model = from_program(programs.kinds, posterior=Point())
        assert model.method == "enumerated"
        fitted = started(model)
        share = posterior(fitted)["share"][0]
        mixture = dist.MixtureSameFamily(
            dist.Categorical(probs=jnp.stack([1 - share, share])),
            dist.Normal(jnp.array([-2.0, 1.5]), 0.7),
        )
        x = np.random.default_rng(0).normal(size=n)
        np.testing.assert_allclose(fitted.log_prob(x), mixture.log_prob(x), rtol=1e-10)


def test_continuous_latents_are_weighted_by_importance():
    """Acceptance: the bound grows with K; an exact proposal gives the exact value with K = 1."""
    with enable_x64(True):
        x = started(from_program(programs.factors)).sample(KEY, 300)
        exact = exact_factors(x)
        means = []
        for count in (10, 100, 1000):
            model = from_program(programs.factors, samples=count)
            assert model.density == "estimate"
            assert f"K = {count}" in model.method
            means.append(float(started(model).log_prob(x).mean()))
        assert means[0] < means[1] < means[2] < exact.mean() + 0.01
        assert exact.mean() - means[2] < 0.1
        guided = from_program(programs.factors, samples=1, proposal=ExactPosterior())
        np.testing.assert_allclose(started(guided).log_prob(x), exact, rtol=1e-10, atol=1e-10)


def test_a_learnt_proposal_comes_near_the_exact_value():
    x = started(from_program(programs.factors)).sample(KEY, 500)
    network = jaxgen.compose.Conditional(jaxgen.compose.MLP((3,), 16, 1), jaxgen.models.Gaussian(2))
    model = from_program(programs.factors, samples=20, proposal=network)
    fitted = jaxgen.fit(model, x, key=KEY)
    found = estimate(fitted, x, key=KEY)
    plain = estimate(started(from_program(programs.factors, samples=20)), x, key=KEY)
    exact = exact_factors(x)
    assert abs(found.log_prob.mean() - exact.mean()) < 0.05
    assert abs(plain.log_prob.mean() - exact.mean()) > 0.2
    assert found.ess.mean() > 10 > plain.ess.mean()
    assert found.method == "importance-weighted, K = 20, from Conditional"


def test_an_estimate_says_what_it_rests_on():
    fitted = started(from_program(programs.regression, y_shape=(2,)))
    found = estimate(fitted, X, Y, key=KEY)
    assert found.method == "exact"
    assert np.isinf(found.ess).all()
    np.testing.assert_allclose(found.log_prob, fitted.log_prob(X, Y), rtol=1e-5)


def test_eight_schools_by_quadrature():
    """Acceptance: log Z = -31.311347, with E mu = 4.3968 and E tau = 3.5977."""
    mu, tau = np.meshgrid(np.linspace(-22, 30, 80), np.linspace(0.05, 60, 150), indexing="ij")
    mu, tau = mu.ravel(), tau.ravel()
    model = from_program(schools, y_shape=(), samples=150, posterior=NUTS(draws=len(mu), chains=1))
    grid = {"mu": jnp.asarray(mu, jnp.float32), "tau": jnp.asarray(tau, jnp.float32)}
    fitted = jaxgen.Fitted(model, {"posterior": {"draws": grid}, "program": {}})
    prior = dist.Normal(0, 5).log_prob(mu) + dist.HalfCauchy(5).log_prob(tau)
    cell = np.log((52 / 79) * (59.95 / 149))
    joint = np.asarray(log_likelihood(fitted, EFFECTS, ERRORS).sum(1) + prior, np.float64) + cell
    weights = np.exp(joint - joint.max())
    log_z = np.log(weights.sum()) + joint.max()
    assert abs(log_z + 31.311347) < 0.05
    weights /= weights.sum()
    assert abs(weights @ mu - 4.3968) < 0.05
    assert abs(weights @ tau - 3.5977) < 0.1
    assert abs((weights @ (mu - 4.3968) ** 2) ** 0.5 - 3.3177) < 0.05


def test_eight_schools_by_nuts():
    """Acceptance, within four Monte Carlo standard errors: mu, tau and the schools' own effects."""
    way = NUTS(draws=500, warmup=500, chains=4, target_accept=0.9)
    fitted = jaxgen.fit(from_program(schools, y_shape=(), posterior=way), EFFECTS, ERRORS, key=KEY)
    values, history = posterior(fitted), fitted.history
    assert max(history["r_hat"].values()) < 1.02
    for name, mean, spread in (("mu", 4.3968, 3.3177), ("tau", 3.5977, 3.2200)):
        error = spread / history["ess"][name] ** 0.5
        assert abs(values[name].mean() - mean) < 4 * error
    local = latents(fitted, KEY, EFFECTS, ERRORS)
    effects = np.asarray(local["effect"])
    assert effects.shape == (2000, 8)
    made = values["mu"][:, None] + values["tau"][:, None] * local["base"]
    np.testing.assert_allclose(effects, made, rtol=1e-4, atol=1e-4)
    for school, mean in ((0, 6.2119), (7, 4.8543)):
        error = effects[:, school].std() / min(history["ess"].values()) ** 0.5
        assert abs(effects[:, school].mean() - mean) < 4 * error


def test_digits_by_bayes_rule():
    """Acceptance: the class-conditional Gaussians of the published figures, as a program."""
    digits, labels = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(digits))
    digits, labels = digits[order] / 16, labels[order]
    train, test = slice(0, 1200), slice(1200, None)
    own = [digits[train][labels[train] == k] for k in range(10)]
    mean = np.stack([x.mean(0) for x in own])
    tril = np.stack([np.linalg.cholesky(np.cov(x.T, ddof=0) + 1e-2 * np.eye(64)) for x in own])

    def program(y, x=None):
        loc = numpyro.param("loc", mean)
        scale = numpyro.param("scale", tril, constraint=dist.constraints.lower_cholesky)
        with numpyro.plate("rows", len(y)):
            numpyro.sample("x", dist.MultivariateNormal(loc[y], scale_tril=scale[y]), obs=x)

    with enable_x64(True):
        model = from_program(program, classes=10)
        params = model.init(KEY, digits[train], labels[train])
        fitted = jaxgen.Fitted(model, params)
        log_p = np.asarray(fitted.classify(digits[test]))
        assert abs((log_p.argmax(1) == labels[test]).mean() - 0.99330) < 1e-4
        chosen = log_p[np.arange(len(log_p)), labels[test]]
        assert abs(chosen.mean() + 0.10309) < 1e-4
        assert abs(fitted.log_prob(digits[test]).mean() - 44.18963) < 1e-4


# Draws.


def test_joint_draws_share_their_globals():
    fitted = jaxgen.fit(from_program(programs.regression, y_shape=(2,)), X, Y, key=KEY)
    drawn = predictive(fitted, KEY, Y)
    assert drawn.shape == (100, 100)
    values = posterior(fitted)
    wanted = np.asarray(values["slope"]) @ Y.T
    error = (drawn - wanted) / values["scale"][:, None]
    assert abs(error.mean()) < 0.05
    assert abs(error.std() - 1) < 0.05
    assert predictive(fitted, KEY, Y[0]).shape == (100, 1)
    assert predictive(started(from_program(normal)), KEY, n=3).shape == (100, 3)
    with pytest.raises(ValueError, match="n does not apply"):
        predictive(fitted, KEY, Y, n=3)
    with pytest.raises(ValueError, match="y was given"):
        predictive(started(from_program(normal)), KEY, Y)
    with pytest.raises(TypeError, match="fitted must be a fitted program"):
        predictive(jaxgen.Fitted(jaxgen.models.Gaussian(1), {}), KEY, n=3)


def test_posterior_of_discrete_latents():
    fitted = started(from_program(programs.kinds, posterior=Point()))
    kind = latents(fitted, KEY, np.array([-2.5, 2.5, -2.5]))["kind"]
    np.testing.assert_array_equal(kind, [[0, 1, 0]])


def test_latents_without_a_proposal_and_with_an_exact_one_agree():
    exact = from_program(programs.factors, samples=4, proposal=ExactPosterior())
    x = np.tile([[1.0, 0.5, -0.3]], (4000, 1))
    drawn = latents(started(exact), KEY, x)["z"][0]
    by_prior = latents(started(from_program(programs.factors, samples=300)), KEY, x)["z"][0]
    assert drawn.shape == (4000, 2)
    np.testing.assert_allclose(drawn.mean(0), by_prior.mean(0), atol=0.05)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(by_prior.T), atol=0.02)
    wanted = exact.proposal.init(KEY)["gain"] @ x[0]
    np.testing.assert_allclose(drawn.mean(0), wanted, atol=0.03)


_ELSEWHERE = """
import sys, jax, numpy as np
sys.path.insert(0, sys.argv[1])
import jaxgen, programs
from jaxgen.numpyro import from_program
from_program(programs.regression, y_shape=(2,))
assert len(jax.devices()) == 8
fitted = jaxgen.load(sys.argv[2])
y = np.linspace(0, 1, 6002).reshape(-1, 2).astype(np.float32)
x = fitted.sample(jax.random.key(3), len(y), y)
np.savez(sys.argv[3], x=x, log_prob=fitted.log_prob(x, y))
"""


def test_draws_are_the_same_in_any_chunks_and_on_any_devices(tmp_path):
    """Acceptance: chunks of 1, 7 and all, one device and eight, another process and hash seed."""
    model = from_program(programs.regression, y_shape=(2,), posterior=MeanField(8))
    fitted = jaxgen.fit(model, X, Y, key=KEY, epochs=20)
    y = np.linspace(0, 1, 6002).reshape(-1, 2).astype(np.float32)
    key = jax.random.key(3)
    whole = np.asarray(fitted.sample(key, len(y), y))
    for n in (1, 7):
        np.testing.assert_array_equal(fitted.sample(key, n, y[:n]), whole[:n])
    blocks = np.concatenate([np.asarray(b) for b in fitted.stream(key, len(y), y)])
    np.testing.assert_array_equal(blocks, whole)
    path, out = tmp_path / "model", tmp_path / "out.npz"
    fitted.save(path)
    env = {**os.environ, "PYTHONHASHSEED": "7"}
    env["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    here = str(pathlib.Path(__file__).parent)
    command = [sys.executable, "-c", _ELSEWHERE, here, str(path), str(out)]
    subprocess.run(command, check=True, env=env, timeout=300)
    there = np.load(out)
    np.testing.assert_allclose(there["x"], whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(there["log_prob"], fitted.log_prob(whole, y), rtol=1e-4, atol=1e-5)


def test_programs_under_jit_vmap_and_grad():
    fitted = started(from_program(programs.regression, y_shape=(2,)))
    score = jax.jit(lambda f, x, y: f.log_prob(x, y))(fitted, X, Y)
    np.testing.assert_allclose(score, fitted.log_prob(X, Y), rtol=1e-5)
    drawn = jax.jit(lambda f, key: f.sample(key, 5, Y[:5].astype(np.float32)))(fitted, KEY)
    np.testing.assert_allclose(drawn, fitted.sample(KEY, 5, Y[:5]), rtol=1e-5)

    def mean(y, x):
        return jaxgen.log_prob(fitted.model, fitted.params, x, y).sum()

    by_y = jax.vmap(jax.grad(mean))(Y[:3, None], X[:3, None])[:, 0]
    step = 1e-2
    for j in range(2):
        moved = [Y[:3] + s * step * np.eye(2)[j] for s in (1, -1)]
        slope = (fitted.log_prob(X[:3], moved[0]) - fitted.log_prob(X[:3], moved[1])) / (2 * step)
        np.testing.assert_allclose(by_y[:, j], slope, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("on", [False, True])
def test_programs_with_x64_on_and_off(on):
    with enable_x64(on):
        dtype = np.float64 if on else np.float32
        for way in (MeanField(5), NUTS(5, 10, 2)):
            model = from_program(programs.regression, y_shape=(2,), posterior=way)
            fitted = jaxgen.fit(
                model, X, Y, key=KEY, **({"epochs": 2} if "Mean" in str(way) else {})
            )
            assert fitted.log_prob(X, Y).dtype == fitted.sample(KEY, 2, Y[:2]).dtype == dtype
            assert predictive(fitted, KEY, Y).dtype == dtype


# In the other direction, and in a program's place.


def test_a_fitted_program_in_another_program():
    fitted = jaxgen.fit(from_program(programs.waits, posterior=Point()), np.ones(50), key=KEY)
    wrapped = as_distribution(fitted)
    rate = posterior(fitted)["rate"][0]
    x = np.array([0.5, 2.0, -1.0])
    np.testing.assert_allclose(wrapped.log_prob(x)[:2], np.log(rate) - rate * x[:2], rtol=1e-4)
    assert np.isneginf(wrapped.log_prob(x)[2])
    assert wrapped.support is dist.constraints.nonnegative or (wrapped.support(x) == (x >= 0)).all()


def test_a_program_is_distilled():
    teacher = jaxgen.fit(from_program(programs.kinds, posterior=Point()), X, key=KEY, epochs=20)
    student = jaxgen.models.Histogram((40,), bounds=((-6, 6),))
    with pytest.raises(ValueError, match=r"student must have the teacher's event_shape \(\)"):
        distil(teacher, student, key=KEY)
    teacher = started(from_program(programs.factors, samples=64))
    found = distil(teacher, jaxgen.models.Gaussian(3), key=KEY, events=4000, judged=1000)
    assert found.fitted.model == jaxgen.models.Gaussian(3)
    assert found.kl < 0.02 + 3 * found.standard_error  # an importance-weighted teacher is a bound
    wrong = distil(teacher, jaxgen.models.Box(3), key=KEY, events=4000, judged=1000)
    assert wrong.kl > 0.5


def test_arviz_reads_a_fit():
    pytest.importorskip("arviz")
    model = from_program(programs.regression, y_shape=(2,), posterior=NUTS(20, 50, 2))
    found = to_arviz(jaxgen.fit(model, X, Y, key=KEY), X, Y, key=KEY)
    assert found.posterior["slope"].shape == (2, 20, 2)
    assert found.log_likelihood["x"].shape == (2, 20, 100)
    assert found.posterior_predictive["x"].shape == (2, 20, 100)


# Simulation-based calibration: a right posterior fails once in a hundred runs; keys are fixed.


@pytest.mark.parametrize(
    ("program", "way"),
    [
        (normal, NUTS(draws=300, warmup=200, chains=1)),
        (scaled, NUTS(draws=300, warmup=200, chains=1)),
        (normal, MeanField()),
    ],
)
def test_fits_are_calibrated(program, way):
    found = sbc(from_program(program, posterior=way), n=10, key=jax.random.key(1))
    assert found.ranks.shape == (1000, 1)
    assert found.chi2[0] < 36.19
    assert found.calibrated
    assert "calibrated: 1000 data sets" in str(found)
    assert found.figure().axes


def test_a_broken_jacobian_is_not_calibrated(monkeypatch):
    def broken(n, x=None):
        scaled(n, x)

    program = from_program(broken, posterior=NUTS(draws=300, warmup=200, chains=1))
    right = type(program).constrain

    def without(self, free, learnt):
        values, log_p, log_det = right(self, free, learnt)
        return values, log_p, 0 * log_det

    monkeypatch.setattr(type(program), "constrain", without)
    found = sbc(program, n=2, key=jax.random.key(1))
    assert found.chi2[0] > 36.19
    assert not found.calibrated


def test_sbc_refuses():
    model = from_program(normal)
    with pytest.raises(ValueError, match="n is missing"):
        sbc(model, key=KEY)
    with pytest.raises(ValueError, match="bins must divide draws"):
        sbc(model, n=3, key=KEY, bins=7)
    with pytest.raises(ValueError, match="draws must be at most the 1 "):
        sbc(from_program(normal, posterior=Point()), n=3, key=KEY)
    with pytest.raises(ValueError, match="global latents"):
        sbc(from_program(programs.factors), n=3, key=KEY)
