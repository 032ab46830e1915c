"""NumPyro programs as models: densities, draws and distillation."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import programs
import pytest
from programs import EFFECTS, ERRORS, X, Y
from scipy.stats import halfcauchy, multivariate_normal, norm
from sklearn.datasets import load_digits

import jaxgen
from jaxgen.core.model import Model
from jaxgen.core.precision import enable_x64
from jaxgen.core.random import Normal
from jaxgen.numpyro import (
    NUTS,
    MeanField,
    Point,
    as_distribution,
    distil,
    estimate,
    from_program,
    latents,
    log_likelihood,
    posterior,
)

KEY = jax.random.key(0)


class ExactPosterior(Model):
    """The exact posterior p(z|x) of ``programs.factors``, which is normal."""

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
    return multivariate_normal.logpdf(x, np.zeros(3), loadings @ loadings.T + 0.25 * np.eye(3))


def started(model):
    return jaxgen.Fitted(model, model.init(KEY))


# Densities.


@pytest.mark.parametrize("n", [1, 7])
def test_discrete_latents_are_summed_over(n):
    """Scores equal those of MixtureSameFamily, also for a single row."""
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
        wanted = jax.jit(mixture.log_prob)(x)
        np.testing.assert_allclose(fitted.log_prob(x), wanted, rtol=1e-10)


def test_the_values_of_a_latent_may_depend_on_an_array():
    most = jnp.array(2)

    def trials(n, x=None):
        with numpyro.plate("rows", n):
            count = numpyro.sample("count", dist.Binomial(most, 0.3))
            numpyro.sample("x", dist.Normal(count, 1), obs=x)

    combinations = from_program(trials).combinations
    np.testing.assert_array_equal(combinations["count"], [[0], [1], [2]])


def test_continuous_latents_are_weighted_by_importance():
    """The bound grows with K, and an exact proposal gives the exact value with K = 1."""
    with enable_x64(True):
        x = started(from_program(programs.factors)).sample(KEY, 300)
        exact = exact_factors(x)
        means = []
        for count in (10, 100, 1000):
            model = from_program(programs.factors, samples=count)
            assert model.traits.density == "estimate"
            assert f"K = {count}" in model.method
            means.append(float(started(model).log_prob(x).mean()))
        assert means[0] < means[1] < means[2] < exact.mean() + 0.01
        assert exact.mean() - means[2] < 0.1
        guided = from_program(programs.factors, samples=1, proposal=ExactPosterior())
        np.testing.assert_allclose(started(guided).log_prob(x), exact, rtol=1e-10, atol=1e-10)


def test_proposals_give_nearly_the_exact_value():
    plain = started(from_program(programs.factors, samples=20))
    x = plain.sample(KEY, 500)
    network = jaxgen.networks.MLP((3,), 16, 1)
    network = jaxgen.compose.Conditional(network, jaxgen.models.Gaussian(2))
    model = from_program(programs.factors, samples=20, proposal=network)
    fitted = jaxgen.fit(model, x, key=KEY, epochs=300)
    found = estimate(fitted, x, key=KEY)
    plain = estimate(plain, x, key=KEY)
    exact = exact_factors(x)
    assert abs(found.log_prob.mean() - exact.mean()) < 0.05
    assert abs(plain.log_prob.mean() - exact.mean()) < 0.05
    assert min(found.ess.mean(), plain.ess.mean()) > 10
    assert found.method == "importance-weighted, K = 20, from Conditional"
    assert plain.method == "importance-weighted, K = 20, from modes and the prior"


def test_a_proposal_of_latents_whose_support_depends_on_y():
    def within(y, x=None):
        with numpyro.plate("rows", len(y)):
            z = numpyro.sample("z", dist.Uniform(0.0, 1 + y))
            numpyro.sample("x", dist.Normal(z, 1.0), obs=x)

    proposal = jaxgen.compose.Conditional(jaxgen.networks.MLP((2,)), jaxgen.models.Gaussian(1))
    model = from_program(within, y_shape=(), samples=20_000, proposal=proposal)
    x, y = np.array([1.0, -0.5]), np.array([0.5, 2.0])
    exact = np.log((norm.cdf(1 + y - x) - norm.cdf(-x)) / (1 + y))
    np.testing.assert_allclose(started(model).log_prob(x, y), exact, atol=0.05)


def test_eight_schools_by_quadrature():
    """Published values: log Z = -31.311347, E mu = 4.3968 and E tau = 3.5977."""
    mu, tau = np.meshgrid(-22 + 1.3 * np.arange(41), 0.4 + 0.8 * np.arange(75), indexing="ij")
    mu, tau = mu.ravel(), tau.ravel()
    model = from_program(
        programs.schools, y_shape=(), samples=150, posterior=NUTS(draws=len(mu), chains=1)
    )
    grid = {"mu": jnp.asarray(mu, jnp.float32), "tau": jnp.asarray(tau, jnp.float32)}
    fitted = jaxgen.Fitted(model, {"posterior": {"draws": grid}, "program": {}})
    prior = norm.logpdf(mu, 0, 5) + halfcauchy.logpdf(tau, 0, 5)
    cell = np.log(1.3 * 0.8)
    joint = np.asarray(log_likelihood(fitted, EFFECTS, ERRORS).sum(1) + prior, np.float64) + cell
    weights = np.exp(joint - joint.max())
    log_z = np.log(weights.sum()) + joint.max()
    assert abs(log_z + 31.311347) < 0.05
    weights /= weights.sum()
    assert abs(weights @ mu - 4.3968) < 0.05
    assert abs(weights @ tau - 3.5977) < 0.1
    assert abs((weights @ (mu - 4.3968) ** 2) ** 0.5 - 3.3177) < 0.05


def test_digits_by_bayes_rule():
    """Gaussians for each class, as a program, give the published accuracy and scores."""
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


def test_what_follows_from_x_uses_the_x_that_is_given():
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


def regression():
    return started(from_program(programs.regression, y_shape=(2,), posterior=MeanField(8)))


def test_draws_are_the_same_in_any_chunks():
    fitted, key = regression(), jax.random.key(3)
    y = np.linspace(0, 1, 6002).reshape(-1, 2).astype(np.float32)
    whole = np.asarray(fitted.sample(key, len(y), y))
    for n in (1, 7):
        np.testing.assert_array_equal(fitted.sample(key, n, y[:n]), whole[:n])
    blocks = np.concatenate([np.asarray(b) for b in fitted.stream(key, len(y), y)])
    np.testing.assert_array_equal(blocks, whole)


@pytest.mark.slow
def test_draws_are_the_same_on_any_devices(tmp_path):
    """One device and eight, in another process with another hash seed."""
    fitted, key = regression(), jax.random.key(3)
    y = np.linspace(0, 1, 6002).reshape(-1, 2).astype(np.float32)
    whole = np.asarray(fitted.sample(key, len(y), y))
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
    fitted = regression()
    score = jax.jit(lambda f, x, y: f.log_prob(x, y))(fitted, X, Y)
    np.testing.assert_allclose(score, fitted.log_prob(X, Y), rtol=1e-5)
    drawn = jax.jit(lambda f, key: f.sample(key, 5, Y[:5].astype(np.float32)))(fitted, KEY)
    np.testing.assert_allclose(drawn, fitted.sample(KEY, 5, Y[:5]), rtol=1e-5)

    def mean(y, x):
        return jaxgen.log_prob(fitted.model, fitted.params, x, y).sum()

    by_y = jax.jit(jax.vmap(jax.grad(mean)))(Y[:3, None], X[:3, None])[:, 0]
    step = 1e-2
    for j in range(2):
        moved = [Y[:3] + s * step * np.eye(2)[j] for s in (1, -1)]
        slope = (fitted.log_prob(X[:3], moved[0]) - fitted.log_prob(X[:3], moved[1])) / (2 * step)
        np.testing.assert_allclose(by_y[:, j], slope, rtol=0.02, atol=0.02)


# Programs as distributions, and distillation.


def test_a_fitted_program_in_another_program():
    fitted = started(from_program(programs.waits, posterior=Point()))
    wrapped = as_distribution(fitted)
    rate = posterior(fitted)["rate"][0]
    x = np.array([0.5, 2.0, -1.0])
    np.testing.assert_allclose(wrapped.log_prob(x)[:2], np.log(rate) - rate * x[:2], rtol=1e-4)
    assert np.isneginf(wrapped.log_prob(x)[2])
    assert wrapped.support is dist.constraints.nonnegative or (wrapped.support(x) == (x >= 0)).all()


def test_a_program_is_distilled():
    teacher = started(from_program(programs.kinds, posterior=Point()))
    student = jaxgen.models.Histogram((40,), bounds=((-6, 6),))
    with pytest.raises(ValueError, match=r"student must have the teacher's event_shape \(\)"):
        distil(teacher, student, key=KEY)
    teacher = started(from_program(programs.factors, samples=64))
    found = distil(teacher, jaxgen.models.Gaussian(3), key=KEY, events=4000, test_events=1000)
    assert found.fitted.model == jaxgen.models.Gaussian(3)
    assert (
        found.kl < 0.02 + 3 * found.standard_error
    )  # the importance-weighted score of the teacher is a lower bound
    wrong = distil(teacher, jaxgen.models.Box(3), key=KEY, events=4000, test_events=1000)
    assert wrong.kl == np.inf  # some new draws are outside the bounding box of those of the fit
