"""Diffusion: densities and draws against closed forms, guidance, levels and errors."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import truncnorm

import jaxgen
from jaxgen import domains, models, networks

KEY = jax.random.key(0)
DIM, SPREAD = 4, 2.0


class OfNormal(networks.Network):
    """The velocity dz/dt given z, of a normal distribution of deviation SPREAD."""

    path: str = "straight"

    def init(self, key, shape):
        return {"none": jnp.zeros(())}

    def apply(self, params, x):
        wave = jax.lax.stop_gradient(x[DIM])  # of the time, whose arccos has no slope at its ends
        z, t = x[:DIM], jnp.arccos(jnp.clip(wave, -1, 1)) / math.pi
        a, b, a_slope, b_slope = t, 1 - t, 1.0, -1.0
        if self.path == "cosine":
            half = math.pi / 2
            a, b = jnp.sin(half * t), jnp.cos(half * t)
            a_slope, b_slope = half * b, -half * a
        return z * (a_slope * a * SPREAD**2 + b_slope * b) / (a**2 * SPREAD**2 + b**2)


def of_normal(**fields):
    """A Diffusion whose velocity is that of the normal distribution, and its params."""
    path = fields.get("path", "straight")
    model = models.Diffusion((DIM,), network=OfNormal(path), steps=64)
    params = model.init(KEY)
    params["network"]["out"] = {"w": jnp.eye(DIM), "b": jnp.zeros((1, DIM))}
    return dataclasses.replace(model, **fields), params


@pytest.mark.parametrize("path", ["straight", "cosine"])
@pytest.mark.parametrize("probes", [2, 8])
def test_the_density_of_a_normal_distribution(path, probes):
    model, params = of_normal(path=path, probes=probes)
    x = SPREAD * np.random.default_rng(0).normal(size=(50, DIM)).astype(np.float32)
    exact = (-0.5 * (x / SPREAD) ** 2 - math.log(SPREAD * math.sqrt(2 * math.pi))).sum(1)
    fitted = jaxgen.Fitted(model, params)
    np.testing.assert_allclose(fitted.log_prob(x), exact, atol=5e-3)
    np.testing.assert_allclose(fitted.pull(x), x / SPREAD, atol=5e-3)
    np.testing.assert_allclose(fitted.push(fitted.pull(x)), x, atol=1e-2)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"solver": "euler"},
        {"path": "cosine", "solver": "euler"},
        {"stochastic": 1.0, "solver": "euler"},
        {"path": "cosine", "stochastic": 0.5, "solver": "euler"},
        {"path": "cosine", "stochastic": 1.0, "solver": "euler"},
    ],
)
def test_draws_of_a_normal_distribution(fields):
    model, params = of_normal(**fields)
    x = np.asarray(jaxgen.Fitted(model, params).sample(KEY, 20_000))
    assert x.std() == pytest.approx(SPREAD, rel=0.04)
    assert abs(np.corrcoef(x.T) - np.eye(DIM)).max() < 0.03


def test_heun_needs_fewer_steps_than_euler():
    start = jax.random.normal(KEY, (100, DIM))
    gaps = []
    for solver in ("euler", "heun"):
        model, params = of_normal(steps=8, solver=solver)
        gaps.append(abs(jaxgen.Fitted(model, params).push(start) - SPREAD * start).mean())
    assert gaps[1] < gaps[0] / 3


def test_guidance_moves_draws_to_what_is_typical_of_y():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 2000)
    x = rng.normal(size=(2000, 1)) + np.where(y, 1.0, -1.0)[:, None]
    model = models.Diffusion(
        (1,), network=networks.MLP(width=32), y_shape=(), y_domain=domains.Levels(2), steps=16
    )
    adam = jaxgen.training.Adam(5e-3)
    fitted = jaxgen.fit(model, x, y, key=KEY, epochs=60, optimizer=adam, progress=False)
    ones = np.ones(4000, int)
    without, plain, guided = (
        np.asarray(fitted.replace(guidance=g).sample(KEY, 4000, ones)) for g in (0.0, 1.0, 3.0)
    )
    assert abs(without.mean()) < 0.5
    assert 1.08 < without.std() < 1.6
    assert plain.mean() == pytest.approx(1, abs=0.2)
    assert plain.std() == pytest.approx(1, rel=0.1)
    assert guided.mean() > plain.mean() + 0.5
    exact = -0.5 * (x[:, 0] - np.where(y, 1, -1)) ** 2 - 0.5 * math.log(2 * math.pi)
    assert fitted.log_prob(x, y).mean() == pytest.approx(exact.mean(), abs=0.05)


def test_images_of_levels():
    rng = np.random.default_rng(0)
    x = rng.binomial(15, np.linspace(0.2, 0.8, 8).reshape(2, 4), (1500, 2, 4))
    model = models.Diffusion((2, 4), 16, networks.MLP(width=32, depth=1), steps=8)
    fitted = jaxgen.fit(model, x, key=KEY, epochs=30, progress=False)
    draws = np.asarray(fitted.sample(KEY, 4000))
    assert draws.dtype == np.int32
    assert draws.min() >= 0
    assert draws.max() <= 15
    np.testing.assert_allclose(draws.mean(0), x.mean(0), atol=0.4)
    np.testing.assert_allclose(draws.std(0), x.std(0), rtol=0.2)
    entropy = -fitted.log_prob(x).mean() / 8
    assert 1.8 < entropy < 2.3  # the entropy of a pixel is about 1.95 nats
    assert np.isneginf(fitted.log_prob(x[:2] + 0.5)).all()
    with pytest.raises(ValueError, match="support"):
        jaxgen.fit(model, x + 2, key=KEY)


def test_black_and_white_pixels_stay_apart():
    x = np.repeat(np.random.default_rng(0).integers(0, 2, 1000), 8).reshape(-1, 8)
    model = models.Diffusion((8,), 2, networks.MLP(width=32, depth=2), steps=16)
    adam = jaxgen.training.Adam(3e-3)
    fitted = jaxgen.fit(model, x, key=KEY, epochs=60, optimizer=adam, progress=False)
    draws = np.asarray(fitted.sample(KEY, 4000))
    # all pixels of an event are equal; uniform noise on [0, 1) would leave .45 of draws mixed
    assert (draws != draws[:, :1]).any(1).mean() < 0.3


@pytest.mark.parametrize("levels", [2, 8, 256])
def test_the_noise_of_levels_is_a_truncated_normal_distribution(levels):
    spread = min(levels / 20, 1)
    exact = truncnorm(-0.5 / spread, 0.5 / spread, 0.5, spread)
    uniform = np.linspace(0.001, 0.999, 99, dtype=np.float32)
    place, log_q = jax.jit(models.diffusion._within, static_argnums=0)(levels, uniform)
    np.testing.assert_allclose(place, exact.ppf(uniform), atol=1e-5)
    np.testing.assert_allclose(log_q, exact.logpdf(exact.ppf(uniform)), atol=1e-4)


@pytest.mark.parametrize("fields", [{"path": "cosine"}, {"levels": 8}, {"levels": None}])
def test_params_depend_on_some_fields(fields):
    fitted = jaxgen.Fitted(models.Diffusion((2,), 4), {})
    assert fitted.replace(steps=4, solver="euler").model.steps == 4
    with pytest.raises(ValueError, match=r"replace: \w+ of Diffusion cannot change"):
        fitted.replace(**fields)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"levels": 1}, "levels must be at least 2, or None; got 1"),
        ({"path": "curved"}, "path must be one of"),
        ({"solver": "rk4"}, "solver must be one of"),
        ({"stochastic": 1.5, "solver": "euler"}, "stochastic must be from 0 to 1"),
        ({"stochastic": 1.0}, "0 unless solver is 'euler'; got 1.0 with solver 'heun'"),
        ({"stochastic": -1.0}, "stochastic must be at least 0"),
        ({"guidance": math.inf}, "guidance must be at least 0 and finite, got inf"),
        ({"guidance": 2.0}, "guidance must be 1 without y_shape, got 2.0"),
        ({"network": networks.MLP((2,))}, "network must have y_shape None"),
        ({"y_domain": domains.Levels(2)}, "y_domain must be None"),
        ({"steps": 0}, "steps must be at least 1"),
    ],
)
def test_bad_fields(fields, text):
    with pytest.raises(ValueError, match=text):
        models.Diffusion((3,), **fields)
