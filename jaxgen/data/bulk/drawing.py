"""Drawing the blocks of a job and writing them at the same time, in one process."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgen.core import engine, verbs
from jaxgen.core.promotion import standard_promotion
from jaxgen.data.bulk.block_files import Arrays, Layout, write_block
from jaxgen.data.bulk.manifest import Block, Manifest, versions

WRITERS = 2  # threads that encode, write and hash, one block each


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
    packages = ("jaxgen", "jax", "jaxlib", "numpy", *(["pyarrow"] * (file_format == "parquet")))
    return {
        "platform": jax.default_backend(),
        "x64": str(bool(jax.config.values["jax_enable_x64"])),
        "versions": versions(*packages),
    }


class Results(NamedTuple):
    """The blocks that a task has finished, and the seconds that it took."""

    blocks: dict[int, Block]
    seconds: float


def run_task(task: Task) -> Results:
    """Draw and write the blocks of a task, in a process that may be another than the caller's.

    Raises:
      RuntimeError: the process has other versions or settings than the job.
      OSError: a file cannot be written.
    """
    began, blocks = time.perf_counter(), dict[int, Block]()
    draw_blocks(task, blocks.__setitem__)
    return Results(blocks, time.perf_counter() - began)


@standard_promotion
def draw_blocks(task: Task, done: Callable[[int, Block], object]) -> None:
    """Draw and write the blocks of a task.

    Args:
      done: called with the number of each finished block and the block.
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
                arguments = task.directory, task.fitted, task.layout, number, width, arrays
                writing.append((number, pool.submit(write_block, *arguments)))
                del arrays, arguments  # else a block more would be in memory
                while len(writing) > WRITERS:
                    _take(writing, done)
            while writing:
                _take(writing, done)
        finally:
            for _, future in writing:
                future.cancel()


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
    drawing: collections.deque[tuple[int, jax.Device, list[Any]]] = collections.deque()
    for i, number in enumerate(task.numbers):
        device = devices[i % len(devices)]
        # results of a device are computed while those of another are waited for
        drawing.append((number, device, list(_pieces(task, key, number, device))))
        if len(drawing) >= len(devices):
            yield _block_of(task, *drawing.popleft())
    while drawing:
        yield _block_of(task, *drawing.popleft())


def _pieces(task: Task, key: Any, number: int, device: jax.Device) -> Iterator[Any]:
    """The events of a block in pieces, each with its labels if they are drawn."""
    model, params = task.fitted.model, task.fitted.params
    first, count = task.manifest.rows_of(number)
    request = verbs.to_sample(model, params, key, count, _y_of(task, number), first)
    if _draws_labels(task):
        request = request._replace(verb=verbs.with_labels(model))
    return engine.stream(request, device)


def _block_of(task: Task, number: int, device: jax.Device, pieces: list[Any]) -> tuple[int, Arrays]:
    y = _y_of(task, number)
    if _draws_labels(task):
        x, y = (_joined(part) for part in zip(*pieces, strict=True))
    else:
        x = _joined(pieces)
    model, params = task.fitted.model, task.fitted.params
    log_p = None
    if task.layout.log_prob is not None:
        log_p = np.asarray(engine.run(verbs.to_log_prob(model, params, x, y), device))
    if y is not None:
        shape = tuple(model.y_shape or ())
        y = np.broadcast_to(np.asarray(y), (len(x), *shape))
    return number, Arrays(x, y, log_p)


def _y_of(task: Task, number: int) -> Any:
    """The conditions of a block's rows."""
    if not task.by_row:
        return task.y
    first, count = task.manifest.rows_of(number)
    return np.asarray(task.y[first - task.first_row :][:count])


def _draws_labels(task: Task) -> bool:
    return task.y is None and task.fitted.model.classes is not None


def _joined(pieces: Sequence[Any]) -> np.ndarray:
    arrays = [np.asarray(piece) for piece in pieces]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
