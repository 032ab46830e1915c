"""NumPyro programs as models: single and multiple fits by gradients and by NUTS."""

import functools
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
from programs import EFFECTS, ERRORS, X, Y

import jaxgen
from jaxgen.core.precision import enable_x64
from jaxgen.laws import count_compiles
from jaxgen.numpyro import (
    NUTS,
    Guide,
    MeanField,
    Point,
    as_distribution,
    estimate,
    from_program,
    latents,
    log_likelihood,
    posterior,
    predictive,
    to_arviz,
)
from jaxgen.numpyro.posteriors import nuts

KEY = jax.random.key(0)
BY_NUTS = NUTS(20, 50, 2)


@functools.cache
def regression(kind):
    """A fit that several tests share."""
    return jaxgen.fit(
        from_program(programs.regression, y_shape=(2,), posterior=kind), X, Y, key=KEY
    )


def prior_alone(n, x=None):
    """A global that the rows do not depend on."""
    numpyro.sample("rate", dist.Gamma(3.0, 1.0))
    with numpyro.plate("rows", n):
        numpyro.sample("x", dist.Normal(0, 1), obs=x)


# Posteriors.


@pytest.mark.parametrize(("jacobian", "mode"), [(False, 2.0), (True, 3.0)])
def test_map_with_and_without_jacobian(jacobian, mode):
    model = from_program(prior_alone, posterior=Point(jacobian))
    fitted = jaxgen.fit(model, np.zeros(1), key=KEY)
    np.testing.assert_allclose(posterior(fitted)["rate"], [mode], rtol=0.01)


def test_draws_of_the_warmup_are_not_kept():
    """Chains start near 0, and the posterior for a hundred events at 50 is N(49.5, 0.1^2)."""
    fitted = jaxgen.fit(
        from_program(programs.normal, posterior=BY_NUTS), np.full(100, 50.0), key=KEY
    )
    assert np.abs(posterior(fitted)["mean"] - 100 * 50 / 101).max() < 1


@pytest.mark.parametrize("kind", [MeanField(), Guide(AutoMultivariateNormal), NUTS(draws=500)])
def test_the_posterior_of_one_event(kind):
    """Prior N(0, 1), unit noise, x = 2: the posterior is N(1, .707^2). Both kinds of key work."""
    key = jax.random.key(0, impl="rbg")
    # one event gives one draw a step, whose noise takes many steps to average out
    more = {} if isinstance(kind, NUTS) else {"epochs": 10_000}
    model = from_program(programs.normal, posterior=kind)
    fitted = jaxgen.fit(model, np.array([2.0]), key=key, **more)
    mean = np.asarray(posterior(fitted)["mean"])
    assert abs(mean.mean() - 1) < 0.05 + 3 * 0.71 / 100**0.5 * (not isinstance(kind, MeanField))
    assert abs(mean.std() - 0.707) < 0.05 + 0.1 * isinstance(kind, Guide)
    if isinstance(kind, MeanField):
        own = {name: v["mean"] for name, v in fitted.params["posterior"].items()}
        assert abs(own["middle"] + own["unit"] * own["loc"] - 1) < 0.05
        assert abs(own["unit"] * np.exp(own["log_scale"]) - 0.707) < 0.05
        assert predictive(fitted, key, n=2).shape == (100, 2)


def test_map_of_one_event():
    for kind in (Point(), Guide(AutoDelta, draws=1)):
        fitted = jaxgen.fit(from_program(programs.normal, posterior=kind), np.array([2.0]), key=KEY)
        np.testing.assert_allclose(posterior(fitted)["mean"], [1.0], atol=2e-3)


def test_a_fit_converges_under_a_wide_prior():
    """The posterior is 800 units away from the start of the fit, and 2 units wide."""

    def wide(n, x=None):
        mean = numpyro.sample("mean", dist.Normal(0, 1000))
        with numpyro.plate("rows", n):
            numpyro.sample("x", dist.Normal(mean, 20), obs=x)

    x = 800 + 20 * np.random.default_rng(0).normal(size=100)
    means = posterior(jaxgen.fit(from_program(wide), x, key=KEY))["mean"]
    assert abs(means.mean() - x.mean()) < 0.5
    np.testing.assert_allclose(means.std(), 2, rtol=0.1)


def mixed(discrete):
    """Shares of two clusters, with draws that have no gradient."""

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
def test_globals_are_fitted_through_locals_without_gradients(discrete):
    rng = np.random.default_rng(0)
    x = np.where(rng.uniform(size=300) < 0.85, 2, -2) + 0.5**0.5 * rng.normal(size=300)
    model = from_program(mixed(discrete), samples=20)
    shares = posterior(jaxgen.fit(model, x, key=KEY, epochs=300))["share"]
    grid = np.linspace(0.001, 0.999, 999)
    low, high = (np.exp(-((x[:, None] - at) ** 2)) for at in (-2, 2))
    log_p = np.log((1 - grid) * low + grid * high).sum(0)
    weights = np.exp(log_p - log_p.max()) * grid * (1 - grid)
    weights /= weights.sum()
    mean = weights @ grid
    np.testing.assert_allclose(shares.mean(), mean, atol=0.005)
    np.testing.assert_allclose(shares.std(), (weights @ (grid - mean) ** 2) ** 0.5, rtol=0.1)


def test_a_support_that_depends_on_a_global():
    def bounded(n, x=None):
        high = numpyro.sample("high", dist.LogNormal(1.0, 0.5))
        with numpyro.plate("rows", n):
            numpyro.sample("x", dist.Uniform(0, high), obs=x)

    fitted = jaxgen.fit(
        from_program(bounded, posterior=NUTS(50, 100, 2)), np.array([0.5, 5.0]), key=KEY
    )
    assert posterior(fitted)["high"].min() >= 5
    assert np.isfinite(as_distribution(fitted).log_prob(4.9))


def test_constant_entries_count_as_converged():
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


EXPOSURES = np.r_[np.linspace(1, 5, 29), 0.0]


def emissions(y, x=None):
    """Counts whose rate is 0 where the exposure is 0."""
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0).expand([1]).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("x", dist.Poisson(rate * y[:, None]).to_event(1), obs=x)


def roots(y, x=None):
    """A program whose density has no finite gradient at y = 0."""
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("x", dist.Normal(jnp.sqrt(rate * y), 1.0), obs=x)


def test_counts_without_exposure():
    """They are 0 with certainty, with a gradient of -exposure."""
    x = np.round(2 * EXPOSURES)
    model = from_program(emissions, y_shape=(), posterior=Point(jacobian=True))
    fitted = jaxgen.fit(model, x[:, None], EXPOSURES, key=KEY, epochs=200, validation=0)
    # the mode of the posterior, Gamma(2 + sum of counts, 1 + sum of exposures), of log rate
    mode = (2 + x.sum()) / (1 + EXPOSURES.sum())
    np.testing.assert_allclose(posterior(fitted)["rate"], [[mode]], rtol=0.01)
    assert fitted.log_prob(np.zeros((1, 1)), 0.0) == 0
    assert fitted.log_prob(np.ones((1, 1)), 0.0) == -np.inf


@pytest.mark.parametrize("kind", [MeanField(3), Point(), BY_NUTS], ids=repr)
def test_a_row_without_a_finite_gradient_is_named(kind):
    model = from_program(roots, y_shape=(), posterior=kind)
    with pytest.raises(ValueError, match=r"row 29, x = \(0\) with y = \(0\), has a gradient that"):
        jaxgen.fit(model, np.sqrt(EXPOSURES), EXPOSURES, key=KEY)


def test_chains_that_only_diverge_are_refused(monkeypatch):
    def steps(*args):
        state, records = compiled(*args)
        diverging = records.diverging.at[0, 1].set(True)
        return state, records._replace(diverging=diverging)

    compiled = nuts._compiled_steps
    monkeypatch.setattr(nuts, "_compiled_steps", steps)
    model = from_program(programs.regression, y_shape=(2,), posterior=BY_NUTS)
    with pytest.raises(ValueError, match="every draw of chain 1 diverged"):
        jaxgen.fit(model, X, Y, key=KEY)


@pytest.mark.parametrize("weights", [None, np.full(25, 4.0)])
def test_a_prior_weighs_less_the_more_events_there_are(weights):
    n = 100 if weights is None else 25
    x = np.random.default_rng(1).normal(size=n)
    fitted = jaxgen.fit(from_program(programs.normal), x, weights=weights, key=KEY)
    spread = posterior(fitted)["mean"].std()
    np.testing.assert_allclose(spread, (1 + 100) ** -0.5, rtol=0.1)


def scale_given(x):
    """Mean and spread of the posterior of ``programs.scaled``, by quadrature."""
    scale = np.linspace(0, 8, 8001)[1:]
    log_p = -len(x) * np.log(scale) - (x @ x) / (2 * scale**2) - scale**2 / 2
    weights = np.exp(log_p - log_p.max())
    weights /= weights.sum()
    mean = weights @ scale
    return mean, (weights @ (scale - mean) ** 2) ** 0.5


# both fits have up to 96 events, so that they share a program
SCALES = NUTS(50, 200, 2)


def test_a_class_with_fewer_events_is_less_certain():
    program = from_program(programs.normal, posterior=MeanField())
    model = jaxgen.compose.PerClass(program, 2)
    x, y = np.random.default_rng(1).normal(size=104), np.repeat([0, 1], [96, 8])
    fitted = jaxgen.fit(model, x, y, key=KEY)
    own = {name: v["mean"] for name, v in fitted.params["model"]["posterior"].items()}
    spread = own["unit"] * np.exp(own["log_scale"])
    np.testing.assert_allclose(spread, [97**-0.5, 9**-0.5], rtol=0.15)
    drawn = jaxgen.compose.PerClass(from_program(programs.scaled, posterior=SCALES), 2)
    fitted = jaxgen.fit(drawn, x, y, key=KEY)
    spread = fitted.params["model"]["posterior"]["draws"]["scale"].std(1)
    np.testing.assert_allclose(spread, [scale_given(x[y == k])[1] for k in (0, 1)], rtol=0.3)
    assert len(fitted.history["classes"]) == 2


def test_a_user_defined_guide():
    def guide(y):
        loc = numpyro.param("slope_loc", jnp.zeros(2))
        numpyro.sample("slope", dist.Normal(loc, 0.03).to_event(1))
        scale = numpyro.param("scale_loc", 1.0, constraint=dist.constraints.positive)
        numpyro.sample("scale", dist.Delta(scale))

    model = from_program(programs.regression, y_shape=(2,), posterior=Guide(guide))
    fitted = jaxgen.fit(model, X, Y, key=KEY)
    np.testing.assert_allclose(posterior(fitted)["slope"].mean(0), [1, -0.5], atol=0.15)
    np.testing.assert_allclose(posterior(fitted)["scale"], 0.33, atol=0.05)


@pytest.mark.parametrize("kind", [MeanField(), BY_NUTS])
def test_a_second_fit_compiles_nothing(kind):
    model = from_program(programs.regression, y_shape=(2,), posterior=kind)
    fitted = jaxgen.fit(model, X, Y, key=KEY)
    fitted.log_prob(X, Y), predictive(fitted, KEY, Y), log_likelihood(fitted, X, Y)
    with count_compiles() as compiled:
        fitted = jaxgen.fit(fitted.model, X + 1, Y, key=KEY)
        fitted.log_prob(X, Y), predictive(fitted, KEY, Y), log_likelihood(fitted, X, Y)
    assert compiled == [0]


def test_ensembles_and_checkpoints_apply(tmp_path):
    model = from_program(programs.normal)
    x = np.random.default_rng(1).normal(size=30)
    both = jaxgen.fit(model, x, key=KEY, ensemble=2, epochs=30, checkpoint=tmp_path / "run")
    assert both.model == jaxgen.compose.Mixture(model, 2)
    again = jaxgen.fit(model, x, key=KEY, ensemble=2, epochs=30, checkpoint=tmp_path / "run")
    np.testing.assert_array_equal(both.log_prob(x), again.log_prob(x))


@pytest.mark.parametrize(
    ("draws", "r_hat"), [(120, 1.1), pytest.param(500, 1.02, marks=pytest.mark.slow)]
)
def test_eight_schools_by_nuts(draws, r_hat):
    """mu, tau and the effects of the schools, within four Monte Carlo standard errors."""
    model = from_program(programs.schools, y_shape=(), posterior=NUTS(draws, draws, 4, 0.9))
    fitted = jaxgen.fit(model, EFFECTS, ERRORS, key=KEY)
    values, history = posterior(fitted), fitted.history
    assert max(history["r_hat"].values()) < r_hat
    for name, mean, spread in (("mu", 4.3968, 3.3177), ("tau", 3.5977, 3.2200)):
        error = spread / history["ess"][name] ** 0.5
        assert abs(values[name].mean() - mean) < 4 * error
    local = latents(fitted, KEY, EFFECTS, ERRORS)
    effects = np.asarray(local["effect"])
    assert effects.shape == (4 * draws, 8)
    made = values["mu"][:, None] + values["tau"][:, None] * local["base"]
    np.testing.assert_allclose(effects, made, rtol=1e-4, atol=1e-4)
    for school, mean in ((0, 6.2119), (7, 4.8543)):
        error = effects[:, school].std() / min(history["ess"].values()) ** 0.5
        assert abs(effects[:, school].mean() - mean) < 4 * error


# Several fits at once.


def test_fits_side_by_side_are_those_in_turn():
    model = regression(MeanField()).model
    x, y = np.stack([X, X + 1, 2 * X]), np.stack([Y, -Y, Y])
    side_by_side = jaxgen.unstack(jaxgen.fit_each(model, x, y, key=KEY, epochs=50))
    for i, one in enumerate(side_by_side):
        own = jaxgen.fit(model, x[i], y[i], key=jax.random.fold_in(KEY, i), epochs=50)
        np.testing.assert_allclose(
            one.log_prob(x[i], y[i]), own.log_prob(x[i], y[i]), rtol=1e-3, atol=1e-3
        )
        np.testing.assert_allclose(one.history["train"], own.history["train"], rtol=1e-3, atol=1e-3)
    shared = jaxgen.unstack(jaxgen.fit_each(model, x, Y, key=KEY, epochs=50))
    for i, alike in ((0, True), (1, False), (2, True)):
        assert (shared[i].history["train"] == side_by_side[i].history["train"]) == alike


def test_fits_side_by_side_of_other_families_and_by_nuts():
    points = np.random.default_rng(0).normal(size=(3, 96, 2)) * [[[1.0]], [[2.0]], [[4.0]]]
    flow = jaxgen.models.MaskedAutoregressive(2, 1, 6, 1, "affine")
    fitted = jaxgen.fit_each(flow, points, key=KEY, epochs=5)
    scores = jax.jit(jax.vmap(lambda one, x: one.log_prob(x).mean()))(fitted, points)
    assert (np.diff(scores) < 0).all()
    model = from_program(programs.scaled, posterior=SCALES)
    x = points[::2, :, 0]
    scales = jaxgen.fit_each(model, x, key=KEY).params["posterior"]["draws"]["scale"].mean(1)
    np.testing.assert_allclose(scales, [scale_given(own)[0] for own in x], rtol=0.05)


def test_fit_each_refuses():
    model = from_program(programs.normal)
    with pytest.raises(ValueError, match=r"x must have shape \(fits, n\)"):
        jaxgen.fit_each(model, np.zeros(3), key=KEY)
    with pytest.raises(ValueError, match="of data set 1: x must be finite"):
        jaxgen.fit_each(model, np.array([[0.0], [np.nan]]), key=KEY)
    with pytest.raises(ValueError, match="gradients or mcmc"):
        jaxgen.fit_each(jaxgen.models.Gaussian(1), np.zeros((2, 3, 1)), key=KEY)


# Queries.


@pytest.mark.parametrize("kind", [MeanField(), BY_NUTS])
def test_scores_are_those_of_numpyro(kind):
    fitted = regression(kind)
    wanted = jax.jit(lambda v: numpyros_log_likelihood(programs.regression, v, Y, x=X)["x"])(
        posterior(fitted)
    )
    np.testing.assert_allclose(log_likelihood(fitted, X, Y), wanted, rtol=2e-4, atol=1e-3)
    mean = np.logaddexp.reduce(wanted, 0) - np.log(len(wanted))
    np.testing.assert_allclose(fitted.log_prob(X, Y), mean, rtol=2e-4, atol=1e-3)


def test_an_estimate_has_its_method():
    fitted = regression(MeanField())
    found = estimate(fitted, X, Y, key=KEY)
    assert found.method == "exact"
    assert np.isinf(found.ess).all()
    np.testing.assert_allclose(found.log_prob, fitted.log_prob(X, Y), rtol=1e-5)


def test_invalid_labels_and_impossible_events():
    """Invalid labels raise errors, and latents of an impossible event are blank."""
    model = from_program(programs.classes, classes=3)
    named = jaxgen.Fitted(model, model.init(KEY), labels=(3, 7, 11))
    x, y = np.zeros((3, 2)), np.array([3, 7, 11])
    queries = (
        lambda y: log_likelihood(named, x, y),
        lambda y: estimate(named, x, y, key=KEY),
        lambda y: predictive(named, KEY, y),
    )
    for query in queries:
        for bad in ([3, 7, 5], 0, None):
            with pytest.raises(ValueError, match=r"^y(:| is)"):
                query(bad)
        with pytest.raises(TypeError, match="cannot be called within jit"):
            jax.jit(query)(y)
    with pytest.raises(ValueError, match="be a label 0"):
        log_likelihood(jaxgen.Fitted(model, named.params), x, 3)
    kinds = from_program(programs.kinds, posterior=Point())
    drawn = latents(jaxgen.Fitted(kinds, kinds.init(KEY)), KEY, np.array([0.0, np.inf]))["kind"]
    assert drawn[0, 0] in (0, 1)
    assert drawn[0, 1] == np.iinfo(np.int32).min


def test_joint_draws_share_their_globals():
    fitted = regression(MeanField())
    drawn = predictive(fitted, KEY, Y)
    assert drawn.shape == (100, 100)
    values = posterior(fitted)
    wanted = np.asarray(values["slope"]) @ Y.T
    error = (drawn - wanted) / values["scale"][:, None]
    assert abs(error.mean()) < 0.05
    assert abs(error.std() - 1) < 0.05
    assert predictive(fitted, KEY, Y[0]).shape == (100, 1)
    with pytest.raises(ValueError, match="n must be None"):
        predictive(fitted, KEY, Y, n=3)
    with pytest.raises(ValueError, match="y was given"):
        predictive(jaxgen.Fitted(from_program(programs.normal), {}), KEY, Y)
    with pytest.raises(TypeError, match="fitted must be a fitted program"):
        predictive(jaxgen.Fitted(jaxgen.models.Gaussian(1), {}), KEY, n=3)


def dtypes(fitted):
    return {
        np.asarray(v).dtype
        for v in (fitted.log_prob(X, Y), fitted.sample(KEY, 2, Y[:2]), predictive(fitted, KEY, Y))
    }


def test_programs_with_x64_off_and_on():
    for kind in (MeanField(), BY_NUTS):
        assert dtypes(regression(kind)) == {np.dtype(np.float32)}
    with enable_x64(True):
        for kind, more in ((MeanField(5), {"epochs": 2}), (NUTS(5, 10, 2), {})):
            model = from_program(programs.regression, y_shape=(2,), posterior=kind)
            assert dtypes(jaxgen.fit(model, X, Y, key=KEY, **more)) == {np.dtype(np.float64)}


def test_arviz_reads_a_fit():
    pytest.importorskip("arviz")
    found = to_arviz(regression(BY_NUTS), X, Y, key=KEY)
    assert found.posterior["slope"].shape == (2, 20, 2)
    assert found.log_likelihood["x"].shape == (2, 20, 100)
    assert found.posterior_predictive["x"].shape == (2, 20, 100)


def located(n, x=None):
    """Normal numbers whose mean and scale are params."""
    mean = numpyro.param("mean", 0.0)
    scale = numpyro.param("scale", 1.0, constraint=dist.constraints.positive)
    with numpyro.plate("rows", n):
        numpyro.sample("x", dist.Normal(mean, scale), obs=x)


def always(n, x=None):
    """A share whose maximum-likelihood value is at the end of its range."""
    share = numpyro.param("share", 0.5, constraint=dist.constraints.unit_interval)
    with numpyro.plate("rows", n):
        numpyro.sample("x", dist.Bernoulli(share), obs=x)


@pytest.mark.parametrize("epochs", [5, 60])
def test_a_program_of_params_that_has_not_converged_warns(epochs):
    x = 3 + 0.5 * np.random.default_rng(0).normal(size=120)
    with pytest.warns(RuntimeWarning, match=r"has not converged: one more step raises .* nats"):
        fitted = jaxgen.fit(from_program(located), x, key=KEY, epochs=epochs)
    assert fitted.history["converged"] is False


@pytest.mark.parametrize("program", [located, always])
def test_a_program_of_params_that_has_converged(program):
    x = 3 + 0.5 * np.random.default_rng(0).normal(size=120)
    x = np.ones(120) if program is always else x
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = jaxgen.fit(from_program(program), x, key=KEY, epochs=4000)
    assert fitted.history["converged"] is True
