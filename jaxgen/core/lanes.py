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


def lanes(function: Callable[..., Any], axis: int = -1) -> Callable[..., Any]:
    """Decorator: within ``over_rows``, the function is called once with all rows on the last axis.

    Under a plain ``vmap`` the function is batched as usual. A custom batching rule there would
    prevent a gradient of one event inside the ``vmap``, which JAX cannot differentiate.

    Args:
      function: ``function(params, *rows)``, a pure function of a pytree of params and of pytrees of
        arrays, all of one event or all with a last axis of rows; its results are likewise.
      axis: the axis of rows, -1 or 0; networks of sequences take rows on the first.
    """

    @functools.wraps(function)
    def call(params, *rows):
        return (_batchable(function, axis, axis) if _in_rows.get() else function)(params, *rows)

    return call


def _batchable(function, axis, axis_of_results):
    """The function with a rule for ``vmap``, in which it takes and returns rows on these axes."""
    batchable = custom_vmap(function)

    @batchable.def_vmap
    @standard_promotion
    def rule(size, batched, params, *rows):
        by_params, *by_rows = (_any(tree) for tree in batched)
        if by_params:
            axes = tuple(_map(lambda b: 0 if b else None, tree) for tree in batched)
            many = jax.vmap(function, axes)
            if not any(by_rows):  # an outer vmap, over rows, is still to come
                later = axis_of_results if axis_of_results < 0 else axis_of_results + 1
                many = _batchable(many, axis, later)
            out = many(params, *rows)
        else:
            pairs = zip(batched, (params, *rows), strict=True)
            _, *moved = (_map(functools.partial(_rows_at, axis, size), *pair) for pair in pairs)
            results = function(params, *moved)
            out = _map(lambda v: jnp.moveaxis(v, axis_of_results, 0), results)
        return out, _map(lambda _: True, out)

    return batchable


def _rows_at(axis, size, batched, v):
    v = v if batched else jnp.broadcast_to(v, (size, *v.shape))
    return jnp.moveaxis(v, 0, axis)


def _any(tree):
    return any(jax.tree_util.tree_leaves(tree))
