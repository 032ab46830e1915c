"""Monotonic rational-quadratic splines: Durkan et al. 2019, "Neural spline flows", equations 4 - 8.

The functions work elementwise on x of any shape, with the numbers that shape a spline on a leading
axis. On the real line a spline bends [-REACH, REACH] and is the identity beyond. On an interval it
maps [-REACH, REACH] onto itself with any slope at the ends, and on a circle with equal slopes there
and a turn before (Rezende et al. 2020, "Normalizing flows on tori and spheres").
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.core.promotion import standard_promotion

REACH = 4.0
_LEAST_BIN = 1e-3  # of a bin's width and height, as a share of the whole
_LEAST_SLOPE = 1e-3
_LARGEST = 30.0  # of a logit, whose exponential would overflow far beyond
_UNIT = float(np.log(np.expm1(1 - _LEAST_SLOPE)))  # logit of slope 1


class Kind(NamedTuple):
    """Where each feature lives: masks of the leading axis of x."""

    bounded: jax.Array | np.ndarray  # on an interval or a circle
    circular: jax.Array | np.ndarray


def numbers(bins: int, bounded: bool) -> int:
    """How many numbers shape a spline: more where a feature may be bounded."""
    return 3 * bins + 2 if bounded else 3 * bins - 1


def rows(bins: int, bounded: bool) -> int:
    """How many rows hold them: of real features the last is 0, so that each bin has three."""
    return 3 * bins + 2 if bounded else 3 * bins


def forward(u, x, kind: Kind | None = None):
    """Values and log slopes of the splines at x.

    Args:
      u: (rows, *x.shape): of each bin its size along x and y and the slope at its right end, then,
        where a feature may be bounded, the slope at the left end of all and the turn of a circle.
      x: where; bounded features within [-REACH, REACH].
      kind: None where all features are real.
    """
    kind = _like(kind, x)
    if kind is not None:
        x = jnp.where(kind.circular, wrap(x + u[-1]), x)
    start, size, slopes = _bin_of(u, jnp.clip(x, -REACH, REACH), 0, kind)
    inverse_size = _reciprocal(size[0])
    share = _within((x - start[0]) * inverse_size)
    y, log_slope = _in_bin(share, size[1] * inverse_size, start, size, slopes)
    inside = _inside(x, kind)
    return jnp.where(inside, y, x), jnp.where(inside, log_slope, 0)


def inverse(u, y, kind: Kind | None = None):
    """x with ``forward(u, x) = y``, and the log slopes of the inverse there."""
    kind = _like(kind, y)
    within = jnp.clip(y, -REACH, REACH)
    start, size, slopes = _bin_of(u, within, 1, kind)
    slope, rise = size[1] / size[0], within - start[1]
    more = slopes[0] + slopes[1] - 2 * slope
    # from the end of the bin near which the quadratic's root is no difference of like numbers
    left = slopes[0] - slopes[1] >= (2 * rise / size[1] - 1) * more
    rise, first = jnp.where(left, rise, size[1] - rise), jnp.where(left, *slopes)
    b = size[1] * first - rise * more
    a = size[1] * (slope - first) + rise * more
    root = jnp.sqrt(jnp.maximum(b * b + 4 * a * slope * rise, jnp.finfo(y.dtype).tiny))
    share = _within(2 * slope * rise / (b + root))
    share = jnp.where(left, share, 1 - share)
    _, log_slope = _in_bin(share, slope, start, size, slopes)
    inside = _inside(y, kind)
    x = jnp.where(inside, start[0] + share * size[0], y)
    if kind is not None:
        x = jnp.where(kind.circular, wrap(x - u[-1]), x)
    return x, jnp.where(inside, -log_slope, 0)


def _inside(x, kind):
    inside = (x > -REACH) & (x < REACH)
    return inside if kind is None else inside | kind.bounded


def _like(kind, x):
    """The masks with the axes of x."""
    return kind and Kind(*(jnp.reshape(v, (-1, *[1] * (x.ndim - 1))) for v in kind))


def wrap(x):
    """Coordinates of a circle brought back to [-REACH, REACH)."""
    return x - 2 * REACH * jnp.floor((x + REACH) / (2 * REACH))


def _bin_of(u, value, axis, kind):
    """The bin that holds ``value`` along x (axis 0) or y (1).

    Returns: where it starts and how large it is along x and y, and the slopes at its two ends.
    """
    bins = len(u) // 3
    table = u[: 3 * bins].reshape(bins, 3, *u.shape[1:])
    before = _sums_before(_sizes(lax.stop_gradient(table[:, :2])))[:, axis]
    least = np.asarray(2 * REACH * _LEAST_BIN, u.dtype)
    rest = np.asarray(2 * REACH * (1 - bins * _LEAST_BIN), u.dtype)
    share = rest / before[-1]
    square = jnp.zeros_like(value)
    for i in range(1, bins):  # the first so many odd numbers
        square += jnp.where(value >= before[i] * share + (i * least - REACH), 2 * i - 1, 0)
    # XLA would compute the sum again for each of its readers, but not a root; that of an
    # accelerator may fall short of a whole number
    index = jnp.sqrt(square + 0.5).astype(jnp.int32)
    *shares, left, right = _read(table, index)
    place = index.astype(u.dtype) * least - REACH
    start = [below * rest + place for below in shares[:2]]
    size = [own * rest + least for own in shares[2:]]
    first, last = index == 0, index == bins - 1
    if kind is None:
        left = jnp.where(first, 1, left)
        right = jnp.where(last, 1, right)
    else:
        end = _slope(u[-2])
        left = jnp.where(first, jnp.where(kind.bounded, end, 1), left)
        right = jnp.where(last & ~kind.bounded, 1, right)
        right = jnp.where(last & kind.circular, end, right)
    return start, size, [left, right]


def _in_bin(share, slope, start, size, slopes):
    """Value and log slope at a share of the bin, whose mean slope is given."""
    both = share * (1 - share)
    below = _reciprocal(slope + (slopes[0] + slopes[1] - 2 * slope) * both)
    y = start[1] + size[1] * (slope * share * share + slopes[0] * both) * below
    above = slopes[1] * share * share + 2 * slope * both + slopes[0] * (1 - share) ** 2
    return y, jnp.log((slope * below) ** 2 * above)


def _within(share):
    """A share of a bin, at most rounded beyond it; at its ends the gradient stays whole."""
    return share + lax.stop_gradient(jnp.clip(share, 0, 1) - share)


@jax.custom_jvp
def _reciprocal(x):
    """1 / x, whose gradient takes no further divisions: XLA makes a kernel of each."""
    return 1 / x


@_reciprocal.defjvp
@standard_promotion
def _reciprocal_jvp(primals, tangents):
    y = _reciprocal(*primals)
    return y, -y * y * tangents[0]


def _slope(logit):
    """A slope, which is 1 for a logit of 0: softplus in fewer steps than JAX's own."""
    x = logit + _UNIT
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x))) + _LEAST_SLOPE


def _sizes(logits):
    """Sizes of bins along x and y before they are scaled."""
    return jnp.exp(jnp.clip(logits, -_LARGEST, _LARGEST))


def _sums_before(sizes):
    """Sums (bins + 1, 2, ...) of the sizes before each bin; the last is of all.

    By a product of matrices, which keeps XLA from computing the sizes again for every reader.
    """
    upto = np.tri(len(sizes) + 1, len(sizes), -1, sizes.dtype)
    return jnp.einsum("kj,j...->k...", upto, sizes, precision=lax.Precision.HIGHEST)


@jax.custom_jvp
def _read(table, index):
    """What a table (bins, 3, ...) says of a bin.

    Returns: shares of all sizes along x and along y that lie before it, its own two shares; and the
    slopes at the right end of the bin before and at its own.
    """
    sizes = _sizes(table[:, :2])
    before = _sums_before(sizes)
    total = [before[-1, i] for i in (0, 1)]
    below = [_pick(before[:-1, i], index) / total[i] for i in (0, 1)]
    own = [_pick(sizes[:, i], index) / total[i] for i in (0, 1)]
    slopes = [_slope(_pick(table[:, 2], i)) for i in (index - 1, index)]
    return *below, *own, *slopes


@_read.defjvp
@standard_promotion
def _read_jvp(primals, tangents):
    # Its transpose is one pass over the table, where that of picking after summing is ten. Sums are
    # divided at once: so a division ends what the transpose computes for each x, and XLA does not
    # compute it again for each number of the table, as it does with what is cheap.
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
    below, own, whole = map(columns, (place < index, place == index, True))
    place = place[:, 0]
    ends = [summed(place == i, tangents[0][:, 2]) for i in (index - 1, index)]
    whole = [whole[i] / total[i] for i in (0, 1)]
    parts = [near[i] / total[i] for near in (below, own) for i in (0, 1)]
    shares = [parts[i] - out[i] * whole[i % 2] for i in range(4)]
    logits = [_pick(table[:, 2], i) + _UNIT for i in (index - 1, index)]
    steepness = [1 + jnp.exp(jnp.minimum(-x, _LARGEST)) for x in logits]
    slopes = [v / s for v, s in zip(ends, steepness, strict=True)]
    return out, (*shares, *slopes)


def _pick(table, index):
    """table[index] elementwise, its ends beyond; a gather takes far longer."""
    out = table[0]
    for i in range(1, len(table)):
        out = jnp.where(index >= i, table[i], out)
    return out
