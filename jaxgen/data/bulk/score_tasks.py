"""A file to score as a task, which any process can run, and the record of what it has done."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxgen.core import places
from jaxgen.data import tables
from jaxgen.data.bulk import manifest as manifests
from jaxgen.data.bulk import signed_json
from jaxgen.data.bulk.drawing import environment
from jaxgen.data.bulk.score_reading import pieces
from jaxgen.data.bulk.score_sums import Sums, sums_of
from jaxgen.data.bulk.verification import digest_of

RECORDS = "scores"  # the folder of records, in the folder .jaxgen


class Task(NamedTuple):
    """A file to score; it can be pickled.

    Attributes:
      fitted: the model, its params on the host.
      path: of the table.
      label: name of the column of labels, or None.
      directory: of the scores.
      job: what decides the scores of a file besides its bytes, as JSON values by name.
    """

    fitted: Any
    path: Path
    label: str | None
    directory: Path
    job: dict[str, Any]

    @property
    def output(self) -> Path:
        """The file of the scores."""
        return self.directory / f"{self.path.stem}.{self.job['file_format']}"

    @property
    def record(self) -> Path:
        """The file that says what was scored."""
        return self.directory / manifests.FOLDER / RECORDS / f"{self.path.stem}.json"


class Scored(NamedTuple):
    """The result of a task.

    Attributes:
      sums: over the scores.
      error: why the file cannot be scored, or None.
      seconds: that it took.
    """

    sums: Sums
    error: str | None
    seconds: float


def run_task(task: Task, advance: Callable[[float], object] = lambda share: None) -> Scored:
    """Score a file, and write the scores and their record.

    Args:
      advance: called with the share of the rows that have been scored since the last call.

    Raises:
      RuntimeError: the process has other versions or settings than the job.
      OSError: a file cannot be read or written.
    """
    began = time.perf_counter()
    found = environment(task.job["file_format"])
    if any(task.job[name] != value for name, value in found.items()):
        raise RuntimeError(f"this process has other settings or versions than the job's: {found}")
    try:
        source = _facts(task.path)  # before it is read, so that a later change is found
        log_p = _log_probs(task, advance)
    except (TypeError, ValueError) as error:  # another attempt would fail too
        where = "" if str(error).startswith(str(task.path)) else f"{task.path}: "
        return Scored(Sums(), f"{where}{error}", time.perf_counter() - began)
    is_npy = task.job["file_format"] == "npy"
    tables.write(task.output, log_p if is_npy else {"log_prob": log_p})
    sums = sums_of(log_p)
    content = {"job": manifests.job_digest(task.job), "input": source}
    content |= {"output": _facts(task.output), "sums": sums._asdict()}
    signed_json.write(task.record, content)
    return Scored(sums, None, time.perf_counter() - began)


def finished(task: Task) -> Sums | None:
    """The sums over the scores of a file that were written before; None if they were not, or if the
    file or the scores have changed since."""
    try:
        record = signed_json.read(task.record)
        files = {"input": task.path, "output": task.output}
        same = all(
            record[name]["size"] == path.stat().st_size and record[name] == _facts(path)
            for name, path in files.items()
        )
        is_of_job = record["job"] == manifests.job_digest(task.job)
        return Sums(**record["sums"]) if same and is_of_job else None
    except (FileNotFoundError, ValueError, LookupError, TypeError):  # ValueError: damaged
        return None


def _facts(path: Path) -> dict[str, Any]:
    """The facts of a file by which a change is found."""
    return {"name": path.name, "size": path.stat().st_size, "sha256": digest_of(path)}


def _log_probs(task: Task, advance: Callable[[float], object]) -> np.ndarray:
    """The log densities of the rows of a file, (rows,)."""
    parts, first = [np.zeros(0, task.job["dtype"])], 0
    for piece in pieces(task.fitted, task.path, task.label):
        with places.Names.known(task.fitted.columns, row=_row_names(task.path, first)):
            parts.append(np.asarray(task.fitted.log_prob(piece.x, piece.y)))
        first += len(piece.x)
        advance(len(piece.x) / max(piece.total, 1))
    return np.concatenate(parts)


def _row_names(path: Path, first: int) -> Callable[[int], str]:
    return lambda row: tables.row_name(path, first + row)
