"""What comes in from a user is checked here, once, at the public boundary.

Each function returns the value ready for use or raises one error that names the argument, says
what was expected and what came. Shapes and dtypes are checked under a trace too; values only
outside one.
"""

from __future__ import annotations

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core import places
from jaxgen.core.places import Message, Place
from jaxgen.core.random import is_leaf

_ROUNDED, _COMPARED = 16384, 256  # rows of which the rounding is looked at, and those compared


def is_tracing(*trees: Any) -> bool:
    """Whether we are inside a JAX transformation, by the arguments or by the surroundings."""
    leaves = jax.tree_util.tree_leaves(trees)
    return any(isinstance(v, jax.core.Tracer) for v in leaves) or isinstance(
        jnp.zeros(()), jax.core.Tracer
    )


def float_dtype(params: Any) -> np.dtype:
    """The dtype a model computes in: that of its first float parameter, else JAX's default."""
    for leaf in jax.tree_util.tree_leaves(params):
        dtype = jnp.result_type(leaf)
        if jnp.issubdtype(dtype, jnp.floating):
            return dtype
    return jnp.result_type(float)


def as_key(key: Any) -> jax.Array:
    """A typed PRNG key; a legacy uint32 key is wrapped, a bare int refused."""
    wanted = "key must be a PRNG key such as jax.random.key(0)"
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        if key.shape != ():
            raise ValueError(f"{wanted}, got an array of keys of shape {key.shape}")
        return key
    if isinstance(key, (jax.Array, np.ndarray)) and key.dtype == np.uint32 and key.shape == (2,):
        return jax.random.wrap_key_data(jnp.asarray(key), impl="threefry2x32")
    raise TypeError(f"{wanted}, got {_describe(key)}")


def as_place(device: Any) -> jax.Device | jax.sharding.Sharding | None:
    """A device or a sharding, or None."""
    if device is None or isinstance(device, jax.Device | jax.sharding.Sharding):
        return device
    raise TypeError(
        "device must be a jax.Device such as jax.devices()[0], a jax.sharding.Sharding or None, "
        f"got {_describe(device)}"
    )


def as_count(n: Any, name: str = "n", least: int = 0) -> int:
    """An integer of at least ``least``."""
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
    """x of shape (..., *event_shape) in the given float dtype, at least one batch dimension."""
    x = _batched(numbers(x, "x"), model.event_shape, "x", model)
    if x.dtype == dtype:
        return x  # astype would copy it
    with np.errstate(over="ignore"):  # beyond the dtype is infinite, and scores -inf
        return x.astype(dtype)


def as_noise(model: Any, noise: Any) -> tuple[Any, int]:
    """Noise of the model's tree and shapes, rows leading; and the number of rows."""
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
            f"noise must be like {model.noise()}, each leaf with a leading axis of rows; got "
            f"leaves of shapes {got}"
        )
    return noise, np.shape(leaves[0])[0]


def as_conditions(model: Any, y: Any, batch_shape: tuple[int, ...], dtype: Any) -> Any:
    """y of shape (*batch_shape, *y_shape); one condition alone is repeated for every row.

    Float conditions are cast to ``dtype``; integer ones stay integers, or become floats where some
    are beyond 32 bits. None stays None where the model knows p(y).
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
    y = numbers(y, "y")
    if model.classes is not None and y.dtype.kind not in "biu":
        raise TypeError(f"y must hold labels 0 .. {model.classes - 1}, ints; got dtype {y.dtype}")
    if y.shape not in (shape, (*batch_shape, *shape)):
        wanted = f"{(*batch_shape, *shape)}, one row an event, or {shape}"
        raise ValueError(f"y must have shape {wanted}; got {y.shape}")
    if not isinstance(y, jax.core.Tracer) and model.y_support is not None and y.size:
        _check_conditions(model, np.asarray(y))
    y = narrowed(y, dtype, "y")
    xp = jnp if isinstance(y, jax.Array) else np
    return xp.broadcast_to(y, (*batch_shape, *shape))


def narrowed(y, dtype, name):
    """Floats in ``dtype``, integers in 32 bits if they all fit, else as floats."""
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
        return y  # whose values are not known: it keeps all its bits
    info = np.iinfo(np.int32)
    fits = not y.size or (y.min() >= info.min and y.max() <= info.max)
    return y.astype(np.int32 if fits else dtype)


def _check_conditions(model, y):
    """Raise where a condition that is not NaN is none of the model's."""
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
    """log p(y) (classes,) from probabilities in proportion to it; None stays None."""
    if model.classes is None:
        raise TypeError(f"{model} has no labels to tell apart: see compose.PerClass and Labelled")
    if prior is None:
        return None
    prior = numbers(prior, "prior")
    if prior.shape != (model.classes,):
        raise ValueError(f"prior must have shape ({model.classes},); got {prior.shape}")
    if isinstance(prior, jax.core.Tracer):
        prior = jnp.where(prior < 0, jnp.nan, prior.astype(dtype))
        return jax.nn.log_softmax(jnp.log(prior))
    wide = np.asarray(prior, np.float64)
    if not np.isfinite(wide).all() or (wide < 0).any() or wide.max() <= 0:
        raise ValueError(f"prior must hold probabilities with a positive sum; got {wide}")
    with np.errstate(divide="ignore"):  # by the largest first, lest the sum overflow
        log_prior = np.log(wide / wide.max())
        return (log_prior - np.log(np.exp(log_prior).sum())).astype(dtype)


def as_labels(y: Any, labels: tuple[str | int, ...] | None, name: str = "y") -> Any:
    """Places of the labels y among their names; as they came where there are no names.

    Under a trace, where a value cannot raise, an unknown label has the place -1, which is none.

    Raises:
      TypeError: floats, or traced numbers where the names are strings.
      ValueError: a label that is not among them.
    """
    if labels is None or y is None:
        return y
    traced = isinstance(y, jax.core.Tracer)
    _check_no_label_masked(y, name)
    try:
        y = y if traced else np.asarray(y)
    except ValueError as error:
        raise ValueError(f"{name} must be an array of labels: {error}") from None
    if y.dtype.kind == "f" or (traced and y.dtype.kind not in "biu"):
        raise TypeError(f"{name} must hold labels such as {labels[0]!r}; got dtype {y.dtype}")
    if traced:
        return _traced_places(y, labels, name)
    place = {name: i for i, name in enumerate(labels)}
    unknown = [v for v in dict.fromkeys(y.ravel().tolist()) if v not in place]
    if unknown:
        parts: list[Any] = [f"{name}: unknown label {unknown[0]!r}; known are {_listed(labels)}"]
        if y.ndim:
            row = int(np.argwhere(y == unknown[0])[0][0])
            parts += [" (", places.row(row), ")"]
        raise ValueError(Message(*parts))
    return np.array([place[v] for v in y.ravel().tolist()], np.int32).reshape(y.shape)


def _traced_places(y, labels, name):
    if any(isinstance(label, str) for label in labels):
        raise TypeError(
            f"{name} must be a label such as {labels[0]!r}, and a string cannot be an argument of "
            "jit, grad or vmap: give it as a constant, or drop the names by "
            "Fitted(fitted.model, fitted.params) and give the places 0, 1, ..."
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


def names_of_labels(model: Any, y: Any) -> tuple[str | int, ...] | None:
    """The names of a model's labels, sorted, from those of training data; None for 0 .. n - 1.

    Raises:
      TypeError, ValueError: y holds no labels, or more or fewer than the model has.
    """
    if y is None:
        raise ValueError(f"y is missing: {model} is fitted to events and their labels")
    _check_no_label_masked(y, "y")
    try:
        y = np.asarray(y)
    except ValueError as error:
        raise ValueError(f"y must hold one label an event: {error}") from None
    for kinds in ((str,), (int, np.integer)):  # in an array of objects, as of pandas
        if y.dtype.kind in "OT" and all(isinstance(v, kinds) for v in y.ravel()):
            y = np.array(y.tolist())
    if y.dtype.kind not in "biuU" or y.ndim != 1:
        raise TypeError(
            f"y must hold labels, one int or string an event; got dtype {y.dtype} and shape "
            f"{y.shape}"
        )
    if y.dtype.kind in "biu" and len(y) and y.min() >= 0 and y.max() < model.classes:
        return None
    found = tuple(np.unique(y).tolist())
    if len(found) != model.classes:
        raise ValueError(
            f"y must hold {model.classes} labels for {model}; it holds {len(found)}: "
            f"{_listed(found)}"
        )
    return found


def _listed(labels):
    listed = ", ".join(map(repr, labels[:10]))
    return listed + (", ..." if len(labels) > 10 else "")


def training_data(
    model: Any, x: Any, y: Any, weights: Any, missing: bool = False
) -> tuple[Any, Any, Any]:
    """x, y and weights for a fit, in float64 on the host: finite, not empty, within the support.

    missing: NaN in x may stand for missing values, but not for all of an event or a feature.
    """
    raw = _batched(numbers(x, "x"), model.event_shape, "x", model)
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
    # in the dtype of the fit, where rounding may reach an open edge
    narrow, support = _narrow(known), model.support
    if not np.asarray(support(narrow)).all():
        support = getattr(support, "base_constraint", support)  # of single numbers
        where = first_of(~np.asarray(support(narrow)), x)
        raise ValueError(Message(f"x must lie in the support of {model}; ", *where, " is outside"))
    raw = y
    y = as_conditions(model, y, (n,), np.float64)
    if y is not None:
        y = np.asarray(y)
        _finite(y, "y")
        if model.classes is None and y.shape == np.shape(raw):
            check_resolution(numbers(raw, "y"), "y")
    if weights is not None:
        weights = np.asarray(numbers(weights, "weights"), np.float64)
        if weights.shape != (n,):
            raise ValueError(f"weights must have shape ({n},), one an event; got {weights.shape}")
        _finite(weights, "weights")
        if (weights < 0).any() or weights.sum() <= 0:
            raise ValueError("weights must be non-negative with a positive sum")
    return x, y, weights


def check_resolution(array: Any, name: str) -> None:
    """Raise where JAX's default float dtype cannot tell apart what the array (n, ...) tells apart.

    It is refused if rounding moves a value by more than 1/512 of its feature's deviation, so that
    log densities would be off by 1e-3 nats and more, or if it merges over a quarter of some
    different values, as in a narrow cluster far from others.
    NaN and values beyond the dtype do not count.
    """
    dtype = np.dtype(jnp.result_type(float))
    some = np.asarray(array[:: -(-len(array) // _ROUNDED)])
    if some.dtype == dtype or np.can_cast(some.dtype, dtype):
        return
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
        if values.min() == values.max():  # a constant has no values to tell apart
            continue
        where = [" in ", places.feature(j, of=name)] if array.ndim > 1 else []
        offset = float(np.median(values))
        wider = "" if dtype == np.float64 else ", or turn on jax_enable_x64"
        lie = (
            f" lie near {offset:.6g} with a deviation of {deviation:.3g}; subtract an offset such "
            f"as {offset:.6g} first{wider}"
        )
        what = f"{name} needs more digits than {dtype} has: its values"
        raise ValueError(Message(what, *where, lie))


def _count_different(values):
    """How many values differ by more than the rounding of a float64 sum."""
    ordered = np.sort(values)
    return 1 + int((np.diff(ordered) > 1e-11 * np.abs(ordered[1:])).sum())


def has_missing(x: Any) -> bool:
    """Whether floats x hold NaN, in a third of the time of ``np.isnan(x).any()``."""
    x = np.asarray(x).ravel()
    return bool(np.isnan(np.vdot(x, x)))


def filled(x: np.ndarray, value: Any) -> np.ndarray:
    """x with each NaN replaced by ``value(x, axis)`` of its feature, such as ``np.nanmean``."""
    return np.where(np.isnan(x), value(x, axis=0), x) if np.isnan(x).any() else x


def _check_missing(x):
    unknown = np.isnan(x).reshape(len(x), -1)
    for axis, place in ((1, places.row), (0, places.feature)):
        if unknown.shape[1] and unknown.all(axis).any():
            where = place(unknown.all(axis).argmax())
            raise ValueError(Message("x has no value in ", where, ": all of it is missing (NaN)"))


def _batched(array, event_shape, name, model):
    event_shape = tuple(event_shape)
    dims = len(event_shape)
    if array.ndim <= dims or array.shape[array.ndim - dims :] != event_shape:
        wanted = ", ".join(["n", *map(str, event_shape)]) + ("," if not dims else "")
        raise ValueError(f"{name} must have shape ({wanted}) for {model}; got {array.shape}")
    return array


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
    """Words for the first bad row of an array (n, ...), and the feature where ``bad`` tells it."""
    row = int(bad.reshape(len(bad), -1).any(1).argmax())
    if array.ndim == 1 or bad.shape != array.shape:
        return (places.row(row),)
    return places.row(row), " in ", places.feature(bad[row].argmax(), of=name)


def numbers(value: Any, name: str) -> Any:
    """A NumPy or JAX array of real numbers; the masked entries of a masked array are NaN."""
    if isinstance(value, (list, tuple)) and any(isinstance(v, np.ma.MaskedArray) for v in value):
        value = np.ma.array(value)
    value = unmasked(value)
    if not isinstance(value, (jax.Array, np.ndarray)):
        try:
            value = np.asarray(value)
        except ValueError as error:
            raise ValueError(f"{name} must be a rectangular array of numbers: {error}") from None
    if value.dtype.kind not in "biuf" and not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(f"{name} must be an array of numbers, got dtype {value.dtype}")
    return value


def unmasked(value: Any) -> Any:
    """A masked array of numbers as floats with NaN where it is masked; anything else as it is."""
    if not isinstance(value, np.ma.MaskedArray) or value.dtype.kind not in "biuf":
        return value
    values, mask = np.ma.getdata(value), np.ma.getmaskarray(value)
    if not mask.any():
        return values
    return np.where(mask, np.nan, values if values.dtype.kind == "f" else values.astype(np.float64))


def _check_no_label_masked(y, name):
    if np.ma.is_masked(y):
        row = int(np.argwhere(np.ma.getmaskarray(y))[0][0])
        raise ValueError(Message(f"{name} must be known, but is masked in ", places.row(row)))


def _describe(value: Any) -> str:
    if isinstance(value, (jax.Array, np.ndarray)):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    return f"{type(value).__name__} {value!r:.40}"
