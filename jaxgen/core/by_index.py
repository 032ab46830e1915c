"""Selection of params by an index, without a copy of params for each row of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap

from jaxgen.core.promotion import standard_promotion

_TILE = 512  # rows of one index: enough for efficient matrix products, with little padding
_SMALL = 256  # for params of at most so many numbers, a copy for each row is faster
_map = jax.tree_util.tree_map


def by_index(fn: Callable[[Any, Any], Any], stacked: Any, index: jax.Array, args: Any) -> Any:
    """``fn(params, args)`` with the params at ``index`` in ``stacked``.

    It is written for one event. Under ``vmap`` over the index, rows are sorted into tiles of equal
    index, so that each tile reads one set of params. Gathering params would copy a network for each
    row, and evaluating all choices would multiply the work. Small params are gathered nevertheless,
    which is three times as fast as sorting.

    Reverse-mode differentiation needs the ``vmap`` inside the ``grad``; the public functions always
    batch.

    Args:
      fn: function of (params, args) for one event.
      stacked: pytree whose leaves have a leading axis of K choices.
      index: integer in [0, K).
      args: pytree of the other inputs of the event.
    """
    stacked = _map(jnp.asarray, stacked)

    @custom_vmap
    def call(stacked, index, args):
        return fn(_map(lambda leaf: leaf[index], stacked), args)

    @call.def_vmap
    @standard_promotion
    def rule(size, batched, stacked, index, args):
        stacked_batched, index_batched, args_batched = batched
        if not any(jax.tree_util.tree_leaves(batched)):  # only tangents are batched
            out = fn(_map(lambda leaf: leaf[index], stacked), args)
            return out, _map(lambda _: False, out)
        axes = _map(lambda b: 0 if b else None, tuple(batched))
        if any(jax.tree_util.tree_leaves(stacked_batched)) or _choice_size(stacked) <= _SMALL:
            # the params differ by row, or are too small to sort for
            gather = jax.vmap(lambda s, i, a: fn(_map(lambda v: v[i], s), a), in_axes=axes)
            out = gather(stacked, index, args)
        elif index_batched:
            out = _sorted_tiles(fn, size, stacked, index, args, args_batched)
        else:
            rows = jax.vmap(fn, in_axes=(None, axes[2]))
            out = by_index(rows, stacked, index, args)
        return out, _map(lambda _: True, out)

    return call(stacked, index, args)


def _choice_size(stacked):
    return sum(leaf[0].size for leaf in jax.tree_util.tree_leaves(stacked))


def _sorted_tiles(fn, size, stacked, index, args, args_batched):
    choices = jax.tree_util.tree_leaves(stacked)[0].shape[0]
    tile = max(1, min(_TILE, size // choices))
    tiles = -(-size // tile) + choices  # each choice may have one partly empty tile
    order, ordered = _sorted(index, choices)
    count = jnp.zeros(choices, jnp.int32).at[index].add(1)
    rank = jnp.arange(size, dtype=jnp.int32) - (jnp.cumsum(count) - count)[ordered]
    last_tile = jnp.cumsum(-(-count // tile))
    first_tile = last_tile - -(-count // tile)
    slot = first_tile[ordered] * tile + rank  # positions of the sorted rows in the tiles
    source = jnp.zeros(tiles * tile, jnp.int32).at[slot].set(order)
    choice = jnp.searchsorted(last_tile, jnp.arange(tiles), side="right").clip(max=choices - 1)
    axes = _map(lambda b: 0 if b else None, args_batched)

    def run(tile_inputs):
        k, rows = tile_inputs
        rows_args = _map(lambda b, a: a[rows] if b else a, args_batched, args)
        return jax.vmap(fn, in_axes=(None, axes))(_map(lambda p: p[k], stacked), rows_args)

    out = lax.map(run, (choice, source.reshape(tiles, tile)))
    where = jnp.zeros(size, jnp.int32).at[order].set(slot)
    return _map(lambda v: v.reshape(tiles * tile, *v.shape[2:])[where], out)


def _sorted(index, choices):
    """The rows in the order of their index, stable, and their index; both int32."""
    size = len(index)
    if choices * size >= 2**32:
        order = jnp.argsort(index, stable=True).astype(jnp.int32)
        return order, index[order].astype(jnp.int32)
    # one array of numbers is sorted many times as fast as pairs of them
    key = jnp.sort(index.astype(jnp.uint32) * np.uint32(size) + jnp.arange(size, dtype=jnp.uint32))
    return (key % np.uint32(size)).astype(jnp.int32), (key // np.uint32(size)).astype(jnp.int32)
