"""Draws and rows in blocks of bounded memory, and how much one run of a program takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

SCALARS = 2**24  # of intermediate results held at once: 64 MiB in float32
ROWS = 2048  # scored at once where there are so many

_map = jax.tree_util.tree_map


def in_blocks(function: Callable[[jax.Array], Any], count: int, size: int) -> Any:
    """``function`` of the numbers 0 .. count - 1, at most ``size`` of them at once.

    Args:
      function: takes an array (k,) of numbers and returns a pytree of arrays (k, ...); what it
        returns for one number must not depend on the others.
      count: of all numbers.
      size: the largest k.
    """
    blocks = math.ceil(count / max(size, 1))
    if blocks <= 1:
        return function(jnp.arange(count))
    size = math.ceil(count / blocks)
    index = jnp.minimum(jnp.arange(blocks * size), count - 1).reshape(blocks, size)
    found = lax.map(function, index)
    return _map(lambda v: v.reshape(blocks * size, *v.shape[2:])[:count], found)


def scalars_of(function: Callable, shared: Any, row: Any) -> int:
    """How many scalars ``function(shared, row)`` computes from the row, all results added up.

    More than are held at once, since the compiler fuses some. shared and row are pytrees of arrays
    or of their shapes.
    """
    jaxpr = jax.make_jaxpr(function)(shared, row).jaxpr
    of_row = set(jaxpr.invars[len(jax.tree_util.tree_leaves(shared)) :])
    total = 0
    for eqn in jaxpr.eqns:
        if any(_known(v) and v in of_row for v in eqn.invars):
            of_row.update(eqn.outvars)
            total += sum(_scalars(inner) for inner in _inner(eqn)) or _size(eqn)
    return total


def _scalars(jaxpr) -> int:
    return sum(sum(_scalars(j) for j in _inner(eqn)) or _size(eqn) for eqn in jaxpr.eqns)


def _inner(eqn) -> Iterator[Any]:
    """The programs within an operation, such as a loop's body."""
    for leaf in jax.tree_util.tree_leaves(eqn.params, is_leaf=lambda v: hasattr(v, "eqns")):
        leaf = getattr(leaf, "jaxpr", leaf)
        if hasattr(leaf, "eqns"):
            yield leaf


def _size(eqn) -> int:
    return sum(int(np.prod(v.aval.shape)) for v in eqn.outvars if hasattr(v.aval, "shape"))


def _known(variable) -> bool:
    return not hasattr(variable, "val")  # a literal has a value
