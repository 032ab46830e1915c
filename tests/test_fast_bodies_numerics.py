"""Helpers of the fast methods: powers of two, values computed once, and elementwise noise."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgen
from jaxgen.core import numerics
from jaxgen.core.batch import log_prob_rows
from jaxgen.core.precision import enable_x64
from jaxgen.models import KDE, Bernoulli, Box, Gaussian, GaussianMixture, Histogram

pytestmark = pytest.mark.optimized

KEY = jax.random.key(5)
tree_map = jax.tree_util.tree_map


def test_exp2():
    x = np.linspace(-130, 0, 200_001, dtype=np.float32)
    x = np.concatenate([x, np.arange(-130, 1), [-np.inf, -1e30]]).astype(np.float32)
    exp2 = jax.jit(numerics.exp2)
    power = np.asarray(exp2(x))
    assert power.dtype == np.float32
    np.testing.assert_allclose(
        power, 2.0 ** np.maximum(x, -126).astype(np.float64), rtol=2.4e-7
    )  # two units in the last place
    with enable_x64(True):
        exact = x.astype(np.float64)
        np.testing.assert_allclose(exp2(exact), 2.0**exact, rtol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradient_of_exp2(dtype):
    @jax.jit
    def slopes(x):
        _, forward = jax.jvp(numerics.exp2, (x,), (jnp.ones_like(x),))
        return jax.vmap(jax.grad(numerics.exp2))(x), forward

    x = np.linspace(-125, 0, 1001).astype(dtype)
    with enable_x64(True):
        slope, forward = slopes(x)
    assert slope.dtype == dtype
    wanted = np.log(2) * 2.0 ** x.astype(np.float64)
    np.testing.assert_allclose(slope, wanted, rtol=3e-7 if dtype == np.float32 else 1e-13)
    np.testing.assert_array_equal(forward, slope)


VALUES = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": (np.array([3, 2**32 - 1], np.uint32),),
}
computed_once = jax.jit(numerics.computed_once)


@pytest.mark.parametrize(
    "witness", [0, 3, 0.5, -7.0, np.inf, -np.inf, np.nan, np.uint32(2**32 - 1)]
)
def test_computed_once_is_the_identity(witness):
    """For every witness, with and without jit."""
    for function in (numerics.computed_once, computed_once):
        got = function(VALUES, jnp.asarray(witness))
        for a, b in zip(*map(jax.tree_util.tree_leaves, (got, VALUES)), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)], ids=str)
def test_computed_once_under_transformations(axes):
    """It is the identity, with slope 1, whether values, witness or both are batched."""
    values = np.arange(12, dtype=np.float32)
    values = jnp.asarray(values.reshape(4, 3) if axes[0] == 0 else values[:3])
    witness = jnp.asarray(np.float32([0, 1, 2, 3]) if axes[1] == 0 else np.float32(2))
    wanted = np.broadcast_to(values, (4, 3))
    mapped = jax.vmap(numerics.computed_once, axes)
    for function in (mapped, jax.jit(mapped)):
        np.testing.assert_array_equal(function(values, witness), wanted)

    def loss(values, witness):
        return (mapped(values, witness) ** 2).sum()

    @jax.jit
    def slopes(values, witness):
        _, forward = jax.jvp(lambda v: mapped(v, witness), (values,), (jnp.ones_like(values),))
        return *jax.grad(loss, (0, 1))(values, witness), forward

    wanted = (2 if axes[0] == 0 else 8) * np.asarray(values)
    by_values, by_witness, slope = slopes(values, witness)
    np.testing.assert_array_equal(by_values, wanted)
    np.testing.assert_array_equal(by_witness, 0)
    np.testing.assert_array_equal(slope, 1)


ELEMENTWISE = {
    "box": Box(2),
    "odd box": Box(3),
    "diagonal": Gaussian(4, "diagonal"),
    "full": Gaussian(4),
    "bits": Bernoulli((3, 2)),
    "histogram": Histogram((3, 4)),
    "mixture": GaussianMixture(2, components=20),
    "kde": KDE(2),
}


def with_traits(model, **traits):
    kind = type(type(model).__name__, (type(model),), {"traits": model.traits._replace(**traits)})
    return kind(**{field.name: getattr(model, field.name) for field in dataclasses.fields(model)})


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_is_only_for_speed(name):
    """Both values of the trait give the same events."""
    model = ELEMENTWISE[name]
    params = jax.jit(lambda key: tree_map(lambda leaf: leaf + 0.25, model.init(key)))(KEY)
    drawn = []
    for value in (False, True):
        twin = with_traits(model, elementwise=value)
        assert twin.traits.elementwise is value
        drawn.append(jax.jit(lambda p, twin=twin: jaxgen.sample(twin, p, KEY, 1000))(params))
    np.testing.assert_array_equal(*drawn)
    assert len(np.unique(drawn[0], axis=0)) > 50 or name == "bits"


GUARDED = {
    "diagonal": (
        Gaussian(20, "diagonal"),
        {"mean": np.arange(20), "scale": np.linspace(0.1, 9, 20)},
    ),
    "spherical": (Gaussian(20, "spherical"), {"mean": np.arange(20), "scale": 2}),
    "bits": (Bernoulli((20,)), {"logits": np.r_[-np.inf, np.inf, np.linspace(-9, 9, 18)]}),
}
ODD_VALUES = [0, 1, 0.5, -1, 1e-30, 1e18, -1e30, 3e38, np.inf, -np.inf, np.nan]


@pytest.mark.parametrize("name", GUARDED)
def test_guarded_is_only_for_speed(name):
    """Scores and gradients are those of a model that gets finite rows only."""
    model, params = GUARDED[name]
    params = tree_map(np.float32, params)
    x = np.tile(np.float32(np.arange(20) % 2), (2 * len(ODD_VALUES) + 1, 1))
    x[: len(ODD_VALUES), 3] = x[len(ODD_VALUES) : -1, 19] = ODD_VALUES
    x[-1, :2] = np.inf, np.nan
    assert model.traits.guarded

    def results(twin):
        def loss(params, x):
            scores = log_prob_rows(twin, params, x, None)
            return jnp.where(jnp.isfinite(scores), scores, 0).sum(), scores

        return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, x)

    got, wanted = results(model), results(with_traits(model, guarded=False))
    tree_map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, wanted)
    assert np.isnan(got[1]).sum() == 3
