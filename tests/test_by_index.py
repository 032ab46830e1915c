"""by_index is a gather of params followed by a call, whatever the indices and transformation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.by_index import by_index

K = 5
RNG = np.random.default_rng(0)
STACKED = {
    "w": jnp.asarray(RNG.normal(size=(K, 3, 3)), jnp.float32),
    "b": jnp.asarray(RNG.normal(size=(K,)), jnp.float32),
}


def fn(params, args):
    x, shift = args
    return {"out": params["w"] @ x + shift, "sum": params["b"] * x.sum()}


def gathered(stacked, index, args):
    return fn(jax.tree_util.tree_map(lambda v: v[index], stacked), args)


def chosen(stacked, index, args):
    return by_index(fn, stacked, index, args)


def inputs(n, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(n, 3)), jnp.float32), jnp.float32(0.5)


def assert_same(got, wanted):
    for a, b in zip(*map(jax.tree_util.tree_leaves, (got, wanted)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


INDICES = {
    "random": RNG.integers(0, K, 37),
    "all one": np.full(37, 3),
    "first and last": np.where(np.arange(37) % 2, 0, K - 1),
    "sorted": np.sort(RNG.integers(0, K, 37)),
    "one row": np.array([2]),
    "fewer rows than choices": np.array([4, 1]),
    "many": RNG.integers(0, K, 5000),
}


@pytest.mark.parametrize("name", INDICES)
def test_equals_gather(name):
    index = jnp.asarray(INDICES[name], jnp.int32)
    args = inputs(len(index))
    axes = (None, 0, (0, None))
    got = jax.jit(jax.vmap(chosen, axes))(STACKED, index, args)
    assert_same(got, jax.vmap(gathered, axes)(STACKED, index, args))


def test_unbatched():
    x, shift = inputs(1)
    index = jnp.int32(4)
    assert_same(chosen(STACKED, index, (x[0], shift)), gathered(STACKED, index, (x[0], shift)))


def test_one_index_for_all_rows():
    args = inputs(8)
    axes = (None, None, (0, None))
    index = jnp.int32(1)
    got = jax.vmap(chosen, axes)(STACKED, index, args)
    assert_same(got, jax.vmap(gathered, axes)(STACKED, index, args))


@pytest.mark.parametrize("stacked_axis", [0, None])
def test_nested_vmap(stacked_axis):
    """Over an ensemble of params, or over a second axis of rows."""
    x, shift = inputs(12)
    x, index = x.reshape(2, 6, 3), jnp.asarray(RNG.integers(0, K, (2, 6)), jnp.int32)
    stacked = STACKED
    if stacked_axis == 0:
        stacked = jax.tree_util.tree_map(lambda v: jnp.stack([v, 2 * v]), STACKED)

    def both(f):
        inner = jax.vmap(f, (None, 0, (0, None)))
        return jax.vmap(inner, (stacked_axis, 0, (0, None)))(stacked, index, (x, shift))

    assert_same(both(chosen), both(gathered))


def test_gradients_of_params_and_args():
    index = jnp.asarray(RNG.integers(0, 3, 20), jnp.int32)  # choices 3 and 4 get no rows
    x, shift = inputs(20)

    def loss(f):
        def total(stacked, x):
            out = jax.vmap(f, (None, 0, (0, None)))(stacked, index, (x, shift))
            return (out["out"] ** 2).sum() + out["sum"].sum()

        return jax.jit(jax.grad(total, (0, 1)))(STACKED, x)

    got, wanted = loss(chosen), loss(gathered)
    assert_same(got, wanted)
    assert not np.asarray(got[0]["w"][3:]).any()


def test_forward_mode():
    index = jnp.asarray([0, 2, 2], jnp.int32)
    x, shift = inputs(3)

    def out(f):
        row = lambda x: jax.vmap(f, (None, 0, (0, None)))(STACKED, index, (x, shift))  # noqa: E731
        return jax.jvp(row, (x,), (jnp.ones_like(x),))[1]

    assert_same(out(chosen), out(gathered))


def test_within_scan():
    index = jnp.asarray([0, 2, 2], jnp.int32)
    x, shift = inputs(3)

    def run(f):
        def step(x, _):
            return jax.vmap(f, (None, 0, (0, None)))(STACKED, index, (x, shift))["out"], None

        return jax.lax.scan(step, x, length=3)[0]

    assert_same(run(chosen), run(gathered))
