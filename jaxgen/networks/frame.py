"""The standard coordinates in which flows and networks compute.

Within a flow a real or positive feature has mean 0 and standard deviation 1, and its base
distribution is the standard normal. A feature on an interval or a circle fills [-REACH, REACH], and
its base distribution is uniform there. Arrays have features on the first axis and, if there are
any, rows on the last axis (see ``lanes``).
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from jaxgen.bijectors.spline import REACH, Topology
from jaxgen.core.families import namespace
from jaxgen.core.random import Normal, Uniform
from jaxgen.core.spec import Params
from jaxgen.networks.domains import (
    Circle,
    Domain,
    Interval,
    Levels,
    Positive,
    Real,
    constraint,
    each,
)

FURTHEST = 1e15  # standard deviations beyond which a density is zero; its square fits in float32
FREQUENCIES = 1, 2, 4, 8  # periods over the range of a bounded feature
_BOUNDED = (Interval, Circle)
_CLIP = 32.0  # standard deviations at which the inputs of networks are clipped
_LOG_2PI = math.log(2 * math.pi)


class Frame:
    """The map between raw features and standard coordinates.

    Args:
      domains: the domain of each feature.
    """

    def __init__(self, domains: tuple[Domain, ...]):
        self.domains = domains
        self.positive = np.array([isinstance(d, Positive) for d in domains], bool)
        self.bounded = np.array([isinstance(d, _BOUNDED) for d in domains], bool)
        self.circular = np.array([isinstance(d, Circle) for d in domains], bool)

    @property
    def topology(self) -> Topology | None:
        """Which features are bounded and which are on circles; None if no feature is bounded."""
        return Topology(self.bounded, self.circular) if self.bounded.any() else None

    def channels(self, frequencies: tuple[int, ...] = FREQUENCIES) -> int:
        """The number of Fourier features of each feature, as ``fourier_features`` returns them."""
        return 1 + 2 * len(frequencies) if self.bounded.any() else 1

    def init(self, x: Any = None) -> Params:
        """``shift`` and ``scale`` of each feature, from raw data x (n, features) if given.

        Those of bounded features are not used: their standard coordinates follow from their ends.
        """
        if x is None:  # NumPy, since JAX would compile each operation
            z = np.zeros((1, len(self.domains)), jnp.result_type(float))
        else:
            xp = namespace(x)
            z = xp.where(self.positive, xp.log(xp.where(self.positive, x, 1)), x)
        xp = namespace(z)
        spread = xp.where(z.max(0) > z.min(0), z.std(0), 1.0)
        shift, scale = self._measures(z.mean(0), spread, xp)
        xp = jnp if x is None else xp
        return {"shift": xp.asarray(shift), "scale": xp.asarray(scale)}

    def _measures(self, shift: Any, scale: Any, xp: Any) -> Any:
        low, high = np.where(self.bounded, self._ends, 0)
        of_bounded = (low + high) / 2, (high - low) / (2 * REACH)
        cast = [v.astype(scale.dtype) for v in of_bounded]
        return (xp.where(self.bounded, a, b) for a, b in zip(cast, (shift, scale), strict=True))

    def enter(self, params: Params, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Standard coordinates of x, the log-determinant of the map, and whether x is possible.

        x is (features, ...); the log-determinant and the bool have the shape of the rows.
        """
        low, high = (_up(v, x) for v in self._ends)
        possible = jnp.where(_up(self.positive, x), x > 0, (x >= low) & (x <= high))
        t, z, scale = self.standard(params, x)
        log_det = -(jnp.where(_up(self.positive, x), z, 0) + jnp.log(scale)).sum(0)
        possible = possible & (jnp.abs(t) <= FURTHEST)
        t = jnp.where(possible, t, 0)
        if self.bounded.any():
            t = jnp.where(_up(self.bounded, x), jnp.clip(t, -REACH, REACH), t)
        return t, jnp.where(possible.all(0), log_det, 0), possible.all(0)

    def standard(self, params: Params, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Standard coordinates of any x; x, or its logarithm if positive; and the scale."""
        measures = self._measures(params["shift"], params["scale"], jnp)
        shift, scale, positive = (_up(v, x) for v in (*measures, self.positive))
        z = jnp.where(positive, jnp.log(jnp.where(positive & (x > 0), x, 1)), x)
        return (z - shift) / scale, z, scale

    def leave(self, params: Params, t: jax.Array) -> jax.Array:
        """Raw features of standard coordinates, (features, ...)."""
        info = jnp.finfo(t.dtype)
        shift, scale = self._measures(params["shift"], params["scale"], jnp)
        x = _up(shift, t) + _up(scale, t) * t
        if self.positive.any():
            x = jnp.where(_up(self.positive, t), jnp.clip(jnp.exp(x), info.tiny, info.max), x)
        if self.bounded.any():
            low, high = (_up(v, t) for v in self._ends)
            x = jnp.clip(x, low, high)
        return x

    def noise(self) -> Any:
        """Noise leaves of one event: normal for real features, uniform for bounded ones."""
        count = int(self.bounded.sum())
        if count == 0:
            return Normal((len(self.domains),))
        if count == len(self.domains):
            return Uniform((count,))
        return Normal((len(self.domains) - count,)), Uniform((count,))

    def base(self, noise: Any) -> jax.Array:
        """The coordinates (features, ...) of noise under the base distribution of a flow."""
        if not self.bounded.any():
            return noise
        if self.bounded.all():
            return REACH * (2 * noise - 1)
        joined = jnp.concatenate([noise[0], REACH * (2 * noise[1] - 1)])
        return joined[self._places]

    def noise_of(self, z: jax.Array) -> Any:
        """The noise of coordinates; the inverse of ``base``."""
        if not self.bounded.any():
            return z
        if self.bounded.all():
            return (z / REACH + 1) / 2
        return z[np.flatnonzero(~self.bounded)], (z[np.flatnonzero(self.bounded)] / REACH + 1) / 2

    def log_base(self, z: jax.Array) -> jax.Array:
        """The log density of coordinates under the base distribution of a flow, in nats."""
        bounded = _up(self.bounded, z)
        near = jnp.abs(z) <= FURTHEST
        normal = -0.5 * jnp.where(near, z, 0) ** 2 - 0.5 * _LOG_2PI
        score = jnp.where(bounded, -math.log(2 * REACH), normal).sum(0)
        return jnp.where((near | bounded).all(0), score, -jnp.inf)

    @property
    def _ends(self) -> np.ndarray:
        """The lowest and highest values of each feature, (2, features)."""
        ends = [
            (d.low, d.high) if isinstance(d, _BOUNDED) else (-np.inf, np.inf) for d in self.domains
        ]
        return np.reshape(ends, (-1, 2)).T

    @property
    def _places(self) -> np.ndarray:
        order = np.concatenate([np.flatnonzero(~self.bounded), np.flatnonzero(self.bounded)])
        return np.argsort(order)


def fourier_features(
    z: jax.Array, topology: Topology | None = None, frequencies: tuple[int, ...] = FREQUENCIES
) -> jax.Array:
    """Inputs of a network for standard coordinates, (channels * features, ...).

    They are the coordinates, clipped; and, if some features are bounded, cosines and sines of the
    bounded ones. Circles have these alone, so that their inputs are periodic. Without high
    frequencies a network is slow to learn changes within a small part of the range.

    Args:
      z: standard coordinates, (features, ...).
      topology: as in ``Frame.topology``.
      frequencies: periods over [-REACH, REACH].

    Source: Tancik et al. 2020, "Fourier features let networks learn high frequency functions".
    """
    clipped = jnp.clip(z, -_CLIP, _CLIP)
    if topology is None:
        return clipped
    topology = Topology(*(_up(v, z) for v in topology))
    angles = [clipped * (frequency * math.pi / REACH) for frequency in frequencies]
    waves = [wave(angle) for angle in angles for wave in (jnp.cos, jnp.sin)]
    waves = [jnp.where(topology.bounded, wave, 0) for wave in waves]
    return jnp.concatenate([jnp.where(topology.circular, 0, clipped), *waves])


class Conditions:
    """The encoding of conditions y as inputs of a network.

    Numbers are encoded by ``fourier_features`` of their standard coordinates, levels one-hot.

    Args:
      shape: shape of y; None for no conditions.
      domain: the domain of each number in y, or one domain for all; None for real numbers.

    Raises:
      ValueError: the domain does not suit the shape; the message names the fields of a model.
    """

    def __init__(self, shape: tuple[int, ...] | None, domain: tuple[Domain, ...] | None):
        if shape is None and domain is not None:
            raise ValueError(f"y_domain must be None if y_shape is None; got {domain}")
        self._shape = shape
        self._domains = () if shape is None else each(domain, math.prod(shape), "y_domain")
        self._levels = [(i, d.count) for i, d in enumerate(self._domains) if isinstance(d, Levels)]
        self._numbers = [i for i, d in enumerate(self._domains) if not isinstance(d, Levels)]
        self._frame = Frame(tuple(self._domains[i] for i in self._numbers))

    @property
    def support(self) -> constraints.Constraint | None:
        """The NumPyro constraint of y; None if any number is allowed."""
        if self._shape is None or set(self._domains) <= {Real()}:
            return None
        return constraint(self._domains, self._shape)

    @property
    def size(self) -> int:
        """The number of inputs that encode one condition."""
        return self._frame.channels() * len(self._numbers) + sum(self.levels)

    @property
    def levels(self) -> tuple[int, ...]:
        """The number of categories of each ``Levels`` in y; their inputs are the last ones."""
        return tuple(count for _, count in self._levels)

    def init(self, y: Any = None) -> Params:
        """``shift`` and ``scale`` of each number in y, from a batch y (n, *shape) if given.

        Those of levels are not used.
        """
        y = y if y is None else y.reshape(len(y), -1)
        return Frame(tuple(Real() if isinstance(d, Levels) else d for d in self._domains)).init(y)

    def encode(self, params: Params | None, y: Any, like: jax.Array) -> jax.Array:
        """The inputs (size, ...) that encode y, with the rows and the dtype of ``like``.

        Where a number in y is NaN, so are its inputs. Without conditions params are None.
        """
        if params is None:
            return jnp.zeros((0, *like.shape[1:]), like.dtype)
        y = y.reshape(-1, *like.shape[1:])
        of_numbers = {name: self._of_numbers(v) for name, v in params.items()}
        numbers = self._of_numbers(y).astype(like.dtype)
        z = jnp.where(jnp.isnan(numbers), jnp.nan, self._frame.standard(of_numbers, numbers)[0])
        if self._frame.bounded.any():
            z = jnp.where(_up(self._frame.bounded, z), jnp.clip(z, -REACH, REACH), z)
        one_hot = [y[i] == _up(np.arange(count), y) for i, count in self._levels]
        one_hot = [v.astype(like.dtype) for v in one_hot]
        if jnp.issubdtype(y.dtype, jnp.floating):  # NaN is an unknown level
            pairs = zip(one_hot, self._levels, strict=True)
            one_hot = [jnp.where(jnp.isnan(y[i]), jnp.nan, v) for v, (i, _) in pairs]
        return jnp.concatenate([fourier_features(z, self._frame.topology), *one_hot])

    def encode_rows(self, params: Params, y: Any, dtype: Any) -> jax.Array:
        """The inputs (*rows, size) that encode conditions y (*rows, *shape), with one axis of rows
        at most."""
        rows = y.shape[: y.ndim - len(self._shape or ())]
        y = jnp.moveaxis(y, 0, -1) if rows else y
        return jnp.moveaxis(self.encode(params, y, jnp.zeros((0, *rows), dtype)), 0, -1)

    def _of_numbers(self, v: Any) -> Any:
        return v[np.array(self._numbers, int)] if self._levels else v


def _up(v: Any, x: jax.Array) -> jax.Array:
    """Values of features (features,) with as many axes as x (features, ...)."""
    v = jnp.asarray(v) if v.dtype == bool else jnp.asarray(v, x.dtype)
    return v.reshape(-1, *[1] * (x.ndim - 1))
