"""Reading and writing of tables in files of any format.

``FORMATS`` holds a record for each format. A new format is a new record there: this module, the
command line and its help texts know formats from these records alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxgen.core import places
from jaxgen.core.dataframes import unmasked
from jaxgen.data.output import writable, write_atomically
from jaxgen.data.tables import csv_files, numpy_files, parquet_files
from jaxgen.data.tables.records import (
    DEFAULT,
    Columns,
    Format,
    Reading,
    Selection,
    Table,
    check_names,
)

_WHOLE = re.compile(r"(0|-?[1-9][0-9]{0,17})(\.0*)?")  # but not a code such as 007


def read(
    path: str | os.PathLike[str],
    label: str | None = None,
    columns: Columns = None,
    *,
    ignore: Iterable[str] = (),
    reading: Reading = DEFAULT,
) -> Table:
    """Read a table of numbers, and the labels of its events, which may be text.

    - .csv: in UTF-8, read as float64. If a cell of the first line is not a number, that line is a
      header. An empty cell, or a text of a missing value, is NaN; an empty line is skipped.
    - .npy: one array (n, ...), without names.
    - .npz: the array "x", or the only array, and the names in "columns". Pickled objects are
      refused.
    - .parquet: columns of numbers, in their common dtype; null is NaN. An index that pandas saved
      (``__index_level_0__``) is left out. Needs ``pip install jaxgen[parquet]``.

    Args:
      path: the file; its ending, in upper or lower case, sets the format.
      label: the name of the column of labels, or of an array in an .npz, which then is not a
        feature. Labels are ints if all of them are whole numbers, else str.
      columns: names of the features to read, in order, if the file has names; other columns are
        ignored and may hold text. None reads all.
      ignore: names of columns that are no features; they may hold text.
      reading: the texts of missing values, and the delimiter of a .csv.

    Returns:
      ``Table(columns, values, labels)``.

    Raises:
      NotANumber, ValueError: the ending is unknown, the file holds no table of numbers or not the
        columns, or a row has no label; for a .csv the message names line and column.
      ImportError: the format needs a package that is not installed, such as pyarrow.
      OSError: the file does not exist or cannot be read.

    >>> columns, values, labels = read("events.csv")
    """
    path = Path(path)
    selection = Selection(label, columns, tuple(ignore))
    names, values, labels = _format(path).read(path, selection, reading)
    if values.dtype.kind not in "biuf" or values.ndim == 0:
        found = f"dtype {values.dtype} and shape {values.shape}"
        raise ValueError(f"{path}: not a table of numbers but an array of {found}")
    if selection.ignore and names is None:
        raise ValueError(f"{path}: its columns have no names, so none can be ignored by name")
    if reading.numbers:
        missing = np.isin(values, reading.numbers)
        values = np.where(missing, np.nan, values) if missing.any() else values
    if label is not None:
        labels = _checked_labels(path, label, labels, len(values), reading)
    return Table(names, values, labels)


def cells(path: str | os.PathLike[str], reading: Reading = DEFAULT) -> dict[str, np.ndarray] | None:
    """All columns of a file by name, {name: (n,)}, as they are; None if they have no names.

    The cells of a .csv are text, and those of other formats are what the format holds.

    Raises:
      ValueError, ImportError, OSError: as in ``read``.

    >>> list(cells("events.csv"))
    ['latitude', 'longitude']
    """
    path = Path(path)
    return _format(path).cells(path, reading)


def row_name(path: str | os.PathLike[str], row: int, reading: Reading = DEFAULT) -> str:
    """The name of a row in error messages: "line 7" of a .csv, else "row 5".

    The file is read again to find the line.

    >>> row_name("events.csv", 5)
    'line 7'
    """
    path = Path(path)
    return _format(path).row_name(path, row, reading) or str(places.row(row))


def write(
    path: str | os.PathLike[str],
    values: ArrayLike | Mapping[str, ArrayLike],
    columns: Columns = None,
) -> None:
    """Write a table, completely or not at all; ``read`` returns the same numbers.

    Args:
      path: the file; its ending sets the format.
      values: numbers (n, d), or (n,) for one column; in an .npy or .npz, (n, ...). Or columns
        {name: (n,)} of numbers or text, which an .npy cannot hold. An .npz saves columns of numbers
        as "x" with their names, and every column of text, and every array (n, ...), by itself.
      columns: d names, if values is an array. An .npy does not save them; a .parquet without names
        gets x0, x1, ...

    Raises:
      ValueError: the ending is unknown, or the format cannot hold values of the shape or the names.
      ImportError: the format needs a package that is not installed, such as pyarrow.
      OSError: the file cannot be written.

    >>> write("samples.csv", fitted.sample(jax.random.key(0), 1000), ("latitude", "longitude"))
    >>> write("labels.csv", {"row": np.arange(3), "kind": ["pear", "apple", "pear"]})
    """
    path = Path(path)
    values = _prepared(path, values, columns)
    with write_atomically(path) as file:
        _format(path).write(file, values, columns)


def _prepared(path: Path, values: Any, columns: Columns) -> Any:
    """The values as the format of the path takes them; raises if it cannot."""
    table_format = _format(path)
    if isinstance(values, Mapping):
        return _prepared_columns(path, table_format, values)
    values = _storable(values)
    flat = not table_format.events_of_any_shape
    if values.ndim == 1 and (flat or columns is not None):
        values = values[:, None]
    if values.ndim == 0 or (flat and values.ndim > 2):
        others = " or ".join(f.ending for f in FORMATS if f.events_of_any_shape)
        raise ValueError(f"{path}: cannot hold values of shape {values.shape}; use {others}")
    if columns is not None:
        check_names(path, tuple(columns), values)
        table_format.check_columns(tuple(columns))
    return values


def _prepared_columns(path, table_format, values):
    if not table_format.holds_names:
        others = ", ".join(f.ending for f in FORMATS if f.holds_names)
        raise ValueError(f"{path}: cannot hold columns with names; use one of {others}")
    found = {name: _storable(column) for name, column in values.items()}
    shapes = {column.shape for column in found.values()}
    vectors = table_format.events_of_any_shape or all(len(shape) == 1 for shape in shapes)
    if () in shapes or not vectors or len({shape[0] for shape in shapes}) > 1:
        raise ValueError(f"{path}: columns must have one length, (n,), got shapes {shapes}")
    table_format.check_columns(tuple(found))
    return found


def _storable(values):
    """Values as an array of numbers or text that every format has."""
    values = np.asarray(unmasked(values))
    if values.dtype.kind in "biufUO":
        return values
    return values.astype(np.float32)  # from bfloat16, which no format has


def holds_names(path: str | os.PathLike[str]) -> bool:
    """Whether the format of a path holds the names of columns, and text.

    >>> holds_names("x.csv"), holds_names("x.npy")
    (True, False)
    """
    return _format(Path(path)).holds_names


def check_output(
    path: str | os.PathLike[str],
    others: Iterable[str | os.PathLike[str] | None] = (),
    values: Any = None,
    columns: Columns = None,
) -> None:
    """Raise if ``write`` could not write to the path; for use before long work.

    Args:
      path: the file to write.
      others: other files that the work reads or writes, which must not be the same file.
      values: a table without rows of the shape of the result, as in ``write``, if it is known.
      columns: its names.

    Raises:
      ValueError: the ending is unknown, or the format cannot hold values of the shape or the names.
      ImportError: the format needs a package that is not installed, such as pyarrow.
      OSError: the file cannot be written, or is one of ``others``.

    >>> check_output("samples.csv", others=["events.csv"])
    """
    _format(Path(path)).check_installed()
    if values is not None:
        _prepared(Path(path), values, columns)
    writable(path, others)


def endings() -> str:
    """The endings of all formats in words.

    >>> endings()
    '.csv, .npy, .npz or .parquet'
    """
    *most, last = (table_format.ending for table_format in FORMATS)
    return f"{', '.join(most)} or {last}"


def _checked_labels(path, label, raw, n, reading):
    """The labels as int64 if all of them, numbers or text, are whole numbers, else as str."""
    if raw.shape != (n,):
        raise ValueError(f"{path}: {label!r} must have shape ({n},), got {raw.shape}")
    names = raw.tolist()
    missing = {"", *reading.na}
    for row, name in enumerate(names):
        if name is None or name != name or str(name) in missing:
            raise ValueError(f"{path}: {label!r} has no label in {row_name(path, row, reading)}")
        if not isinstance(name, (str, int, float)):
            raise ValueError(f"{path}: {label!r} must hold text or numbers, got {raw.dtype}")
    names = list(map(str, names))
    if all(map(_WHOLE.fullmatch, names)):
        return np.array([int(name.split(".")[0]) for name in names], np.int64)
    return np.array(names, str)


def _format(path: Path) -> Format:
    """The format of a path."""
    found = [f for f in FORMATS if f.ending == path.suffix.lower()]
    if not found:
        known = ", ".join(f.ending for f in FORMATS)
        raise ValueError(f"{path}: a table's ending must be one of {known}; got {path.suffix!r}")
    return found[0]


FORMATS = (csv_files.CSV, numpy_files.NPY, numpy_files.NPZ, parquet_files.PARQUET)
