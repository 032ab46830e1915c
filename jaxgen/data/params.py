"""Whether params suit a model: they are compared with what its ``init`` would give.

Nothing is computed: ``jax.eval_shape`` traces ``init`` without data, and, where sizes differ, with
data. A size that differs between these two depends on the data, and may be any.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.promotion import standard_promotion

_EVENTS = 97  # of the data: no size that init without data is likely to choose


@standard_promotion
def check(model: Any, params: Any) -> None:
    """Raise where params hold NaN, or differ from those of ``init`` in names, kinds or shapes.

    All params may have the same leading axes more than usual, as those of many fits have. A model
    whose ``init`` JAX cannot trace may have any params; one whose ``init`` it cannot trace with
    data, any sizes.

    Args:
      params: a pytree of NumPy or JAX arrays.

    Raises:
      ValueError: params that do not suit the model, by the first leaf's name.

    >>> check(Gaussian(2), {"mean": np.zeros(2), "scale_tril": np.eye(2)})
    """
    found = _leaves(params)
    for name, leaf in found.items():
        if _kind(leaf.dtype) == "floats" and np.isnan(np.asarray(leaf)).any():
            raise ValueError(f"{name} holds NaN")
    wanted = _of_init(model, with_data=False)
    if wanted is None:
        return
    for names, others, what in ((wanted, found, "missing among"), (found, wanted, "none of")):
        for name in names:
            if name not in others:
                raise ValueError(f"{name} is {what} the params of {model}")
    for name, leaf in found.items():
        kind = _kind(wanted[name].dtype)
        if kind != _kind(leaf.dtype):
            raise ValueError(f"{name} must hold {kind} for {model}; it is of dtype {leaf.dtype}")
    lead = min((_lead(leaf, wanted[name]) for name, leaf in found.items()), key=len, default=())
    if any(leaf.shape != lead + wanted[name].shape for name, leaf in found.items()):
        _check_sizes(model, found, wanted, lead)


def _check_sizes(model, found, wanted, lead):
    """Raise where a shape is not ``lead`` and then that of ``wanted``, but for sizes of data."""
    fitted = _of_init(model, with_data=True)
    if fitted is None or _ranks(fitted) != _ranks(wanted):
        return
    of_data: dict[tuple, int] = {}  # what size the data gave, which leaves of one node share
    for name, leaf in found.items():
        sizes = list(zip(wanted[name].shape, fitted[name].shape, strict=True))
        own = leaf.shape[len(lead) :]
        fits = leaf.shape[: len(lead)] == lead and len(own) == len(sizes)
        for size, (a, b) in zip(own, sizes, strict=False):
            node = name.rpartition("/")[0]
            fits &= size == (a if a == b else of_data.setdefault((node, a, b), size))
        if not fits:
            shape = [*map(str, lead), *(str(a) if a == b else "n" for a, b in sizes)]
            raise ValueError(
                f"{name} must have shape ({', '.join(shape)}) for {model}; it has {leaf.shape}"
            )


@functools.lru_cache(maxsize=64)
def _of_init(model, with_data: bool) -> dict[str, Any] | None:
    """Shapes and dtypes of params, by name, that ``init`` gives; None where JAX cannot tell."""

    def struct(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.result_type(float))

    try:
        key = jax.eval_shape(lambda: jax.random.key(0))
        if not with_data:
            return _leaves(jax.eval_shape(model.init, key))
        n = _EVENTS * (model.classes or 1)
        x = struct(n, *model.event_shape)
        if model.classes is not None:  # the labels decide what is computed
            y = np.arange(n) % model.classes
            return _leaves(jax.eval_shape(lambda key, x: model.init(key, x, y), key, x))
        y = None if model.y_shape is None else struct(n, *model.y_shape)
        return _leaves(jax.eval_shape(model.init, key, x, y))
    except Exception:
        return None


def _leaves(tree):
    flat = jax.tree_util.tree_flatten_with_path({"params": tree})[0]
    name = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
    return {name(place): leaf for place, leaf in flat}


def _ranks(leaves):
    return {name: len(leaf.shape) for name, leaf in leaves.items()}


def _lead(leaf, like):
    return leaf.shape[: max(leaf.ndim - len(like.shape), 0)]


def _kind(dtype):
    if jnp.issubdtype(dtype, jnp.floating):
        return "floats"
    return "integers" if jnp.issubdtype(dtype, jnp.integer) else str(dtype)
