"""Arrays cut into blocks and joined again: on a CPU by NumPy, as JAX would compile for each n."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_map = jax.tree_util.tree_map


def cut(array, first, size):
    """Rows first .. first + size - 1, padded with copies of a row, as zeros may be impossible."""
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):  # keys cannot leave the device
        return array[np.minimum(np.arange(first, first + size), len(array) - 1)]
    host = on_host(array)
    part = (np.asarray(array) if host else array)[first : first + size]
    if padding := size - len(part):
        xp = np if host else jnp
        like = part[:1] if len(part) else xp.zeros((1, *part.shape[1:]), part.dtype)
        return xp.concatenate([part, like.repeat(padding, 0)])
    return part


def join(parts, n, batch_shape=None):
    """The blocks, each with the slice of its rows that count, as one array (or a pytree of them).

    On a CPU they are joined in host memory, because a program would have to be compiled for each n.
    On an accelerator, where transfers to the host cost more, a program joins them.
    """
    batch_shape = (n,) if batch_shape is None else batch_shape
    first = next(parts)
    keep, block = first
    rows = keep.stop
    if batch_shape == (rows,) and _is_whole(block, n):
        return block
    if not on_host(block):
        blocks = [block, *(block for _, block in parts)]
        joined = _map(lambda *leaves: jnp.concatenate(leaves), *blocks) if blocks[1:] else block
        joined = _map(lambda v: lax.slice_in_dim(v, 0, n), joined)
        return _map(lambda v: v.reshape(*batch_shape, *v.shape[1:]), joined)
    if rows == n:
        joined = _map(lambda v: np.asarray(v)[:n], block)  # a view
    else:
        joined, start = _map(lambda v: _aligned((n, *v.shape[1:]), v.dtype), block), 0
        for keep, piece in itertools.chain([first], parts):
            end = start + keep.stop - (keep.start or 0)
            for whole, part in zip(*map(jax.tree_util.tree_leaves, (joined, piece)), strict=True):
                whole[start:end] = np.asarray(part)[keep]
            start = end
    # jnp.asarray would compile a program for every shape
    return _map(lambda v: jax.device_put(v.reshape(*batch_shape, *v.shape[1:])), joined)


def _is_whole(block, n):
    """Whether a block is the answer, on the default device, with which JAX moves it freely."""
    return all(
        isinstance(leaf, jax.Array) and len(leaf) == n and not leaf.committed
        for leaf in jax.tree_util.tree_leaves(block)
    )


def on_host(tree):
    """Whether NumPy can read the arrays without a copy."""
    leaf = jax.tree_util.tree_leaves(tree)[0]
    return not isinstance(leaf, jax.Array) or next(iter(leaf.devices())).platform == "cpu"


def _aligned(shape, dtype):
    """An empty array, aligned so that a CPU device can use it without a copy."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + 64, np.uint8)
    first = -raw.ctypes.data % 64
    return raw[first : first + size].view(dtype).reshape(shape)
