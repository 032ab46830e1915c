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
    return jnp.zeros(()).dtype


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

    Float conditions are cast to ``dtype``; integer ones (labels) stay integers.
    """
    if model.y_shape is None:
        if y is not None:
            raise ValueError(f"y was given, but {model} is unconditional (its y_shape is None)")
        return None
    shape = tuple(model.y_shape)
    if y is None:
        raise ValueError(f"y is missing: {model} is conditional, with y of shape {shape}")
    y = _numbers(y, "y")
    if y.shape not in (shape, (*batch_shape, *shape)):
        wanted = f"{(*batch_shape, *shape)}, one row an event, or {shape}"
        raise ValueError(f"y must have shape {wanted}; got {y.shape}")
    xp = jnp if isinstance(y, jax.Array) else np
    y = xp.broadcast_to(y, (*batch_shape, *shape))
    return y.astype(dtype if jnp.issubdtype(y.dtype, jnp.floating) else np.int32)


def training_data(model: Any, x: Any, y: Any, weights: Any) -> tuple[Any, Any, Any]:
    """x, y and weights for a fit, in float64 on the host: finite, not empty, within the support."""
    x = np.asarray(_batched(_numbers(x, "x"), model.event_shape, "x", model), np.float64)
    if x.ndim != len(model.event_shape) + 1:
        raise ValueError(f"x must have one batch dimension, (n, ...); got shape {x.shape}")
    n = x.shape[0]
    if n == 0:
        raise ValueError(f"x must hold at least one event; got shape {x.shape}")
    _finite(x, "x")
    # in the dtype of the fit, where rounding may reach an open edge
    inside = np.asarray(model.support(_narrow(x))).reshape(n, -1).all(1)
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


def _batched(array, event_shape, name, model):
    event_shape = tuple(event_shape)
    dims = len(event_shape)
    if array.ndim <= dims or array.shape[array.ndim - dims :] != event_shape:
        wanted = ", ".join(["n", *map(str, event_shape)]) + ("," if not dims else "")
        raise ValueError(f"{name} must have shape ({wanted}) for {model}; got {array.shape}")
    return array


def _narrow(x):
    with np.errstate(over="ignore"):
        narrow = x.astype(jnp.zeros(()).dtype)
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
