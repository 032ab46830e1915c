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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec, Sharding

from jaxgen.core import batch, block_sizes, compiler, host_arrays
from jaxgen.core.inputs import float_dtype, has_missing
from jaxgen.core.promotion import standard_promotion
from jaxgen.core.random import later, row_words
from jaxgen.core.tracing import is_tracing
from jaxgen.core.verbs import Request, either, run_traced

_AHEAD = 2  # blocks that run while another is copied or used
_RECYCLED_BYTES = 32 * 2**20  # size up to which a CPU's allocator reuses memory
_map = jax.tree_util.tree_map
_empty: Any = getattr(lax, "empty", None)  # of newer JAX
_config: Any = jax.config


def is_traced(request: Request) -> bool:
    """Whether a request is made within a JAX transformation."""
    return is_tracing(request.params, request.shared, request.values, request.y)


def answer(request: Request, place: jax.Device | Sharding | None = None) -> Any:
    """The answer to a request: within a transformation a part of its program, which ignores
    ``place``; else as ``run`` gives it."""
    return run_traced(request) if is_traced(request) else run(request, place)


def run(request: Request, place: jax.Device | Sharding | None = None) -> Any:
    """The answer to a request, its rows joined; place as in ``devices_of``."""
    devices = devices_of(request.params, place)
    whole = _in_one_call(request, devices)
    blocks = _blocks(request, devices) if whole is None else iter([(request.n, whole)])
    answer = host_arrays.join(blocks, request.n, request.shape)
    return answer if place is None else jax.device_put(answer, place)


@standard_promotion
def stream(request: Request, place: jax.Device | Sharding | None = None) -> Iterator[jax.Array]:
    """The answer to a request in blocks of rows, in order."""
    for rows, block in _blocks(request, devices_of(request.params, place)):
        yield block if rows == len(block) else host_arrays.join(iter([(rows, block)]), rows)


@standard_promotion
def padded_blocks(
    request: Request, place: jax.Device | Sharding | None = None
) -> Iterator[tuple[int, Any]]:
    """The answer to a request in blocks, each with the number of its rows that count.

    A block may still be computed when it is yielded; the rows beyond those that count are copies.
    """
    yield from _blocks(request, devices_of(request.params, place))


def devices_of(params: Any, place: jax.Device | Sharding | None = None) -> tuple[jax.Device, ...]:
    """The devices to run on: those of ``place``, else those that the params are committed to, else
    all local ones."""
    if place is not None:
        return tuple(_addressable(place)) if isinstance(place, Sharding) else (place,)
    for leaf in jax.tree_util.tree_leaves(params):
        if isinstance(leaf, jax.Array) and leaf.committed:
            return tuple(_addressable(leaf.sharding))
    chosen = _config.jax_default_device
    return _default_device() if chosen is not None else tuple(jax.local_devices())


def _default_device():
    default = _config.jax_default_device
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
    more = block_sizes.scratch(model, y) if verb.scores else 0
    platform = devices[0].platform
    size = block_sizes.block_size(model, params, n, more, verb.draws, platform)
    function = _function(verb, model, values)
    rows, shared = (values, y), (params, shared)
    devices = devices if n > size else devices[:1]
    program = _program(devices)
    if len(devices) == 1 and devices != _default_device():
        shared = jax.device_put(shared, devices[0])
    step = size * len(devices)

    def arguments(first):
        starts = [start + first + i * size for i in range(len(devices))]
        words = np.array([[s >> 32 & 0xFFFFFFFF, s & 0xFFFFFFFF] for s in starts], np.uint32)
        words = words if platform == "cpu" else jax.device_put(words)  # no implicit transfer
        cut = _map(functools.partial(host_arrays.cut, first=first, size=step), rows)
        return min(step, n - first), (function, model, size, shared, (words, cut))

    each = map(arguments, range(0, max(n, 1), step))
    run_blocks = _in_threads if n > step and _needs_threads(model, devices) else _in_turn
    yield from run_blocks(program, each)


def _in_turn(program, each):
    """Yield the results of a program for (rows, arguments), of which few are under way."""
    under_way: collections.deque[tuple[int, Any]] = collections.deque()
    for rows, arguments in each:
        under_way.append((rows, program(*arguments)))
        if len(under_way) > _AHEAD:
            yield under_way.popleft()
    yield from under_way


def _needs_threads(model, devices) -> bool:
    """Whether blocks run faster in threads, one on each core of a CPU.

    A network's tiles are too small for XLA to spread over cores, and JAX runs the calls of one
    thread in order.
    """
    return model.traits.tile is not None and len(devices) == 1 and devices[0].platform == "cpu"


def _in_threads(program, each):
    """``_in_turn``, but each call runs in one of several threads.

    A thread does not run a call whose caller has settings of its own, such as
    ``with jax.enable_x64(True)``; then this one does.
    """
    threads, settings = _thread_pool(), _settings()
    ahead = max(_AHEAD, block_sizes.CORES)
    under_way: collections.deque[tuple[int, Any, Any]] = collections.deque()

    def start(rows, arguments):
        block = None
        with contextlib.suppress(RuntimeError):  # no thread starts while the interpreter ends
            block = threads.submit(_run, program, arguments, settings)
        under_way.append((rows, arguments, block))

    def finish():
        rows, arguments, block = under_way.popleft()
        block = None if block is None else block.result()
        return rows, program(*arguments) if block is None else block

    first = next(each)
    if not _ran_before(first[1]):  # the first call compiles the program for all
        yield first[0], program(*first[1])
        first = None
    # cut before the threads start, which hold Python's lock at times
    for block in [] if first is None else [first, *itertools.islice(each, ahead - 1)]:
        start(*block)
    for block in each:
        start(*block)
        if len(under_way) > ahead:
            yield finish()
    while under_way:
        yield finish()


@standard_promotion  # as in the calling thread
def _run(program, arguments, settings):
    return jax.block_until_ready(program(*arguments)) if _settings() == settings else None


def _settings() -> tuple[Any, ...]:
    """JAX's settings that may differ between threads."""
    return tuple(getattr(jax.config, name) for name in _names_of_settings())


@functools.cache
def _names_of_settings() -> tuple[str, ...]:
    # those that JAX has context managers for
    names = [n for n in jax.config.values if callable(getattr(jax, n.removeprefix("jax_"), None))]
    return tuple({"jax_enable_x64": None, **dict.fromkeys(names)})


def _function(verb, model, values):
    """The function of a verb for the values, which may hold missing ones."""
    if verb.missing is None or model.learning.missing is None:
        return verb.rows
    if host_arrays.on_host(values):
        return verb.missing if has_missing(values) else verb.rows
    return either(verb)


def _in_one_call(request, devices):
    """A draw on a CPU by one program, in an array of more rows; None where blocks are better.

    The program loops over blocks, writes each to its place, and leaves the rows beyond the last
    block as they are. So no block is copied, and few programs serve all n.
    """
    verb, model, params, key, values, y, n, _, start = request
    if not verb.draws or values is not None or y is not None or len(devices) > 1:
        return None
    traits, on_cpu = model.traits, devices == _default_device() and devices[0].platform == "cpu"
    if not on_cpu or traits.tile or traits.draw_tile or batch.is_fused(model) or _empty is None:
        return None
    itemsize = float_dtype(params).itemsize
    limits = block_sizes.RUNGS, block_sizes.CACHE_BYTES
    size = block_sizes.fitting_sizes(model, 0, True, itemsize, *limits)[-1]
    capacity = size * 2 ** max(math.ceil(math.log2(max(n, 1) / size)), 0)
    if not size < n or capacity * math.prod(model.event_shape) * itemsize > _RECYCLED_BYTES:
        return None
    arguments = params, key, row_words(start), np.int32(n)
    return _whole_program()(verb.rows, model, size, capacity, *arguments)


@functools.cache
def _whole_program():
    return compiler.jit_on("cpu", _whole, static_argnums=(0, 1, 2, 3))


def _whole(function, model, size, capacity, params, key, start, n):
    """Rows of a draw in arrays of ``capacity`` rows, of which at least the first n are drawn."""

    @jax.jit  # is traced once, though it is called twice
    def block(i):
        first = jnp.stack(later(start, i.astype(jnp.uint32) * np.uint32(size)))
        return function(model, params, key, first, size, None, None)

    def write(i, arrays):
        put = lambda a, v: lax.dynamic_update_slice_in_dim(a, v, i * size, 0)  # noqa: E731
        return _map(put, arrays, block(i))

    shapes = jax.eval_shape(block, jax.ShapeDtypeStruct((), jnp.int32))
    arrays = _map(lambda v: _empty((capacity, *v.shape[1:]), v.dtype), shapes)
    return lax.fori_loop(0, -(-n // size), write, arrays)


def _ran_before(arguments: tuple[Any, ...]) -> bool:
    """Whether a call with arguments of these shapes has been made before, so that it compiles
    nothing."""
    leaves, structure = jax.tree_util.tree_flatten(arguments[3:])
    shapes = tuple((np.shape(leaf), getattr(leaf, "dtype", type(leaf))) for leaf in leaves)
    key = *arguments[:3], structure, shapes
    before = key in _ran
    _ran[key] = None
    if len(_ran) > _MOST_RAN:
        _ran.pop(next(iter(_ran)))
    return before


_ran: dict[Any, None] = {}
_MOST_RAN = 4096  # as many as the programs that JAX keeps


@functools.cache
def _thread_pool():
    return ThreadPoolExecutor(block_sizes.CORES, "jaxgen")


@functools.cache
def _program(devices: tuple[jax.Device, ...]) -> Callable[..., Any]:
    """``_block``, compiled to run on each of the devices."""
    backend = devices[0].platform
    if len(devices) == 1:
        return compiler.jit_on(backend, _block, static_argnums=(0, 1, 2))
    mesh = Mesh(np.array(devices), ("rows",))
    every, split = PartitionSpec(), PartitionSpec("rows")

    def spread(function, model, size, shared, rows):
        one = functools.partial(_block, function, model, size)
        each = jax.shard_map(
            one, mesh=mesh, in_specs=(every, split), out_specs=split, check_vma=False
        )
        return each(shared, rows)

    return compiler.jit_on(backend, spread, static_argnums=(0, 1, 2))


def _block(function, model, size, shared, rows):
    """The results of one block of rows, by the function of a verb."""
    (params, shared), (start, (values, y)) = shared, rows
    return function(model, params, shared, start[0], size, values, y)
