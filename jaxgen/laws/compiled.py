"""The compiled programs that laws share, one each for a spec and a dtype.

All take the same number of rows, ``BLOCK``, whatever a law asks for: compiling a program takes
longer than running it on more rows. Params, keys, events and conditions are arguments, so other
settings of a model run the same programs.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core import batch
from jaxgen.core.random import draw as draw_noise

BLOCK = 4096  # rows of a program that draws or scores
LEARN = 2048  # rows that a model is started from, or fitted to
FEW = 64  # rows of the laws that compare values

tree_map = jax.tree_util.tree_map
tree_leaves = jax.tree_util.tree_leaves


def in_blocks(program, rows, n: int, block: int = BLOCK):
    """``program(first, *rows)`` over n rows, a block at a time, as NumPy arrays with rows leading.

    Args:
      program: function of the number of a block's first row and of that block's part of each of
        ``rows``, (block, ...); its results are pytrees of arrays with ``block`` rows.
      rows: arrays (n, ...), or None.
      n: number of rows; the last block is filled up with copies of the first row.
    """
    parts = []
    for first in range(0, max(n, 1), block):
        own = [None if v is None else _cut(v, first, block) for v in rows]
        out = program(first, *own)
        parts.append(tree_map(lambda v: np.asarray(v)[: min(block, n - first)], out))  # noqa: B023
    return tree_map(lambda *v: np.concatenate(v) if len(v) > 1 else v[0], *parts)


def _cut(array, first, block):
    part = np.asarray(array[first : first + block])
    if missing := block - len(part):
        like = array[:1] if len(array) else np.zeros((1, *array.shape[1:]), array.dtype)
        part = np.concatenate([part, np.repeat(np.asarray(like), missing, 0)])
    return part


def words(row: int) -> np.ndarray:
    """A row's number as two words, the high one first."""
    return np.array([row >> 32 & 0xFFFFFFFF, row & 0xFFFFFFFF], np.uint32)


@functools.partial(jax.jit, static_argnums=0)
def init(model, key):
    """Params without data."""
    return model.init(key)


@functools.partial(jax.jit, static_argnums=0)
def draw(model, params, key, start, y):
    """The BLOCK events of rows start, start + 1, ...; y (BLOCK, *y_shape) or None."""
    return batch.sample_rows(model, params, key, start, BLOCK, y)


@functools.partial(jax.jit, static_argnums=(0, 4))
def score(model, params, x, y, missing):
    """log p of events x (BLOCK, *event_shape), (BLOCK,); NaN in x may be missing values."""
    return batch.log_prob_rows(model, params, x, y, missing)


@functools.partial(jax.jit, static_argnums=0)
def classify(model, params, x):
    """log p(y|x) of events, (BLOCK, classes)."""
    return batch.classify_rows(model, params, None, x)


@functools.partial(jax.jit, static_argnums=0)
def inside(model, x):
    """Whether the model's support holds each event, (BLOCK,)."""
    return model.support(x)


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def noise_rows(model, key, n, dtype):
    """Noise of rows 0 .. n - 1, rows on a last axis."""
    return draw_noise(model.noise(), key, np.zeros(2, np.uint32), n, dtype)


@functools.partial(jax.jit, static_argnums=0)
def gradients(model, params, x, y):
    """Sums over rows of d log p / d params and of its square, and rows whose gradient has no NaN.

    The last counts the gradient in x too.
    """
    leaves, tree = jax.tree_util.tree_flatten(params)
    floats = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]

    def one(learnt, x, y):
        chosen = [a if f else b for a, b, f in zip(learnt, leaves, floats, strict=True)]
        y = None if y is None else y[None]
        return batch.log_prob_rows(model, jax.tree_util.tree_unflatten(tree, chosen), x[None], y)[0]

    axes = (None, 0, None if y is None else 0)
    learnt = [v if f else jnp.zeros((), x.dtype) for v, f in zip(leaves, floats, strict=True)]
    by_params, by_x = jax.vmap(jax.grad(one, (0, 1)), axes)(learnt, x, y)
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
def slopes(model, chart, params, u, y, along, line):
    """Scores of FEW rows, and their slopes as params move along ``along`` and rows along ``line``.

    Args:
      u, line: (FEW, chart.dim).
      along: a pytree like params.

    Returns:
      Scores and slopes, each (FEW,).
    """

    def one(u, y, line):
        def score(params, u):
            rows = None if y is None else y[None]
            return batch.log_prob_rows(model, params, chart.lift(u)[None], rows)[0]

        value, (by_params, by_u) = jax.value_and_grad(score, (0, 1), allow_int=True)(params, u)
        pairs = zip(tree_leaves(by_params), tree_leaves(along), strict=True)
        moved = [jnp.vdot(g, d) for g, d in pairs if g.dtype != jax.dtypes.float0]
        return value, sum(moved, jnp.vdot(by_u, line))

    return jax.vmap(one, in_axes=(0, None if y is None else 0, 0))(u, y, line)


@functools.partial(jax.jit, static_argnums=0)
def round_trip(model, params, x, y):
    """push(pull(x)) of FEW rows."""
    return batch.push_rows(model, params, batch.pull_rows(model, params, x, y), y)


@functools.partial(jax.jit, static_argnums=(0, 1, 4))
def change_of_variables(model, chart, params, key, dtype, y):
    """Noise z of FEW rows, x = push(z), pull(x), and log|det d pull / dx| at x."""
    z = tree_map(lambda v: jnp.moveaxis(v, -1, 0), noise_rows(model, key, FEW, dtype))
    x = batch.push_rows(model, params, z, y)

    def log_det(u, y):
        def pull(u):
            z = model.pull(params, chart.lift(u), y)
            return jnp.concatenate([leaf.ravel() for leaf in tree_leaves(z)])

        return jnp.linalg.slogdet(jax.jacfwd(pull)(u))[1]

    log_dets = jax.vmap(log_det, (0, None if y is None else 0))(chart.drop(x), y)
    return z, x, batch.pull_rows(model, params, x, y), log_dets
