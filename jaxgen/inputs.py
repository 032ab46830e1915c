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

from jaxgen.random import is_leaf


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
    x = _batched(_numbers(x, "x"), model.event_shape, "x", model)
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

    Float conditions are cast to ``dtype``; integer ones (labels) stay integers. None stays None
    where the model knows p(y).
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
    y = _numbers(y, "y")
    if model.classes is not None and y.dtype.kind not in "biu":
        raise TypeError(f"y must hold labels 0 .. {model.classes - 1}, ints; got dtype {y.dtype}")
    if y.shape not in (shape, (*batch_shape, *shape)):
        wanted = f"{(*batch_shape, *shape)}, one row an event, or {shape}"
        raise ValueError(f"y must have shape {wanted}; got {y.shape}")
    if not isinstance(y, jax.core.Tracer) and model.y_support is not None and y.size:
        _check_conditions(model, np.asarray(y))
    y = y.astype(dtype if jnp.issubdtype(y.dtype, jnp.floating) else np.int32)
    xp = jnp if isinstance(y, jax.Array) else np
    return xp.broadcast_to(y, (*batch_shape, *shape))


def _check_conditions(model, y):
    """Raise where a condition that is not NaN is none of the model's."""
    rows = y.reshape(-1, *model.y_shape)
    known = np.asarray(model.y_support(rows)).reshape(len(rows), -1).all(1)
    known |= np.isnan(rows).reshape(len(rows), -1).any(1)
    if not known.all():
        row = int(known.argmin())
        wanted = f"be a label 0 .. {model.classes - 1}" if model.classes else "suit its y_domain"
        raise ValueError(f"y must {wanted} of {model}; row {row} holds {rows[row]}")


def as_prior(model: Any, prior: Any, dtype: Any) -> Any:
    """log p(y) (classes,) from probabilities in proportion to it; None stays None."""
    if model.classes is None:
        raise TypeError(f"{model} has no labels to tell apart: see compose.PerClass and Labelled")
    if prior is None:
        return None
    prior = _numbers(prior, "prior")
    if prior.shape != (model.classes,):
        raise ValueError(f"prior must have shape ({model.classes},); got {prior.shape}")
    if isinstance(prior, jax.core.Tracer):
        prior = prior.astype(dtype)
        return jnp.log(prior) - jnp.log(prior.sum())
    wide = np.asarray(prior, np.float64)
    if not np.isfinite(wide).all() or (wide < 0).any() or wide.max() <= 0:
        raise ValueError(f"prior must hold probabilities with a positive sum; got {wide}")
    with np.errstate(divide="ignore"):  # by the largest first, lest the sum overflow
        log_prior = np.log(wide / wide.max())
        return (log_prior - np.log(np.exp(log_prior).sum())).astype(dtype)


def as_labels(y: Any, labels: tuple[str | int, ...] | None, name: str = "y") -> Any:
    """Places of the labels y among their names; as they came where there are no names.

    Raises:
      ValueError: a label that is not among them.
    """
    if labels is None or y is None or isinstance(y, jax.core.Tracer):
        return y
    y = np.asarray(y)
    place = {name: i for i, name in enumerate(labels)}
    unknown = [v for v in dict.fromkeys(y.ravel().tolist()) if v not in place]
    if unknown:
        raise ValueError(f"{name}: unknown label {unknown[0]!r}; known are {_listed(labels)}")
    return np.array([place[v] for v in y.ravel().tolist()], np.int32).reshape(y.shape)


def names_of_labels(model: Any, y: Any) -> tuple[str | int, ...] | None:
    """The names of a model's labels, sorted, from those of training data; None for 0 .. n - 1.

    Raises:
      TypeError, ValueError: y holds no labels, or more or fewer than the model has.
    """
    if y is None:
        raise ValueError(f"y is missing: {model} is fitted to events and their labels")
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
    x = np.asarray(_batched(_numbers(x, "x"), model.event_shape, "x", model), np.float64)
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
    # in the dtype of the fit, where rounding may reach an open edge
    inside = np.asarray(model.support(_narrow(known))).reshape(n, -1).all(1)
    if not inside.all():
        row = int(inside.argmin())
        raise ValueError(f"x must lie in the support of {model}; row {row} is outside")
    y = as_conditions(model, y, (n,), np.float64)
    if y is not None:
        y = np.asarray(y)
        _finite(y, "y")
    if weights is not None:
        weights = np.asarray(_numbers(weights, "weights"), np.float64)
        if weights.shape != (n,):
            raise ValueError(f"weights must have shape ({n},), one an event; got {weights.shape}")
        _finite(weights, "weights")
        if (weights < 0).any() or weights.sum() <= 0:
            raise ValueError("weights must be non-negative with a positive sum")
    return x, y, weights


def has_missing(x: Any) -> bool:
    """Whether floats x hold NaN, in a third of the time of ``np.isnan(x).any()``."""
    x = np.asarray(x).ravel()
    return bool(np.isnan(np.vdot(x, x)))


def filled(x: np.ndarray, value: Any) -> np.ndarray:
    """x with each NaN replaced by ``value(x, axis)`` of its feature, such as ``np.nanmean``."""
    return np.where(np.isnan(x), value(x, axis=0), x) if np.isnan(x).any() else x


def _check_missing(x):
    unknown = np.isnan(x).reshape(len(x), -1)
    for axis, what in ((1, "row"), (0, "feature")):
        if unknown.shape[1] and unknown.all(axis).any():
            place = int(unknown.all(axis).argmax())
            raise ValueError(f"x has no value in {what} {place}: all of it is missing (NaN)")


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
    if not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))[0]
        kind = "NaN" if np.isnan(array).any() else "infinite"
        raise ValueError(f"{name} must be finite, but holds {kind} values (row {int(bad[0])})")


def _numbers(value: Any, name: str) -> Any:
    """A NumPy or JAX array of real numbers."""
    if not isinstance(value, (jax.Array, np.ndarray)):
        try:
            value = np.asarray(value)
        except ValueError as error:
            raise ValueError(f"{name} must be a rectangular array of numbers: {error}") from None
    if value.dtype.kind not in "biuf" and not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(f"{name} must be an array of numbers, got dtype {value.dtype}")
    return value


def _describe(value: Any) -> str:
    if isinstance(value, (jax.Array, np.ndarray)):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    return f"{type(value).__name__} {value!r:.40}"
