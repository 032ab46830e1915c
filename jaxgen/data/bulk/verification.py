"""``verify``: the files of a folder of events, compared with its manifest."""

from __future__ import annotations

import collections
import hashlib
import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from jaxgen.core.bars import bar, check_progress
from jaxgen.data.bulk import manifest as manifests
from jaxgen.data.bulk.manifest import Block, File, Manifest

_THREADS = 8  # most threads that read and hash files
_TOGETHER = 1024  # files that wait for the threads at a time


class Verified(NamedTuple):
    """What ``verify`` has compared; as a str a sentence.

    Attributes:
      rows: number of events in the blocks that are there.
      blocks: number of these blocks.
      bytes: of their files.
      missing: number of blocks that are not finished yet.

    >>> print(Verified(rows=1000, blocks=2, bytes=8192, missing=0))
    1,000 events in 2 blocks, 8,192 bytes: all are as they were written
    """

    rows: int
    blocks: int
    bytes: int
    missing: int

    def __str__(self) -> str:
        state = f"unfinished, {_blocks(self.missing)} missing" if self.missing else ""
        found = f"{self.rows:,} events in {_blocks(self.blocks)}, {self.bytes:,} bytes: "
        return found + (f"{state}; the others" if state else "all") + " are as they were written"


def _blocks(count: int) -> str:
    return f"{count:,} block{'s' if count != 1 else ''}"


class Damage(NamedTuple):
    """Why a file is not as it was written.

    Attributes:
      kind: such as "missing", to count.
      reason: the end of a sentence about the file.
    """

    kind: str
    reason: str


def verify(directory: str | os.PathLike[str], *, progress: bool | None = None) -> Verified:
    """Compare the sizes and the SHA-256 of the files of a folder with its manifest.

    The finished blocks of an unfinished folder are compared too.

    Args:
      directory: a folder that ``jaxgen.generate`` has filled.
      progress: show a bar; by default on a terminal, in a run over two seconds.

    Returns:
      ``Verified(rows, blocks, bytes, missing)``.

    Raises:
      FileNotFoundError: the folder holds no events.
      ValueError: a file is missing or has other bytes, a complete folder has a file more, which
        readers would take for a block, or the manifest is damaged. The message names the first such
        file, and says how many there are.
      OSError: a file cannot be read.

    >>> events = jaxgen.generate(fitted, 1000, "verified", key=jax.random.key(0))
    >>> verify("verified").rows
    1000
    """
    check_progress(progress)
    directory = Path(directory)
    manifest = opened(directory)
    blocks: dict[int, Block] = {}
    for number, block in manifests.recorded(directory, manifest):
        manifests.check_same(directory, number, block, blocks.setdefault(number, block))
    files = [file for _, block in sorted(blocks.items()) for file in block.files]
    size = sum(file.size for file in files)
    bad = list(_damages(directory, files, size, progress))
    if manifest.complete:
        bad += _unlisted(directory, files)
    if bad:
        name, damage = bad[0]
        kinds = collections.Counter(damage.kind for _, damage in bad)
        counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
        more = f"; of {len(files):,} files in the manifest: {counts}" if len(bad) > 1 else ""
        raise ValueError(f"{directory / name} {damage.reason}{more}")
    rows = sum(block.rows for block in blocks.values())
    return Verified(rows, len(blocks), size, manifest.count - len(blocks))


def opened(directory: Path) -> Manifest:
    """The manifest of a folder.

    Raises:
      FileNotFoundError: the folder has none.
      ValueError, OSError: as in ``manifest.read``.
    """
    manifest = manifests.read(directory)
    if manifest is None:
        why = "it has no manifest" if directory.is_dir() else "there is no such folder"
        raise FileNotFoundError(f"{directory} holds no events of jaxgen.generate: {why}")
    return manifest


def check_block(directory: Path, block: Block) -> None:
    """Raise ValueError if a file of a block is not as it was written."""
    for file in block.files:
        damage = _damage(directory, file)
        if damage is not None:
            raise ValueError(f"{directory / file.name} {damage.reason}")


def digest_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damages(
    directory: Path, files: list[File], size: int, progress: bool | None
) -> Iterator[tuple[str, Damage]]:
    """The name and the damage of each file that is not as it was written, in order."""
    with (
        bar("verify", show=progress, total=size, unit="B", unit_scale=True) as shown,
        ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1), "jaxgen-verify") as pool,
    ):
        for start in range(0, len(files), _TOGETHER):
            some = files[start : start + _TOGETHER]
            found = pool.map(_damage, itertools.repeat(directory), some)
            for file, damage in zip(some, found, strict=True):
                shown.update(file.size)
                if damage is not None:
                    yield file.name, damage


def _damage(directory: Path, file: File) -> Damage | None:
    """The damage of a file, or None if it is as it was written."""
    path = directory / file.name
    try:
        size = path.stat().st_size
        if size != file.size:
            reason = f"is damaged: it has {size:,} bytes, and {file.size:,} were written"
            return Damage("of another size", reason)
        if digest_of(path) != file.sha256:
            reason = "is damaged: its bytes are not those that were written (by their SHA-256)"
            return Damage("with other bytes", reason)
    except (FileNotFoundError, IsADirectoryError):
        return Damage("missing", "is missing")
    return None


def _unlisted(directory: Path, files: list[File]) -> list[tuple[str, Damage]]:
    """The files that readers of the folder would take for blocks, though the manifest has none."""
    listed = {file.name for file in files}
    endings = {os.path.splitext(name)[1] for name in listed}
    damage = Damage(
        "not in the manifest", "is not in the manifest, and readers take it for a block"
    )
    found = []
    for folder, folders, names in os.walk(directory):
        folders[:] = [name for name in folders if name[0] not in "._"]
        paths = (os.path.relpath(os.path.join(folder, name), directory) for name in names)
        found += [path for path in paths if os.path.basename(path)[0] not in "._"]
    return [
        (path, damage)
        for path in sorted(found)
        if path not in listed and os.path.splitext(path)[1] in endings
    ]
