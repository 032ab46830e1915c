"""Triangular matrices: Cholesky factors, inverses and products in full precision."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

SCALARS = 8  # up to this many features, sums are written out on scalars: ten times as fast


def matmul(a: Any, b: Any) -> jax.Array:
    """Matrix product in full precision, which a GPU would reduce by default."""
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def smallest_variance(variance: jax.Array) -> jax.Array:
    """The smallest variance that floating point resolves for features of the given variance.

    A variance of 0 counts as 1.
    """
    eps = jnp.finfo(variance.dtype).eps
    return (4 * eps) ** 2 * jnp.where(variance > 0, variance, 1)


def cholesky(matrix: jax.Array, floor: jax.Array) -> jax.Array:
    """Lower Cholesky factors of covariances (..., dim, dim) to which ``diag(floor)`` was added.

    In exact arithmetic no remaining variance falls below ``floor`` (dim,). Where rounding breaks
    this bound, pivots and columns are clipped to it; LAPACK would return NaN.
    """
    dim = matrix.shape[-1]
    rows = jnp.arange(dim)

    def column(remaining, j):
        variances = jnp.diagonal(remaining, axis1=-2, axis2=-1)
        pivot = jnp.sqrt(jnp.maximum(variances[..., j], floor[j]))[..., None]
        bound = jnp.sqrt(jnp.maximum(variances - floor, 0))
        below = jnp.where(rows > j, jnp.clip(remaining[..., :, j] / pivot, -bound, bound), 0)
        column = jnp.where(rows == j, pivot, below)
        return remaining - below[..., :, None] * below[..., None, :], column

    _, columns = lax.scan(column, matrix, rows)
    return jnp.moveaxis(columns, 0, -1)


def triangular(root: jax.Array) -> jax.Array:
    """The lower triangular T with T T^T = root root^T and no negative diagonal entry.

    It orthogonalises the rows of root by Gram-Schmidt, so no digits are lost to squaring. LAPACK
    is avoided because its batched QR can stall XLA.
    """

    def project(rows, j):
        row = rows[j]
        direction = row / jnp.maximum(jnp.sqrt((row * row).sum()), jnp.finfo(row.dtype).tiny)
        along = (rows * direction).sum(1)
        return rows - along[:, None] * direction, along

    _, columns = lax.scan(project, root, jnp.arange(len(root)))
    return jnp.tril(columns.T)


def inverse_of_tril(tril: jax.Array) -> jax.Array:
    """Inverses of lower triangular matrices (..., dim, dim).

    It uses matrix products and elementwise operations only: LAPACK's solver is slow for many small
    matrices, and threads that call it at the same time can deadlock. Blocks on the diagonal are
    inverted on scalars, then neighbouring blocks are joined in pairs: the inverse of
    [[A, 0], [B, C]] is [[A', 0], [-C' B A', C']], where ' marks an inverse.
    """
    dim = tril.shape[-1]
    size = min(dim, SCALARS)
    padding = size * 2 ** max(math.ceil(math.log2(dim / size)), 0) - dim
    lead = [(0, 0)] * (tril.ndim - 2)
    tril = jnp.pad(tril, [*lead, (0, padding), (0, padding)])
    tril = tril + jnp.diag(np.arange(dim + padding) >= dim).astype(tril.dtype)

    def blocks(size, below, step):
        """Blocks (..., count, size, size): one every ``step`` rows, ``below`` the diagonal."""
        starts = range(0, dim + padding, step)
        cut = [tril[..., i + below : i + below + size, i : i + size] for i in starts]
        return jnp.stack(cut, -3)

    inverse = _inverse_on_scalars(blocks(size, 0, size))
    while size < dim:
        first, second = inverse[..., ::2, :, :], inverse[..., 1::2, :, :]
        below = -matmul(matmul(second, blocks(size, size, 2 * size)), first)
        above = jnp.zeros_like(below)
        upper, lower = jnp.concatenate([first, above], -1), jnp.concatenate([below, second], -1)
        inverse, size = jnp.concatenate([upper, lower], -2), 2 * size
    return inverse[..., 0, :dim, :dim]


def _inverse_on_scalars(tril):
    dim = tril.shape[-1]
    rows: list = []
    for i in range(dim):
        scale = 1 / tril[..., i, i]
        sums = [sum(tril[..., i, k] * rows[k][j] for k in range(j, i)) for j in range(i)]
        zeros = [jnp.zeros_like(scale)] * (dim - 1 - i)
        rows.append([*(-scale * s for s in sums), scale, *zeros])
    return jnp.stack([jnp.stack(row, -1) for row in rows], -2)
