"""NumPyro programs as people post them, each with data in its usual units and what must happen."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers, infer
from scipy.special import expit, logsumexp
from scipy.stats import rankdata

from jaxgen import numpyro as bridge
from jaxgen.numpyro import param_sites

_rng = np.random.default_rng(16)


class Case(NamedTuple):
    """A program with its data.

    Attributes:
      program: the program, called with y, or with the number of rows where y is None.
      observed: name of the observed site.
      x: its values, rows leading.
      y: the conditioning input, rows leading, or None.
      refused: a word that the error must contain; empty where the program must be served.
      marginal: the program with its local latents integrated out by hand, of the same globals.
      change: sets a global that the program reads: 1 for a first fit, then .1.
      wide: whether numbers need 64 bits.
    """

    program: Callable
    observed: str
    x: np.ndarray
    y: np.ndarray | None = None
    refused: str = ""
    marginal: Callable | None = None
    change: Callable[[float], None] | None = None
    wide: bool = False

    @property
    def name(self) -> str:
        return self.program.__name__

    def call(self) -> tuple[tuple, dict[str, jax.Array]]:
        """What the program is called with: its arguments, and the observed site by name."""
        arguments = (len(self.x),) if self.y is None else (jnp.asarray(self.y),)
        return arguments, {self.observed: jnp.asarray(self.x)}

    @property
    def y_shape(self) -> tuple[int, ...] | None:
        return None if self.y is None else self.y.shape[1:]


CASES: list[Case] = []


def _case(observed, x, y=None, **more):
    """Adds the program that it decorates to ``CASES``."""

    def add(program):
        CASES.append(Case(program, observed, np.asarray(x), y, **more))
        return program

    return add


def named(name: str) -> Case:
    """The case of that name."""
    return next(case for case in CASES if case.name == name)


def _columns(*columns):
    return np.stack([np.asarray(column) for column in columns], -1)


# Groups.


def _schools_marginal(sigma, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("J", len(sigma)):
        numpyro.sample("y", dist.Normal(mu, jnp.sqrt(tau**2 + sigma**2)), obs=y)


_errors = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])
_effects = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])


@_case("y", _effects, _errors, marginal=_schools_marginal)
def schools_noncentred(sigma, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("J", len(sigma)):
        base = numpyro.sample("base", dist.Normal(0, 1))
        theta = numpyro.deterministic("theta", mu + tau * base)
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


@_case("y", _effects, _errors, marginal=_schools_marginal)
def schools_centred(sigma, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("J", len(sigma)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


COUNTIES = 5
_county = np.sort(_rng.integers(0, COUNTIES, 60)).astype(np.int32)
_floor = _rng.integers(0, 2, 60)
_level = np.array([0.3, 1.9, 1.2, 2.4, 0.8])
_log_radon = _level[_county] - 0.6 * _floor + 0.5 * _rng.normal(size=60)


@_case("log_radon", _level[_county] + 0.5 * _rng.normal(size=60), _county)
def radon_centred(county, log_radon=None):
    mu = numpyro.sample("mu", dist.Normal(0, 3))
    tau = numpyro.sample("tau", dist.HalfNormal(2))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2))
    with numpyro.plate("counties", COUNTIES):
        alpha = numpyro.sample("alpha", dist.Normal(mu, tau))
    with numpyro.plate("data", len(county)):
        numpyro.sample("log_radon", dist.Normal(alpha[county], sigma), obs=log_radon)


@_case("obs", _log_radon, _columns(_county, _floor))
def radon_noncentred(X, obs=None):
    county, floor = X[:, 0], X[:, 1]
    mu = numpyro.sample("mu", dist.Normal(0, 3))
    tau = numpyro.sample("tau", dist.HalfNormal(2))
    beta = numpyro.sample("beta", dist.Normal(0, 1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2))
    with numpyro.plate("counties", COUNTIES):
        offset = numpyro.sample("offset", dist.Normal(0, 1))
    alpha = numpyro.deterministic("alpha", mu + tau * offset)
    with numpyro.plate("data", X.shape[0]):
        numpyro.sample("obs", dist.Normal(alpha[county] + beta * floor, sigma), obs=obs)


@_case("obs", _level[_county] + 0.1 * _rng.normal(size=60), refused="obs")
def group_by_place(n, obs=None):
    group = jnp.array(_county)
    with numpyro.plate("groups", COUNTIES):
        th = numpyro.sample("th", dist.Normal(0, 2))
    with numpyro.plate("data", n) as i:
        numpyro.sample("obs", dist.Normal(th[group[i]], 0.1), obs=obs)


_cafe = np.repeat(np.arange(8), 6)
_afternoon = np.tile([0, 1], 24)
_cafe_effects = _rng.multivariate_normal([3.5, -1], [[0.8, -0.3], [-0.3, 0.3]], 8)
_wait = _cafe_effects[_cafe, 0] + _cafe_effects[_cafe, 1] * _afternoon + 0.4 * _rng.normal(size=48)


@_case("wait", _wait, _columns(_cafe, _afternoon))
def cafes_lkj(data, wait=None):
    cafe, afternoon = data[:, 0], data[:, 1]
    mean = numpyro.sample("mean", dist.Normal(jnp.array([5.0, -1.0]), 2).to_event(1))
    scales = numpyro.sample("scales", dist.Exponential(1).expand([2]).to_event(1))
    chol = numpyro.sample("chol", dist.LKJCholesky(2, 2.0))
    sigma = numpyro.sample("sigma", dist.Exponential(1))
    with numpyro.plate("cafes", 8):
        z = numpyro.sample("z", dist.Normal(0, 1).expand([2]).to_event(1))
    effects = mean + z @ (scales[:, None] * chol).T
    mu = effects[cafe, 0] + effects[cafe, 1] * afternoon
    with numpyro.plate("visits", len(data)):
        numpyro.sample("wait", dist.Normal(mu, sigma), obs=wait)


_persons, _items = 12, 6
_ability = _rng.normal(size=_persons)
_difficulty = np.linspace(-1.2, 1.2, _items)
_answers = _columns(np.repeat(np.arange(_persons), _items), np.tile(np.arange(_items), _persons))
_right = _rng.random(len(_answers)) < expit(
    1.5 * (_ability[_answers[:, 0]] - _difficulty[_answers[:, 1]])
)


@_case("response", _right.astype(np.int32), _answers)
def irt_2pl(ids, response=None):
    person, item = ids[:, 0], ids[:, 1]
    with numpyro.plate("persons", _persons):
        theta = numpyro.sample("theta", dist.Normal(0, 1))
    with numpyro.plate("items", _items):
        a = numpyro.sample("a", dist.LogNormal(0, 0.5))
        b = numpyro.sample("b", dist.Normal(0, 1))
    logits = a[item] * (theta[person] - b[item])
    with numpyro.plate("responses", ids.shape[0]):
        numpyro.sample("response", dist.Bernoulli(logits=logits), obs=response)


# Regressions.

_X = _rng.normal(size=(60, 6))
_line = _X @ [2.0, 0, 0, -1.0, 0, 0] + 0.5 * _rng.normal(size=60)


@_case("y", _line, _X)
def horseshoe(X, y=None):
    tau = numpyro.sample("tau", dist.HalfCauchy(1))
    lam = numpyro.sample("lam", dist.HalfCauchy(1).expand([X.shape[1]]).to_event(1))
    raw = numpyro.sample("raw", dist.Normal(0, 1).expand([X.shape[1]]).to_event(1))
    beta = numpyro.deterministic("beta", tau * lam * raw)
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    with numpyro.plate("N", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ beta, sigma), obs=y)


_outliers = np.where(np.arange(60) % 15 == 0, 12.0, 0) + _X[:, 0] + 0.3 * _rng.normal(size=60)


@_case("y", _outliers, _X[:, 0])
def robust_student(x, y=None):
    a = numpyro.sample("a", dist.Normal(0, 2))
    b = numpyro.sample("b", dist.Normal(0, 2))
    nu = numpyro.sample("nu", dist.Gamma(2, 0.1))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(1))
    with numpyro.plate("data", len(x)):
        numpyro.sample("y", dist.StudentT(nu, a + b * x, sigma), obs=y)


@_case("obs", (_rng.random(60) < expit(1.5 * _X[:, 0] - 0.5)).astype(np.int32), _X[:, :3])
def logistic(X, obs=None):
    w = numpyro.sample("w", dist.Normal(jnp.zeros(3), 2).to_event(1))
    b = numpyro.sample("b", dist.Normal(0, 2))
    with numpyro.plate("data", X.shape[0]):
        numpyro.sample("obs", dist.Bernoulli(logits=X @ w + b), obs=obs)


_exposure = _rng.integers(200, 5000, 60)
_claims = _rng.poisson(_exposure * np.exp(-5.5 + 0.4 * _X[:, 0]))


@_case("claims", _claims, _columns(_exposure, _X[:, 0]))
def poisson_exposure(y, claims=None):
    exposure, z = y[:, 0], y[:, 1]
    a = numpyro.sample("a", dist.Normal(-5, 3))
    b = numpyro.sample("b", dist.Normal(0, 1))
    with numpyro.plate("policies", len(y)):
        numpyro.sample("claims", dist.Poisson(exposure * jnp.exp(a + b * z)), obs=claims)


@_case("visits", _rng.poisson(np.exp(1 + 0.5 * _X[:, 0])) * (_rng.random(60) < 0.7), _X[:, :2])
def zero_inflated(X, visits=None):
    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([2]).to_event(1))
    intercept = numpyro.sample("intercept", dist.Normal(0, 2))
    gate = numpyro.sample("gate", dist.Beta(1, 1))
    rate = jnp.exp(intercept + X @ beta)
    with numpyro.plate("N", X.shape[0]):
        numpyro.sample("visits", dist.ZeroInflatedPoisson(gate, rate), obs=visits)


@_case("days", _rng.negative_binomial(2, 2 / (2 + np.exp(2 + 0.4 * _X[:, 0]))), _X[:, 0])
def negative_binomial(math, days=None):
    a = numpyro.sample("a", dist.Normal(0, 5))
    b = numpyro.sample("b", dist.Normal(0, 2))
    phi = numpyro.sample("phi", dist.Exponential(1))
    with numpyro.plate("students", len(math)):
        numpyro.sample("days", dist.NegativeBinomial2(jnp.exp(a + b * math), phi), obs=days)


_months = _rng.exponential(20 * np.exp(-0.7 * (_X[:, 0] > 0)))


@_case(
    "time",
    np.minimum(_months, 24).astype(np.float32),
    _columns(_X[:, 0] > 0, _months > 24).astype(np.int32),
)
def censored_survival(y, time=None):
    treated, censored = y[:, 0], y[:, 1]
    a = numpyro.sample("a", dist.Normal(3, 2))
    b = numpyro.sample("b", dist.Normal(0, 1))
    waits = dist.Exponential(jnp.exp(-a - b * treated))
    with numpyro.plate("patients", y.shape[0]):
        numpyro.sample("time", dist.RightCensoredDistribution(waits, censored), obs=time)


@_case("t", 300 * np.exp(0.3 * _X[:, 0]) * _rng.weibull(1.5, 60), _X[:, 0])
def weibull_survival(x, t=None):
    shape = numpyro.sample("shape", dist.LogNormal(0, 1))
    a = numpyro.sample("a", dist.Normal(5, 2))
    b = numpyro.sample("b", dist.Normal(0, 1))
    with numpyro.plate("units", len(x)):
        numpyro.sample("t", dist.Weibull(jnp.exp(a + b * x), shape), obs=t)


@_case("obs", np.abs(1 + _X[:, 0] + 0.7 * _rng.normal(size=60)), _X[:, 0])
def truncated(x, obs=None):
    a = numpyro.sample("a", dist.Normal(0, 2))
    b = numpyro.sample("b", dist.Normal(0, 2))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2))
    with numpyro.plate("obs_plate", len(x)):
        numpyro.sample("obs", dist.TruncatedNormal(a + b * x, sigma, low=0.0), obs=obs)


_rating = np.digitize(1.2 * _X[:, 0] + _rng.logistic(size=60), [-1.5, 0, 1.5])


@_case("rating", _rating, _X[:, 0])
def ordinal(x, rating=None):
    b = numpyro.sample("b", dist.Normal(0, 2))
    cuts = numpyro.sample(
        "cuts",
        dist.TransformedDistribution(
            dist.Normal(0, 2).expand([3]).to_event(1), dist.transforms.OrderedTransform()
        ),
    )
    with numpyro.plate("data", len(x)):
        numpyro.sample("rating", dist.OrderedLogistic(b * x, cuts), obs=rating)


_species = np.argmax(_X[:, :2] @ [[1.5, 0, -1], [0, 1.5, 0]] + _rng.gumbel(size=(60, 3)), -1)


@_case("species", _species, _X[:, :2])
def softmax_regression(X, species=None):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([2, 3]).to_event(2))
    with numpyro.plate("data", X.shape[0]):
        numpyro.sample("species", dist.Categorical(logits=X @ w), obs=species)


_year = np.arange(1950, 2010)


@_case("log_size", 1.3 * np.log(_year - 1900) + 0.2 * _rng.normal(size=60), _year)
def growth_years(y, log_size=None):
    t = jnp.log(y - 1900)
    a = numpyro.sample("a", dist.Normal(0, 5))
    b = numpyro.sample("b", dist.Normal(0, 2))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    with numpyro.plate("years", len(y)):
        numpyro.sample("log_size", dist.Normal(a + b * t, sigma), obs=log_size)


_house = _columns(_rng.integers(500, 4000, 60), _rng.integers(1900, 2020, 60))
_price = np.exp(9 + 0.5 * np.log(_house[:, 0]) + (_house[:, 1] - 1950) / 100)
_price = np.round(_price * np.exp(0.2 * _rng.normal(size=60)), -2)


@_case("price", _price, _house)
def house_prices(X, price=None):
    sqft, built = X[:, 0], X[:, 1]
    a = numpyro.sample("a", dist.Normal(13, 2))
    b = numpyro.sample("b", dist.Normal(0, 1))
    c = numpyro.sample("c", dist.Normal(0, 1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    mu = a + b * (jnp.log(sqft) - 7) + c * (built - 1950) / 50
    with numpyro.plate("houses", X.shape[0]):
        numpyro.sample("price", dist.LogNormal(mu, sigma), obs=price)


_staff = _rng.integers(50, 3000, 60)
_revenue = np.round(4e5 * _staff * np.exp(0.3 * _rng.normal(size=60)))


@_case("revenue", _revenue, _staff)
def revenue_to_1e9(employees, revenue=None):
    per_head = numpyro.sample("per_head", dist.LogNormal(jnp.log(1e5), 2))
    shape = numpyro.sample("shape", dist.Gamma(2, 0.2))
    with numpyro.plate("firms", len(employees)):
        mean = per_head * employees
        numpyro.sample("revenue", dist.Gamma(shape, shape / mean), obs=revenue)


_doy_basis = np.maximum(0, 1 - np.abs(np.linspace(0, 5, 60)[:, None] - np.arange(6)))


@_case("doy", 105 + _doy_basis @ [0, 3, -4, 2, 5, -6] + 2 * _rng.normal(size=60), _doy_basis)
def blossom_spline(B, doy=None):
    a = numpyro.sample("a", dist.Normal(100, 10))
    w = numpyro.sample("w", dist.Normal(0, 10).expand([B.shape[1]]).to_event(1))
    sigma = numpyro.sample("sigma", dist.Exponential(1))
    with numpyro.plate("years", B.shape[0]):
        numpyro.sample("doy", dist.Normal(a + B @ w, sigma), obs=doy)


_hidden = np.tanh(_X[:, :1] * [0.5, 3.0])


@_case("Y", _hidden @ [2.0, 1.0] + 0.2 * _rng.normal(size=60), _X[:, :1])
def bayesian_network(X, Y=None):
    w1 = numpyro.sample("w1", dist.Normal(jnp.array([[0.5, 3.0]]), 0.3).to_event(2))
    w2 = numpyro.sample("w2", dist.HalfNormal(2).expand([2]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    with numpyro.plate("data", X.shape[0]):
        numpyro.sample("Y", dist.Normal(jnp.tanh(X @ w1) @ w2, sigma), obs=Y)


_admissions = _columns(np.tile([0, 1], 6), np.repeat(np.arange(6), 2), _rng.integers(20, 800, 12))
_admit = _rng.binomial(_admissions[:, 2], expit(0.5 - 0.4 * _admissions[:, 1]))


@_case("admit", _admit, _admissions)
def binomial_admissions(y, admit=None):
    with numpyro.plate("dept", 6):
        a = numpyro.sample("a", dist.Normal(0, 1.5))
    b = numpyro.sample("b", dist.Normal(0, 1.5))
    logits = a[y[:, 1]] + b * y[:, 0]
    with numpyro.plate("rows", len(y)):
        numpyro.sample("admit", dist.Binomial(total_count=y[:, 2], logits=logits), obs=admit)


# Values of other kinds.

_total = _rng.integers(30, 200, 30)
_votes = np.array([_rng.multinomial(n, [0.5, 0.3, 0.2]) for n in _total])


@_case("votes", _votes, _total)
def multinomial_votes(total, votes=None):
    p = numpyro.sample("p", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("districts", len(total)):
        numpyro.sample("votes", dist.Multinomial(total, p), obs=votes)


_depth = np.linspace(10, 100, 40)
_sediment = np.array([_rng.dirichlet([2 + d / 10, 5, 3]) for d in _depth])


@_case("shares", _sediment, _depth)
def dirichlet_sediments(depth, shares=None):
    a = numpyro.sample("a", dist.Normal(0, 2).expand([3]).to_event(1))
    b = numpyro.sample("b", dist.Normal(0, 1).expand([3]).to_event(1))
    concentration = jnp.exp(a + b * jnp.log(depth / 50)[:, None])
    with numpyro.plate("samples", len(depth)):
        numpyro.sample("shares", dist.Dirichlet(concentration), obs=shares)


_hour = _rng.uniform(0, 24, 50)


@_case("angle", _rng.vonmises(np.sin(_hour / 24 * 2 * np.pi), 4.0), _hour)
def wind_direction(hour, angle=None):
    a = numpyro.sample("a", dist.Normal(0, 1))
    b = numpyro.sample("b", dist.Normal(0, 1))
    kappa = numpyro.sample("kappa", dist.Gamma(2, 0.5))
    mu = a + b * jnp.sin(hour / 24 * 2 * jnp.pi)
    with numpyro.plate("hours", len(hour)):
        numpyro.sample("angle", dist.VonMises(mu, kappa), obs=angle)


_bodies = _rng.multivariate_normal([170, 65, 90], [[80, 50, 20], [50, 90, 60], [20, 60, 100]], 40)


@_case("obs", _bodies)
def lkj_features(n, obs=None):
    mu = numpyro.sample("mu", dist.Normal(jnp.array([160.0, 60.0, 80.0]), 30).to_event(1))
    theta = numpyro.sample("theta", dist.HalfNormal(20).expand([3]).to_event(1))
    chol = numpyro.sample("chol", dist.LKJCholesky(3, 1.0))
    with numpyro.plate("people", n):
        tril = theta[:, None] * chol
        numpyro.sample("obs", dist.MultivariateNormal(mu, scale_tril=tril), obs=obs)


_visits = _rng.poisson(4.1e9, 20).astype(np.float64)


@_case("hits", _visits, wide=True)
def counts_of_4e9(n, hits=None):
    rate = numpyro.sample("rate", dist.LogNormal(jnp.log(1e9), 2))
    with numpyro.plate("days", n):
        numpyro.sample("hits", dist.Poisson(rate), obs=hits)


# Mixtures.


@_case("data", np.r_[_rng.normal(-2, 0.7, 30), _rng.normal(2, 0.7, 50)])
def mixture_of_2(n, data=None):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    first = numpyro.sample("first", dist.Normal(0, 5))
    gap = numpyro.sample("gap", dist.HalfNormal(5))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2))
    parts = dist.Normal(jnp.stack([first, first + gap]), sigma)
    with numpyro.plate("data_plate", n):
        numpyro.sample("data", dist.MixtureSameFamily(dist.Categorical(w), parts), obs=data)


_ten = np.arange(10) * 8.0


@_case("x", _rng.normal(_ten[_rng.integers(0, 10, 200)], 1))
def mixture_of_10(n, x=None):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(10)))
    with numpyro.plate("components", 10):
        loc = numpyro.sample("loc", dist.Normal(_ten, 1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2))
    with numpyro.plate("rows", n):
        parts = dist.MixtureSameFamily(dist.Categorical(w), dist.Normal(loc, sigma))
        numpyro.sample("x", parts, obs=x)


def _labels_marginal(n, x=None):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("components", 3):
        loc = numpyro.sample("loc", dist.Normal(jnp.array([-4.0, 0.0, 4.0]), 1))
    with numpyro.plate("rows", n):
        parts = dist.MixtureSameFamily(dist.Categorical(w), dist.Normal(loc, 1))
        numpyro.sample("x", parts, obs=x)


@_case("x", _rng.normal(np.repeat([-4, 0, 4], 25), 1), marginal=_labels_marginal)
def mixture_by_labels(n, x=None):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("components", 3):
        loc = numpyro.sample("loc", dist.Normal(jnp.array([-4.0, 0.0, 4.0]), 1))
    with numpyro.plate("rows", n):
        z = numpyro.sample("z", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(loc[z], 1), obs=x)


def _sum_over(log_weights, scale, x):
    """Observes a normal around 0, 1, ... by the given log weights, (n, values)."""
    log_weights = jnp.maximum(log_weights, -1e9)  # NumPyro takes no infinite ones
    values = jnp.broadcast_to(jnp.arange(log_weights.shape[-1]), log_weights.shape)
    parts = dist.MixtureSameFamily(dist.Categorical(logits=log_weights), dist.Normal(values, scale))
    numpyro.sample("x", parts, obs=x)


_emitted = np.array([5, 2, 0, 7, 3, 4, 1, 6, 5, 2, 3, 8, 4, 5, 0, 2], np.int32)


def _thinned_marginal(y, x=None):
    q = numpyro.sample("q", dist.Beta(2, 2))
    with numpyro.plate("rows", len(y)):
        z, most = jnp.arange(9), y[:, None]
        inside = z <= most
        count = dist.Binomial(jnp.maximum(most, 1), q).log_prob(
            jnp.where(inside & (most > 0), z, 0)
        )
        only_zero = jnp.where(z == 0, 0.0, -jnp.inf)
        _sum_over(jnp.where(most > 0, jnp.where(inside, count, -jnp.inf), only_zero), 0.5, x)


@_case(
    "x",
    _rng.binomial(_emitted, 0.7) + 0.5 * _rng.normal(size=16),
    _emitted,
    marginal=_thinned_marginal,
)
def thinned_counts(y, x=None):
    q = numpyro.sample("q", dist.Beta(2, 2))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Binomial(y.astype(int), q))
        numpyro.sample("x", dist.Normal(z, 0.5), obs=x)


def _uniform_marginal(y, x=None):
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    with numpyro.plate("rows", len(y)):
        inside = jnp.arange(9) <= y[:, None]
        _sum_over(jnp.where(inside, -jnp.log1p(y[:, None]), -jnp.inf), sigma, x)


@_case(
    "x",
    _rng.integers(0, _emitted + 1) + 0.3 * _rng.normal(size=16),
    _emitted,
    marginal=_uniform_marginal,
)
def uniform_up_to(y, x=None):
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.DiscreteUniform(0, y))
        numpyro.sample("x", dist.Normal(z, sigma), obs=x)


# Continuous latents of rows.

_waffles = _columns(*_rng.normal(size=(2, 40)), _rng.uniform(0.1, 0.8, 40))
_divorce = -0.6 * _waffles[:, 0] + 0.4 * _rng.normal(size=40)
_divorce = _divorce + _waffles[:, 2] * _rng.normal(size=40)


def _measured_globals(y):
    a = numpyro.sample("a", dist.Normal(0, 0.5))
    b = numpyro.sample("b", dist.Normal(0, 0.5).expand([2]).to_event(1))
    sigma = numpyro.sample("sigma", dist.Exponential(1))
    return a + y[:, :2] @ b, sigma


def _measured_marginal(y, D_obs=None):
    mu, sigma = _measured_globals(y)
    with numpyro.plate("states", len(y)):
        numpyro.sample("D_obs", dist.Normal(mu, jnp.sqrt(sigma**2 + y[:, 2] ** 2)), obs=D_obs)


@_case("D_obs", _divorce, _waffles, marginal=_measured_marginal)
def measurement_error(y, D_obs=None):
    mu, sigma = _measured_globals(y)
    with numpyro.plate("states", len(y)):
        D_true = numpyro.sample("D_true", dist.Normal(mu, sigma))
        numpyro.sample("D_obs", dist.Normal(D_true, y[:, 2]), obs=D_obs)


_mass = _rng.normal(1, 0.8, 50)
_known = _rng.random(50) < 0.7
_energy = 0.5 + 1.2 * _mass + 0.3 * _rng.normal(size=50)


def _milk_globals():
    a = numpyro.sample("a", dist.Normal(0, 1))
    b = numpyro.sample("b", dist.Normal(0, 1))
    nu = numpyro.sample("nu", dist.Normal(0, 1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    return a, b, nu, sigma


def _milk_marginal(y, K=None):
    a, b, nu, sigma = _milk_globals()
    known = y[:, 0] > 0
    with numpyro.plate("species", len(y)):
        loc = jnp.where(known, a + b * y[:, 1], a + b * nu)
        scale = jnp.where(known, sigma, jnp.sqrt(sigma**2 + (0.8 * b) ** 2))
        numpyro.sample("K", dist.Normal(loc, scale), obs=K)


@_case("K", _energy, _columns(_known, np.where(_known, _mass, 0)), marginal=_milk_marginal)
def missing_imputed(y, K=None):
    a, b, nu, sigma = _milk_globals()
    with numpyro.plate("species", len(y)):
        imputed = numpyro.sample("imputed", dist.Normal(nu, 0.8))
        mass = jnp.where(y[:, 0] > 0, y[:, 1], imputed)
        numpyro.sample("K", dist.Normal(a + b * mass, sigma), obs=K)


# Factors, params and masks.


@_case("y", 1.5 + _X[:, 0] + 0.5 * _rng.normal(size=60), _X[:, 0])
def factor_of_globals(x, y=None):
    a = numpyro.sample("a", dist.Normal(0, 2))
    b = numpyro.sample("b", dist.Normal(0, 2))
    numpyro.factor("close", -40 * (a - b) ** 2)
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Normal(a + b * x, 0.5), obs=y)


@_case("x", _rng.normal(1.2, 1, 20))
def factor_when_given(n, x=None):
    m = numpyro.sample("m", dist.Normal(0, 2))
    if x is not None:
        numpyro.factor("penalty", -100 * m**2)
    with numpyro.plate("rows", n):
        numpyro.sample("x", dist.Normal(m, 1), obs=x)


@_case("x", _rng.normal(1.2, 1, 20), _X[:20, 0], refused="penalty")
def factor_in_plate(y, x=None):
    m = numpyro.sample("m", dist.Normal(0, 2))
    with numpyro.plate("rows", len(y)):
        numpyro.factor("penalty", -((m * y) ** 2))
        numpyro.sample("x", dist.Normal(m, 1), obs=x)


@_case("x", 3 * _X[:, 0] + 2 + _rng.normal(size=60), _X[:, 0])
def param_of_noise(y, x=None):
    a = numpyro.sample("a", dist.Normal(0, 5))
    b = numpyro.sample("b", dist.Normal(0, 5))
    sigma = numpyro.param("sigma", 2.0, constraint=dist.constraints.positive)
    with numpyro.plate("rows", len(y)):
        numpyro.sample("x", dist.Normal(a + b * y, sigma), obs=x)


_there = np.arange(4) < _rng.integers(1, 5, 30)[:, None]
_padded = np.where(_there, _rng.normal(2, 1, (30, 4)), 0)


@_case("x", _padded, _there)
def mask_in_event(mask, x=None):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2))
    with numpyro.plate("sequences", len(mask)):
        steps = dist.Normal(mu, sigma).expand([4]).mask(mask).to_event(1)
        numpyro.sample("x", steps, obs=x)


@_case("x", _padded, _there[:, 1])
def mask_outside(mask, x=None):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2))
    with numpyro.plate("sequences", len(mask)):
        steps = dist.Normal(mu, sigma).expand([4]).to_event(1).mask(mask)
        numpyro.sample("x", steps, obs=x)


@_case("obs", _line, _columns(_X[:, 0], _X[:, 1] > 0))
def mask_by_handler(y, obs=None):
    a = numpyro.sample("a", dist.Normal(0, 2))
    b = numpyro.sample("b", dist.Normal(0, 2))
    with numpyro.plate("rows", len(y)), handlers.mask(mask=y[:, 1] > 0):
        numpyro.sample("obs", dist.Normal(a + b * y[:, 0], 1.5), obs=obs)


# What lies around the rows.

_t = np.arange(60)
_disasters = _rng.poisson(np.where(_t < 40, 4, 2))


@_case("disasters", _disasters, _t)
def switchpoint(t, disasters=None):
    tau = numpyro.sample("tau", dist.Uniform(10, 100))
    early = numpyro.sample("early", dist.Exponential(0.2))
    late = numpyro.sample("late", dist.Exponential(0.2))
    with numpyro.plate("years", len(t)):
        rate = jnp.where(t < tau, early, late)
        numpyro.sample("disasters", dist.Poisson(rate), obs=disasters)


@_case("disasters", _disasters, refused="disasters")
def switchpoint_by_place(n, disasters=None):
    tau = numpyro.sample("tau", dist.Uniform(10, 100))
    early = numpyro.sample("early", dist.Exponential(0.2))
    late = numpyro.sample("late", dist.Exponential(0.2))
    with numpyro.plate("years", n):
        rate = jnp.where(jnp.arange(n) < tau, early, late)
        numpyro.sample("disasters", dist.Poisson(rate), obs=disasters)


_walk = np.array([0.0] * 80)
for _i in range(1, 80):
    _walk[_i] = 0.9 * _walk[_i - 1] + 0.5 * _rng.normal()


@_case("x", _walk, refused="x")
def autoregressive(n, x=None):
    rho = numpyro.sample("rho", dist.Uniform(-1, 1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    before = jnp.zeros(n) if x is None else jnp.concatenate([jnp.zeros(1), x[:-1]])
    with numpyro.plate("time", n):
        numpyro.sample("x", dist.Normal(rho * before, sigma), obs=x)


_centred = (_exposure - _exposure.mean()) / 1000


@_case("x", 1.4 * _centred + 0.5 * _X[:, 1], _columns(_exposure, _X[:, 0]), refused="x")
def centred_inside(y, x=None):
    b = numpyro.sample("b", dist.Normal(0, 2))
    c = numpyro.sample("c", dist.Normal(0, 2))
    exposure = y[:, 0].astype(int)
    exposure = (exposure - exposure.mean()) / 1000
    with numpyro.plate("rows", len(y)):
        numpyro.sample("x", dist.Normal(b * exposure + c * y[:, 1], 0.5), obs=x)


@_case("y", np.sin(_X[:20, 0]), _X[:20, 0], refused="y")
def gaussian_process(X, y=None):
    length = numpyro.sample("length", dist.LogNormal(0, 1))
    noise = numpyro.sample("noise", dist.HalfNormal(1))
    square = (X[:, None] - X) ** 2
    cov = jnp.exp(-0.5 * square / length**2) + (noise + 1e-3) * jnp.eye(len(X))
    numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(len(X)), cov), obs=y)


_second = _rng.normal(0.5, 1, 20)


@_case("x", _rng.normal(1, 1, 20), _X[:20, 0], refused="w")
def two_observed(y, x=None):
    m = numpyro.sample("m", dist.Normal(0, 2))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("w", dist.Normal(m * y, 1), obs=_second[: len(y)])
        numpyro.sample("x", dist.Normal(m, 1), obs=x)


SIG = 1.0


def set_noise(value: float) -> None:
    """Sets the noise that ``reads_a_global`` reads."""
    global SIG
    SIG = value


@_case("x", _rng.normal(5, 1, 12), change=set_noise)
def reads_a_global(n, x=None):
    m = numpyro.sample("m", dist.Normal(0, 1))
    with numpyro.plate("rows", n):
        numpyro.sample("x", dist.Normal(m, SIG), obs=x)


_begin = _rng.uniform(1, 5, 25)
_decay = _begin[:, None] * 0.8 ** np.arange(1, 7) + 0.1 * _rng.normal(size=(25, 6))


@_case("x", _decay, _begin)
def scan_of_series(start, x=None):
    keep = numpyro.sample("keep", dist.Beta(2, 2))
    pull = numpyro.sample("pull", dist.Normal(0, 1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))

    def step(level, _):
        level = keep * level + pull
        return level, level

    _, levels = jax.lax.scan(step, start, None, length=6)
    with numpyro.plate("series", len(start)):
        numpyro.sample("x", dist.Normal(levels.T, sigma).to_event(1), obs=x)


# Against NumPyro.

REPEATS = 10  # predictive draws of each draw of the globals
Z = 5.0  # tolerance of some hundred z-scores


def model_of(case: Case, posterior=None):
    """The program as a model."""
    return bridge.from_program(
        case.program, case.observed, y_shape=case.y_shape, posterior=posterior
    )


def learnt(fitted) -> dict[str, jax.Array]:
    """Values of the ``numpyro.param`` sites."""
    return param_sites.values(fitted.model, fitted.params)


def log_p_tolerance(fitted) -> float:
    """Tolerance of ``log_p_difference``; of an estimate in nats."""
    return 0.05 if fitted.model.traits.density == "estimate" else 2e-3


def log_p_difference(case: Case, fitted) -> float:
    """The greatest difference of log p of rows from NumPyro's, at the draws of the fit.

    It is relative where log p is beyond 1 nat. Of estimates, means over the draws are compared.
    """
    arguments, observed = case.call()
    ours = np.asarray(bridge.log_likelihood(fitted, case.x, case.y), np.float64)
    program = handlers.substitute(case.marginal or case.program, learnt(fitted))
    values = bridge.posterior(fitted)
    score = jax.jit(lambda values: infer.log_likelihood(program, values, *arguments, **observed))
    theirs = np.asarray(score(values)[case.observed], np.float64)
    if ours.shape != theirs.shape:  # a mask within an event leaves its entries apart
        theirs = theirs.reshape(*ours.shape, -1).sum(-1)
    if fitted.model.traits.density == "estimate":
        ours, theirs = (logsumexp(v, 0) - np.log(len(v)) for v in (ours, theirs))
    same = ours == theirs  # infinite ones too
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0, abs(ours - theirs) / np.maximum(1, abs(theirs)))
    return float(np.nan_to_num(difference, nan=np.inf).max())


def predictive_z(case: Case, fitted) -> float:
    """The greatest |z| of the draws of rows against NumPyro's, given the same draws of the globals.

    Draws of ours and NumPyro's for a row and draw of the globals are ranked together. Compared are
    the mean ranks and the mean distances from the middle rank, which stand for means and deviations
    where those do not exist: of each entry, and of all entries together.
    """
    arguments, _ = case.call()
    keys = jax.random.split(jax.random.key(0), REPEATS)
    rows = (None, len(case.x)) if case.y is None else (case.y,)
    ours = np.stack([bridge.predictive(fitted, key, *rows) for key in keys])
    values = bridge.posterior(fitted)
    program = handlers.substitute(case.program, learnt(fitted))

    @jax.jit
    def draw(key):
        predictive = infer.Predictive(program, values, return_sites=[case.observed], parallel=True)
        return predictive(key, *arguments)[case.observed]

    theirs = np.stack([draw(key) for key in jax.random.split(jax.random.PRNGKey(1), REPEATS)])
    if ours.shape != theirs.shape:
        return np.inf
    both = np.concatenate([ours, theirs]).reshape(2 * REPEATS, ours.shape[1], -1)
    ranks = rankdata(both, axis=0) - REPEATS - 0.5
    return max(_z(v[:REPEATS].mean(0) - v[REPEATS:].mean(0)) for v in (ranks, abs(ranks)))


def _z(differences) -> float:
    """The greatest |z| of the means of columns, and of the mean of all; rows are independent."""
    root = np.sqrt(len(differences))
    spread = np.maximum(differences.std(0), differences.std()) + 1e-9
    total = differences.mean(1)
    z = np.append(differences.mean(0) / spread, total.mean() / (total.std(ddof=1) + 1e-9))
    return float(np.nan_to_num(abs(z), nan=np.inf).max() * root)
