"""The events, labels and names of columns that a command reads and writes."""

from __future__ import annotations

import csv
import math
import os
import re
import shlex
from argparse import Namespace
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.cli import images
from jaxgen.cli.families import literal, models_with_missing_values, split_pairs
from jaxgen.core import places
from jaxgen.core.bars import bar
from jaxgen.core.labels import errors_begin_with
from jaxgen.core.model import Model
from jaxgen.data import tables
from jaxgen.data.images import holds_images
from jaxgen.data.tables.records import check_known, nearest
from jaxgen.training.fitted import Fitted

_CHUNK = 2**16  # rows between two steps of a progress bar


def read_training(args: Namespace) -> tables.Table:
    """The table to fit a model to, without the columns that are no features.

    Labels that are missing are None.
    """
    known = tables.names(args.data, reading(args)) or ()
    extra = tables.extra_arrays(args.data)
    columns = tuple(_names_in(args.columns, known)) or None
    ignore = _names_in(args.ignore, (*known, *extra))
    others = [name for name in extra if name not in (args.label, *ignore)]
    if others and columns is None:
        listed = ", ".join(map(repr, others))
        first = "use --label NAME if one is the label, and " if args.label is None else "use "
        raise ValueError(
            f"{args.data}: it holds {listed} beside 'x'; {first}--ignore "
            f"{' '.join(map(shlex.quote, others))} for arrays to leave out"
        )
    ignore = [name for name in ignore if name not in extra]
    table = _read(args, args.data, columns, ignore, fitting=True)
    if columns is not None and table.columns is None:
        raise ValueError(f"{args.data}: its columns have no names, so --columns does not apply")
    return table


def read_events(
    args: Namespace,
    fitted: Fitted,
    path: str | os.PathLike[str],
    label: str | None = None,
    missing_labels: bool = False,
    any_labels: bool = False,
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """The events of a table, with the model's columns by name, or of images; and their labels.

    missing_labels: whether labels may be missing, which are then None.
    any_labels: whether a model without labels takes the labels of the data as they are.

    Returns:
      The events, their labels, and sentences about images that were left out or changed.
    """
    labels: Any
    notes: tuple[str, ...] = ()
    if are_images(fitted, path):
        x, labels, _, notes = images.read_for(fitted, path, label is not None)
    elif not tables.is_table(path) and holds_images(path):
        raise ValueError(f"{path} holds images, and {args.model} was not fitted to images")
    else:
        _, x, labels = _read(args, path, fitted.columns, (), label=label)
        x, notes = images.levels_of(x, fitted)
    with names(args, path, fitted.columns):
        y = None
        if labels is not None and any_labels and fitted.labels is None:
            y = np.array(labels, object)
        elif labels is not None:
            y = labels_of_texts(fitted, labels)
        if y is not None and not missing_labels and not has_label(y).all():
            where = places.row(has_label(y).argmin())
            raise ValueError(
                places.Message(f"{path}: {label!r} has no label in ", where, "; fill it in, or "
                               "leave the row or --label out")
            )  # fmt: skip
    return with_event_shape(x, fitted.model), y, notes


def are_images(fitted: Fitted, path: str | os.PathLike[str]) -> bool:
    """Whether data for a model are files of images, and no table."""
    return fitted.pixels is not None and not tables.is_table(path)


def known_events(
    args: Namespace, fitted: Fitted, path: str, any_labels: bool = False
) -> tuple[np.ndarray, list[str | int] | None, np.ndarray, list[str], int]:
    """The events that have a value, and a label if --label is given, as ``read_events`` does.

    Returns:
      The events, their labels, the numbers of their rows, sentences about the other rows, and the
      number of all rows.
    """
    x, y, notes = read_events(args, fitted, path, args.label, True, any_labels)
    rows, sentences = known_rows(path, x, y)
    sentences = [*notes, *sentences]
    return x[rows], None if y is None else y[rows].tolist(), rows, sentences, len(x)


def has_label(y: np.ndarray) -> np.ndarray:
    """Where labels, an array of objects, are not None."""
    return np.array([label is not None for label in y.tolist()], bool)


def known_rows(path: str, x: np.ndarray, y: np.ndarray | None) -> tuple[np.ndarray, list[str]]:
    """Numbers of the rows that have a value and a label, and sentences about the other rows.

    Without y rows need no label.

    Raises:
      ValueError: no row has a value, or none has a label.
    """
    n = len(x)
    empty = np.isnan(x).all(axis=tuple(range(1, x.ndim)))
    unlabelled = np.zeros(n, bool) if y is None else ~has_label(y)
    rows = np.flatnonzero(~(empty | unlabelled))
    if n and not len(rows):
        what = "any value" if empty.all() else "a label" if unlabelled.all() else "value and label"
        raise ValueError(f"{path}: no row has {what}")
    counts = {"any value": empty.sum(), "a label": (unlabelled & ~empty).sum()}
    return rows, [f"{k:,} rows without {what} were left out" for what, k in counts.items() if k]


def labels_of_rows(
    args: Namespace, fitted: Fitted, n: int
) -> list[tuple[np.ndarray, list[str | int] | None]]:
    """Numbers of the rows of the data with a label, and their labels; then those without, and None.

    The labels are those of the column ``--label``, or of the model's own label if the data have it.
    """
    held = (*(tables.names(args.data, reading(args)) or ()), *tables.extra_arrays(args.data))
    name = args.label or (fitted.y_columns or ("",))[0]
    if args.label is not None:
        label_names(fitted)  # raises if there are none
        if not held:
            raise ValueError(f"{args.data}: no column {name!r}, as its columns have no names")
        check_known(args.data, held, [name])
    if fitted.model.classes is None or name not in held:
        return [(np.arange(n), None)]
    labels = _read(args, args.data, fitted.columns, (), label=name).labels
    assert labels is not None
    blank = {"None", "nan"} - set(map(str, label_names(fitted)))
    y = labels_of_texts(fitted, [None if str(text) in blank else text for text in labels])
    known = has_label(y)
    found = [(np.flatnonzero(known), y[known].tolist()), (np.flatnonzero(~known), None)]
    return [(rows, labels) for rows, labels in found if len(rows)]


def _read(
    args: Namespace,
    path: Any,
    columns: tuple[str, ...] | None,
    ignore: Iterable[str],
    *,
    label: str | None = None,
    fitting: bool = False,
) -> tables.Table:
    label = args.label if fitting else label
    try:
        return tables.read(
            path, label, columns, ignore=ignore, reading=reading(args), missing_labels=True
        )
    except tables.NotANumber as error:
        raise ValueError(f"{error}{_hint(error, label, fitting)}") from None
    except tables.UnknownColumn as error:
        only = error.names[0] if len(error.names) == 1 else ""
        raise ValueError(f"{error}{_delimiter_hint(only)}") from None


def _hint(error: tables.NotANumber, label: str | None, fitting: bool) -> str:
    """A hint for an error about cells of text."""
    hints = []
    if error.text_alone == [""]:
        leave = "use --ignore '' to leave it out, or --columns with the features"
        return f"; {leave}" if fitting else ""
    if len(error.texts) == 1 and (hint := _delimiter_hint(next(iter(error.texts)))):
        return hint
    alone = list(error.text_alone)
    listed = " ".join(map(shlex.quote, alone))
    if fitting and len(alone) == 1 and label is None:
        hints.append("use --label " + listed + f" if it is the label, or --ignore {listed}")
    elif fitting and len(alone) == 1:
        hints.append(f"use --ignore {listed} to leave the column out")
    elif fitting and alone:
        first = "use --label NAME if one is the label, and " if label is None else "use "
        hints.append(f"{len(alone)} columns hold text: {first}--ignore {listed} for those that are "
                     "no features")  # fmt: skip
    mixed = [t for name, found in error.texts.items() if name not in alone for t in found]
    if mixed:
        texts = shlex.quote(",".join(dict.fromkeys(mixed)))
        hints.append(f"use --na {texts} if that stands for a missing value")
    return "".join(f"; {hint}" for hint in hints)


def _delimiter_hint(name: str) -> str:
    """A hint for a table whose columns may all be in one, by the name of that column."""
    for character in ",;|\t:":
        if character in name:
            shown = "tab" if character == "\t" else repr(character)
            return f"; use --delimiter {shown} if that separates the columns"
    return ""


def reading(args: Namespace) -> tables.Reading:
    """How the cells of the data are read."""
    return tables.Reading(tuple(_names_in(args.na)), args.delimiter)


def _names_in(texts: list[str], known: Iterable[str] = ()) -> list[str]:
    """Names that are separated by commas; a name in double quotes may hold commas.

    A text that is a known name is that name.
    """
    found, known = [], set(known)
    for text in texts:
        rows = [[text]] if text in known else csv.reader([text], skipinitialspace=True)
        found += [name.strip() for row in rows for name in row]
    return found


def check_missing(args: Namespace, x: np.ndarray, model: Model) -> None:
    """Raise if x has missing values and the model does not learn from them."""
    missing = np.isnan(x).reshape(len(x), -1)
    if not missing.any() or model.learning.missing is not None:
        return
    row, column = np.argwhere(missing)[0]
    raise ValueError(
        places.Message(
            f"{args.model} does not learn from missing values, of which x has {missing.sum():,} (",
            places.row(row), " in ", places.feature(column),
            f"); models that do: {models_with_missing_values()}",
        )
    )  # fmt: skip


def names(
    args: Namespace, path: str | os.PathLike[str], columns: tuple[str, ...] | None
) -> places.Names:
    """A context whose errors have the names of the columns and rows of a table."""
    return places.Names.known(columns, row=lambda row: row_name(args, path, row))


def row_name(args: Namespace, path: str | os.PathLike[str], row: int) -> str:
    """The name of a row of a table, or of an image, in messages."""
    if not tables.is_table(path):
        return images.row_name(path, row)
    return tables.row_name(path, row, reading(args))


def ids(args: Namespace, n: int, numbered: bool = True) -> dict[str, Any]:
    """The column that identifies rows of an output: that of --id, else numbers of the rows.

    The numbers are those of lines in a text file, as in errors, else of rows from 0 on. Images
    have the names of their files.

    numbered: whether to number the rows if there is no --id.
    """
    if not tables.is_table(args.data):
        if args.id is not None:
            raise ValueError(f"{args.data}: --id is for a column of a table, and this holds images")
        return images.ids(args.data, n)
    if args.id is None:
        lines = tables.row_numbers(args.data, reading(args)) if numbered else None
        return {"line": lines} if lines is not None else {"row": np.arange(n)} if numbered else {}
    held = tables.cells(args.data, reading(args))
    if held is None:
        raise ValueError(f"{args.data}: its columns have no names, so --id does not apply")
    check_known(args.data, list(held), [args.id])
    return {args.id: held[args.id]}


def write_columns(
    path: str, identity: dict[str, Any], columns: dict[str, Any], numbers: Any
) -> None:
    """Write columns beside those that identify rows; an .npy gets an array of numbers alone."""
    if not tables.holds_names(path):
        tables.write(path, numbers)
        return
    for name in identity:
        if name in columns:
            raise ValueError(f"--id: the output has a column {name!r} of another kind")
    tables.write(path, {**identity, **columns})


def label_names(fitted: Fitted) -> tuple[str | int, ...]:
    """The names of a model's labels, in order."""
    if fitted.labels is None:
        raise ValueError(f"{fitted.model} has no labels: it was fitted without --label")
    return fitted.labels


def labels_of_texts(fitted: Fitted, labels: Iterable[Any]) -> np.ndarray:
    """The model's labels, as objects, from texts or numbers; None is kept.

    Numbers in one table may be text in another.
    """
    known = {str(name): name for name in label_names(fitted)}
    texts = [None if label is None else str(label) for label in labels]
    unknown = [text for text in texts if text is not None and text not in known]
    if unknown:
        message = f"unknown label {unknown[0]!r}; the labels are {', '.join(known):.200}"
        where = () if len(texts) == 1 else (" (", places.row(texts.index(unknown[0])), ")")
        raise ValueError(places.Message(message, *where, nearest(unknown[0], list(known))))
    found = np.empty(len(texts), object)
    found[:] = [None if text is None else known[text] for text in texts]
    return found


def given(fitted: Fitted, pairs: list[str]) -> tuple[Any, dict[int | str, float]]:
    """The values of ``--given``: the label or conditions or None, and features' values by index."""
    try:
        return _given(fitted, pairs)
    except ValueError as error:
        joined = [pair for pair in pairs if re.search(",[^,=]+=", pair.partition("=")[2])]
        if not joined:
            raise
        apart = " ".join(map(shlex.quote, re.split(",(?=[^,=]+=)", joined[0])))
        raise ValueError(f"{error}; separate values by spaces: --given {apart}") from None


def _given(fitted: Fitted, pairs: list[str]) -> tuple[Any, dict[int | str, float]]:
    values = dict[int | str, float]()
    conditions: dict[str, str] = {}
    known = _condition_names(fitted)
    for name, text in split_pairs("--given", "NAME", pairs):
        if name == "y" and len(known) == 1:
            name = known[0]
        if name in (*known, "y") and fitted.model.y_shape is not None:
            if name in conditions or (conditions and "y" in (name, *conditions)):
                raise ValueError(f"--given: {name} is given twice")
            conditions[name] = text
            continue
        index = _feature_index(fitted, name)
        if index in values:
            raise ValueError(f"--given: {name} is given twice")
        values[index] = _number(name, text)
    return _conditions(fitted, known, conditions), values


def given_rows(fitted: Fitted, path: str) -> Any:
    """The labels or conditions in the rows of a table, (n,) or (n, *y_shape).

    Columns are found by their names, as in ``--given``; without names, all columns are conditions.
    """
    model, known = fitted.model, _condition_names(fitted)
    if not known:
        raise ValueError(f"--given-file: {model} takes no label or condition y")
    held = tables.names(path)
    if model.classes is not None and held is not None:
        check_known(Path(path), held, known)
        labels = (tables.cells(path) or {})[known[0]].tolist()
    else:
        named = held is not None and known != ("y",)
        y = tables.read(path, None, known if named else None).values
        count = math.prod(model.y_shape or ())
        if math.prod(y.shape[1:]) != count:
            raise ValueError(
                f"{path}: its rows must have {count} numbers, the conditions y of {model}; "
                f"got {math.prod(y.shape[1:])}"
            )
        missing = np.isnan(y).reshape(len(y), -1).any(1)
        if missing.any():
            row = tables.row_name(path, int(missing.argmax()))
            raise ValueError(f"{path}: a value is missing in {row}")
        if model.classes is None:
            return y.reshape(-1, *(model.y_shape or ()))
        labels = y.ravel().tolist()
    found = [None if v in ("", None) or v != v else v for v in labels]
    whole = [int(v) if isinstance(v, float) and v.is_integer() else v for v in found]
    names_of_rows = places.Names(row=lambda row: tables.row_name(path, row))
    with names_of_rows, errors_begin_with(f"{path}: "):
        y = labels_of_texts(fitted, whole)
        if not has_label(y).all():
            raise ValueError(places.Message("no label in ", places.row(has_label(y).argmin())))
    return y


def _condition_names(fitted: Fitted) -> tuple[str, ...]:
    covariates = fitted.model.traits.covariates
    if fitted.model.y_shape is None:
        return ()
    return fitted.y_columns or (covariates.names if covariates is not None else ("y",))


def _conditions(fitted: Fitted, known: tuple[str, ...], texts: dict[str, str]) -> Any:
    """The label or conditions that texts give, in the shape y_shape."""
    if not texts:
        return None
    if len(known) == 1 or "y" in texts:
        return _condition(fitted, *next(iter(texts.items())))
    missing = [name for name in known if name not in texts]
    if missing:
        raise ValueError(f"--given: {', '.join(texts)} needs a value of {', '.join(missing)} too")
    numbers = [_number(name, texts[name]) for name in known]
    return np.reshape(numbers, fitted.model.y_shape or ())


def _condition(fitted: Fitted, name: str, text: str) -> Any:
    if fitted.model.classes is not None:
        return labels_of_texts(fitted, [text.strip()])[0]
    shape = fitted.model.y_shape or ()
    y = np.asarray(literal(text))
    if y.dtype.kind not in "iuf" or y.size != math.prod(shape):
        raise ValueError(f"--given: {name} must be {math.prod(shape)} numbers, got {text!r}")
    return y.reshape(shape)


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--given: {name} must be a number, got {text!r}") from None


def _feature_index(fitted: Fitted, name: str) -> int:
    """The index of a feature from the name of its column, or from x0, x1, ..."""
    if fitted.vocabulary is not None:
        known = ", ".join(_condition_names(fitted)) or "no label"
        raise ValueError(
            f"--given: no {name!r} in a model of texts, which has {known}; use --prompt for the "
            "beginning of a text"
        )
    columns, count = fitted.columns or (), size(fitted)
    if name in columns:
        return columns.index(name)
    if re.fullmatch("x[0-9]{1,9}", name) and int(name[1:]) < count:
        return int(name[1:])
    if name == "y":
        raise ValueError(f"--given: {fitted.model} takes no label or condition y")
    known = ", ".join(columns) if columns else f"x0 to x{count - 1}"
    conditions = _condition_names(fitted)
    more = f", and the {'label' if fitted.model.classes else 'conditions'} {', '.join(conditions)}"
    raise ValueError(
        f"--given: no feature {name!r}; the features are {known}{more if conditions else ''}"
        f"{nearest(name, (*columns, *conditions))}"
    )


def size(fitted: Fitted) -> int:
    """The number of features."""
    return math.prod(fitted.model.event_shape)


def with_event_shape(x: np.ndarray, model: Model) -> np.ndarray:
    """x with single features as a column (n, 1) or as (n,), as the model needs."""
    if x.ndim == 1 and model.event_shape == (1,):
        return x[:, None]
    return x[:, 0] if x.shape[1:] == (1,) and model.event_shape == () else x


def in_chunks(n: int, what: str, answer: Callable[[int, slice], Any]) -> np.ndarray:
    """The answers for n rows, joined, with a progress bar.

    ``answer(number, rows)`` is that of one chunk of rows.
    """
    numbers = bar(what, range(max(-(-n // _CHUNK), 1)), leave=False)
    parts = [np.asarray(answer(k, slice(k * _CHUNK, (k + 1) * _CHUNK))) for k in numbers]
    return np.concatenate(parts)


def completed(args: Namespace, fitted: Fitted, x: np.ndarray, done: np.ndarray) -> tuple[Any, Any]:
    """The columns of the data with their missing values filled, as ``tables.write`` takes them.

    Columns without new values stay as they are, and so do the texts of cells that had a value.
    """
    filled, new = np.array(x, np.float64), np.isnan(x) & ~np.isnan(done)
    # the shortest decimals that give the number back in float32
    filled[new] = [float(str(value)) for value in done[new]]
    held = tables.cells(args.data, reading(args)) if tables.holds_names(args.out) else None
    if held is None:
        return filled, fitted.columns
    features = fitted.columns or tuple(held)[: size(fitted)]
    to_text = tables.is_text(args.out)
    for j, name in enumerate(features):
        gaps, values = new.reshape(len(x), -1)[:, j], filled.reshape(len(x), -1)[:, j]
        if gaps.any() or (tables.is_text(args.data) and not to_text):
            held[name] = _filled(held[name], gaps, values, to_text)
    return held, None


def _filled(column: Any, gaps: np.ndarray, values: np.ndarray, to_text: bool) -> np.ndarray:
    """A column whose gaps hold values; the other cells keep their texts and types if they can.

    Args:
      column: as ``tables.cells`` returns it.
      gaps: where the values are new, (n,).
      values: all values of the column, as numbers (n,).
      to_text: whether the cells will be written as texts.
    """
    held = column.plain() if hasattr(column, "plain") else column
    if held.dtype.kind == "f":
        return np.where(gaps, values, np.ma.getdata(held)).astype(held.dtype)
    cells = column.tolist()
    # numbers and True in one column could not be read again
    if not to_text or any(str(cell).strip().lower() in ("true", "false") for cell in cells):
        return values
    return np.where(gaps, values.astype(object), np.array(cells, object))
