"""Checks of the arguments of public functions.

Each function returns the value ready for use, or raises an error that names the argument, what was
expected and what was given. Shapes and dtypes are checked within a trace too, values only outside.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core import dataframes, label_names, places
from jaxgen.core.constraints import innermost
from jaxgen.core.places import Message, Place
from jaxgen.core.random import is_leaf

_ROUNDED, _COMPARED = 16384, 256  # most rows to test for rounding, and to compare with each other


def float_dtype(params: Any) -> np.dtype:
    """The dtype in which a model computes: that of its first float param, or JAX's default."""
    config: Any = jax.config
    for leaf in jax.tree_util.tree_leaves(params):
        dtype = _as_float(
            getattr(leaf, "dtype", None) or jnp.result_type(leaf), config.jax_enable_x64
        )
        if dtype is not None:
            return dtype
    return jnp.result_type(float)


@functools.cache
def _as_float(dtype: Any, _wide: bool) -> np.dtype | None:
    """The dtype in which JAX holds a float dtype; None if it is of another kind."""
    dtype = jnp.result_type(dtype)
    return dtype if jnp.issubdtype(dtype, jnp.floating) else None


def as_key(key: Any) -> jax.Array:
    """The key as a typed PRNG key; a legacy uint32 key is wrapped.

    Raises:
      TypeError: it is no key, such as an int.
      ValueError: it is an array of keys.
    """
    wanted = "key must be a PRNG key such as jax.random.key(0)"
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        if key.shape != ():
            raise ValueError(f"{wanted}, got an array of keys of shape {key.shape}")
        return key
    if isinstance(key, (jax.Array, np.ndarray)) and key.dtype == np.uint32 and key.shape == (2,):
        return jax.random.wrap_key_data(jnp.asarray(key), impl="threefry2x32")
    raise TypeError(f"{wanted}, got {_describe(key)}")


def as_not_negative(value: Any, name: str) -> float:
    """The value as a float of at least 0; ``name`` is that of the argument in errors."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {_describe(value)}") from None
    if not 0 <= number < np.inf:
        raise ValueError(f"{name} must be a finite number of at least 0, got {number}")
    return number


def as_place(device: Any) -> jax.Device | jax.sharding.Sharding | None:
    """The argument ``device``: a device, a sharding or None; any other type raises TypeError."""
    if device is None or isinstance(device, jax.Device | jax.sharding.Sharding):
        return device
    raise TypeError(
        "device must be a jax.Device such as jax.devices()[0], a jax.sharding.Sharding or None, "
        f"got {_describe(device)}"
    )


def as_count(n: Any, name: str = "n", least: int = 0) -> int:
    """n as an int of at least ``least``; ``name`` is that of the argument in errors."""
    try:
        if isinstance(n, (bool, np.bool_)):
            raise TypeError
        count = operator.index(n)
    except (TypeError, jax.errors.JAXTypeError):
        raise TypeError(f"{name} must be an int, got {_describe(n)}") from None
    if count < least:
        raise ValueError(f"{name} must be at least {least}, got {count}")
    return count


def as_events(model: Any, x: Any, dtype: Any) -> Any:
    """x (..., *event_shape) in the given float dtype; it must have a batch dimension."""
    x = _batched(numbers(events_of_table(model, x), "x"), model.event_shape, "x", model)
    if x.dtype == dtype:
        return x  # without a copy
    with np.errstate(over="ignore"):  # values beyond the dtype become infinite and score -inf
        return x.astype(dtype)


def as_noise(model: Any, noise: Any) -> tuple[Any, int]:
    """Noise with the tree and shapes of ``model.noise()`` and leading rows; the number of rows."""
    tree: Any
    wanted, tree = jax.tree_util.tree_flatten(model.noise(), is_leaf=is_leaf)
    leaves, found = jax.tree_util.tree_flatten(noise)
    shapes = [tuple(getattr(leaf, "shape", ())) for leaf in wanted]
    ok = tree == found and all(
        np.ndim(v) > 0 and np.shape(v) == (np.shape(leaves[0])[0], *s)
        for v, s in zip(leaves, shapes, strict=True)
    )
    if not ok:
        got = [np.shape(v) for v in leaves]
        raise ValueError(
            f"noise must have the structure {model.noise()}, with a leading axis of rows in each "
            f"leaf; got leaves of shapes {got}"
        )
    return noise, np.shape(leaves[0])[0]


def as_conditions(model: Any, y: Any, batch_shape: tuple[int, ...], dtype: Any) -> Any:
    """y with shape (*batch_shape, *y_shape); a single condition is repeated for all rows.

    Float conditions are cast to ``dtype``. Integers stay integers, but become floats if some do not
    fit in 32 bits. None stays None if the model has p(y).
    """
    if model.y_shape is None:
        if y is not None:
            raise ValueError(f"y was given, but {model} is unconditional (its y_shape is None)")
        return None
    if y is None and model.classes is not None:
        return None
    shape = tuple(model.y_shape)
    if y is None:
        raise ValueError(f"y is missing: {model} is conditional, with y of shape {shape}")
    y = numbers(conditions_of_table(model, y), "y")
    if model.classes is not None and y.dtype.kind not in "biu":
        raise TypeError(f"y must hold labels 0 .. {model.classes - 1}, ints; got dtype {y.dtype}")
    if y.shape not in (shape, (*batch_shape, *shape)):
        wanted = f"{(*batch_shape, *shape)}, one row for each event, or " if batch_shape else ""
        x_shape = (*batch_shape, *model.event_shape)
        swapped = x_shape == (*x_shape[:1], *shape) and y.shape == (
            *x_shape[:1],
            *model.event_shape,
        )
        hint = _swapped(model, swapped)
        raise ValueError(f"y must have shape {wanted}{shape}; got {y.shape}{hint}")
    if not isinstance(y, jax.core.Tracer) and model.y_support is not None and y.size:
        _check_conditions(model, np.asarray(y))
    y = narrowed(y, dtype, "y")
    xp = jnp if isinstance(y, jax.Array) else np
    return xp.broadcast_to(y, (*batch_shape, *shape))


def narrowed(y: Any, dtype: Any, name: str) -> Any:
    """Floats cast to ``dtype``; integers as int32 if all fit, else as floats.

    Raises:
      ValueError: a finite float is beyond ``dtype``; ``name`` is that of the argument.
    """
    if jnp.issubdtype(y.dtype, jnp.floating):
        if y.dtype == dtype or isinstance(y, jax.core.Tracer):
            return y.astype(dtype)
        with np.errstate(over="ignore"):
            narrow = y.astype(dtype)
        if (np.isfinite(y) & ~np.isfinite(narrow)).any():
            largest = np.abs(np.where(np.isfinite(y), y, 0)).max()
            raise ValueError(f"{name} must fit in {np.dtype(dtype)}; got {largest:.3g}")
        return narrow
    if np.can_cast(y.dtype, np.int32):
        return y.astype(np.int32)
    if isinstance(y, jax.core.Tracer):
        return y  # with all bits, since its values are not known
    info = np.iinfo(np.int32)
    fits = not y.size or (y.min() >= info.min and y.max() <= info.max)
    return y.astype(np.int32 if fits else dtype)


def _check_conditions(model, y):
    """Raise if a condition that is not NaN is outside ``model.y_support``."""
    rows = y.reshape(-1, *model.y_shape)
    known = np.asarray(model.y_support(rows)).reshape(len(rows), -1).all(1)
    known |= np.isnan(rows).reshape(len(rows), -1).any(1)
    if not known.all():
        row = int(known.argmin())
        wanted = getattr(model.y_support, "wanted", "suit its y_domain")
        if model.classes:
            wanted = f"be a label 0 .. {model.classes - 1}"
        held = f" holds {rows[row]}"
        raise ValueError(Message(f"y must {wanted} of {model}; ", places.row(row), held))


def as_prior(model: Any, prior: Any, dtype: Any) -> Any:
    """log p(y) (classes,) of a prior that may not be normalised; None stays None.

    A dict or a pandas Series is taken by label, where labels are 0 .. classes - 1.
    """
    if model.classes is None:
        raise TypeError(f"{model} has no labels to classify: see compose.PerClass and Labelled")
    if prior is None:
        return None
    prior = numbers(label_names.in_order(prior, tuple(range(model.classes)), "prior"), "prior")
    if prior.shape != (model.classes,):
        raise ValueError(
            f"prior must have shape ({model.classes},), with a number for each label in their "
            f"order, or be a dict by label; got shape {prior.shape}"
        )
    if isinstance(prior, jax.core.Tracer):
        prior = jnp.where(prior < 0, jnp.nan, prior.astype(dtype))
        return jax.nn.log_softmax(jnp.log(prior))
    wide = np.asarray(prior, np.float64)
    if not np.isfinite(wide).all() or (wide < 0).any() or wide.max() <= 0:
        raise ValueError(f"prior must hold probabilities with a positive sum; got {wide}")
    with np.errstate(divide="ignore"):  # divided by the largest, so that the sum cannot overflow
        log_prior = np.log(wide / wide.max())
        return (log_prior - np.log(np.exp(log_prior).sum())).astype(dtype)


def training_data(
    model: Any, x: Any, y: Any, weights: Any, missing: bool = False
) -> tuple[Any, Any, Any]:
    """x, y and weights for a fit, in float64 on the host.

    Args:
      model: the spec.
      x: events (n, *event_shape), finite and within the support.
      y: conditions, as in ``as_conditions``.
      weights: (n,), not negative, with a positive sum; or None.
      missing: whether NaN in x are missing values; no event and no feature may be all NaN.

    Raises:
      TypeError, ValueError: an argument does not satisfy this.
    """
    raw = _batched(numbers(events_of_table(model, x), "x"), model.event_shape, "x", model)
    x = np.asarray(raw, np.float64)
    if x.ndim != len(model.event_shape) + 1:
        raise ValueError(f"x must have one batch dimension, (n, ...); got shape {x.shape}")
    n = x.shape[0]
    if n == 0:
        raise ValueError(f"x must hold at least one event; got shape {x.shape}")
    known = x
    if missing:
        _check_missing(x)
        known = filled(x, np.nanmax)
    _finite(known, "x")
    check_resolution(raw, "x")
    # in the dtype of the fit, since rounding may move a value to an open edge
    narrow, support = known if _has_all_digits(raw) else _narrow(known), model.support
    if not np.asarray(support(narrow)).all():
        support = innermost(support)  # that of single numbers
        where = first_of(~np.asarray(support(narrow)), x)
        wanted = getattr(support, "wanted", f"lie in the support of {model}")
        wanted = f"x must {wanted}; "
        hint = _swapped(model, _are_events(model, y, n))
        raise ValueError(Message(wanted, *where, f" is outside{hint}"))
    raw = conditions_of_table(model, y)
    host = np.asarray(raw) if isinstance(raw, jax.Array) else raw  # JAX has no float64 by default
    y = as_conditions(model, host, (n,), np.float64)
    if y is not None:
        y = np.asarray(y)
        _finite(y, "y")
        if model.classes is None and y.shape == np.shape(raw):
            check_resolution(numbers(raw, "y"), "y")
    if weights is not None:
        weights = np.asarray(numbers(weights, "weights"), np.float64)
        if weights.shape != (n,):
            raise ValueError(
                f"weights must have shape ({n},), one for each event; got {weights.shape}"
            )
        _finite(weights, "weights")
        if (weights < 0).any() or weights.sum() <= 0:
            raise ValueError("weights must be non-negative, and not all zero")
    return x, y, weights


def check_resolution(array: Any, name: str) -> None:
    """Raise if JAX's default float dtype has too few digits for the array (n, ...).

    That is so if rounding moves a value by more than 1/512 of the standard deviation of its
    feature, which changes log densities by 1e-3 nats or more, or if rounding makes more than a
    quarter of some different values equal, such as those of a narrow cluster far from others. NaN
    and values beyond the dtype are ignored.
    """
    if _has_all_digits(array):
        return
    dtype = np.dtype(jnp.result_type(float))
    some = np.asarray(array[:: -(-len(array) // _ROUNDED)])
    exact = some.reshape(len(some), -1)
    # 64-bit integers have more digits than float64
    exact = exact.astype(np.longdouble if exact.dtype.kind in "iu" else np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        cast = exact.astype(dtype)
        known = np.isfinite(cast)
        exact, cast = np.where(known, exact, 0), np.where(known, cast, 0)
        loss = np.abs(exact - cast).max(0)
    for j in np.flatnonzero(loss > 0):
        values, rounded = exact[known[:, j], j], cast[known[:, j], j]
        deviation = float((values - values[0]).std())
        few = slice(None, None, -(-len(values) // _COMPARED))
        merged = 1 - len(np.unique(rounded[few])) / max(_count_different(values[few]), 1)
        if 512 * loss[j] <= deviation and merged <= 0.25:
            continue
        if values.min() == values.max():  # a constant feature
            continue
        where = [" in ", places.feature(j, array=name)] if array.ndim > 1 else []
        offset = float(np.median(values))
        wider = "" if dtype == np.float64 else ", or turn on jax_enable_x64"
        lie = (
            f" lie near {offset:.6g} with a deviation of {deviation:.3g}; subtract an offset such "
            f"as {offset:.6g} first{wider}"
        )
        what = f"{name} needs more digits than {dtype} has: its values"
        raise ValueError(Message(what, *where, lie))


def _count_different(values):
    """The number of values that differ by more than the rounding of a float64 sum."""
    ordered = np.sort(values)
    return 1 + int((np.diff(ordered) > 1e-11 * np.abs(ordered[1:])).sum())


def has_missing(x: Any) -> bool:
    """Whether the floats x hold NaN; three times as fast as ``np.isnan(x).any()``."""
    x = np.asarray(x).ravel()
    return bool(np.isnan(np.vdot(x, x)))


def filled(x: np.ndarray, value: Any) -> np.ndarray:
    """x with NaN replaced by ``value(x, axis=0)`` of the feature, such as ``np.nanmean``."""
    return np.where(np.isnan(x), value(x, axis=0), x) if np.isnan(x).any() else x


def _check_missing(x):
    unknown = np.isnan(x).reshape(len(x), -1)
    for axis, place in ((1, places.row), (0, places.feature)):
        if unknown.shape[1] and unknown.all(axis).any():
            where = place(unknown.all(axis).argmax())
            raise ValueError(Message("x has no value in ", where, ": all are missing (NaN)"))


def conditions_of_table(model: Any, y: Any, columns: tuple[str, ...] | None = None) -> Any:
    """The conditions in a table as an array (..., *y_shape); other values unchanged.

    columns: the names of the columns to take; None takes all of them in the order of the table. A
    model with ``traits.covariates`` takes those, by name.
    """
    covariates = model.traits.covariates
    y = dataframes.row_of(y, columns if covariates is None else covariates.names)
    if model.y_shape is None or not dataframes.is_table(y):
        return y
    if covariates is not None:
        return covariates.from_table(y)
    return _in_shape(dataframes.select(y, columns, "y"), model.y_shape or (), "y", model)


def events_of_table(
    model: Any, x: Any, columns: tuple[str, ...] | None = None, name: str = "x"
) -> Any:
    """The events in a table as an array (..., *event_shape); see ``conditions_of_table``."""
    if not dataframes.is_table(x):
        return x
    try:
        chosen = dataframes.select(x, columns, name)
    except ValueError as error:
        raise ValueError(f"{error}{_swapped(model, _holds_covariates(model, x))}") from None
    swapped = _holds_covariates(model, x)
    return _in_shape(chosen, model.event_shape, name, model, swapped)


def _in_shape(array, shape, name, model, swapped=False):
    """Columns (..., k) as events or conditions of a shape."""
    size, given = math.prod(shape), array.shape[-1]
    if given != size:
        hint = _swapped(model, swapped)
        raise ValueError(f"{name} must have {size} columns for {model}; it has {given}{hint}")
    return array.reshape((*array.shape[:-1], *shape))


def _swapped(model, looks_swapped):
    """A hint for errors about x or y, if they look swapped and the model's arguments have names."""
    covariates = model.traits.covariates
    if covariates is None or not looks_swapped:
        return ""
    return f" ({covariates.roles}: did you swap them?)"


def _holds_covariates(model, table):
    """Whether a table has all covariates of the model."""
    covariates = model.traits.covariates
    names = dataframes.column_names(table) or ()
    return covariates is not None and {n.split("[")[0] for n in covariates.names} <= set(names)


def _are_events(model, y, n):
    """Whether y holds n events in the support of a model that has covariates."""
    if model.traits.covariates is None:
        return False
    try:
        y = np.asarray(numbers(conditions_of_table(model, y), "y"), np.float64)
        return bool(np.asarray(model.support(y.reshape(n, *model.event_shape))).all())
    except (TypeError, ValueError):
        return False


def _batched(array, event_shape, name, model):
    event_shape = tuple(event_shape)
    dims = len(event_shape)
    if array.ndim <= dims or array.shape[array.ndim - dims :] != event_shape:
        wanted = ", ".join(["n", *map(str, event_shape)]) + ("," if not dims else "")
        looks_like_y = array.ndim > 1 and array.shape[1:] == model.y_shape
        hint = _swapped(model, looks_like_y)
        raise ValueError(f"{name} must have shape ({wanted}) for {model}; got {array.shape}{hint}")
    return array


def _has_all_digits(array):
    """Whether JAX's default float dtype holds every value of the array's dtype."""
    dtype = np.dtype(jnp.result_type(float))
    return array.dtype == dtype or np.can_cast(array.dtype, dtype)


def _narrow(x):
    with np.errstate(over="ignore"):
        narrow = x.astype(jnp.result_type(float))
    return np.where(np.isfinite(narrow), narrow, x)


def _finite(array, name):
    bad = ~np.isfinite(array)
    if bad.any():
        kind = "NaN" if np.isnan(array).any() else "infinite"
        where = first_of(bad, array, name)
        raise ValueError(Message(f"{name} must be finite, but holds {kind} values (", *where, ")"))


def first_of(bad: np.ndarray, array: np.ndarray, name: str = "x") -> tuple[str | Place, ...]:
    """The place of the first bad row in an array (n, ...), as parts of a ``Message``.

    ``bad`` is (n,), or of the shape of the array: then the parts name the feature too.
    """
    row = int(bad.reshape(len(bad), -1).any(1).argmax())
    if array.ndim == 1 or bad.shape != array.shape:
        return (places.row(row),)
    return places.row(row), " in ", places.feature(bad[row].argmax(), array=name)


def numbers(value: Any, name: str) -> Any:
    """The value as a NumPy or JAX array of real numbers, with NaN for masked entries.

    Raises:
      TypeError, ValueError: it is no array of numbers; ``name`` is that of the argument.
    """
    given = value
    if isinstance(value, (list, tuple)) and any(isinstance(v, np.ma.MaskedArray) for v in value):
        value = np.ma.array(value)
    value = dataframes.unmasked(value)
    if hasattr(value, "to_numpy"):  # a column of pandas, polars or pyarrow
        value = dataframes.as_array(value, name)
    if not isinstance(value, (jax.Array, np.ndarray)):
        try:
            value = np.asarray(value)
        except ValueError as error:
            raise ValueError(f"{name} must be a rectangular array of numbers: {error}") from None
    if getattr(value.dtype, "kind", "O") not in "biuf" and not jnp.issubdtype(
        value.dtype, jnp.floating
    ):
        got = _unread(given) or f"dtype {value.dtype}"
        raise TypeError(f"{name} must be an array of numbers, got {got}")
    return value


def _unread(value: Any) -> str:
    """A value that holds numbers but is no array of them, with the step that makes one; else ""."""
    for method in ("collect", "toarray"):  # of lazy tables, and of SciPy's sparse arrays
        if callable(getattr(value, method, None)):
            return f"a {type(value).__name__}: call its .{method}() first"
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], Mapping):
        return "a list of dicts: make a table of the rows first, such as a pandas.DataFrame"
    return ""


def _describe(value: Any) -> str:
    if isinstance(value, (jax.Array, np.ndarray)):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    return f"{type(value).__name__} {value!r:.40}"
