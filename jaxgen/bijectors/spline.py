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

REACH = 4.0
_LEAST_BIN = 1e-3  # of a bin's width and height, as a share of the whole
_LEAST_SLOPE = 1e-3
_LARGEST = 30.0  # of a logit, whose exponential would overflow far beyond
_UNIT = float(np.log(np.expm1(1 - _LEAST_SLOPE)))  # logit of slope 1


class Kind(NamedTuple):
    """Where each feature lives: masks of the leading axis of x."""

    bounded: jax.Array  # on an interval or a circle
    circular: jax.Array


def numbers(bins: int, bounded: bool) -> int:
    """How many numbers shape a spline: more where a feature may be bounded."""
    return 3 * bins + 2 if bounded else 3 * bins - 1


def forward(u, x, kind: Kind | None = None):
    """Values and log slopes of the splines at x.

    Args:
      u: (numbers, *x.shape).
      x: where; bounded features within [-REACH, REACH].
      kind: None where all features are real.
    """
    kind = _like(kind, x)
    if kind is not None:
        x = jnp.where(kind.circular, wrap(x + u[-1]), x)
    start, size, slopes = _bin_of(u, jnp.clip(x, -REACH, REACH), 0, kind)
    share = jnp.clip((x - start[0]) / size[0], 0, 1)
    y, log_slope = _in_bin(share, start, size, slopes)
    inside = _inside(x, kind)
    return jnp.where(inside, y, x), jnp.where(inside, log_slope, 0)


def inverse(u, y, kind: Kind | None = None):
    """x with ``forward(u, x) = y``, and the log slopes of the inverse there."""
    kind = _like(kind, y)
    within = jnp.clip(y, -REACH, REACH)
    start, size, slopes = _bin_of(u, within, 1, kind)
    slope, rise = size[1] / size[0], within - start[1]
    bend = rise * (slopes[0] + slopes[1] - 2 * slope)
    a = size[1] * (slope - slopes[0]) + bend
    b = size[1] * slopes[0] - bend
    root = jnp.sqrt(jnp.maximum(b * b + 4 * a * slope * rise, jnp.finfo(y.dtype).tiny))
    share = jnp.clip(2 * slope * rise / (b + root), 0, 1)
    _, log_slope = _in_bin(share, start, size, slopes)
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
    bins = (len(u) + 1) // 3 if kind is None else (len(u) - 2) // 3
    logits = u[: 2 * bins].reshape(2, bins, *u.shape[1:])
    before = _sums_before(lax.stop_gradient(logits[axis]))
    least = np.asarray(2 * REACH * _LEAST_BIN, u.dtype)
    rest = np.asarray(2 * REACH * (1 - bins * _LEAST_BIN), u.dtype)
    share = rest / before[-1]
    index = jnp.zeros(value.shape, jnp.int32)
    for i in range(1, bins):
        index += (value >= before[i] * share + (i * least - REACH)).astype(jnp.int32)
    place, start, size = index.astype(u.dtype), [], []
    for i in (0, 1):
        low, own, total = _sums_around(logits[i], index)
        start.append(low * (rest / total) + (place * least - REACH))
        size.append(own * (rest / total) + least)
    first, last = index == 0, index == bins - 1
    if kind is None:
        inner = u[2 * bins :] if bins > 1 else jnp.zeros_like(u[:1])
        left = jnp.where(first, 0, _pick(inner, index - 1))
        right = jnp.where(last, 0, _pick(inner, index))
    else:
        left = jnp.where(first & ~kind.bounded, 0, _pick(u[2 * bins : -2], index))
        right = jnp.where(last & ~kind.bounded, 0, _pick(u[2 * bins + 1 : -1], index))
        right = jnp.where(last & kind.circular, u[2 * bins], right)
    return start, size, [_softplus(v + _UNIT) + _LEAST_SLOPE for v in (left, right)]


def _in_bin(share, start, size, slopes):
    """Value and log slope at a share of the bin."""
    slope, both = size[1] / size[0], share * (1 - share)
    below = slope + (slopes[0] + slopes[1] - 2 * slope) * both
    y = start[1] + size[1] * (slope * share * share + slopes[0] * both) / below
    above = slopes[1] * share * share + 2 * slope * both + slopes[0] * (1 - share) ** 2
    return y, jnp.log(slope * slope * above / (below * below))


def _softplus(x):
    """log(1 + exp(x)) in fewer steps than JAX's own."""
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


def _sizes(logits):
    return jnp.exp(jnp.clip(logits, -_LARGEST, _LARGEST))


def _sums_before(logits):
    """Sums of the sizes (bins, ...) before each bin; the last is of all.

    By a product of matrices, which keeps XLA from computing the sizes again for every reader.
    """
    upto = np.tri(len(logits) + 1, len(logits), -1, logits.dtype)
    sizes = _sizes(logits)
    return jnp.einsum("kj,j...->k...", upto, sizes, precision=lax.Precision.HIGHEST)


@jax.custom_jvp
def _sums_around(logits, index):
    """Sum of the sizes before a bin, its own size, and the sum of all."""
    before = _sums_before(logits)
    # its own from its logit, as a difference of sums would lose digits
    return _pick(before[:-1], index), _sizes(_pick(logits, index)), before[-1]


@_sums_around.defjvp
def _sums_around_jvp(primals, tangents):
    # its transpose is one elementwise pass, where that of picking after summing is ten
    logits, index = primals
    place = lax.broadcasted_iota(index.dtype, logits.shape, 0)
    change = jnp.where(jnp.abs(logits) < _LARGEST, _sizes(logits) * tangents[0], 0)
    low, own = (jnp.where(near, change, 0).sum(0) for near in (place < index, place == index))
    return _sums_around(logits, index), (low, own, change.sum(0))


@jax.custom_jvp
def _pick(table, index):
    """table[index] elementwise, its ends beyond; a gather and its gradient take far longer."""
    out = table[0]
    for i in range(1, len(table)):
        out = jnp.where(index >= i, table[i], out)
    return out


@_pick.defjvp
def _pick_jvp(primals, tangents):
    table, index = primals
    place = lax.broadcasted_iota(index.dtype, table.shape, 0)
    return _pick(table, index), jnp.where(place == index[None], tangents[0], 0).sum(0)
