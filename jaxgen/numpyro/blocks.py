"""Draws and rows in blocks of bounded memory, and the memory that one run of a program takes."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

SCALARS = 2**24  # intermediate results held at once: 64 MiB in float32
ROWS = 2048  # rows scored at once, if there are so many
_LARGEST = 6  # results of a run that are held at once

_map = jax.tree_util.tree_map


def in_blocks(function: Callable[[jax.Array], Any], count: int, size: int) -> Any:
    """``function`` of the numbers 0 .. count - 1, at most ``size`` of them at once.

    Args:
      function: takes an array (k,) of numbers and returns a pytree of arrays (k, ...), in which
        the entry of one number must not depend on the others.
      count: how many numbers there are.
      size: the largest k.
    """
    blocks = math.ceil(count / max(size, 1))
    if blocks <= 1:
        return function(jnp.arange(count))
    size = math.ceil(count / blocks)
    numbers = jnp.minimum(jnp.arange(blocks * size), count - 1).reshape(blocks, size)
    found = lax.map(function, numbers)
    return _map(lambda v: v.reshape(blocks * size, *v.shape[2:])[:count], found)


def scalars_of(function: Callable[..., Any], shared: Any, row: Any) -> int:
    """How many scalars ``function(shared, row)`` holds at once that depend on the row.

    These are the scalars of the largest results, since the compiler fuses most others. shared and
    row are pytrees of arrays or of their shapes.
    """
    jaxpr = jax.make_jaxpr(function)(shared, row).jaxpr
    dependent = set(jaxpr.invars[len(jax.tree_util.tree_leaves(shared)) :])
    sizes: list[int] = []
    for eqn in jaxpr.eqns:
        if any(_is_variable(v) and v in dependent for v in eqn.invars):
            dependent.update(eqn.outvars)
            sizes += _sizes(eqn)
    return sum(heapq.nlargest(_LARGEST, sizes))


def _sizes(eqn) -> list[int]:
    """The sizes of the results of an operation, or of the operations inside it."""
    inner = [size for jaxpr in _inner(eqn) for each in jaxpr.eqns for size in _sizes(each)]
    outputs = (v.aval.shape for v in eqn.outvars if hasattr(v.aval, "shape"))
    return inner or [math.prod(shape) for shape in outputs]


def _inner(eqn) -> Iterator[Any]:
    """The jaxprs inside an operation, such as the body of a loop."""
    for leaf in jax.tree_util.tree_leaves(eqn.params, is_leaf=lambda v: hasattr(v, "eqns")):
        leaf = getattr(leaf, "jaxpr", leaf)
        if hasattr(leaf, "eqns"):
            yield leaf


def _is_variable(value) -> bool:
    return not hasattr(value, "val")  # a literal has a value
