"""Reading of the files of a block, as columns of which rows can be taken."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxgen.data.bulk.manifest import Block, Manifest
from jaxgen.data.bulk.verification import check_block
from jaxgen.data.tables.parquet_files import PARQUET


class Column(Protocol):
    """The values of a block's rows."""

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""

    def at(self, row: int) -> Any:
        """The value of a row."""

    def take(self, rows: slice | np.ndarray) -> Any:
        """The values of rows, as an array or a list."""


class Numbers(NamedTuple):
    """Numbers (rows, ...)."""

    values: np.ndarray

    @property
    def nbytes(self) -> int:
        return 0 if isinstance(self.values.base, np.memmap) else self.values.nbytes

    def at(self, row: int) -> Any:
        return self.values[row].copy()

    def take(self, rows: slice | np.ndarray) -> np.ndarray:
        return np.array(self.values[rows])


class Labels(NamedTuple):
    """Labels by their numbers (rows,), and the names of all labels."""

    numbers: np.ndarray
    names: np.ndarray

    @property
    def nbytes(self) -> int:
        return Numbers(self.numbers).nbytes

    def at(self, row: int) -> Any:
        return self.names[self.numbers[row]].item()

    def take(self, rows: slice | np.ndarray) -> np.ndarray:
        return self.names[self.numbers[rows]]


class Texts(NamedTuple):
    """Texts, in an array of pyarrow."""

    values: Any

    @property
    def nbytes(self) -> int:
        return int(self.values.nbytes)

    def at(self, row: int) -> str:
        return str(self.values[row].as_py())

    def take(self, rows: slice | np.ndarray) -> list[str]:
        some = self.values[rows] if isinstance(rows, slice) else self.values.take(rows)
        return list(some.to_pylist())


def read_block(directory: Path, manifest: Manifest, number: int, check: bool) -> dict[str, Column]:
    """The columns "x", "y" and "log_prob" of a block, as far as its job has them.

    Args:
      check: whether to compare the sizes and the bytes of the files with the manifest.

    Raises:
      ValueError: a file is missing or damaged; the message names it.
      OSError: a file cannot be read.
    """
    block, job = manifest.blocks[number], manifest.job
    if check:
        check_block(directory, block)
    read = _read_parquet if job["file_format"] == "parquet" else _read_npy
    path = directory / block.files[0].name
    try:
        found = read(directory, manifest, block)
        columns = job["columns"]
        names = {"x": columns["x"], "y": columns["y"], "log_prob": columns["log_prob"]}
        if set(found) != {name for name, listed in names.items() if listed}:
            raise ValueError(f"its block has {', '.join(found)}")
        shape = found["x"].values.shape[1:] if isinstance(found["x"], Numbers) else None
        if shape is not None and math.prod(shape) != math.prod(job["event_shape"]):
            raise ValueError(f"its events have shape {shape}")
    except (ValueError, TypeError, LookupError) as error:  # errors of pyarrow are ValueErrors
        raise ValueError(f"{path} does not hold what the manifest says: {error}") from error
    return found


def numbers_of(column: Any) -> np.ndarray:
    """The numbers (rows,), or (rows, ...) of nested lists, of a pyarrow.ChunkedArray.

    Raises:
      ValueError: lists of several lengths.
    """
    pyarrow = PARQUET.check_installed()
    array = column.combine_chunks()
    shape = [len(array)]
    while (size := _list_size(array)) is not None:
        array = array.flatten()
        shape.append(size)
    if pyarrow.types.is_boolean(array.type):
        array = array.cast(pyarrow.uint8())
    return np.asarray(array.to_numpy(zero_copy_only=False)).reshape(shape)


def _list_size(array: Any) -> int | None:
    """The one length of the lists in a pyarrow.Array, or None if it holds no lists."""
    types = PARQUET.check_installed().types
    if types.is_fixed_size_list(array.type):
        return int(array.type.list_size)
    if not (types.is_list(array.type) or types.is_large_list(array.type)):
        return None
    sizes = array.value_lengths().unique().to_pylist()
    if len(sizes) > 1:
        raise ValueError("its lists have several lengths")
    return int(sizes[0]) if sizes else 0


def _read_parquet(directory: Path, manifest: Manifest, block: Block) -> dict[str, Column]:
    pyarrow, job = PARQUET.check_installed(), manifest.job
    columns, labels = job["columns"], job["labels"]
    has_texts = bool(labels) and isinstance(labels[0], str)
    y = columns["y"]
    with pyarrow.parquet.ParquetFile(
        directory / block.files[0].name,
        memory_map=True,
        pre_buffer=False,
        read_dictionary=y if has_texts else None,
    ) as file:
        names, rows = file.schema_arrow.names, file.metadata.num_rows
        last = [] if columns["log_prob"] is None else [columns["log_prob"]]
        if names != [*columns["x"], *y, *last] or rows != block.rows:
            raise ValueError(f"it has {rows:,} rows of the columns {', '.join(names)}")
        table = file.read()
    found: dict[str, Column] = {}
    events = [table.column(name) for name in columns["x"]]
    if pyarrow.types.is_string(events[0].type):
        found["x"] = Texts(events[0].combine_chunks())
    else:
        found["x"] = Numbers(_stacked(events, job["event_shape"]))
    if y and has_texts:
        found["y"] = _labels(table.column(y[0]).combine_chunks(), labels)
    elif y and labels is not None:
        found["y"] = Numbers(table.column(y[0]).to_numpy())
    elif y:
        found["y"] = Numbers(_stacked([table.column(name) for name in y], job["y_shape"]))
    if last:
        found["log_prob"] = Numbers(numbers_of(table.column(last[0])))
    return found


def _read_npy(directory: Path, manifest: Manifest, block: Block) -> dict[str, Column]:
    found: dict[str, Column] = {}
    labels = manifest.job["labels"]
    for file in block.files:
        array = np.load(directory / file.name, mmap_mode="r", allow_pickle=False)
        array = array.view(np.ndarray)  # whose rows are faster to take
        if array.shape[:1] != (block.rows,):
            raise ValueError(f"{file.name} has shape {array.shape}")
        name = file.name.rpartition("-")[0]
        found[name] = Numbers(array)
        if name == "y" and labels is not None:
            if array.min() < 0 or array.max() >= len(labels):
                raise ValueError(f"{file.name} has numbers of no label")
            found[name] = Labels(array, np.array(labels))
    return found


def _stacked(columns: list[Any], shape: list[int]) -> np.ndarray:
    """The numbers (rows, *shape) of columns, or (rows, ...) of one column of nested lists."""
    arrays = [numbers_of(column) for column in columns]
    if arrays[0].ndim > 1:
        return arrays[0]
    return np.stack(arrays, 1).reshape(len(arrays[0]), *shape)


def _labels(column: Any, labels: list[str]) -> Labels:
    """The labels of a column of dictionary type."""
    place = {name: number for number, name in enumerate(labels)}
    numbers = np.array([place[name] for name in column.dictionary.to_pylist()], np.int32)
    return Labels(numbers[column.indices.to_numpy()], np.array(labels))
