"""Conditions of any kind, and families whose params a network gives."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import constraints

import jaxgen
from jaxgen import bijectors, compose, models
from jaxgen.compose import MLP, Conditional
from jaxgen.domains import Circle, Interval, Levels, Positive, Real
from jaxgen.frame import Conditions
from jaxgen.models.gaussian import inverse_of_tril

KEY = jax.random.key(0)
FAMILIES = {
    "full": models.Gaussian(2),
    "diagonal": models.Gaussian(2, "diagonal"),
    "mixture": models.GaussianMixture(2, components=3),
    "bits": models.Bernoulli((2,)),
    "levels": models.Categorical((2,), levels=3),
    "histogram": models.Histogram((3, 4)),
    "positive": compose.Transformed(models.Gaussian(2), bijectors.Positive()),
    "affine": compose.Transformed(models.Gaussian(2), bijectors.Affine()),
    "dequantized": compose.Dequantized(models.Categorical((2,), levels=3)),
    "mixture_of_bits": compose.Mixture(models.Bernoulli((2,)), count=3),
    "product": compose.Product((models.Gaussian(1), models.Categorical((1,), levels=3))),
}


def fitted_start(name, n=500):
    """A model given one number, at its start, with data and the family's own fit."""
    family = FAMILIES[name]
    params = family.init(KEY)
    x = np.asarray(jaxgen.sample(family, params, KEY, n), np.float64)
    y = np.random.default_rng(0).normal(size=n)
    model = Conditional(MLP((), 8), family)
    own = jax.tree_util.tree_map(jnp.asarray, model.init(KEY, x, y))
    return jaxgen.Fitted(model, own), x, y, jaxgen.Fitted(family, own["start"])


@pytest.mark.parametrize("name", FAMILIES)
def test_training_starts_from_the_family_fitted_to_x(name):
    fitted, x, y, family = fitted_start(name)
    np.testing.assert_allclose(fitted.log_prob(x, y), family.log_prob(x), atol=0.3)
    still = jax.tree_util.tree_map(jnp.zeros_like, fitted.params["network"])
    fitted = jaxgen.Fitted(fitted.model, {**fitted.params, "network": still})
    np.testing.assert_allclose(fitted.log_prob(x, y), family.log_prob(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_outputs_of_any_size_give_params_that_are_valid(name):
    """No output of a network makes a NaN, in a score, its gradient or a sample."""
    fitted, x, y, _ = fitted_start(name)
    out = fitted.params["network"]["out"]
    out = {"w": out["w"] * 0, "b": 3e3 * jax.random.normal(KEY, out["b"].shape)}
    wild = {**fitted.params, "network": {**fitted.params["network"], "out": out}}
    own = jaxgen.Fitted(fitted.model, wild)
    scores = np.asarray(own.log_prob(x, y))
    assert not np.isnan(scores).any()
    assert (scores < np.inf).all()
    assert not np.isnan(np.asarray(own.sample(KEY, 100, y[:100]), float)).any()

    def total(params):
        return jnp.where(scores > -np.inf, jaxgen.log_prob(own.model, params, x, y), 0).sum()

    assert all(np.isfinite(g).all() for g in jax.tree_util.tree_leaves(jax.grad(total)(wild)))


def test_units_of_x_and_y_do_not_matter():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(600, 1))
    x = rng.normal(size=(600, 2)) + y
    model = Conditional(MLP((1,), 16), models.Gaussian(2))
    a = jaxgen.fit(model, x, y, key=KEY, epochs=5)
    b = jaxgen.fit(model, x * [1e-5, 1e5] + 3, y * 1e6, key=KEY, epochs=5)
    gap = a.log_prob(x, y) - b.log_prob(x * [1e-5, 1e5] + 3, y * 1e6)
    assert np.abs(gap).max() < 0.05


def test_a_mixture_density_network_reaches_the_entropy():
    """Two branches whose places and widths depend on y: the score is minus the entropy H(x|y)."""
    rng = np.random.default_rng(0)

    def truth(n):
        y = rng.uniform(-2, 2, (n, 1))
        centre, width = np.sin(2 * y) + 2, 0.1 + 0.4 * np.abs(y) / 2
        sign = np.where(rng.uniform(size=(n, 1)) < 0.3, -1, 1)
        x = sign * centre + width * rng.normal(size=(n, 1))
        scores = [
            math.log(share) - 0.5 * ((x - s * centre) / width) ** 2 - np.log(width)
            for share, s in ((0.3, -1), (0.7, 1))
        ]
        return x, y, (np.logaddexp(*scores) - 0.5 * math.log(2 * math.pi)).mean()

    x, y, _ = truth(20_000)
    model = Conditional(MLP((1,)), models.GaussianMixture(1, components=4))
    fitted = jaxgen.fit(model, x, y, key=KEY, epochs=40)
    x, y, best = truth(20_000)
    assert np.asarray(fitted.log_prob(x, y)).mean() > best - 0.05
    assert (np.asarray(fitted.sample(KEY, 9999, [1.0])) < 0).mean() == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("make", [
    lambda domain: models.SplineCoupling(1, 2, 32, y_shape=(2,), y_domain=domain),
    lambda domain: models.MaskedAutoregressive(1, width=32, y_shape=(2,), y_domain=domain),
    lambda domain: Conditional(MLP((2,), 32, y_domain=domain), models.Gaussian(1)),
])  # fmt: skip
def test_a_law_that_depends_on_a_number_and_a_level(make):
    rng = np.random.default_rng(0)

    def truth(n):
        number, level = rng.normal(size=n), rng.integers(0, 4, n)
        shift = np.array([0.0, 5.0, -5.0, 1.0])[level] + number * np.array([1, -1, 2, 0])[level]
        noise = rng.normal(size=n)
        scale = np.array([0.5, 0.1, 1.0, 0.2])[level]
        best = (-0.5 * noise**2 - np.log(scale) - 0.5 * math.log(2 * math.pi)).mean()
        return (shift + scale * noise)[:, None], np.stack([number, level], 1), best

    x, y, _ = truth(8000)
    fitted = jaxgen.fit(make((Real(), Levels(4))), x, y, key=KEY, epochs=40)
    x, y, best = truth(8000)
    assert np.asarray(fitted.log_prob(x, y)).mean() > best - 0.06


def test_names_of_levels_do_not_matter():
    """Levels have no order: renamed, they are fitted as well, and as whole numbers too."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 6000)
    x = rng.permutation(10)[y][:, None] + 0.1 * rng.normal(size=(6000, 1))
    model = Conditional(MLP((), 32, y_domain=Levels(10)), models.Gaussian(1))
    best = -math.log(0.1) - 0.5 * math.log(2 * math.pi * math.e)
    for name in (np.arange(10), rng.permutation(10)):
        fitted = jaxgen.fit(model, x, name[y], key=KEY, epochs=40)
        scores = fitted.log_prob(x, name[y])
        assert np.asarray(scores).mean() == pytest.approx(best, abs=0.05)
        np.testing.assert_array_equal(scores, fitted.log_prob(x, name[y].astype(float)))


def test_what_a_network_is_told_of_each_domain():
    told = Conditions((2, 2), (Circle(0.0, 4.0), Levels(3), Positive(), Real()))
    y = np.array([[[1.0, 2], [math.exp(3.0), 5]], [[3.0, 0], [math.exp(5.0), 9]]])
    params = told.init(y)
    np.testing.assert_allclose(params["shift"][2:], [4, 7])
    np.testing.assert_allclose(params["scale"][2:], [1, 2])
    like = jnp.zeros((0, 2))
    got = told.tell(params, jnp.moveaxis(jnp.asarray(y, jnp.float32), 0, -1), like)
    assert got.shape == (told.count, 2)
    circle, positive, real = got[0::3][:9], got[1::3][:9], got[2::3][:9]
    np.testing.assert_allclose(circle[0], 0)  # waves alone tell a place on a circle
    np.testing.assert_allclose(circle[1:3], [[0, 0], [-1, 1]], atol=1e-6)
    np.testing.assert_allclose(positive, [[-1, 1], *[[0, 0]] * 8], atol=1e-6)
    np.testing.assert_allclose(real, [[-1, 1], *[[0, 0]] * 8], atol=1e-6)
    np.testing.assert_array_equal(got[-3:], [[0, 1], [0, 0], [1, 0]])
    alone = told.tell(params, jnp.asarray(y[0], jnp.float32), jnp.zeros(0))
    np.testing.assert_allclose(alone, got[:, 0], atol=1e-6)


def test_the_support_of_y():
    flow = models.SplineCoupling
    assert flow(2).y_support is None
    assert flow(2, y_shape=(3,)).y_support is None
    label = flow(2, y_shape=(), y_domain=Levels(10))
    assert label.y_domain == (Levels(10),)
    assert label.y_support.event_dim == 0
    np.testing.assert_array_equal(label.y_support(np.array([0, 9, 10, 0.5])), [1, 1, 0, 0])
    grid = Conditional(MLP((2, 2), y_domain=Interval(0, 1)), models.Gaussian(1)).y_support
    assert grid.event_dim == 2
    np.testing.assert_array_equal(grid(np.array([[[0, 1], [0.5, 1]], [[0, 1], [0.5, 2]]])), [1, 0])
    mixed = flow(2, y_shape=(2, 1), y_domain=(Positive(), Levels(2))).y_support
    assert mixed.event_dim == 2
    np.testing.assert_array_equal(mixed(np.array([[[2.0], [1]], [[0.0], [1]]])), [1, 0])
    assert mixed(mixed.feasible_like(np.zeros((5, 2, 1)))).all()
    assert isinstance(mixed, constraints.Constraint)


@pytest.mark.parametrize(("build", "message"), [
    (lambda: models.SplineCoupling(2, domain=Levels(3)), "Levels are for y_domain"),
    (lambda: models.FlowMatching(2, domain=(Real(), Levels(3))), "Levels are for y_domain"),
    (lambda: models.SplineCoupling(2, y_domain=Levels(3)), "y_shape is None"),
    (lambda: models.SplineCoupling(2, y_shape=(3,), y_domain=(Real(),) * 2), "1 entry or 3"),
    (lambda: MLP((3,), y_domain=(Real(),) * 2), "y_domain must have 1 entry or 3"),
    (lambda: Levels(1), "at least 2"),
    (lambda: Conditional(MLP((2,)), models.Box(2)), "no network can give its params"),
    (lambda: Conditional(MLP((2,)), models.SplineCoupling(2)), "SplineCoupling"),
    (lambda: Conditional(MLP((2,)), compose.Mixture(models.KDE(2), 2)), "KDE"),
    (
        lambda: Conditional(MLP((2,)), Conditional(MLP((2,)), models.Gaussian(1))),
        "family must be unconditional",
    ),
])  # fmt: skip
def test_what_cannot_be(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("dim", [1, 3, 8, 9, 16, 37])
def test_the_inverse_of_a_triangle(dim):
    rng = np.random.default_rng(0)
    tril = np.tril(rng.normal(size=(5, 2, dim, dim)) / dim) + np.eye(dim)
    above = np.triu(np.full((dim, dim), 7.0), 1)  # is not read
    got = jax.jit(inverse_of_tril)(jnp.asarray(tril + above, jnp.float32))
    np.testing.assert_allclose(got, np.linalg.inv(tril), atol=1e-5)


def test_wide_gaussians_of_many_rows():
    """Blocks of rows run in threads, where LAPACK's solver came to a standstill."""
    model = Conditional(MLP((2,), 8), models.Gaussian(9))
    fitted = jaxgen.Fitted(model, model.init(KEY))
    y = np.random.default_rng(0).normal(size=(60_000, 2))
    x = fitted.sample(KEY, len(y), y)
    assert np.isfinite(fitted.log_prob(x, y)).all()
