"""Event tables on disk, one row an event: .csv, .npy, .npz and .parquet, by the path's ending."""

from __future__ import annotations

import array
import csv
import io
import itertools
import os
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from jaxgen.core import places
from jaxgen.core.inputs import unmasked
from jaxgen.data.output import writable, write_atomically

_ROWS = 50_000  # rows of a CSV formatted at once
_WHOLE = re.compile(r"(0|-?[1-9][0-9]{0,17})(\.0*)?")  # no code such as 007


class Table(NamedTuple):
    """What ``read`` returns.

    Attributes:
      columns: names of the features, or None.
      values: the numbers, (n, ...).
      labels: (n,) of int64 or str, or None where none were asked for.
    """

    columns: tuple[str, ...] | None
    values: np.ndarray
    labels: np.ndarray | None


def read(
    path: str | os.PathLike, label: str | None = None, columns: tuple[str, ...] | None = None
) -> Table:
    """Read a table of numbers, and the events' labels, which may be text.

    - .csv: comma separated, UTF-8, in float64. A first line in which not every cell is a number is
      a header. An empty cell is NaN, an empty line is skipped.
    - .npy: one array, one row an event, of any shape. Without names.
    - .npz: the array "x", or the only one, and the names in "columns". What was pickled is refused.
    - .parquet: columns of numbers, in their common dtype; null is NaN. An index that pandas kept
      (``__index_level_0__``) is left out. Needs ``pip install jaxgen[parquet]``.

    Args:
      path: the file; its ending, in any case, says what it is.
      label: the column that holds labels, or the array of an .npz; it is no feature then. Labels
        are ints where all of them are whole numbers, else str.
      columns: the features to take, in order, where the file has names; others are ignored, so that
        they may hold text. None takes them all.

    Returns:
      ``Table(columns, values, labels)``.

    Raises:
      ValueError: the ending is unknown, the file holds no table of numbers or no such column, or a
        row has no label; for a .csv the message names line and column.
      ImportError: a .parquet without pyarrow.
      OSError: there is no such file, or it cannot be read.

    >>> columns, values, labels = read("events.csv")
    """
    path = Path(path)
    names, values, labels = _format(path)[0](path, label, columns)
    if values.dtype.kind not in "biuf" or values.ndim == 0:
        what = f"dtype {values.dtype} and shape {values.shape}"
        raise ValueError(f"{path}: not a table of numbers but an array of {what}")
    if label is not None:
        labels = _checked_labels(path, label, labels, len(values))
    return Table(names, values, labels)


def row_name(path: str | os.PathLike, row: int) -> str:
    """How an error names a row of a table: the line where it begins in a .csv, else its number.

    The file is read again to find the line.
    """
    if Path(path).suffix.lower() == ".csv":
        try:
            found = next(itertools.islice(_csv_rows(path, _csv_start(path)[1]), row, None), None)
        except (OSError, ValueError, csv.Error):  # the file is no longer what was read
            found = None
        if found is not None:
            return f"line {found[0]}"
    return str(places.row(row))


def write(path: str | os.PathLike, values: Any, columns: tuple[str, ...] | None = None) -> None:
    """Write a table of numbers, whole or not at all; ``read`` gives the same numbers back.

    Args:
      path: the file; its ending says which format.
      values: (n, d), or (n,) for one column; in an .npy or .npz, (n, ...).
      columns: d names. An .npy has no room for them; a .parquet without them gets x0, x1, ...

    Raises:
      ValueError: the ending is unknown, or names or shape do not suit.
      ImportError: a .parquet without pyarrow.
      OSError: the file cannot be written.

    >>> write("samples.csv", fitted.sample(jax.random.key(0), 1000), ("latitude", "longitude"))
    """
    path = Path(path)
    put, values = _prepared(path, values, columns)
    with write_atomically(path) as file:
        put(file, values, columns)


def _prepared(path, values, columns):
    """What writes the format, and the values as it takes them, or an error where it cannot."""
    put, values = _format(path)[1], np.asarray(unmasked(values))
    if values.dtype.kind not in "biuf":
        values = values.astype(np.float32)  # bfloat16, which no format knows
    rows_only = put in (_write_csv, _write_parquet)
    if values.ndim == 1 and (rows_only or columns is not None):
        values = values[:, None]
    if values.ndim == 0 or (rows_only and values.ndim > 2):
        raise ValueError(
            f"{path}: no room for values of shape {values.shape}; .npy takes events of any"
        )
    if columns is not None:
        _check_names(path, tuple(columns), values)
        if put is _write_csv and all(map(_is_number, columns)):
            raise ValueError(f"a CSV header of numbers alone would be read as data: {columns}")
    return put, values


def check_output(
    path: str | os.PathLike,
    others: Iterable[str | os.PathLike] = (),
    values: Any = None,
    columns: tuple[str, ...] | None = None,
) -> None:
    """Ask before long work whether ``write`` could put its result there.

    Args:
      path: the file to write.
      others: what else the work reads or writes, none of which may be the same file.
      values: a table like the one to be written, of no rows (0, ...), where its shape is known.
      columns: its names.

    Raises:
      ValueError: the ending is unknown, or names or shape do not suit.
      ImportError: a .parquet without pyarrow.
      OSError: no file can be put there, or it is one of ``others``.
    """
    if _format(Path(path))[1] is _write_parquet:
        _pyarrow()
    if values is not None:
        _prepared(Path(path), values, columns)
    writable(path, others)


def _read_csv(path, label, wanted):
    try:
        first, skip = _csv_start(path)
        names = None
        if skip:
            names = tuple(cell.strip() for cell in first)
            if "" in names:
                where = f"line {skip}, column {names.index('') + 1}"
                raise ValueError(f"{path}: {where}: the column has no name (an index, perhaps)")
        if names is None:
            if label is not None:
                raise ValueError(f"{path}: line 1: no header, so no column {label!r}")
            return None, _csv_values(path, skip, len(first), None, {}), None
        columns = _chosen(path, names, label, wanted)
        numbers: dict[str, int] = {}  # of the labels, in the order of their first rows
        place, taken = _places(names), set(columns)
        readers = {j: _ignore for name, j in place.items() if name not in taken}
        if label is not None:
            readers[place[label]] = _numbering(numbers)
        values = _csv_values(path, skip, len(first), names, readers)
        labels = None
        if label is not None:
            labels = np.array(list(numbers))[values[:, place[label]].astype(int)]
        if columns != names:
            values = values[:, [place[name] for name in columns]]
        return columns, values, labels
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a CSV in UTF-8: {error}") from None


def _csv_start(path):
    """The cells of the first line that is not empty, and how many lines the header ends."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file, skipinitialspace=True)
        first = next((row for row in rows if row), None)
        if first is None:
            raise ValueError(f"{path}: line 1, column 1: the file is empty")
        return first, 0 if all(map(_is_number, first)) else rows.line_num


def _csv_rows(path, skip):
    """Rows below the first ``skip`` lines, each with the line where it begins."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows, line = csv.reader(file, skipinitialspace=True), 1
        for row in rows:
            here, line = line, rows.line_num + 1
            if here > skip and row:
                yield here, row


def _ignore(cell):
    return 0.0


def _numbering(numbers):
    """A reader of labels, which gives each new one the next number."""

    def read(cell):
        if not cell.strip():
            raise ValueError("the label is missing")
        return numbers.setdefault(cell.strip(), len(numbers))

    return read


def _csv_values(path, skip, width, names, readers):
    """Numbers below the first ``skip`` lines: by NumPy's fast reader if it takes the file.

    readers: what reads the cells of some columns, by place.
    """

    def plain(read):
        def or_leave(cell):
            if '"' in cell:
                raise ValueError("NumPy takes a quote after a space as part of the cell")
            return read(cell)

        return or_leave

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its word on empty input; ours follows
            values = np.loadtxt(
                os.path.abspath(path), delimiter=",", quotechar='"', comments=None,
                skiprows=skip, ndmin=2, encoding="utf-8-sig",
                converters={j: plain(read) for j, read in readers.items()} or None,
            )  # fmt: skip
        if len(values) and values.shape[1] == width:
            return values
    except UnicodeDecodeError:
        raise
    except ValueError:
        pass  # an empty cell, or an error to be named: the slow way tells
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
            raise ValueError(f"{path}: {where}: {len(row)} cells, where {width} are expected")
    if not numbers:
        raise ValueError(f"{path}: line {skip + 1}, column 1: no rows below the header")
    return np.frombuffer(numbers).reshape(-1, width).copy()


def _number(cell):
    if not _is_number(cell):
        raise ValueError(f"{cell!r:.40} is not a number")
    return float(cell.strip() or "nan")


def _is_number(cell):
    """Whether a CSV cell counts as a number; an empty one does, it is NaN."""
    if not cell.strip():
        return True
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell  # Python reads 1_000 as a number, others do not


def _write_csv(file: IO[bytes], values, columns):
    if columns is not None:
        header = io.StringIO()
        csv.writer(header, lineterminator="\n").writerow(columns)
        file.write(header.getvalue().encode())
    # digits that give the same bits back: nine do for 32-bit floats, repr for 64-bit ones
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
            return None, loaded, None
        with loaded:
            arrays = [name for name in loaded if name not in ("columns", label)]
            if label is not None and label not in loaded:
                raise ValueError(f"no array {label!r}; it has {arrays}")
            if "x" not in arrays and len(arrays) != 1:
                raise ValueError(f"needs an array named 'x', or one array in all; it has {arrays}")
            values = loaded["x" if "x" in arrays else arrays[0]]
            labels = None if label is None else loaded[label]
            names = tuple(map(str, loaded["columns"].ravel())) if "columns" in loaded else None
    except OSError:
        raise
    except Exception as error:  # a damaged file fails in zipfile, zlib or NumPy, each in its way
        why = "pickled Python objects, which are refused" if "pickle" in str(error) else error
        raise ValueError(f"{path}: {why}") from error
    if names is None:
        return None, values, labels
    _check_names(path, names, values)
    columns, place = _chosen(path, names, None, wanted), _places(names)
    return columns, values[:, [place[name] for name in columns]], labels


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
        except (pyarrow.ArrowException, OSError) as error:  # OSError: damage to what Thrift wrote
            raise ValueError(f"{path}: {error}") from error
    names = [name for name in table.column_names if not name.startswith("__index_level_")]
    if not names:
        raise ValueError(f"{path}: it has no columns")
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
    return columns, np.stack(arrays, 1), labels


def _write_parquet(file: IO[bytes], values, columns):
    pyarrow = _pyarrow()
    columns = columns or [f"x{j}" for j in range(values.shape[1])]
    table = pyarrow.table([np.ascontiguousarray(v) for v in values.T], names=list(columns))
    pyarrow.parquet.write_table(table, file)


def _pyarrow():
    try:
        import pyarrow.parquet
    except ImportError:
        message = "Parquet needs pyarrow, an optional extra: pip install 'jaxgen[parquet]'"
        raise ImportError(message) from None
    return pyarrow


def _chosen(path, names, label, wanted):
    """The names of the features to read: those wanted, or all but the label's."""
    _check_different(path, names)
    columns = tuple(name for name in names if name != label) if wanted is None else wanted
    known = _places(names)
    missing = [name for name in (*columns, label) if name is not None and name not in known]
    if missing:
        raise ValueError(
            f"{path}: no column {', '.join(map(repr, missing))}; its columns are "
            f"{', '.join(map(repr, names))}"
        )
    if label in columns:
        raise ValueError(f"{path}: {label!r} is a feature, so it cannot be the label too")
    if not columns:
        raise ValueError(f"{path}: no column beside that of the labels, {label!r}")
    return columns


def _checked_labels(path, label, raw, n):
    """int64 if all are whole numbers, as numbers or as text, else str."""
    if raw.shape != (n,):
        raise ValueError(f"{path}: {label!r} has shape {raw.shape}, not one label for each of {n}")
    names = raw.tolist()
    for row, name in enumerate(names):
        if name is None or name == "" or name != name:
            raise ValueError(f"{path}: {label!r} has no label in {row_name(path, row)}")
        if not isinstance(name, (str, int, float)):
            raise ValueError(f"{path}: {label!r} is {raw.dtype}, neither text nor numbers")
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
    """Where each name stands."""
    return {name: j for j, name in enumerate(names)}


def _format(path):
    """(reader, writer) of a path's ending."""
    if path.suffix.lower() not in _FORMATS:
        known = ", ".join(_FORMATS)
        raise ValueError(f"{path}: a table's ending must be one of {known}; got {path.suffix!r}")
    return _FORMATS[path.suffix.lower()]


_FORMATS = {
    ".csv": (_read_csv, _write_csv),
    ".npy": (_read_numpy, _write_npy),
    ".npz": (_read_numpy, _write_npz),
    ".parquet": (_read_parquet, _write_parquet),
}
