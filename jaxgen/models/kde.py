"""Kernel density estimate with a Gaussian kernel."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.model import Model, namespace
from jaxgen.models.gaussian import LOG_2PI
from jaxgen.random import Normal, Uniform
from jaxgen.spec import Count

_TILE = 64  # points compared with an event at once
_ROWS = 2048  # events on which the bandwidth is judged, each against all the others
_STEPS = 60
_TOLERANCE = 0.01  # relative change of a bandwidth at which the search stops


class KDE(Model):
    """Kernel density, p(x) = sum_i w_i prod_j N(x_j; points_ij, bandwidth_j^2).

    The bandwidth of each feature maximises the leave-one-out likelihood, by EM on at most 2048
    events against all points. Copies of an event are left out with it, and no bandwidth falls below
    a twentieth of Silverman's rule: else rounded data would draw it to zero.

    Args:
      dim: number of features.

    Params: ``points`` (n, dim), ``log_weights`` (n,), up to a constant, ``bandwidth`` (dim,), in
    the units of x.

    Raises:
      ValueError: on fitting data in which a feature is constant.

    Source: Duin 1976, "On the choice of smoothing parameters for Parzen estimators".

    >>> fitted = jaxgen.fit(KDE(2), x, key=jax.random.key(0))
    """

    dim: Count

    fit_method = "closed_form"

    @property
    def event_shape(self):
        return (self.dim,)

    def init(self, key, x=None, y=None):
        if x is not None:
            return self.estimate(x)
        points = jax.random.normal(key, (8, self.dim))
        return {"points": points, "log_weights": jnp.zeros(8), "bandwidth": jnp.ones(self.dim)}

    def estimate(self, x, y=None, weights=None):
        xp = namespace(x, weights)
        weights = xp.ones(len(x), x.dtype) if weights is None else weights
        share = weights / weights.sum()
        mean = share @ x
        deviation = xp.sqrt(share @ (x - mean) ** 2)
        if xp is np and (deviation == 0).any():
            constant = int((deviation == 0).argmax())
            raise ValueError(f"x is constant in feature {constant}: no bandwidth suits it")
        scaled = jnp.asarray((x - mean) / deviation, jnp.zeros(()).dtype)
        bandwidth = _leave_one_out(scaled, jnp.asarray(share, scaled.dtype))
        with np.errstate(divide="ignore"):
            log_weights = xp.log(share)
        return {
            "points": x,
            "log_weights": log_weights,
            "bandwidth": xp.asarray(bandwidth) * deviation,
        }

    def log_prob(self, params, x, y=None):
        weights = jax.nn.log_softmax(params["log_weights"])
        scale = 1 / params["bandwidth"]
        norm = jnp.log(jnp.abs(scale)).sum() - 0.5 * self.dim * LOG_2PI

        def add(carry, tile):
            points, weights = tile
            exponent = weights - 0.5 * _squared_distances(x, points, scale)
            largest = jnp.maximum(carry[0], exponent.max())
            total = carry[1] * jnp.exp(carry[0] - largest) + jnp.exp(exponent - largest).sum()
            return (largest, total), None

        lowest = jnp.asarray(jnp.finfo(x.dtype).min / 4, x.dtype)  # finite: -inf less -inf is NaN
        tiles = _tiles(params["points"], weights)
        (largest, total), _ = lax.scan(add, (lowest, jnp.zeros((), x.dtype)), tiles)
        near = total > 0  # so far away that every kernel is zero, log and its gradient are not
        return jnp.where(near, largest + jnp.log(jnp.where(near, total, 1)) + norm, -jnp.inf)

    def noise(self):
        return {"point": Uniform(), "z": Normal((self.dim,))}

    def push(self, params, noise, y=None):
        cdf = jnp.cumsum(jax.nn.softmax(params["log_weights"]))
        point = jnp.searchsorted(cdf, noise["point"] * cdf[-1], side="right")
        return params["points"][point.clip(max=cdf.size - 1)] + params["bandwidth"] * noise["z"]


def _squared_distances(x, points, scale):
    """Of one event to a tile of points (dim, tile): differences first, exact at any offset."""
    total = jnp.zeros(points.shape[1], x.dtype)
    for j in range(len(x)):
        total = total + ((x[j] - points[j]) * scale[j]) ** 2
    return total


def _tiles(points, weights):
    """Points (n, dim) as tiles (tiles, dim, tile), with log weights; padding weighs nothing."""
    tile = min(_TILE, len(points))
    padding = -len(points) % tile
    points = jnp.pad(points, ((0, padding), (0, 0)))
    weights = jnp.pad(weights, (0, padding), constant_values=-jnp.inf)
    return points.reshape(-1, tile, points.shape[1]).swapaxes(1, 2), weights.reshape(-1, tile)


@jax.jit
def _leave_one_out(x, weights):
    """Bandwidths (dim,) that maximise the leave-one-out likelihood of standardised x (n, dim)."""
    n, dim = x.shape
    silverman = (4 / (dim + 2) * (weights**2).sum() / weights.sum() ** 2) ** (1 / (dim + 4))
    chosen = np.random.default_rng(0).permutation(n)[:_ROWS]
    tiles, rows, row_weights = _tiles(x, jnp.log(weights)), x[chosen], weights[chosen]

    def step(carry):
        steps, bandwidth, _ = carry
        squares = jax.vmap(lambda row: _mean_squares(row, bandwidth, *tiles))(rows)
        update = jnp.sqrt((row_weights[:, None] * squares).sum(0) / row_weights.sum())
        update = jnp.maximum(update, silverman / 20)
        return steps + 1, update, jnp.abs(jnp.log(update / bandwidth)).max()

    def unfinished(carry):
        return (carry[0] < _STEPS) & (carry[2] > _TOLERANCE)

    start = 0, jnp.broadcast_to(silverman, (dim,)), jnp.asarray(jnp.inf, x.dtype)
    return lax.while_loop(unfinished, step, start)[1]


def _mean_squares(x, bandwidth, points, weights):
    """(x_j - points_ij)^2 averaged over points i with the kernels' weights at x, copies left out.

    Over events its mean is the EM update of bandwidth_j^2.
    """

    def add(carry, tile):
        points, weights = tile
        squares = (x[:, None] - points) ** 2
        distances = ((1 / bandwidth**2)[:, None] * squares).sum(0)
        exponent = jnp.where(distances > 0, weights - 0.5 * distances, -jnp.inf)
        largest = jnp.maximum(carry[0], exponent.max())
        shrink, kernel = jnp.exp(carry[0] - largest), jnp.exp(exponent - largest)
        total = carry[1] * shrink + kernel.sum()
        return (largest, total, carry[2] * shrink + (kernel * squares).sum(1)), None

    lowest = jnp.asarray(jnp.finfo(x.dtype).min / 4, x.dtype)
    start = lowest, jnp.zeros((), x.dtype), jnp.zeros_like(x)
    (_, total, moment), _ = lax.scan(add, start, (points, weights))
    return jnp.where(total > 0, moment / jnp.where(total > 0, total, 1), bandwidth**2)
