"""Labels by name: strings, ints, categories and columns of tables, as indices 0, 1, ... or back."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core import dataframes, places
from jaxgen.core.places import Message

_EXACT = 2**53  # whole numbers below it are exact in float64


def as_labels(
    y: Any, labels: tuple[str | int, ...] | None, name: str = "y", column: str | None = None
) -> Any:
    """The indices of the labels y among the names ``labels``; without names, y as an array.

    Within a trace, where a value cannot raise an error, the index of an unknown label is -1.

    Args:
      y: labels, or a table that holds them; None stays None.
      labels: the names, or None.
      name: the name of the argument y, for errors.
      column: the name of the column of labels in a table with several.

    Raises:
      TypeError: y holds floats that are not whole, or is traced and the names are strings.
      ValueError: a label is missing or not among the names, or the table has no such column.
    """
    y = _label_array(column_of_labels(y, column, name), name)
    if labels is None or y is None:
        return y
    if y.dtype.kind in "biu" and labels == tuple(range(len(labels))):
        return y.astype(np.int32) if y.dtype == bool else y  # which are the indices
    traced = isinstance(y, jax.core.Tracer)
    if y.dtype.kind == "f" or (traced and y.dtype.kind not in "biu"):
        raise TypeError(
            f"{name} must hold labels such as {labels[0]!r}, strings or ints; got dtype {y.dtype}"
            f"{_not_whole(y)}"
        )
    if traced:
        return _traced_places(y, labels, name)
    place = {name: i for i, name in enumerate(labels)}
    values = y.ravel().tolist()
    unknown = next((i for i, v in enumerate(values) if v not in place), None)
    if unknown is not None:
        known = _listed(labels)
        parts: list[Any] = [f"{name}: unknown label {values[unknown]!r}; known are {known}"]
        if y.ndim:
            parts += [" (", places.row(np.unravel_index(unknown, y.shape)[0]), ")"]
        raise ValueError(Message(*parts))
    return np.array([place[v] for v in values], np.int32).reshape(y.shape)


def in_order(values: Any, labels: tuple[str | int, ...], name: str) -> Any:
    """Numbers (count,) in the order of the labels, from a dict or a Series by label.

    Other values are unchanged: an array is in the order of the labels already.

    Args:
      values: {label: number}, a pandas Series whose index holds labels, or anything else.
      labels: the names of the labels, in order.
      name: the name of the argument, for errors.

    Raises:
      ValueError: a label is missing, unknown or repeated.

    >>> in_order({"pear": 0.2, "apple": 0.8}, ("apple", "pear"), "prior")
    array([0.8, 0.2])
    """
    if isinstance(values, Mapping):
        keys, entries = list(values), list(values.values())
    elif np.ndim(values) == 1 and not callable(getattr(values, "index", len)):
        keys, entries = values.index.tolist(), values.tolist()  # a pandas Series
    else:
        return values
    given, known = dict(zip(keys, entries, strict=True)), set(labels)
    for key in keys:
        if key not in known:
            raise ValueError(f"{name}: unknown label {key!r}; known are {_listed(labels)}")
    missing = [label for label in labels if label not in given]
    if missing or len(given) < len(keys):
        wrong = f"{missing[0]!r} is missing" if missing else "one is repeated"
        raise ValueError(f"{name} must hold each of the labels {_listed(labels)} once: {wrong}")
    ordered = [given[label] for label in labels]
    xp = jnp if any(isinstance(entry, jax.Array) for entry in ordered) else np
    return xp.array(ordered)


def _label_array(y: Any, name: str) -> Any:
    """Labels as a NumPy array, of strings or ints where they were objects or whole floats; None and
    JAX arrays unchanged, except for known whole floats.

    Raises:
      ValueError: they are no array, or a label is missing.
    """
    if y is None or isinstance(y, jax.core.Tracer):
        return y
    if isinstance(y, jax.Array):
        return _whole_as_ints(y)
    _check_no_label_masked(y, name)
    try:
        y = np.asarray(y)
    except ValueError as error:
        raise ValueError(f"{name} must hold one label for each event: {error}") from None
    if y.dtype.kind in "OTf" and y.ndim:
        is_float = y.dtype.kind == "f"
        missing = np.isnan(y) if is_float else np.vectorize(dataframes.is_missing, [bool])(y)
        if missing.any():
            row = np.argwhere(missing)[0][0]
            raise ValueError(Message(f"{name} must be known, but is missing in ", places.row(row)))
    for label_types in ((str,), (int, np.integer)):  # in an array of objects, such as of pandas
        if y.dtype.kind in "OT" and all(isinstance(v, label_types) for v in y.ravel()):
            y = np.array(y.tolist())
    if y.dtype.kind == "O" and all(isinstance(v, numbers.Real) for v in y.ravel()):
        y = y.astype(np.float64)
    return _whole_as_ints(y)


def _whole_as_ints(y: Any) -> Any:
    """Floats as ints if all of them are whole; other values unchanged."""
    if y.dtype.kind != "f":
        return y
    values = np.asarray(y, np.float64)
    return values.astype(np.int64) if _is_whole(values).all() else y


def _is_whole(values: np.ndarray) -> np.ndarray:
    return (values == np.round(values)) & (np.abs(values) < _EXACT)


def _not_whole(y: Any) -> str:
    """A hint on floats that are no labels, for errors."""
    if y.dtype.kind != "f" or isinstance(y, jax.core.Tracer):
        return ""
    values = np.ravel(y)
    example = values[np.argmin(_is_whole(values))]
    return f", as {example} is no int; y.astype(str) makes labels of any numbers"


def _traced_places(y, labels, name):
    if any(isinstance(label, str) for label in labels):
        raise TypeError(
            f"{name} must be a label such as {labels[0]!r}, and a string cannot be an argument of "
            "jit, grad or vmap: pass it as a constant, or use indices 0, 1, ... with "
            "Fitted(fitted.model, fitted.params), which has no names"
        )
    y = y.astype(np.int32) if y.dtype == bool else y
    info = jnp.iinfo(y.dtype)
    order = sorted(range(len(labels)), key=lambda i: labels[i])
    places = [i for i in order if info.min <= labels[i] <= info.max]
    if not places:
        return jnp.full(y.shape, -1, np.int32)
    known = jnp.array([labels[i] for i in places], y.dtype)
    nearest = jnp.searchsorted(known, y).clip(max=len(places) - 1)
    return jnp.where(known[nearest] == y, jnp.array(places, np.int32)[nearest], -1)


def column_of_labels(y: Any, column: str | None = None, name: str = "y") -> Any:
    """The labels in a table: its only column, or the one with a name; other values unchanged.

    Raises:
      ValueError: the table has several columns and not that one.
    """
    if not dataframes.is_table(y):
        return y
    columns = dataframes.column_names(y, name) or (0,)
    if column in columns:
        return y[column]
    if len(columns) > 1:
        wanted = "one column" if column is None else f"a column {column!r}"
        raise ValueError(f"{name} must hold labels in {wanted}; its columns are {columns}")
    return y[columns[0]]


def names_of_labels(model: Any, y: Any) -> tuple[str | int, ...] | None:
    """The names of a model's labels in training data; None if they are 0 .. classes - 1.

    The names are sorted, except that those of a categorical column keep its order. Two labels that
    are bools are False and True.

    Raises:
      TypeError, ValueError: y is missing or not labels, or has more or fewer than the model.
    """
    if y is None:
        raise ValueError(f"y is missing: {model} is fitted to events and their labels")
    y = column_of_labels(y)
    categories = dataframes.categories_of(y) or []
    y = np.asarray(_label_array(y, "y"))
    if y.dtype.kind not in "biuU" or y.ndim != 1:
        raise TypeError(
            f"y must hold labels, one int or string for each event; got dtype {y.dtype} and "
            f"shape {y.shape}{_not_whole(y)}"
        )
    are_sorted = categories == sorted(categories)
    if are_sorted and y.dtype.kind in "biu" and len(y) > 0:
        if y.dtype.kind == "b" and model.classes == 2:
            return (False, True)
        if y.min() >= 0 and y.max() < model.classes:
            return None
    found = tuple(np.unique(y).tolist())
    if not are_sorted:
        found = tuple(name for name in categories if name in found)
    if len(found) != model.classes:
        raise ValueError(
            f"y must hold {model.classes} labels for {model}; it holds {len(found)}: "
            f"{_listed(found)}"
        )
    return found


def _listed(labels):
    listed = ", ".join(map(repr, labels[:10]))
    return listed + (", ..." if len(labels) > 10 else "")


def _check_no_label_masked(y, name):
    if np.ma.is_masked(y):
        row = int(np.argwhere(np.ma.getmaskarray(y))[0][0])
        raise ValueError(Message(f"{name} must be known, but is masked in ", places.row(row)))
