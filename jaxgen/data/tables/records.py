"""The records of tables, and the choice of columns by their names."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

Columns = tuple[str, ...] | None
Named = list[tuple[str, np.ndarray]]  # columns of a table (n,), with their names

# texts that are missing values in any column of numbers, as in pandas
MISSING = frozenset(["#N/A", "#NA", "<NA>", "N/A", "NA", "NULL", "None", "n/a", "null"]) | {
    sign + text for sign in ("", "-") for text in ("NaN", "nan", "1.#QNAN")
}


class Table(NamedTuple):
    """The result of ``read``.

    Attributes:
      columns: names of the features, or None.
      values: the numbers, (n, ...).
      labels: (n,) of int64 or str, or None if no label column was named.

    >>> Table(("a", "b"), np.zeros((5, 2)), None).columns
    ('a', 'b')
    """

    columns: Columns
    values: np.ndarray
    labels: np.ndarray | None


class Reading(NamedTuple):
    """Rules by which the cells of a file are read.

    Attributes:
      na: texts of missing values, in addition to empty cells, NA, N/A, NaN, None and null. A text
        that is a number, such as "-999", stands for that number, in files of any format. The texts
        also mark missing labels, as empty cells do.
      delimiter: the character between the cells of a .csv; None takes that of the first line: a
        comma if there is one, else a semicolon or a tab. For a .tsv, None is a tab.

    >>> Reading(na=("?", "-999")).numbers
    (-999.0,)
    """

    na: tuple[str, ...] = ()
    delimiter: str | None = None

    @property
    def texts(self) -> frozenset[str]:
        """All texts of missing values."""
        return MISSING | set(self.na)

    @property
    def numbers(self) -> tuple[float, ...]:
        """The numbers that stand for missing values."""
        found = []
        for text in self.na:
            try:
                found.append(float(text))
            except ValueError:
                continue
        return tuple(found)


DEFAULT = Reading()


class Selection(NamedTuple):
    """The columns of a file to read.

    Attributes:
      label: name of the column of labels, or None.
      columns: names of the features, in order; None for all columns.
      ignore: names of columns that are no features.
      missing_labels: whether rows may have no label.

    >>> Selection("kind", ignore=("id",)).columns_of(Path("x.csv"), ("id", "kind", "a"))
    ('a',)
    """

    label: str | None = None
    columns: Columns = None
    ignore: tuple[str, ...] = ()
    missing_labels: bool = False

    def columns_of(self, path: Path, names: tuple[str, ...]) -> tuple[str, ...]:
        """The names of the features among the names of a file's columns, in order.

        Raises:
          ValueError: a column is missing, two have one name, or no feature is left.
        """
        check_different(path, names)
        label, left_out = self.label, {*self.ignore, self.label}
        columns = names if self.columns is None else self.columns
        if self.columns is not None and label in columns:
            raise ValueError(f"{path}: {label!r} is a feature, so it cannot be the label too")
        if label in self.ignore:
            raise ValueError(f"{path}: {label!r} is ignored, so it cannot be the label")
        check_known(path, names, [*columns, label, *self.ignore])
        columns = tuple(name for name in columns if name not in left_out)
        if not columns:
            without = f"except that of the labels, {label!r}" if label else "that are not ignored"
            raise ValueError(f"{path}: no columns {without}")
        if "" in columns:
            where = f"{path}: column {names.index('') + 1} has no name"
            raise NotANumber(f"{where}{'; is it an index?' if not names[0] else ''}", {}, [""])
        return columns


class UnknownColumn(ValueError):
    """An error about a name that no column of a file has.

    Attributes:
      names: those of the columns.
    """

    def __init__(self, message: str, names: Sequence[str]):
        super().__init__(message)
        self.names = names


class NotANumber(ValueError):
    """An error about a column that holds text, or has no name, and so may be no feature.

    Attributes:
      texts: different texts in each column that holds text, at most three a column, by name.
      text_alone: names of the columns in which no cell is a number.
    """

    def __init__(
        self, message: str, texts: Mapping[str, Sequence[str]], text_alone: Sequence[str] = ()
    ):
        super().__init__(message)
        self.texts, self.text_alone = texts, text_alone


class Format(NamedTuple):
    """A file format of tables.

    Attributes:
      ending: of its paths, in lower case, such as ".csv".
      read: ``read(path, selection, reading)`` returns a ``Table`` with unchecked labels.
      cells: ``cells(path, reading)`` returns all columns by name, or None if they have no names.
        A column is an array, or an object of a type that the format ``keeps``; its ``plain()`` is
        an array, and ``is_index`` says whether it is an index, which other formats leave out.
      write: ``write(file, values, columns)`` writes to a binary file; see ``files.write``.
      names: ``names(path, reading)`` returns the names of the columns, or None.
      events_of_any_shape: whether values may be (n, ...), or only (n, d).
      holds_names: whether columns may have names, and then text in them.
      check_columns: ``check_columns(columns)`` raises ValueError for names that cannot be written.
      row_name: ``row_name(path, row, reading)`` is the name of a row in error messages, or None.
      lines: ``lines(path, reading)`` returns the number of each row's first line in the file, (n,);
        None for a format without lines.
      extra: ``extra(path)`` returns the names of arrays that ``read`` leaves out if no columns are
        named.
      is_text: whether the cells of the format are texts.
      keeps: ``keeps(column)`` says whether a column is of the format, so that ``write`` takes it as
        it is.
      check_installed: raises ImportError if a package that the format needs is missing.
    """

    ending: str
    read: Callable[[Path, Selection, Reading], Table]
    cells: Callable[[Path, Reading], dict[str, Any] | None]
    write: Callable[[IO[bytes], Any, Columns], None]
    names: Callable[[Path, Reading], Columns]
    events_of_any_shape: bool = False
    holds_names: bool = True
    check_columns: Callable[[tuple[str, ...]], None] = lambda columns: None
    row_name: Callable[[Path, int, Reading], str | None] = lambda path, row, reading: None
    lines: Callable[[Path, Reading], np.ndarray] | None = None
    extra: Callable[[Path], list[str]] = lambda path: []
    is_text: bool = False
    keeps: Callable[[Any], bool] = lambda column: False
    check_installed: Callable[[], Any] = lambda: None


def check_known(path: Path, names: Sequence[str], wanted: Sequence[str | None]) -> None:
    """Raise if a wanted column, other than None, is not among the names of a file."""
    known = set(names)
    missing = [name for name in wanted if name is not None and name not in known]
    if missing:
        raise UnknownColumn(
            f"{path}: no column {', '.join(map(repr, missing))}; the columns are "
            f"{', '.join(map(repr, names))}{nearest(missing[0], names)}",
            names,
        )


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint of the name that a misspelt one is nearest to, or ""."""
    near = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def check_names(path: Path, columns: Sequence[str], values: np.ndarray) -> None:
    """Raise if there is not one name for each column of the values, different from the others."""
    if values.shape[1:] != (len(columns),):
        raise ValueError(f"{path}: {len(columns)} column names for values of shape {values.shape}")
    check_different(path, columns)


def check_different(path: Path, columns: Sequence[str]) -> None:
    """Raise if two columns have one name."""
    last = places_of(columns)
    if len(last) < len(columns):
        j, name = next((j, name) for j, name in enumerate(columns) if last[name] != j)
        raise ValueError(f"{path}: columns {j + 1} and {last[name] + 1} have one name, {name!r}")


def places_of(names: Sequence[str]) -> dict[str, int]:
    """The place of each name."""
    return {name: j for j, name in enumerate(names)}


def iso_texts(moments: np.ndarray, zone: str = "") -> list[str | None]:
    """Dates as ISO 8601 texts with as few digits as hold them all; None where one is missing.

    Durations are texts such as "1 days 02:00:00" and "-1 days +22:00:00", as in pandas.

    Args:
      moments: datetime64 or timedelta64, (n,).
      zone: text after each time, such as "Z".

    >>> iso_texts(np.array(["2020-01-01", "NaT"], "datetime64[ns]"))
    ['2020-01-01', None]
    """
    missing, is_date = np.isnat(moments), moments.dtype.kind == "M"
    known = moments[~missing]
    found = known
    for unit in ("s", "ms", "us") if zone or not is_date else ("D", "s", "ms", "us"):
        found = known.astype(f"{moments.dtype.kind}8[{unit}]")
        if (found == known).all():
            break
    else:
        unit, found = "ns", known.astype(f"{moments.dtype.kind}8[ns]")
    if is_date:
        texts = [f"{text}{zone}" for text in np.datetime_as_string(found).tolist()]
    else:
        digits = {"s": 0, "ms": 3, "us": 6, "ns": 9}[unit]
        texts = [_duration(int(count), digits) for count in found.astype(np.int64)]
    known_texts = iter(texts)
    return [None if gap else next(known_texts) for gap in missing.tolist()]


def _duration(count: int, digits: int) -> str:
    """A duration of count units of 10**-digits seconds as text."""
    seconds, part = divmod(count, 10**digits)
    days, seconds = divmod(seconds, 86400)
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    sign = "+" if days < 0 else ""
    return f"{days} days {sign}{clock}{f'.{part:0{digits}}' if digits else ''}"
