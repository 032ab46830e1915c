"""``by_index`` equals a gather of params and a call, for all indices and transformations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.by_index import _SMALL, by_index

K = 5
RNG = np.random.default_rng(0)
WIDTHS = {"gathered": 3, "sorted": 17}  # params are gathered, or rows are sorted
widths = pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
BY_ROW = None, 0, (0, None)


def stack(width):
    w, b = RNG.normal(size=(K, width, width)) / width**0.5, RNG.normal(size=K)
    return {"w": jnp.asarray(w, jnp.float32), "b": jnp.asarray(b, jnp.float32)}


STACKED = {width: stack(width) for width in WIDTHS.values()}


def fn(params, args):
    x, shift = args
    return {"out": params["w"] @ x + shift, "sum": params["b"] * x.sum()}


def gathered(stacked, index, args):
    return fn(jax.tree_util.tree_map(lambda v: v[index], stacked), args)


def chosen(stacked, index, args):
    return by_index(fn, stacked, index, args)


def inputs(n, width):
    x = np.random.default_rng(0).normal(size=(n, width))
    return np.float32(x), np.float32(0.5)


@functools.cache
def both(transformed):
    """One program with the results of ``by_index`` and of the gather, both transformed."""
    return jax.jit(lambda *args: (transformed(chosen)(*args), transformed(gathered)(*args)))


def assert_same(got, wanted):
    for a, b in zip(*map(jax.tree_util.tree_leaves, (got, wanted)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def by_row(function):
    return jax.vmap(function, BY_ROW)


INDICES = {
    "random": RNG.integers(0, K, 37),
    "all one": np.full(37, 3),
    "first and last": np.where(np.arange(37) % 2, 0, K - 1),
    "sorted": np.sort(RNG.integers(0, K, 37)),
    "one row": np.array([2]),
    "fewer rows than choices": np.array([4, 1]),
    "many": RNG.integers(0, K, 5000),
}


def test_widths_are_on_both_sides_of_the_limit():
    gathered, in_tiles = (width**2 + 1 for width in WIDTHS.values())
    assert gathered <= _SMALL < in_tiles


@widths
@pytest.mark.parametrize("name", INDICES)
def test_equals_gather(name, width):
    index = jnp.asarray(INDICES[name], jnp.int32)
    assert_same(*both(by_row)(STACKED[width], index, inputs(len(index), width)))


@widths
def test_unbatched(width):
    x, shift = inputs(1, width)
    assert_same(*both(lambda function: function)(STACKED[width], np.int32(4), (x[0], shift)))


@widths
def test_one_index_for_all_rows(width):
    rows = lambda function: jax.vmap(function, (None, None, (0, None)))  # noqa: E731
    assert_same(*both(rows)(STACKED[width], np.int32(1), inputs(8, width)))


@widths
@pytest.mark.parametrize("stacked_axis", [0, None])
def test_nested_vmap(stacked_axis, width):
    """``vmap`` over an ensemble of params, or over a second axis of rows."""
    x, shift = inputs(12, width)
    x, index = x.reshape(2, 6, width), np.int32(RNG.integers(0, K, (2, 6)))
    stacked = STACKED[width]
    if stacked_axis == 0:
        stacked = jax.tree_util.tree_map(lambda v: np.stack([v, 2 * v]), stacked)
    nested = lambda function: jax.vmap(by_row(function), (stacked_axis, 0, (0, None)))  # noqa: E731
    assert_same(*both(nested)(stacked, index, (x, shift)))


@widths
def test_gradients_of_params_and_args(width):
    index = jnp.asarray(RNG.integers(0, 3, 20), jnp.int32)  # choices 3 and 4 get no rows
    x, shift = inputs(20, width)

    def gradients(function):
        def total(stacked, x):
            out = by_row(function)(stacked, index, (x, shift))
            return (out["out"] ** 2).sum() + out["sum"].sum()

        return jax.grad(total, (0, 1))

    got, wanted = both(gradients)(STACKED[width], x)
    assert_same(got, wanted)
    assert not np.asarray(got[0]["w"][3:]).any()


@widths
def test_forward_mode(width):
    index = jnp.asarray([0, 2, 2], jnp.int32)
    x, shift = inputs(3, width)

    def slope(function):
        row = lambda x: by_row(function)(STACKED[width], index, (x, shift))  # noqa: E731
        return lambda x: jax.jvp(row, (x,), (jnp.ones_like(x),))[1]

    assert_same(*both(slope)(x))


@widths
def test_within_scan(width):
    index = jnp.asarray([0, 2, 2], jnp.int32)
    x, shift = inputs(3, width)

    def three_times(function):
        def step(x, _):
            return by_row(function)(STACKED[width], index, (x, shift))["out"], None

        return lambda x: jax.lax.scan(step, x, length=3)[0]

    assert_same(*both(three_times)(x))
