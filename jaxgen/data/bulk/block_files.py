"""The files of a block: Parquet, or NumPy arrays."""

from __future__ import annotations

import hashlib
import io
import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxgen.data.bulk.manifest import Block, File
from jaxgen.data.output import reach, write_atomically
from jaxgen.data.tables import parquet_files

FILE_FORMATS = ("parquet", "npy")
_PIECE = 2**22  # bytes that are written at once
_of_thread = threading.local()  # the encoder of each thread


class Arrays(NamedTuple):
    """The values of a block's rows, in NumPy arrays.

    Attributes:
      pieces: events (rows, *event_shape), in arrays that follow each other; for texts their tokens.
      y: conditions (rows, *y_shape), or numbers of labels (rows,), or None.
      log_prob: log densities (rows,), or None.
    """

    pieces: Sequence[np.ndarray]
    y: np.ndarray | None = None
    log_prob: np.ndarray | None = None

    @property
    def rows(self) -> int:
        """The number of rows."""
        return sum(map(len, self.pieces))

    @property
    def x(self) -> np.ndarray:
        """All events."""
        return self.pieces[0] if len(self.pieces) == 1 else np.concatenate(self.pieces)


class Layout(NamedTuple):
    """How the arrays of a block become columns, or files of their own.

    Attributes:
      file_format: "parquet" or "npy".
      x: names of the columns of events: of each feature, or of the one that has all of them.
      y: names of the columns of conditions or labels.
      log_prob: name of the column of log densities, or None.
    """

    file_format: str
    x: tuple[str, ...]
    y: tuple[str, ...] = ()
    log_prob: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The names, as a manifest holds them."""
        return {"x": list(self.x), "y": list(self.y), "log_prob": self.log_prob}


def layout_of(fitted: Any, file_format: str, has_y: bool, log_prob: bool) -> Layout:
    """The layout of the blocks of a fitted model."""
    model = fitted.model
    x = np.zeros((1, *model.event_shape), np.int32 if fitted.vocabulary is not None else np.float32)
    y = np.zeros((1, *(model.y_shape or ())), np.int32) if has_y else None
    names = list(fitted.named_columns(x, y))
    count = math.prod(model.y_shape or ()) if has_y else 0
    features, conditions = names[: len(names) - count], names[len(names) - count :]
    if _is_one_column(fitted):
        features = ["x" if fitted.pixels is None else "image"]
    taken = [*features, *conditions]
    column = "log_prob"
    while column in taken:
        column += "_"
    return Layout(file_format, tuple(features), tuple(conditions), column if log_prob else None)


def write_block(
    directory: Path, fitted: Any, layout: Layout, number: int, width: int, arrays: Arrays
) -> Block:
    """Write the files of a block, each of them whole and on disk or not at all.

    Args:
      number: of the block.
      width: number of digits in the names of files.
    """
    files = []
    for name, content in encoded(fitted, layout, arrays):
        view = memoryview(content)
        path = directory / f"{name}-{number:0{width}}.{layout.file_format}"
        with write_atomically(path, remove_stale=False, cached=False, keep=False) as file:
            for start in range(0, len(view), _PIECE):
                if start:
                    reach("in the middle of a block")
                file.write(view[start : start + _PIECE])
            reach("in the middle of a block")
        files.append(File(path.name, len(view), hashlib.sha256(view).hexdigest()))
    return Block(arrays.rows, tuple(files))


def encoded(fitted: Any, layout: Layout, arrays: Arrays) -> list[tuple[str, Any]]:
    """The names and contents of the files of a block."""
    return (_parquet if layout.file_format == "parquet" else _npy)(fitted, layout, arrays)


def _parquet(fitted: Any, layout: Layout, arrays: Arrays) -> list[tuple[str, Any]]:
    if not hasattr(_of_thread, "encoder"):
        _of_thread.encoder = parquet_files.Encoder()
    return [("block", _of_thread.encoder.encode(_columns(fitted, layout, arrays)))]


def _columns(fitted: Any, layout: Layout, arrays: Arrays) -> dict[str, Any]:
    """The columns (rows,), or (rows, *shape), of a block by name."""
    columns: dict[str, Any] = {}
    if fitted.vocabulary is not None:
        columns[layout.x[0]] = fitted.vocabulary.decode(arrays.x)
    elif _is_one_column(fitted):
        columns[layout.x[0]] = _as_pixels(fitted, arrays.x)
    else:
        parts = [_split(piece) for piece in arrays.pieces]  # joined by column, with one copy
        columns |= zip(layout.x, map(np.concatenate, zip(*parts, strict=True)), strict=True)
    if arrays.y is not None and fitted.model.classes is not None:
        columns[layout.y[0]] = parquet_files.labels_column(arrays.y, fitted.labels)
    elif arrays.y is not None:
        columns |= zip(layout.y, _split(arrays.y), strict=True)
    if layout.log_prob is not None:
        columns[layout.log_prob] = arrays.log_prob
    return columns


def _npy(fitted: Any, layout: Layout, arrays: Arrays) -> list[tuple[str, Any]]:
    found = []
    x = _as_pixels(fitted, arrays.x)
    for name, array in {"x": x, "y": arrays.y, "log_prob": arrays.log_prob}.items():
        if array is not None:
            file = io.BytesIO()
            np.save(file, array, allow_pickle=False)
            found.append((name, file.getbuffer()))
    return found


def _is_one_column(fitted: Any) -> bool:
    """Whether all features are in one column: those of images, matrices and the like."""
    return fitted.pixels is not None or len(fitted.model.event_shape) > 1


def _as_pixels(fitted: Any, x: np.ndarray) -> np.ndarray:
    """Images of 8 bits, if events are levels of pixels."""
    return x if fitted.pixels is None else np.asarray(fitted.pixels.decode(x))


def _split(array: np.ndarray) -> list[np.ndarray]:
    """The numbers of rows (n, ...) as columns (n,)."""
    return list(array.reshape(len(array), -1).T)
