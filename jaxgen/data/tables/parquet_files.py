"""Tables as Parquet files, which need pyarrow."""

from __future__ import annotations

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
)


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
    labels = None if selection.label is None else table.column(selection.label).to_numpy()
    return Table(columns, np.stack(arrays, 1), labels)


def _cells(path: Path, reading: Reading) -> dict[str, np.ndarray]:
    table = _load(path)
    check_different(path, table.column_names)
    return {name: table.column(name).to_numpy() for name in table.column_names}


def _load(path: Path) -> Any:
    """The table of a file, without an index that pandas saved."""
    pyarrow = _pyarrow()
    with open(path, "rb") as file:
        try:
            table = pyarrow.parquet.ParquetFile(file).read()
        except (pyarrow.ArrowException, OSError) as error:  # OSError: damaged metadata
            raise ValueError(f"{path}: {error}") from error
    kept = [j for j, n in enumerate(table.column_names) if not n.startswith("__index_level_")]
    if not kept:
        raise ValueError(f"{path}: the file has no columns")
    return table.select(kept)


def _write(file: IO[bytes], values: Any, columns: Columns) -> None:
    pyarrow = _pyarrow()
    if not isinstance(values, dict):
        names = columns or [f"x{j}" for j in range(values.shape[1])]
        values = dict(zip(names, values.T, strict=True))
    arrays = [pyarrow.array(np.ascontiguousarray(v)) for v in values.values()]
    pyarrow.parquet.write_table(pyarrow.table(arrays, names=list(values)), file)


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        message = "Parquet needs the package pyarrow: pip install 'jaxgen[parquet]'"
        raise ImportError(message) from None
    return pyarrow


PARQUET = Format(".parquet", _read, _cells, _write, check_installed=_pyarrow)
