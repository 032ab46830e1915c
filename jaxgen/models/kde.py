"""Kernel density estimates with Gaussian kernels."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.core.families import namespace, others
from jaxgen.core.model import Learning, Model, Traits
from jaxgen.core.numerics import logsumexp_of_tiles
from jaxgen.core.places import Message, feature
from jaxgen.core.random import Bits, Normal, fixed
from jaxgen.core.random.choice import choose
from jaxgen.core.sizes import size_class
from jaxgen.core.spec import Count
from jaxgen.models.normal.density import LOG_2PI, max_distance

_TILE = 20  # points compared with an event at once; twice as many in up to 4 dimensions
_SHORT_TILE = 5  # the same in the search for a bandwidth: more would compile longer, run no faster
_SCALARS = 16  # up to this many features, distances are written out on scalars
_BLOCK = 256  # events compared with the points at once in the search for a bandwidth
_EVENTS = 2048  # most events whose leave-one-out likelihood the bandwidth maximises
_POINTS = 65536  # most points that those events are compared with
_SIZES_PER_OCTAVE = 8  # sizes to which points are padded, by 4 % on average and 12.5 % at most
_CYCLES = 20  # most cycles of the search
_TOLERANCE = 0.003  # relative change of a bandwidth in one EM step at which the search stops


class KDE(Model):
    """Kernel density, p(x) = sum_i w_i prod_j N(x_j; points_ij, bandwidth_j^2).

    The bandwidths maximise the leave-one-out likelihood of at most 2048 events, by EM. Copies of
    an event are left out together with it, and no bandwidth falls below a twentieth of Silverman's
    rule, because rounded data would otherwise drive bandwidths to zero.

    From more than 65,536 events, the likelihood uses a subsample of m points, drawn by weight. The
    bandwidth found is multiplied by (m / n)^(1 / (dim + 4)), since the optimal bandwidth falls at
    that rate with the number n of events. m and n are effective sample sizes, 1 / sum_i w_i^2, in
    which copies of an event count as one.

    Args:
      dim: number of features.

    Params: ``points`` (size, dim) and ``bandwidth`` (dim,), in the units of x, and ``log_weights``
    (size,), up to a constant. The n events come first; the other points are padding, copies of one
    event with log weight -inf. The size is n rounded up by at most an eighth, and at least 64, so
    that fits of similar n share their compiled programs.

    Raises:
      ValueError: when fitted to data with a constant feature.

    Source: Duin 1976, "On the choice of smoothing parameters for Parzen estimators". For the rate,
    Scott 2015, "Multivariate density estimation", section 6.3; Hall and Robinson 2009, "Reducing
    variability of crossvalidation for smoothing-parameter choice", also rescale the bandwidth of a
    subsample.

    >>> fitted = jaxgen.fit(KDE(2), x, key=jax.random.key(0))
    """

    dim: Count

    learning = Learning(
        "closed_form", rescalable=True, frozen=("points", "log_weights", "bandwidth")
    )

    @functools.cached_property
    def traits(self):
        return Traits(degrees_of_freedom=self._degrees_of_freedom)

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
        if xp is jnp:
            scaled = (x - mean) / deviation
            events = scaled[_drawn(share, _in_blocks(len(x)))]
            equal = jnp.ones(len(events), x.dtype)
            bandwidth = deviation * _leave_one_out(events, equal, scaled, share)
            return {"points": x, "log_weights": jnp.log(share), "bandwidth": bandwidth}
        if (x.max(0) == x.min(0)).any():
            constant = feature((x.max(0) == x.min(0)).argmax())
            raise ValueError(
                Message("x is constant in ", constant, ": a KDE has no bandwidth for it")
            )
        rows, shares = _subsample(share, _POINTS)
        scaled = (x[rows] - mean) / deviation
        size = size_class(len(x), _SIZES_PER_OCTAVE)
        middle = x[rows[(scaled**2).sum(1).argmin()]]
        with np.errstate(divide="ignore"):
            log_weights = np.log(share)
        return {
            "points": _padded(
                x, size, middle
            ),  # padding in the middle keeps the mean near the data
            "log_weights": _padded(log_weights, size, -np.inf),
            "bandwidth": _bandwidth(scaled, shares, share, min(size, _POINTS)) * deviation,
        }

    def log_prob(self, params, x, y=None):
        weights = jax.nn.log_softmax(params["log_weights"])
        scale = 1 / params["bandwidth"]
        norm = jnp.log(jnp.abs(scale)).sum() - 0.5 * self.dim * LOG_2PI
        # squares of longer distances overflow, and so do their gradients
        near = (jnp.abs((x - params["points"][0]) * scale) < max_distance(x.dtype)).all()
        x = jnp.where(near, x, params["points"][0])
        # the factor 1/2 of the exponent goes into the scale; distances from the mean of the points
        # keep their digits where the data are far from the origin
        scale, centre = scale * 0.5**0.5, params["points"].mean(0)
        tile = _TILE if self.dim > 4 else 2 * _TILE
        tiles = _tiles((params["points"] - centre) * scale, weights, tile)
        x = (x - centre) * scale
        if self.dim <= _SCALARS:
            x = list(x)  # outside the scans, inside of which rows would be read by columns

        def exponents(tile):
            # scalars, one point at a time, are ten times as fast as arrays of a tile's points
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

    def rescale(self, params, shift, scale):
        points = shift + scale * params["points"]
        return {**params, "points": points, "bandwidth": scale * params["bandwidth"]}

    def given(self, params, features, values):
        part, part_params = self.marginal(params, others(self, features))
        _, given = self.marginal(params, features)
        square = (((values - given["points"]) / given["bandwidth"]) ** 2).sum(1)
        return part, {**part_params, "log_weights": params["log_weights"] - 0.5 * square}

    def _degrees_of_freedom(self, params):
        raise NotImplementedError(f"{self} has no degrees of freedom: its params are the events")


def _squares(x, point):
    """(x_j - point_j)^2 for each feature, as an array or a list of scalars."""
    if len(point) > _SCALARS:
        return (x - point) ** 2
    return [(x[j] - point[j]) ** 2 for j in range(len(point))]


def _total(squares):
    return sum(squares) if isinstance(squares, list) else squares.sum()


def _lowest(dtype):
    return jnp.asarray(jnp.finfo(dtype).min / 4, dtype)  # finite, since -inf - -inf is NaN


def _tiles(points, weights, tile):
    """Points (n, dim) and log weights in tiles; points added as padding have log weight -inf."""
    tile = min(tile, len(points))
    padding = -len(points) % tile
    points = jnp.pad(points, ((0, padding), (0, 0)))
    weights = jnp.pad(weights, (0, padding), constant_values=-jnp.inf)
    return points.reshape(-1, tile, points.shape[1]), weights.reshape(-1, tile)


def _drawn(share, count):
    """Indices of ``count`` rows in random order, drawn by their shares with stratified sampling.

    One row is drawn from each of ``count`` strata of equal total share.
    """
    rng, xp = fixed.generator(), namespace(share)
    positions = rng.permutation((np.arange(count) + rng.random(count)) / count)
    cdf = xp.cumsum(share)
    return xp.searchsorted(cdf, cdf[-1] * positions.astype(cdf.dtype), side="right").clip(
        max=len(share) - 1
    )


def _subsample(share, count):
    """A subsample of at most ``count`` rows: indices in random order, and the rows' shares."""
    if np.count_nonzero(share) <= count:
        rows = fixed.generator().permutation(np.flatnonzero(share))
        return rows, share[rows]
    rows, first, times = np.unique(_drawn(share, count), return_index=True, return_counts=True)
    order = np.argsort(first)
    return rows[order], times[order] / count


def _padded(array, size, value):
    """The array, extended to ``size`` rows with ``value``."""
    out = np.empty((size, *array.shape[1:]), array.dtype)
    out[: len(array)], out[len(array) :] = array, value
    return out


def _in_blocks(size):
    """The number of events to compare with ``size`` points: whole blocks, or less than one."""
    return size if size < _BLOCK else min(-(-size // _BLOCK) * _BLOCK, _EVENTS)


def _bandwidth(points, weights, share, size):
    """Bandwidths (dim,) for all standardised events, whose shares are (n,); computed on the host.

    points (m, dim) with weights (m,) are all of those events or a subsample; they are padded to
    ``size`` rows.
    """
    events, event_weights = _subsample(weights, _EVENTS)
    count = _in_blocks(size)
    arrays = (
        *(_padded(v, count, 0) for v in (points[events], event_weights)),
        *(_padded(v, size, 0) for v in (points, weights)),
    )
    bandwidth = np.asarray(_leave_one_out(*(jnp.asarray(v, float) for v in arrays)), np.float64)
    if np.count_nonzero(share) <= len(points):
        return bandwidth
    _, distinct = np.unique(points, axis=0, return_inverse=True)
    merged = (np.bincount(distinct.ravel(), weights) ** 2).sum()  # 1 / effective number of points
    copies = merged - (weights**2).sum()  # due to copies; taken to be the same among all events
    return bandwidth * ((copies + (share**2).sum()) / merged) ** (1 / (points.shape[1] + 4))


@jax.jit
def _leave_one_out(events, event_weights, x, weights):
    """Bandwidths (dim,) that maximise the leave-one-out likelihood of standardised events.

    Computed by EM, which is slow far from the maximum and is accelerated by squared extrapolation
    (Varadhan and Roland 2008, "Simple and globally convergent methods for accelerating any EM
    algorithm", S3).

    Args:
      events: (k, dim), in random order; points equal to an event are left out for it.
      event_weights: (k,).
      x: points (m, dim).
      weights: (m,).
    """
    dim = x.shape[1]
    silverman = (4 / (dim + 2) * (weights**2).sum() / weights.sum() ** 2) ** (1 / (dim + 4))
    log_start = jnp.broadcast_to(jnp.log(silverman), (dim,))
    log_lowest = jnp.log(silverman / 20)
    tiles = _tiles(x, jnp.log(weights), _SHORT_TILE)
    block = min(len(events), _BLOCK)
    events, event_weights = events.reshape(-1, block, dim), event_weights.reshape(-1, block)

    def maximise(count, log_bandwidth):
        """Log bandwidths that maximise the likelihood of the first ``count`` blocks of events."""

        def em(u):
            def add(i, carry):
                total, weight = carry
                squares = jax.vmap(lambda row: _mean_squares(row, jnp.exp(u), *tiles))(events[i])
                total = total + (event_weights[i][:, None] * squares).sum(0)
                return total, weight + event_weights[i].sum()

            total, weight = lax.fori_loop(0, count, add, (jnp.zeros_like(u), jnp.zeros_like(u[0])))
            return jnp.maximum(u + 0.5 * jnp.log(total / weight), log_lowest)

        def extrapolate(path):
            """Log bandwidths extrapolated from the first two steps."""
            u, first = path[0], path[1] - path[0]
            second = path[2] - u - 2 * first
            length = jnp.sqrt((first**2).sum() / jnp.maximum((second**2).sum(), 1e-20))
            length = jnp.clip(length, 1, 16)
            return jnp.maximum(u + 2 * length * first + length**2 * second, log_lowest)

        def step(i, path):  # the body of a loop, so that ``em`` is compiled once, not three times
            return path.at[i + 1].set(em(jnp.where(i == 2, extrapolate(path), path[i])))

        def cycle(carry):
            cycles, u, _ = carry
            path = lax.fori_loop(0, 3, step, jnp.broadcast_to(u, (4, dim)))
            return cycles + 1, path[3], jnp.abs(path[1] - u).max()

        def unfinished(carry):
            return (carry[0] < _CYCLES) & (carry[2] > _TOLERANCE)

        start = 0, log_bandwidth, jnp.asarray(jnp.inf, x.dtype)
        return lax.while_loop(unfinished, cycle, start)[1]

    # the first block alone leads most of the way, at a small part of the cost
    blocks = jnp.array([1, len(events)])
    return jnp.exp(lax.fori_loop(0, 2, lambda i, u: maximise(blocks[i], u), log_start))


def _mean_squares(x, bandwidth, points, weights):
    """Squared distances from x to the points, (dim,), in bandwidths, averaged by the kernels at x.

    Points equal to x are left out. EM multiplies bandwidth_j^2 by the mean of this over events.
    """

    start = _lowest(x.dtype), jnp.zeros((), x.dtype), jnp.zeros_like(x)
    precision = 1 / bandwidth**2
    scale = precision / 2
    if len(x) <= _SCALARS:
        # outside the scan, inside of which rows would be read by columns
        x, scale = list(x), list(scale)

    def half_distance(squares):
        # scaling after the difference makes the distance of a copy exactly 0
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
