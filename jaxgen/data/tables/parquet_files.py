"""Tables as Parquet files, which need pyarrow."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from jaxgen.data.tables.records import (
    Columns,
    Format,
    NotANumber,
    Reading,
    Selection,
    Table,
    check_different,
    iso_texts,
)

_INDEX = "__index_level_"  # with which pandas names an index that has no name


@dataclasses.dataclass(frozen=True, eq=False)
class Held:
    """A column as a Parquet file holds it, which is written to another one unchanged.

    Attributes:
      values: the pyarrow.ChunkedArray.
      field: its pyarrow.Field.
      metadata: those of the file, with the types of pandas.
    """

    values: Any
    field: Any
    metadata: dict[bytes, bytes]

    @property
    def is_index(self) -> bool:
        """Whether the column is an index without a name that pandas saved."""
        return bool(self.field.name.startswith(_INDEX))

    def plain(self) -> np.ndarray:
        """The values as NumPy has them: numbers masked where missing, dates, or objects."""
        pyarrow, values = _pyarrow(), self.values
        types, kind = pyarrow.types, values.type
        if types.is_dictionary(kind):
            return dataclasses.replace(self, values=values.cast(kind.value_type)).plain()
        if types.is_floating(kind):
            numbers = values.to_numpy()
            return _masked(numbers, np.isnan(numbers))
        if types.is_integer(kind) or types.is_boolean(kind):
            filled = values.fill_null(False if types.is_boolean(kind) else 0)
            return _masked(filled.to_numpy(), values.is_null().to_numpy())
        if types.is_timestamp(kind) and kind.tz is not None:
            moments = values.cast(pyarrow.timestamp(kind.unit)).to_numpy()
            return _objects(iso_texts(moments, "Z"))
        if types.is_timestamp(kind) or types.is_date(kind) or types.is_duration(kind):
            return np.asarray(values.to_numpy())
        return _objects(values.to_pylist())

    def tolist(self) -> list[Any]:
        """The values as Python objects, None where one is missing."""
        values = self.plain()
        return iso_texts(values) if values.dtype.kind in "mM" else list(values.tolist())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        values = self.plain()
        if np.ma.isMaskedArray(values):
            values = _objects(values.tolist())
        return values if dtype is None else values.astype(dtype)

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.tolist())


def _read(path: Path, selection: Selection, reading: Reading) -> Table:
    pyarrow, table = _pyarrow(), _load(path)
    columns, arrays = selection.columns_of(path, tuple(table.column_names)), []
    others = {}
    for name in columns:
        column = table.column(name)
        if pyarrow.types.is_boolean(column.type):
            column = column.cast(pyarrow.uint8())
        numbers = column.to_numpy()
        if numbers.dtype.kind not in "iuf":
            others[name] = column.type
        arrays.append(numbers)
    if others:
        name = next(iter(others))
        message = f"{path}: column {name!r} is {others[name]}, not numbers"
        raise NotANumber(message, dict.fromkeys(others, ()), list(others))
    label = selection.label
    labels = None if label is None else np.asarray(_held(table, label))
    return Table(columns, np.stack(arrays, 1), labels)


def _cells(path: Path, reading: Reading) -> dict[str, Any]:
    table = _load(path, with_index=True)
    check_different(path, table.column_names)
    return {name: _held(table, name) for name in table.column_names}


def _names(path: Path, reading: Reading) -> tuple[str, ...]:
    names = _open(path, lambda file: file.schema_arrow.names)
    return tuple(name for name in names if not name.startswith(_INDEX))


def _held(table: Any, name: str) -> Held:
    return Held(table.column(name), table.schema.field(name), table.schema.metadata or {})


def _masked(values: np.ndarray, missing: np.ndarray) -> np.ndarray:
    return np.ma.masked_array(values, missing) if missing.any() else values


def _objects(values: list[Any]) -> np.ndarray:
    found = np.empty(len(values), object)
    found[:] = values
    return found


def _load(path: Path, with_index: bool = False) -> Any:
    """The table of a file; an index without a name that pandas saved is left out, or comes last."""
    table = _open(path, lambda file: file.read())
    index = [j for j, n in enumerate(table.column_names) if n.startswith(_INDEX)]
    kept = [j for j in range(table.num_columns) if j not in index]
    if not kept:
        raise ValueError(f"{path}: the file has no columns")
    return table.select(kept + index if with_index else kept)


def _open(path: Path, read: Callable[[Any], Any]) -> Any:
    """The result of a function of the pyarrow.parquet.ParquetFile at a path."""
    pyarrow = _pyarrow()
    with open(path, "rb") as file:
        try:
            return read(pyarrow.parquet.ParquetFile(file))
        except (pyarrow.ArrowException, OSError) as error:  # OSError: damaged metadata
            raise ValueError(f"{path}: {error}") from error


def _write(file: IO[bytes], values: Any, columns: Columns) -> None:
    pyarrow = _pyarrow()
    if not isinstance(values, dict):
        names = columns or [f"x{j}" for j in range(values.shape[1])]
        values = dict(zip(names, values.T, strict=True))
    arrays, fields = [], []
    for name, column in values.items():
        if isinstance(column, Held):
            array, field = column.values, column.field.with_name(name)
        else:
            mask = np.ma.getmaskarray(column) if np.ma.isMaskedArray(column) else None
            array = pyarrow.array(np.ascontiguousarray(np.ma.getdata(column)), mask=mask)
            field = pyarrow.field(name, array.type)
        arrays.append(array)
        fields.append(field)
    schema = pyarrow.schema(fields, metadata=_metadata(values))
    pyarrow.parquet.write_table(pyarrow.table(arrays, schema=schema), file)


class Encoder:
    """Makes the content of Parquet files of columns without missing values.

    For many files that are written fast: numbers are neither compressed, as random digits hardly
    can be, nor summarised, and the memory of one file serves for the next.
    """

    def __init__(self) -> None:
        self._memory: Any = None

    def encode(self, columns: dict[str, Any]) -> Any:
        """The content of a file, a buffer that lasts until the next call.

        Args:
          columns: arrays of numbers (n,), or (n, ...) for nested lists of fixed sizes; lists of
            str; or arrays of pyarrow.
        """
        pyarrow = _pyarrow()
        table, texts = _plain_table(columns)
        sink = pyarrow.BufferOutputStream()
        size = table.nbytes + 2**20 + 2**12 * len(columns)  # of numbers, with the footer
        if not texts:
            if self._memory is None or self._memory.size < size:
                self._memory = pyarrow.allocate_buffer(size)
            sink = pyarrow.FixedSizeBufferWriter(self._memory)
        compression = {name: "zstd" if name in texts else "none" for name in columns}
        pyarrow.parquet.write_table(
            table, sink, row_group_size=max(len(table), 1), use_dictionary=texts,
            write_statistics=False, compression=compression, write_batch_size=2**20,
        )  # fmt: skip
        if texts:
            return sink.getvalue()
        return memoryview(self._memory)[: sink.tell()]


def _plain_table(columns: dict[str, Any]) -> tuple[Any, list[str]]:
    """The pyarrow.Table of columns, and the names of those that hold texts."""
    pyarrow = _pyarrow()
    arrays, fields, texts = [], [], []
    for name, column in columns.items():
        array = _nested(column) if isinstance(column, np.ndarray) else pyarrow.array(column)
        if pyarrow.types.is_string(array.type):
            texts.append(name)
        arrays.append(array)
        fields.append(pyarrow.field(name, array.type, nullable=False))
    return pyarrow.table(arrays, schema=pyarrow.schema(fields)), texts


def labels_column(numbers: np.ndarray, labels: Sequence[Any]) -> Any:
    """The pyarrow array of labels (n,) that have numbers."""
    pyarrow = _pyarrow()
    return pyarrow.array(list(labels)).take(pyarrow.array(np.ascontiguousarray(numbers)))


def _nested(array: np.ndarray) -> Any:
    """The pyarrow array of numbers (n, ...): lists of a fixed size for each axis but the first."""
    pyarrow = _pyarrow()
    nested = pyarrow.array(np.ascontiguousarray(array).reshape(-1))
    for size in reversed(array.shape[1:]):
        nested = pyarrow.FixedSizeListArray.from_arrays(nested, size)
    return nested


def _metadata(columns: dict[str, Any]) -> dict[bytes, bytes] | None:
    """The metadata of the file that columns come from, as far as they apply to the columns."""
    held = {name: column for name, column in columns.items() if isinstance(column, Held)}
    if not held:
        return None
    found = dict(next(iter(held.values())).metadata)
    try:
        pandas = json.loads(found.pop(b"pandas"))
        names = {entry["field_name"] for entry in pandas["columns"]}
        kept = [_entry(entry, columns) for entry in pandas["columns"]
                if entry["field_name"] in columns]  # fmt: skip
        whole = names <= set(columns)
        index = pandas["index_columns"] if whole else []
        notes = json.dumps({**pandas, "columns": kept, "index_columns": index})
    except (KeyError, TypeError, ValueError):  # not written by pandas
        return None
    return {**(found if whole else {}), b"pandas": notes.encode()}


def _entry(entry: dict[str, Any], columns: dict[str, Any]) -> dict[str, Any]:
    """What pandas notes about the type of a column, which a new column changes."""
    column = columns[entry["field_name"]]
    if isinstance(column, Held):
        return entry
    return {**entry, "pandas_type": str(column.dtype), "numpy_type": str(column.dtype),
            "metadata": None}  # fmt: skip


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        message = "Parquet needs the package pyarrow: pip install 'jaxgen[parquet]'"
        raise ImportError(message) from None
    return pyarrow


PARQUET = Format(
    ".parquet", _read, _cells, _write, _names, check_installed=_pyarrow,
    keeps=lambda column: isinstance(column, Held),
)  # fmt: skip
