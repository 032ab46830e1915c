"""The rates at which a machine draws, encodes and writes events, from a short probe."""

from __future__ import annotations

import hashlib
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxgen.core import block_sizes, engine
from jaxgen.data.bulk.block_files import Arrays, encoded
from jaxgen.data.bulk.drawing import WRITERS, Task, drawn
from jaxgen.data.bulk.job import Job
from jaxgen.data.bulk.manifest import Manifest
from jaxgen.data.output import write_atomically

_SECONDS = 0.3  # that each rate is measured for
_FEW = 64  # events of the first draw, whose time sets the number of the next


class Rates(NamedTuple):
    """Measured rates of a model on a machine.

    Attributes:
      draw: events per second that a device draws, and scores if the log density is written.
      encode: bytes per second that a machine encodes and hashes.
      write: bytes per second that a machine writes, fsync included.
      save: bytes per second that it encodes, hashes and writes, one after the other.
      start: seconds until the first draw, in which programs are compiled.
      shared: share of the time of saving by which drawing takes longer: 0 for an accelerator, and
        1 for a CPU all of whose cores both use.
    """

    draw: float
    encode: float
    write: float
    save: float
    start: float = 0.0
    shared: float = 0.0


def measure(job: Job, where: Path) -> tuple[Rates, float, int]:
    """The rates of a job, its bytes per event, and the number of files of a block.

    Args:
      job: the job.
      where: a folder, in which a temporary one is made.
    """
    arrays, draw, start = _draw(job, where)
    fitted, layout = job.fitted, job.layout
    contents = [memoryview(content) for _, content in encoded(fitted, layout, arrays)]
    size = sum(map(len, contents))

    def encode() -> None:
        for _, content in encoded(fitted, layout, arrays):
            hashlib.sha256(memoryview(content)).digest()

    with tempfile.TemporaryDirectory(prefix=".jaxgen-probe-", dir=where) as folder:

        def write() -> None:
            for k, content in enumerate(contents):
                path = Path(folder) / f"{k}-{threading.get_ident()}"
                with write_atomically(path, remove_stale=False, cached=False) as file:
                    file.write(content)

        def save() -> None:
            encode()
            write()

        encoding, writing, saving = (size * _calls_per_second(f) for f in (encode, write, save))
    cores = block_sizes.CORES
    is_cpu = engine.devices_of(fitted.params)[0].platform == "cpu"
    shared = min(WRITERS, cores) / cores if is_cpu else 0.0
    rates = Rates(draw, encoding, writing, saving, start, shared)
    return rates, size / arrays.rows, len(contents)


def _draw(job: Job, where: Path) -> tuple[Arrays, float, float]:
    """Drawn events, the events per second of a device, and the seconds to compile.

    A few events come first, and more follow as long as they take little time.
    """
    rows = min(_FEW, job.block_rows)
    while True:
        y = np.asarray(job.y[:rows]) if job.by_row else job.y
        part = job._replace(n=rows, block_rows=rows, y=y)
        task = part.task(where, Manifest(part.to_json()))
        cold, _ = _timed_draw(task)
        warm, arrays = _timed_draw(task)
        if rows == job.block_rows or warm > _SECONDS / 2:
            break
        rows = min(job.block_rows, int(rows * min(_SECONDS / warm, 1000.0)))
    spent, count = warm, 1
    while spent < _SECONDS:
        seconds, arrays = _timed_draw(task)
        spent, count = spent + seconds, count + 1
    return arrays, count * rows / spent, max(cold - warm, 0.0)


def _timed_draw(task: Task) -> tuple[float, Arrays]:
    began = time.perf_counter()
    _, arrays = next(drawn(task))
    return time.perf_counter() - began, arrays


def _calls_per_second(function: Callable[[], None]) -> float:
    """How often the threads that write blocks can call a function."""
    began = time.perf_counter()

    def work(_: int) -> int:
        count = 0
        while not count or time.perf_counter() - began < _SECONDS:
            function()
            count += 1
        return count

    with ThreadPoolExecutor(WRITERS, "jaxgen-probe") as pool:
        return sum(pool.map(work, range(WRITERS))) / (time.perf_counter() - began)
