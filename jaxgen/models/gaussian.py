"""The multivariate normal distribution."""

from __future__ import annotations

import math
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.core.families import check_observed, namespace, others
from jaxgen.core.model import Learning, Model, Traits
from jaxgen.core.places import Message, feature
from jaxgen.core.random import Normal
from jaxgen.core.spec import Count, NonNegative

LOG_2PI = math.log(2 * math.pi)
_STEEPEST = 10.0  # log of how much wider or narrower a network may make a scale
SCALARS = 8  # features up to which sums are written out on scalars: ten times as fast


class Gaussian(Model):
    """Normal distribution, log p(x) = -|L^-1 (x - mean)|^2 / 2 - log|det L| - dim/2 log(2 pi).

    Args:
      dim: number of features.
      covariance: "full" or "diagonal".
      jitter: added to the diagonal of the maximum-likelihood covariance, as a share of each
        feature's variance in all the data (of a constant feature, of its squared size).

    Params: ``mean`` (dim,) and ``scale_tril`` (dim, dim), the lower Cholesky factor L of the
    covariance (entries above its diagonal are ignored); for "diagonal", ``scale`` (dim,), the
    standard deviations.

    Raises:
      ValueError: on fitting data whose covariance is singular, with no jitter.

    >>> fitted = jaxgen.fit(Gaussian(2), x, key=jax.random.key(0))
    >>> fitted.sample(jax.random.key(1), 1000).shape
    (1000, 2)
    """

    dim: Count
    covariance: Literal["full", "diagonal"] = "full"
    jitter: NonNegative = 0.0

    @property
    def learning(self):
        diagonal = self.covariance == "diagonal"
        return Learning("closed_form", missing="closed_form" if diagonal else "em", rescalable=True)

    @property
    def traits(self):
        return Traits(reparameterized=True, elementwise=self.covariance == "diagonal")

    @property
    def event_shape(self):
        return (self.dim,)

    def init(self, key, x=None, y=None):
        if x is not None:
            return self.estimate(x)
        scale = jnp.ones(self.dim) if self.covariance == "diagonal" else jnp.eye(self.dim)
        return {"mean": jnp.zeros(self.dim), self._scale_name: scale}

    def estimate(self, x, y=None, weights=None, observed=None):
        xp = namespace(x, weights)
        if observed is not None:
            return self._estimate_observed(x, weights, observed, xp)
        if xp is np and self.jitter == 0:
            self._check_varied(x.min(0), x.max(0))
        weights = xp.ones(len(x), x.dtype) if weights is None else weights
        share = weights / weights.sum()
        mean = share @ x
        centred = x - mean
        floor = self._floor(x, xp)
        if self.covariance == "diagonal":
            return {"mean": mean, "scale": xp.sqrt(share @ centred**2 + floor)}
        covariance = (share[:, None] * centred).T @ centred + xp.diag(floor)
        scale = cholesky(covariance, floor) if xp is jnp else _host_cholesky(covariance)
        return {"mean": mean, "scale_tril": scale}

    def em_step(self, params, x, y=None, weights=None, observed=None):
        """One step towards the params of highest likelihood of what is seen, with "full"."""
        if observed is None or self.covariance == "diagonal":
            return super().em_step(params, x, y, weights)
        from jaxgen.models.gaussian_mixture import GaussianMixture  # which imports this file

        one = {"logits": jnp.zeros(1, x.dtype), **{k: v[None] for k, v in params.items()}}
        mixture = GaussianMixture(self.dim, 1, self.covariance, self.jitter)
        new, score = mixture.em_step(one, x, y, weights, observed)
        return {k: new[k][0] for k in params}, score

    def log_prob(self, params, x, y=None, observed=None):
        scale, mean = params[self._scale_name], params["mean"]
        if observed is not None and self.covariance == "full":
            return _score_observed(mean, scale, x, observed)
        constant = log_constant(scale, self.covariance)
        if observed is not None:
            x, constant = jnp.where(observed, x, mean), log_constant(scale, "diagonal", observed)
        # squares of longer distances overflow, and their gradients with them
        spread = jnp.abs(scale if self.covariance == "diagonal" else jnp.diagonal(scale))
        near = (jnp.abs(x - mean) < furthest(x.dtype) * spread).all()
        x = jnp.where(near, x, mean)
        square = squared_length(x, mean, whitening(scale, self.covariance))
        return jnp.where(near, constant - 0.5 * square, -jnp.inf)

    def noise(self):
        return Normal((self.dim,))

    def push(self, params, noise, y=None):
        scale = params[self._scale_name]
        diagonal = self.covariance == "diagonal"
        return params["mean"] + (scale * noise if diagonal else product(jnp.tril(scale), noise))

    def pull(self, params, x, y=None):
        whiten = whitening(params[self._scale_name], self.covariance)
        centred = x - params["mean"]
        return whiten * centred if whiten.ndim == 1 else product(whiten, centred)

    def complete(self, params, noise, x, observed, y=None):
        if self.covariance == "diagonal":
            return jnp.where(observed, x, self.push(params, noise))
        _, mean, root = condition(params["mean"], jnp.tril(params["scale_tril"]), x, observed)
        return jnp.where(observed, x, mean + product(root, noise))

    def marginal(self, params, features):
        part = Gaussian(len(features), self.covariance, self.jitter)
        places, scale = np.array(features), params[self._scale_name]
        diagonal = self.covariance == "diagonal"
        scale = scale[places] if diagonal else triangular(jnp.tril(scale)[places])
        return part, {"mean": params["mean"][places], self._scale_name: scale}

    def given(self, params, features, values):
        rest = others(self, features)
        if self.covariance == "diagonal":
            return self.marginal(params, rest)
        places, left = np.array(features), np.array(rest)
        mean, tril = params["mean"], jnp.tril(params["scale_tril"])
        x = jnp.zeros_like(mean).at[places].set(values)
        _, mean, root = condition(mean, tril, x, np.isin(np.arange(self.dim), places))
        part = Gaussian(len(rest), self.covariance, self.jitter)
        return part, {"mean": mean[left], "scale_tril": triangular(root[left])}

    def modulate(self, params, change):
        scale, step = params[self._scale_name], change[self._scale_name]
        if self.covariance == "diagonal":
            mean = params["mean"] + scale * change["mean"]
            return {"mean": mean, "scale": scale * _factor(step)}
        root = jnp.tril(scale)
        step = jnp.tril(step, -1) + jnp.diag(_factor(jnp.diagonal(step)))
        mean = params["mean"] + product(root, change["mean"])
        return {"mean": mean, "scale_tril": product(root, step)}

    def rescale(self, params, shift, scale):
        own = scale if self.covariance == "diagonal" else scale[:, None]
        name = self._scale_name
        return {**params, "mean": shift + scale * params["mean"], name: own * params[name]}

    @property
    def _scale_name(self):
        return "scale" if self.covariance == "diagonal" else "scale_tril"

    def _check_varied(self, low, high):
        """Raise where a feature lies between equal ends, so that its variance is zero."""
        constant = low == high
        if constant.any():
            where = feature(constant.argmax())
            raise ValueError(Message("x is constant in ", where, f": pass jitter > 0 to {self}"))

    def _floor(self, x, xp):
        """What is added to the variance of each feature."""
        if xp is np:
            return np.full(self.dim, self.jitter)
        # within EM weights may leave a component no variance of its own
        return self.jitter + smallest_variance(x.var(0))

    def _estimate_observed(self, x, weights, observed, xp):
        if self.covariance == "full":
            raise NotImplementedError("Gaussian: a full covariance of what is seen takes EM")
        if xp is np:
            check_observed(observed)
            if self.jitter == 0:
                low, high = (np.where(observed, x, edge) for edge in (np.inf, -np.inf))
                self._check_varied(low.min(0), high.max(0))
        weights = xp.ones(len(x), x.dtype) if weights is None else weights
        share = xp.where(observed, weights[:, None], 0)
        share = share / share.sum(0)
        mean = (share * x).sum(0)
        variance = (share * (x - mean) ** 2).sum(0)
        return {"mean": mean, "scale": xp.sqrt(variance + self._floor(x, xp))}


def smallest_variance(variance):
    """The least that a float can tell from zero, of features of that variance; 1 stands for 0."""
    eps = jnp.finfo(variance.dtype).eps
    return (4 * eps) ** 2 * jnp.where(variance > 0, variance, 1)


def cholesky(matrix, floor):
    """Lower Cholesky factors of covariances (..., dim, dim) that ``diag(floor)`` was added to.

    What is left of a variance after each column cannot fall below ``floor`` (dim,) but by rounding.
    Pivots and columns are kept to that, where LAPACK gives NaN.
    """
    dim = matrix.shape[-1]
    rows = jnp.arange(dim)

    def column(rest, j):
        left = jnp.diagonal(rest, axis1=-2, axis2=-1)
        pivot = jnp.sqrt(jnp.maximum(left[..., j], floor[j]))[..., None]
        longest = jnp.sqrt(jnp.maximum(left - floor, 0))
        below = jnp.where(rows > j, jnp.clip(rest[..., :, j] / pivot, -longest, longest), 0)
        column = jnp.where(rows == j, pivot, below)
        return rest - below[..., :, None] * below[..., None, :], column

    _, columns = lax.scan(column, matrix, rows)
    return jnp.moveaxis(columns, 0, -1)


def _factor(log):
    """The exponential, which is kept from overflow."""
    return jnp.exp(_STEEPEST * jnp.tanh(log / _STEEPEST))


def furthest(dtype):
    """Scales beyond which a normal density is zero, with room for sums of squares."""
    return jnp.finfo(dtype).max ** 0.5 / 16


def whitening(scale, covariance):
    """W of z = W (x - mean): the inverse of the scale, made once for all events.

    ``scale`` may have leading axes, of components.
    """
    if covariance == "diagonal":
        return 1 / scale
    return inverse_of_tril(scale)


def inverse_of_tril(tril):
    """Inverses of lower triangular matrices (..., dim, dim), which may differ from row to row.

    By products and elementwise work, for LAPACK's solver is slow where there are many, and threads
    that call it at once have been seen to wait for each other for ever. Blocks on the diagonal are
    inverted on scalars, then pairs of neighbours joined: [[A, 0], [B, C]] has [[A', 0], [-C' B A',
    C']] for its inverse.
    """
    dim = tril.shape[-1]
    size = min(dim, SCALARS)
    padding = size * 2 ** max(math.ceil(math.log2(dim / size)), 0) - dim
    lead = [(0, 0)] * (tril.ndim - 2)
    tril = jnp.pad(tril, [*lead, (0, padding), (0, padding)])
    tril = tril + jnp.diag(np.arange(dim + padding) >= dim).astype(tril.dtype)

    def blocks(size, below, step):
        """Blocks (..., count, size, size), each so far below every so many on the diagonal."""
        starts = range(0, dim + padding, step)
        cut = [tril[..., i + below : i + below + size, i : i + size] for i in starts]
        return jnp.stack(cut, -3)

    inverse = _inverse_on_scalars(blocks(size, 0, size))
    while size < dim:
        first, second = inverse[..., ::2, :, :], inverse[..., 1::2, :, :]
        below = -product(product(second, blocks(size, size, 2 * size)), first)
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


def log_constant(scale, covariance, observed=None):
    """Log density at the mean, of the features seen; ``scale`` may have leading axes."""
    if observed is not None:
        return -jnp.where(observed, jnp.log(jnp.abs(scale)) + 0.5 * LOG_2PI, 0).sum(-1)
    full = covariance == "full"
    diagonal = jnp.diagonal(scale, axis1=-2, axis2=-1) if full else scale
    return -jnp.log(jnp.abs(diagonal)).sum(-1) - 0.5 * scale.shape[-1] * LOG_2PI


def squared_length(x, mean, whiten):
    """|W (x - mean)|^2 of one event."""
    dim = len(x)
    if dim > SCALARS:
        z = whiten * (x - mean) if whiten.ndim == 1 else product(whiten, x - mean)
        return (z * z).sum()
    centred = [x[i] - mean[i] for i in range(dim)]
    if whiten.ndim == 1:
        z = [whiten[i] * c for i, c in enumerate(centred)]
    else:
        z = [sum(whiten[i, j] * centred[j] for j in range(i + 1)) for i in range(dim)]
    return sum(v * v for v in z)


def triangular(rows):
    """Lower triangular T, diagonal not negative, with T T^T = rows rows^T, by Gram-Schmidt.

    It loses no digits to squares, and takes no LAPACK, whose QR factors in batches can stall XLA.
    """

    def project(rows, j):
        row = rows[j]
        direction = row / jnp.maximum(jnp.sqrt((row * row).sum()), jnp.finfo(row.dtype).tiny)
        along = (rows * direction).sum(1)
        return rows - along[:, None] * direction, along

    _, columns = lax.scan(project, rows, jnp.arange(len(rows)))
    return jnp.tril(columns.T)


def condition(mean, root, x, observed):
    """What is seen of an event: its log density, and the normal of the event given it.

    Features are taken in one by one, and the root loses what lies along each one's row. That is
    Gram and Schmidt's method: no covariance is squared, factored or inverted. Arrays may have one
    more axis at the end, of rows.

    Args:
      mean: (dim,).
      root: (dim, dim), the covariance is root root^T.
      x: (dim,), of which only what is seen is read.
      seen: (dim,) bool.

    Returns:
      The score, and a mean (dim,) and root (dim, dim) whose root is zero for what is seen.

    Source: Potter's square root filter (Bierman 1977, section V.3), without noise.
    """

    def observe(carry, feature):
        score, mean, root = carry
        j, value, known = feature
        term, z, scale = _observe((root[j] * root[j]).sum(0), value - mean[j], known)
        direction = root[j] * scale
        along = (root * direction).sum(1)
        return (score + term, mean + along * z, root - along[:, None] * direction), None

    shapes = x.shape[1:], x.shape, (len(x), *x.shape)
    start = [
        jnp.broadcast_to(v, s)
        for v, s in zip((jnp.zeros_like(x[0]), mean, root), shapes, strict=True)
    ]
    (score, mean, root), _ = lax.scan(observe, tuple(start), (jnp.arange(len(x)), x, observed))
    return score, jnp.where(observed, x, mean), jnp.where(observed[:, None], 0, root)


def _score_observed(mean, tril, x, observed):
    """The score of ``condition`` for a lower triangular root, on scalars: ten times as fast."""
    dim = len(x)
    if dim > SCALARS:
        return condition(mean, tril, x, observed)[0]
    score, mean = jnp.zeros((), x.dtype), list(mean)
    root = [[tril[i, k] for k in range(i + 1)] for i in range(dim)]
    for j in range(dim):
        square = sum(v * v for v in root[j])
        term, z, scale = _observe(square, x[j] - mean[j], observed[j])
        score = score + term
        direction = [v * scale for v in root[j]]
        for i in range(j + 1, dim):
            along = sum(root[i][k] * d for k, d in enumerate(direction))
            mean[i] = mean[i] + along * z
            for k, d in enumerate(direction):
                root[i][k] = root[i][k] - along * d
    return score


def _observe(square, away, known):
    """Score of one feature so far from its mean, the distance in scales, and 1 / scale.

    All are zero where it is not known.
    """
    scale = jnp.sqrt(jnp.maximum(square, jnp.finfo(square.dtype).tiny))
    z = away / scale
    near = jnp.abs(z) < furthest(z.dtype)
    z = jnp.where(known & near, z, 0)
    term = jnp.where(near, -0.5 * z * z - jnp.log(scale) - 0.5 * LOG_2PI, -jnp.inf)
    return jnp.where(known, term, 0), z, jnp.where(known, 1 / scale, 0)


def product(a, b):
    """Matrix product with all its digits, some of which a GPU would drop by default."""
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _host_cholesky(cov):
    try:
        return np.linalg.cholesky(cov)
    except np.linalg.LinAlgError:
        rank = np.linalg.matrix_rank(cov)
        raise ValueError(
            f"the covariance of x is singular (rank {rank} of {len(cov)}): pass jitter > 0, "
            'or covariance="diagonal"'
        ) from None
