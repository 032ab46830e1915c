"""Kernel density estimate with a Gaussian kernel."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.choice import choose
from jaxgen.model import Model, namespace, others
from jaxgen.models.gaussian import LOG_2PI, furthest
from jaxgen.numerics import logsumexp_of_tiles
from jaxgen.random import Bits, Normal
from jaxgen.spec import Count

_TILE = 20  # points compared with an event at once; twice as many in up to 4 dimensions
_SCALARS = 16  # features up to which a distance is written out on scalars
_ROWS = 2048  # events on which the bandwidth is judged, each against all the others
_CYCLES = 20
_TOLERANCE = 0.003  # relative change of a bandwidth in one EM step at which the search stops


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
    frozen = ("points", "log_weights", "bandwidth")

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
        if xp is np and (x.max(0) == x.min(0)).any():
            constant = int((x.max(0) == x.min(0)).argmax())
            raise ValueError(f"x is constant in feature {constant}: no bandwidth suits it")
        scaled = jnp.asarray((x - mean) / deviation, jnp.result_type(float))
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
        # squares of longer distances overflow, and their gradients with them
        near = (jnp.abs((x - params["points"][0]) * scale) < furthest(x.dtype)).all()
        x = jnp.where(near, x, params["points"][0])
        # halves of squares of bandwidths from the mean, which keeps digits far from the origin
        scale, centre = scale * 0.5**0.5, params["points"].mean(0)
        tiles = _tiles((params["points"] - centre) * scale, weights, self.dim)
        x = (x - centre) * scale
        if self.dim <= _SCALARS:
            x = list(x)  # out of the scans, where rows would be read by columns

        def exponents(tile):
            # on scalars, a point at a time: ten times as fast as arrays of a tile's points
            return [w - _total(_squares(x, p)) for p, w in zip(*tile, strict=True)]

        score = logsumexp_of_tiles(exponents, tiles, scale.dtype) + norm
        return jnp.where(near, score, -jnp.inf)

    def noise(self):
        return {"point": Bits((2,)), "z": Normal((self.dim,))}

    def push(self, params, noise, y=None):
        point = choose(jax.nn.softmax(params["log_weights"]), noise["point"])
        return params["points"][point] + params["bandwidth"] * noise["z"]

    def marginal(self, params, features):
        places = np.array(features)
        part = {"points": params["points"][:, places], "bandwidth": params["bandwidth"][places]}
        return KDE(len(features)), {**params, **part}

    def given(self, params, features, values):
        part, rest = self.marginal(params, others(self, features))
        _, known = self.marginal(params, features)
        square = (((values - known["points"]) / known["bandwidth"]) ** 2).sum(1)
        return part, {**rest, "log_weights": params["log_weights"] - 0.5 * square}


def _squares(x, point):
    """(x_j - point_j)^2 of each feature."""
    if len(point) > _SCALARS:
        return (x - point) ** 2
    return [(x[j] - point[j]) ** 2 for j in range(len(point))]


def _total(squares):
    return sum(squares) if isinstance(squares, list) else squares.sum()


def _lowest(dtype):
    return jnp.asarray(jnp.finfo(dtype).min / 4, dtype)  # finite: -inf less -inf is NaN


def _tiles(points, weights, dim):
    """Points (n, dim) and log weights in tiles; padding weighs nothing."""
    tile = min(_TILE if dim > 4 else 2 * _TILE, len(points))
    padding = -len(points) % tile
    points = jnp.pad(points, ((0, padding), (0, 0)))
    weights = jnp.pad(weights, (0, padding), constant_values=-jnp.inf)
    return points.reshape(-1, tile, points.shape[1]), weights.reshape(-1, tile)


@jax.jit
def _leave_one_out(x, weights):
    """Bandwidths (dim,) that maximise the leave-one-out likelihood of standardised x (n, dim).

    EM, whose steps are short far from the top, sped up by squared extrapolation (Varadhan and
    Roland 2008, "Simple and globally convergent methods for accelerating any EM algorithm", S3).
    """
    n, dim = x.shape
    silverman = (4 / (dim + 2) * (weights**2).sum() / weights.sum() ** 2) ** (1 / (dim + 4))
    log_start = jnp.broadcast_to(jnp.log(silverman), (dim,))
    log_least = jnp.log(silverman / 20)
    tiles = _tiles(x, jnp.log(weights), dim)
    order = np.random.default_rng(0).permutation(n)

    def climb(rows, log_bandwidth):
        rows, row_weights = x[order[:rows]], weights[order[:rows]]

        def em(u):
            squares = jax.vmap(lambda row: _mean_squares(row, jnp.exp(u), *tiles))(rows)
            mean = (row_weights[:, None] * squares).sum(0) / row_weights.sum()
            return jnp.maximum(u + 0.5 * jnp.log(mean), log_least)

        def far(path):
            """Where the first two steps point to."""
            u, first = path[0], path[1] - path[0]
            bend = path[2] - u - 2 * first
            length = jnp.sqrt((first**2).sum() / jnp.maximum((bend**2).sum(), 1e-20))
            length = jnp.clip(length, 1, 16)
            return jnp.maximum(u + 2 * length * first + length**2 * bend, log_least)

        def step(i, path):  # a loop, since ``em`` is long: written out, it would compile thrice
            return path.at[i + 1].set(em(jnp.where(i == 2, far(path), path[i])))

        def cycle(carry):
            cycles, u, _ = carry
            path = lax.fori_loop(0, 3, step, jnp.broadcast_to(u, (4, dim)))
            return cycles + 1, path[3], jnp.abs(path[1] - u).max()

        def unfinished(carry):
            return (carry[0] < _CYCLES) & (carry[2] > _TOLERANCE)

        start = 0, log_bandwidth, jnp.asarray(jnp.inf, x.dtype)
        return lax.while_loop(unfinished, cycle, start)[1]

    # most of the way on few events, at an eighth of the cost
    return jnp.exp(climb(_ROWS, climb(_ROWS // 8, log_start)))


def _mean_squares(x, bandwidth, points, weights):
    """Squared distances to the points, in bandwidths and averaged with the kernels' weights at x.

    (dim,); copies of x are left out. By EM's update, bandwidth_j^2 grows by its mean over events.
    """

    start = _lowest(x.dtype), jnp.zeros((), x.dtype), jnp.zeros_like(x)
    precision = 1 / bandwidth**2
    scale = precision / 2
    if len(x) <= _SCALARS:
        x, scale = list(x), list(scale)  # out of the scan, where rows would be read by columns

    def half_distance(squares):
        # squares are scaled after the difference: then that of a copy is 0, whatever is rounded
        if isinstance(squares, list):
            return sum(s * c for s, c in zip(squares, scale, strict=True))
        return (squares * scale).sum()

    def add(carry, tile):
        squares = [_squares(x, point) for point in tile[0]]
        halves = [half_distance(s) for s in squares]
        exponents = [
            jnp.where(h > 0, w - h, -jnp.inf) for h, w in zip(halves, tile[1], strict=True)
        ]
        largest = functools.reduce(jnp.maximum, exponents, carry[0])
        shrink = jnp.exp(carry[0] - largest)
        kernels = [jnp.exp(e - largest) for e in exponents]
        total = sum(kernels, carry[1] * shrink)
        moment = carry[2] * shrink
        moment = moment + sum(k * jnp.asarray(s) for k, s in zip(kernels, squares, strict=True))
        return (largest, total, moment), None

    (_, total, moment), _ = lax.scan(add, start, (points, weights))
    return jnp.where(total > 0, moment * precision / jnp.where(total > 0, total, 1), 1)
