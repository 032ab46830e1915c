"""Reading of tables in pieces, as the events and conditions that a fitted model scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxgen.data import tables
from jaxgen.data.bulk.block_files import layout_of
from jaxgen.data.bulk.block_reading import numbers_of
from jaxgen.data.tables.parquet_files import PARQUET
from jaxgen.data.tables.records import check_known

_ROWS, _NUMBERS = 2**16, 2**24  # most rows of a piece, and most numbers in it


class Piece(NamedTuple):
    """Some rows of a file, as ``Fitted.log_prob`` takes them.

    Attributes:
      x: events.
      y: labels, or conditions by name, or None.
      total: number of rows of the whole file.
    """

    x: Any
    y: Any
    total: int


def pieces(fitted: Any, path: Path, label: str | None) -> Iterator[Piece]:
    """The rows of a table in pieces. A Parquet file is never in memory as a whole.

    The features are the columns that the model names. A model without names takes the columns that
    ``generate`` would write ("x0", "x1", ...), if the file has all of them, else all but the label.

    Args:
      label: the name of the column of labels, or None.

    Raises:
      ValueError: the file holds no such table; the message names it.
      ImportError, OSError: as in ``tables.read``.
    """
    read = _of_parquet if path.suffix.lower() == PARQUET.ending else _of_table
    yield from read(fitted, path, label, _piece_rows(fitted))


def _piece_rows(fitted: Any) -> int:
    return max(1, min(_ROWS, _NUMBERS // max(math.prod(fitted.model.event_shape), 1)))


def _of_parquet(fitted: Any, path: Path, label: str | None, rows: int) -> Iterator[Piece]:
    pyarrow = PARQUET.check_installed()
    events, conditions = _columns(fitted, path, label)
    wanted = [*events, *conditions, *([] if label is None else [label])]
    try:
        with pyarrow.parquet.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
            count = file.metadata.num_rows
            for batch in file.iter_batches(rows, columns=wanted):
                table = pyarrow.Table.from_batches([batch])
                y: Any = None
                if label is not None:
                    y = _labels(fitted, table.column(label).to_pylist())
                elif conditions:
                    y = _by_name(fitted, [_numbers(table, path, name) for name in conditions])
                yield Piece(_events(fitted, path, table, events), y, count)
    except (pyarrow.ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None:  # of the disk, which may be gone next time
            raise
        raise ValueError(f"{path}: {error}") from error


def _events(fitted: Any, path: Path, table: Any, names: Sequence[str]) -> Any:
    """The events of a pyarrow.Table."""
    if fitted.vocabulary is not None:
        return table.column(names[0]).to_pylist()
    columns = [_numbers(table, path, name) for name in names]
    nested = [name for name, column in zip(names, columns, strict=True) if column.ndim > 1]
    if nested and len(columns) > 1:
        raise ValueError(f"{path}: column {nested[0]!r} holds lists, not numbers")
    if nested:
        x = columns[0]
        return x if fitted.pixels is None else fitted.pixels.encode(x)
    return np.stack(columns, 1).reshape(_shape(fitted, (len(columns[0]), len(columns))))


def _numbers(table: Any, path: Path, name: str) -> np.ndarray:
    column = table.column(name)
    try:
        numbers = numbers_of(column)
    except ValueError as error:
        raise ValueError(f"{path}: column {name!r}: {error}") from error
    if numbers.dtype.kind not in "iuf":
        raise ValueError(f"{path}: column {name!r} is {column.type}, not numbers")
    return numbers


def _of_table(fitted: Any, path: Path, label: str | None, rows: int) -> Iterator[Piece]:
    x: Any
    y: Any
    events: Any
    named = tables.names(path) is not None
    events, conditions = _columns(fitted, path, label) if named else ((), ())
    if fitted.vocabulary is not None and named:
        cells = tables.cells(path) or {}
        x = np.asarray(cells[events[0]]).tolist()
        y = None if label is None else np.asarray(cells[label]).tolist()
    else:
        _, x, y = tables.read(path, label, (*events, *conditions) or None)
        if conditions:
            x, y = x[:, : len(events)], x[:, len(events) :]
        if fitted.pixels is not None and x.dtype == np.uint8 and x.ndim > 2:
            # as for the command line: whole numbers are levels if all are below those of the model
            x = x if x.max(initial=0) < fitted.pixels.levels else fitted.pixels.encode(x)
            if math.prod(x.shape[1:]) == math.prod(fitted.model.event_shape):
                x = x.reshape(len(x), *fitted.model.event_shape)
        x = x.reshape(_shape(fitted, x.shape))
    for start in range(0, len(x), rows):
        some = slice(start, start + rows)
        if label is not None:
            yield Piece(x[some], _labels(fitted, y[some]), len(x))
        else:
            yield Piece(x[some], _by_name(fitted, y[some].T) if conditions else None, len(x))


def _columns(fitted: Any, path: Path, label: str | None) -> tuple[Any, Any]:
    """The names of the columns of events and of conditions in a file with names."""
    names = tables.names(path) or ()
    has_conditions = fitted.model.y_shape is not None and fitted.model.classes is None
    layout = layout_of(fitted, "parquet", has_conditions, False)
    wanted = *layout.x, *layout.y
    if fitted.vocabulary is not None:
        check_known(path, names, [*wanted, label])
        return layout.x, layout.y
    by_name = fitted.columns is not None or layout.y or len(fitted.model.event_shape) > 1
    columns = wanted if by_name or set(wanted) <= set(names) else None
    columns = tables.Selection(label, columns).columns_of(path, names)
    return columns[: len(columns) - len(layout.y)], layout.y


def _shape(fitted: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of rows, in which a single number becomes (1,) or (), as the model needs."""
    needed = tuple(fitted.model.event_shape)
    return (shape[0], *needed) if math.prod(shape[1:]) == math.prod(needed) == 1 else shape


def _by_name(fitted: Any, columns: Any) -> dict[str, np.ndarray]:
    """Conditions as a table."""
    names = fitted.y_columns or [str(j) for j in range(len(columns))]
    covariates = fitted.model.traits.covariates
    if fitted.y_columns is None and covariates is not None:
        names = covariates.names
    return dict(zip(names, columns, strict=True))


def _labels(fitted: Any, labels: Any) -> list[Any]:
    """The model's labels, of which texts in a file may be numbers in the model, or the reverse."""
    known = {str(name): name for name in fitted.labels}
    found = []
    for name in np.asarray(labels).tolist() if isinstance(labels, np.ndarray) else labels:
        whole = isinstance(name, float) and name.is_integer()
        found.append(known.get(str(int(name) if whole else name), name))
    return found
