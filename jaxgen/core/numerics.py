"""Exponentials and their sums with correct limits, and control of what XLA recomputes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap
from jax.scipy import special

from jaxgen.core.promotion import standard_promotion

# minimax polynomial of 2^f on |f| <= 1/2, relative error 8e-8
_LOG2_E = math.log2(math.e)
_EXP2 = (1.0000001, 0.69314694, 0.24022120, 0.055507135, 0.0096755419, 0.0013276466)


def logsumexp(terms: jax.Array, axis: int | None = None) -> jax.Array:
    """log sum exp of terms; if all are -inf, the gradient is zero, and not NaN as in JAX.

    NaN stays NaN, though on a CPU the maximum of an array may leave it out: XLA's kernels do.
    """
    finite = terms.max(axis) != -jnp.inf
    known = finite if axis is None else jnp.expand_dims(finite, axis)
    total = special.logsumexp(jnp.where(known, terms, 0), axis)
    return jnp.where(finite, total, lax.stop_gradient(terms).sum(axis))  # -inf or NaN


def blanked(keep: jax.Array, values: Any) -> Any:
    """``values`` where ``keep`` is true, else NaN, or the least integer of an integer dtype.

    Within a trace it marks results of arguments that raise an error outside a trace.

    Args:
      keep: bool, of any shape.
      values: pytree of arrays whose leading axes are those of keep.
    """

    def blank(v):
        mask = keep.reshape(*keep.shape, *[1] * (v.ndim - keep.ndim))
        if jnp.issubdtype(v.dtype, jnp.floating):
            return jnp.where(mask, v, jnp.nan)
        if jnp.issubdtype(v.dtype, jnp.signedinteger):
            return jnp.where(mask, v, jnp.iinfo(v.dtype).min)
        return v

    return jax.tree_util.tree_map(blank, values)


def logsumexp_of_tiles(
    terms: Callable[[Any], list[jax.Array]], tiles: Any, dtype: Any
) -> jax.Array:
    """log sum exp of the terms of all tiles, by scans over the tiles.

    Two scans, for the maximum and then for the sum, are faster than one scan that rescales its sum,
    and have no rounding errors of rescaling. A few scalar terms in each tile are up to twenty times
    as fast as a sum over an axis.

    Args:
      terms: function of one tile that returns a list of scalars.
      tiles: pytree of arrays with a leading axis of tiles.
      dtype: dtype of the terms.

    Returns:
      The logarithm of the sum; -inf with gradient zero if no term is above a quarter of the lowest
      number of the dtype.
    """
    lowest = jnp.asarray(jnp.finfo(dtype).min / 4, dtype)  # finite: -inf less -inf is NaN

    def highest(largest, tile):
        return functools.reduce(jnp.maximum, terms(tile), largest), None

    largest = lax.scan(highest, lowest, lax.stop_gradient(tiles))[0]
    largest = lax.stop_gradient(largest)

    @jax.checkpoint  # a gradient recomputes the terms instead of storing all of them
    def add(total, tile):
        return sum((exp2((term - largest) * _LOG2_E) for term in terms(tile)), total), None

    total, _ = lax.scan(add, jnp.zeros_like(lowest), tiles)
    finite = largest > lowest
    return jnp.where(finite, largest + jnp.log(jnp.where(finite, total, 1)), -jnp.inf)


@jax.custom_jvp
def exp2(x: jax.Array) -> jax.Array:
    """2^x for x <= 0; in float32 at least 2^-126, elementwise, and 1.2 times as fast as in JAX."""
    if x.dtype != jnp.float32:
        return jnp.exp2(x)
    x = jnp.maximum(x, np.float32(-126))
    whole = lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN)
    power = polynomial(x - whole, _EXP2)
    bits = lax.bitcast_convert_type(power, jnp.int32) + (whole.astype(jnp.int32) << np.int32(23))
    return lax.bitcast_convert_type(bits, jnp.float32)


@exp2.defjvp
@standard_promotion
def _exp2_jvp(primals, tangents):
    power = exp2(*primals)
    return power, power * np.log(2).astype(power.dtype) * tangents[0]


def polynomial(x: jax.Array, coefficients: Sequence[float]) -> jax.Array:
    """sum_i coefficients[i] x^i, elementwise, by Horner's rule."""
    total = jnp.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        total = total * x + x.dtype.type(c)
    return total


def computed_once(values: Any, witness: Any) -> Any:
    """``values``, protected on a CPU from recomputation in each of their consumers.

    XLA on a CPU recomputes noise, including its hashing, in every consumer, and removes
    optimization barriers beforehand. A branch whose condition it cannot evaluate prevents that. If
    elementwise code reads values several times, it can run twenty times as fast.

    Args:
      values: pytree of arrays of numbers.
      witness: any scalar whose value is not known at compile time.
    """

    never = _never(lax.stop_gradient(jnp.asarray(witness, jnp.float32)))

    def branch(values):
        return lax.cond(never, lambda v: [jnp.zeros_like(leaf) for leaf in v], lambda v: v, values)

    leaves, tree = jax.tree_util.tree_flatten(values)
    leaves = lax.platform_dependent(leaves, cpu=branch, default=lambda values: values)
    return jax.tree_util.tree_unflatten(tree, leaves)


@custom_vmap
def _never(witness):
    return witness * 0 > 1  # always false, but XLA does not simplify it because of infinities


@_never.def_vmap
@standard_promotion
def _never_of_many(size, batched, witness):
    return _never(
        witness[0]
    ), False  # one condition for all rows; with one for each row, vmap would execute both branches
