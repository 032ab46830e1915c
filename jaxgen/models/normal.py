"""Functions of normal distributions that ``Gaussian`` and ``GaussianMixture`` share.

Params are those of a ``Gaussian``: ``mean`` and, by ``covariance``, ``scale_tril`` ("full") or
``scale`` ("diagonal"). Functions of a mixture take them with a leading axis of components.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.core.numerics import logsumexp
from jaxgen.core.spec import Params

Covariance = Literal["full", "diagonal"]

LOG_2PI = math.log(2 * math.pi)
SCALARS = 8  # up to this many features, sums are written out on scalars: ten times as fast
_EM_TILE = 2048  # most rows in one tile of an EM step
_EM_NUMBERS = 1 << 20  # numbers in the conditional covariances of one tile, about
_MIN_VARIANCE = 0.01  # least variance within components, relative to the data, for the jitter
_map = jax.tree_util.tree_map


def scale_name(covariance: Covariance) -> str:
    """The name of the scale in the params: "scale" or "scale_tril"."""
    return "scale" if covariance == "diagonal" else "scale_tril"


# Matrices.


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


# Densities.


def max_distance(dtype: Any) -> Any:
    """Distance from the mean, in scales, beyond which the density counts as zero.

    Sums of squares of shorter distances do not overflow.
    """
    return jnp.finfo(dtype).max ** 0.5 / 16


def whitening(scale: jax.Array, covariance: Covariance) -> jax.Array:
    """W of z = W (x - mean), the inverse of the scale; a vector for "diagonal".

    ``scale`` may have leading axes, such as one of components. It does not depend on the event, so
    under ``vmap`` over events it is computed once.
    """
    if covariance == "diagonal":
        return 1 / scale
    return inverse_of_tril(scale)


def log_constant(scale: jax.Array, covariance: Covariance, observed: Any = None) -> jax.Array:
    """Log density at the mean; ``scale`` may have leading axes.

    With ``observed``, which needs "diagonal", the density is that of the observed features.
    """
    if observed is not None:
        return -jnp.where(observed, jnp.log(jnp.abs(scale)) + 0.5 * LOG_2PI, 0).sum(-1)
    full = covariance == "full"
    diagonal = jnp.diagonal(scale, axis1=-2, axis2=-1) if full else scale
    return -jnp.log(jnp.abs(diagonal)).sum(-1) - 0.5 * scale.shape[-1] * LOG_2PI


def squared_length(x: Any, mean: jax.Array, whiten: jax.Array) -> jax.Array:
    """|W (x - mean)|^2 of one event; x is an array or a list of scalars."""
    dim = len(x)
    if dim > SCALARS:
        z = whiten * (x - mean) if whiten.ndim == 1 else matmul(whiten, x - mean)
        return (z * z).sum()
    centred = [x[i] - mean[i] for i in range(dim)]
    if whiten.ndim == 1:
        z = [whiten[i] * c for i, c in enumerate(centred)]
    else:
        z = [sum(whiten[i, j] * centred[j] for j in range(i + 1)) for i in range(dim)]
    return sum(v * v for v in z)


def log_density(params: Params, x: Any, covariance: Covariance, observed: Any = None) -> jax.Array:
    """log N(x) of one event, of its observed features if ``observed`` is given."""
    scale, mean = params[scale_name(covariance)], params["mean"]
    if observed is not None and covariance == "full":
        return _log_density_observed(mean, scale, x, observed)
    constant = log_constant(scale, covariance)
    if observed is not None:
        x, constant = jnp.where(observed, x, mean), log_constant(scale, "diagonal", observed)
    # squares of longer distances overflow, and so do their gradients
    spread = jnp.abs(scale if covariance == "diagonal" else jnp.diagonal(scale))
    near = (jnp.abs(x - mean) < max_distance(x.dtype) * spread).all()
    x = jnp.where(near, x, mean)
    square = squared_length(x, mean, whitening(scale, covariance))
    return jnp.where(near, constant - 0.5 * square, -jnp.inf)


# Missing values.


def condition(
    mean: jax.Array, root: jax.Array, x: jax.Array, observed: Any
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The log density of the observed features, and the normal of the event given them.

    It conditions on one feature at a time and removes from the root the component along that
    feature's row, as Gram-Schmidt does: no covariance is formed, factored or inverted. All arrays
    may have one more axis at the end, of rows.

    Args:
      mean: (dim,).
      root: (dim, dim); the covariance is root root^T.
      x: (dim,); only observed features are read.
      observed: (dim,) bool.

    Returns:
      The log density, in nats, and the mean (dim,) and root (dim, dim) of the conditional normal,
      whose root is zero in the rows of observed features.

    Source: Potter's square root filter (Bierman 1977, section V.3), without noise.
    """

    def condition_on(carry, feature):
        score, mean, root = carry
        j, value, known = feature
        term, z, inverse = _score_feature((root[j] * root[j]).sum(0), value - mean[j], known)
        direction = root[j] * inverse
        along = (root * direction).sum(1)
        return (score + term, mean + along * z, root - along[:, None] * direction), None

    shapes = x.shape[1:], x.shape, (len(x), *x.shape)
    start = [
        jnp.broadcast_to(v, s)
        for v, s in zip((jnp.zeros_like(x[0]), mean, root), shapes, strict=True)
    ]
    features = jnp.arange(len(x)), x, observed
    (score, mean, root), _ = lax.scan(condition_on, tuple(start), features)
    return score, jnp.where(observed, x, mean), jnp.where(observed[:, None], 0, root)


def _log_density_observed(mean, tril, x, observed):
    """The score of ``condition`` for a lower triangular root, on scalars: ten times as fast."""
    dim = len(x)
    if dim > SCALARS:
        return condition(mean, tril, x, observed)[0]
    score, mean = jnp.zeros((), x.dtype), list(mean)
    root = [[tril[i, k] for k in range(i + 1)] for i in range(dim)]
    for j in range(dim):
        square = sum(v * v for v in root[j])
        term, z, inverse = _score_feature(square, x[j] - mean[j], observed[j])
        score = score + term
        direction = [v * inverse for v in root[j]]
        for i in range(j + 1, dim):
            along = sum(root[i][k] * d for k, d in enumerate(direction))
            mean[i] = mean[i] + along * z
            for k, d in enumerate(direction):
                root[i][k] = root[i][k] - along * d
    return score


def _score_feature(variance, deviation, known):
    """Log density of one feature, its deviation in scales, and 1 / scale; all 0 if not known."""
    scale = jnp.sqrt(jnp.maximum(variance, jnp.finfo(variance.dtype).tiny))
    z = deviation / scale
    near = jnp.abs(z) < max_distance(z.dtype)
    z = jnp.where(known & near, z, 0)
    term = jnp.where(near, -0.5 * z * z - jnp.log(scale) - 0.5 * LOG_2PI, -jnp.inf)
    return jnp.where(known, term, 0), z, jnp.where(known, 1 / scale, 0)


# Expectation-maximisation of a mixture, in moments: for each component the sums over rows of
# share, share (x - mean) and share (x - mean)(x - mean)^T, where share is its responsibility for
# the row times the row's weight. Moments about the mean keep the digits of narrow components.


def em_tile(n: int, numbers: int = 1) -> int:
    """Rows in one tile of an EM step over n rows, with so many numbers in memory for each row."""
    return min(max(_EM_NUMBERS // numbers, 1), _EM_TILE, n)


def no_moments(components: int, dim: int, covariance: Covariance, dtype: Any) -> tuple:
    """Moments and total score of no rows: zeros."""
    shape = components, dim
    second = shape if covariance == "diagonal" else (*shape, dim)
    return tuple(jnp.zeros(s, dtype) for s in (shape[:1], shape, second, ()))


def component_moments(share: jax.Array, centred: jax.Array, covariance: Covariance) -> tuple:
    """Moments of one component, from its shares (rows,) and x - mean (dim, rows)."""
    dim, ones = len(centred), jnp.ones_like(centred[:1])
    if covariance == "diagonal":
        sums = matmul(jnp.concatenate([ones, centred, centred**2]), share)
        return sums[0], sums[1 : dim + 1], sums[dim + 1 :]
    terms = jnp.concatenate([ones, centred])
    sums = matmul(terms * share, terms.T)
    return sums[0, 0], sums[0, 1:], sums[1:, 1:]


def row_shares(joint: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Shares (components, rows) of each row, and the log densities (rows,).

    joint is log w_k + log N(x; k), (components, rows). The shares of a row sum to its weight, even
    where its density underflows.
    """
    score = logsumexp(joint, 0)
    largest = jnp.where(score == -jnp.inf, 0, joint.max(0))
    terms = jnp.exp(joint - largest)
    return terms * (weights / jnp.where(score == -jnp.inf, 1, terms.sum(0))), score


def maximise(moments: tuple, mean: jax.Array, covariance: Covariance, jitter: float) -> Params:
    """Params of a mixture from its moments about ``mean`` (components, dim)."""
    total, first, second = moments
    eps = jnp.finfo(total.dtype).eps
    full, weights = covariance == "full", total / total.sum()
    divisor = total + 10 * eps  # no component divides by zero
    shift = first / divisor[:, None]
    if full:
        square = shift[:, :, None] * shift[:, None, :]
        matrix = second / divisor[:, None, None] - square
        variance = jnp.diagonal(matrix, axis1=1, axis2=2)
    else:
        variance = second / divisor[:, None] - shift**2
    mean, variance = mean + shift, jnp.maximum(variance, 0)
    centre, within = weights @ mean, weights @ variance
    whole = within + weights @ (mean - centre) ** 2
    floor = jitter * jnp.clip(within, _MIN_VARIANCE, 1) + smallest_variance(whole)
    # an empty component takes the mean and covariance of all rows, so that it can gain rows again
    empty = (total <= 10 * eps * total.sum())[:, None]
    mean = jnp.where(empty, centre, mean)
    logits = jnp.log(divisor) - jnp.log(total.sum())
    if not full:
        scale = jnp.sqrt(jnp.where(empty, whole, variance + floor))
        return {"logits": logits, "mean": mean, "scale": scale}
    matrix = jnp.where(empty[:, :, None], jnp.diag(whole), matrix + jnp.diag(floor))
    return {"logits": logits, "mean": mean, "scale_tril": cholesky(matrix, floor)}


def em_step_observed(
    params: Params,
    x: jax.Array,
    weights: jax.Array,
    observed: jax.Array,
    covariance: Covariance,
    jitter: float,
) -> tuple[Params, jax.Array]:
    """One EM step of a mixture from rows with missing values; see ``Model.em_step``.

    For the missing features of a row each component expects a mean and a covariance.

    Args:
      params: of a ``GaussianMixture``.
      x: (n, dim), 0 where not observed.
      weights: (n,).
      observed: (n, dim) bool.
      covariance, jitter: those of the ``GaussianMixture``.

    Source: Ghahramani and Jordan 1994, "Supervised learning from incomplete data via an EM
    approach", section 3.
    """
    components, dim = params["mean"].shape
    zeros = no_moments(components, dim, covariance, x.dtype)
    tile = em_tile(len(x), zeros[2].size)
    padding = -len(x) % tile

    def tiles(rows):
        rows = jnp.pad(rows, ((0, padding), *((0, 0),) * (rows.ndim - 1)))
        return jnp.moveaxis(rows.reshape(-1, tile, *rows.shape[1:]), 1, -1)

    normals = {k: v for k, v in params.items() if k != "logits"}
    log_weights = jax.nn.log_softmax(params["logits"])

    def add(sums, rows):
        x, weights, observed = rows
        expect = functools.partial(_expect, x=x, observed=observed, covariance=covariance)
        scores, means, roots = lax.map(expect, normals)
        shares, score = row_shares(log_weights[:, None] + scores, weights)
        centred = means - params["mean"][:, :, None]
        moments = functools.partial(component_moments, covariance=covariance)
        total, first, second = lax.map(lambda each: moments(*each), (shares, centred))
        squares = functools.partial(_sum_squares, covariance=covariance)
        second = second + lax.map(lambda each: squares(*each), (shares, roots))
        new = total, first, second, (weights * score).sum()
        return _map(jnp.add, sums, new), None

    (*moments, score), _ = lax.scan(add, zeros, _map(tiles, (x, weights, observed)))
    return maximise(tuple(moments), params["mean"], covariance, jitter), score / weights.sum()


def _expect(normal, x, observed, covariance):
    """Log densities of the observed features of x (dim, rows), and mean and root given them."""
    if covariance == "full":
        mean, root = normal["mean"][:, None], jnp.tril(normal["scale_tril"])[:, :, None]
        return condition(mean, root, x, observed)
    score = lambda x, observed: log_density(normal, x, covariance, observed)  # noqa: E731
    mean, scale = normal["mean"][:, None], normal["scale"][:, None]
    return (
        jax.vmap(score, 1)(x, observed),
        jnp.where(observed, x, mean),
        jnp.where(observed, 0, scale),
    )


def _sum_squares(share, root, covariance):
    """Sum over rows of share times the covariance root root^T, or root^2 for "diagonal"."""
    if covariance == "diagonal":
        return matmul(root**2, share)
    dim = len(root)
    return matmul((root * share).reshape(dim, -1), root.reshape(dim, -1).T)
