"""``plan``: time, bytes and files of bulk generation, from the rates that a probe measures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxgen.core import engine
from jaxgen.core.promotion import standard_promotion
from jaxgen.data.bulk.job import job_of
from jaxgen.data.bulk.rates import Rates, measure

EVENTS = (10**9, 10**12)  # numbers of events that a plan is for by default
DEVICES = (1, 8, 1000)
NETWORK = 1.25e9  # bytes per second of a machine: a line of 10 Gbit/s
STORAGE = 100e9  # bytes per second of a file system that machines share


class Estimate(NamedTuple):
    """What n events cost on a number of devices.

    Attributes:
      n: number of events.
      devices: number of devices.
      seconds: until all files are on disk.
      bytes: of all files.
      files: number of files.
      limit: what takes most of the time: "draw", "encode" (and hash), "write" (and fsync),
        "network" or "storage".
    """

    n: int
    devices: int
    seconds: float
    bytes: int
    files: int
    limit: str


class Plan(NamedTuple):
    """Measured rates and the estimates that follow; as a str a table.

    Attributes:
      rates: those of this machine.
      estimates: for each number of events and of devices.
      settings: facts about the events and the machines by name, for the lines around the table.
    """

    rates: Rates
    estimates: tuple[Estimate, ...]
    settings: dict[str, str]

    def __str__(self) -> str:
        rates = self.rates
        measured = {
            "draw": f"{rates.draw:.3g} events/s, after {rates.start:.2g} s to compile",
            "encode, hash": f"{bytes_in_words(rates.encode)}/s",
            "write, fsync": f"{bytes_in_words(rates.write)}/s",
        }
        lines = [f"{name:<15} {text}" for name, text in {**self.settings, **measured}.items()]
        rows = [("events", "devices", "time", "size", "files", "limit")]
        for row in self.estimates:
            words = time_in_words(row.seconds), bytes_in_words(row.bytes)
            rows.append((f"{row.n:,}", f"{row.devices:,}", *words, f"{row.files:,}", row.limit))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for cells in rows:
            padded = (f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
            lines.append("  ".join(padded))
        return "\n".join(lines)


@standard_promotion
def plan(
    model: Any,
    n: int | None,
    directory: str | os.PathLike[str],
    *,
    y: Any = None,
    file_format: str = "parquet",
    log_prob: bool = False,
    block_rows: int | None = None,
    network: float = NETWORK,
    storage: float = STORAGE,
) -> Plan:
    """Estimate the time, bytes and files of ``generate`` on 1, 8 and 1,000 devices.

    A probe of one to two seconds, beside the time to compile, draws and encodes a block, and writes
    it to a temporary folder in the file system of ``directory``. Drawing and saving overlap, so the
    slower one sets the time, except on a CPU, whose cores they share. Machines are assumed to be
    like this one, and to have as many devices. One machine writes at the measured rate; several
    share a file system, over a network. The estimates leave out the start of Python.

    Args:
      model: a ``jaxgen.Fitted``.
      n: number of events; None for 1e9 and 1e12.
      directory: the folder that the events will go to; nothing stays in it.
      y, file_format, log_prob, block_rows: as in ``generate``.
      network: bytes per second of each machine's network.
      storage: bytes per second of the file system that machines share.

    Returns:
      The ``Plan``.

    Raises:
      TypeError, ValueError: an argument of the wrong kind or range.
      OSError: there is no such place for a folder, or it takes no files.

    >>> found = plan(fitted, 10**9, "events")
    >>> [row.devices for row in found.estimates]
    [1, 8, 1000]
    """
    for name, rate in (("network", network), ("storage", storage)):
        if not rate > 0:
            raise ValueError(f"{name} must be a positive number of bytes per second, got {rate!r}")
    key, numbers = jax.random.key(0), EVENTS if n is None else (n,)
    jobs = [job_of(model, k, key, y, file_format, log_prob, block_rows) for k in numbers]
    directory = Path(directory)
    where = directory if directory.exists() else directory.parent
    if not where.is_dir():
        raise NotADirectoryError(f"{where} is no folder")
    rates, size, files = measure(jobs[0], where)
    devices = engine.devices_of(model.params)
    each = len(devices)
    estimates = []
    for job in jobs:
        blocks = -(-job.n // job.block_rows)
        for count in DEVICES:
            found = estimate(
                rates, job.n, round(job.n * size), blocks, count, each, network, storage
            )
            estimates.append(found._replace(files=blocks * files))
    spec, kind = repr(model.model), devices[0].device_kind
    settings = {
        "model": spec if len(spec) <= 80 else f"{spec[:77]}...",
        "events": f"{size:.4g} bytes each, as {file_format}",
        "machines": f"{each} {kind} device{'s' * (each > 1)} each, as here; several share storage "
        f"of {bytes_in_words(storage)}/s, by a network of {bytes_in_words(network)}/s each",
        "folder": f"in {where}",
    }
    return Plan(rates, tuple(estimates), settings)


def estimate(
    rates: Rates,
    n: int,
    size: int,
    blocks: int,
    devices: int,
    machine_devices: int = 1,
    network: float = NETWORK,
    storage: float = STORAGE,
) -> Estimate:
    """The cost of n events of ``size`` bytes together, in blocks that devices share.

    Args:
      rates: of a device and its machine.
      n: number of events.
      size: bytes of all files.
      blocks: number of blocks, and of files if each is one; a device draws whole blocks.
      devices: number of devices.
      machine_devices: number of devices of a machine.
      network: bytes per second of each machine's network, if there are several machines.
      storage: bytes per second of the file system that they share.

    >>> rates = Rates(draw=1e8, encode=1e9, write=5e8, save=4e8)
    >>> estimate(rates, 10**9, 8 * 10**9, blocks=1000, devices=1)
    Estimate(n=1000000000, devices=1, seconds=20.0, bytes=8000000000, files=1000, limit='write')
    """
    share = -(-blocks // devices) / blocks  # of all blocks, those of the device with most
    of_machine = min(share * min(devices, machine_devices), 1.0)
    seconds = {
        "draw": share * n / rates.draw,
        "encode": of_machine * size / rates.encode,
        "write": of_machine * size / rates.write,
    }
    if devices > machine_devices:
        seconds |= {"network": of_machine * size / network, "storage": size / storage}
    limit = max(seconds, key=seconds.__getitem__)
    save = of_machine * size / rates.save
    total = rates.start + max(seconds["draw"] + rates.shared * save, save, seconds[limit])
    return Estimate(n, devices, total, size, blocks, limit)


def bytes_in_words(count: float) -> str:
    """A number of bytes in words.

    >>> bytes_in_words(8.03e9)
    '8.03 GB'
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} PB"


def time_in_words(seconds: float) -> str:
    """A time in words, in seconds, minutes or hours.

    >>> time_in_words(14.2), time_in_words(86400)
    ('14.2 s', '24.0 h')
    """
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = seconds / 60
    return f"{minutes:.3g} min" if minutes < 120 else f"{minutes / 60:,.1f} h"
