"""Drawing the blocks of a job and writing them at the same time, in one process."""

from __future__ import annotations

import collections
import multiprocessing
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgen.core import engine, verbs
from jaxgen.core.promotion import standard_promotion
from jaxgen.data.bulk import manifest as manifests
from jaxgen.data.bulk.block_files import Arrays, Layout, write_block
from jaxgen.data.bulk.manifest import Block, Manifest
from jaxgen.data.model_file import versions

WRITERS = 2  # threads that encode, write and hash, one block each


# flags of XLA that change no value
_NO_CHANGE = re.compile("--xla_(force_host_platform_device_count|dump_.*)=")


class Task(NamedTuple):
    """Blocks to draw and write; it can be pickled.

    Attributes:
      fitted: the model, its params on the host.
      manifest: of the job.
      layout: of the blocks.
      key: the name of the key's implementation, and its data.
      y: conditions of the rows from ``first_row`` on, or one for all rows, or None.
      by_row: whether y has a condition for each row.
      first_row: number of the first row of y.
      directory: the folder of the blocks.
      numbers: of the blocks.
      environment: that of the job, which that of the process must equal; see ``environment``.
    """

    fitted: Any
    manifest: Manifest
    layout: Layout
    key: tuple[str, np.ndarray]
    y: Any
    by_row: bool
    first_row: int
    directory: Path
    numbers: tuple[int, ...]
    environment: dict[str, str]

    def of(self, numbers: Sequence[int]) -> Task:
        """The task of some of the blocks, with no more of y than they need."""
        if not self.by_row:
            return self._replace(numbers=tuple(numbers))
        first, _ = self.manifest.rows_of(min(numbers))
        last, count = self.manifest.rows_of(max(numbers))
        rows = slice(first - self.first_row, last + count - self.first_row)
        return self._replace(numbers=tuple(numbers), y=np.asarray(self.y[rows]), first_row=first)


def environment(file_format: str) -> dict[str, str]:
    """The settings of this process, and the versions of packages, that decide drawn bytes."""
    settings, flags = jax.config.values, os.environ.get("XLA_FLAGS", "").split()
    packages = ("jaxgen", "jax", "jaxlib", "numpy", *(["pyarrow"] * (file_format == "parquet")))
    return {
        "platform": jax.default_backend(),
        "x64": str(bool(settings["jax_enable_x64"])),
        "threefry": "partitionable" if settings["jax_threefry_partitionable"] else "sequential",
        "precision": str(settings["jax_default_matmul_precision"]),
        "flags": " ".join(sorted(flag for flag in flags if not _NO_CHANGE.match(flag))),
        "versions": versions(*packages),
    }


class Results(NamedTuple):
    """The blocks that a task has finished, and the seconds that it took."""

    blocks: dict[int, Block]
    seconds: float


def run_task(task: Task) -> Results:
    """Draw and write the blocks of a task, in a process that may be another than the caller's.

    Raises:
      RuntimeError: the process has other versions or settings than the job, the process that
        started it has ended, or the folder holds another job now.
      OSError: a file cannot be written.
    """
    began, blocks = time.perf_counter(), dict[int, Block]()
    job = manifests.job_digest(task.manifest.job)

    def check() -> None:
        # the caller may have ended long ago, and its folder may have been replaced
        if _parent_has_ended():
            raise RuntimeError("the process that started this one has ended")
        found = manifests.read(task.directory)
        if found is None or manifests.job_digest(found.job) != job:
            raise RuntimeError(f"{task.directory} holds another job now")

    draw_blocks(task, blocks.__setitem__, check)
    return Results(blocks, time.perf_counter() - began)


def _parent_has_ended() -> bool:
    parent = multiprocessing.parent_process()
    try:
        return parent is not None and not parent.is_alive()
    except ValueError:  # a process of loky does not know
        return False


@standard_promotion
def draw_blocks(
    task: Task, done: Callable[[int, Block], object], check: Callable[[], None] = lambda: None
) -> None:
    """Draw and write the blocks of a task.

    Args:
      done: called with the number of each finished block and the block.
      check: called before a block is written; it may raise.
    """
    found = environment(task.layout.file_format)
    if found != task.environment:
        differ = ", ".join(
            f"{name} ({value} here, {task.environment[name]} there)"
            for name, value in found.items()
            if value != task.environment[name]
        )
        raise RuntimeError(f"this process cannot draw the same bytes as the job's: other {differ}")
    width = digits(task.manifest.count)
    writing: collections.deque[tuple[int, Future[Block]]] = collections.deque()
    with ThreadPoolExecutor(WRITERS, "jaxgen-write") as pool:
        try:
            for number, arrays in drawn(task):
                check()
                arguments = task.directory, task.fitted, task.layout, number, width, arrays
                writing.append((number, pool.submit(write_block, *arguments)))
                del arrays, arguments  # else a block more would be in memory
                while len(writing) > WRITERS:
                    _take(writing, done)
            while writing:
                _take(writing, done)
        except BaseException:
            for number, future in writing:  # what is finished by now counts
                if not future.cancel() and future.exception() is None:
                    done(number, future.result())
            raise


def digits(count: int) -> int:
    """The number of digits of the numbers of ``count`` blocks in names of files."""
    return max(6, len(str(count - 1)))


def _take(writing: Any, done: Callable[[int, Block], object]) -> None:
    number, future = writing.popleft()
    done(number, future.result())


def drawn(task: Task) -> Iterator[tuple[int, Arrays]]:
    """The arrays of each block, in order. A block is drawn by one device, the next by another."""
    impl, data = task.key
    key = jax.random.wrap_key_data(jax.numpy.asarray(data), impl=impl)
    devices = engine.devices_of(task.fitted.params)
    drawing: collections.deque[tuple[int, jax.Device, list[tuple[int, Any]]]] = collections.deque()
    for i, number in enumerate(task.numbers):
        device = devices[i % len(devices)]
        drawing.append((number, device, list(_pieces(task, key, number, device))))
        # all devices compute while a block is taken, and while the caller waits for the disk
        if len(drawing) > len(devices):
            yield _block_of(task, *drawing.popleft())
    while drawing:
        yield _block_of(task, *drawing.popleft())


def _pieces(task: Task, key: Any, number: int, device: jax.Device) -> Iterator[tuple[int, Any]]:
    """The events of a block in padded pieces, each with its labels if they are drawn."""
    model, params = task.fitted.model, task.fitted.params
    first, count = task.manifest.rows_of(number)
    request = verbs.to_sample(model, params, key, count, _y_of(task, number), first)
    if _draws_labels(task):
        request = request._replace(verb=verbs.with_labels(model))
    return engine.padded_blocks(request, device)


def _block_of(
    task: Task, number: int, device: jax.Device, pieces: list[tuple[int, Any]]
) -> tuple[int, Arrays]:
    y = _y_of(task, number)
    x = [np.asarray(piece[0] if _draws_labels(task) else piece)[:rows] for rows, piece in pieces]
    if _draws_labels(task):
        y = np.concatenate([np.asarray(piece[1])[:rows] for rows, piece in pieces])
    arrays = Arrays(x)
    if y is not None:
        shape = tuple(task.fitted.model.y_shape or ())
        arrays = arrays._replace(y=np.broadcast_to(np.asarray(y), (arrays.rows, *shape)))
    if task.layout.log_prob is not None:
        request = verbs.to_log_prob(task.fitted.model, task.fitted.params, arrays.x, arrays.y)
        arrays = arrays._replace(log_prob=np.asarray(engine.run(request, device)))
    return number, arrays


def _y_of(task: Task, number: int) -> Any:
    """The conditions of a block's rows."""
    if not task.by_row:
        return task.y
    first, count = task.manifest.rows_of(number)
    return np.asarray(task.y[first - task.first_row :][:count])


def _draws_labels(task: Task) -> bool:
    return task.y is None and task.fitted.model.classes is not None
