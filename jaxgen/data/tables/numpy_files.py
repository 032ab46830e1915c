"""Tables as NumPy files: .npy, one array without names, and .npz, arrays with names."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np

from jaxgen.core.dataframes import unmasked
from jaxgen.data.tables.records import (
    Columns,
    Format,
    Reading,
    Selection,
    Table,
    check_names,
    places_of,
)


def _read(path: Path, selection: Selection, reading: Reading) -> Table:
    label = selection.label
    loaded = _load(path)
    if isinstance(loaded, np.ndarray):
        if label is not None:
            why = f"an .npy is one array without names, so it has no {label!r}"
            raise ValueError(f"{path}: {why}")
        return Table(None, loaded, None)
    names = _names(loaded)
    in_columns = label is not None and label in (names or ()) and label not in loaded
    arrays = [name for name in loaded if name not in ("columns", label)]
    if label is not None and label not in loaded and not in_columns:
        raise ValueError(f"{path}: no array {label!r}; it has {arrays}")
    if "x" not in arrays and len(arrays) != 1:
        raise ValueError(f"{path}: needs an array named 'x', or a single array; it has {arrays}")
    values = loaded["x" if "x" in arrays else arrays[0]]
    labels = None if label is None or in_columns else loaded[label]
    if names is None:
        return Table(None, values, labels)
    check_names(path, names, values)
    place = places_of(names)
    if label is not None and in_columns:
        labels = values[:, place[label]]
    else:
        selection = selection._replace(label=None)
    columns = selection.columns_of(path, names)
    return Table(columns, values[:, [place[name] for name in columns]], labels)


def _columns(path: Path, reading: Reading) -> Columns:
    loaded = _load(path, only=("columns",))
    return None if isinstance(loaded, np.ndarray) else _names(loaded)


def _extra(path: Path) -> list[str]:
    """The names of the arrays beside "x"."""
    loaded = _load(path, only=())
    if isinstance(loaded, np.ndarray) or "x" not in loaded:
        return []
    return [name for name in loaded if name not in ("x", "columns")]


def _cells(path: Path, reading: Reading) -> dict[str, Any] | None:
    loaded = _load(path)
    if isinstance(loaded, np.ndarray) or (names := _names(loaded)) is None or "x" not in loaded:
        return None
    values = loaded["x"]
    check_names(path, names, values)
    others = {
        n: v for n, v in loaded.items() if n not in ("x", "columns") and len(v) == len(values)
    }
    return dict(zip(names, values.T, strict=True)) | others


def _names(loaded: dict[str, np.ndarray]) -> tuple[str, ...] | None:
    return tuple(map(str, loaded["columns"].ravel())) if "columns" in loaded else None


def _load(path: Path, only: tuple[str, ...] | None = None) -> Any:
    """The array of an .npy, or the arrays of an .npz by name, None for those not in only."""
    with open(path, "rb") as file:
        head = file.read(1)
    if head not in (b"P", b"\x93", b"\x80"):  # of an .npz, of an .npy, and of a pickle
        raise ValueError(f"{path}: it is no {path.suffix.lower()} file, by its first byte")
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            wanted = loaded.files if only is None else only
            return {name: loaded[name] if name in wanted else None for name in loaded.files}
    except OSError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise various errors for a damaged file
        why = "pickled Python objects, which are refused" if "pickle" in str(error) else error
        raise ValueError(f"{path}: {why}") from error


def _write_npy(file: IO[bytes], values: Any, columns: Columns) -> None:
    np.save(file, unmasked(values), allow_pickle=False)


def _write_npz(file: IO[bytes], values: Any, columns: Columns) -> None:
    arrays: dict[str, Any] = {}
    if isinstance(values, dict):
        values = {n: _plain(v) for n, v in values.items()}
        numbers = {n: v for n, v in values.items() if v.ndim == 1 and v.dtype.kind in "biuf"}
        if any(v.ndim > 1 for v in values.values()):  # events that are no vectors
            numbers = {}
        common = np.result_type(*numbers.values()) if numbers else np.dtype(float)
        numbers = {n: v for n, v in numbers.items() if _is_exact(v, common)}
        arrays = {n: v for n, v in values.items() if n not in numbers}
        values, columns = np.stack(list(numbers.values()), 1) if numbers else None, tuple(numbers)
    if values is not None:
        arrays["x"] = unmasked(values)
        if columns is not None:
            arrays["columns"] = np.array(columns, str)
    np.savez(file, **arrays)


def _plain(column: np.ndarray) -> np.ndarray:
    """A column as an .npz holds it: numbers, with NaN for missing ones if that is exact, dates, or
    strings."""
    if column.dtype.kind in "mM":
        return column
    found = np.asarray(unmasked(column))
    exact = not np.ma.isMaskedArray(column) or _is_exact(column.compressed(), found.dtype)
    return found if found.dtype.kind in "biuf" and exact else _texts(column)


def _is_exact(values: np.ndarray, dtype: np.dtype) -> bool:
    """Whether whole numbers are the same in another dtype; others are stored as they are."""
    if values.dtype.kind not in "iu" or dtype.kind != "f" or not values.size:
        return True
    most = 2 ** (np.finfo(dtype).nmant + 1)
    return bool(-most <= int(values.min()) and int(values.max()) <= most)


def _texts(column: np.ndarray) -> np.ndarray:
    """A column as strings, those of None empty."""
    return np.array(["" if text is None else str(text) for text in column.tolist()], str)


NPY = Format(
    ".npy", _read, _cells, _write_npy, lambda path, reading: None, events_of_any_shape=True,
    holds_names=False,
)  # fmt: skip
NPZ = Format(".npz", _read, _cells, _write_npz, _columns, events_of_any_shape=True, extra=_extra)
