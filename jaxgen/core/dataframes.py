"""Tables in memory, whose columns have names.

A table is a DataFrame of pandas or polars, a pyarrow Table, a NumPy structured array, or a dict of
arrays. None of these packages is imported: a table is known by its attributes.
"""

from __future__ import annotations

import decimal
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_SHOWN = 12  # most columns that an error lists


def is_table(value: Any) -> bool:
    """Whether the value is a table."""
    if isinstance(value, (np.ndarray, jax.Array)):
        return value.dtype.names is not None
    return isinstance(value, Mapping) or (
        len(getattr(value, "shape", ())) == 2
        and (hasattr(value, "columns") or hasattr(value, "column_names"))
    )


def column_names(table: Any, name: str = "x") -> tuple[str, ...] | None:
    """The names of a table's columns; None if the columns only have numbers, as in pandas.

    Raises:
      TypeError: some names are not strings.
      ValueError: two columns have the same name, or there are no columns.
    """
    keys = list(_keys(table))
    if not keys:
        raise ValueError(f"{name} has no columns")
    if not any(isinstance(key, str) for key in keys):
        return None
    others = [key for key in keys if not isinstance(key, str)]
    if others:
        raise TypeError(f"{name} must have columns named by strings; one is {others[0]!r}")
    twice = next((key for j, key in enumerate(keys) if key in keys[:j]), None)
    if twice is not None:
        raise ValueError(f"{name} has two columns named {twice!r}")
    return tuple(keys)


def name_of(values: Any) -> str | None:
    """The name of a pandas or polars Series; None for other values and for a name that is no string
    or empty."""
    name = None if isinstance(values, (np.ndarray, jax.Array)) else getattr(values, "name", None)
    return name if isinstance(name, str) and name else None


def select(value: Any, columns: Sequence[str] | None, name: str = "x") -> Any:
    """The columns of a table as an array (..., len(columns)), by name; other values unchanged.

    Args:
      value: a table, or anything else.
      columns: the names, in the order wanted; None takes all columns in the order of the table.
      name: the name of the argument, for errors.

    Raises:
      ValueError: a column is missing, or is no column.
      TypeError: a column does not hold numbers.
    """
    if not is_table(value):
        return value
    keys = list(_keys(value))
    if columns is None or column_names(value, name) is None:
        column_names(value, name)  # raises for names that are no names
        columns = keys
    missing = [column for column in columns if column not in keys]
    if missing:
        listed = ", ".join(map(repr, missing[:_SHOWN]))
        raise ValueError(f"{name} has no column {listed}; its columns are {_listed(keys)}")
    arrays = [_column(value, column, name) for column in columns]
    if any(isinstance(array, jax.Array) for array in arrays):
        return jnp.stack(jnp.broadcast_arrays(*arrays), -1)
    return np.stack(np.broadcast_arrays(*arrays), -1)


def as_array(values: Any, what: str) -> Any:
    """A column or Series as an array of numbers, with NaN for missing values.

    Arrays of JAX and NumPy are returned as they are, except that Python numbers in an array of
    objects become floats.

    Raises:
      TypeError: some values are no numbers; ``what`` names the values in the error.
    """
    if isinstance(values, jax.Array):
        return values
    dtype = getattr(values, "dtype", None)
    masked = getattr(dtype, "numpy_dtype", None)  # a dtype of pandas with missing values
    if masked is not None and np.dtype(masked).kind in "biuf" and _has_missing(values):
        return values.to_numpy(dtype=np.float64, na_value=np.nan)
    array = np.asarray(values)
    if array.dtype.kind in "biuf":
        return array
    if array.dtype.kind in "OUST":
        return _numbers_of_objects(array, what)
    if array.dtype.kind in "mM":
        raise TypeError(f"{what} holds dates or times ({array.dtype}): convert them to numbers")
    return array  # such as complex numbers, which the caller refuses


def categories_of(values: Any) -> list[Any] | None:
    """The categories of a categorical column, in their order; None if it has none."""
    if isinstance(values, (np.ndarray, jax.Array)):
        return None
    if hasattr(values, "categories"):  # pandas.Categorical
        return list(values.categories)
    dtype = getattr(values, "dtype", None)
    if hasattr(dtype, "categories"):
        categories = dtype.categories
        return None if categories is None else list(categories)
    return None


def _keys(table):
    if isinstance(table, np.ndarray):
        return table.dtype.names
    if isinstance(table, Mapping):
        return table
    return table.column_names if hasattr(table, "column_names") else table.columns


def _column(table, column, name):
    values, what = table[column], f"{name}: column {column!r}"
    if not isinstance(values, jax.Array):
        values = as_array(values, what)
    if values.ndim > 1:
        raise ValueError(f"{what} must have shape (n,), got {values.shape}")
    return values


def _has_missing(series):
    return bool(series.isna().any())


def _numbers_of_objects(array, what):
    """Numbers from an array of objects; None and pandas' NA are NaN."""
    values = np.empty(array.shape, np.float64)
    for place, value in np.ndenumerate(array):
        if value is None or type(value).__name__ in ("NAType", "NaTType"):
            values[place] = np.nan
        elif isinstance(value, (numbers.Real, decimal.Decimal, np.bool_)):
            values[place] = value
        else:
            is_feature = isinstance(value, str) and what.startswith("x")
            hint = "; text is a label, to be given as y" if is_feature else ""
            raise TypeError(f"{what} must hold numbers, got {value!r:.40}{hint}")
    return values


def _listed(keys):
    more = ", ..." if len(keys) > _SHOWN else ""
    return ", ".join(map(repr, keys[:_SHOWN])) + more
