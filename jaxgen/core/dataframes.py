"""Tables in memory, whose columns have names.

A table is a DataFrame of pandas or polars, a pyarrow Table, a NumPy structured array, or a dict of
arrays. None of these packages is imported: a table is known by its attributes.
"""

from __future__ import annotations

import collections
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
        return getattr(value.dtype, "names", None) is not None  # keys have no such attribute
    return isinstance(value, Mapping) or (
        len(getattr(value, "shape", ())) == 2
        and (hasattr(value, "columns") or hasattr(value, "column_names"))
    )


def column_names(table: Any, name: str = "x") -> tuple[str, ...] | None:
    """The names of a table's columns; None for a DataFrame without names, numbered from 0.

    Raises:
      TypeError: some names are not strings.
      ValueError: two columns have the same name, or there are no columns.
    """
    keys = list(_keys(table))
    if not keys:
        raise ValueError(f"{name} has no columns")
    others = [key for key in keys if not isinstance(key, str)]
    if others:
        if keys == list(range(len(keys))) and not isinstance(table, Mapping):
            return None
        raise TypeError(f"{name} must have columns named by strings; one is {others[0]!r}")
    if len(set(keys)) < len(keys):
        twice = next(key for key, count in collections.Counter(keys).items() if count > 1)
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
    names = column_names(value, name)
    if columns is None or names is None:
        columns = list(_keys(value))
    known = set(_keys(value))
    missing = [column for column in columns if column not in known]
    if missing:
        listed = ", ".join(map(repr, missing[:_SHOWN]))
        keys = _listed(list(_keys(value)))
        raise ValueError(f"{name} has no column {listed}; its columns are {keys}")
    arrays = [_column(value, column, name) for column in columns]
    lengths = {len(v): column for column, v in zip(columns, arrays, strict=True) if np.ndim(v)}
    if len(lengths) > 1:
        rows = ", ".join(f"{column!r} has {n:,}" for n, column in lengths.items())
        raise ValueError(f"{name} must have as many rows in each column; {rows}")
    if any(isinstance(array, jax.Array) for array in arrays):
        # float64 on the host first, as JAX would wrap integers that do not fit in 32 bits
        arrays = [v if isinstance(v, jax.Array) else np.asarray(v, np.float64) for v in arrays]
        return jnp.stack(jnp.broadcast_arrays(*arrays), -1)
    return np.stack(np.broadcast_arrays(*arrays), -1)


def row_of(values: Any, columns: Sequence[str] | None) -> Any:
    """A pandas Series that holds one row, with the names of columns in its index, as a dict.

    Other values are returned as they are.
    """
    index = getattr(values, "index", None)
    if columns is None or not hasattr(values, "items") or np.ndim(values) != 1 or callable(index):
        return values
    return {c: values[c] for c in columns} if set(columns) <= set(values.index) else values


def as_array(values: Any, what: str) -> Any:
    """A column or Series as an array of numbers, with NaN for missing values.

    Arrays of JAX and NumPy are returned as they are, except that Python numbers in an array of
    objects become floats.

    Raises:
      TypeError: some values are no numbers; ``what`` names the values in the error.
    """
    values = unmasked(values)
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


def unmasked(value: Any) -> Any:
    """A masked array of numbers as floats with NaN for masked entries; other values unchanged."""
    if not isinstance(value, np.ma.MaskedArray) or value.dtype.kind not in "biuf":
        return value
    values, mask = np.ma.getdata(value), np.ma.getmaskarray(value)
    if not mask.any():
        return values
    return np.where(mask, np.nan, values if values.dtype.kind == "f" else values.astype(np.float64))


def categories_of(values: Any) -> list[Any] | None:
    """The categories of a categorical column, in their order; None if it has none."""
    if isinstance(values, (np.ndarray, jax.Array)):
        return None
    holder = values if hasattr(values, "categories") else getattr(values, "dtype", None)
    categories = getattr(holder, "categories", None)
    if categories is None:
        return None
    return [value.item() if isinstance(value, np.generic) else value for value in categories]


def is_missing(value: Any) -> bool:
    """Whether an entry of a column stands for a missing value: None, NaN or pandas' NA."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float) and value != value


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
    if array.size and all(type(value) in (int, bool) for value in array.flat):
        return np.array(array.tolist())
    values = np.empty(array.shape, np.float64)
    for place, value in np.ndenumerate(array):
        if is_missing(value):
            values[place] = np.nan
        elif isinstance(value, (numbers.Real, decimal.Decimal, np.bool_)):
            values[place] = value
        else:
            is_feature = isinstance(value, str) and what.startswith("x")
            hint = "; text is a label, to be given as y" if is_feature else ""
            hint += ", or the one column of a model of texts" if hint else ""
            raise TypeError(f"{what} must hold numbers, got {value!r:.40}{hint}")
    return values


def _listed(keys):
    more = ", ..." if len(keys) > _SHOWN else ""
    return ", ".join(map(repr, keys[:_SHOWN])) + more
