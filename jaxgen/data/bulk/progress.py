"""The progress of a writer of blocks: a bar, and the record of finished blocks in the folder."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Any

from jaxgen.core.bars import bar
from jaxgen.data.bulk import manifest as manifests
from jaxgen.data.bulk.manifest import Block, Manifest

_PAUSE = 5.0  # least seconds between two records
_SHARE = 0.05  # largest share of the time that writing records may take


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
        self._known = dict(manifests.recorded(directory, manifest))
        self._due, self._changed = time.monotonic() + _PAUSE, False
        self._lock = threading.Lock()
        last, count = manifest.rows_of(stop - 1)
        self._bar: Any = bar(
            "generate",
            show=show,
            total=last + count - manifest.rows_of(first)[0],
            initial=sum(block.rows for block in self._blocks.values()),
            unit=" events",
            unit_scale=True,
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.close()

    def add(self, number: int, block: Block) -> None:
        """Count a finished block, and write the record if the last one was some seconds ago.

        Raises:
          ValueError: the block was drawn before, with other bytes.
        """
        manifests.check_same(self._place[0], number, block, self._known.get(number, block))
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
                began = time.monotonic()
                manifests.write_record(*self._place, self._blocks)
                self._changed, now = False, time.monotonic()
                self._due = now + max(_PAUSE, (now - began) / _SHARE)

    def stop(self) -> str:
        """Write the record, and return a sentence that says how much is finished."""
        directory, _, first, stop = self._place
        with contextlib.suppress(OSError):
            self.write()
        return (
            f"{len(self._blocks):,} of {stop - first:,} blocks in {directory} are finished; resume "
            "goes on"
        )
