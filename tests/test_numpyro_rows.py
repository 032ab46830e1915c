"""Programs are scored with the real rows, with x as it is given, and with what they read."""

import dataclasses
import functools
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.infer.util import log_density
from scipy import stats

import jaxgen
from jaxgen.networks.domains import Interval, Levels
from jaxgen.numpyro import MeanField, Point, from_program, log_likelihood, posterior
from jaxgen.numpyro.closure import contents
from jaxgen.numpyro.likelihood import poisson_log_prob

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
GROUP = np.repeat(np.arange(3), 20)


def fitted_to(model, x, y=None):
    return jaxgen.fit(model, x, y, key=KEY, epochs=2)


def started(model, x, y=None):
    """The model for the data, with its starting params."""
    found = model.for_data(np.asarray(x, float), y)
    return jaxgen.Fitted(found, found.init(KEY))


# programs whose rows depend on other rows or their position, which made-up rows do not show


def group_by_place(n, x=None):
    means = numpyro.sample("means", dist.Normal(0, 5).expand([3]).to_event(1))
    with numpyro.plate("rows", n) as i:
        numpyro.sample("x", dist.Normal(means[jnp.asarray(GROUP)[i]], 1), obs=x)


def switchpoint(n, x=None):
    tau = numpyro.sample("tau", dist.Uniform(10, 100))
    early = numpyro.sample("early", dist.Exponential(1.0))
    late = numpyro.sample("late", dist.Exponential(1.0))
    with numpyro.plate("rows", n):
        numpyro.sample("x", dist.Poisson(jnp.where(jnp.arange(n) < tau, early, late)), obs=x)


def centred(y, x=None):
    slope = numpyro.sample("slope", dist.Normal(0, 2))
    with numpyro.plate("rows", len(y)):
        rate = y[:, 1].astype(int) * jnp.exp(slope * (y[:, 0] - y[:, 0].mean()))
        numpyro.sample("x", dist.Poisson(rate), obs=x)


def prior_of_rows(y, x=None):
    scale = jnp.where(y.max() > 10, 5.0, 1.0)
    mean = numpyro.sample("mean", dist.Normal(0, scale))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("x", dist.Normal(mean, 1), obs=x)


def latent_of_place(n, x=None):
    with numpyro.plate("rows", n) as i:
        z = numpyro.sample("z", dist.Normal(jnp.where(i > 9, 4.0, 0.0), 1))
        numpyro.sample("x", dist.Normal(z, 1), obs=x)


def previous_late(n, x=None):
    rho = numpyro.sample("rho", dist.Uniform(-1, 1))
    with numpyro.plate("rows", n) as i:
        before = 0.0 if x is None else jnp.concatenate([jnp.zeros(1), x[:-1]])
        numpyro.sample("x", dist.Normal(jnp.where(i > 5, rho * before, 0.0), 1), obs=x)


EXPOSED = np.stack([RNG.normal(3, 2, 60), RNG.integers(1, 9, 60)], 1)
DEPENDENT = [
    (group_by_place, None, "'x' of row 20"),
    (switchpoint, None, "'x' of row [0-9]+"),
    (centred, EXPOSED, "'x' of row 0"),
    (prior_of_rows, np.linspace(0, 20, 60), "'mean', outside the plate"),
    (latent_of_place, None, "'z' of row 10"),
    (previous_late, None, "'x' of row 6"),
]


@pytest.mark.parametrize(
    ("program", "y", "site"), DEPENDENT, ids=[d[0].__name__ for d in DEPENDENT]
)
def test_rows_that_depend_on_others_are_refused(program, y, site):
    x = np.abs(RNG.normal(size=60)).round()
    model = from_program(program, y_shape=None if y is None else y.shape[1:])
    message = (
        rf"{program.__name__}: site {site}.* among all 60 rows, -?[0-9.e+]+ with row [0-9]+ alone"
    )
    with pytest.raises(ValueError, match=message):
        fitted_to(model, x, y)
    with pytest.raises(ValueError, match=r"depends on its position or on other rows"):
        fitted_to(jaxgen.compose.Mixture(model, 2), x, y)


def straight(y, x=None):
    slope = numpyro.sample("slope", dist.Normal(0, 2))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("x", dist.Normal(slope * y, 1), obs=x)


def test_scores_of_single_rows_sum_to_the_score_of_numpyro():
    """NumPyro scores all rows together."""
    y = RNG.normal(size=60) * 1e3
    x = y * 0.7 + RNG.normal(size=60)
    fitted = started(from_program(straight, y_shape=(), posterior=MeanField(3)), x, y)
    each = log_likelihood(fitted, x, y)
    for draw, slope in enumerate(posterior(fitted)["slope"]):
        whole, _ = log_density(straight, (y, x), {}, {"slope": slope})
        prior = dist.Normal(0, 2).log_prob(slope)
        np.testing.assert_allclose(each[draw].sum(), whole - prior, rtol=1e-4)


# values of latents that depend on y


def passed(y, x=None):
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Binomial(y.astype(int), 0.4))
        numpyro.sample("x", dist.Normal(z, 0.5), obs=x)


def up_to(y, x=None):
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.DiscreteUniform(0, y.astype(int)))
        numpyro.sample("x", dist.Normal(z, 0.5), obs=x)


class Evenly(dist.Distribution):
    """Integers from 0 to a bound; the density does not check whether a value is possible."""

    def __init__(self, high):
        self.high = high
        super().__init__(jnp.shape(high))

    @dist.constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self):
        return dist.constraints.integer_interval(0, self.high)

    def sample(self, key, sample_shape=()):
        return jax.random.randint(key, (*sample_shape, *self.batch_shape), 0, self.high + 1)

    def log_prob(self, value):
        return jnp.broadcast_to(-jnp.log(self.high + 1.0), jnp.shape(value))


def user_defined(y, x=None):
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", Evenly(y.astype(int)))
        numpyro.sample("x", dist.Normal(z, 0.5), obs=x)


def overdispersed(y, x=None):
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.BetaBinomial(2.0, 3.0, y.astype(int)))
        numpyro.sample("x", dist.Normal(z, 0.5), obs=x)


def nested(y, x=None):
    with numpyro.plate("rows", len(y)):
        first = numpyro.sample("first", dist.Binomial(y.astype(int), 0.7))
        z = numpyro.sample("z", dist.Binomial(first, 0.5))
        numpyro.sample("x", dist.Normal(z, 0.5), obs=x)


def exact_sum(weights, x):
    return np.log(weights @ stats.norm.pdf(x, np.arange(len(weights)), 0.5))


VARYING = [
    (passed, lambda n: stats.binom.pmf(np.arange(n + 1), n, 0.4)),
    (up_to, lambda n: np.ones(n + 1) / (n + 1)),
    (user_defined, lambda n: np.ones(n + 1) / (n + 1)),
    (overdispersed, lambda n: stats.betabinom.pmf(np.arange(n + 1), n, 2, 3)),
    (nested, lambda n: stats.binom.pmf(np.arange(n + 1), n, 0.35)),
]


@pytest.mark.parametrize(("program", "weights"), VARYING, ids=[v[0].__name__ for v in VARYING])
def test_latents_take_the_values_that_each_row_allows(program, weights):
    x, y = np.array([0.3, 1.7, 4.9, 0.0]), np.array([5.0, 5.0, 7.0, 0.0])
    fitted = jaxgen.fit(from_program(program, y_shape=()), x, y, key=KEY)
    wanted = [exact_sum(weights(int(n)), own) for own, n in zip(x, y, strict=True)]
    np.testing.assert_allclose(fitted.log_prob(x, y), wanted, rtol=1e-5)
    with pytest.raises(ValueError, match=r"values within 0 .. 7, as in the fit.*row 1 holds 8"):
        fitted.log_prob(x[:2], np.array([1.0, 8.0]))
    assert np.isnan(jax.jit(fitted.log_prob)(x[:1], np.array([8.0]))).all()
    drawn = np.asarray(fitted.sample(KEY, 4000, np.array(5.0)))
    assert abs(drawn.mean() - weights(5) @ np.arange(6)) < 0.1


def test_the_domain_of_y_determines_the_values_of_a_latent():
    model = from_program(passed, y_shape=(), y_domain=(Interval(0, 9),))
    fitted = jaxgen.fit(model, np.zeros(4), np.array([1.0, 2, 3, 2]), key=KEY)
    wanted = exact_sum(stats.binom.pmf(np.arange(10), 9, 0.4), 3.0)
    np.testing.assert_allclose(fitted.log_prob(np.array([3.0]), np.array([9.0])), wanted, rtol=1e-5)
    with pytest.raises(ValueError, match=r"suit its y_domain.*row 0 holds 10"):
        fitted.log_prob(np.array([3.0]), np.array([10.0]))
    with pytest.raises(ValueError, match=r"'z' depend on y.*known after a fit"):
        jaxgen.log_prob(from_program(passed, y_shape=()), {"program": {}}, np.zeros(1), np.ones(1))
    with pytest.raises(ValueError, match=r"latents .*'z'.* take 9001 values"):
        fitted_to(from_program(passed, y_shape=()), np.zeros(2), np.array([1.0, 9000.0]))


# y as an index


def by_group(y, x=None):
    means = numpyro.sample("means", dist.Normal(0, 5).expand([3]).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("x", dist.Normal(means[y.astype(int)], 1), obs=x)


def gathers(y, x=None):
    means = numpyro.sample("means", dist.Normal(0, 5).expand([3]).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("x", dist.Normal(jax.vmap(lambda i: means[i])(y), 1), obs=x)


def person_and_item(y, x=None):
    skill = numpyro.sample("skill", dist.Normal(0, 1).expand([4]).to_event(1))
    ease = numpyro.sample("ease", dist.Normal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("rows", len(y)):
        logits = jnp.take(skill, y[:, 0]) - ease[y[:, 1]]
        numpyro.sample("x", dist.Bernoulli(logits=logits), obs=x)


@pytest.mark.parametrize("program", [by_group, gathers])
@pytest.mark.parametrize("wrong", [3, -1, 100])
def test_an_index_out_of_range_is_refused(program, wrong):
    fitted = started(from_program(program, y_shape=(), posterior=Point()), GROUP[::20], GROUP[::20])
    y = np.array([0, wrong])
    with pytest.raises(ValueError, match=rf"index arrays within their bounds.*row 1 holds {wrong}"):
        fitted.log_prob(np.zeros(2), y)
    with pytest.raises(ValueError, match="index arrays"):
        fitted_to(fitted.model, np.zeros(2), y)
    means = np.asarray(posterior(fitted)["means"])[0]
    scores = np.asarray(jax.jit(fitted.log_prob)(np.zeros(2), y))
    np.testing.assert_allclose(scores[0], stats.norm.logpdf(0, means[0]), rtol=1e-5)
    assert np.isnan(scores[1])


def test_indices_in_several_columns():
    y = np.array([[0, 0], [3, 1], [2, 1]])
    fitted = started(from_program(person_and_item, y_shape=(2,), posterior=Point()), [0, 1, 1], y)
    values = {name: np.asarray(v)[0] for name, v in posterior(fitted).items()}
    logits = values["skill"][y[:, 0]] - values["ease"][y[:, 1]]
    wanted = -np.log1p(np.exp(-logits))
    np.testing.assert_allclose(fitted.log_prob(np.ones(3), y), wanted, rtol=1e-5)
    with pytest.raises(ValueError, match="index arrays within their bounds"):
        fitted.log_prob(np.ones(1), np.array([[1, 2]]))
    domain = (Levels(3), Levels(2))
    model = from_program(person_and_item, y_shape=(2,), y_domain=domain, posterior=Point())
    with pytest.raises(ValueError, match="y must suit its y_domain"):
        fitted_to(model, np.ones(2), np.array([[0, 1], [3, 1]]))


# units of y


def since_1900(y, x=None):
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("x", dist.Normal(slope * jnp.log(y - 1900), 1), obs=x)


def successes(y, x=None):
    slope = numpyro.sample("slope", dist.Normal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("rows", len(y)):
        fn = dist.Binomial(total_count=y[:, 2], logits=y[:, :2] @ slope)
        numpyro.sample("x", fn, obs=x)


def test_made_up_conditions_do_not_matter():
    y = RNG.integers(1950, 2020, 40).astype(float)
    fitted = started(from_program(since_1900, y_shape=(), posterior=Point()), np.log(y - 1900), y)
    slope = np.asarray(posterior(fitted)["slope"])[0]
    wanted = stats.norm.logpdf(np.zeros(40), slope * np.log(y - 1900))
    np.testing.assert_allclose(fitted.log_prob(np.zeros(40), y), wanted, rtol=1e-4)
    y = np.concatenate([RNG.normal(size=(40, 2)), RNG.integers(5, 20, (40, 1))], 1)
    fitted = started(from_program(successes, y_shape=(3,), posterior=Point()), np.ones(40), y)
    slope = np.asarray(posterior(fitted)["slope"])[0]
    chances = 1 / (1 + np.exp(-y[:, :2] @ slope))
    wanted = stats.binom.logpmf(2, y[:, 2], chances)
    np.testing.assert_allclose(fitted.log_prob(np.full(40, 2.0), y), wanted, rtol=1e-4)
    drawn = np.asarray(fitted.sample(KEY, 4000, y[0]))
    assert abs(drawn.mean() - y[0, 2] * chances[0]) < 0.2
    assert drawn.max() <= y[0, 2]


# code that runs only when x is given


def with_hint(n, data=None):
    mean = numpyro.sample("mean", dist.Normal(0, 1))
    if data is not None:
        numpyro.factor("hint", -50 * (mean - 2) ** 2)
    with numpyro.plate("rows", n):
        numpyro.sample("x", dist.Normal(mean, 1), obs=data)


def test_a_factor_that_is_there_only_with_x_counts():
    """The precisions of a normal mean are 1 (prior), 100 (factor) and n (data)."""
    x = RNG.normal(1, 1, 50)
    fitted = jaxgen.fit(from_program(with_hint, posterior=Point()), x, key=KEY)
    wanted = (200 + x.sum()) / 151
    np.testing.assert_allclose(posterior(fitted)["mean"], [wanted], rtol=1e-3)


# what a program reads

SIGMA = 1.0


def reads_a_global(n, x=None):
    mean = numpyro.sample("mean", dist.Normal(0, SIGMA))
    with numpyro.plate("rows", n):
        numpyro.sample("x", dist.Normal(mean, SIGMA), obs=x)


class Reading:
    """A program whose scale is an attribute."""

    def __init__(self):
        self.sigma = 1.0

    def __call__(self, n, x=None):
        with numpyro.plate("rows", n):
            numpyro.sample("x", dist.Normal(0, self.sigma), obs=x)

    def method(self, n, x=None):
        self(n, x)


def test_a_changed_global_or_attribute_makes_another_model(monkeypatch):
    x = np.array([3.0])
    scores = []
    earlier = started(from_program(reads_a_global, posterior=Point()), x)
    for sigma in (1.0, 0.1, 100.0, 1.0):
        monkeypatch.setitem(globals(), "SIGMA", sigma)
        model = from_program(reads_a_global, posterior=Point())
        fitted = jaxgen.Fitted(model, model.init(KEY))
        mean = np.asarray(posterior(fitted)["mean"])[0]
        scores.append(fitted.log_prob(x)[0] - stats.norm.logpdf(3, mean, sigma))
        if sigma == 0.1:
            with pytest.raises(ValueError, match="it reads 'SIGMA', which has changed since"):
                earlier.log_prob(x)
    np.testing.assert_allclose(scores, 0, atol=1e-4)
    assert model == earlier.model
    reading = Reading()
    for program in (reading, reading.method):
        for sigma in (1.0, 0.1):
            reading.sigma = sigma
            fitted = jaxgen.Fitted(from_program(program), {"program": {}})
            wanted = stats.norm.logpdf(3, 0, sigma)
            np.testing.assert_allclose(fitted.log_prob(x), [wanted], rtol=1e-5)


def helper(y):
    return y * SIGMA


SCALE = np.ones(2)


def calls_a_helper(y, scale=SCALE, x=None):
    def inner(z):
        return helper(z) @ scale

    return inner(y)


def test_contents_of_functions(monkeypatch):
    """Globals of helpers, defaults, closures, partials, attributes and array entries are read."""
    first = contents(calls_a_helper)
    assert contents(calls_a_helper) == first
    monkeypatch.setitem(globals(), "SIGMA", 7.0)
    assert contents(calls_a_helper) != first
    monkeypatch.undo()
    assert contents(calls_a_helper) == first
    calls_a_helper.__defaults__[0][1] = 5.0
    assert contents(calls_a_helper) != first
    calls_a_helper.__defaults__[0][1] = 1.0
    held = {"weights": [1.0, 2.0]}

    def closure(y):
        return y * held["weights"][1]

    before = contents(closure)
    held["weights"][1] = 3.0
    assert contents(closure) != before
    partials = [functools.partial(helper, y=value) for value in (1.0, 2.0)]
    assert contents(partials[0]) != contents(partials[1])


def test_a_file_refuses_a_program_with_other_sites(tmp_path):
    def make(shape):
        def program(n, x=None):
            mean = numpyro.sample("mean", dist.Normal(0, 1).expand(shape).to_event(len(shape)))
            with numpyro.plate("rows", n):
                numpyro.sample("x", dist.Normal(jnp.sum(mean), 1), obs=x)

        program.__qualname__ = "program"
        return from_program(program, posterior=Point())

    path = tmp_path / "model.jaxgen"
    model = make(())
    jaxgen.Fitted(model, model.init(KEY)).save(path)
    assert jaxgen.load(path).model == model
    make((2,))
    with (
        pytest.warns(RuntimeWarning, match="several programs"),
        pytest.raises(ValueError, match=r"not the one in the file.*global mean \(\).*\(2,\)"),
    ):
        jaxgen.load(path)


# masks


def padded(y, x=None):
    mean = numpyro.sample("mean", dist.Normal(0, 1))
    with numpyro.plate("rows", len(y)):
        fn = dist.LogNormal(mean, 1).expand([len(y), 3]).mask(y > 0).to_event(1)
        numpyro.sample("x", fn, obs=x)


def masked_rows(y, x=None):
    mean = numpyro.sample("mean", dist.Normal(0, 1))
    with numpyro.plate("rows", len(y)):
        fn = dist.LogNormal(mean, 1).expand([len(y), 3]).to_event(1).mask(y[:, 0] > 0)
        numpyro.sample("x", fn, obs=x)


def masked_by_handler(y, x=None):
    mean = numpyro.sample("mean", dist.Normal(0, 1))
    with numpyro.plate("rows", len(y)), handlers.mask(mask=y[:, 0] > 0):
        fn = dist.LogNormal(mean, 1).expand([len(y), 3]).to_event(1)
        numpyro.sample("x", fn, obs=x)


@pytest.mark.parametrize("program", [padded, masked_rows, masked_by_handler])
def test_masked_entries_count_as_not_observed(program):
    y = np.array([[1.0, 1, 1], [1, 1, 0], [0, 0, 0]])
    x = np.where(y > 0, np.array([0.5, 2.0, 1.0]), 0.0)  # padded with zeros, outside the support
    if program is not padded:
        x[1] = 0.3
    fitted = started(from_program(program, y_shape=(3,), posterior=Point()), np.ones((3, 3)), y)
    mean = np.asarray(posterior(fitted)["mean"])[0]
    own = np.where(x > 0, stats.lognorm.logpdf(np.where(x > 0, x, 1), 1, scale=math.exp(mean)), 0)
    np.testing.assert_allclose(fitted.log_prob(x, y), own.sum(1), rtol=1e-4)


# large counts


def counts(n, x=None):
    rate = numpyro.sample("rate", dist.LogNormal(15.0, 5.0))
    with numpyro.plate("rows", n):
        numpyro.sample("x", dist.Poisson(rate), obs=x)


def test_counts_beyond_32_bits():
    x = np.full(20, 4e9)
    fitted = jaxgen.fit(from_program(counts, posterior=Point()), x, key=KEY)
    rate = float(posterior(fitted)["rate"][0])
    assert abs(rate / 4e9 - 1) < 0.01
    drawn = np.asarray(fitted.sample(KEY, 1000))
    assert abs(drawn.mean() / rate - 1) < 1e-4
    np.testing.assert_allclose(drawn.std(), math.sqrt(rate), rtol=0.1)
    model = dataclasses.replace(fitted.model, large_counts=False)
    few = jaxgen.fit(model, np.full(20, 7.0), key=KEY, epochs=1)
    assert few.sample(KEY, 3).dtype == jnp.int32


def test_the_density_of_a_poisson_is_accurate_for_large_counts():
    rate = np.array([1e-3, 0.7, 5, 20, 300, 1e4, 2e7, 4e9])
    for change in (0.5, 1.0, 1.0001, 1.2, 3.0):
        count = np.maximum(np.round(rate * change), 1)
        wanted = stats.poisson.logpmf(count, rate)
        found = poisson_log_prob(jnp.asarray(count, jnp.float32), jnp.asarray(rate, jnp.float32))
        exact = stats.poisson.logpmf(
            np.float32(count).astype(float), np.float32(rate).astype(float)
        )
        np.testing.assert_allclose(found, exact, rtol=2e-5, atol=2e-5)
        assert np.isfinite(wanted).all()


def hidden_by_the_prior(y, x=None):
    level = numpyro.sample("level", dist.Normal(0, 1e5))
    with numpyro.plate("rows", len(y)):
        late = jnp.where(jnp.arange(len(y)) > 30, 3.0, 0.0)
        numpyro.sample("x", dist.Normal(level + late, 1), obs=x)


def test_rows_are_compared_again_at_the_fitted_globals():
    """At draws of the prior, a step of 3 is within the rounding error of log p."""
    model = from_program(hidden_by_the_prior, y_shape=(), posterior=Point())
    with pytest.raises(ValueError, match="'x' of row 31 depends on its position"):
        jaxgen.fit(model, RNG.normal(size=60), np.zeros(60), key=KEY)


# other uses of x


def changes_x(y, x=None):
    slope = numpyro.sample("slope", dist.Normal(0, 2))
    with numpyro.plate("rows", len(y)):
        obs = None if x is None else (x - 100) / 15
        numpyro.sample("x", dist.Normal(slope * y, 1), obs=obs)


def clips_x(y, x=None):
    slope = numpyro.sample("slope", dist.Normal(0, 2))
    with numpyro.plate("rows", len(y)):
        obs = None if x is None else jnp.minimum(x, 50.0)
        numpyro.sample("x", dist.Normal(slope * y, 1), obs=obs)


def point_of_rows(y, x=None):
    slope = numpyro.sample("slope", dist.Normal(0, 2))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Delta(slope * y))
        numpyro.sample("x", dist.Normal(z, 1), obs=x)


def narrower_with_x(n, x=None):
    with numpyro.plate("rows", n):
        numpyro.sample("x", dist.Normal(0, 5.0 if x is None else 1.0), obs=x)


def running_sum(y, x=None):
    slope = numpyro.sample("slope", dist.Normal(0, 2))
    with numpyro.plate("rows", len(y)):
        numpyro.deterministic("trend", jnp.where(y > 1, jnp.cumsum(slope * y), 0))
        numpyro.sample("x", dist.Normal(slope * y, 1), obs=x)


def rarely_by_place(n, x=None):
    tau = numpyro.sample("tau", dist.Uniform(0, 2000))
    early, late = (numpyro.sample(name, dist.Normal(0, 5)) for name in ("early", "late"))
    with numpyro.plate("rows", n):
        numpyro.sample("x", dist.Normal(jnp.where(jnp.arange(n) < tau, early, late), 1), obs=x)


@pytest.mark.parametrize(
    ("program", "y", "message"),
    [
        (changes_x, np.ones(40), r"'x' must be observed as x is given, but the program changes"),
        (
            clips_x,
            np.ones(40),
            r"must be observed as x is given, but in row 33 it changes 50.8 into 50",
        ),
        (point_of_rows, np.ones(40), r"'z' must not be a Delta"),
        (narrower_with_x, None, r"'x' must have one distribution whether x is given or not"),
        (running_sum, np.linspace(0, 3, 40), r"'trend' of row [0-9]+ depends on its position"),
        (rarely_by_place, None, r"'x' of row [0-9]+ depends on its position"),
    ],
)
def test_other_uses_of_x_are_refused(program, y, message):
    with pytest.raises(ValueError, match=message):
        fitted_to(
            from_program(program, y_shape=None if y is None else ()), np.linspace(0, 60, 40), y
        )


def several_parameters(n, weights=None, data=None):
    return with_hint(n, data)


def keywords(n, **given):
    return with_hint(n, given.get("data"))


@pytest.mark.parametrize("program", [several_parameters, keywords])
def test_the_parameter_of_x_is_found(program):
    assert from_program(program).sites.observed_parameter == "data"
    assert from_program(program).sites.observed_outside == ("hint",)


class Base:
    sigma = 1.0


class Fit(Base):
    """A class that stores its fitted model, as users write it."""

    def __init__(self):
        self.calls = 0
        self.model = from_program(self.program)
        self.fitted = jaxgen.Fitted(self.model, {"program": {}})

    def program(self, n, x=None):
        self.calls += 1
        with numpyro.plate("rows", n):
            numpyro.sample("x", dist.Normal(0, self.sigma), obs=x)


def test_a_class_may_store_its_fit_and_a_program_may_change_its_attributes(monkeypatch):
    fit = Fit()
    before = fit.fitted.log_prob(np.zeros(1))
    fit.seconds = 3.0
    np.testing.assert_allclose(fit.fitted.log_prob(np.zeros(1)), before)
    monkeypatch.setattr(Base, "sigma", 2.0)
    with pytest.raises(ValueError, match=r"reads 'self.sigma', which has changed"):
        fit.fitted.log_prob(np.zeros(1))


def switched(y, x=None):
    with numpyro.plate("rows", len(y)):
        branches = [lambda i=i: jnp.float32(i) for i in range(3)]
        means = jax.vmap(lambda own: jax.lax.switch(own.astype(int), branches))(y)
        numpyro.sample("x", dist.Normal(means, 1), obs=x)


def test_indices_of_branches_and_of_other_types():
    fitted = started(from_program(switched, y_shape=()), np.zeros(3), np.arange(3.0))
    fitted.log_prob(np.zeros(3), np.arange(3.0))
    with pytest.raises(ValueError, match="index arrays within their bounds"):
        fitted.log_prob(np.zeros(1), np.array([7.0]))
    y = np.array([[0, 0], [1, 1]])
    model = from_program(person_and_item, y_shape=(2,), posterior=Point())
    with pytest.raises(TypeError, match=r"y must suit program .*person_and_item.*dtype float32"):
        fitted_to(model, np.ones(2), y.astype(float))


FAR = {  # data as saved, and as loaded, and the error
    "a number": (1.0, 5.0, "'far', which it reads, has other values than"),
    "an entry": (np.array([1.0, 5.0]), np.array([1.0, 6.0]), "'far', which it reads, has other va"),
    "a list": ([1.0, 5.0], [1.0, 6.0], "'far', which it reads, has other values"),
    "a long list": (
        [1.0] * 1500 + [5.0],
        [1.0] * 1500 + [6.0],
        "'far', which it reads, has other v",
    ),
    "a longer tuple of texts": (("a", 2.0), ("a", "b", 2.0), r"'far', .* another shape"),
    "a longer array": (np.ones(2), np.ones(3), r"'far', .* another shape .*: \(3,\), not \(2,\)"),
    "a longer list": (
        [1.0, 1.0],
        [1.0, 1.0, 1.0],
        r"'far', .* another shape .* \(3,\), not \(2,\)",
    ),
    "rounding": (np.array([0.1, 0.3]), np.array([0.1, 0.1 + 0.2]), ""),
}


@pytest.mark.parametrize("what", FAR)
def test_a_file_refuses_a_program_that_reads_other_data(tmp_path, what):
    """Also where the made-up row of the check does not depend on what has changed."""

    def make(far):
        def program(y, x=None):
            scale = jnp.where(y > 1, np.ravel(far)[-1].astype(float), 1.0)
            with numpyro.plate("rows", len(y)):
                numpyro.sample("x", dist.Normal(0, scale), obs=x)

        program.__qualname__ = "far_program"
        return from_program(program, y_shape=())

    before, now, text = FAR[what]
    path = tmp_path / "model.jaxgen"
    jaxgen.Fitted(make(before), {"program": {}}).save(path)
    jaxgen.load(path)
    make(now)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # several programs have this name
        if not text:
            jaxgen.load(path)
            return
        with pytest.raises(ValueError, match=rf"not the one in the file: {text}"):
            jaxgen.load(path)


def test_loading_a_program_with_other_code_warns(tmp_path):
    def one(y, x=None):
        with numpyro.plate("rows", len(y)):
            numpyro.sample("x", dist.Normal(0, jnp.where(y > 1, 2.0, 1.0)), obs=x)

    def other(y, x=None):
        with numpyro.plate("rows", len(y)):
            numpyro.sample("x", dist.Normal(0, jnp.where(y > 1, 3.0, 1.0)), obs=x)

    path = tmp_path / "model.jaxgen"
    one.__qualname__ = other.__qualname__ = "program_of_other_code"
    jaxgen.Fitted(from_program(one, y_shape=()), {"program": {}}).save(path)
    from_program(other, y_shape=())
    with pytest.warns(RuntimeWarning, match=r"has other code, .* for other rows they may differ"):
        jaxgen.load(path)


def share_passed(y, x=None):
    q = numpyro.sample("q", dist.Beta(1, 1))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Binomial(y.astype(int), q))
        numpyro.sample("x", dist.Normal(z, 0.5), obs=x)


def test_values_that_a_row_forbids_have_no_gradient():
    y = RNG.integers(0, 9, 300).astype(float)
    x = RNG.binomial(y.astype(int), 0.4) + 0.5 * RNG.normal(size=300)
    fitted = jaxgen.fit(from_program(share_passed, y_shape=(), posterior=Point()), x, y, key=KEY)
    assert abs(posterior(fitted)["q"][0] - 0.4) < 0.05


def two_outcomes(y, x=None, w=None):
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("x", dist.Normal(slope * y, 1), obs=x)
        z = numpyro.sample("z", dist.Normal(y, 1), obs=None)
        numpyro.sample("w", dist.Gamma(jnp.exp(z), 1), obs=w)


def test_latents_that_no_other_site_depends_on_are_left_out():
    """A second outcome that is not given changes nothing, and the density is exact."""
    model = from_program(two_outcomes, "x", y_shape=(), posterior=Point())
    assert [site.name for site in model.sites.unread] == ["z", "w"]
    assert model.traits.density == "exact"
    fitted = started(model, np.zeros(3), np.arange(3.0))
    y, x = np.arange(3.0), np.array([0.5, -1.0, 2.0])
    slope = np.asarray(posterior(fitted)["slope"])[0]
    expected = stats.norm.logpdf(x, slope * y, 1)
    np.testing.assert_allclose(fitted.log_prob(x, y), expected, rtol=1e-5)
    drawn = jaxgen.numpyro.latents(fitted, KEY, x, y)
    assert drawn["w"].shape == (1, 3)
    assert (drawn["w"] > 0).all()
    assert len(set(drawn["z"][0].tolist())) == 3
