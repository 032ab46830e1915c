"""The engine: runs the pure functions over any number of rows, in compiled blocks of few sizes.

A program is compiled for (spec, dtype, block size) and never for n: rows go through in blocks of
one of a few sizes, the last one padded. Since noise is keyed by row, blocks change no value.
"""

from __future__ import annotations

import functools
import math

import jax
import numpy as np

from jaxgen import batch
from jaxgen.inputs import float_dtype
from jaxgen.random import is_leaf

RUNGS = (64, 512, 4096, 65536)  # block sizes: few, so that few programs are compiled
BLOCK_COST = 512  # rows that take as long as starting a block does
BLOCK_BYTES = 16 * 2**20  # of one block's events and noise: what recycles well in caches


def sample(model, params, key, n, y):
    """n events as one array; y is checked, (n, *y_shape) or None."""

    def block(start, size, rows):
        words = np.array([start >> 32, start & 0xFFFFFFFF], np.uint32)
        return _sample_block(model, params, key, words, size, rows(y))

    return _in_blocks(block, n, block_size(model, params, n, model.noise()))


def log_prob(model, params, x, y, batch_shape):
    """Scores, of the shape batch_shape, of checked events (n, *event_shape)."""

    def block(start, size, rows):
        return _log_prob_block(model, params, rows(x), rows(y))

    return _in_blocks(block, len(x), block_size(model, params, len(x)), batch_shape)


def pull(model, params, x, y):
    """Noise of checked events (n, *event_shape): a pytree with rows leading."""

    def block(start, size, rows):
        return _pull_block(model, params, rows(x), rows(y))

    return _in_blocks(block, len(x), block_size(model, params, len(x)))


def push(model, params, noise, y):
    """Events of noise whose rows lead."""
    n = len(jax.tree_util.tree_leaves(noise)[0])

    def block(start, size, rows):
        return _push_block(model, params, jax.tree_util.tree_map(rows, noise), rows(y))

    return _in_blocks(block, n, block_size(model, params, n))


def block_size(model, params, n: int, noise=()) -> int:
    """The rung, of those within the byte budget, that runs n rows with the least padding."""
    leaves = jax.tree_util.tree_leaves(noise, is_leaf=is_leaf)
    scalars = math.prod(model.event_shape) + sum(
        math.prod(getattr(leaf, "shape", ())) for leaf in leaves
    )
    budget = BLOCK_BYTES // (max(scalars, 1) * float_dtype(params).itemsize)
    fitting = [rung for rung in RUNGS if rung <= budget] or [RUNGS[0]]
    return min(fitting, key=lambda rung: -(-n // rung) * (rung + BLOCK_COST))


def _in_blocks(block, n, size, batch_shape=None):
    """Run ``block(start, size, rows)`` over n rows and join what it returns, without the padding.

    ``rows`` cuts a block's rows out of an array, padded with zeros. All of it is done on the host:
    to slice, join or reshape on the device would compile for every n.
    """
    batch_shape = (n,) if batch_shape is None else batch_shape
    joined = None
    for start in range(0, max(n, 1), size):
        here = min(size, n - start)

        def rows(array, start=start, here=here):
            if array is None:
                return None
            if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):  # stays on the device
                return array[np.minimum(np.arange(start, start + size), len(array) - 1)]
            array = np.asarray(array)[start : start + here]
            return np.pad(array, [(0, size - here)] + [(0, 0)] * (array.ndim - 1))

        out = jax.tree_util.tree_map(np.asarray, block(start, size, rows))
        if joined is None:
            joined = jax.tree_util.tree_map(lambda v: np.empty((n, *v.shape[1:]), v.dtype), out)
        wholes, parts = map(jax.tree_util.tree_leaves, (joined, out))
        for whole, part in zip(wholes, parts, strict=True):
            whole[start : start + here] = part[:here]
    return jax.tree_util.tree_map(
        # not jnp.asarray, which compiles a program for every shape
        lambda whole: jax.device_put(whole.reshape(*batch_shape, *whole.shape[1:])),
        joined,
    )


@functools.partial(jax.jit, static_argnums=(0, 4))
def _sample_block(model, params, key, start, size, y):
    return batch.sample_rows(model, params, key, start, size, y)


@functools.partial(jax.jit, static_argnums=0)
def _log_prob_block(model, params, x, y):
    return batch.log_prob_rows(model, params, x, y)


@functools.partial(jax.jit, static_argnums=0)
def _pull_block(model, params, x, y):
    return batch.pull_rows(model, params, x, y)


@functools.partial(jax.jit, static_argnums=0)
def _push_block(model, params, noise, y):
    return batch.push_rows(model, params, noise, y)
