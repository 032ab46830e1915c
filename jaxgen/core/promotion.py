"""JAX's standard promotion rules within the library, even if the user sets other rules."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import jax

_Function = TypeVar("_Function", bound=Callable[..., Any])
_END = object()


def standard_promotion(function: _Function) -> _Function:
    """Decorator: the function runs under JAX's standard rules for different dtypes and ranks.

    ``jax_numpy_dtype_promotion`` and ``jax_numpy_rank_promotion`` help to find mistakes in a user's
    code. This library is written for the standard rules, as are NumPyro and optax.

    The decorator is for all public functions that compute, and for functions that JAX calls after
    these have returned: rules of derivatives and of ``vmap``. A generator runs under the standard
    rules while it makes an item, and its consumer runs under the user's rules.
    """
    if inspect.isgeneratorfunction(function):
        advance = standard_promotion(next)

        @functools.wraps(function)
        def items(*args: Any, **kwargs: Any) -> Any:
            each = function(*args, **kwargs)
            while (item := advance(each, _END)) is not _END:
                yield item

        return items  # type: ignore[return-value]

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if _is_standard():  # nothing to set
            return function(*args, **kwargs)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return function(*args, **kwargs)

    return call  # type: ignore[return-value]


def _is_standard() -> bool:
    config: Any = jax.config
    dtype, rank = config.jax_numpy_dtype_promotion, config.jax_numpy_rank_promotion
    return bool(dtype == "standard" and rank == "allow")
