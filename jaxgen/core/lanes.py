"""Functions of one event that run with the rows on the last axis.

Elementwise work on a network's outputs is several times as fast where rows are contiguous, and
``vmap`` would put them first. A function under ``lanes`` is written for arrays whose features lead
and which may have one more axis, of rows, at the end: ``w @ x`` and ``x[0] + x[1]`` are such.
"""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from jaxgen.core.promotion import standard_promotion

_map = jax.tree_util.tree_map
_in_rows = contextvars.ContextVar("in_rows", default=False)


def over_rows(function: Callable, in_axes) -> Callable:
    """``jax.vmap`` over rows, within which functions under ``lanes`` get all rows at once."""

    def marked(*args):
        token = _in_rows.set(True)
        try:
            return function(*args)
        finally:
            _in_rows.reset(token)

    return jax.vmap(marked, in_axes)


def lanes(function: Callable) -> Callable:
    """``function(params, *rows)``, called once for all rows, on a last axis, under ``over_rows``.

    Args:
      function: pure, of a pytree of params and pytrees of arrays, all of one event or all with an
        axis of rows at the end; so are its results.

    Under a plain ``vmap`` it is batched as usual: JAX cannot differentiate between the function and
    a ``vmap`` that is told how to batch it, and around it may be a gradient of one event.
    """

    @functools.wraps(function)
    def call(params, *rows):
        return (_batchable(function) if _in_rows.get() else function)(params, *rows)

    return call


def _batchable(function):
    batchable = custom_vmap(function)

    @batchable.def_vmap
    @standard_promotion
    def rule(size, batched, params, *rows):
        by_params, *by_rows = (_any(tree) for tree in batched)
        if by_params:
            axes = tuple(_map(lambda b: 0 if b else None, tree) for tree in batched)
            many = jax.vmap(function, axes)
            # an outer vmap, over rows, is still to come
            out = many(params, *rows) if any(by_rows) else lanes(many)(params, *rows)
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
