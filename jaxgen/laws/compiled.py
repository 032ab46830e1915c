"""The compiled programs that laws share: one of each for a spec and a dtype.

Those that draw or score take ``BLOCK`` rows, however many a law needs: compiling another program
takes longer than running one on more rows. Params, keys, events and conditions are arguments, so
other settings of a model run the same programs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core import batch
from jaxgen.core.model import Model, Params
from jaxgen.core.random import draw as draw_noise

BLOCK = 4096  # rows of a program that draws or scores
LEARN = 2048  # rows that a model is initialised with, or fitted to
FEW = 64  # rows of the laws that compare single values

tree_map = jax.tree_util.tree_map
tree_leaves = jax.tree_util.tree_leaves


def in_blocks(program: Callable[..., Any], rows: Sequence[Any], n: int, block: int = BLOCK) -> Any:
    """The results of ``program(first, *block_rows)`` over n rows, as NumPy arrays (n, ...).

    Args:
      program: function of the number of a block's first row, and of the block's part (block, ...)
        of each entry of ``rows``; it returns a pytree of arrays with ``block`` rows.
      rows: arrays (n, ...), or None.
      n: number of rows; the last block is filled up with copies of the first row.
      block: rows of a block.
    """
    parts = []
    for first in range(0, max(n, 1), block):
        cut = [None if v is None else _cut(v, first, block) for v in rows]
        out = program(first, *cut)
        parts.append(tree_map(lambda v: np.asarray(v)[: min(block, n - first)], out))  # noqa: B023
    return tree_map(lambda *v: np.concatenate(v) if len(v) > 1 else v[0], *parts)


def _cut(array, first, block):
    part = np.asarray(array[first : first + block])
    if missing := block - len(part):
        like = array[:1] if len(array) else np.zeros((1, *array.shape[1:]), array.dtype)
        part = np.concatenate([part, np.repeat(np.asarray(like), missing, 0)])
    return part


@functools.partial(jax.jit, static_argnums=0)
def init(model: Model, key: jax.Array) -> Params:
    """``model.init(key)``, the params without data."""
    return model.init(key)


@functools.partial(jax.jit, static_argnums=0)
def draw(model: Model, params: Params, key: jax.Array, start: Any, y: Any) -> jax.Array:
    """Events of BLOCK rows from row ``start``, a ``row_words``; y (BLOCK, *y_shape) or None."""
    return batch.sample_rows(model, params, key, start, BLOCK, y)


@functools.partial(jax.jit, static_argnums=(0, 4))
def score(model: Model, params: Params, x: Any, y: Any, missing: bool) -> jax.Array:
    """log p (BLOCK,) of events x (BLOCK, *event_shape); ``missing``: NaN is a missing one."""
    return batch.log_prob_rows(model, params, x, y, missing)


@functools.partial(jax.jit, static_argnums=0)
def classify(model: Model, params: Params, x: Any) -> jax.Array:
    """log p(y|x) of events x (BLOCK, *event_shape), (BLOCK, classes)."""
    return batch.classify_rows(model, params, None, x)


@functools.partial(jax.jit, static_argnums=0)
def in_support(model: Model, x: Any) -> jax.Array:
    """Whether each event lies in the model's support, (BLOCK,) bool."""
    return model.support(x)


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def noise_rows(model: Model, key: jax.Array, n: int, dtype: Any) -> Any:
    """Noise of rows 0 .. n - 1: a pytree like ``model.noise()``, rows on the last axis."""
    return draw_noise(model.noise(), key, np.zeros(2, np.uint32), n, dtype)


@functools.partial(jax.jit, static_argnums=0)
def gradients(model: Model, params: Params, x: Any, y: Any) -> tuple[Params, Params, jax.Array]:
    """Sums over rows of d log p / d params and of its square, and which rows are free of NaN.

    A row is free of NaN if neither its gradient in params nor the one in x has a NaN.
    """
    leaves, tree = jax.tree_util.tree_flatten(params)
    floats = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]

    def one(float_leaves, x, y):
        chosen = [a if f else b for a, b, f in zip(float_leaves, leaves, floats, strict=True)]
        y = None if y is None else y[None]
        return batch.log_prob_rows(model, jax.tree_util.tree_unflatten(tree, chosen), x[None], y)[0]

    axes = (None, 0, None if y is None else 0)
    float_leaves = [v if f else jnp.zeros((), x.dtype) for v, f in zip(leaves, floats, strict=True)]
    by_params, by_x = jax.vmap(jax.grad(one, (0, 1)), axes)(float_leaves, x, y)
    clean = ~jnp.isnan(by_x).reshape(len(x), -1).any(1)
    for leaf in by_params:
        clean = clean & ~jnp.isnan(leaf).reshape(len(x), -1).any(1)
    sums, squares = [g.sum(0) for g in by_params], [(g * g).sum(0) for g in by_params]
    return (
        jax.tree_util.tree_unflatten(tree, sums),
        jax.tree_util.tree_unflatten(tree, squares),
        clean,
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def directional_derivatives(
    model: Model,
    coordinates: Any,
    params: Params,
    u: Any,
    y: Any,
    params_direction: Params,
    u_direction: Any,
) -> tuple[jax.Array, jax.Array]:
    """Scores of FEW events and the scores' derivatives along a direction, each (FEW,).

    Args:
      coordinates: the ``subject.Coordinates`` of the events.
      u, u_direction: (FEW, coordinates.dim).
      params_direction: a pytree like params.
    """

    def one(u, y, u_direction):
        def score(params, u):
            rows = None if y is None else y[None]
            return batch.log_prob_rows(model, params, coordinates.to_events(u)[None], rows)[0]

        value, (by_params, by_u) = jax.value_and_grad(score, (0, 1), allow_int=True)(params, u)
        pairs = zip(tree_leaves(by_params), tree_leaves(params_direction), strict=True)
        moved = [jnp.vdot(g, d) for g, d in pairs if g.dtype != jax.dtypes.float0]
        return value, sum(moved, jnp.vdot(by_u, u_direction))

    return jax.vmap(one, in_axes=(0, None if y is None else 0, 0))(u, y, u_direction)


@functools.partial(jax.jit, static_argnums=0)
def round_trip(model: Model, params: Params, x: Any, y: Any) -> jax.Array:
    """push(pull(x)) of events x (n, *event_shape)."""
    return batch.push_rows(model, params, batch.pull_rows(model, params, x, y), y)


@functools.partial(jax.jit, static_argnums=(0, 1, 4))
def change_of_variables(
    model: Model, coordinates: Any, params: Params, key: jax.Array, dtype: Any, y: Any
) -> tuple[Any, jax.Array, Any, jax.Array]:
    """Noise z of FEW rows, x = push(z), pull(x), and log|det d pull / dx| at x."""
    z = tree_map(lambda v: jnp.moveaxis(v, -1, 0), noise_rows(model, key, FEW, dtype))
    x = batch.push_rows(model, params, z, y)

    def log_det(u, y):
        def pull(u):
            z = model.pull(params, coordinates.to_events(u), y)
            return jnp.concatenate([leaf.ravel() for leaf in tree_leaves(z)])

        return jnp.linalg.slogdet(jax.jacfwd(pull)(u))[1]

    u = coordinates.from_events(x)
    log_dets = jax.vmap(log_det, (0, None if y is None else 0))(u, y)
    return z, x, batch.pull_rows(model, params, x, y), log_dets


@functools.partial(jax.jit, static_argnums=0)
def bijector_both_ways(
    model: Model, params: Params, x: Any
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The bijector of a model at events x (n, *event_shape), z = inverse(x).

    Returns:
      forward(z) (n, *event_shape), and (n,) each: the log-determinant of ``inverse`` at x, that of
      ``forward`` at z, and that of the derivative of ``forward`` at z, of all entries of x or, on
      the simplex, all but the last.
    """
    assert model.traits.bijector is not None
    forward, inverse = model.traits.bijector

    def one(x):
        z, of_inverse = inverse(params, x)
        back, of_forward = forward(params, z)
        derivative = jax.jacfwd(lambda z: forward(params, z)[0].ravel()[: z.size])(z)
        log_det = jnp.linalg.slogdet(derivative.reshape(z.size, z.size))[1]
        return back, of_inverse, of_forward, log_det

    return jax.vmap(one)(x)
