"""``Dataset``: the events of a folder of blocks, by index or in batches."""

from __future__ import annotations

import operator
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.core import inputs
from jaxgen.data.bulk import manifest as manifests
from jaxgen.data.bulk.block_reading import Column, read_block
from jaxgen.data.bulk.verification import opened

_MOST_BYTES = 2**28  # of open blocks, unless one alone has more
_MOST_BLOCKS = 64  # open at the same time


class Dataset:
    """The events of a folder that ``jaxgen.generate`` has filled, read when they are asked for.

    A row is a dict with the event "x", and with "y" and "log_prob" if the folder has them. Several
    rows are a dict of arrays (n, ...). Events are (n, *event_shape) in their dtype. Images have 8
    bits, texts are a list of str, or tokens in a folder of .npy, and labels have their names.

    Files are memory-mapped, and some blocks stay open, of at most 256 MiB together. When a block is
    first opened, its bytes are compared with the manifest.

    A ``torch.utils.data.DataLoader`` takes the dataset as it is, with workers and shuffled. It is
    about ten times as fast if it takes whole batches of rows::

        batches = BatchSampler(RandomSampler(events), 4096, drop_last=False)
        loader = DataLoader(events, sampler=batches, batch_size=None)

    Args:
      directory: the folder.

    Attributes:
      directory: the folder.
      manifest: what it holds: ``manifest.job`` has the arguments of ``generate`` by name.

    Raises:
      FileNotFoundError: the folder holds no events.
      ValueError: its manifest is damaged, or of a newer format. Access to rows raises ValueError if
        the folder is unfinished, or a file of their block is missing or damaged.

    >>> events = jaxgen.generate(fitted, 1000, "dataset", key=jax.random.key(0), log_prob=True)
    >>> events = jaxgen.data.bulk.Dataset("dataset")
    >>> len(events), events.columns, events[-1]["x"].shape, events[:5]["log_prob"].shape
    (1000, ('latitude', 'longitude'), (2,), (5,))
    >>> [len(batch["x"]) for batch in events.batches(400)]
    [400, 400, 200]
    """

    def __init__(self, directory: str | os.PathLike[str]):
        self.directory = Path(directory)
        self.manifest = opened(self.directory)
        self._n, self._block_rows = self.manifest.job["n"], self.manifest.job["block_rows"]
        self._checked: set[int] = set()  # blocks whose bytes have been compared
        self._close()

    def __repr__(self) -> str:
        state = "complete" if self.complete else "unfinished"
        return f"Dataset({str(self.directory)!r}, {len(self):,} events, {state})"

    def __len__(self) -> int:
        return int(self._n)

    @property
    def complete(self) -> bool:
        """Whether all blocks are finished."""
        return self.manifest.complete

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the features, or of the one column that has all of them."""
        return tuple(self.manifest.job["columns"]["x"])

    def __getitem__(self, index: Any) -> dict[str, Any]:
        """A row by its number, or rows by a slice or by numbers (k,); negative ones from the end.

        Raises:
          IndexError: a number is out of range.
          TypeError: an index of another kind.
        """
        if isinstance(index, int):
            return self._row(index)
        if isinstance(index, slice):
            rows = range(self._n)[index]
            if rows.step == 1:
                return self._between(rows.start, rows.stop)
            return self._at(np.arange(rows.start, rows.stop, rows.step))
        return self._row(index) if np.ndim(index) == 0 else self._at(self._indices(index))

    def __getitems__(self, indices: Any) -> list[dict[str, Any]]:
        """Rows by their numbers as a list of dicts, which torch's ``DataLoader`` collates."""
        rows = self[list(indices)]
        columns = [v.tolist() if _is_texts(v) else list(v) for v in rows.values()]
        return [dict(zip(rows, row, strict=True)) for row in zip(*columns, strict=True)]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number in range(self.manifest.count):
            columns = self._block(number)
            for row in range(self.manifest.rows_of(number)[1]):
                yield {name: column.at(row) for name, column in columns.items()}

    def batches(self, size: int) -> Iterator[dict[str, Any]]:
        """The rows in order, ``size`` at a time and the rest at the end, in constant memory.

        Raises:
          TypeError, ValueError: size is no int, or below 1.
        """
        size, n = inputs.as_count(size, "size", 1), self._n
        return (self._between(start, min(start + size, n)) for start in range(0, n, size))

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("_open", "_recent", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._close()

    def _close(self) -> None:
        """Start without open blocks."""
        self._open: OrderedDict[int, dict[str, Column]] = OrderedDict()
        self._recent: tuple[int, dict[str, Column]] = (-1, {})
        self._lock = threading.Lock()

    def _row(self, index: Any) -> dict[str, Any]:
        try:
            row = operator.index(index)
        except TypeError:
            raise TypeError(
                f"an index must be an int, a slice or ints (k,), got {index!r:.40}"
            ) from None
        if not -self._n <= row < self._n:
            raise IndexError(f"index {row} is out of range: {self.directory} has {self._n:,} rows")
        number, row = divmod(row % self._n, self._block_rows)
        return {name: column.at(row) for name, column in self._block(number).items()}

    def _indices(self, indices: Any) -> np.ndarray:
        """Numbers of rows, (k,), from 0 on."""
        found = np.asarray(indices)
        if found.shape == (0,):
            found = found.astype(np.int64)
        if found.ndim != 1 or found.dtype.kind not in "iu":
            shape = f"{found.dtype} of shape {found.shape}"
            raise TypeError(f"an index must be an int, a slice or ints (k,), got {shape}")
        outside = (found < -self._n) | (found >= self._n)
        if outside.any():
            row = found[outside.argmax()]
            raise IndexError(f"index {row} is out of range: {self.directory} has {self._n:,} rows")
        return found.astype(np.int64) % self._n

    def _between(self, start: int, stop: int) -> dict[str, Any]:
        if stop <= start:
            start = stop = 0  # the first block has the shapes and dtypes
        size, parts = self._block_rows, []
        for number in range(start // size, max(stop - 1, start) // size + 1):
            rows = slice(max(start - number * size, 0), stop - number * size)
            parts.append(_taken(self._block(number), rows))
        return _joined(parts)

    def _at(self, rows: np.ndarray) -> dict[str, Any]:
        if not len(rows):
            return self._between(0, 0)
        order = np.argsort(rows, kind="stable")
        numbers, within = np.divmod(rows[order], self._block_rows)
        starts = np.flatnonzero(np.diff(numbers, prepend=-1))
        parts = [
            _taken(self._block(int(numbers[some[0]])), within[some])
            for some in np.split(np.arange(len(rows)), starts[1:])
        ]
        place = np.argsort(order, kind="stable")
        return {
            name: [v[i] for i in place] if isinstance(v, list) else v[place]
            for name, v in _joined(parts).items()
        }

    def _block(self, number: int) -> dict[str, Column]:
        """The columns of a block, which stays open for a while."""
        recent, columns = self._recent
        if recent == number:
            return columns
        with self._lock:
            if number not in self._open:
                self._check_complete()
                check = number not in self._checked
                self._open[number] = read_block(self.directory, self.manifest, number, check)
                self._checked.add(number)
            self._open.move_to_end(number)
            columns = self._open[number]
            while len(self._open) > 1 and (len(self._open) > _MOST_BLOCKS or self._is_full()):
                self._open.popitem(last=False)
        self._recent = number, columns
        return columns

    def _is_full(self) -> bool:
        return sum(c.nbytes for block in self._open.values() for c in block.values()) > _MOST_BYTES

    def _check_complete(self) -> None:
        """Raise unless all blocks are finished, perhaps since the folder was opened."""
        if self.complete:
            return
        found = opened(self.directory)
        if found.job != self.manifest.job:
            raise ValueError(f"{self.directory} holds another job now: open it again")
        self.manifest = found
        if not self.complete:
            count = self.manifest.count
            missing = count - len(manifests.finished(self.directory, self.manifest))
            raise ValueError(
                f"{self.directory} is unfinished: {missing:,} of {count:,} blocks are missing; "
                "generate them with resume=True"
            )


def _taken(columns: dict[str, Column], rows: slice | np.ndarray) -> dict[str, Any]:
    return {name: column.take(rows) for name, column in columns.items()}


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows of several blocks, one after the other."""
    if len(parts) == 1:
        return parts[0]
    return {
        name: [text for part in parts for text in part[name]]
        if isinstance(value, list)
        else np.concatenate([part[name] for part in parts])
        for name, value in parts[0].items()
    }


def _is_texts(values: Any) -> bool:
    return isinstance(values, np.ndarray) and values.dtype.kind == "U"
