"""Likelihoods p(x|u) of independent numbers, such as pixels, with the parameters u of a decoder.

Arrays of events are (*rows, *shape). Outputs of a decoder are (numbers, *rows, *shape), with
``numbers`` parameters of each entry of the event first. ``frame`` has the ``shift`` and ``scale``
of each entry: continuous parameters are those of the standard coordinates (x - shift) / scale.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from jaxgen.core.families import namespace
from jaxgen.core.random import Normal, Uniform
from jaxgen.core.records import TOGETHER
from jaxgen.core.spec import Params
from jaxgen.models.heads import RANK, draw_level, log_prob_of_level
from jaxgen.networks.frame import FURTHEST

_MAX_LOG_SCALE = 7.0  # largest |log scale| of a logistic distribution
_LEAST_SHARE = 0.05  # least deviation of an entry at the start, as a share of that of all entries
_LOG_2PI = math.log(2 * math.pi)
_LOGISTIC = math.sqrt(3) / math.pi  # scale of a logistic distribution of deviation 1


class Start(NamedTuple):
    """What a likelihood takes from data before training.

    Attributes:
      frame: ``shift`` and ``scale`` of each entry, arrays of the event's shape.
      bias: outputs of the decoder at the start, (numbers, *shape).
      params: further params of the likelihood, a dict.
    """

    frame: Params
    bias: Any
    params: Params


class Likelihood:
    """Base of likelihoods of events of a shape; the docstring of the file states the arrays."""

    numbers: ClassVar[int] = 1  # outputs of the decoder for each entry of an event
    reparameterized: ClassVar[bool] = False
    rescalable: ClassVar[int] = False
    middle: ClassVar[float] = 0.5  # the median of the noise

    def __init__(self, shape: tuple[int, ...]):
        self.shape = shape

    @property
    def support(self) -> constraints.Constraint:
        """The NumPyro constraint of an event."""
        raise NotImplementedError

    def noise(self) -> Any:
        """The noise leaf that the draw of an event takes."""
        return Uniform(self.shape)

    def start(self, key: jax.Array, x: Any = None) -> Start:
        """Params at the start, from data x (n, *shape) if given."""
        raise NotImplementedError

    def is_possible(self, frame: Params, x: jax.Array) -> jax.Array:
        """Whether each entry of x has a positive density, bool."""
        raise NotImplementedError

    def log_prob(self, params: Params, frame: Params, u: jax.Array, x: jax.Array) -> jax.Array:
        """Log densities of the entries of a possible x, in nats."""
        raise NotImplementedError

    def draw(self, params: Params, frame: Params, u: jax.Array, noise: jax.Array) -> jax.Array:
        """Events that the noise makes."""
        raise NotImplementedError


class Gaussian(Likelihood):
    """Normal distributions with means of the decoder and learnt deviations.

    Pixels of an image share one deviation and one unit. Features of a vector have their own.
    """

    reparameterized = True
    middle = 0.0

    def __init__(self, shape: tuple[int, ...]):
        super().__init__(shape)
        self.rescalable = TOGETHER if len(shape) > 1 else True  # type: ignore[misc]

    @property
    def support(self):
        return constraints.independent(constraints.real, len(self.shape))

    def noise(self):
        return Normal(self.shape)

    def start(self, key, x=None):
        shape = () if len(self.shape) > 1 else self.shape
        frame = standard_frame(x, self.shape, together=len(self.shape) > 1)
        params = {"log_scale": jnp.zeros(shape)}
        return Start(frame, jnp.zeros((1, *self.shape)), params)

    def is_possible(self, frame, x):
        return jnp.abs(standard(frame, x)) <= FURTHEST

    def log_prob(self, params, frame, u, x):
        log_scale = params["log_scale"]
        z = (standard(frame, x) - u[0]) * jnp.exp(-log_scale)
        return -0.5 * z * z - log_scale - jnp.log(frame["scale"]) - 0.5 * _LOG_2PI

    def draw(self, params, frame, u, noise):
        z = u[0] + jnp.exp(params["log_scale"]) * noise
        return frame["shift"] + frame["scale"] * z


class _Levels(Likelihood):
    """Base of likelihoods of whole numbers 0 .. levels - 1."""

    def __init__(self, shape: tuple[int, ...], levels: int):
        super().__init__(shape)
        self.levels = levels

    @property
    def support(self):
        whole = constraints.integer_interval(0, self.levels - 1)
        return constraints.independent(whole, len(self.shape))

    def is_possible(self, frame, x):
        return (x == jnp.floor(x)) & (x >= 0) & (x < self.levels)

    def _frame(self, x):
        if x is not None:
            return standard_frame(x, self.shape, together=True)
        middle, spread = (self.levels - 1) / 2, self.levels / 4
        return {"shift": jnp.full(self.shape, middle), "scale": jnp.full(self.shape, spread)}


class Bernoulli(_Levels):
    """Bits, whose outputs are logits of 1."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__(shape, 2)

    @property
    def support(self):
        return constraints.independent(constraints.boolean, len(self.shape))

    def start(self, key, x=None):
        if x is None:
            bias = jnp.zeros((1, *self.shape))
        else:
            xp = namespace(x)
            # one more event, of bits 1/2, keeps both values possible
            share = (x.sum(0) + 0.5) / (len(x) + 1)
            bias = jnp.asarray(xp.log(share) - xp.log1p(-share))[None]
        return Start(self._frame(x), bias, {})

    def log_prob(self, params, frame, u, x):
        return x * u[0] - jax.nn.softplus(u[0])

    def draw(self, params, frame, u, noise):
        return (noise < jax.nn.sigmoid(u[0])).astype(jnp.int32)


class Categorical(_Levels):
    """Levels without an order, whose outputs are logits, or numbers that a table maps to logits.

    ``log_shares`` (levels, *shape) are added to the logits; they start as the log frequencies of
    the levels. With more than 2 * RANK levels, ``table`` (levels, RANK) maps RANK outputs to the
    logits.
    """

    def __init__(self, shape: tuple[int, ...], levels: int):
        super().__init__(shape, levels)
        self.has_table = levels > 2 * RANK
        self.numbers = RANK if self.has_table else levels  # type: ignore[misc]

    def start(self, key, x=None):
        frame = self._frame(x)
        shares = jnp.full((self.levels, *self.shape), -math.log(self.levels))
        if x is not None:
            xp = namespace(x)
            # one more event, spread evenly over the levels, keeps every level possible
            counts = xp.stack([(x == level).sum(0) for level in range(self.levels)])
            shares = jnp.asarray(xp.log((counts + 1 / self.levels) / (len(x) + 1)))
        params = {"log_shares": shares}
        if self.has_table:
            params["table"] = jax.random.normal(key, (self.levels, RANK))
        return Start(frame, jnp.zeros((self.numbers, *self.shape)), params)

    def _logits(self, params, u):
        logits = jnp.tensordot(params["table"], u, 1) if self.has_table else u
        shares = params["log_shares"]
        rows = [1] * (logits.ndim - shares.ndim)
        return logits + shares.reshape(self.levels, *rows, *self.shape)

    def log_prob(self, params, frame, u, x):
        return log_prob_of_level(self._logits(params, u), x.astype(jnp.int32))

    def draw(self, params, frame, u, noise):
        return draw_level(self._logits(params, u), noise)


class Logistic(_Levels):
    """Whole numbers x, where x is the integer nearest to a draw of a logistic distribution.

    The lowest and the highest value have the probability of all numbers beyond. Outputs are the
    mean and the log scale of the logistic distribution.

    Source: Salimans, Karpathy, Chen and Kingma 2017, "PixelCNN++".
    """

    numbers = 2

    def start(self, key, x=None):
        frame = self._frame(x)
        if x is None:
            spread = np.ones(self.shape)
        else:
            share = x.std(0) / frame["scale"]
            spread = namespace(x).maximum(share, _LEAST_SHARE)
        log_scale = jnp.log(_LOGISTIC * jnp.asarray(spread, jnp.result_type(float)))
        bias = jnp.stack([jnp.zeros_like(log_scale), log_scale])
        return Start(frame, bias, {})

    def log_prob(self, params, frame, u, x):
        slope = jnp.exp(-self._log_scale(u))
        half = 0.5 / frame["scale"]
        centre = standard(frame, x) - u[0]
        low, high = (centre - half) * slope, (centre + half) * slope
        # log(F(high) - F(low)), without a difference of numbers near 1
        below, above = jax.nn.log_sigmoid(high), jax.nn.log_sigmoid(-low)
        between = below + above + jnp.log(-jnp.expm1(-2 * half * slope))
        score = jnp.where(x == self.levels - 1, above, between)
        return jnp.where(x == 0, below, score)

    def draw(self, params, frame, u, noise):
        z = u[0] + jnp.exp(self._log_scale(u)) * (jnp.log(noise) - jnp.log1p(-noise))
        x = jnp.round(frame["shift"] + frame["scale"] * z)
        return jnp.clip(x, 0, self.levels - 1).astype(jnp.int32)

    def _log_scale(self, u):
        return _MAX_LOG_SCALE * jnp.tanh(u[1] / _MAX_LOG_SCALE)


def make_likelihood(name: str, shape: tuple[int, ...], levels: int | None) -> Likelihood:
    """The likelihood of a name, for events of a shape; levels is None for those without levels."""
    if name == "gaussian":
        return Gaussian(shape)
    if name == "bernoulli":
        return Bernoulli(shape)
    assert levels is not None
    return {"categorical": Categorical, "logistic": Logistic}[name](shape, levels)


def standard_frame(x: Any, shape: tuple[int, ...], together: bool) -> Params:
    """``shift`` and ``scale``, the mean and deviation of the entries of x (n, *shape).

    together: whether all entries have one scale, the root mean square of their deviations.
    """
    if x is None:
        return {"shift": jnp.zeros(shape), "scale": jnp.ones(shape)}
    xp = namespace(x)
    scale = x.std(0)
    scale = xp.broadcast_to(xp.sqrt((scale**2).mean()), shape) if together else scale
    return {
        "shift": jnp.asarray(x.mean(0)),
        "scale": jnp.asarray(xp.where(scale > 0, scale, 1.0)),
    }


def standard(frame: Params, x: jax.Array) -> jax.Array:
    """Standard coordinates of x (*rows, *shape)."""
    return (x - frame["shift"]) / frame["scale"]
