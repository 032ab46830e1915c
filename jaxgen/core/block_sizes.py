"""The number of rows in a block, which is one of a few, as a program is compiled for each."""

from __future__ import annotations

import functools
import math
import os

import jax

from jaxgen.core import batch
from jaxgen.core.inputs import float_dtype
from jaxgen.core.random import is_leaf

# such that round numbers need little padding
RUNGS = (64, 512, 2048, 10240, 40960, 250880, 1003520)
DEVICE_RUNGS = (2007040, 4014080, 8028160, 16056320, 32112640, 64225280)  # more, of accelerators
LONG_RUNGS = (1, 8)  # more for events so long that few rows fill a block, such as texts
BLOCK_BYTES = 8 * 2**20  # most bytes of a block's events, plus those of its noise if it is stored
DEVICE_BYTES = 2**30  # the same on an accelerator, where starting a block takes long
CACHE_BYTES = 4 * 2**20  # the same for a block within a program, which a CPU's caches should hold
BLOCK_COST = 2**21  # parameters that can be read one by one in the time that starting a block takes
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def block_size(
    model, params, n: int, more: int = 0, draws: bool = False, platform: str = "cpu"
) -> int:
    """The block size within the byte budget that runs n rows with the least padding.

    Args:
      more: scalars that a row takes in addition to its event and its noise.
      draws: whether events are drawn, which takes noise, and for some models far longer than to
        start a block.
      platform: that of the device; on an accelerator as few blocks as possible are best.
    """
    if n == 1 and model.traits.tile is None and model.traits.draw_tile is None:
        return 1  # the answer is the block; a network's products would round in another way
    on_cpu = platform == "cpu"
    most, rungs = (BLOCK_BYTES, RUNGS) if on_cpu else (DEVICE_BYTES, (*RUNGS, *DEVICE_RUNGS))
    fitting = fitting_sizes(model, more, draws, float_dtype(params).itemsize, rungs, most)
    if draws and model.traits.draw_tile is not None:
        # at least one block for each core
        fitting = [rung for rung in fitting if rung * CORES <= n]
        fitting = [model.traits.draw_tile, *fitting]
    elif not on_cpu:
        return min((rung for rung in fitting if rung >= n), default=fitting[-1])
    # most models read each of their parameters once for each row
    numbers = sum(getattr(leaf, "size", 1) for leaf in jax.tree_util.tree_leaves(params))
    cost = min(max(BLOCK_COST // max(numbers, 1), 64), 4096)
    return min(fitting, key=lambda rung: -(-n // rung) * (rung + cost))


@functools.lru_cache
def fitting_sizes(model, more, draws, itemsize, rungs, most):
    """The block sizes of at most so many bytes; ``rungs`` are the usual ones."""
    scalars = math.prod(model.event_shape) + more
    if draws and not batch.is_fused(model):
        leaves = jax.tree_util.tree_leaves(model.noise(), is_leaf=is_leaf)
        scalars += sum(math.prod(getattr(leaf, "shape", ())) for leaf in leaves)
    budget = most // (max(scalars, 1) * itemsize)
    is_long = rungs[0] * math.prod(model.event_shape) * itemsize > most
    rungs = (*LONG_RUNGS, *rungs) if is_long else rungs
    return [rung for rung in rungs if rung <= budget] or [rungs[0]]


def scratch(model, y):
    """Scalars that scoring an event takes, in addition to the event."""
    marginal = y is None and model.classes is not None
    return model.traits.scratch + (model.classes if marginal else 0)
