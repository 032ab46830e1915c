"""The events, labels and names of columns that a command reads and writes."""

from __future__ import annotations

import csv
import math
import os
import re
import shlex
from argparse import Namespace
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from jaxgen.cli.families import literal, models_with_missing_values, split_pairs
from jaxgen.core import places
from jaxgen.core.model import Model
from jaxgen.data import tables
from jaxgen.data.tables.records import check_known, nearest
from jaxgen.training.fitted import Fitted

_CHUNK = 2**16  # rows between two steps of a progress bar
_DELAY = 2.0  # seconds after which a progress bar shows


def read_training(args: Namespace) -> tables.Table:
    """The table to fit a model to, without the columns that are no features."""
    columns = tuple(_names_in(args.columns)) or None
    ignore = _names_in(args.ignore)
    table = _read(args, args.data, columns, ignore, fitting=True)
    if columns is not None and table.columns is None:
        raise ValueError(f"{args.data}: its columns have no names, so --columns does not apply")
    return table


def read_events(
    args: Namespace, fitted: Fitted, path: str | os.PathLike[str], label: str | None = None
) -> tuple[np.ndarray, list[str | int] | None]:
    """The events of a table, with the model's columns by name, and their labels."""
    _, x, labels = _read(args, path, fitted.columns, (), label=label)
    with names(args, path, fitted.columns):
        y = None if labels is None else _labels_of_texts(fitted, map(str, labels))
    return with_event_shape(x, fitted.model), y


def labels_of_rows(
    args: Namespace, fitted: Fitted, n: int
) -> list[tuple[np.ndarray, list[str | int] | None]]:
    """Numbers of the rows of the data with a label, and their labels; then those without, and None.

    The labels are those of the column ``--label``, or of the model's own label if the data have it.
    """
    held = None if fitted.model.classes is None else tables.cells(args.data, reading(args))
    name = args.label or (fitted.y_columns or ("",))[0]
    if args.label is not None:
        label_names(fitted)  # raises if there are none
        if held is None:
            raise ValueError(f"{args.data}: no column {name!r}, as its columns have no names")
        check_known(args.data, list(held), [name])
    if held is None or name not in held:
        return [(np.arange(n), None)]
    blank = {"", "None", "nan", *reading(args).na}
    texts = list(map(str, held[name].tolist()))
    blank -= set(map(str, label_names(fitted)))
    known = np.array([text not in blank for text in texts])
    labels = _labels_of_texts(fitted, [text for text, k in zip(texts, known, strict=True) if k])
    found = [(np.flatnonzero(known), labels), (np.flatnonzero(~known), None)]
    return [(rows, y) for rows, y in found if len(rows)]


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
        return tables.read(path, label, columns, ignore=ignore, reading=reading(args))
    except tables.NotANumber as error:
        raise ValueError(f"{error}{_hint(error, label, fitting)}") from None


def _hint(error: tables.NotANumber, label: str | None, fitting: bool) -> str:
    """A hint for an error about cells of text."""
    hints = []
    for character in ";|\t":
        if len(error.texts) == 1 and character in next(iter(error.texts)):
            name = "tab" if character == "\t" else repr(character)
            return f"; use --delimiter {name} if that separates the columns"
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


def reading(args: Namespace) -> tables.Reading:
    """How the cells of the data are read."""
    return tables.Reading(tuple(_names_in(args.na)), args.delimiter)


def _names_in(texts: list[str]) -> list[str]:
    """Names that are separated by commas; a name in double quotes may hold commas."""
    rows = csv.reader(texts, skipinitialspace=True)
    return [name.strip() for row in rows for name in row]


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
    return places.Names.known(columns, row=lambda row: tables.row_name(path, row, reading(args)))


def ids(args: Namespace, n: int, name: str | None = "row") -> dict[str, np.ndarray]:
    """The column that identifies rows of an output: that of --id, else row numbers.

    name is that of the column of row numbers; None for none.
    """
    if args.id is None:
        return {} if name is None else {name: np.arange(n)}
    held = tables.cells(args.data, reading(args))
    if held is None:
        raise ValueError(f"{args.data}: its columns have no names, so --id does not apply")
    check_known(args.data, list(held), [args.id])
    return {args.id: held[args.id]}


def write_columns(
    path: str, identity: dict[str, np.ndarray], columns: dict[str, Any], numbers: Any
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
    if fitted.model.classes is None:
        raise ValueError(f"{fitted.model} has no labels: it was fitted without --label")
    return fitted.labels or tuple(range(fitted.model.classes))


def _labels_of_texts(fitted: Fitted, texts: Iterable[str]) -> list[str | int]:
    """The model's labels from texts; numbers in one table may be text in another."""
    known = {str(name): name for name in label_names(fitted)}
    texts = list(texts)
    unknown = [text for text in texts if text not in known]
    if unknown:
        message = f"unknown label {unknown[0]!r}; the labels are {', '.join(known):.200}"
        where = () if len(texts) == 1 else (" (", places.row(texts.index(unknown[0])), ")")
        raise ValueError(places.Message(message, *where, nearest(unknown[0], list(known))))
    return [known[text] for text in texts]


def given(fitted: Fitted, pairs: list[str]) -> tuple[Any, dict[int | str, float]]:
    """The values of ``--given``: the label or conditions or None, and features' values by index."""
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
        return _labels_of_texts(fitted, [text.strip()])[0]
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
    numbers = range(max(-(-n // _CHUNK), 1))
    bar = tqdm(numbers, desc=what, disable=None, delay=_DELAY, leave=False)
    parts = [np.asarray(answer(k, slice(k * _CHUNK, (k + 1) * _CHUNK))) for k in bar]
    return np.concatenate(parts)


def completed(args: Namespace, fitted: Fitted, x: np.ndarray, done: np.ndarray) -> tuple[Any, Any]:
    """The columns of the data with their missing values filled, as ``tables.write`` takes them.

    Columns that are no features, and cells of a .csv that had a value, stay as they are.
    """
    missing = np.isnan(x)
    # the shortest decimals that give the number back in float32
    filled = np.array(x, np.float64)
    filled[missing] = [float(str(value)) for value in done[missing]]
    held = tables.cells(args.data, reading(args)) if tables.holds_names(args.out) else None
    if held is None:
        return filled, fitted.columns
    features = fitted.columns or tuple(held)[: size(fitted)]
    as_text = args.out.lower().endswith(".csv")
    for j, name in enumerate(features):
        gaps, cells = missing.reshape(len(x), -1)[:, j], held[name]
        new = filled.reshape(len(x), -1)[:, j]
        if cells.dtype == object and not as_text:
            held[name] = new
        elif gaps.any():
            held[name] = np.where(gaps, new.astype(object), cells) if as_text else new
    return held, None
