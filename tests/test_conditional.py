"""Conditions with domains of every type, and families whose params a network computes."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import constraints

import jaxgen
from jaxgen import bijectors, compose, models
from jaxgen.compose import Conditional
from jaxgen.models.normal.matrices import inverse_of_tril
from jaxgen.networks import MLP
from jaxgen.networks.domains import Circle, Interval, Levels, Positive, Real
from jaxgen.networks.frame import Conditions

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


@functools.cache
def started(name, n=500):
    """A model of one condition with initial params, data, and scores by the family alone.

    The initial params contain the family's fit to the data.
    """
    family = FAMILIES[name]
    x = jaxgen.Fitted(family, jax.jit(family.init)(KEY)).sample(KEY, n)
    x, y = np.asarray(x, np.float64), np.random.default_rng(0).normal(size=n)
    model = Conditional(MLP((), 8), family)
    params = jax.tree_util.tree_map(jnp.asarray, model.init(KEY, x, y))
    return model, params, x, y, jaxgen.Fitted(family, params["start"]).log_prob(x)


@functools.partial(jax.jit, static_argnums=0)
def evaluated(model, params, x, y):
    """Scores, the gradient of the sum of the finite ones, and samples."""

    def total(params):
        scores = jaxgen.log_prob(model, params, x, y)
        return jnp.where(scores > -jnp.inf, scores, 0).sum(), scores

    gradient, scores = jax.grad(total, has_aux=True)(params)
    return scores, gradient, jaxgen.sample(model, params, KEY, 100, y[:100])


@pytest.mark.parametrize("name", FAMILIES)
def test_training_starts_from_the_family_fitted_to_x(name):
    model, params, x, y, wanted = started(name)
    gap = np.abs(np.asarray(evaluated(model, params, x, y)[0]) - wanted)
    assert gap.mean() < 0.03
    assert gap.max() < 0.5  # of an event far from the others
    still = {**params, "network": jax.tree_util.tree_map(np.zeros_like, params["network"])}
    np.testing.assert_allclose(evaluated(model, still, x, y)[0], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_outputs_of_any_size_give_params_that_are_valid(name):
    """No output of a network causes a NaN in a score, its gradient or a sample."""
    model, params, x, y, _ = started(name)
    out = jax.tree_util.tree_map(np.zeros_like, params["network"]["out"])
    out["b"] = (3e3 * np.random.default_rng(1).normal(size=out["b"].shape)).astype(np.float32)
    wild = {**params, "network": {**params["network"], "out": out}}
    scores, gradient, drawn = evaluated(model, wild, x, y)
    assert not np.isnan(scores).any()
    assert (scores < np.inf).all()
    assert not np.isnan(np.asarray(drawn, float)).any()
    assert all(np.isfinite(g).all() for g in jax.tree_util.tree_leaves(gradient))


def test_units_of_x_and_y_do_not_matter():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(600, 1))
    x = rng.normal(size=(600, 2)) + y
    model = Conditional(MLP((1,), 16), models.Gaussian(2))
    a = jaxgen.fit(model, x, y, key=KEY, epochs=5)
    other = x * [1e-5, 1e5] + [3e-3, 3]  # float32 still resolves values at 300 deviations from 0
    b = jaxgen.fit(model, other, y * 1e6, key=KEY, epochs=5)
    gap = a.log_prob(x, y) - b.log_prob(other, y * 1e6)
    assert np.abs(gap).max() < 1e-3


def test_a_mixture_density_network_reaches_the_entropy():
    """The score is minus H(x|y) for two branches whose places and widths depend on y."""
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
    fitted = jaxgen.fit(model, x, y, key=KEY, epochs=20)
    x, y, best = truth(20_000)
    assert np.asarray(fitted.log_prob(x, y)).mean() > best - 0.05
    assert (np.asarray(fitted.sample(KEY, 9999, [1.0])) < 0).mean() == pytest.approx(0.3, abs=0.03)


_NUMBER_AND_LEVEL = (Real(), Levels(4))


@pytest.mark.parametrize(("model", "epochs"), [
    (models.SplineCoupling(1, 2, 32, y_shape=(2,), y_domain=_NUMBER_AND_LEVEL), 20),
    (models.MaskedAutoregressive(1, width=32, y_shape=(2,), y_domain=_NUMBER_AND_LEVEL), 20),
    (Conditional(MLP((2,), 32, y_domain=_NUMBER_AND_LEVEL), models.Gaussian(1)), 40),
])  # fmt: skip
def test_a_density_that_depends_on_a_number_and_a_level(model, epochs):
    rng = np.random.default_rng(0)

    def truth(n):
        number, level = rng.normal(size=n), rng.integers(0, 4, n)
        shift = np.array([0.0, 5.0, -5.0, 1.0])[level] + number * np.array([1, -1, 2, 0])[level]
        noise = rng.normal(size=n)
        scale = np.array([0.5, 0.1, 1.0, 0.2])[level]
        best = (-0.5 * noise**2 - np.log(scale) - 0.5 * math.log(2 * math.pi)).mean()
        return (shift + scale * noise)[:, None], np.stack([number, level], 1), best

    x, y, _ = truth(8000)
    fitted = jaxgen.fit(model, x, y, key=KEY, epochs=epochs)
    x, y, best = truth(8000)
    assert np.asarray(fitted.log_prob(x, y)).mean() > best - 0.06


def test_names_of_levels_do_not_matter():
    """Renamed levels, also as integers, give the same fit, because levels have no order."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 6000)
    x = rng.permutation(10)[y][:, None] + 0.1 * rng.normal(size=(6000, 1))
    model = Conditional(MLP((), 32, y_domain=Levels(10)), models.Gaussian(1))
    best = -math.log(0.1) - 0.5 * math.log(2 * math.pi * math.e)
    for name in (np.arange(10), rng.permutation(10)):
        fitted = jaxgen.fit(model, x, name[y], key=KEY, epochs=20)
        scores = fitted.log_prob(x, name[y])
        assert np.asarray(scores).mean() == pytest.approx(best, abs=0.05)
        np.testing.assert_array_equal(scores, fitted.log_prob(x, name[y].astype(float)))


def test_a_network_of_many_features_learns_labels():
    """It learns them before it overfits, though a label is one of many inputs."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 1200)
    x = rng.normal(size=(10, 24))[y] + 2 * rng.normal(size=(1200, 24))
    x, domain = np.clip(x, -9, 9), Interval(-9, 9)
    flow = models.SplineCoupling(24, 2, 32, 1, 4, y_shape=(), y_domain=Levels(10), domain=domain)
    fitted = jaxgen.fit(compose.Labelled(flow, 10), x[:600], y[:600], key=KEY, epochs=30)
    right = np.asarray(fitted.classify(x[600:])).argmax(1) == y[600:]
    assert right.mean() > 0.4


def test_the_encoding_of_each_domain():
    conditions = Conditions((2, 2), (Circle(0.0, 4.0), Levels(3), Positive(), Real()))
    y = np.array([[[1.0, 2], [math.exp(3.0), 5]], [[3.0, 0], [math.exp(5.0), 9]]])
    params = conditions.init(y)
    np.testing.assert_allclose(params["shift"][2:], [4, 7])
    np.testing.assert_allclose(params["scale"][2:], [1, 2])
    encode = jax.jit(lambda y: conditions.encode(params, y, jnp.zeros((0, *y.shape[2:]))))
    got = encode(np.moveaxis(y.astype(np.float32), 0, -1))
    assert got.shape == (conditions.size, 2)
    circle, positive, real = got[0::3][:9], got[1::3][:9], got[2::3][:9]
    np.testing.assert_allclose(circle[0], 0)  # a circle has cosines and sines only
    np.testing.assert_allclose(circle[1:3], [[0, 0], [-1, 1]], atol=1e-6)
    np.testing.assert_allclose(positive, [[-1, 1], *[[0, 0]] * 8], atol=1e-6)
    np.testing.assert_allclose(real, [[-1, 1], *[[0, 0]] * 8], atol=1e-6)
    np.testing.assert_array_equal(got[-3:], [[0, 1], [0, 0], [1, 0]])
    np.testing.assert_allclose(encode(y[0].astype(np.float32)), got[:, 0], atol=1e-6)


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
    (lambda: Conditional(MLP((2,)), models.Box(2)), "does not define modulate"),
    (lambda: Conditional(MLP((2,)), models.SplineCoupling(2)), "SplineCoupling"),
    (lambda: Conditional(MLP((2,)), compose.Mixture(models.KDE(2), 2)), "KDE"),
    (
        lambda: Conditional(MLP((2,)), Conditional(MLP((2,)), models.Gaussian(1))),
        "family must be unconditional",
    ),
])  # fmt: skip
def test_invalid_specs(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("dim", [1, 3, 8, 9, 16, 37])
def test_the_inverse_of_a_triangle(dim):
    rng = np.random.default_rng(0)
    tril = np.tril(rng.normal(size=(5, 2, dim, dim)) / dim) + np.eye(dim)
    above = np.triu(np.full((dim, dim), 7.0), 1)  # not read
    got = jax.jit(inverse_of_tril)(jnp.asarray(tril + above, jnp.float32))
    np.testing.assert_allclose(got, np.linalg.inv(tril), atol=1e-5)


def test_wide_gaussians_of_many_rows():
    """Blocks of rows run in threads, in which LAPACK's solver can deadlock."""
    model = Conditional(MLP((2,), 8), models.Gaussian(9))
    fitted = jaxgen.Fitted(model, jax.jit(model.init)(KEY))
    y = np.random.default_rng(0).normal(size=(60_000, 2))
    x = fitted.sample(KEY, len(y), y)
    assert np.isfinite(fitted.log_prob(x, y)).all()
