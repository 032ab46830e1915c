"""Functions of one event that vmap runs with the rows on the last axis.

Elementwise work on a network's outputs is several times as fast where rows are contiguous, and
``vmap`` would put them first. A function under ``lanes`` is written for arrays whose features lead
and which may have one more axis, of rows, at the end: ``w @ x`` and ``x[0] + x[1]`` are such.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

_map = jax.tree_util.tree_map


def lanes(function: Callable) -> Callable:
    """``function(params, *rows)``, whose ``vmap`` over rows calls it once, rows last.

    Args:
      function: pure, of a pytree of params and pytrees of arrays, all of one event or all with an
        axis of rows at the end; so are its results.

    Where ``vmap`` is over params, as for an ensemble, it batches the function as usual.
    """

    @functools.wraps(function)
    def call(params, *rows):
        return _batchable(function)(params, *rows)

    return call


def _batchable(function):
    batchable = custom_vmap(function)

    @batchable.def_vmap
    def rule(size, batched, params, *rows):
        by_params, *by_rows = (_any(tree) for tree in batched)
        if by_params:
            axes = tuple(_map(lambda b: 0 if b else None, tree) for tree in batched)
            many = jax.vmap(function, axes)
            # an outer vmap, over rows, is still to come
            out = many(params, *rows) if any(by_rows) else _batchable(many)(params, *rows)
        else:
            pairs = zip(batched, (params, *rows), strict=True)
            _, *last = (_map(functools.partial(_rows_last, size), *pair) for pair in pairs)
            out = _map(lambda v: jnp.moveaxis(v, -1, 0), function(params, *last))
        return out, _map(lambda _: True, out)

    return batchable


def _rows_last(size, batched, v):
    return jnp.moveaxis(v, 0, -1) if batched else jnp.broadcast_to(v[..., None], (*v.shape, size))


def _any(tree):
    return any(jax.tree_util.tree_leaves(tree))
