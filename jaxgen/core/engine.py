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
from concurrent.futures import Future, ThreadPoolExecutor
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
_LOOKED_AT = 1024  # rows in which missing values are looked for before all rows are scored
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
    as_if_known = _as_if_known(request, devices)
    answer = _joined(as_if_known, devices)
    if as_if_known is not request:
        first_of_row = np.asarray(answer).reshape(request.n, -1)[:, 0]
        if has_missing(first_of_row) and has_missing(request.values):
            answer = _joined(request, devices)
    return answer if place is None else jax.device_put(answer, place)


def _joined(request, devices):
    whole = _in_one_call(request, devices)
    blocks = _blocks(request, devices, True) if whole is None else iter([(slice(request.n), whole)])
    return host_arrays.join(blocks, request.n, request.shape)


def _as_if_known(request, devices):
    """The request without a look for missing values, if it is long and they are likely not there.

    To read all values once more can take as long as to score them. The results of rows with missing
    values are NaN then, which is a quicker look.
    """
    verb, values = request.verb, request.values
    if request.n <= _LOOKED_AT or verb.missing is None or request.model.learning.missing is None:
        return request
    if devices[0].platform != "cpu" or has_missing(values[:_LOOKED_AT]):
        return request
    return request._replace(verb=verb._replace(missing=None))


@standard_promotion
def stream(request: Request, place: jax.Device | Sharding | None = None) -> Iterator[jax.Array]:
    """The answer to a request in blocks of rows, in order."""
    for keep, block in _blocks(request, devices_of(request.params, place)):
        whole = keep.stop == len(block)
        yield block if whole else host_arrays.join(iter([(keep, block)]), keep.stop)


@standard_promotion
def padded_blocks(
    request: Request, place: jax.Device | Sharding | None = None
) -> Iterator[tuple[int, Any]]:
    """The answer to a request in blocks, each with the number of its rows that count.

    A block may still be computed when it is yielded; the rows beyond those that count are copies.
    """
    for keep, block in _blocks(request, devices_of(request.params, place)):
        yield keep.stop, block


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


def _blocks(request, devices, overlap=False):
    """Yield (the slice of rows that count, result) of each block of the answer, in order.

    ``shared`` goes to every block whole; of the values and y each block gets its rows. With several
    devices one step runs a block on each of them.

    Args:
      overlap: whether the last block may begin with rows of the one before; else it is padded,
        for which its rows are copied.
    """
    verb, model, params, shared, values, y, n, _, start = request
    more = block_sizes.scratch(model, y) if verb.scores else 0
    platform = devices[0].platform
    size = block_sizes.block_size(model, params, n, more, verb.draws, platform)
    function = _function(verb, model, values)
    rows, shared = (values, y), (params, shared)
    overlap = overlap and platform == "cpu" and bool(jax.tree_util.tree_leaves(rows))
    devices = devices if n > size else devices[:1]
    program = _program(devices)
    if len(devices) == 1 and devices != _default_device():
        shared = jax.device_put(shared, devices[0])
    step = size * len(devices)

    def arguments(first):
        rest = min(step, n - first)
        skipped = step - rest if overlap and first else 0
        first -= skipped
        starts = [start + first + i * size for i in range(len(devices))]
        words = np.array([[s >> 32 & 0xFFFFFFFF, s & 0xFFFFFFFF] for s in starts], np.uint32)
        words = words if platform == "cpu" else jax.device_put(words)  # no implicit transfer
        cut = _map(functools.partial(host_arrays.cut, first=first, size=step), rows)
        keep = slice(skipped, skipped + rest)
        return keep, (function, model, size, shared, (words, cut))

    each = map(arguments, range(0, max(n, 1), step))
    run_blocks = _in_threads if n > step and _needs_threads(model, devices) else _in_turn
    yield from run_blocks(program, each)


def _in_turn(program, each):
    """Yield the results of a program for (slice, arguments), of which few are under way."""
    under_way: collections.deque[tuple[slice, Any]] = collections.deque()
    for keep, arguments in each:
        under_way.append((keep, program(*arguments)))
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
    """``_in_turn``, but blocks go by turns to helper threads and to this thread.

    A helper does not make a call whose caller has settings of its own, such as
    ``with jax.enable_x64(True)``; then this thread does.
    """
    helpers, settings = _helpers(), _settings()
    under_way: collections.deque[tuple[slice, Any, Any]] = collections.deque()

    def finish():
        keep, arguments, block = under_way.popleft()
        if isinstance(block, Future):
            block = block.result()
        return keep, program(*arguments) if block is None else block

    first = next(each)
    if not _ran_before(first[1]):  # the first call compiles the program for all
        yield first[0], program(*first[1])
        first = None
    each = each if first is None else itertools.chain([first], each)
    for turn, (keep, arguments) in zip(itertools.cycle(range(block_sizes.CORES)), each):
        block = None
        if turn < len(helpers):
            with contextlib.suppress(RuntimeError):  # no thread starts while the interpreter ends
                block = helpers[turn].submit(_run, program, arguments, settings)
        else:
            block = program(*arguments)
        under_way.append((keep, arguments, block))
        if len(under_way) > max(_AHEAD, block_sizes.CORES):
            yield finish()
    while under_way:
        yield finish()


@standard_promotion  # as in the calling thread
def _run(program, arguments, settings):
    return program(*arguments) if _settings() == settings else None


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
def _helpers():
    return [ThreadPoolExecutor(1, "jaxgen") for _ in range(block_sizes.CORES - 1)]


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
