"""A check that params suit a model, by comparison with the params that ``init`` gives.

Nothing is computed: ``jax.eval_shape`` traces ``init`` without data and, if sizes differ, with
data. A size that differs between the two depends on the data and may have any value.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.model import Model, Params
from jaxgen.core.promotion import standard_promotion

_EVENTS = 97  # rows of data; init without data is unlikely to give this size


@standard_promotion
def check(model: Model, params: Params) -> None:
    """Raise if params hold NaN, or differ from those of ``init`` in names, dtypes or shapes.

    All params may have the same additional leading axes, such as those of many fits. If JAX cannot
    trace ``init``, any params pass; if it cannot trace ``init`` with data, any sizes pass.

    Args:
      model: the spec.
      params: a pytree of NumPy or JAX arrays.

    Raises:
      ValueError: the params do not suit the model; the message names the first such leaf.

    >>> check(Gaussian(2), {"mean": np.zeros(2), "scale_tril": np.eye(2)})
    """
    found = _leaves(params)
    for name, leaf in found.items():
        if _number_type(leaf.dtype) == "floats" and np.isnan(np.asarray(leaf)).any():
            raise ValueError(f"{name} holds NaN")
    wanted = _shapes_of_init(model, with_data=False)
    if wanted is None:
        return
    for names, others, what in ((wanted, found, "missing among"), (found, wanted, "not one of")):
        for name in names:
            if name not in others:
                raise ValueError(f"{name} is {what} the params of {model}")
    for name, leaf in found.items():
        number_type = _number_type(wanted[name].dtype)
        if number_type != _number_type(leaf.dtype):
            raise ValueError(f"{name} must hold {number_type} for {model}; got dtype {leaf.dtype}")
    lead = min((_lead(leaf, wanted[name]) for name, leaf in found.items()), key=len, default=())
    if any(leaf.shape != lead + wanted[name].shape for name, leaf in found.items()):
        _check_sizes(model, found, wanted, lead)


def _check_sizes(model, found, wanted, lead):
    """Raise if a shape is not ``lead`` and that of ``wanted``, except in sizes that data decide."""
    fitted = _shapes_of_init(model, with_data=True)
    if fitted is None or _ranks(fitted) != _ranks(wanted):
        return
    of_data: dict[
        tuple[Any, ...], int
    ] = {}  # sizes that data decide, which the leaves of a node share
    for name, leaf in found.items():
        sizes = list(zip(wanted[name].shape, fitted[name].shape, strict=True))
        shape = leaf.shape[len(lead) :]
        fits = leaf.shape[: len(lead)] == lead and len(shape) == len(sizes)
        for size, (a, b) in zip(shape, sizes, strict=False):
            node = name.rpartition("/")[0]
            fits &= size == (a if a == b else of_data.setdefault((node, a, b), size))
        if not fits:
            text = ", ".join([*map(str, lead), *(str(a) if a == b else "n" for a, b in sizes)])
            raise ValueError(f"{name} must have shape ({text}) for {model}; got {leaf.shape}")


@functools.lru_cache(maxsize=64)
def _shapes_of_init(model, with_data: bool) -> dict[str, Any] | None:
    """Shapes and dtypes, by name, of the params of ``init``; None if it cannot be traced."""

    def struct(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.result_type(float))

    try:
        key = jax.eval_shape(lambda: jax.random.key(0))
        if not with_data:
            return _leaves(jax.eval_shape(model.init, key))
        n = _EVENTS * (model.classes or 1)
        x = struct(n, *model.event_shape)
        if model.classes is not None:  # init may depend on the values of labels
            y = np.arange(n) % model.classes
            return _leaves(jax.eval_shape(lambda key, x: model.init(key, x, y), key, x))
        y = None if model.y_shape is None else struct(n, *model.y_shape)
        return _leaves(jax.eval_shape(model.init, key, x, y))
    except Exception:
        return None


def _leaves(tree: Any) -> dict[str, Any]:
    flat = jax.tree_util.tree_flatten_with_path({"params": tree})[0]
    name = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
    return {name(place): leaf for place, leaf in flat}


def _ranks(leaves):
    return {name: len(leaf.shape) for name, leaf in leaves.items()}


def _lead(leaf, like):
    return leaf.shape[: max(leaf.ndim - len(like.shape), 0)]


def _number_type(dtype):
    if jnp.issubdtype(dtype, jnp.floating):
        return "floats"
    return "integers" if jnp.issubdtype(dtype, jnp.integer) else str(dtype)
