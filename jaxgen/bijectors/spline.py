"""Monotonic rational-quadratic splines: Durkan et al. 2019, "Neural spline flows", equations 4 - 8.

The functions work elementwise on x of any shape; the params of a spline are on a leading axis. On
the real line a spline maps [-REACH, REACH] onto itself and is the identity elsewhere. On an
interval the slopes at the ends are free. On a circle they are equal, and the spline follows a
rotation (Rezende et al. 2020, "Normalizing flows on tori and spheres").
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.core.promotion import standard_promotion

REACH = 4.0
_LEAST_BIN = 1e-3  # smallest width and height of a bin, as a share of the whole
_LEAST_SLOPE = 1e-3
_LARGEST = 30.0  # limit of logits, whose exponentials could overflow
_UNIT = float(np.log(np.expm1(1 - _LEAST_SLOPE)))  # logit of slope 1


class Topology(NamedTuple):
    """Whether each feature is on the real line, an interval or a circle.

    Attributes:
      bounded: (features,) bool, on an interval or a circle.
      circular: (features,) bool, on a circle.
    """

    bounded: Any
    circular: Any


def param_count(bins: int, bounded: bool) -> int:
    """The number of params of a spline, which is larger if features may be bounded."""
    return 3 * bins + 2 if bounded else 3 * bins - 1


def param_rows(bins: int, bounded: bool) -> int:
    """The number of rows of ``u``; for real features the last row is 0, so that a bin has three."""
    return 3 * bins + 2 if bounded else 3 * bins


def forward(
    u: jax.Array, x: jax.Array, topology: Topology | None = None
) -> tuple[jax.Array, jax.Array]:
    """Values y and log slopes of splines at x.

    Args:
      u: params, (param_rows, *x.shape): for each bin the logits of its width, of its height and of
        the slope at its right end; then, if features may be bounded, the logit of the slope at the
        left end of the spline, and the rotation of a circle.
      x: (features, ...); bounded features in [-REACH, REACH].
      topology: None if all features are real.
    """
    topology = _like(topology, x)
    if topology is not None:
        x = jnp.where(topology.circular, wrap(x + u[-1]), x)
    start, size, slopes = _bin_of(u, jnp.clip(x, -REACH, REACH), 0, topology)
    inverse_size = _reciprocal(size[0])
    share = _within((x - start[0]) * inverse_size)
    y, log_slope = _in_bin(share, size[1] * inverse_size, start, size, slopes)
    inside = _inside(x, topology)
    return jnp.where(inside, y, x), jnp.where(inside, log_slope, 0)


def inverse(
    u: jax.Array, y: jax.Array, topology: Topology | None = None
) -> tuple[jax.Array, jax.Array]:
    """The x for which ``forward`` gives y, and the log slopes of the inverse at y."""
    topology = _like(topology, y)
    within = jnp.clip(y, -REACH, REACH)
    start, size, slopes = _bin_of(u, within, 1, topology)
    slope, rise = size[1] / size[0], within - start[1]
    more = slopes[0] + slopes[1] - 2 * slope
    # solve from the end of the bin at which the root of the quadratic does not cancel
    left = slopes[0] - slopes[1] >= (2 * rise / size[1] - 1) * more
    rise, first = jnp.where(left, rise, size[1] - rise), jnp.where(left, *slopes)
    b = size[1] * first - rise * more
    a = size[1] * (slope - first) + rise * more
    root = jnp.sqrt(jnp.maximum(b * b + 4 * a * slope * rise, jnp.finfo(y.dtype).tiny))
    share = _within(2 * slope * rise / (b + root))
    share = jnp.where(left, share, 1 - share)
    _, log_slope = _in_bin(share, slope, start, size, slopes)
    inside = _inside(y, topology)
    x = jnp.where(inside, start[0] + share * size[0], y)
    if topology is not None:
        x = jnp.where(topology.circular, wrap(x - u[-1]), x)
    return x, jnp.where(inside, -log_slope, 0)


def _inside(x, topology):
    inside = (x > -REACH) & (x < REACH)
    return inside if topology is None else inside | topology.bounded


def _like(topology, x):
    """The topology with as many axes as x."""
    return topology and Topology(*(jnp.reshape(v, (-1, *[1] * (x.ndim - 1))) for v in topology))


def wrap(x: jax.Array) -> jax.Array:
    """Coordinates of a circle, moved to [-REACH, REACH) by full turns."""
    return x - 2 * REACH * jnp.floor((x + REACH) / (2 * REACH))


def _bin_of(u, value, axis, topology):
    """The bin that contains ``value`` along x (axis 0) or y (axis 1).

    Returns:
      Its start and its size, each along x and along y, and the slopes at its two ends.
    """
    bins = len(u) // 3
    table = u[: 3 * bins].reshape(bins, 3, *u.shape[1:])
    before = _sums_before(_sizes(lax.stop_gradient(table[:, :2])))[:, axis]
    least = np.asarray(2 * REACH * _LEAST_BIN, u.dtype)
    rest = np.asarray(2 * REACH * (1 - bins * _LEAST_BIN), u.dtype)
    share = rest / before[-1]
    square = jnp.zeros_like(value)
    for i in range(1, bins):  # index^2 is the sum of the first ``index`` odd numbers
        square += jnp.where(value >= before[i] * share + (i * least - REACH), 2 * i - 1, 0)
    # XLA recomputes shared elementwise work in every consumer unless it ends in a division or a
    # square root; the root on an accelerator may be slightly below a whole number
    index = jnp.sqrt(square + 0.5).astype(jnp.int32)
    *shares, left, right = _read(table, index)
    place = index.astype(u.dtype) * least - REACH
    start = [below * rest + place for below in shares[:2]]
    size = [within * rest + least for within in shares[2:]]
    first, last = index == 0, index == bins - 1
    if topology is None:
        left = jnp.where(first, 1, left)
        right = jnp.where(last, 1, right)
    else:
        end = _slope(u[-2])
        left = jnp.where(first, jnp.where(topology.bounded, end, 1), left)
        right = jnp.where(last & ~topology.bounded, 1, right)
        right = jnp.where(last & topology.circular, end, right)
    return start, size, [left, right]


def _in_bin(share, slope, start, size, slopes):
    """The value and the log slope at a share of the bin; ``slope`` is the bin's mean slope."""
    both = share * (1 - share)
    below = _reciprocal(slope + (slopes[0] + slopes[1] - 2 * slope) * both)
    y = start[1] + size[1] * (slope * share * share + slopes[0] * both) * below
    above = slopes[1] * share * share + 2 * slope * both + slopes[0] * (1 - share) ** 2
    return y, jnp.log((slope * below) ** 2 * above)


def _within(share):
    """A share, which rounding may put outside [0, 1], clipped without a change of its gradient."""
    return share + lax.stop_gradient(jnp.clip(share, 0, 1) - share)


@jax.custom_jvp
def _reciprocal(x):
    """1 / x, with a gradient without divisions, for each of which XLA would make a kernel."""
    return 1 / x


@_reciprocal.defjvp
@standard_promotion
def _reciprocal_jvp(primals, tangents):
    y = _reciprocal(*primals)
    return y, -y * y * tangents[0]


def _slope(logit):
    """The slope of a logit, 1 for 0: a softplus with fewer operations than ``jax.nn.softplus``."""
    x = logit + _UNIT
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x))) + _LEAST_SLOPE


def _sizes(logits):
    """Sizes of bins along x and y, up to a common factor."""
    return jnp.exp(jnp.clip(logits, -_LARGEST, _LARGEST))


def _sums_before(sizes):
    """Sums (bins + 1, 2, ...) of the sizes before each bin; the last is the sum of all.

    A matrix product, so that XLA does not recompute the sizes in every consumer.
    """
    upto = np.tri(len(sizes) + 1, len(sizes), -1, sizes.dtype)
    return jnp.einsum("kj,j...->k...", upto, sizes, precision=lax.Precision.HIGHEST)


@jax.custom_jvp
def _read(table, index):
    """The entries of a table (bins, 3, ...) for one bin.

    Returns:
      The shares of the total size before the bin, along x and along y; the bin's two shares; the
      slopes at the right end of the previous bin and of the bin.
    """
    sizes = _sizes(table[:, :2])
    before = _sums_before(sizes)
    total = [before[-1, i] for i in (0, 1)]
    below = [_pick(before[:-1, i], index) / total[i] for i in (0, 1)]
    within = [_pick(sizes[:, i], index) / total[i] for i in (0, 1)]
    slopes = [_slope(_pick(table[:, 2], i)) for i in (index - 1, index)]
    return *below, *within, *slopes


@_read.defjvp
@standard_promotion
def _read_jvp(primals, tangents):
    # The transpose of this rule is one pass over the table; that of the code of _read is ten. Sums
    # are divided at once, so that what the transpose computes for each x ends in a division: XLA
    # would recompute cheaper work for each entry of the table.
    table, index = primals
    logits = table[:, :2]
    sizes = _sizes(logits)
    total = _sums_before(sizes)[-1]
    steep = jnp.where(jnp.abs(logits) < _LARGEST, sizes, 0) * tangents[0][:, :2]

    def summed(near, change):
        return jnp.where(near, change, 0).sum(0)

    def columns(near):
        return [jnp.squeeze(v, 0) for v in lax.split(summed(near, steep), (1, 1))]

    out = _read(table, index)
    place = lax.broadcasted_iota(index.dtype, logits.shape, 0)
    below, within, whole = map(columns, (place < index, place == index, True))
    place = place[:, 0]
    ends = [summed(place == i, tangents[0][:, 2]) for i in (index - 1, index)]
    whole = [whole[i] / total[i] for i in (0, 1)]
    parts = [part[i] / total[i] for part in (below, within) for i in (0, 1)]
    shares = [parts[i] - out[i] * whole[i % 2] for i in range(4)]
    logits = [_pick(table[:, 2], i) + _UNIT for i in (index - 1, index)]
    steepness = [1 + jnp.exp(jnp.minimum(-x, _LARGEST)) for x in logits]
    slopes = [v / s for v, s in zip(ends, steepness, strict=True)]
    return out, (*shares, *slopes)


def _pick(table, index):
    """table[index] elementwise, with the index clipped; a gather is far slower."""
    out = table[0]
    for i in range(1, len(table)):
        out = jnp.where(index >= i, table[i], out)
    return out
