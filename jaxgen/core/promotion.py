"""JAX's standard rules of promotion within the library, whatever rules its user's own code has."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import jax

_Function = TypeVar("_Function", bound=Callable)
_END = object()


def standard_promotion(function: _Function) -> _Function:
    """``function``, run under JAX's standard rules for dtypes and ranks that differ.

    ``jax_numpy_dtype_promotion`` and ``jax_numpy_rank_promotion`` are there to find slips in a
    user's own code. The library is written for the standard rules, and so are NumPyro and optax.

    It decorates every public function that computes, and what JAX calls when such a function has
    returned: rules for derivatives and for ``vmap``. A generator runs under the standard rules
    while it makes an item, and its consumer under their own between two.
    """
    if inspect.isgeneratorfunction(function):
        advance = standard_promotion(next)

        @functools.wraps(function)
        def items(*args, **kwargs):
            each = function(*args, **kwargs)
            while (item := advance(each, _END)) is not _END:
                yield item

        return items  # type: ignore[return-value]

    @functools.wraps(function)
    def call(*args, **kwargs):
        if _is_standard():  # nothing to set
            return function(*args, **kwargs)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return function(*args, **kwargs)

    return call  # type: ignore[return-value]


def _is_standard() -> bool:
    config: Any = jax.config
    dtype, rank = config.jax_numpy_dtype_promotion, config.jax_numpy_rank_promotion
    return dtype == "standard" and rank == "allow"
