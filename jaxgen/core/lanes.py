"""Functions of one event that run with rows on the last axis.

Elementwise work on the outputs of a network is several times as fast if rows are contiguous, but
``vmap`` puts rows on the first axis. A function with the decorator ``lanes`` takes arrays with
features on the first axis and, if there are any, rows on the last, as in ``w @ x`` or
``x[0] + x[1]``.
"""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from jaxgen.core.promotion import standard_promotion

_map = jax.tree_util.tree_map
_in_rows = contextvars.ContextVar("in_rows", default=False)


def over_rows(function: Callable[..., Any], in_axes: Any) -> Callable[..., Any]:
    """``jax.vmap`` over rows, in which ``lanes`` functions get all rows in one call."""

    def marked(*args):
        token = _in_rows.set(True)
        try:
            return function(*args)
        finally:
            _in_rows.reset(token)

    return jax.vmap(marked, in_axes)


def lanes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: within ``over_rows``, the function is called once with all rows on the last axis.

    Under a plain ``vmap`` the function is batched as usual. A custom batching rule there would
    prevent a gradient of one event inside the ``vmap``, which JAX cannot differentiate.

    Args:
      function: ``function(params, *rows)``, a pure function of a pytree of params and of pytrees of
        arrays, all of one event or all with a last axis of rows; its results are likewise.
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
