"""``generate``: events of a model on disk, in blocks that can be drawn anywhere in any order."""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import jax

from jaxgen.core import inputs
from jaxgen.core.bars import check_progress
from jaxgen.core.promotion import standard_promotion
from jaxgen.data.bulk import manifest as manifests
from jaxgen.data.bulk.arguments import (
    as_folder,
    check_executor,
    check_same_job,
    new_folder,
)
from jaxgen.data.bulk.dataset import Dataset
from jaxgen.data.bulk.drawing import Results, Task, draw_blocks, run_task
from jaxgen.data.bulk.executors import run_tasks
from jaxgen.data.bulk.job import Job, job_of
from jaxgen.data.bulk.locks import locked
from jaxgen.data.bulk.manifest import Manifest
from jaxgen.data.bulk.progress import Progress
from jaxgen.data.bulk.stopping import clean_stop

_TASKS = 64  # tasks that an executor gets, at least, if there are as many blocks
_TASK_BLOCKS = 8  # most blocks of a task


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

    The events are those of ``model.sample(key, n, y)``, to rounding. A block is a file that is
    whole and on disk, or not there. So a run that was killed goes on with ``resume=True``, on this
    machine or another, and the folder gets the same bytes as without the kill. Several processes
    may draw shards of one folder at the same time, without messages between them. Bytes are equal
    for equal versions of packages, on processors with the same instructions.

    Args:
      model: a ``jaxgen.Fitted``.
      n: number of events, at least 1.
      directory: the folder, new or empty, in an existing one; with ``resume`` or ``shard`` also one
        that holds a part of the same events.
      key: a typed PRNG key.
      y: conditions (n, *y_shape), or one of y_shape for all, as in ``Fitted.sample``. A model of
        labels draws y from p(y) if it is None. Conditions and labels are written too.
      file_format: "parquet", which needs pyarrow, with a column for each feature, or one column of
        nested lists for images and other events of several axes; or "npy", with the arrays "x", "y"
        and "log_prob" in files of their own, in which texts are tokens and labels are numbers.
        Images have 8 bits.
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
        A ``ProcessPoolExecutor`` takes no more tasks once one of its processes was killed; then go
        on with ``resume`` and a new one.
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
    job = job_of(model, n, key, y, file_format, log_prob, block_rows)
    _blocks_of(shard, 1)  # raises for a wrong shard
    check_progress(progress)
    check_executor(executor)
    directory = as_folder(directory)
    manifest = _opened(directory, job, block_rows is None, resume, shard)
    task = job.task(directory, manifest)
    first, stop = _blocks_of(shard, manifest.count)
    is_ended = manifest.complete and len(manifests.finished(directory, manifest)) == manifest.count
    if first == stop or (is_ended and resume):  # a shard may be empty
        manifests.complete(directory, manifest)
        return Dataset(directory)
    with locked(directory / manifests.FOLDER / "lock", first, stop):
        blocks = manifests.finished(directory, manifest)
        missing = [number for number in range(first, stop) if number not in blocks]
        if len(missing) < stop - first and not resume:
            raise ValueError(f"{directory} holds blocks of this shard: pass resume=True to go on")
        with Progress(directory, manifest, first, stop, blocks, progress) as bar:
            if missing:
                _draw(task.of(missing), executor, bar)
        manifests.complete(directory, manifest)
    return Dataset(directory)


def _blocks_of(shard: Any, count: int) -> tuple[int, int]:
    """The first block of a shard, and the one after its last."""
    if shard is None:
        return 0, count
    try:
        i, k = shard
    except (TypeError, ValueError):
        raise TypeError(f"shard must be a pair of ints (i, k), got {shard!r:.40}") from None
    i, k = inputs.as_count(i, "shard's i"), inputs.as_count(k, "shard's k", 1)
    if i >= k:
        raise ValueError(f"shard must be (i, k) with i from 0 to k - 1, got ({i}, {k})")
    return count * i // k, count * (i + 1) // k


def _opened(directory: Path, job: Job, any_rows: bool, resume: bool, shard: Any) -> Manifest:
    """The manifest of the job in its folder, both made if they are new.

    any_rows: whether an existing folder may have blocks of another size.
    """
    manifest, wanted = manifests.read(directory), job.to_json()
    if manifest is None:
        if new_folder(directory) and manifests.create(directory, wanted):
            return Manifest(wanted)
        manifest = manifests.read(directory)  # another process has written it meanwhile
        assert manifest is not None, f"the manifest of {directory} has been removed"
    elif not resume and shard is None:
        state = "complete" if manifest.complete else "unfinished"
        raise ValueError(
            f"{directory} holds {state} events already: give a new folder, or pass resume=True to "
            "go on with the same events"
        )
    if any_rows:
        wanted["block_rows"] = manifest.job["block_rows"]
    check_same_job(directory, "events", manifest.job, wanted)
    return manifest


def _draw(task: Task, executor: Executor | None, bar: Progress) -> None:
    """Draw the blocks of a task; the record has the finished ones, whatever happens."""
    try:
        with clean_stop(lambda: _stopped(executor, bar)):
            if executor is None:
                draw_blocks(task, bar.add)
            else:
                _draw_on(executor, task, bar)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error counts
            bar.write()
        raise
    bar.write()


def _stopped(executor: Executor | None, bar: Progress) -> str:
    """End the processes of a pool, and say how much is finished."""
    for process in (getattr(executor, "_processes", None) or {}).values():
        process.terminate()
    return bar.stop()


def _draw_on(executor: Executor, task: Task, bar: Progress) -> None:
    numbers = task.numbers
    size = min(max(len(numbers) // _TASKS, 1), _TASK_BLOCKS)
    parts = [task.of(numbers[start : start + size]) for start in range(0, len(numbers), size)]

    def done(_: int, results: Results) -> None:
        for number, block in results.blocks.items():
            bar.add(number, block)

    run_tasks(executor, run_task, parts, done)
