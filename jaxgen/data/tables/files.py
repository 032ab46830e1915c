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
    missing_labels: bool = False,
) -> Table:
    """Read a table of numbers, and the labels of its events, which may be text.

    - .csv, and .tsv, with tabs between cells: in UTF-8, read as float64. If a cell of the first
      line is not a number, that line is a header. An empty cell, or a text of a missing value, is
      NaN; an empty line is skipped. True and False, in upper or lower case, are 1 and 0.
    - .npy: one array (n, ...), without names.
    - .npz: the array "x", or the only array, and the names in "columns"; ``extra_arrays`` returns
      the names of the others. Pickled objects are refused.
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
      missing_labels: whether rows may have no label. The labels are then an array of objects,
        with None where one is missing.

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
    selection = Selection(label, columns, tuple(ignore), missing_labels)
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
        labels = _checked_labels(path, selection, labels, len(values), reading)
    return Table(names, values, labels)


def names(path: str | os.PathLike[str], reading: Reading = DEFAULT) -> Columns:
    """The names of a file's columns, of which one may be ""; None if they have no names.

    Raises:
      ValueError, ImportError, OSError: as in ``read``.

    >>> names("events.csv")
    ('latitude', 'longitude')
    """
    path = Path(path)
    return _format(path).names(path, reading)


def extra_arrays(path: str | os.PathLike[str]) -> list[str]:
    """The names of the arrays of an .npz that ``read`` leaves out, beside "x"; else none.

    Raises:
      ValueError, OSError: as in ``read``.

    >>> extra_arrays("events.csv")
    []
    """
    path = Path(path)
    return _format(path).extra(path)


def cells(path: str | os.PathLike[str], reading: Reading = DEFAULT) -> dict[str, Any] | None:
    """All columns of a file by name, {name: (n,)}, as they are; None if they have no names.

    The cells of a .csv are text, and those of other formats are what the format holds. A column is
    an array, or for a .parquet an object that ``write`` takes, with its type; ``tolist()`` returns
    Python objects for both, and ``np.asarray`` an array.

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


def row_numbers(path: str | os.PathLike[str], reading: Reading = DEFAULT) -> np.ndarray | None:
    """The number of each row's first line in the file, (n,), as in ``row_name``; None if the format
    has no lines.

    >>> row_numbers("events.csv")[:3]
    array([2, 3, 4])
    """
    path = Path(path)
    lines = _format(path).lines
    return None if lines is None else lines(path, reading)


def write(
    path: str | os.PathLike[str],
    values: ArrayLike | Mapping[str, ArrayLike],
    columns: Columns = None,
) -> None:
    """Write a table, completely or not at all; ``read`` returns the same numbers.

    Args:
      path: the file; its ending sets the format.
      values: numbers (n, d), or (n,) for one column; in an .npy or .npz, (n, ...). Or columns
        {name: (n,)} of numbers, text or dates, or as ``cells`` returns them, which an .npy cannot
        hold. An .npz saves columns of numbers as "x" with their names, and every column of text or
        dates, and every array (n, ...), by itself. A .csv has ISO texts of dates, True and False,
        and an empty cell for None, NaT and masked entries.
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
    found: dict[str, Any] = {}
    for name, column in values.items():
        if table_format.keeps(column):
            found[name] = column
        elif not any(other.keeps(column) for other in FORMATS):
            found[name] = _storable(column)
        elif not column.is_index:
            found[name] = _storable(column.plain())
    shapes = {np.shape(column) for column in found.values()}
    vectors = table_format.events_of_any_shape or all(len(shape) == 1 for shape in shapes)
    if () in shapes or not vectors or len({shape[0] for shape in shapes}) > 1:
        raise ValueError(f"{path}: columns must have one length, (n,), got shapes {shapes}")
    table_format.check_columns(tuple(found))
    return found


def _storable(values):
    """Values as an array of numbers or text that every format has."""
    if not np.ma.isMaskedArray(values):
        values = np.asarray(values)
    if values.dtype.kind in "biufUOmM":
        return values
    if values.dtype.kind == "c":
        raise ValueError(f"cannot write complex numbers ({values.dtype}) to a table")
    return values.astype(np.float32)  # from bfloat16, which no format has


def holds_names(path: str | os.PathLike[str]) -> bool:
    """Whether the format of a path holds the names of columns, and text.

    >>> holds_names("x.csv"), holds_names("x.npy")
    (True, False)
    """
    return _format(Path(path)).holds_names


def is_text(path: str | os.PathLike[str]) -> bool:
    """Whether the cells of the format of a path are texts.

    >>> is_text("x.csv"), is_text("x.npz")
    (True, False)
    """
    return _format(Path(path)).is_text


def is_table(path: str | os.PathLike[str]) -> bool:
    """Whether the ending of a path is that of a format of tables.

    >>> is_table("x.csv"), is_table("x.txt")
    (True, False)
    """
    return any(Path(path).suffix.lower() == table_format.ending for table_format in FORMATS)


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
    '.csv, .npy, .npz, .parquet or .tsv'
    """
    *most, last = (table_format.ending for table_format in FORMATS)
    return f"{', '.join(most)} or {last}"


def _checked_labels(path, selection, raw, n, reading):
    """The labels as int64 if all of them, numbers or text, are whole numbers, else as str.

    If labels may be missing: in an array of objects, None where one is missing.
    """
    label = selection.label
    if raw.shape != (n,):
        raise ValueError(f"{path}: {label!r} must have shape ({n},), got {raw.shape}")
    if raw.dtype.kind in "mM":
        raise ValueError(f"{path}: {label!r} must hold text or numbers, got {raw.dtype}")
    names = raw.tolist()
    missing = {"", *reading.na}
    for row, name in enumerate(names):
        if name is None or name != name or str(name) in missing:
            if selection.missing_labels:
                names[row] = None
                continue
            raise ValueError(f"{path}: {label!r} has no label in {row_name(path, row, reading)}")
        if not isinstance(name, (str, int, float)):
            raise ValueError(f"{path}: {label!r} must hold text or numbers, got {raw.dtype}")
    known = [str(name) for name in names if name is not None]
    if all(map(_WHOLE.fullmatch, known)):
        labels = np.array([int(name.split(".")[0]) for name in known], np.int64)
    else:
        labels = np.array(known, str)
    if not selection.missing_labels:
        return labels
    found = np.full(len(names), None, object)
    found[[name is not None for name in names]] = labels.tolist()
    return found


def _format(path: Path) -> Format:
    """The format of a path."""
    found = [f for f in FORMATS if f.ending == path.suffix.lower()]
    if not found:
        known = ", ".join(f.ending for f in FORMATS)
        raise ValueError(f"{path}: a table's ending must be one of {known}; got {path.suffix!r}")
    return found[0]


FORMATS = (
    csv_files.CSV, numpy_files.NPY, numpy_files.NPZ, parquet_files.PARQUET, csv_files.TSV,
)  # fmt: skip
