"""Importance sampling of the continuous locals of a program: accuracy and diagnostics."""

import warnings

import arviz
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import programs
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm, poisson

import jaxgen
from jaxgen.numpyro import MeanField, Point, estimate, from_program, latents, log_likelihood
from jaxgen.numpyro.pareto import pareto_k

KEY = jax.random.key(0)
_K = jax.jit(pareto_k)


def started(model):
    return jaxgen.Fitted(model, model.init(KEY))


def local(prior, observed):
    """A program with one continuous local z for each row."""

    def program(n, x=None):
        with numpyro.plate("rows", n):
            z = numpyro.sample("z", prior)
            numpyro.sample("x", observed(z), obs=x)

    return program


# Pareto k.


@pytest.mark.parametrize("k", [-0.3, 0.2, 0.5, 1.0])
def test_pareto_k_is_that_of_arviz_and_near_the_true_one(k):
    rng, found = np.random.default_rng(0), []
    for _ in range(5):
        weights = (rng.uniform(size=1000) ** -k - 1) / k
        found.append(_K(np.log(weights).astype(np.float32)))
        wanted = arviz.psislw(np.log(weights))[1]
        np.testing.assert_allclose(found[-1], wanted, atol=2e-3)
        np.testing.assert_allclose(_K(np.log(weights).astype(np.float32) - 500), wanted, atol=0.01)
    assert abs(np.mean(found) - k) < 0.2


def test_pareto_k_in_edge_cases():
    place = np.arange(1000)
    assert _K(np.zeros(1000)) == -np.inf
    assert _K(np.where(place < 997, -1, np.nextafter(np.float32(-1), np.float32(0)))) == -np.inf
    assert _K(np.full(1000, -np.inf)) == np.inf
    assert _K(np.where(place < 996, -np.inf, place)) == np.inf  # four weights have all the weight
    assert _K(np.where(place < 999, 0, np.nan)) == np.inf
    assert np.isfinite(_K(np.where(place < 500, -np.inf, np.sin(place))))
    assert pareto_k(jnp.zeros(20)) == np.inf


# The proposal.


def exact_factors(x):
    loadings = np.asarray(programs.LOADINGS)
    return multivariate_normal(np.zeros(3), loadings @ loadings.T + 0.25 * np.eye(3)).logpdf(x)


def on_grid(log_prior, log_likelihood, x, grid):
    terms = log_prior(grid) + log_likelihood(np.asarray(x)[:, None], grid)
    return logsumexp(terms, axis=1) + np.log(grid[1] - grid[0])


def test_linear_gaussian_rows_and_outliers():
    x = 2 * np.random.default_rng(0).normal(size=(200, 3))
    x[100:] *= 8
    fitted = started(from_program(programs.factors))
    found = estimate(fitted, x, key=KEY)
    error = found.log_prob - exact_factors(x)
    assert abs(error).max() < 0.3
    assert abs(error.mean()) < 0.01
    assert found.pareto_k.max() < 0.7
    assert found.ess.min() > 50


def test_noise_far_below_the_spread_of_the_prior():
    x = np.append(np.linspace(-1, 5, 20), [12.0, -9.0]).astype(np.float32)
    for noise in (0.01, 0.001):
        program = local(dist.Normal(2, 1), lambda z, noise=noise: dist.Normal(z, noise))
        exact = norm(2, np.hypot(1, noise)).logpdf(x)
        np.testing.assert_allclose(started(from_program(program)).log_prob(x), exact, atol=0.2)


def test_counts_whose_posterior_is_narrow_and_far():
    program = local(dist.Normal(0, 1), lambda z: dist.Poisson(jnp.exp(8 + z)))
    x = np.array([0.0, 1, 100, 3000, 1e4, 1e5])
    grid = np.linspace(-15, 8, 400_001)
    exact = on_grid(norm(0, 1).logpdf, lambda x, z: poisson.logpmf(x, np.exp(8 + z)), x, grid)
    np.testing.assert_allclose(started(from_program(program)).log_prob(x), exact, atol=0.3)


def test_two_modes():
    program = local(dist.Normal(0, 1), lambda z: dist.Normal(z**2, 0.1))
    x, grid = np.array([0.5, 1, 4, 9, 16]), np.linspace(-8, 8, 400_001)
    exact = on_grid(norm(0, 1).logpdf, lambda x, z: norm.logpdf(x, z**2, 0.1), x, grid)
    fitted = started(from_program(program))
    np.testing.assert_allclose(fitted.log_prob(x), exact, atol=0.3)
    drawn = latents(fitted, KEY, np.repeat(x[2:], 50))["z"][0]
    share = (drawn > 0).reshape(3, 50).mean(1)
    assert (abs(share - 0.5) < 0.35).all()


def test_a_continuous_and_a_discrete_latent():
    def beside(n, x=None):
        with numpyro.plate("rows", n):
            kind = numpyro.sample("kind", dist.Bernoulli(0.3))
            z = numpyro.sample("z", dist.Normal(4.0 * kind, 1))
            numpyro.sample("x", dist.Normal(z, 0.02), obs=x)

    x = np.array([-3.0, 0, 2, 4, 12])
    each = [np.log(p) + norm(m, np.hypot(1, 0.02)).logpdf(x) for p, m in ((0.7, 0), (0.3, 4))]
    found = started(from_program(beside)).log_prob(x)
    np.testing.assert_allclose(found, np.logaddexp(*each), atol=0.2)


def hierarchy(n, x=None):
    mu = numpyro.sample("mu", dist.Normal(0, 3))
    noise = numpyro.param("noise", 0.1, constraint=dist.constraints.positive)
    with numpyro.plate("rows", n):
        z = numpyro.sample("z", dist.Normal(mu, 1))
        numpyro.sample("x", dist.Normal(z, noise), obs=x)


def test_each_draw_of_the_globals_has_its_own_proposal():
    fitted = started(from_program(hierarchy, posterior=MeanField(20)))
    fitted.params["posterior"]["log_scale"]["mu"] = jnp.zeros(())  # draws several deviations apart
    mu = np.asarray(jaxgen.numpyro.posterior(fitted)["mu"])
    assert np.ptp(mu) > 5
    x = np.array([-4.0, 0, 9], np.float32)
    exact = norm(mu[:, None], np.hypot(1, 0.1)).logpdf(x)
    np.testing.assert_allclose(log_likelihood(fitted, x), exact, atol=0.3)


def test_gradients_of_the_estimate():
    """In the params and in x, compared with those of the exact density."""
    model = from_program(hierarchy, posterior=Point(), samples=2000)
    fitted = started(model)
    x = np.array([-2.0, 0.3, 4], np.float32)

    def total(fitted, x):
        return fitted.log_prob(x).sum()

    by_params, by_x = jax.jit(jax.grad(total, (0, 1)))(fitted, x)
    mu, variance = float(jaxgen.numpyro.posterior(fitted)["mu"][0]), 1.01
    unit = float(fitted.params["posterior"]["unit"]["mu"])
    np.testing.assert_allclose(by_x, -(x - mu) / variance, rtol=0.05, atol=0.05)
    by_mu = by_params.params["posterior"]["loc"]["mu"] / unit
    np.testing.assert_allclose(by_mu, ((x - mu) / variance).sum(), rtol=0.05)
    (by_log_noise,) = jax.tree_util.tree_leaves(by_params.params["program"])
    wanted = ((x - mu) ** 2 / variance - 1).sum() / variance * 0.01
    np.testing.assert_allclose(by_log_noise, wanted, atol=0.15)


def test_impossible_and_infinite_rows():
    program = local(dist.Normal(0, 1), lambda z: dist.Gamma(2.0, jnp.exp(z)))
    fitted = started(from_program(program))
    x = np.array([1.0, -1.0, np.inf, np.nan])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = np.asarray(fitted.log_prob(x))
    assert np.isfinite(found[0])
    np.testing.assert_array_equal(found[1:], [-np.inf, -np.inf, np.nan])
    slope = jax.jit(jax.grad(lambda x: fitted.log_prob(x).sum()))(x[:2])
    assert np.isfinite(slope).all()


def test_a_density_without_derivatives_is_sampled_by_the_prior():
    def by_callback(z):
        shape = jax.ShapeDtypeStruct(jnp.shape(z), jnp.result_type(z))
        return jax.pure_callback(np.abs, shape, z, vmap_method="expand_dims")

    program = local(dist.Normal(0, 1), lambda z: dist.Normal(by_callback(z), 0.5))
    model = from_program(program, samples=2000)
    x = np.array([0.5, 1.0])
    grid = np.linspace(-6, 6, 40_001)
    exact = on_grid(norm(0, 1).logpdf, lambda x, z: norm.logpdf(x, abs(z), 0.5), x, grid)
    np.testing.assert_allclose(started(model).log_prob(x), exact, atol=0.1)


# Diagnostics.


def edges(n, x=None):
    """A row has positive density only for z in an interval of length 0.1."""
    with numpyro.plate("rows", n):
        z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("x", dist.Uniform(z, z + 0.1), obs=x)


def test_rows_that_cannot_be_trusted_are_named():
    fitted = started(from_program(edges))
    x = np.array([0.0, 2.0, 0.1])
    calls = [
        lambda: fitted.log_prob(x),
        lambda: log_likelihood(fitted, x),
        lambda: estimate(fitted, x, key=KEY),
    ]
    for call in calls:
        with pytest.warns(
            RuntimeWarning, match=r"program \S*edges: log p of \d of 3 rows .* row \d"
        ):
            call()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jax.jit(lambda f: f.log_prob(x))(fitted)  # no warning within a transformation
        started(from_program(programs.factors)).log_prob(np.zeros((5, 3)))


def test_exact_rows_have_no_pareto_k():
    found = estimate(started(from_program(programs.kinds, posterior=Point())), [0.5], key=KEY)
    assert found.pareto_k[0] == -np.inf
    assert found.method == "enumerated"


def test_labelled_programs_warn_too():
    def classed(y, x=None):
        with numpyro.plate("rows", len(y)):
            z = numpyro.sample("z", dist.Normal(2.0 * y, 1))
            numpyro.sample("x", dist.Uniform(z, z + 0.1), obs=x)

    fitted = started(from_program(classed, classes=2))
    with pytest.warns(RuntimeWarning, match="of 2 rows"):
        fitted.log_prob(np.array([2.0, 4.0]), np.array([0, 1]))
