"""The engine: answers requests about any number of rows, in compiled blocks of few sizes.

A program is compiled for (spec, dtype, block size) and never for n: rows are processed in blocks of
one of a few sizes, the last block padded. Noise is keyed by row, so neither the blocks nor the
devices that run them change a value. Blocks are small enough for the allocator to reuse the same
memory, on which fast writing depends on a CPU.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec, Sharding

from jaxgen.core import compiler
from jaxgen.core.inputs import float_dtype, has_missing
from jaxgen.core.promotion import standard_promotion
from jaxgen.core.random import is_leaf
from jaxgen.core.verbs import Request

# block sizes: few, as each is compiled, and such that round numbers need little padding
RUNGS = (64, 512, 2048, 10240, 40960, 250880, 1003520)
LONG_RUNGS = (1, 8)  # more sizes for events so long that few rows fill a block, such as texts
BLOCK_BYTES = 8 * 2**20  # largest size of a block's events, plus its noise if that is in memory too
BLOCK_COST = 2**21  # parameters that can be read one by one in the time that starting a block takes
_AHEAD = 2  # blocks that run while another is copied or used
_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

_map = jax.tree_util.tree_map


def run(request: Request, place: jax.Device | Sharding | None = None) -> Any:
    """The answer to a request, its rows joined; place as in ``devices_of``."""
    devices = devices_of(request.params, place)
    answer = _join(_blocks(request, devices), request.n, request.shape)
    return answer if place is None else jax.device_put(answer, place)


@standard_promotion
def stream(request: Request, place: jax.Device | Sharding | None = None) -> Iterator[jax.Array]:
    """The answer to a request in blocks of rows, in order."""
    for rows, block in _blocks(request, devices_of(request.params, place)):
        yield block if rows == len(block) else _join(iter([(rows, block)]), rows)


@standard_promotion
def padded_blocks(
    request: Request, place: jax.Device | Sharding | None = None
) -> Iterator[tuple[int, Any]]:
    """The answer to a request in blocks, each with the number of its rows that count.

    A block may still be computed when it is yielded; the rows beyond those that count are copies.
    """
    yield from _blocks(request, devices_of(request.params, place))


def block_size(model, params, n: int, noise=(), more: int = 0, draws: bool = False) -> int:
    """The block size within the byte budget that runs n rows with the least padding.

    Args:
      noise: the noise of one event, if it is drawn.
      more: scalars that a row takes in addition to its event and its noise.
      draws: whether events are drawn, which for some models takes far longer than to start a block.
    """
    scalars = math.prod(model.event_shape) + more
    if not model.traits.elementwise:
        leaves = jax.tree_util.tree_leaves(noise, is_leaf=is_leaf)
        scalars += sum(math.prod(getattr(leaf, "shape", ())) for leaf in leaves)
    itemsize = float_dtype(params).itemsize
    budget = BLOCK_BYTES // (max(scalars, 1) * itemsize)
    is_long = RUNGS[0] * math.prod(model.event_shape) * itemsize > BLOCK_BYTES
    rungs = (*LONG_RUNGS, *RUNGS) if is_long else RUNGS
    fitting = [rung for rung in rungs if rung <= budget] or [rungs[0]]
    if draws and model.traits.draw_tile is not None:
        # at least one block for each core
        fitting = [rung for rung in fitting if rung * _CORES <= n]
        fitting = [model.traits.draw_tile, *fitting]
    # most models read each of their parameters once for each row
    numbers = sum(np.size(leaf) for leaf in jax.tree_util.tree_leaves(params))
    cost = min(max(BLOCK_COST // max(numbers, 1), 64), 4096)
    return min(fitting, key=lambda rung: -(-n // rung) * (rung + cost))


def devices_of(params: Any, place: jax.Device | Sharding | None = None) -> tuple[jax.Device, ...]:
    """The devices to run on: those of ``place``, else those that the params are committed to, else
    all local ones."""
    if place is not None:
        return tuple(_addressable(place)) if isinstance(place, Sharding) else (place,)
    for leaf in jax.tree_util.tree_leaves(params):
        if isinstance(leaf, jax.Array) and leaf.committed:
            return tuple(_addressable(leaf.sharding))
    chosen = jax.config.values["jax_default_device"]
    return _default_device() if chosen is not None else tuple(jax.local_devices())


def _default_device():
    default = jax.config.values["jax_default_device"]
    if isinstance(default, jax.Device):
        return (default,)
    return tuple(jax.local_devices(backend=default)[:1])  # a platform's name, or None


def _addressable(sharding):
    return sorted(sharding.addressable_devices, key=lambda device: device.id)


def _blocks(request, devices):
    """Yield (number of rows that count, result) of each block of the answer, in order.

    ``shared`` goes to every block whole; of the values and y each block gets its rows. With several
    devices one step runs a block on each of them.
    """
    verb, model, params, shared, values, y, n, _, start = request
    noise = model.noise() if verb.draws else ()
    more = _scratch(model, y) if verb.scores else 0
    size = block_size(model, params, n, noise, more, verb.draws)
    by_missing = verb.missing is not None and model.learning.missing is not None
    function = verb.missing if by_missing and has_missing(values) else verb.rows
    rows, shared = (values, y), (params, shared)
    devices = devices if n > size else devices[:1]
    program = _program(devices)
    if len(devices) == 1 and devices != _default_device():
        shared = jax.device_put(shared, devices[0])
    step = size * len(devices)
    under_way: collections.deque[tuple[int, Any]] = collections.deque()
    threads = _threads(model, devices) if n > step else None
    ahead = max(_AHEAD, _CORES) if threads else _AHEAD
    for first in range(0, max(n, 1), step):
        starts = [start + first + i * size for i in range(len(devices))]
        words = np.array([[s >> 32 & 0xFFFFFFFF, s & 0xFFFFFFFF] for s in starts], np.uint32)
        cut = _map(functools.partial(_cut, first=first, size=step), rows)
        arguments = function, model, size, shared, (words, cut)
        # the first block compiles the program for all
        block = _start(program, arguments, None if first == 0 else threads)
        under_way.append((min(step, n - first), block))
        if len(under_way) > ahead:
            yield _finished(*under_way.popleft())
    for rows_and_block in under_way:
        yield _finished(*rows_and_block)


def _start(program, arguments, threads):
    if threads is not None:
        with contextlib.suppress(RuntimeError):  # no thread starts while the interpreter ends
            return threads.submit(_run, program, arguments)
    return program(*arguments)


@standard_promotion  # as in the calling thread
def _run(program, arguments):
    return jax.block_until_ready(program(*arguments))


def _finished(rows, block):
    return rows, block.result() if isinstance(block, Future) else block


def _threads(model, devices) -> ThreadPoolExecutor | None:
    """Threads that run one block each, for a network on a CPU; None if they are not needed.

    A network's tiles are too small for XLA to spread over cores, and JAX runs the calls of one
    thread in order. Also None if the calling thread has settings of its own, such as
    ``with jax.enable_x64(True)``.
    """
    if model.traits.tile is None or len(devices) > 1 or devices[0].platform != "cpu":
        return None
    threads = _thread_pool()
    settings = _start(lambda: jax.config.values, (), threads)
    settings = settings.result() if isinstance(settings, Future) else None
    return threads if settings == jax.config.values else None


@functools.cache
def _thread_pool():
    return ThreadPoolExecutor(_CORES, "jaxgen")


def _cut(array, first, size):
    """Rows first .. first + size - 1, padded with copies of a row, as zeros may be impossible."""
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):  # keys cannot leave the device
        return array[np.minimum(np.arange(first, first + size), len(array) - 1)]
    host = _on_host(array)
    part = (np.asarray(array) if host else array)[first : first + size]
    if padding := size - len(part):
        xp = np if host else jnp
        like = part[:1] if len(part) else xp.zeros((1, *part.shape[1:]), part.dtype)
        return xp.concatenate([part, like.repeat(padding, 0)])
    return part


def _join(parts, n, batch_shape=None):
    """The blocks as one array (or a pytree of them), without the padding.

    On a CPU they are joined in host memory, because a program would have to be compiled for each n.
    On an accelerator, where transfers to the host cost more, a program joins them.
    """
    batch_shape = (n,) if batch_shape is None else batch_shape
    first = next(parts)
    rows, block = first
    if not _on_host(block):
        blocks = [block, *(block for _, block in parts)]
        joined = _map(lambda *leaves: jnp.concatenate(leaves)[:n], *blocks)
        return _map(lambda v: v.reshape(*batch_shape, *v.shape[1:]), joined)
    if rows == n:
        joined = _map(lambda v: np.asarray(v)[:n], block)  # a view
    else:
        joined, start = _map(lambda v: _aligned((n, *v.shape[1:]), v.dtype), block), 0
        for count, piece in itertools.chain([first], parts):
            for whole, part in zip(*map(jax.tree_util.tree_leaves, (joined, piece)), strict=True):
                whole[start : start + count] = np.asarray(part)[:count]
            start += count
    # jnp.asarray would compile a program for every shape
    return _map(lambda v: jax.device_put(v.reshape(*batch_shape, *v.shape[1:])), joined)


def _scratch(model, y):
    """Scalars that scoring an event takes, in addition to the event."""
    marginal = y is None and model.classes is not None
    return model.traits.scratch + (model.classes if marginal else 0)


def _on_host(tree):
    """Whether NumPy can read the arrays without a copy."""
    leaf = jax.tree_util.tree_leaves(tree)[0]
    return not isinstance(leaf, jax.Array) or next(iter(leaf.devices())).platform == "cpu"


def _aligned(shape, dtype):
    """An empty array, aligned so that a CPU device can use it without a copy."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + 64, np.uint8)
    first = -raw.ctypes.data % 64
    return raw[first : first + size].view(dtype).reshape(shape)


@functools.cache
def _program(devices: tuple[jax.Device, ...]) -> Callable[..., Any]:
    """``_block``, compiled to run on each of the devices."""
    if len(devices) == 1:
        return compiler.jit(_block, static_argnums=(0, 1, 2))
    mesh = Mesh(np.array(devices), ("rows",))
    every, split = PartitionSpec(), PartitionSpec("rows")

    def spread(function, model, size, shared, rows):
        one = functools.partial(_block, function, model, size)
        each = jax.shard_map(
            one, mesh=mesh, in_specs=(every, split), out_specs=split, check_vma=False
        )
        return each(shared, rows)

    return compiler.jit(spread, static_argnums=(0, 1, 2))


def _block(function, model, size, shared, rows):
    """The results of one block of rows, by the function of a verb."""
    (params, shared), (start, (values, y)) = shared, rows
    return function(model, params, shared, start[0], size, values, y)
