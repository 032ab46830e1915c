"""Tables of events in files, one row for each event; the ending of a path sets the format.

``FORMATS`` holds a record for each format. A new format is a new record there: this module, the
command line and its help texts know formats from these records alone.
"""

from __future__ import annotations

import array
import csv
import io
import itertools
import os
import re
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxgen.core import places
from jaxgen.core.inputs import unmasked
from jaxgen.data.output import writable, write_atomically

Columns = tuple[str, ...] | None

_ROWS = 50_000  # rows of a CSV to format at once
_WHOLE = re.compile(r"(0|-?[1-9][0-9]{0,17})(\.0*)?")  # but not a code such as 007


class Table(NamedTuple):
    """The result of ``read``.

    Attributes:
      columns: names of the features, or None.
      values: the numbers, (n, ...).
      labels: (n,) of int64 or str, or None if no label column was named.
    """

    columns: Columns
    values: np.ndarray
    labels: np.ndarray | None


class Format(NamedTuple):
    """A file format of tables.

    Attributes:
      ending: of its paths, in lower case, such as ".csv".
      read: ``read(path, label, columns)`` returns a ``Table`` with unchecked labels.
      write: ``write(file, values, columns)`` writes to a binary file.
      events_of_any_shape: whether values may be (n, ...), or only (n, d).
      check_columns: ``check_columns(columns)`` raises ValueError for names that cannot be written.
      row_name: ``row_name(path, row)`` is the name of a row in error messages, or None.
      check_installed: raises ImportError if a package that the format needs is missing.
    """

    ending: str
    read: Callable[[Path, str | None, Columns], Table]
    write: Callable[[IO[bytes], np.ndarray, Columns], None]
    events_of_any_shape: bool = False
    check_columns: Callable[[tuple[str, ...]], None] = lambda columns: None
    row_name: Callable[[Path, int], str | None] = lambda path, row: None
    check_installed: Callable[[], Any] = lambda: None


def read(path: str | os.PathLike[str], label: str | None = None, columns: Columns = None) -> Table:
    """Read a table of numbers, and the labels of its events, which may be text.

    - .csv: comma separated, in UTF-8, read as float64. If a cell of the first line is not a number,
      that line is a header. An empty cell is NaN; an empty line is skipped.
    - .npy: one array (n, ...), without names.
    - .npz: the array "x", or the only array, and the names in "columns". Pickled objects are
      refused.
    - .parquet: columns of numbers, in their common dtype; null is NaN. An index that pandas saved
      (``__index_level_0__``) is left out. Needs ``pip install jaxgen[parquet]``.

    Args:
      path: the file; its ending, in upper or lower case, sets the format.
      label: the name of the column of labels, or of the array in an .npz, which then is not a
        feature. Labels are ints if all of them are whole numbers, else str.
      columns: names of the features to read, in order, if the file has names; other columns are
        ignored and may hold text. None reads all.

    Returns:
      ``Table(columns, values, labels)``.

    Raises:
      ValueError: the ending is unknown, the file holds no table of numbers or not the columns, or a
        row has no label; for a .csv the message names line and column.
      ImportError: the format needs a package that is not installed, such as pyarrow.
      OSError: the file does not exist or cannot be read.

    >>> columns, values, labels = read("events.csv")
    """
    path = Path(path)
    names, values, labels = _format(path).read(path, label, columns)
    if values.dtype.kind not in "biuf" or values.ndim == 0:
        found = f"dtype {values.dtype} and shape {values.shape}"
        raise ValueError(f"{path}: not a table of numbers but an array of {found}")
    if label is not None:
        labels = _checked_labels(path, label, labels, len(values))
    return Table(names, values, labels)


def row_name(path: str | os.PathLike[str], row: int) -> str:
    """The name of a row in error messages: "line 7" of a .csv, else "row 5".

    The file is read again to find the line.
    """
    path = Path(path)
    return _format(path).row_name(path, row) or str(places.row(row))


def write(path: str | os.PathLike[str], values: ArrayLike, columns: Columns = None) -> None:
    """Write a table of numbers, completely or not at all; ``read`` returns the same numbers.

    Args:
      path: the file; its ending sets the format.
      values: (n, d), or (n,) for one column; in an .npy or .npz, (n, ...).
      columns: d names. An .npy does not save them; a .parquet without names gets x0, x1, ...

    Raises:
      ValueError: the ending is unknown, or the format cannot hold values of the shape or the names.
      ImportError: the format needs a package that is not installed, such as pyarrow.
      OSError: the file cannot be written.

    >>> write("samples.csv", fitted.sample(jax.random.key(0), 1000), ("latitude", "longitude"))
    """
    path = Path(path)
    values = _prepared(path, values, columns)
    with write_atomically(path) as file:
        _format(path).write(file, values, columns)


def _prepared(path, values, columns):
    """The values as the format of the path takes them; raises if it cannot."""
    table_format, values = _format(path), np.asarray(unmasked(values))
    if values.dtype.kind not in "biuf":
        values = values.astype(np.float32)  # from bfloat16, which no format has
    flat = not table_format.events_of_any_shape
    if values.ndim == 1 and (flat or columns is not None):
        values = values[:, None]
    if values.ndim == 0 or (flat and values.ndim > 2):
        others = " or ".join(f.ending for f in FORMATS if f.events_of_any_shape)
        raise ValueError(f"{path}: cannot hold values of shape {values.shape}; use {others}")
    if columns is not None:
        _check_names(path, tuple(columns), values)
        table_format.check_columns(tuple(columns))
    return values


def check_output(
    path: str | os.PathLike[str],
    others: Iterable[str | os.PathLike[str] | None] = (),
    values: ArrayLike | None = None,
    columns: Columns = None,
) -> None:
    """Raise if ``write`` could not write to the path; for use before long work.

    Args:
      path: the file to write.
      others: other files that the work reads or writes, which must not be the same file.
      values: a table without rows (0, ...) of the shape of the result, if that is known.
      columns: its names.

    Raises:
      ValueError: the ending is unknown, or the format cannot hold values of the shape or the names.
      ImportError: the format needs a package that is not installed, such as pyarrow.
      OSError: the file cannot be written, or is one of ``others``.
    """
    _format(Path(path)).check_installed()
    if values is not None:
        _prepared(Path(path), values, columns)
    writable(path, others)


def endings() -> str:
    """The endings of all formats in words, such as ".csv, .npy, .npz or .parquet"."""
    *most, last = (table_format.ending for table_format in FORMATS)
    return f"{', '.join(most)} or {last}"


def _read_csv(path, label, wanted):
    try:
        first, skip = _csv_start(path)
        names = None
        if skip:
            names = tuple(cell.strip() for cell in first)
            if "" in names:
                where = f"line {skip}, column {names.index('') + 1}"
                raise ValueError(f"{path}: {where}: the column has no name; is it an index?")
        if names is None:
            if label is not None:
                raise ValueError(f"{path}: line 1: no header, so no column {label!r}")
            return Table(None, _csv_values(path, skip, len(first), None, {}), None)
        columns = _chosen(path, names, label, wanted)
        numbers: dict[str, int] = {}  # by label, in the order of their first rows
        place, features = _places(names), set(columns)
        readers = {j: _ignore for name, j in place.items() if name not in features}
        if label is not None:
            readers[place[label]] = _numbering(numbers)
        values = _csv_values(path, skip, len(first), names, readers)
        labels = None
        if label is not None:
            labels = np.array(list(numbers))[values[:, place[label]].astype(int)]
        if columns != names:
            values = values[:, [place[name] for name in columns]]
        return Table(columns, values, labels)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a CSV in UTF-8: {error}") from None


def _csv_start(path):
    """The cells of the first line that is not empty, and the number of lines up to the data."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file, skipinitialspace=True)
        first = next((row for row in rows if row), None)
        if first is None:
            raise ValueError(f"{path}: line 1, column 1: the file is empty")
        return first, 0 if all(map(_is_number, first)) else rows.line_num


def _csv_rows(path, skip):
    """The rows below the first ``skip`` lines, each after the number of its first line."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows, line = csv.reader(file, skipinitialspace=True), 1
        for row in rows:
            here, line = line, rows.line_num + 1
            if here > skip and row:
                yield here, row


def _csv_row_name(path, row):
    try:
        rows = _csv_rows(path, _csv_start(path)[1])
        line, _ = next(itertools.islice(rows, row, None))
    except (StopIteration, OSError, ValueError, csv.Error):  # the file has changed since
        return None
    return f"line {line}"


def _check_csv_columns(columns):
    if all(map(_is_number, columns)):
        raise ValueError(f"columns: a CSV header of numbers would be read as data: {columns}")


def _ignore(cell):
    return 0.0


def _numbering(numbers):
    """A reader of labels, which maps each new label to the next number."""

    def read(cell):
        if not cell.strip():
            raise ValueError("the label is missing")
        return numbers.setdefault(cell.strip(), len(numbers))

    return read


def _csv_values(path, skip, width, names, readers):
    """The numbers below the first ``skip`` lines, read by NumPy's fast reader where possible.

    readers: functions that read the cells of some columns, by the place of the column.
    """

    def without_quotes(read):
        def read_cell(cell):
            if '"' in cell:
                raise ValueError("NumPy treats a quote after a space as part of the cell")
            return read(cell)

        return read_cell

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of empty input, for which an error follows below
            values = np.loadtxt(
                os.path.abspath(path), delimiter=",", quotechar='"', comments=None,
                skiprows=skip, ndmin=2, encoding="utf-8-sig",
                converters={j: without_quotes(read) for j, read in readers.items()} or None,
            )  # fmt: skip
        if len(values) and values.shape[1] == width:
            return values
    except UnicodeDecodeError:
        raise
    except ValueError:
        pass  # an empty cell or an error: the slow reader below handles both
    numbers = array.array("d")
    for here, row in _csv_rows(path, skip):
        for j, cell in enumerate(row[:width]):
            try:
                numbers.append(readers.get(j, _number)(cell))
            except ValueError as error:
                where = f"line {here}, column {j + 1}" + (f" ({names[j]})" if names else "")
                raise ValueError(f"{path}: {where}: {error}") from None
        if len(row) != width:
            where = f"line {here}, column {min(len(row), width) + 1}"
            raise ValueError(f"{path}: {where}: expected {width} cells, got {len(row)}")
    if not numbers:
        raise ValueError(f"{path}: line {skip + 1}, column 1: no rows below the header")
    return np.frombuffer(numbers).reshape(-1, width).copy()


def _number(cell):
    if not _is_number(cell):
        raise ValueError(f"{cell!r:.40} is not a number")
    return float(cell.strip() or "nan")


def _is_number(cell):
    """Whether a CSV cell is a number; an empty cell is NaN."""
    if not cell.strip():
        return True
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell  # only Python reads 1_000 as a number


def _write_csv(file: IO[bytes], values, columns):
    if columns is not None:
        header = io.StringIO()
        csv.writer(header, lineterminator="\n").writerow(columns)
        file.write(header.getvalue().encode())
    # enough digits to restore the bits: nine for 32-bit floats, repr for 64-bit ones
    cell = "%d" if values.dtype.kind in "biu" else "%r" if values.dtype.itemsize > 4 else "%.9g"
    line = ",".join([cell] * values.shape[1]) + "\n"
    for start in range(0, len(values), _ROWS):
        rows = values[start : start + _ROWS]
        file.write(((line * len(rows)) % tuple(rows.ravel().tolist())).encode())


def _read_numpy(path, label, wanted):
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            if label is not None:
                raise ValueError(f"an .npy is one array without names, so it has no {label!r}")
            return Table(None, loaded, None)
        with loaded:
            arrays = [name for name in loaded if name not in ("columns", label)]
            if label is not None and label not in loaded:
                raise ValueError(f"no array {label!r}; it has {arrays}")
            if "x" not in arrays and len(arrays) != 1:
                raise ValueError(f"needs an array named 'x', or a single array; it has {arrays}")
            values = loaded["x" if "x" in arrays else arrays[0]]
            labels = None if label is None else loaded[label]
            names = tuple(map(str, loaded["columns"].ravel())) if "columns" in loaded else None
    except OSError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise various errors for a damaged file
        why = "pickled Python objects, which are refused" if "pickle" in str(error) else error
        raise ValueError(f"{path}: {why}") from error
    if names is None:
        return Table(None, values, labels)
    _check_names(path, names, values)
    columns, place = _chosen(path, names, None, wanted), _places(names)
    return Table(columns, values[:, [place[name] for name in columns]], labels)


def _write_npy(file: IO[bytes], values, columns):
    np.save(file, values, allow_pickle=False)


def _write_npz(file: IO[bytes], values, columns):
    if columns is None:
        np.savez(file, x=values)
    else:
        np.savez(file, x=values, columns=np.array(columns, str))


def _read_parquet(path, label, wanted):
    pyarrow = _pyarrow()
    with open(path, "rb") as file:
        try:
            table = pyarrow.parquet.ParquetFile(file).read()
        except (pyarrow.ArrowException, OSError) as error:  # OSError: damaged metadata
            raise ValueError(f"{path}: {error}") from error
    names = [name for name in table.column_names if not name.startswith("__index_level_")]
    if not names:
        raise ValueError(f"{path}: the file has no columns")
    columns, arrays = _chosen(path, tuple(names), label, wanted), []
    for name in columns:
        column = table.column(name)
        if pyarrow.types.is_boolean(column.type):
            column = column.cast(pyarrow.uint8())
        numbers = column.to_numpy()
        if numbers.dtype.kind not in "iuf":
            raise ValueError(f"{path}: column {name!r} is {column.type}, not numbers")
        arrays.append(numbers)
    labels = None if label is None else table.column(label).to_numpy()
    return Table(columns, np.stack(arrays, 1), labels)


def _write_parquet(file: IO[bytes], values, columns):
    pyarrow = _pyarrow()
    columns = columns or [f"x{j}" for j in range(values.shape[1])]
    table = pyarrow.table([np.ascontiguousarray(v) for v in values.T], names=list(columns))
    pyarrow.parquet.write_table(table, file)


def _pyarrow():
    try:
        import pyarrow.parquet
    except ImportError:
        message = "Parquet needs the package pyarrow: pip install 'jaxgen[parquet]'"
        raise ImportError(message) from None
    return pyarrow


def _chosen(path, names, label, wanted):
    """The names of the features to read: those wanted, or all except the label column."""
    _check_different(path, names)
    columns = tuple(name for name in names if name != label) if wanted is None else wanted
    known = _places(names)
    missing = [name for name in (*columns, label) if name is not None and name not in known]
    if missing:
        raise ValueError(
            f"{path}: no column {', '.join(map(repr, missing))}; the columns are "
            f"{', '.join(map(repr, names))}"
        )
    if label in columns:
        raise ValueError(f"{path}: {label!r} is a feature, so it cannot be the label too")
    if not columns:
        raise ValueError(f"{path}: no columns except that of the labels, {label!r}")
    return columns


def _checked_labels(path, label, raw, n):
    """The labels as int64 if all of them, numbers or text, are whole numbers, else as str."""
    if raw.shape != (n,):
        raise ValueError(f"{path}: {label!r} must have shape ({n},), got {raw.shape}")
    names = raw.tolist()
    for row, name in enumerate(names):
        if name is None or name == "" or name != name:
            raise ValueError(f"{path}: {label!r} has no label in {row_name(path, row)}")
        if not isinstance(name, (str, int, float)):
            raise ValueError(f"{path}: {label!r} must hold text or numbers, got {raw.dtype}")
    names = list(map(str, names))
    if all(map(_WHOLE.fullmatch, names)):
        return np.array([int(name.split(".")[0]) for name in names], np.int64)
    return np.array(names, str)


def _check_names(path, columns, values):
    if values.shape[1:] != (len(columns),):
        raise ValueError(f"{path}: {len(columns)} column names for values of shape {values.shape}")
    _check_different(path, columns)


def _check_different(path, columns):
    last = _places(columns)
    if len(last) < len(columns):
        j, name = next((j, name) for j, name in enumerate(columns) if last[name] != j)
        raise ValueError(f"{path}: columns {j + 1} and {last[name] + 1} have one name, {name!r}")


def _places(names):
    """The place of each name."""
    return {name: j for j, name in enumerate(names)}


def _format(path):
    """The format of a path."""
    found = [f for f in FORMATS if f.ending == path.suffix.lower()]
    if not found:
        known = ", ".join(f.ending for f in FORMATS)
        raise ValueError(f"{path}: a table's ending must be one of {known}; got {path.suffix!r}")
    return found[0]


FORMATS = (
    Format(".csv", _read_csv, _write_csv, check_columns=_check_csv_columns, row_name=_csv_row_name),
    Format(".npy", _read_numpy, _write_npy, events_of_any_shape=True),
    Format(".npz", _read_numpy, _write_npz, events_of_any_shape=True),
    Format(".parquet", _read_parquet, _write_parquet, check_installed=_pyarrow),
)
