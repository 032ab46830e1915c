"""``models.Autoregressive`` and its transformer, against sums over all sequences."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgen
from jaxgen import compose, models, networks
from jaxgen.networks import Network, Transformer

TINY = Transformer(8, heads=2, layers=2, expansion=2)
DRAWS = 20_000


class Uncached(Transformer):
    """A transformer that computes all positions anew for each token."""

    takes_rows = False

    def start(self, params, positions, dtype):
        return Network.start(self, params, positions, dtype)

    def step(self, params, cache, x, i):
        return Network.step(self, params, cache, x, i)


@functools.cache
def away(model):
    """Params that are far from the uniform distribution."""
    params = model.init(jax.random.key(0))
    leaves, tree = jax.tree_util.tree_flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [v + 0.7 * jax.random.normal(k, v.shape) for v, k in zip(leaves, keys, strict=True)]
    return tree.unflatten(noisy)


def sequences(model):
    """All vectors of tokens, in the order of ``number``."""
    values = range(model.vocabulary + model.stop)
    return np.array(list(itertools.product(values, repeat=model.event_shape[0])), float)


def number(model, x):
    base = model.vocabulary + model.stop
    return (np.asarray(x) @ base ** np.arange(model.event_shape[0])[::-1]).astype(int)


def scores(model, params, x):
    return np.asarray(jaxgen.Fitted(model, params).log_prob(x), np.float64)


def draws(model, params, n=DRAWS, seed=2):
    return np.asarray(jaxgen.Fitted(model, params).sample(jax.random.key(seed), n))


VARIANTS = {
    "stop": models.Autoregressive(4, 3, TINY),
    "stream": models.Autoregressive(4, 3, TINY, stop=False),
    "windows": models.Autoregressive(5, 2, TINY, window=3),
    "temperature": models.Autoregressive(3, 3, TINY, temperature=0.6),
    "top_k": models.Autoregressive(3, 3, TINY, top_k=2),
    "top_p": models.Autoregressive(3, 3, TINY, top_p=0.8),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_density_is_that_of_the_draws(name):
    model = VARIANTS[name]
    params = away(model)
    p = np.exp(scores(model, params, sequences(model)))
    assert p.sum() == pytest.approx(1, abs=1e-5)
    counts = np.bincount(number(model, draws(model, params)), minlength=len(p))
    assert not counts[p == 0].any()
    error = np.sqrt(DRAWS * p * (1 - p)) + 1
    assert (np.abs(counts - DRAWS * p) / error).max() < 6


@pytest.mark.parametrize("name", ["stop", "windows"])
def test_draws_with_and_without_a_cache_are_equal(name):
    cached = VARIANTS[name]
    fields = {f.name: getattr(TINY, f.name) for f in dataclasses.fields(TINY)}
    uncached = dataclasses.replace(cached, network=Uncached(**fields))
    params = away(cached)
    assert (draws(cached, params, 2000) == draws(uncached, params, 2000)).all()


def test_a_later_window_sees_half_a_window_or_more():
    """The conditionals of a token far from the start depend on the last tokens alone."""
    model, params = VARIANTS["windows"], away(VARIANTS["windows"])
    each = jaxgen.Fitted(model, params).token_log_probs
    x = np.array([[0, 1, 0, 1, 1], [1, 1, 0, 1, 1]])
    one, other = np.asarray(each(x))
    assert one[2] != pytest.approx(other[2], abs=1e-3)  # the first window has all tokens
    # windows of 3 begin at 0, 1 and 2: token 4 depends on tokens 2 and 3
    assert one[3:] == pytest.approx(other[3:], abs=1e-6)
    short = models.Autoregressive(3, 2, TINY)
    wanted = jaxgen.Fitted(short, params).token_log_probs(x[:, 2:])
    assert one[4] == pytest.approx(float(wanted[0, 2]), abs=1e-5)


@pytest.mark.parametrize("name", ["stop", "windows"])
def test_a_prompt_continues_as_draws_that_begin_with_it(name):
    model, params = VARIANTS[name], away(VARIANTS[name])
    fitted = jaxgen.Fitted(model, params)
    part = fitted.given({0: 1, 1: 0})
    assert part.model.prompt == 2
    rest = sequences(part.model)
    whole = np.concatenate([np.tile([1.0, 0.0], (len(rest), 1)), rest], 1)
    first = np.asarray(fitted.marginal([0, 1]).log_prob(whole[:1, :2]))
    possible = np.isfinite(scores(model, params, whole))
    got, wanted = scores(part.model, part.params, rest), scores(model, params, whole) - first
    assert got[possible] == pytest.approx(wanted[possible], abs=1e-5)
    assert (got[~possible] == -np.inf).all()
    drawn = draws(part.model, part.params)
    p = np.exp(got)
    counts = np.bincount(number(part.model, drawn), minlength=len(p))
    assert (np.abs(counts - DRAWS * p) / (np.sqrt(DRAWS * p) + 1)).max() < 6
    again = part.given({0: 1})
    assert np.asarray(again.params["prompt"]).tolist() == [1, 0, 1]


def test_a_prompt_longer_than_a_window():
    model, params = VARIANTS["windows"], away(VARIANTS["windows"])
    part = jaxgen.Fitted(model, params).given({0: 1, 1: 0, 2: 0, 3: 1})
    p = np.exp(scores(part.model, part.params, sequences(part.model)))
    assert p.sum() == pytest.approx(1, abs=1e-5)
    drawn = draws(part.model, part.params)[:, 0].astype(int)
    counts = np.bincount(drawn, minlength=3)
    assert np.abs(counts / DRAWS - p).max() < 0.02


def test_a_prompt_says_something_about_the_label():
    tokens = models.Autoregressive(3, 2, TINY)
    labelled = compose.Labelled(tokens, 2)
    params = away(labelled)
    fitted = jaxgen.Fitted(labelled, params)
    part = fitted.given({0: 1})
    rest = sequences(part.model.model)
    whole = np.concatenate([np.ones((len(rest), 1)), rest], 1)
    possible = np.isfinite(np.asarray(fitted.log_prob(whole)))
    got, wanted = part.classify(rest)[possible], fitted.classify(whole)[possible]
    assert np.asarray(got) == pytest.approx(np.asarray(wanted), abs=1e-4)


def test_features_of_a_position_depend_on_distances_alone():
    """So params serve sequences of any length, and a cache may end anywhere."""
    params, n = away(VARIANTS["stop"])["network"], 150  # a cache is read in parts beyond 64
    x = jax.random.normal(jax.random.key(3), (n, 8))
    apply = jax.jit(TINY.apply)
    far = np.asarray(apply(params, x))
    networks.network.check_causal(TINY, 6)
    assert np.asarray(apply(params, x[:4])) == pytest.approx(far[:4], abs=1e-5)

    @jax.jit
    def by_steps(params, x):
        body = lambda cache, i: TINY.step(params, cache, x[i], i)  # noqa: E731
        return jax.lax.scan(body, TINY.start(params, n, x.dtype), jnp.arange(n))[1]

    assert np.asarray(by_steps(params, x)) == pytest.approx(far, abs=1e-4)


def test_a_mixture_takes_rows_on_the_first_axis():
    """Params on an axis of components, and rows on another."""
    model = VARIANTS["stop"]
    mixture = compose.Mixture(model, 2)
    params = away(mixture)
    x = sequences(model)[::9]
    x = x[np.asarray(model.support(x))]
    component = lambda k: jax.tree_util.tree_map(lambda v: v[k], params["component"])  # noqa: E731
    each = np.stack([scores(model, component(k), x) for k in (0, 1)])
    log_w = np.asarray(jax.nn.log_softmax(params["logits"]))
    wanted = np.logaddexp(*(each + log_w[:, None]))
    assert scores(mixture, params, x) == pytest.approx(wanted, abs=1e-4)
    whole = jaxgen.Fitted(mixture, params)
    tokens = np.asarray(whole.token_log_probs(x))
    assert tokens.sum(1) == pytest.approx(wanted, abs=1e-4)
    first = whole.marginal([0]).log_prob(x[:, :1])
    assert tokens[:, 0] == pytest.approx(np.asarray(first), abs=1e-4)
    labelled = compose.PerClass(model, 2)
    params = {"logits": params["logits"], "model": params["component"]}
    y = np.arange(len(x)) % 2
    tokens = jaxgen.Fitted(labelled, params).token_log_probs(x, y)
    wanted = each[y, np.arange(len(x))]
    assert np.asarray(tokens).sum(1) == pytest.approx(wanted, abs=1e-4)


def test_probability_zero_is_never_drawn():
    probs = jnp.array([0.0, 0.3, 0.0, 0.7, 0.0])
    u = jnp.array([1e-7, 0.29, 0.31, 1 - 2**-24])
    assert models.autoregressive._quantile(jnp.tile(probs, (4, 1)), u).tolist() == [1, 1, 3, 3]


def test_a_fit_learns_an_alternation():
    rng = np.random.default_rng(0)
    x = (np.arange(6) + rng.integers(0, 2, (400, 1))) % 2
    fitted = jaxgen.fit(
        models.Autoregressive(6, 2, TINY, stop=False), x, key=jax.random.key(0), epochs=120
    )
    assert fitted.history["best_score"] > -np.log(2) - 0.1
    drawn = draws(fitted.model, fitted.params, 200)
    assert (drawn[:, 1:] != drawn[:, :-1]).mean() > 0.98


def test_other_values_of_fields():
    fitted = jaxgen.Fitted(VARIANTS["stop"], away(VARIANTS["stop"]))
    assert fitted.replace(temperature=0.6, length=9, window=4).model.length == 9
    with pytest.raises(TypeError, match="no field 'temprature'"):
        fitted.replace(temprature=1.0)
    with pytest.raises(ValueError, match="vocabulary of Autoregressive cannot change"):
        fitted.replace(vocabulary=5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"top_p": 1.5}, r"top_p must be in \(0, 1\], got 1.5"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"window": 1}, "window must be at least 2, got 1"),
        ({"prompt": 4}, "prompt must be from 0 to length - 1, got 4 for length 4"),
        ({"network": 3}, "network must be a Network, got int 3"),
        ({"y_domain": (networks.Transformer(),)}, "y_domain must be"),
    ],
)
def test_fields_that_are_refused(fields, message):
    with pytest.raises((TypeError, ValueError), match=message):
        models.Autoregressive(4, 3, **fields)


def test_events_that_are_refused():
    model = VARIANTS["stop"]
    wanted = "x must hold tokens 0 .. 2, and 3 in all places after the last token; row 1 is outside"
    with pytest.raises(ValueError, match=wanted):
        jaxgen.fit(model, np.array([[0, 1, 3, 3], [0, 3, 1, 3]]), key=jax.random.key(0))
    fitted = jaxgen.Fitted(model, away(model))
    bad = np.array([[0, 3, 1, 3], [0.5, 1, 1, 1], [4, 0, 0, 0], [-1, 0, 0, 0]])
    assert (np.asarray(fitted.log_prob(bad)) == -np.inf).all()
    assert np.isnan(np.asarray(fitted.token_log_probs(bad))).all()
    with pytest.raises(NotImplementedError):
        fitted.given({2: 0})
    with pytest.raises(ValueError, match="Transformer: width must be a multiple of 2 heads = 8"):
        Transformer(12, heads=4)
