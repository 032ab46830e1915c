"""Expectation-maximisation of a mixture of normals, in moments.

The moments of a component are the sums over rows of share, share (x - mean) and
share (x - mean)(x - mean)^T, where share is its responsibility for the row times the row's weight.
Moments about the mean keep the digits of narrow components.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.core.numerics import logsumexp
from jaxgen.core.shards import sum_over_rows
from jaxgen.core.spec import Params
from jaxgen.models.normal.covariances import Form, expand, form_of, scale_name
from jaxgen.models.normal.density import condition, log_density
from jaxgen.models.normal.matrices import cholesky, matmul, smallest_variance

_EM_TILE = 1024  # most rows in one tile of an EM step
_EM_NUMBERS = 1 << 20  # numbers in the conditional covariances of one tile, about
_MIN_VARIANCE = 0.01  # least variance within components, relative to the data, for the jitter
_EQUAL = 1e-10  # variance, relative to that of all rows, below which rows count as equal
_JUDGED = 16384  # most rows to look at
_map = jax.tree_util.tree_map


def em_tile(n: int, numbers: int = 1) -> int:
    """Rows in one tile of an EM step over n rows, with so many numbers in memory for each row."""
    return min(max(_EM_NUMBERS // numbers, 1), _EM_TILE, n)


def no_moments(components: int, dim: int, form: Form, dtype: Any) -> tuple:
    """Moments and total score of no rows: zeros."""
    shape = components, dim
    second = shape if form == "diagonal" else (*shape, dim)
    return tuple(jnp.zeros(s, dtype) for s in (shape[:1], shape, second, ()))


def component_moments(share: jax.Array, centred: jax.Array, form: Form) -> tuple:
    """Moments of one component, from its shares (rows,) and x - mean (dim, rows)."""
    if form == "diagonal":
        dim, ones = len(centred), jnp.ones_like(centred[:1])
        sums = matmul(jnp.concatenate([ones, centred, centred**2]), share)
        return sums[0], sums[1 : dim + 1], sums[dim + 1 :]
    return share.sum(), matmul(centred, share), matmul(centred * share, centred.T)


def row_shares(joint: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Shares (components, rows) of each row, and the log densities (rows,).

    joint is log w_k + log N(x; k), (components, rows). The shares of a row sum to its weight, even
    where its density underflows.
    """
    score = logsumexp(joint, 0)
    largest = jnp.where(score == -jnp.inf, 0, joint.max(0))
    terms = jnp.exp(joint - largest)
    return terms * (weights / jnp.where(score == -jnp.inf, 1, terms.sum(0))), score


def maximise(moments: tuple, mean: jax.Array, covariance: str, jitter: float) -> Params:
    """Params of a mixture from its moments about ``mean`` (components, dim).

    The moments are those of the form of the covariance.
    """
    total, first, second = moments
    eps = jnp.finfo(total.dtype).eps
    full, weights = form_of(covariance) == "full", total / total.sum()
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
    if covariance == "spherical":  # one variance for all features
        each = variance, within, whole
        variance, within, whole = (v.mean(-1, keepdims=True) for v in each)
    floor = jitter * jnp.clip(within, _MIN_VARIANCE, 1) + smallest_variance(whole)
    # an empty component takes the mean and covariance of all rows, so that it can gain rows again
    empty = (total <= 10 * eps * total.sum())[:, None]
    mean = jnp.where(empty, centre, mean)
    logits = jnp.log(divisor) - jnp.log(total.sum())
    if not full:
        scale = jnp.sqrt(jnp.where(empty, jnp.maximum(whole, floor), variance + floor))
        scale = scale[:, 0] if covariance == "spherical" else scale
        return {"logits": logits, "mean": mean, "scale": scale}
    if covariance == "tied":
        matrix = jnp.tensordot(weights, matrix, 1, precision=lax.Precision.HIGHEST)
        matrix = matrix + jnp.diag(floor)
    else:
        broad = jnp.diag(jnp.maximum(whole, floor))
        matrix = jnp.where(empty[:, :, None], broad, matrix + jnp.diag(floor))
    return {"logits": logits, "mean": mean, "scale_tril": cholesky(matrix, floor)}


def is_collapsed(params: Params, x: np.ndarray, covariance: str, jitter: float) -> bool:
    """Whether the rows of a component are equal in some direction, so that jitter is its variance.

    The likelihood of such a component grows without bound as jitter decreases. A direction in which
    all rows are equal does not count.

    Args:
      params: of a ``GaussianMixture``, with concrete values.
      x: (n, dim) the rows; those with missing values do not count.
      covariance, jitter: those of the ``GaussianMixture``.

    Source: McLachlan and Peel 2000, "Finite mixture models", section 3.10.
    """
    full = form_of(covariance) == "full"
    weights, mean, spread = _on_host(params, covariance)
    between = mean - weights @ mean
    between = between[:, :, None] * between[:, None, :] if full else between**2
    whole = np.tensordot(weights, spread + between, 1)
    within = weights @ (np.diagonal(spread, axis1=1, axis2=2) if full else spread)
    floor = jitter * np.clip(within, _MIN_VARIANCE, 1)
    if not (floor > 0).all() or not np.isfinite(spread).all() or not np.isfinite(whole).all():
        return False
    suspects = np.flatnonzero((_least(spread, floor, full) < 2) & (weights > 0))
    if not len(suspects) or _least(whole, floor, full) < 2:
        return False
    x = x[~np.isnan(x).any(1)]
    x = x[:: -(-len(x) // _JUDGED)] if len(x) else x
    joint = np.full((len(weights), len(x)), -np.inf)
    for k in np.flatnonzero(weights > 0):
        root = np.linalg.cholesky(spread[k]) if full else np.sqrt(spread[k])
        z = np.linalg.solve(root, (x - mean[k]).T) if full else ((x - mean[k]) / root).T
        scale = np.diagonal(root) if full else root
        joint[k] = np.log(weights[k]) - np.log(scale).sum() - 0.5 * (z**2).sum(0)
    nearest, unit = joint.argmax(0), np.diagonal(whole) if full else whole
    for k in suspects:
        rows = x[nearest == k]
        if len(rows):
            own = np.atleast_2d(np.cov(rows.T, bias=True)) if full else rows.var(0)
            own = np.full_like(own, own.mean()) if covariance == "spherical" else own
            if _least(own, unit, full) < _EQUAL:
                return True
    return False


def _on_host(params, covariance):
    """The weights, means and covariance matrices in float64; variances (components, dim) in the
    form "diagonal"."""
    arrays = {name: np.asarray(leaf, np.float64) for name, leaf in params.items()}
    weights = np.exp(arrays["logits"] - arrays["logits"].max())
    mean, scale = arrays["mean"], arrays[scale_name(covariance)]
    if covariance == "spherical":
        scale = np.broadcast_to(scale[:, None], mean.shape)
    if form_of(covariance) == "full":
        scale = np.tril(scale)
        spread = np.broadcast_to(scale @ scale.swapaxes(-1, -2), (*mean.shape, mean.shape[1]))
    else:
        spread = scale**2
    return weights / weights.sum(), mean, spread


def _least(spread, unit, full):
    """The least variance in any direction, in units (dim,); see ``_on_host`` for the two forms."""
    if not full:
        return (spread / unit).min(-1)
    scale = np.sqrt(unit)
    return np.linalg.eigvalsh(spread / (scale[:, None] * scale))[..., 0]


def em_step_observed(
    params: Params,
    x: jax.Array,
    weights: jax.Array,
    observed: jax.Array,
    covariance: str,
    jitter: float,
) -> tuple[Params, jax.Array]:
    """One EM step of a mixture from rows with missing values; see ``Model.em_step``.

    Each component gives the missing features of a row a conditional mean and covariance.

    Args:
      params: of a ``GaussianMixture``.
      x: (n, dim), 0 where not observed.
      weights: (n,).
      observed: (n, dim) bool.
      covariance, jitter: those of the ``GaussianMixture``.

    Source: Ghahramani and Jordan 1994, "Supervised learning from incomplete data via an EM
    approach", section 3.
    """
    sums = functools.partial(_sums_observed, covariance=covariance)
    *moments, score = sum_over_rows(sums, (x, weights, observed), params)
    return maximise(tuple(moments), params["mean"], covariance, jitter), score / weights.sum()


def _sums_observed(rows, params, covariance):
    """Moments about the means, and the total score, of rows (x, weights, observed)."""
    (components, dim), form = params["mean"].shape, form_of(covariance)
    zeros = no_moments(components, dim, form, rows[0].dtype)
    tile = em_tile(len(rows[0]), zeros[2].size)
    padding = -len(rows[0]) % tile

    def tiles(rows):
        rows = jnp.pad(rows, ((0, padding), *((0, 0),) * (rows.ndim - 1)))
        return jnp.moveaxis(rows.reshape(-1, tile, *rows.shape[1:]), 1, -1)

    normals = {k: v for k, v in expand(params, covariance).items() if k != "logits"}
    log_weights = jax.nn.log_softmax(params["logits"])

    def add(sums, rows):
        x, weights, observed = rows
        expect = functools.partial(_expect, x=x, observed=observed, form=form)
        scores, means, roots = lax.map(expect, normals)
        shares, score = row_shares(log_weights[:, None] + scores, weights)
        centred = means - params["mean"][:, :, None]
        moments = functools.partial(component_moments, form=form)
        total, first, second = lax.map(lambda each: moments(*each), (shares, centred))
        squares = functools.partial(_sum_squares, form=form)
        second = second + lax.map(lambda each: squares(*each), (shares, roots))
        new = total, first, second, (weights * score).sum()
        return _map(jnp.add, sums, new), None

    return lax.scan(add, zeros, _map(tiles, rows))[0]


def _expect(normal, x, observed, form):
    """Log densities of the observed features of x (dim, rows), and mean and root given them."""
    if form == "full":
        mean, root = normal["mean"][:, None], jnp.tril(normal["scale_tril"])[:, :, None]
        return condition(mean, root, x, observed)
    score = lambda x, observed: log_density(normal, x, form, observed)  # noqa: E731
    mean, scale = normal["mean"][:, None], normal["scale"][:, None]
    return (
        jax.vmap(score, 1)(x, observed),
        jnp.where(observed, x, mean),
        jnp.where(observed, 0, scale),
    )


def _sum_squares(share, root, form):
    """Sum over rows of share times the covariance root root^T, or root^2 for "diagonal"."""
    if form == "diagonal":
        return matmul(root**2, share)
    dim = len(root)
    return matmul((root * share).reshape(dim, -1), root.reshape(dim, -1).T)
