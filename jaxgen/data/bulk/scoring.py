"""``score_files``: the log densities of the rows of many files, in one process or in many."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from jaxgen.core.bars import bar, check_progress
from jaxgen.core.tracing import is_tracing
from jaxgen.data import tables
from jaxgen.data.bulk import manifest as manifests
from jaxgen.data.bulk import signed_json
from jaxgen.data.bulk.arguments import (
    as_folder,
    check_executor,
    check_file_format,
    check_fitted,
    check_same_job,
    new_folder,
)
from jaxgen.data.bulk.executors import run_tasks
from jaxgen.data.bulk.job import facts_of, on_host
from jaxgen.data.bulk.locks import locked
from jaxgen.data.bulk.score_sums import Sums, merged
from jaxgen.data.bulk.score_tasks import RECORDS, Scored, Task, finished, run_task

_JOB = "scoring.json"  # in the folder .jaxgen


class Scores(NamedTuple):
    """What ``score_files`` has found.

    Attributes:
      events: number of rows of all files.
      mean: the mean log density in nats; -inf if a row has zero density, NaN if one is NaN.
      se: its standard error s / sqrt(events); NaN for one row, or if the mean is not finite.
      zero_density: number of rows whose density is 0.
      nan: number of rows whose log density is NaN.
      files: the files of log densities, in the order of the paths.
    """

    events: int
    mean: float
    se: float
    zero_density: int
    nan: int
    files: tuple[Path, ...]


def score_files(
    model: Any,
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    directory: str | os.PathLike[str],
    *,
    label: str | None = None,
    file_format: str = "parquet",
    executor: Executor | None = None,
    resume: bool = False,
    progress: bool | None = None,
) -> Scores:
    """Write the log density of each row of many tables, a file of scores for each table.

    The scores of ``events.csv`` are in ``directory/events.parquet``, in the order of its rows.
    Features, and the conditions of a conditional model, are the columns with the names that the
    model has for them. Other columns, such as those of labels and log densities in a folder of
    ``generate``, are ignored. Missing values are as in ``Fitted.log_prob``.

    Args:
      model: a ``jaxgen.Fitted``.
      paths: tables (.csv, .tsv, .npy, .npz or .parquet), or a folder of them, such as one that
        ``generate`` has filled. Parquet files are read in pieces, others as a whole.
      directory: the folder of the scores, new or empty, in an existing one; with ``resume`` also
        one that holds scores of the same model.
      label: the name of the column of labels, for log p(x|y); without it scores are log p(x).
      file_format: "parquet", with a column "log_prob", which needs pyarrow; or "npy".
      executor: where to score, a file a task, as in ``generate``; by default this process.
      resume: keep the scores that are there. A file whose bytes have changed is scored again. Bytes
        are compared by their SHA-256, since a copy of a file has another time.
      progress: show a bar; by default on a terminal, in a run over two seconds.

    Returns:
      ``Scores(events, mean, se, zero_density, nan, files)``, of all files.

    Raises:
      TypeError, ValueError: an argument of the wrong kind; two files of one name; a folder with
        other files, or with scores of another model, label or version; a file that the model cannot
        score. The message names the file.
      FileNotFoundError: a file does not exist.
      BlockingIOError: another process writes scores to the folder.
      RuntimeError: a file failed several times on an executor.
      OSError: a file cannot be read or written. Finished scores stay.

    >>> events = jaxgen.generate(fitted, 1000, "to-score", key=jax.random.key(0))
    >>> scores = score_files(fitted, "to-score", "scores")
    >>> scores.events, scores.zero_density, [path.name for path in scores.files]
    (1000, 0, ['block-000000.parquet'])
    """
    job = _job_of(model, label, file_format)
    check_progress(progress)
    check_executor(executor)
    sources, directory = _sources(paths), as_folder(directory)
    for path in sources:
        if path.parent.resolve() == directory.resolve():
            raise ValueError(f"{path} is in the folder of the scores: give another folder")
    _open(directory, job, resume)
    fitted = on_host(model)
    tasks = [Task(fitted, path, label, directory, job) for path in sources]
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(directory / manifests.FOLDER / "lock", 0, 1))
        except BlockingIOError:
            raise BlockingIOError(f"{directory}: another process writes scores here") from None
        with ThreadPoolExecutor(os.cpu_count() or 1, "jaxgen-compare") as pool:
            kept = enumerate(pool.map(finished, tasks)) if resume else ()
            sums = {number: found for number, found in kept if found is not None}
        left = [number for number in range(len(tasks)) if number not in sums]
        scored = _score_all([tasks[k] for k in left], executor, progress)
    sums.update(zip(left, scored, strict=True))
    total = Sums()
    for number in range(len(tasks)):
        total = merged(total, sums[number])
    mean, se = total.mean_and_error()
    files = tuple(task.output for task in tasks)
    return Scores(total.events, mean, se, total.zero_density, total.nan, files)


def _job_of(model: Any, label: Any, file_format: Any) -> dict[str, Any]:
    """What decides the scores of a file, besides its bytes; raises for wrong arguments."""
    check_fitted(model)
    if is_tracing(model.params):
        raise TypeError("score_files cannot be called within jit, grad or vmap")
    if model.model.traits.density == "none":
        raise ValueError(f"{model.model} has no log density to score with")
    if label is not None and model.model.classes is None:
        raise ValueError(f"label is {label!r:.40}, but {model.model!r:.200} has no labels")
    check_file_format(file_format)
    return {"label": label, "file_format": file_format, **facts_of(model, file_format)}


def _sources(paths: Any) -> list[Path]:
    """The tables to score, as absolute paths."""
    if isinstance(paths, (str, os.PathLike)):
        folder = Path(paths)
        found = _tables_of(folder) if folder.is_dir() else [folder]
    else:
        try:
            found = [Path(path) for path in paths]
        except TypeError as error:
            wanted = "paths must be a folder or a list of files"
            raise TypeError(f"{wanted}, got {paths!r:.60}") from error
    if not found:
        raise ValueError(f"paths must hold at least one table, and {paths!s:.100} has none")
    stems: dict[str, Path] = {}
    for path in found:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is no file")
        if not tables.is_table(path):
            raise ValueError(f"{path}: a table's ending must be one of {tables.endings()}")
        other = stems.setdefault(path.stem, path)
        if other is not path:
            raise ValueError(f"{other} and {path} would have one file of scores: rename one")
    return [Path(os.path.abspath(path)) for path in found]


def _tables_of(folder: Path) -> list[Path]:
    """The tables of events in a folder, in the order of their names."""
    manifest = manifests.read(folder)
    if manifest is None:
        found = sorted(path for path in folder.iterdir() if path.name[0] not in "._")
        return [path for path in found if tables.is_table(path)]
    if not manifest.complete:
        raise ValueError(
            f"{folder} holds unfinished events: complete them, or give a list of files"
        )
    # the first file of a block is that of its events
    return [folder / block.files[0].name for block in manifest.blocks]


def _open(directory: Path, job: dict[str, Any], resume: bool) -> None:
    """Make the folder of a job if it is new; raise unless it has the same job."""
    record = directory / manifests.FOLDER / _JOB
    if not record.exists():
        new_folder(directory)
        if manifests.read(directory) is not None:
            raise ValueError(f"{directory} must be a new or empty folder, but it holds events")
        (directory / manifests.FOLDER / RECORDS).mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):  # another process has written it meanwhile
            signed_json.write(record, {"job": job}, replace=False)
    elif not resume:
        raise ValueError(f"{directory} holds scores already: give a new folder, or resume=True")
    found = signed_json.read(record)["job"]
    check_same_job(directory, "scores", found, job)


def _score_all(tasks: list[Task], executor: Executor | None, progress: bool | None) -> list[Sums]:
    """The sums of each task, which are run on an executor or here."""
    sizes, sums = [os.path.getsize(task.path) for task in tasks], [Sums()] * len(tasks)

    def done(number: int, result: Scored) -> None:
        if result.error is not None:
            raise ValueError(result.error)
        sums[number] = result.sums

    with bar("score", show=progress, total=sum(sizes), unit="B", unit_scale=True) as shown:
        if executor is None:
            for number, task in enumerate(tasks):
                advance = functools.partial(_advance, shown, sizes[number])
                done(number, run_task(task, advance))
        else:

            def count(number: int, result: Scored) -> None:
                done(number, result)
                shown.update(sizes[number])

            run_tasks(executor, run_task, tasks, count)
    return sums


def _advance(shown: Any, size: int, share: float) -> None:
    shown.update(size * share)
