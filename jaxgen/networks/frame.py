"""How a flow sees its data: raw features and conditions in, standard coordinates inside.

Within a flow a real or positive feature has mean 0 and deviation 1 and ends as a standard normal;
one on an interval or a circle is spread over [-REACH, REACH] and ends as uniform there. Functions
take features first and, if any, rows last (see ``lanes``).
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from jaxgen.bijectors.spline import REACH, Kind
from jaxgen.core.families import namespace
from jaxgen.core.random import Normal, Uniform
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

FURTHEST = 1e15  # deviations from the mean beyond which a density is zero: its square fits float32
_BOUNDED = (Interval, Circle)
WAVES = 1, 2, 4, 8  # over the range of a bounded feature
_SEEN = 32.0  # deviations beyond which a network is not told how far a feature is
_LOG_2PI = math.log(2 * math.pi)


class Frame:
    """Raw features and the standard coordinates of a flow over them.

    Args:
      domains: one a feature.
    """

    def __init__(self, domains: tuple[Domain, ...]):
        self.domains = domains
        self.positive = np.array([isinstance(d, Positive) for d in domains], bool)
        self.bounded = np.array([isinstance(d, _BOUNDED) for d in domains], bool)
        self.circular = np.array([isinstance(d, Circle) for d in domains], bool)

    @property
    def kind(self) -> Kind | None:
        """Which features are bounded, and on circles; None where all are real."""
        return Kind(self.bounded, self.circular) if self.bounded.any() else None

    def channels(self, waves: tuple[int, ...] = WAVES) -> int:
        """Numbers in which ``seen`` tells a feature."""
        return 1 + 2 * len(waves) if self.bounded.any() else 1

    def init(self, x=None) -> dict:
        """``shift`` and ``scale`` of each feature, from a batch of raw data when given.

        Those of bounded features stand there for completeness; their ends decide.
        """
        if x is None:  # NumPy, since each operation on its own would be compiled
            z = np.zeros((1, len(self.domains)), jnp.result_type(float))
        else:
            xp = namespace(x)
            z = xp.where(self.positive, xp.log(xp.where(self.positive, x, 1)), x)
        xp = namespace(z)
        spread = xp.where(z.max(0) > z.min(0), z.std(0), 1.0)
        shift, scale = self._measures(z.mean(0), spread, xp)
        xp = jnp if x is None else xp
        return {"shift": xp.asarray(shift), "scale": xp.asarray(scale)}

    def _measures(self, shift, scale, xp):
        low, high = np.where(self.bounded, self._ends, 0)
        own = (low + high) / 2, (high - low) / (2 * REACH)
        cast = [v.astype(scale.dtype) for v in own]
        return (xp.where(self.bounded, a, b) for a, b in zip(cast, (shift, scale), strict=True))

    def enter(self, params, x):
        """Standard coordinates, the log-determinant of the map there, and whether x is possible."""
        low, high = (_up(v, x) for v in self._ends)
        possible = jnp.where(_up(self.positive, x), x > 0, (x >= low) & (x <= high))
        t, z, scale = self.standard(params, x)
        log_det = -(jnp.where(_up(self.positive, x), z, 0) + jnp.log(scale)).sum(0)
        possible = possible & (jnp.abs(t) <= FURTHEST)
        t = jnp.where(possible, t, 0)
        if self.bounded.any():
            t = jnp.where(_up(self.bounded, x), jnp.clip(t, -REACH, REACH), t)
        return t, jnp.where(possible.all(0), log_det, 0), possible.all(0)

    def standard(self, params, x):
        """Standard coordinates of any x, its logarithms where it is positive, and the scale."""
        measures = self._measures(params["shift"], params["scale"], jnp)
        shift, scale, positive = (_up(v, x) for v in (*measures, self.positive))
        z = jnp.where(positive, jnp.log(jnp.where(positive & (x > 0), x, 1)), x)
        return (z - shift) / scale, z, scale

    def leave(self, params, t):
        """Raw features of standard coordinates."""
        info = jnp.finfo(t.dtype)
        shift, scale = self._measures(params["shift"], params["scale"], jnp)
        x = _up(shift, t) + _up(scale, t) * t
        if self.positive.any():
            x = jnp.where(_up(self.positive, t), jnp.clip(jnp.exp(x), info.tiny, info.max), x)
        if self.bounded.any():
            low, high = (_up(v, t) for v in self._ends)
            x = jnp.clip(x, low, high)
        return x

    def noise(self):
        """Noise of one event: what the features are at the far end of a flow."""
        count = int(self.bounded.sum())
        if count == 0:
            return Normal((len(self.domains),))
        if count == len(self.domains):
            return Uniform((count,))
        return Normal((len(self.domains) - count,)), Uniform((count,))

    def base(self, noise):
        """Coordinates at the far end of a flow, of noise."""
        if not self.bounded.any():
            return noise
        if self.bounded.all():
            return REACH * (2 * noise - 1)
        joined = jnp.concatenate([noise[0], REACH * (2 * noise[1] - 1)])
        return joined[self._places]

    def noise_of(self, z):
        """The inverse of ``base``."""
        if not self.bounded.any():
            return z
        if self.bounded.all():
            return (z / REACH + 1) / 2
        return z[np.flatnonzero(~self.bounded)], (z[np.flatnonzero(self.bounded)] / REACH + 1) / 2

    def log_base(self, z):
        """Log density at the far end of a flow, in nats."""
        bounded = _up(self.bounded, z)
        near = jnp.abs(z) <= FURTHEST
        normal = -0.5 * jnp.where(near, z, 0) ** 2 - 0.5 * _LOG_2PI
        score = jnp.where(bounded, -math.log(2 * REACH), normal).sum(0)
        return jnp.where((near | bounded).all(0), score, -jnp.inf)

    @property
    def _ends(self):
        """Lowest and highest values of each feature, (2, features)."""
        ends = [
            (d.low, d.high) if isinstance(d, _BOUNDED) else (-np.inf, np.inf) for d in self.domains
        ]
        return np.reshape(ends, (-1, 2)).T

    @property
    def _places(self):
        order = np.concatenate([np.flatnonzero(~self.bounded), np.flatnonzero(self.bounded)])
        return np.argsort(order)


def seen(z, kind: Kind | None = None, waves: tuple[int, ...] = WAVES):
    """Coordinates (features, ...) as a network is told them, (channels * features, ...).

    They do not go too far out. Where some are bounded, several numbers tell each of them: its
    value, but for a circle, and waves of the lengths that go so many times into its range. Without
    the short ones a network is slow to learn what changes within a small part of it: Tancik et al.
    2020, "Fourier features let networks learn high frequency functions".
    """
    near = jnp.clip(z, -_SEEN, _SEEN)
    if kind is None:
        return near
    kind = Kind(*(_up(v, z) for v in kind))
    angles = [near * (multiple * math.pi / REACH) for multiple in waves]
    told = [wave(angle) for angle in angles for wave in (jnp.cos, jnp.sin)]
    told = [jnp.where(kind.bounded, number, 0) for number in told]
    return jnp.concatenate([jnp.where(kind.circular, 0, near), *told])


class Conditions:
    """Raw conditions, and the numbers in which a network is told them.

    They are those of ``seen``; and for a level a 1 in its own place, 0 in those of the others.

    Args:
      shape: of y; None where there is none.
      domain: where each number in y lives; one for all, None for real numbers.

    Raises:
      ValueError: a domain that does not suit the shape, in terms of the fields of a model.
    """

    def __init__(self, shape: tuple[int, ...] | None, domain: tuple[Domain, ...] | None):
        if shape is None and domain is not None:
            raise ValueError(f"y_domain={domain} is that of no y: y_shape is None")
        self._shape = shape
        self._domains = () if shape is None else each(domain, math.prod(shape), "y_domain")
        self._levels = [(i, d.count) for i, d in enumerate(self._domains) if isinstance(d, Levels)]
        self._numbers = [i for i, d in enumerate(self._domains) if not isinstance(d, Levels)]
        self._frame = Frame(tuple(self._domains[i] for i in self._numbers))

    @property
    def support(self):
        """NumPyro constraint of y; None where any number will do."""
        if self._shape is None or set(self._domains) <= {Real()}:
            return None
        return constraint(self._domains, self._shape)

    @property
    def count(self) -> int:
        """How many numbers a network is told."""
        return self._frame.channels() * len(self._numbers) + sum(count for _, count in self._levels)

    def init(self, y=None) -> dict:
        """``shift`` and ``scale`` of each number in y, from a batch when given.

        Those of levels stand there for completeness.
        """
        y = y if y is None else y.reshape(len(y), -1)
        return Frame(tuple(Real() if isinstance(d, Levels) else d for d in self._domains)).init(y)

    def tell(self, params: dict | None, y, like):
        """What a network is told of y, (count, ...), with the rows and the dtype of ``like``."""
        if params is None:
            return jnp.zeros((0, *like.shape[1:]), like.dtype)
        y = y.reshape(-1, *like.shape[1:])
        own = {name: self._of_numbers(v) for name, v in params.items()}
        numbers = self._of_numbers(y).astype(like.dtype)
        z = jnp.where(jnp.isnan(numbers), jnp.nan, self._frame.standard(own, numbers)[0])
        if self._frame.bounded.any():
            z = jnp.where(_up(self._frame.bounded, z), jnp.clip(z, -REACH, REACH), z)
        told = [y[i] == _up(np.arange(count), y) for i, count in self._levels]
        told = [v.astype(like.dtype) for v in told]
        if jnp.issubdtype(y.dtype, jnp.floating):  # what is unknown makes all unknown
            pairs = zip(told, self._levels, strict=True)
            told = [jnp.where(jnp.isnan(y[i]), jnp.nan, v) for v, (i, _) in pairs]
        return jnp.concatenate([seen(z, self._frame.kind), *told])

    def _of_numbers(self, v):
        return v[np.array(self._numbers, int)] if self._levels else v


def _up(v, x):
    """A number for each feature, as an array that broadcasts to x."""
    v = jnp.asarray(v) if v.dtype == bool else jnp.asarray(v, x.dtype)
    return v.reshape(-1, *[1] * (x.ndim - 1))
