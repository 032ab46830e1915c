"""Fitted models as NumPyro distributions: priors, likelihoods and guides against exact answers.

Statistical tests use fixed keys. Those of NUTS ask for moments within 4 Monte Carlo standard
errors, which a new key would fail once in 16,000 moments.
"""

import functools
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
from cases import Gamma, LinearGaussian
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.diagnostics import effective_sample_size
from numpyro.distributions.batch_util import promote_batch_shape, vmap_over
from numpyro.distributions.transforms import biject_to
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO, TraceGraph_ELBO, init_to_feasible
from numpyro.infer.autoguide import AutoDelta, AutoNormal
from numpyro.infer.util import log_density

import jaxgen
from jaxgen import Fitted, bijectors, compose, models
from jaxgen.check.subject import away_from_init
from jaxgen.domains import Circle, Positive, Real
from jaxgen.numpyro import as_distribution
from jaxgen.precision import enable_x64

KEY = jax.random.key(0)
PLANE = {"mean": [1.0, -1.0], "scale_tril": [[1.0, 0.0], [0.8, 0.6]]}
NUMBER = {"mean": [0.0], "scale_tril": [[1.0]]}
MIXTURE = {
    "logits": [0.5, 0.0, -1.0],
    "mean": [[-4.0, 0.0], [0.0, 3.0], [5.0, 1.0]],
    "scale_tril": [[[1.0, 0.0], [0.5, 0.3]], [[0.4, 0.0], [-0.3, 0.6]], [[0.2, 0.0], [0.0, 1.5]]],
}
UNIT_NOISE = Fitted(LinearGaussian(), {"w": jnp.array([1.0, 0.0]), "b": jnp.zeros(1),
                                       "log_scale": jnp.zeros(1)})  # fmt: skip


def arrays(tree):
    is_list = lambda v: isinstance(v, list)  # noqa: E731
    return jax.tree_util.tree_map(jnp.asarray, tree, is_leaf=is_list)


def gaussian():
    return Fitted(models.Gaussian(2), arrays(PLANE))


def number(model=None, **params):
    return Fitted(model or models.Gaussian(1), arrays({**NUMBER, **params}))


def made(model, **params):
    """Of a bijector without params and a standard normal."""
    dim = model.base.dim
    base = {"mean": jnp.zeros(dim), "scale_tril": jnp.eye(dim), **params}
    return Fitted(model, {"base": base, "bijector": {}})


@functools.partial(jax.jit, static_argnums=1)
def draw(d, shape=()):
    return d.sample(KEY, shape)


@jax.jit
def score(d, x):
    return d.log_prob(x)


def away(model, size):
    """Params away from a start, where networks answer zero, at which no unit is at its kink."""
    params = away_from_init(model, KEY, np.zeros(size), seed=1)
    return jax.tree_util.tree_map(jnp.asarray, params)


def nuts(program, *args, samples=800):
    mcmc = MCMC(NUTS(program), num_warmup=300, num_samples=samples, progress_bar=False)
    mcmc.run(jax.random.key(1), *args, extra_fields=("diverging",))
    assert mcmc.get_extra_fields()["diverging"].sum() == 0
    return {k: np.asarray(v, np.float64) for k, v in mcmc.get_samples().items()}


def assert_mean(draws, exact, error=0.0):
    """The mean of draws (n, ...) within 4 standard errors of a number that has one itself."""
    own = draws.std(0) / np.sqrt(effective_sample_size(draws[None]))
    assert (np.abs(draws.mean(0) - exact) <= 4 * np.hypot(own, error)).all(), draws.mean(0)


def run_svi(svi, steps, *args):
    """State after so many steps, in one program."""

    def step(state, _):
        return svi.update(state, *args)

    return jax.jit(lambda state: jax.lax.scan(step, state, None, steps))(svi.init(KEY, *args))


# Acceptance 1: a mixture against NumPyro's own.


@pytest.mark.parametrize("x64", [False, True])
def test_a_mixture_scores_as_numpyros_own(x64):
    with enable_x64(x64):
        params, x = arrays(MIXTURE), jnp.asarray(np.random.default_rng(0).normal(0, 3, (50, 2)))

        def ours(params, x):
            return as_distribution(Fitted(models.GaussianMixture(2, 3), params)).log_prob(x)

        def theirs(params, x):
            normals = dist.MultivariateNormal(params["mean"], scale_tril=params["scale_tril"])
            weights = dist.Categorical(logits=params["logits"])
            return dist.MixtureSameFamily(weights, normals).log_prob(x)

        def scores(fn):
            gradients = jax.grad(lambda *args: fn(*args).sum(), (0, 1))
            score, (by_params, by_x) = jax.jit(lambda *a: (fn(*a), gradients(*a)))(params, x)
            return score, {**by_params, "scale_tril": jnp.tril(by_params["scale_tril"])}, by_x

        assert ours(params, x).dtype == (jnp.float64 if x64 else jnp.float32)
        tight = {"rtol": 1e-10, "atol": 1e-10} if x64 else {"rtol": 1e-5, "atol": 2e-4}
        jax.tree_util.tree_map(
            lambda a, b: np.testing.assert_allclose(a, b, **tight), scores(ours), scores(theirs)
        )


# Acceptance 2: a likelihood has a gradient in its condition.


def likelihood(x):
    theta = numpyro.sample("theta", dist.Normal(0.0, 1.0))
    y = jnp.stack([theta, 0.0 * theta])
    numpyro.sample("x", as_distribution(UNIT_NOISE, y), obs=x)


def test_svi_through_a_likelihood_finds_the_posterior():
    x, guide = jnp.array([2.0]), AutoNormal(likelihood)
    schedule = lambda step: 0.05 / (1 + step / 100)  # noqa: E731
    svi = SVI(likelihood, guide, numpyro.optim.Adam(schedule), Trace_ELBO(num_particles=16))
    state, _ = run_svi(svi, 1500, x)
    found = svi.get_params(state)
    assert abs(found["theta_auto_loc"] - 1) < 0.05
    assert abs(found["theta_auto_scale"] - 0.5**0.5) < 0.05


def test_the_most_probable_value_through_a_likelihood():
    x = jnp.array([2.0])
    svi = SVI(likelihood, AutoDelta(likelihood), numpyro.optim.Adam(0.02), Trace_ELBO())
    state, _ = run_svi(svi, 1500, x)
    np.testing.assert_allclose(svi.get_params(state)["theta_auto_loc"], 1, atol=1e-3)


@pytest.mark.parametrize("name", ["flow", "normal"])
def test_the_gradient_in_the_condition_is_that_of_finite_differences(name):
    with enable_x64(True):
        flow = models.SplineCoupling(2, 1, 8, 1, 4, y_shape=(3,))
        model = compose.Conditional(compose.MLP((3,), 8), models.Gaussian(2))
        model = flow if name == "flow" else model
        fitted = Fitted(model, away(model, 3))
        x, y = jnp.array([0.3, -0.5]), jnp.array([0.2, 1.0, -0.7])
        score = jax.jit(lambda y: as_distribution(fitted, y).log_prob(x))
        wanted = [(score(y + h) - score(y - h)) / 2e-5 for h in 1e-5 * jnp.eye(3)]
        found = jax.grad(score)(y)
        assert np.abs(found).min() > 1e-3
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-8)


# Acceptance 3: priors in NUTS.


def linear(prior, y):
    theta = numpyro.sample("theta", as_distribution(prior))
    numpyro.sample("y", dist.Normal(theta @ jnp.array([1.0, 2.0]), 0.5), obs=y)


def test_a_gaussian_prior_in_nuts_gives_the_exact_posterior():
    theta = nuts(lambda y: linear(gaussian(), y), 0.7)["theta"]
    mean = np.array([1.52308, -0.43669])
    assert_mean(theta, mean)
    off = theta - mean
    assert_mean(off[:, :, None] * off[:, None], [[0.2, -0.06154], [-0.06154, 0.07219]])


@pytest.fixture(scope="module")
def flow():
    """A trained flow: a bent cloud."""
    z = np.random.default_rng(0).normal(size=(2000, 2))
    x = np.stack([z[:, 0], 0.5 * z[:, 1] + 0.5 * z[:, 0] ** 2], 1)
    return jaxgen.fit(models.SplineCoupling(2, 2, 8, 1, 4), x, key=KEY, epochs=8)


def test_a_trained_flow_as_prior_in_nuts_agrees_with_importance_sampling(flow):
    theta = nuts(lambda y: linear(flow, y), 0.7)["theta"]
    draws = np.asarray(flow.sample(jax.random.key(2), 50_000), np.float64)
    weights = np.exp(-2 * (draws @ [1.0, 2.0] - 0.7) ** 2)
    weights /= weights.sum()
    mean = weights @ draws
    error = np.sqrt(weights**2 @ (draws - mean) ** 2)
    assert_mean(theta, mean, error)
    assert_mean((theta - mean) ** 2, weights @ (draws - mean) ** 2, 2 * error)


# Acceptance 4: supports.

BOUNDED = {
    "lognormal": made(compose.Transformed(models.Gaussian(1), bijectors.Positive())),
    "interval": made(compose.Transformed(models.Gaussian(2), bijectors.Interval(-1.0, 3.0))),
    "simplex": made(compose.Transformed(models.Gaussian(2), bijectors.Simplex())),
    "uniform": Fitted(models.Box(2), arrays({"low": [-3.0, 10.0], "high": [-2.5, 14.0]})),
    "exponential": Fitted(Gamma(1), arrays({"shape": [1.0], "rate": [1.0]})),
    "parts": Fitted(
        compose.Product(
            (
                models.Box(1),
                compose.Transformed(models.Gaussian(2), bijectors.Simplex()),
                models.Gaussian(1),
            )
        ),
        (
            arrays({"low": [5.0], "high": [6.0]}),
            {"base": {"mean": jnp.zeros(2), "scale_tril": jnp.eye(2)}, "bijector": {}},
            arrays(NUMBER),
        ),
    ),
}
MIXED = models.SplineCoupling(
    3, 1, 6, 1, 4, domain=(Circle(0.0, 1.0), Positive(), Real()), y_shape=()
)


def priors():
    for name, fitted in BOUNDED.items():
        numpyro.sample(name, as_distribution(fitted))


def test_bounded_priors_in_nuts():
    draws = nuts(priors)
    for name, fitted in BOUNDED.items():
        if name == "lognormal":
            assert_mean(draws[name], np.exp(0.5))
            continue
        exact = np.asarray(fitted.sample(jax.random.key(3), 50_000), np.float64)
        for power in (1, 2):
            error = (exact**power).std(0) / np.sqrt(len(exact))
            assert_mean(draws[name] ** power, (exact**power).mean(0), error)


def mixed():
    params = away(MIXED, ())
    return as_distribution(Fitted(MIXED, params), 0.7)


@pytest.mark.parametrize("name", [*BOUNDED, "mixed"])
def test_the_reals_are_mapped_onto_the_support(name):
    d = mixed() if name == "mixed" else as_distribution(BOUNDED[name])
    onto, x = biject_to(d.support), draw(d, (5, 4))
    z, back = jax.jit(lambda x: (onto.inv(x), onto(onto.inv(x))))(x)
    assert d.support(x).shape == (5, 4)
    assert d.support(x).all()
    assert not d.support(x - 100).any()
    assert d.support(d.support.feasible_like(x)).all()
    np.testing.assert_allclose(back, x, rtol=1e-4, atol=1e-5)
    assert onto.inverse_shape(x.shape) == z.shape
    assert onto.forward_shape(z.shape) == x.shape
    free = z[0, 0]
    part = (lambda z: onto(z)[:-1]) if name == "simplex" else onto
    if name == "parts":
        part = lambda z: onto(z)[jnp.array([0, 1, 2, 4])]  # noqa: E731
    log_det = jax.jit(lambda z: jnp.linalg.slogdet(jax.jacobian(part)(z))[1])(free)
    np.testing.assert_allclose(onto.log_abs_det_jacobian(z, x)[0, 0], log_det, rtol=1e-4)
    assert d.support == d.support
    assert jax.tree_util.tree_map(lambda v: v, d.support) == d.support
    assert jax.tree_util.tree_map(lambda v: v, onto) == onto


def test_a_program_starts_at_a_feasible_point():
    started = handlers.substitute(handlers.seed(priors, 0), substitute_fn=init_to_feasible())
    for site in handlers.trace(started).get_trace().values():
        assert site["fn"].support(site["value"]).all()
        assert np.isfinite(site["fn"].log_prob(site["value"])).all()


def test_bounded_models_are_components_of_numpyros_mixtures():
    component = as_distribution(BOUNDED["interval"])
    d = dist.MixtureSameFamily(dist.Categorical(logits=jnp.zeros(2)), component.expand((2,)))
    x = draw(d, (3,))
    np.testing.assert_allclose(score(d, x), score(component, x), rtol=1e-5)
    assert biject_to(d.support)(jnp.zeros(2)).tolist() == [1.0, 1.0]


# What a mixture may be as a guide.


def two(logits):
    params = {"logits": logits, "mean": jnp.array([[-2.0], [2.0]]), "scale": jnp.ones((2, 1))}
    return as_distribution(Fitted(models.GaussianMixture(1, 2, "diagonal"), params))


def target():
    numpyro.sample("z", two(jnp.log(jnp.array([0.8, 0.2]))))


def guide():
    numpyro.sample("z", two(numpyro.param("logits", jnp.zeros(2))))


def test_a_mixture_guide_learns_its_weights_by_the_score_function():
    svi = SVI(target, guide, numpyro.optim.Adam(0.05), TraceGraph_ELBO(num_particles=20))
    state, _ = run_svi(svi, 400)
    weights = jax.nn.softmax(svi.get_params(state)["logits"])
    np.testing.assert_allclose(weights, [0.8, 0.2], atol=0.05)


def test_draws_of_a_mixture_claim_no_gradient():
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

    np.testing.assert_allclose(jax.grad(mean)(arrays(PLANE))["mean"], [1, 1], rtol=1e-6)


# Training within a program.


def test_a_flow_is_trained_as_a_site_of_a_program(flow):
    x = jnp.asarray(flow.sample(KEY, 256)) * 1.5 + 1

    def program(x):
        params = numpyro.param("flow", lambda _: flow.params)
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x", as_distribution(Fitted(flow.model, params)), obs=x)

    svi = SVI(program, lambda x: None, numpyro.optim.Adam(0.003), Trace_ELBO())
    state, losses = run_svi(svi, 100, x)
    found = svi.get_params(state)["flow"]
    assert losses[-1] < losses[0] - 20
    jax.tree_util.tree_map(
        np.testing.assert_array_equal, found["frame"], jax.tree_util.tree_map(
            jnp.asarray, flow.params["frame"])
    )  # fmt: skip
    moved = jax.tree_util.tree_map(lambda a, b: bool((a != b).any()), found, flow.params)
    assert any(jax.tree_util.tree_leaves(moved["layers"]))


# Shapes, keys, handlers and round trips.

CONDITIONS = jnp.asarray(np.random.default_rng(1).normal(size=(4, 2)), jnp.float32)


def test_values_and_conditions_broadcast_both_ways():
    d = as_distribution(UNIT_NOISE, CONDITIONS)
    assert (d.batch_shape, d.event_shape, d.event_dim) == ((4,), (1,), 1)
    one = as_distribution(UNIT_NOISE, CONDITIONS[1])
    assert one.batch_shape == ()
    many = jnp.arange(12.0).reshape(3, 4, 1)
    assert score(d, many).shape == (3, 4)
    np.testing.assert_allclose(score(d, many)[:, 1], score(one, many[:, 1]), rtol=1e-6)
    assert score(d, many[0, 0]).shape == (4,)
    assert score(d, many[:, :1]).shape == (3, 4)
    assert score(one, many[0, 0]).shape == ()
    grid = as_distribution(UNIT_NOISE, CONDITIONS[:, None])
    assert grid.batch_shape == (4, 1)
    assert score(grid, many[:, None]).shape == (3, 4, 4)


def test_draws_take_both_kinds_of_key_and_differ_by_row():
    d = as_distribution(UNIT_NOISE, jnp.zeros((4, 2)))
    x = d.sample(KEY, (3,))
    assert x.shape == (3, 4, 1)
    assert len(np.unique(x)) == 12
    np.testing.assert_array_equal(x, d.sample(jax.random.PRNGKey(0), (3,)))
    np.testing.assert_allclose(x, draw(d, (3,)), rtol=1e-6)
    shifted = as_distribution(UNIT_NOISE, jnp.array([[10.0, 0.0], [-10.0, 0.0]]))
    np.testing.assert_allclose(draw(shifted, (400,)).mean((0, 2)), [10, -10], atol=0.2)


def test_expand_to_event_and_mask():
    d = as_distribution(UNIT_NOISE, CONDITIONS)
    x = draw(d.expand((3, 4)))
    assert x.shape == (3, 4, 1)
    assert len(np.unique(x)) == 12
    own = score(d, x)
    np.testing.assert_array_equal(score(d.expand((3, 4)), x), own)
    event = d.expand((3, 4)).to_event(1)
    assert (event.batch_shape, event.event_shape) == ((3,), (4, 1))
    np.testing.assert_allclose(score(event, x), own.sum(1), rtol=1e-6)
    mask = jnp.array([True, False, True, False])
    np.testing.assert_allclose(d.mask(mask).log_prob(x), own * mask, rtol=1e-6)
    bounded = as_distribution(BOUNDED["uniform"]).expand((2,)).mask(jnp.array([True, False]))
    np.testing.assert_allclose(bounded.log_prob(jnp.array([-2.7, 11.0])), [-np.log(2), 0], 1e-5)
    by_one = as_distribution(UNIT_NOISE, CONDITIONS[:, None]).expand((4, 3))
    assert draw(by_one).shape == (4, 3, 1)


def test_a_subsampled_plate_scales_the_density():
    x = gaussian().sample(KEY, 10)

    def program():
        with numpyro.plate("rows", 10, subsample_size=4) as i:
            numpyro.sample("x", as_distribution(gaussian()), obs=x[i])

    with handlers.seed(rng_seed=0):
        trace = handlers.trace(program).get_trace()
    total, _ = log_density(handlers.seed(program, 0), (), {}, {})
    own = gaussian().log_prob(trace["x"]["value"]).sum()
    np.testing.assert_allclose(total, 2.5 * own, rtol=1e-5)


def test_jit_and_scan_round_trips():
    d = as_distribution(UNIT_NOISE, CONDITIONS)
    x = draw(d)
    back = jax.jit(lambda d: d)(d)
    assert (back.batch_shape, back.event_shape, back.model) == (d.batch_shape, (1,), d.model)
    np.testing.assert_array_equal(back.log_prob(x), score(d, x))
    carried, scores = jax.lax.scan(lambda d, v: (d, d.log_prob(v)), d, x[None])
    np.testing.assert_allclose(scores[0], score(d, x), rtol=1e-6)
    assert carried.batch_shape == (4,)
    bounded = jax.jit(lambda d: d)(as_distribution(BOUNDED["parts"]))
    assert bounded.support(draw(bounded)).all()


@pytest.mark.parametrize("conditional", [False, True])
def test_a_vmap_over_params_adds_to_the_batch(conditional):
    scales = jnp.array([0.5, 1.0, 2.0])

    def make(scale):
        if conditional:
            params = {**UNIT_NOISE.params, "b": scale[None], "log_scale": jnp.log(scale)[None]}
            return as_distribution(Fitted(UNIT_NOISE.model, params), CONDITIONS)
        params = {**arrays(PLANE), "scale_tril": scale * jnp.eye(2)}
        return as_distribution(Fitted(models.Gaussian(2), params))

    many, each = jax.jit(jax.vmap(make))(scales), [make(scale) for scale in scales]
    d, batch_shape = promote_batch_shape(many), each[0].batch_shape
    assert many.batch_shape == batch_shape
    assert d.batch_shape == (3, *batch_shape)
    x = draw(d, (200,))
    assert x.shape == (200, *d.batch_shape, *d.event_shape)
    assert len(np.unique(x)) == x.size
    np.testing.assert_allclose(x.std(0).reshape(3, -1).mean(1), scales, rtol=0.15)
    wanted = jnp.stack([score(own, x[:, i]) for i, own in enumerate(each)], 1)
    np.testing.assert_allclose(score(d, x), wanted, rtol=1e-4, atol=1e-5)
    wide = jax.jit(jax.vmap(lambda scale: make(scale).expand((2, *batch_shape))))(scales)
    wide = promote_batch_shape(wide)
    assert wide.batch_shape == (3, 2, *batch_shape)
    rows = jnp.swapaxes(x[:2], 0, 1)
    np.testing.assert_allclose(
        score(wide, rows), jnp.swapaxes(wanted[:2], 0, 1), rtol=1e-4, atol=1e-5
    )
    axes = vmap_over(many, params=0, y=0 if conditional else None)
    inside = jax.jit(jax.vmap(lambda d, x: d.log_prob(x), (axes, 1), 1))
    np.testing.assert_allclose(inside(many, x), wanted, rtol=1e-4, atol=1e-5)


def test_a_vmap_over_conditions_adds_to_the_batch():
    d = promote_batch_shape(jax.vmap(lambda y: as_distribution(UNIT_NOISE, y))(CONDITIONS))
    assert d.batch_shape == (4,)
    plain = as_distribution(UNIT_NOISE, CONDITIONS)
    x = draw(plain)
    assert draw(d, (3,)).shape == (3, 4, 1)
    assert len(np.unique(draw(d, (3,)))) == 12
    np.testing.assert_allclose(score(d, x), score(plain, x), rtol=1e-6)
    axes = vmap_over(plain, y=0)
    np.testing.assert_allclose(
        jax.vmap(lambda d, x: d.log_prob(x), (axes, 0))(plain, x), score(plain, x), rtol=1e-6
    )


def test_a_chain_in_numpyros_scan():
    def program(start):
        def step(x, _):
            y = jnp.concatenate([x, jnp.zeros(1)])
            x = numpyro.sample("x", as_distribution(UNIT_NOISE, y))
            return x, x

        scan(step, start, None, length=5)

    site = handlers.trace(handlers.seed(program, 0)).get_trace(jnp.ones(1))["x"]
    assert site["fn"].batch_shape == (5,)
    steps = np.diff(np.concatenate([[1.0], site["value"][:, 0]]))
    wanted = -0.5 * steps**2 - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(site["fn"].log_prob(site["value"]), wanted, rtol=1e-4)


def test_a_reloaded_model_scores_alike_in_a_fresh_process(flow, tmp_path):
    flow.save(tmp_path / "flow.safetensors")
    x = flow.sample(KEY, 3)
    program = (
        "import sys, jax, jaxgen; from jaxgen.numpyro import as_distribution;"
        "d = jax.jit(lambda d: d)(as_distribution(jaxgen.load(sys.argv[1])));"
        f"print(d.log_prob({x.tolist()}).tolist())"
    )
    out = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "flow.safetensors")],
        env={**os.environ, "PYTHONHASHSEED": "7", "JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    np.testing.assert_allclose(score(as_distribution(flow), x), json.loads(out.stdout), rtol=1e-5)


# Labels, levels, missing values, precision.


def per_class():
    params = {
        "logits": jnp.log(jnp.array([0.7, 0.3])),
        "model": {"mean": jnp.array([[-1.0], [2.0]]), "scale_tril": jnp.ones((2, 1, 1))},
    }
    return Fitted(compose.PerClass(models.Gaussian(1), 2), params, labels=("apple", "pear"))


def test_labels_are_conditions_or_summed_over():
    x = jnp.array([[0.3], [4.0]])
    given = [as_distribution(per_class(), y).log_prob(x) for y in (["apple"], ["pear"])]
    joint = jnp.stack(given, 1) + jnp.log(jnp.array([0.7, 0.3]))
    marginal = as_distribution(per_class())
    assert marginal.batch_shape == ()
    np.testing.assert_allclose(score(marginal, x), jax.nn.logsumexp(joint, 1), rtol=1e-5)
    by_place = jax.jit(lambda y: as_distribution(per_class(), y).log_prob(x))(jnp.array([0, 1]))
    np.testing.assert_allclose(by_place, [given[0][0], given[1][1]], rtol=1e-6)
    draws = draw(marginal, (4000,))
    np.testing.assert_allclose(draws.mean(), -0.1, atol=0.1)


LEVELS = {
    "bit": (Fitted(models.Bernoulli(()), {"logits": jnp.array(-2.0)}), None, [0, 1]),
    "level": (
        Fitted(models.Categorical((), 3), {"logits": jnp.array([0.0, 1.0, -1.0])}), None, [0, 1, 2],
    ),
    "given": (
        Fitted(*(lambda m: (m, away(m, 2)))(
            compose.Conditional(compose.MLP((2,), 4), models.Categorical((), 3)))),
        CONDITIONS, [0, 1, 2],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LEVELS)
def test_levels_are_enumerated(name):
    fitted, y, values = LEVELS[name]
    d = as_distribution(fitted, y)
    assert d.is_discrete
    assert d.has_enumerate_support
    assert not d.has_rsample
    support = d.enumerate_support()
    assert support.shape == (len(values), *d.batch_shape)
    assert d.enumerate_support(expand=False).ravel().tolist() == values
    np.testing.assert_allclose(jnp.exp(score(d, support)).sum(0), 1, rtol=1e-5)
    assert draw(d, (5,)).dtype == support.dtype
    expanded = d.expand((3, *d.batch_shape)).enumerate_support(expand=False)
    assert expanded.shape == (len(values), 1, *[1] * len(d.batch_shape))


MANY = Fitted(models.Bernoulli((3,)), {"logits": jnp.zeros(3)})


def test_vectors_of_levels_are_not_enumerated():
    d = as_distribution(MANY)
    assert d.is_discrete
    assert not d.has_enumerate_support
    with pytest.raises(NotImplementedError):
        d.enumerate_support()
    with pytest.raises(NotImplementedError):
        biject_to(d.support)


def test_missing_values_and_values_outside():
    x = jnp.array([[0.3, jnp.nan], [0.1, 0.2]])
    with numpyro.validation_enabled():
        score = as_distribution(gaussian()).log_prob(x)
        np.testing.assert_array_equal(score, jaxgen.log_prob(gaussian().model, arrays(PLANE), x))
        assert np.isfinite(score).all()
        with pytest.warns(UserWarning, match="Out-of-support"):
            outside = as_distribution(BOUNDED["uniform"]).log_prob(jnp.zeros(2))
    assert outside == -jnp.inf
    with numpyro.validation_enabled(False):
        assert as_distribution(BOUNDED["uniform"]).log_prob(jnp.zeros(2)) == -jnp.inf


@pytest.mark.parametrize("x64", [False, True])
def test_numbers_have_the_precision_of_the_params(x64):
    with enable_x64(x64):
        narrow = Fitted(UNIT_NOISE.model, jax.tree_util.tree_map(np.float32, UNIT_NOISE.params))
        d = as_distribution(narrow, np.zeros(2))
        assert draw(d).dtype == jnp.float32
        assert score(d, np.zeros(1)).dtype == jnp.float32


def test_frozen_params_have_no_gradient():
    fitted = BOUNDED["parts"]
    x = as_distribution(fitted).sample(KEY)
    own = lambda params: as_distribution(Fitted(fitted.model, params)).log_prob(x)  # noqa: E731
    found = jax.jit(jax.grad(own))(fitted.params)
    assert not any(map(np.any, jax.tree_util.tree_leaves(found[0])))
    assert np.any(found[2]["mean"])


class Unscored(LinearGaussian):
    density = "none"


@pytest.mark.parametrize(
    ("fitted", "y", "error", "words"),
    [
        (models.Gaussian(2), None, TypeError, "fitted must be a jaxgen.Fitted.*got Gaussian"),
        (Fitted(Unscored(), UNIT_NOISE.params), None, ValueError, "fitted must have a density"),
        (UNIT_NOISE, None, ValueError, "y is missing"),
        (gaussian(), jnp.zeros(2), ValueError, "y was given, but .* is unconditional"),
        (UNIT_NOISE, jnp.zeros(3), ValueError, r"y must have shape \(..., 2\) .*got \(3,\)"),
        (UNIT_NOISE, 1.0, ValueError, r"y must have shape \(..., 2\) .*got \(\)"),
        (UNIT_NOISE, ["a", "b"], TypeError, "y must be an array of numbers"),
        (per_class(), ["plum"], ValueError, "unknown label 'plum'"),
        (Fitted(per_class().model, per_class().params), 0.5, TypeError, "y must hold labels"),
        (Fitted(per_class().model, per_class().params), 2, ValueError, "y must be a label 0 .. 1"),
    ],
)
def test_bad_arguments_are_named(fitted, y, error, words):
    with pytest.raises(error, match=words):
        as_distribution(fitted, y)


def test_bad_values_and_keys_are_named():
    d = as_distribution(gaussian())
    for value in (jnp.zeros(3), jnp.zeros(()), jnp.zeros((2, 1))):
        with pytest.raises(ValueError, match=r"value must have shape \(..., 2\)"):
            score(d, value)
    with pytest.raises(TypeError, match="key must be a PRNG key"):
        d.sample(0)
