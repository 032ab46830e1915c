"""Results as pandas DataFrames, in which given values keep their dtypes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxgen.core import dataframes


def to_frame(columns: Mapping[str, Any], index: Any = None) -> Any:
    """A pandas DataFrame of named columns, with the index if that is a pandas Index.

    Raises:
      ImportError: pandas is not installed.
    """
    pandas = _pandas()
    index = index if isinstance(index, pandas.Index) else None
    # without the index of a Series, by which pandas would align it
    arrays = {name: getattr(column, "array", column) for name, column in columns.items()}
    return pandas.DataFrame(arrays, index=index)


def columns_of(table: Any, names: Sequence[str] | None) -> list[Any]:
    """The columns of a table, in the order of the names; all of them if there are no names."""
    keys: Any = dataframes.column_names(table)
    if keys is None:
        keys = range(table.shape[1])
    elif names is not None:
        keys = names
    return [table[key] for key in keys]


def repeated(value: Any, n: int) -> Any:
    """A column of n rows with the dtype and the categories of a column, or of a single value."""
    if hasattr(value, "array") or hasattr(value, "codes"):
        return value  # of pandas
    categories = dataframes.categories_of(value)
    array = np.asarray(value)
    if categories is not None:
        return _pandas().Categorical(array, categories=categories)
    return np.broadcast_to(array, (n,))


def categorical(values: np.ndarray, labels: Sequence[Any]) -> Any:
    """Labels (n,) as categories, if their order is not the sorted one; else unchanged."""
    if list(labels) == sorted(labels):
        return values
    return _pandas().Categorical(values, categories=list(labels))


def filled(column: Any, draws: np.ndarray) -> Any:
    """A column (n,) with draws (n,) in the place of missing values; the other values are the same.

    Ints with missing values become floats, unless their dtype holds both ints and missing values,
    and the draws are whole.
    """
    numbers = np.asarray(dataframes.as_array(column, "x"))
    missing = np.isnan(numbers) if numbers.dtype.kind == "f" else np.zeros(len(numbers), bool)
    if not missing.any():
        return column if hasattr(column, "array") else np.asarray(column)
    if hasattr(column, "array") and not isinstance(column.dtype, np.dtype):  # one of pandas' own
        for dtype in (column.dtype, "Float64"):
            try:
                array = column.astype(dtype).array.copy()
                array[missing] = draws[missing].astype(np.float64)
            except (TypeError, ValueError):
                continue
            return array
    return np.where(missing, draws, numbers).astype(numbers.dtype)


def _pandas() -> Any:
    try:
        import pandas
    except ImportError:
        raise ImportError("as_frame=True needs pandas: pip install pandas") from None
    return pandas
