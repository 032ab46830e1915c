"""Manifests: JSON files that say what a folder of blocks holds, and which blocks are finished.

A folder of generated events has a subfolder ``.jaxgen``, which readers of Parquet ignore:

- ``manifest.json`` has the job, which decides every byte of the blocks. Once all blocks are
  finished, it also lists their files, with a SHA-256 of each.
- ``blocks-FIRST-STOP.json``, while the folder is unfinished, lists the finished blocks of a writer.
- ``lock`` is empty; writers lock the bytes whose numbers are those of their blocks.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxgen.data.bulk import signed_json
from jaxgen.data.output import reach, remove_abandoned

FOLDER = ".jaxgen"
_MANIFEST = "manifest.json"
_RECORD = re.compile(r"blocks-([0-9]{1,18})-([0-9]{1,18})\.json")
_SHA256 = re.compile("[0-9a-f]{64}")
_HOUR = 3600.0  # seconds
_NAME = re.compile(r"[A-Za-z_]+-[0-9]{1,18}\.(parquet|npy)")


class File(NamedTuple):
    """One file of a block."""

    name: str
    size: int  # in bytes
    sha256: str


class Block(NamedTuple):
    """A finished block: its number of rows, and its files."""

    rows: int
    files: tuple[File, ...]


class Manifest(NamedTuple):
    """The content of ``manifest.json``.

    Attributes:
      job: everything that decides the bytes of the blocks, as JSON values by name.
      blocks: the blocks in order; empty while the folder is unfinished.
      complete: whether all blocks are finished.
    """

    job: dict[str, Any]
    blocks: tuple[Block, ...] = ()
    complete: bool = False

    @property
    def count(self) -> int:
        """The number of blocks of the job."""
        return -(-self.job["n"] // self.job["block_rows"])

    def rows_of(self, number: int) -> tuple[int, int]:
        """The number of a block's first row, and the number of its rows."""
        first = number * self.job["block_rows"]
        return first, min(self.job["block_rows"], self.job["n"] - first)


def read(directory: Path) -> Manifest | None:
    """The manifest of a folder, or None if it has none.

    Raises:
      ValueError: it is damaged, of a newer format, or no manifest.
      OSError: it cannot be read.
    """
    path = directory / FOLDER / _MANIFEST
    try:
        content = signed_json.read(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        job, complete = content["job"], content["complete"]
        if not isinstance(complete, bool):
            raise ValueError("complete is neither true nor false")
        _check_job(job)
        manifest = Manifest(job, (), complete)
        blocks = tuple(map(_block, content["blocks"]))
        if len(blocks) != (manifest.count if complete else 0):
            raise ValueError(f"it lists {len(blocks)} blocks, of {manifest.count}")
        for number, block in enumerate(blocks):
            _check_block(manifest, number, block)
        return manifest._replace(blocks=blocks)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"{path}: damaged: {signed_json.reason(error)}") from error


def create(directory: Path, job: Mapping[str, Any]) -> bool:
    """Write the manifest of a new job; False if another process has written one meanwhile."""
    try:
        signed_json.write(directory / FOLDER / _MANIFEST, _content(job, [], False), replace=False)
    except FileExistsError:
        return False
    return True


def finished(directory: Path, manifest: Manifest) -> dict[int, Block]:
    """The finished blocks by number, whose files are there and have the right sizes.

    They are those of a complete manifest, or of the records of all writers.

    Raises:
      ValueError: a record is damaged or of another job, or two differ.
      OSError: a record or the folder cannot be read.
    """
    sizes = {entry.name: entry.stat().st_size for entry in os.scandir(directory)}
    found: dict[int, Block] = {}
    for number, block in recorded(directory, manifest):
        if all(sizes.get(file.name) == file.size for file in block.files):
            check_same(directory, number, block, found.setdefault(number, block))
    return found


def recorded(directory: Path, manifest: Manifest) -> Iterator[tuple[int, Block]]:
    """The blocks that were finished, with their numbers; several writers may have the same ones.

    Raises:
      ValueError, OSError: as in ``finished``.
    """
    if manifest.complete:
        yield from enumerate(manifest.blocks)
        return
    for path in _records(directory):
        try:
            content = signed_json.read(path)
        except FileNotFoundError:  # removed since by the writer that has completed the manifest
            continue
        try:
            if content["job"] != job_digest(manifest.job):
                raise ValueError("it is of another job")
            blocks = [(number, _block(block)) for number, *block in content["blocks"]]
            for number, block in blocks:
                _check_block(manifest, number, block)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            why = signed_json.reason(error)
            raise ValueError(
                f"{path}: damaged: {why}; remove it, and its blocks are drawn again"
            ) from error
        yield from blocks


def check_same(directory: Path, number: int, block: Block, other: Block) -> None:
    """Raise if a block was drawn twice with other bytes."""
    if block != other:
        raise ValueError(
            f"{directory}: block {number} was drawn twice, with other bytes: draw all blocks on "
            "processors with the same instructions"
        )


def write_record(
    directory: Path, manifest: Manifest, first: int, stop: int, blocks: Mapping[int, Block]
) -> None:
    """Write the record of the finished blocks of the writer of blocks first .. stop - 1."""
    reach("before the record of blocks")
    listed = [[number, *blocks[number]] for number in sorted(blocks)]
    content = {"job": job_digest(manifest.job), "blocks": listed}
    signed_json.write(directory / FOLDER / f"blocks-{first}-{stop}.json", content)
    reach("after the record of blocks")


def complete(directory: Path, manifest: Manifest) -> Manifest:
    """The manifest, written as complete if all blocks are finished; and records are removed.

    Several writers may do so at once, as they write the same.
    """
    found = finished(directory, manifest)
    if len(found) < manifest.count:
        newest = read(directory)
        if newest is None or not newest.complete:
            return manifest
        manifest, found = newest, dict(enumerate(newest.blocks))
    blocks = tuple(found[number] for number in range(manifest.count))
    if not manifest.complete:
        reach("before the manifest")
        signed_json.write(directory / FOLDER / _MANIFEST, _content(manifest.job, blocks, True))
        reach("after the manifest")
    for path in _records(directory):
        path.unlink(missing_ok=True)
        reach("between the records to remove")
    for folder in (directory, directory / FOLDER):
        remove_abandoned(folder, other_hosts_after=_HOUR)
    return manifest._replace(blocks=blocks, complete=True)


def job_digest(job: Mapping[str, Any]) -> str:
    """The SHA-256 of a job."""
    return hashlib.sha256(signed_json.canonical(job)).hexdigest()


def _content(job: Mapping[str, Any], blocks: Any, is_complete: bool) -> dict[str, Any]:
    return {"job": dict(job), "complete": is_complete, "blocks": list(blocks)}


def _records(directory: Path) -> Iterator[Path]:
    for name in sorted(os.listdir(directory / FOLDER)):
        if _RECORD.fullmatch(name):
            yield directory / FOLDER / name


def _check_job(job: Any) -> None:
    """Raise unless a job has the values that reading the blocks needs."""
    for name, kind in (("n", int), ("block_rows", int), ("file_format", str), ("columns", dict)):
        if type(job[name]) is not kind:
            raise ValueError(f"the job's {name} is {job[name]!r:.40}")
    if not 0 < job["block_rows"] <= job["n"]:
        raise ValueError(f"block_rows is {job['block_rows']}, for {job['n']} rows")


def _check_block(manifest: Manifest, number: int, block: Block) -> None:
    if type(number) is not int or not 0 <= number < manifest.count:
        raise ValueError(f"there is no block {number!r:.40}")
    if block.rows != manifest.rows_of(number)[1]:
        raise ValueError(f"block {number} has {block.rows} rows")


def _block(block: Any) -> Block:
    rows, files = block
    if type(rows) is not int or not files:
        raise ValueError(f"no valid block: {block!r:.60}")
    return Block(rows, tuple(map(_file, files)))


def _file(file: Any) -> File:
    name, size, sha256 = file
    # a name with a path in it could lead out of the folder
    if not (
        _NAME.fullmatch(name) and type(size) is int and size >= 0 and _SHA256.fullmatch(sha256)
    ):
        raise ValueError(f"no valid file: {file!r:.60}")
    return File(name, size, sha256)
