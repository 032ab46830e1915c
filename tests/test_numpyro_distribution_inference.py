"""Inference through fitted models as NumPyro distributions: priors, likelihoods and guides.

Tests use fixed keys. Those of NUTS ask for moments within 4 Monte Carlo standard errors, which a
new key would fail once in 16,000 moments.
"""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.diagnostics import effective_sample_size
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO, TraceGraph_ELBO, init_to_feasible
from numpyro.infer.autoguide import AutoDelta, AutoNormal
from small_models import BOUNDED, KEY, PLANE, UNIT_NOISE, arrays, away, gaussian, score

import jaxgen
from jaxgen import Fitted, compose, models, networks
from jaxgen.core.precision import enable_x64
from jaxgen.numpyro import as_distribution


def assert_mean(draws, exact, error=0.0):
    """Compare the mean of draws (n, ...) with a number, within 4 standard errors of both."""
    own = draws.std(0) / np.sqrt(effective_sample_size(draws[None]))
    assert (np.abs(draws.mean(0) - exact) <= 4 * np.hypot(own, error)).all(), draws.mean(0)


def run_svi(svi, steps, *args):
    """Params and losses after a number of SVI steps, in one program."""

    @jax.jit
    def run():
        start = svi.init(KEY, *args)
        state, losses = jax.lax.scan(lambda s, _: svi.update(s, *args), start, None, steps)
        return svi.get_params(state), losses

    return run()


# A likelihood has a gradient in its condition.


def likelihood(x):
    theta = numpyro.sample("theta", dist.Normal(0.0, 1.0))
    y = jnp.stack([theta, 0.0 * theta])
    numpyro.sample("x", as_distribution(UNIT_NOISE, y), obs=x)


def test_svi_through_a_likelihood_finds_the_posterior():
    x, guide = jnp.array([2.0]), AutoNormal(likelihood)
    schedule = lambda step: 0.05 / (1 + step / 100)  # noqa: E731
    svi = SVI(likelihood, guide, numpyro.optim.Adam(schedule), Trace_ELBO(num_particles=16))
    found, _ = run_svi(svi, 1500, x)
    assert abs(found["theta_auto_loc"] - 1) < 0.05
    assert abs(found["theta_auto_scale"] - 0.5**0.5) < 0.05


def test_the_most_probable_value_through_a_likelihood():
    x = jnp.array([2.0])
    svi = SVI(likelihood, AutoDelta(likelihood), numpyro.optim.Adam(0.02), Trace_ELBO())
    found, _ = run_svi(svi, 1500, x)
    np.testing.assert_allclose(found["theta_auto_loc"], 1, atol=1e-3)


@pytest.mark.parametrize("name", ["flow", "normal"])
def test_the_gradient_in_the_condition_is_that_of_finite_differences(name):
    with enable_x64(True):
        flow = models.SplineCoupling(2, 1, 8, 1, 4, y_shape=(3,))
        model = compose.Conditional(networks.MLP((3,), 8), models.Gaussian(2))
        model = flow if name == "flow" else model
        fitted = Fitted(model, away(model, 3))
        x, y = np.array([0.3, -0.5]), np.array([0.2, 1.0, -0.7])
        slope = jax.jit(jax.value_and_grad(lambda y: as_distribution(fitted, y).log_prob(x)))
        wanted = [(slope(y + h)[0] - slope(y - h)[0]) / 2e-5 for h in 1e-5 * np.eye(3)]
        found = slope(y)[1]
        assert np.abs(found).min() > 1e-3
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-8)


# Priors in NUTS, all in one run: they do not depend on each other.


@pytest.fixture(scope="module")
def flow():
    """A trained flow: a bent cloud."""
    z = np.random.default_rng(0).normal(size=(2000, 2))
    x = np.stack([z[:, 0], 0.5 * z[:, 1] + 0.5 * z[:, 0] ** 2], 1)
    return jaxgen.fit(models.SplineCoupling(2, 2, 8, 1, 4), x, key=KEY, epochs=8)


def priors():
    for name, fitted in BOUNDED.items():
        numpyro.sample(name, as_distribution(fitted))


@pytest.fixture(scope="module")
def draws(flow):
    def program(y):
        priors()
        for name, prior in (("gaussian", gaussian()), ("flow", flow)):
            theta = numpyro.sample(name, as_distribution(prior))
            mean = theta @ jnp.array([1.0, 2.0])
            numpyro.sample(f"y of {name}", dist.Normal(mean, 0.5), obs=y)

    @jax.jit  # without jit, a start compiles hundreds of programs
    def run():
        mcmc = MCMC(NUTS(program), num_warmup=300, num_samples=800, progress_bar=False)
        mcmc.run(jax.random.key(1), 0.7, extra_fields=("diverging",))
        return mcmc.get_samples(), mcmc.get_extra_fields()

    samples, extra = run()
    assert extra["diverging"].sum() == 0
    return {k: np.asarray(v, np.float64) for k, v in samples.items()}


def test_a_gaussian_prior_in_nuts_gives_the_exact_posterior(draws):
    theta = draws["gaussian"]
    mean = np.array([1.52308, -0.43669])
    assert_mean(theta, mean)
    off = theta - mean
    assert_mean(off[:, :, None] * off[:, None], [[0.2, -0.06154], [-0.06154, 0.07219]])


def test_a_trained_flow_as_prior_in_nuts_agrees_with_importance_sampling(flow, draws):
    theta = draws["flow"]
    own = np.asarray(flow.sample(jax.random.key(2), 50_000), np.float64)
    weights = np.exp(-2 * (own @ [1.0, 2.0] - 0.7) ** 2)
    weights /= weights.sum()
    mean = weights @ own
    error = np.sqrt(weights**2 @ (own - mean) ** 2)
    assert_mean(theta, mean, error)
    assert_mean((theta - mean) ** 2, weights @ (own - mean) ** 2, 2 * error)


def test_bounded_priors_in_nuts(draws):
    for name, fitted in BOUNDED.items():
        if name == "lognormal":
            assert_mean(draws[name], np.exp(0.5))
            continue
        exact = np.asarray(fitted.sample(jax.random.key(3), 50_000), np.float64)
        for power in (1, 2):
            error = (exact**power).std(0) / np.sqrt(len(exact))
            assert_mean(draws[name] ** power, (exact**power).mean(0), error)


def test_a_program_starts_at_a_feasible_point():
    @jax.jit
    def start():
        started = handlers.substitute(handlers.seed(priors, 0), substitute_fn=init_to_feasible())
        sites = handlers.trace(started).get_trace().values()
        return [(s["fn"].support(s["value"]), s["fn"].log_prob(s["value"])) for s in sites]

    found = start()
    assert len(found) == len(BOUNDED)
    for inside, log_p in found:
        assert inside.all()
        assert np.isfinite(log_p).all()


# Mixtures as guides.


def two(logits):
    params = {"logits": logits, "mean": jnp.array([[-2.0], [2.0]]), "scale": jnp.ones((2, 1))}
    return as_distribution(Fitted(models.GaussianMixture(1, 2, "diagonal"), params))


def target():
    numpyro.sample("z", two(jnp.log(jnp.array([0.8, 0.2]))))


def guide():
    numpyro.sample("z", two(numpyro.param("logits", jnp.zeros(2))))


def test_a_mixture_guide_learns_its_weights_by_the_score_function():
    svi = SVI(target, guide, numpyro.optim.Adam(0.05), TraceGraph_ELBO(num_particles=20))
    found, _ = run_svi(svi, 400)
    np.testing.assert_allclose(jax.nn.softmax(found["logits"]), [0.8, 0.2], atol=0.05)


def test_draws_of_a_mixture_have_no_gradient():
    d = two(jnp.zeros(2))
    assert not d.has_rsample
    with pytest.raises(NotImplementedError):
        d.rsample(KEY)
    params = {**d.params}

    def mean(params):
        return as_distribution(Fitted(d.model, params)).sample(KEY, (7,)).mean()

    assert not any(map(np.any, jax.tree_util.tree_leaves(jax.jit(jax.grad(mean))(params))))


def test_draws_of_a_reparameterized_model_have_gradients():
    def mean(params):
        return as_distribution(Fitted(models.Gaussian(2), params)).rsample(KEY, (7,)).mean(0).sum()

    found = jax.jit(jax.grad(mean))(arrays(PLANE))["mean"]
    np.testing.assert_allclose(found, [1, 1], rtol=1e-6)


# Training within a program.


def test_a_flow_is_trained_as_a_site_of_a_program(flow):
    x = np.asarray(flow.sample(KEY, 256)) * 1.5 + 1

    def program(x):
        params = numpyro.param("flow", lambda _: flow.params)
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x", as_distribution(Fitted(flow.model, params)), obs=x)

    svi = SVI(program, lambda x: None, numpyro.optim.Adam(0.003), Trace_ELBO())
    found, losses = run_svi(svi, 100, x)
    found = found["flow"]
    assert losses[-1] < losses[0] - 20
    jax.tree_util.tree_map(
        np.testing.assert_array_equal, found["frame"], jax.tree_util.tree_map(
            jnp.asarray, flow.params["frame"])
    )  # fmt: skip
    moved = jax.tree_util.tree_map(lambda a, b: np.any(np.not_equal(a, b)), found, flow.params)
    assert any(jax.tree_util.tree_leaves(moved["layers"]))


def test_a_reloaded_model_has_the_same_scores_in_a_new_process(flow, tmp_path):
    flow.save(tmp_path / "flow.safetensors")
    x = flow.sample(KEY, 3)
    program = (
        "import sys, jax, jaxgen; from jaxgen.numpyro import as_distribution;"
        "d = jax.jit(lambda d: d)(as_distribution(jaxgen.load(sys.argv[1])));"
        "score = jax.jit(lambda d, x: d.log_prob(x));"
        f"print(score(d, jax.numpy.array({x.tolist()})).tolist())"
    )
    out = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "flow.safetensors")],
        env={**os.environ, "PYTHONHASHSEED": "7", "JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    np.testing.assert_allclose(score(as_distribution(flow), x), json.loads(out.stdout), rtol=1e-5)
