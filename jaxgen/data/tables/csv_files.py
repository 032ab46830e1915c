"""Tables as CSV and TSV files, in UTF-8."""

from __future__ import annotations

import array
import csv
import io
import itertools
import os
import re
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from jaxgen.core.bars import bar
from jaxgen.data.tables.records import (
    MISSING,
    Columns,
    Format,
    NotANumber,
    Reading,
    Selection,
    Table,
    check_different,
    iso_texts,
    places_of,
)

_ROWS = 50_000  # rows to format at once
_SCANNED = 1000  # rows in which an error looks for more columns of text
_TEXTS = 3  # most texts of a column that an error lists
_QUOTED = re.compile(r'"[^"]*"?')
_TRUTH = {"true": 1.0, "false": 0.0}


class _Start(NamedTuple):
    """The first line of a file that is not empty.

    Attributes:
      cells: its cells.
      skip: the number of lines up to the data; 0 if the first line is data.
      delimiter: the character between cells.
    """

    cells: list[str]
    skip: int
    delimiter: str

    def names(self) -> tuple[str, ...] | None:
        """The names of the columns, of which one may be "", or None if there is no header."""
        if not self.skip:
            return None
        return tuple(cell.strip() for cell in self.cells)


def _read(path: Path, selection: Selection, reading: Reading) -> Table:
    label = selection.label
    try:
        start = _start(path, reading)
        names = start.names()
        if names is None:
            if label is not None:
                raise ValueError(f"{path}: line 1: no header, so no column {label!r}")
            return Table(None, _values(path, start, None, {}, reading), None)
        columns = selection.columns_of(path, names)
        numbers: dict[str | None, int] = {}  # by label, in the order of their first rows
        place, features = places_of(names), set(columns)
        readers: dict[int, Callable[[str], float]]
        readers = {j: _ignore for name, j in place.items() if name not in features}
        if label is not None:
            readers[place[label]] = _numbering(numbers, reading.na, selection.missing_labels)
        values = _values(path, start, names, readers, reading)
        labels = None
        if label is not None:
            labels = np.array(list(numbers), object)[values[:, place[label]].astype(int)]
        if columns != names:
            values = values[:, [place[name] for name in columns]]
        return Table(columns, values, labels)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a CSV in UTF-8: {error}") from None


def _names(path: Path, reading: Reading) -> Columns:
    try:
        return _start(path, reading).names()
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a CSV in UTF-8: {error}") from None


def _cells(path: Path, reading: Reading) -> dict[str, Any] | None:
    try:
        start = _start(path, reading)
        names = start.names()
        if names is None:
            return None
        check_different(path, names)
        rows = [[cell.strip() for cell in row] for _, row in _rows(path, start)]
        columns = zip(*rows, strict=True) if rows else [[]] * len(names)
        return {n: np.array(c, object) for n, c in zip(names, columns, strict=True)}
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a CSV in UTF-8: {error}") from None


def _start(path: Path, reading: Reading) -> _Start:
    with open(path, newline="", encoding="utf-8-sig") as file:
        delimiter = reading.delimiter or _delimiter(next((s for s in file if s.strip()), ""))
        file.seek(0)
        rows = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
        first = next((row for row in rows if row), None)
        if first is None:
            raise ValueError(f"{path}: line 1, column 1: the file is empty")
        headless = all(_is_number(cell, reading.texts) for cell in first)
        return _Start(first, 0 if headless else rows.line_num, delimiter)


def _delimiter(line: str) -> str:
    """The delimiter of a line: a comma if there is one, else a semicolon or a tab, if any."""
    plain = _QUOTED.sub("", line)
    return next((character for character in ",;\t" if character in plain), ",")


def _rows(path: Path, start: _Start) -> Iterator[tuple[int, list[str]]]:
    """The rows of data, each after the number of its first line."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file, delimiter=start.delimiter, skipinitialspace=True)
        line = 1
        for row in rows:
            here, line = line, rows.line_num + 1
            if here > start.skip and row:
                yield here, row


def _lines(path: Path, reading: Reading) -> np.ndarray:
    return np.array([line for line, _ in _rows(path, _start(path, reading))], int)


def _row_name(path: Path, row: int, reading: Reading) -> str | None:
    try:
        line, _ = next(itertools.islice(_rows(path, _start(path, reading)), row, None))
    except (StopIteration, OSError, ValueError, csv.Error):  # the file has changed since
        return None
    return f"line {line}"


def _check_columns(columns: tuple[str, ...]) -> None:
    if all(_is_number(name, MISSING) for name in columns):
        raise ValueError(f"columns: a CSV header of numbers would be read as data: {columns}")


def _ignore(cell: str) -> float:
    return 0.0


def _numbering(
    numbers: dict[str | None, int], na: tuple[str, ...], may_be_missing: bool
) -> Callable[[str], float]:
    """A reader of labels, which maps each new label, and None for a missing one, to a number."""

    def read(cell: str) -> float:
        name: str | None = cell.strip()
        if not name or name in na:
            if not may_be_missing:
                raise ValueError(f"the label is missing{f': {name!r}' if name else ''}")
            name = None
        return numbers.setdefault(name, len(numbers))

    return read


def _values(
    path: Path,
    start: _Start,
    names: tuple[str, ...] | None,
    readers: dict[int, Callable[[str], float]],
    reading: Reading,
) -> np.ndarray:
    """The numbers of all rows, read by NumPy's fast reader where possible.

    readers: functions that read the cells of some columns, by the place of the column.
    """
    width = len(start.cells)

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
                os.path.abspath(path), delimiter=start.delimiter, quotechar='"', comments=None,
                skiprows=start.skip, ndmin=2, encoding="utf-8-sig",
                converters={j: without_quotes(read) for j, read in readers.items()} or None,
            )  # fmt: skip
        if len(values) and values.shape[1] == width:
            return values
    except UnicodeDecodeError:
        raise
    except ValueError:
        pass  # an empty cell or an error: the slow reader below handles both
    numbers, texts = array.array("d"), reading.texts
    truths: dict[int, tuple[int, str]] = {}  # the first True or False of a column, and its line
    rows = bar("read", _rows(path, start), unit=" rows", leave=False)
    for here, row in rows:
        for j, cell in enumerate(row[:width]):
            if j in truths and (truth := _truth(cell)) is not None:
                numbers.append(truth)
                continue
            try:
                numbers.append(readers[j](cell) if j in readers else _number(cell, texts))
            except ValueError as error:
                if j not in readers and (truth := _truth(cell)) is not None:
                    numbers.append(truth)
                    truths[j] = here, cell
                    continue
                where = f"line {here}, column {j + 1}" + (f" ({names[j]})" if names else "")
                message = f"{path}: {where}: {error}"
                if names is None or j in readers:
                    raise ValueError(message) from None
                raise _not_a_number(message, path, start, names, readers, texts, here) from None
        if len(row) != width:
            where = f"line {here}, column {min(len(row), width) + 1}"
            raise ValueError(f"{path}: {where}: expected {width} cells, got {len(row)}")
    if not numbers:
        raise ValueError(f"{path}: line {start.skip + 1}, column 1: no rows below the header")
    values = np.frombuffer(numbers).reshape(-1, width).copy()
    for j, (line, cell) in truths.items():
        others = values[~np.isin(values[:, j], (0, 1)) & ~np.isnan(values[:, j]), j]
        if others.size:
            name = f" ({names[j]})" if names else ""
            raise ValueError(
                f"{path}: line {line}, column {j + 1}{name}: {cell!r} in a column with other "
                f"numbers than 0 and 1, such as {others[0]:g}"
            )
    return values


def _not_a_number(message, path, start, names, readers, missing, line):
    """The error of a cell of text, with the texts in all columns of the rows from a line on."""
    texts: dict[str, list[str]] = {}
    with_numbers = set()
    later = (row for here, row in _rows(path, start) if here >= line)
    for row in itertools.islice(later, _SCANNED):
        for j, cell in enumerate(row[: len(names)]):
            text = cell.strip()
            if j in readers or not text or text in missing or any(_without_commas(text)):
                continue
            if _is_number(cell, missing) or _truth(cell) is not None:
                with_numbers.add(names[j])
            elif cell not in texts.setdefault(names[j], []) and len(texts[names[j]]) < _TEXTS:
                texts[names[j]].append(cell)
    return NotANumber(message, texts, [name for name in texts if name not in with_numbers])


def _number(cell: str, missing: frozenset[str]) -> float:
    if not _is_number(cell, missing):
        decimal, thousands = _without_commas(cell.strip())
        hint = ""
        if decimal and thousands:
            hint = (f": if the comma is a decimal comma, write {decimal}; if it separates "
                    f"thousands, write {thousands}")  # fmt: skip
        elif decimal:
            hint = f": write the decimal comma as a point, {decimal}"
        elif thousands:
            hint = f": write it without the commas between thousands, {thousands}"
        raise ValueError(f"{cell!r:.40} is not a number{hint}")
    try:
        return float(cell)
    except ValueError:
        return float("nan")


def _truth(cell: str) -> float | None:
    """1 for True and 0 for False, in upper or lower case; None for other cells."""
    return _TRUTH.get(cell.strip().lower())


def _without_commas(text: str) -> tuple[str, str]:
    """A number with its comma as a decimal point, and without its commas between thousands; "" for
    a reading that is not possible."""
    decimal = re.fullmatch(r"[-+]?[0-9]*,[0-9]+(e[-+]?[0-9]+)?", text, re.IGNORECASE)
    thousands = re.fullmatch(r"[-+]?[1-9][0-9]{0,2}(,[0-9]{3})+(\.[0-9]*)?", text)
    return text.replace(",", ".") if decimal else "", text.replace(",", "") if thousands else ""


def _is_number(cell: str, missing: frozenset[str]) -> bool:
    """Whether a cell is a number or a missing value, such as an empty cell."""
    try:
        float(cell)
    except ValueError:
        text = cell.strip()
        return not text or text in missing
    return "_" not in cell  # only Python reads 1_000 as a number


def _write(file: IO[bytes], values: Any, columns: Columns, delimiter: str = ",") -> None:
    named = isinstance(values, dict)
    arrays = list(map(_printable, values.values() if named else values.T))
    header = list(values) if named else columns
    if header is not None:
        file.write(_encoded([header], delimiter))
    count = len(arrays[0]) if arrays else 0
    cells, texts = [], False
    for column in arrays:
        texts |= column.dtype.kind in "UO" or np.ma.isMaskedArray(column)
        cells.append(_cell(column.dtype))
    line = delimiter.join(cells) + "\n"
    for start in bar("write", range(0, count, _ROWS), unit=" blocks", leave=False):
        block = [column[start : start + _ROWS].tolist() for column in arrays]
        if texts:
            rows = zip(*block, strict=True)
            file.write(_encoded([list(map(_formatted, cells, row)) for row in rows], delimiter))
            continue
        flat = tuple(itertools.chain.from_iterable(zip(*block, strict=True)))
        file.write(((line * len(block[0])) % flat).encode())


def _printable(column: np.ndarray) -> np.ndarray:
    """A column without dates, which become ISO texts."""
    return np.array(iso_texts(column), object) if column.dtype.kind in "mM" else column


def _formatted(cell: str, value: Any) -> Any:
    # the writer leaves the cell of None empty
    return value if cell == "%s" or value is None else cell % value


def _cell(dtype: np.dtype) -> str:
    """The format of a cell, with enough digits to restore the bits of a number."""
    if dtype.kind in "bUO":
        return "%s"
    # nine digits for 32-bit floats, repr for 64-bit ones
    return "%d" if dtype.kind in "iu" else "%r" if dtype.itemsize > 4 else "%.9g"


def _encoded(rows: list[Any], delimiter: str) -> bytes:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _with_tabs(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the format .csv for files whose cells are separated by tabs."""

    def with_tabs(*args: Any) -> Any:
        *others, reading = args
        return function(*others, reading._replace(delimiter=reading.delimiter or "\t"))

    return with_tabs


CSV = Format(
    ".csv", _read, _cells, _write, _names, check_columns=_check_columns, row_name=_row_name,
    lines=_lines, is_text=True,
)  # fmt: skip
TSV = Format(
    ".tsv", _with_tabs(_read), _with_tabs(_cells), partial(_write, delimiter="\t"),
    _with_tabs(_names), check_columns=_check_columns, row_name=_with_tabs(_row_name),
    lines=_with_tabs(_lines), is_text=True,
)  # fmt: skip
