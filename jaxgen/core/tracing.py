"""Whether the calling code runs within a JAX transformation."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp


def is_tracing(*trees: Any) -> bool:
    """Whether a JAX transformation traces the trees or the calling code."""
    leaves = jax.tree_util.tree_leaves(trees)
    if any(isinstance(v, jax.core.Tracer) for v in leaves):
        return True
    if _trace_state is not None and _trace_state() == _state_outside():
        return False
    return isinstance(jnp.zeros(()), jax.core.Tracer)  # a hundred times as slow


_trace_state: Any = getattr(jax.extend.core, "get_opaque_trace_state", None)  # of newer JAX


@functools.cache
def _state_outside() -> Any:
    """JAX's state outside of all transformations, which is that of a new thread."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_trace_state).result()
