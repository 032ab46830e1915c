"""Fits and verbs of every family under JAX's debugging settings."""

from __future__ import annotations

import contextlib
import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES

import jaxgen
from jaxgen import Fitted, Model, models, random
from jaxgen.core import block_sizes
from jaxgen.core.model import is_invertible
from jaxgen.core.random import Normal
from jaxgen.laws import compiled, count_compiles
from jaxgen.numpyro import (
    as_distribution,
    estimate,
    latents,
    log_likelihood,
    posterior,
    predictive,
)
from jaxgen.numpyro.program import Program
from jaxgen.numpyro.sites import inspection

KEY = jax.random.key(0)
N = 24
STRICT_DTYPES = {"jax_numpy_dtype_promotion": "strict"}
STRICT_RANKS = {"jax_numpy_rank_promotion": "raise"}
SETTINGS = {"gradient": {"epochs": 2, "batch_size": 16}, "em": {"epochs": 2}}
# for each family, the row that compiles fastest
FAMILIES = (
    "box1", "bit", "level", "gaussian1", "mixture_full", "histogram1", "kde1", "simplex",
    "mixture_of_gaussians", "mixed", "dequantized", "coupling1", "autoregressive_mixture",
    "matching1", "conditional_mixture", "per_class", "program", "program_positive",
    "program_classes",
)  # fmt: skip


class Careless(Model):
    """A normal whose code promotes dtypes and ranks implicitly."""

    event_shape = (2,)

    def init(self, key, x=None, y=None):
        return {"mean": jnp.zeros(2) if x is None else jnp.asarray(x.mean(0), float)}

    def log_prob(self, params, x, y=None):
        z = jnp.ones((2, 1), int) * self.pull(params, x)
        return -0.25 * (z**2).sum() - np.log(2 * np.pi) * jnp.ones((), int)

    def noise(self):
        return Normal((2,))

    def push(self, params, noise, y=None):
        return params["mean"] + jnp.ones(2, int) * noise

    def pull(self, params, x, y=None):
        return x - params["mean"] * jnp.ones(2, int)


@pytest.fixture(scope="module", params=[*FAMILIES, "careless"])
def family(request):
    """A model and one condition; all tests of a family run in succession and share programs."""
    if request.param == "careless":
        return Careless(), None
    case = next(case for case in CASES if case.name == request.param)
    return case.model, case.y


@contextlib.contextmanager
def configured(**settings):
    """A context with these settings of JAX, for all threads."""
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def conditions(model, y):
    """N conditions, or None; for labels, every label in turn."""
    if model.classes is not None:
        return np.arange(N, dtype=np.int32) % model.classes
    return None if y is None else np.broadcast_to(np.asarray(y), (N, *np.shape(y))).copy()


def fitted_to_own_draws(model, y):
    """A fit to samples of the model, and those samples with their conditions."""
    inspection._sites_of.cache_clear()  # so that a program is inspected under the settings, too
    start, y = Fitted(model, compiled.init(model, KEY)), conditions(model, y)
    x = np.asarray(start.sample(KEY, N, y))
    return jaxgen.fit(model, x, y, key=KEY, **SETTINGS.get(model.learning.method, {})), x, y


def ask(fitted, x, y, path):
    """Call every verb that the model has."""
    model = fitted.model
    assert np.isfinite(fitted.log_prob(x, y)).all()
    assert np.isfinite(fitted.sample(KEY, N, y)).all()
    assert sum(map(len, fitted.stream(KEY, N, y))) == N
    if is_invertible(model):
        assert np.isfinite(fitted.push(fitted.pull(x, y), y)).all()
    if model.classes is not None:
        assert np.isfinite(fitted.classify(x)).all()
        assert np.isfinite(fitted.sample(KEY, N)).all()
    if model.learning.missing is not None:
        holes = x.astype(np.float64)
        holes.reshape(N, -1)[:4, 0] = np.nan
        assert np.isfinite(fitted.log_prob(holes, y)).all()
        assert np.isfinite(fitted.impute(holes, KEY, y)).all()
        if model.event_shape == (2,):
            assert np.isfinite(fitted.marginal([1]).sample(KEY, N)).all()
            assert np.isfinite(fitted.given({0: x[0, 0]}).sample(KEY, N)).all()
    if isinstance(model, Program) and y is not None:
        ask_program(fitted, x, y)
    fitted.save(path / "model")
    jaxgen.load(path / "model")


def ask_program(fitted, x, y):
    """Call the functions that are for NumPyro programs only."""
    assert np.isfinite(predictive(fitted, KEY, y)).all()
    assert np.isfinite(log_likelihood(fitted, x, y)).all()
    assert np.isfinite(estimate(fitted, x, y, key=KEY).log_prob).all()
    assert posterior(fitted).keys() == {"slope", "scale"}
    assert latents(fitted, KEY, x, y) == {}


def trace(fitted, x, y):
    """Trace the pure functions under jit, with batches and derivatives."""
    model = fitted.model

    @jax.jit
    def score(params, x, y):
        return jaxgen.log_prob(model, params, x, y).sum()

    @jax.jit
    def draw(params, key, y):
        return jaxgen.sample(model, params, key, N, y)

    def total(params, x, y):
        return jax.vmap(score, (None, 0, None))(params, x, y).sum()

    if isinstance(model, models.KDE):  # takes seconds, and mixtures have the same derivatives
        return
    x, y = jnp.asarray(x, jnp.result_type(float)), None if y is None else jnp.asarray(y)
    jax.eval_shape(jax.grad(total, allow_int=True), fitted.params, jnp.stack([x, x]), y)
    keys = jax.random.split(KEY, 2)
    jax.eval_shape(jax.vmap(draw, (None, 0, None)), fitted.params, keys, y)


def test_no_program_returns_nan(family, tmp_path):
    jax.clear_caches()  # JAX checks only programs that are compiled under the setting
    with configured(jax_debug_nans=True):
        ask(*fitted_to_own_draws(*family), tmp_path)


def test_strict_dtypes(family, tmp_path):
    with configured(**STRICT_DTYPES):
        fit = fitted_to_own_draws(*family)
        ask(*fit, tmp_path)
        trace(*fit)


def test_strict_ranks(family, tmp_path):
    with configured(**STRICT_RANKS):
        fit = fitted_to_own_draws(*family)
        ask(*fit, tmp_path)
        trace(*fit)


def test_no_tracer_leaks(family, tmp_path):
    gc.freeze()  # JAX visits all objects that the garbage collector tracks
    with configured(jax_check_tracer_leaks=True):
        fit = fitted_to_own_draws(*family)
        ask(*fit, tmp_path)
        trace(*fit)


def test_x64(family):
    """With x64, and with strict promotion as well."""
    with configured(jax_enable_x64=True, **STRICT_DTYPES, **STRICT_RANKS):
        fitted, x, y = fitted_to_own_draws(*family)
        leaves = jax.tree_util.tree_leaves(fitted.params)
        assert {leaf.dtype for leaf in leaves} <= {np.dtype(np.float64), np.dtype(np.int32)}
        assert fitted.log_prob(x, y).dtype == np.float64


@pytest.mark.parametrize("setting", [STRICT_DTYPES, STRICT_RANKS], ids=["dtypes", "ranks"])
def test_strict_promotion_beside_the_verbs(setting):
    """Random numbers, NumPyro distributions and the report."""

    def drawn(key, logits):
        for draw in (random.uniform, random.normal, random.exponential, random.gumbel):
            yield draw(key, (3, 2))
        yield random.categorical(key, logits, (7,))
        yield random.permute(key, jnp.arange(5), 5)

    def scored(key, fitted):
        prior = as_distribution(fitted)
        return prior.log_prob(prior.sample(key, (2, 3)))

    with configured(**setting):
        jax.eval_shape(lambda *args: list(drawn(*args)), KEY, jnp.zeros(5))
        fitted, x, _ = fitted_to_own_draws(models.Gaussian(2), None)
        jax.eval_shape(scored, KEY, fitted)
        assert jaxgen.evaluate(fitted, x, key=KEY, n_samples=N).accuracy.coverage > 0


def test_strict_promotion_compiles_nothing_anew():
    fitted, x, _ = fitted_to_own_draws(models.Gaussian(2), None)
    score, draw = fitted.log_prob(x), fitted.sample(KEY, N)
    with configured(**STRICT_DTYPES, **STRICT_RANKS), count_compiles() as count:
        jaxgen.fit(fitted.model, x, key=KEY)
        np.testing.assert_array_equal(score, fitted.log_prob(x))
        np.testing.assert_array_equal(draw, fitted.sample(KEY, N))
    assert count[0] == 0


def test_promotion_is_the_callers_between_the_blocks_of_a_stream(monkeypatch):
    monkeypatch.setattr(block_sizes, "RUNGS", (64,))
    with configured(**STRICT_DTYPES):
        for _ in Fitted(Careless(), {"mean": jnp.zeros(2)}).stream(KEY, 130):
            with pytest.raises(ValueError, match="promotion"):
                jnp.int32(1) + jnp.float32(1)
