"""``generate``: events of a model on disk, in blocks that can be drawn anywhere in any order."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
import os
import threading
import time
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm.auto import tqdm

from jaxgen.core import inputs
from jaxgen.core.promotion import standard_promotion
from jaxgen.data import model_file
from jaxgen.data.bulk import manifest as manifests
from jaxgen.data.bulk.block_files import FILE_FORMATS, Layout, layout_of
from jaxgen.data.bulk.dataset import Dataset
from jaxgen.data.bulk.drawing import Results, Task, draw_blocks, environment, run_task
from jaxgen.data.bulk.executors import run_tasks
from jaxgen.data.bulk.locks import locked
from jaxgen.data.bulk.manifest import Block, Manifest
from jaxgen.data.bulk.stopping import clean_stop
from jaxgen.data.output import remove_temporaries
from jaxgen.data.tables.parquet_files import PARQUET

BLOCK_BYTES = 2**23  # of a block by default, at least
MOST_BLOCKS = 1024  # that a folder has by default, until blocks reach their most bytes
MOST_BLOCK_BYTES = 2**28
DRAWN_AT_ONCE = 64  # a block of a model whose draws are slow has this many times its tile
_LIMIT = 10**6  # most blocks of a folder
_PAUSE = 5.0  # seconds between two records of finished blocks
_TASKS = 64  # tasks that an executor gets, at least, if there are as many blocks
_TASK_BLOCKS = 8  # most blocks of a task


class Progress:
    """The finished blocks of a writer: a bar, and the record in the folder.

    Args:
      directory: of the blocks.
      manifest: of the job.
      first, stop: the blocks that are the writer's.
      blocks: those that are finished.
      show: as ``progress`` in ``generate``.
    """

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        first: int,
        stop: int,
        blocks: dict[int, Block],
        show: bool | None,
    ):
        self._place = directory, manifest, first, stop
        self._blocks = {k: block for k, block in blocks.items() if first <= k < stop}
        self._due, self._changed = time.monotonic() + _PAUSE, False
        self._lock = threading.Lock()
        last, count = manifest.rows_of(stop - 1)
        self._bar: Any = tqdm(
            total=last + count - manifest.rows_of(first)[0],
            initial=sum(block.rows for block in self._blocks.values()),
            desc="generate",
            unit=" events",
            unit_scale=True,
            disable=None if show is None else not show,
            delay=2.0 if show is None else 0.0,
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.close()

    def add(self, number: int, block: Block) -> None:
        """Count a finished block, and write the record if the last one was some seconds ago."""
        with self._lock:
            self._blocks[number] = block
            self._changed = True
        self._bar.update(block.rows)
        if time.monotonic() >= self._due:
            self.write()

    def write(self) -> None:
        """Write the record, unless it is written."""
        with self._lock:
            if self._changed:
                manifests.write_record(*self._place, self._blocks)
                self._changed = False
                self._due = time.monotonic() + _PAUSE

    def stop(self) -> str:
        """Write the record, and return a sentence that says how much is finished."""
        directory, _, first, stop = self._place
        with contextlib.suppress(OSError):
            self.write()
        return (
            f"{len(self._blocks):,} of {stop - first:,} blocks in {directory} are finished; resume "
            "goes on"
        )


@standard_promotion
def generate(
    model: Any,
    n: int,
    directory: str | os.PathLike[str],
    *,
    key: jax.Array,
    y: Any = None,
    file_format: str = "parquet",
    log_prob: bool = False,
    block_rows: int | None = None,
    shard: tuple[int, int] | None = None,
    resume: bool = False,
    executor: Executor | None = None,
    progress: bool | None = None,
) -> Dataset:
    """Draw n events and write them to a folder, in blocks of rows.

    The events are those of ``model.sample(key, n, y)``. A block is a file that is whole and on disk,
    or not there, so a run that was killed goes on with ``resume=True``, on this machine or another,
    and the folder gets the same bytes. Several processes may draw shards of one folder at the same
    time; they need no word from each other. Bytes are equal for equal versions of packages on
    processors with the same instructions.

    Args:
      model: a ``jaxgen.Fitted``.
      n: number of events, at least 1.
      directory: the folder, new or empty, in an existing one; with ``resume`` or ``shard`` also one
        that holds a part of the same events.
      key: a typed PRNG key.
      y: conditions (n, *y_shape), or one of y_shape for all, as in ``Fitted.sample``. A model of
        labels draws y from p(y) if it is None. Conditions and labels are written too.
      file_format: "parquet", which needs pyarrow, with a column for each feature, or one with nested
        lists for images and other events of several axes; or "npy", with the arrays "x", "y" and
        "log_prob" in files of their own, in which texts are tokens and labels their numbers. Images
        have 8 bits.
      log_prob: whether to write the log density of each event, in nats: log p(x), or log p(x|y).
      block_rows: number of rows of a block. By default a block has at least 8 MiB and a folder at
        most 1,024 blocks, until blocks have 256 MiB; a model whose draws are slow, such as one of
        texts, has smaller ones.
      shard: (i, k) draws the i-th of k equal parts of the blocks, i from 0 to k - 1. The last shard
        to end completes the folder.
      resume: whether to go on with a folder that holds a part of the same events. Finished blocks
        are kept if their sizes are right; ``verify`` compares their bytes too.
      executor: where to draw, in tasks of a few blocks, such as a ``ProcessPoolExecutor``, or
        ``client.get_executor()`` of Dask; by default this process. All workers must reach the
        folder by the same path. A task that fails is tried again, and slow ones are started twice.
      progress: show a bar; by default on a terminal, in a run over two seconds.

    Returns:
      The folder as a ``Dataset``, whose ``complete`` is False while other shards are missing.

    Raises:
      TypeError, ValueError: an argument of the wrong kind or range; a folder with other files, of
        another job, or with a part of the events without ``resume``; a damaged manifest.
      BlockingIOError: another process draws some of the blocks now.
      RuntimeError: a task failed several times on an executor.
      OSError: a file cannot be written, as on a full disk. Finished blocks stay.

    >>> events = jaxgen.generate(fitted, 1000, "events", key=jax.random.key(0))
    >>> events[:3]["x"].shape
    (3, 2)
    """
    job = _job(model, n, key, y, file_format, log_prob, block_rows)
    first, stop = _blocks_of(shard, -(-job.n // job.block_rows))
    directory = Path(directory)
    manifest = _opened(directory, job, block_rows is None, resume, shard)
    task = job.task(directory, manifest)
    first, stop = _blocks_of(shard, manifest.count)
    with locked(directory / manifests.FOLDER / "lock", first, stop):
        blocks = _intact(directory, manifests.finished(directory, manifest))
        missing = [number for number in range(first, stop) if number not in blocks]
        if len(missing) < stop - first and not resume:
            raise ValueError(f"{directory} holds blocks of this shard: pass resume=True to go on")
        with Progress(directory, manifest, first, stop, blocks, progress) as bar:
            if missing:
                _draw(task.of(missing), executor, bar)
        manifests.complete(directory, manifest)
    return Dataset(directory)


class _Job(NamedTuple):
    """The checked arguments of ``generate`` that decide the bytes of blocks."""

    fitted: Any
    n: int
    block_rows: int
    layout: Layout
    key: jax.Array
    y: Any
    by_row: bool

    def to_json(self) -> dict[str, Any]:
        """The job as its manifest holds it."""
        fitted, layout = self.fitted, self.layout
        how = "drawn" if fitted.model.classes is not None else "none"
        if self.y is not None:
            how = f"{'by row' if self.by_row else 'one for all'}, SHA-256 {_digest(self.y)}"
        return {
            "n": self.n,
            "block_rows": self.block_rows,
            "file_format": layout.file_format,
            "log_prob": layout.log_prob is not None,
            "model": hashlib.sha256(model_file.to_bytes(fitted)).hexdigest(),
            "spec": f"{fitted.model!r:.2000}",
            "key": f"{jax.random.key_impl(self.key)} {jax.random.key_data(self.key).tolist()}",
            "y": how,
            "dtype": str(inputs.float_dtype(fitted.params)),
            **environment(layout.file_format),
            "columns": layout.to_json(),
            "event_shape": list(fitted.model.event_shape),
            "labels": None if fitted.labels is None else list(fitted.labels),
        }

    def task(self, directory: Path, manifest: Manifest) -> Task:
        """The task of all blocks."""
        fitted = copy.copy(self.fitted)
        fitted.params = jax.device_get(fitted.params)
        fitted.history = {}
        key = str(jax.random.key_impl(self.key)), np.asarray(jax.random.key_data(self.key))
        numbers = tuple(range(manifest.count))
        found = environment(self.layout.file_format)
        return Task(
            fitted, manifest, self.layout, key, self.y, self.by_row, 0, directory, numbers, found
        )


def _job(
    model: Any,
    n: Any,
    key: Any,
    y: Any,
    file_format: str,
    log_prob: bool,
    block_rows: int | None,
) -> _Job:
    """The job of the arguments of ``generate``; raises TypeError or ValueError for wrong ones."""
    if not hasattr(model, "named_columns"):
        raise TypeError(f"model must be a jaxgen.Fitted, got {type(model).__name__} {model!r:.40}")
    if inputs.is_tracing(model.params, key, y):
        raise TypeError("generate cannot be called within jit, grad or vmap: use sample there")
    n, key = inputs.as_count(n, "n", 1), inputs.as_key(key)
    if n >= 2**63:
        raise ValueError(f"n must be below 2**63, got {n}")
    if file_format not in FILE_FORMATS:
        listed = " or ".join(map(repr, FILE_FORMATS))
        raise ValueError(f"file_format must be {listed}, got {file_format!r:.40}")
    if file_format == "parquet":
        PARQUET.check_installed()
    if log_prob and model.model.traits.density == "none":
        raise ValueError(f"log_prob: {model.model} has no log density")
    spec = model.model
    found = inputs.as_conditions(
        spec, model.conditions_of(y), (n,), inputs.float_dtype(model.params)
    )
    found, by_row = None if found is None else np.asarray(found), False
    if found is not None:
        by_row = bool(np.shape(model.conditions_of(y)) != tuple(spec.y_shape or ()))
        found = found if by_row else np.array(found[0])
    has_y = found is not None or spec.classes is not None
    layout = layout_of(model, file_format, has_y, log_prob)
    rows = _default_rows(model, n, layout)
    if block_rows is not None:
        rows = min(inputs.as_count(block_rows, "block_rows", 1), n)
    if -(-n // rows) > _LIMIT:
        least = -(-n // _LIMIT)
        raise ValueError(f"block_rows must be at least {least:,} for {n:,} events, got {rows:,}")
    return _Job(model, n, rows, layout, key, found, by_row)


def _default_rows(fitted: Any, n: int, layout: Layout) -> int:
    """Rows of a block: 1, 2 or 5 times a power of ten, or all."""
    event = math.prod(fitted.model.event_shape)
    width = event * (1 if fitted.pixels is not None or fitted.vocabulary is not None else 4)
    width += 4 * (len(layout.y) + (layout.log_prob is not None))
    size = min(max(BLOCK_BYTES, n * width // MOST_BLOCKS), MOST_BLOCK_BYTES)
    most = max(size // max(width, 1), 1)
    if fitted.model.traits.draw_tile is not None:
        most = max(min(most, DRAWN_AT_ONCE * fitted.model.traits.draw_tile), -(-n // _LIMIT))
    scale = 10 ** (len(str(most)) - 1)
    return min(next(k * scale for k in (10, 5, 2, 1) if k * scale <= most), n)


def _blocks_of(shard: Any, count: int) -> tuple[int, int]:
    """The first block of a shard, and the one after its last."""
    if shard is None:
        return 0, count
    try:
        i, k = shard
    except (TypeError, ValueError):
        raise TypeError(f"shard must be a pair (i, k) of ints, got {shard!r:.40}") from None
    i, k = inputs.as_count(i, "shard's i"), inputs.as_count(k, "shard's k", 1)
    if i >= k:
        raise ValueError(f"shard must be (i, k) with i from 0 to k - 1, got ({i}, {k})")
    return count * i // k, count * (i + 1) // k


def _opened(directory: Path, job: _Job, any_rows: bool, resume: bool, shard: Any) -> Manifest:
    """The manifest of the job in its folder, both made if they are new.

    any_rows: whether an existing folder may have blocks of another size.
    """
    manifest = manifests.read(directory)
    if manifest is None:
        _make_folder(directory)
        if manifests.create(directory, job.to_json()):
            return Manifest(job.to_json())
        manifest = manifests.read(directory)
        assert manifest is not None, f"the manifest of {directory} has been removed"
    elif not resume and shard is None:
        state = "complete" if manifest.complete else "unfinished"
        raise ValueError(
            f"{directory} holds {state} events already: give a new folder, or pass resume=True to "
            "go on with the same events"
        )
    if any_rows:
        job = job._replace(block_rows=manifest.job["block_rows"])
    wanted = job.to_json()
    differ = [
        f"{name} ({_short(manifest.job.get(name))} there, {_short(value)} here)"
        for name, value in wanted.items()
        if manifest.job.get(name) != value
    ]
    if differ:
        raise ValueError(f"{directory} holds events of another job, with other {'; '.join(differ)}")
    return manifest


def _make_folder(directory: Path) -> None:
    """Make a folder for blocks; raise if it holds anything else."""
    directory.mkdir(exist_ok=True)
    others = [name for name in os.listdir(directory) if name != manifests.FOLDER]
    if others:
        raise ValueError(f"{directory} must be a new or empty folder, but it holds {min(others)!r}")
    (directory / manifests.FOLDER).mkdir(exist_ok=True)
    remove_temporaries(directory / manifests.FOLDER)


def _intact(directory: Path, blocks: dict[int, Block]) -> dict[int, Block]:
    """The blocks whose files are there and have the right sizes."""
    sizes = {entry.name: entry.stat().st_size for entry in os.scandir(directory)}
    return {
        number: block
        for number, block in blocks.items()
        if all(sizes.get(file.name) == file.size for file in block.files)
    }


def _draw(task: Task, executor: Executor | None, bar: Progress) -> None:
    """Draw the blocks of a task; the record has the finished ones, whatever happens."""
    try:
        with clean_stop(bar.stop):
            if executor is None:
                draw_blocks(task, bar.add)
            else:
                _draw_on(executor, task, bar)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error counts
            bar.write()
        raise
    bar.write()


def _draw_on(executor: Executor, task: Task, bar: Progress) -> None:
    numbers = task.numbers
    size = min(max(len(numbers) // _TASKS, 1), _TASK_BLOCKS)
    parts = [task.of(numbers[start : start + size]) for start in range(0, len(numbers), size)]

    def done(_: int, results: Results) -> None:
        for number, block in results.blocks.items():
            bar.add(number, block)

    run_tasks(executor, run_task, parts, done)


def _digest(array: np.ndarray) -> str:
    found = hashlib.sha256(repr((array.shape, str(array.dtype))).encode())
    found.update(memoryview(np.ascontiguousarray(array)).cast("B"))
    return found.hexdigest()


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
