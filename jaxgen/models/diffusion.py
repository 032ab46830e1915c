"""Flow matching and diffusion of events of any shape, such as images."""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpyro.distributions import constraints
from scipy.special import ndtr

from jaxgen.core.lanes import lanes
from jaxgen.core.model import Learning, Traits
from jaxgen.core.random import Normal, Uniform, fixed
from jaxgen.core.records import TOGETHER
from jaxgen.core.spec import Count, NonNegative
from jaxgen.models.conditioned import Framed
from jaxgen.models.event_outputs import event_outputs, init_event_outputs
from jaxgen.models.likelihoods import standard, standard_frame
from jaxgen.networks.convolutional import UNet
from jaxgen.networks.domains import Domain
from jaxgen.networks.frame import FURTHEST
from jaxgen.networks.mlp import MLP
from jaxgen.networks.network import Network, tile_of

_CLIP = 32.0  # deviations at which the input of the network is clipped
_TIME_WAVES = 4  # frequencies whose cosines and sines encode the time
_DROPPED = 0.1  # share of training events whose y is not given to the network
_SPREAD_OF_LEVEL = 0.05  # deviation of the noise added to levels, for each level; at most 1
_LOG_2PI = math.log(2 * math.pi)


def _within(levels: int, uniform: Any) -> tuple[jax.Array, jax.Array]:
    """Noise on (0, 1), added to levels, that uniform noise makes, and its log density."""
    spread = min(_SPREAD_OF_LEVEL * levels, 1.0)
    tail = float(ndtr(-0.5 / spread))
    deviations = jax.scipy.special.ndtri(tail + (1 - 2 * tail) * uniform)
    log_q = -0.5 * deviations**2 - 0.5 * _LOG_2PI - math.log(spread * (1 - 2 * tail))
    return 0.5 + spread * deviations, log_q


class Diffusion(Framed):
    """Events x that a network makes of noise, along paths z_t = a(t) x + b(t) noise.

    At t = 0, z_t is noise, and at t = 1 it is x. Training minimises |v(z_t, t, y) - dz_t/dt|^2 over
    uniform times. This needs no solver, and the scores that ``fit`` reports are minus this loss,
    not likelihoods. A draw follows dz/dt = v from t = 0 to 1 in ``steps`` steps.

    The density follows from d log p / dt = -trace(dv/dz) along the path from x back to its noise.
    The trace is that of ``probes`` fixed directions of random signs (Hutchinson's estimator), or
    exact for events of at most as many numbers. So it is an estimate; for events of levels a lower
    bound, in expectation over the noise that is added to them, which is fixed. With ``stochastic``
    there is none. The solver, the number of steps, ``stochastic`` and ``guidance`` may be changed
    after a fit, as in ``fitted.replace(steps=8)``.

    Args:
      shape: shape of an event, such as (28, 28), (32, 32, 3) or (4,).
      levels: number of values of each entry, which are 0 .. levels - 1; None for real numbers. The
        model is of x plus noise on (0, 1), and draws are rounded down. The noise is a truncated
        normal distribution of mean 1/2: narrow for two levels, which leaves a gap between black and
        white, and nearly uniform for twenty or more.
      network: network of the velocity; None for the default: ``networks.MLP`` for a vector, or
        ``networks.UNet``. Its input is z, eight waves of the time, and y, encoded. The latter are
        further numbers of a vector, and further channels of an image.
      path: "straight", a = t and b = 1 - t (flow matching with straight paths), or "cosine",
        a = sin(pi t / 2) and b = cos(pi t / 2) (diffusion that preserves the variance).
      steps: number of steps of the solver.
      solver: "heun", of second order, with two passes through the network a step; or "euler", with
        one, which is Euler's method on straight paths and DDIM on the others.
      stochastic: share of new noise in each step of "euler", from 0 (none) to 1 (ancestral
        sampling).
      guidance: weight g of y in the velocity v(z) + g (v(z, y) - v(z)). 1 draws from p(x|y); more
        draws events that are more typical of y, and less diverse.
      probes: directions of the estimate of a trace.
      y_shape: shape of a condition; None for p(x).
      y_domain: domain of each number in y, or one for all (see ``jaxgen.domains``); None for real
        numbers; ``Levels(10)`` for one of 10 labels.

    Params: ``frame``, the shift and scale of x and y, set from the data and not trained; and
    ``network``, with ``features``, its params, and ``out``, those of a linear layer.

    Source: Lipman et al. 2023, "Flow matching for generative modeling"; Nichol and Dhariwal 2021
    (the cosine path); Song, Meng and Ermon 2021, "Denoising diffusion implicit models"; Song et al.
    2021, "Score-based generative modeling through stochastic differential equations" (density); Ho
    and Salimans 2022, "Classifier-free diffusion guidance".

    >>> fitted = jaxgen.fit(Diffusion((2,)), x, key=jax.random.key(0), epochs=2)
    >>> fitted.replace(steps=4, solver="euler", stochastic=1.0).sample(key, 3).shape
    (3, 2)
    """

    shape: tuple[Count, ...]
    levels: Count | None = None
    network: Network | None = None
    path: Literal["straight", "cosine"] = "straight"
    steps: Count = 32
    solver: Literal["heun", "euler"] = "heun"
    stochastic: NonNegative = 0.0
    guidance: NonNegative = 1.0
    probes: Count = 8
    y_shape: tuple[int, ...] | None = None  # type: ignore[misc]
    y_domain: tuple[Domain, ...] | None = None  # type: ignore[misc]

    def __post_init__(self):
        super().__post_init__()
        if self.levels == 1:
            raise ValueError("Diffusion: levels must be at least 2, or None; got 1")
        self._check_no_conditions_of("network")
        if self.stochastic > 1 or (self.stochastic and self.solver != "euler"):
            raise ValueError(
                "Diffusion: stochastic must be from 0 to 1, and 0 unless solver is 'euler'; got "
                f"{self.stochastic} with solver {self.solver!r}"
            )
        if self.guidance != 1 and self.y_shape is None:
            raise ValueError(f"Diffusion: guidance must be 1 without y_shape, got {self.guidance}")

    @property
    def event_shape(self):
        return self.shape

    @property
    def support(self):
        number = constraints.real
        if self.levels is not None:
            number = constraints.integer_interval(0, self.levels - 1)
        return constraints.independent(number, len(self.shape))

    @functools.cached_property
    def learning(self):
        noise = {"start": Normal(self.shape), "time": Uniform(())}
        if self.y_shape is not None:
            noise["kept"] = Uniform(())
        if self.levels is not None:
            noise["place"] = Uniform(self.shape)
        units = TOGETHER if self._is_image else True
        rescalable = units if self.levels is None else False
        return Learning(
            rate=1e-3, batch_size=128, frozen=("frame",), rescalable=rescalable, noise=noise
        )

    @functools.cached_property
    def traits(self):
        size = math.prod(self.shape)
        density = "estimate" if self.levels is None else "bound"
        tile = min(self._network.tile(self.shape), tile_of(size))
        return Traits(
            density="none" if self.stochastic else density,  # type: ignore[arg-type]
            reparameterized=self.levels is None,
            invertible=not self.stochastic,
            tile=tile,
            draw_tile=tile if self._is_image else None,  # else a few draws would take 64
            changeable=("steps", "solver", "stochastic", "guidance", "probes"),
        )

    def init(self, key, x=None, y=None):
        frame = standard_frame(x, self.shape, self._is_image)
        if x is None and self.levels is not None:
            low = jnp.zeros(self.shape)
            frame = {"shift": low + self.levels / 2, "scale": low + self.levels / 4}
        inputs = jax.eval_shape(self._inputs, *self._example()).shape
        network = init_event_outputs(self._network, key, inputs, self.shape, 1)
        return {"frame": self._frame_of(frame, y), "network": network}

    def log_prob(self, params, x, y=None):
        return lanes(self._score, 0)(params, x, y)

    def loss(self, params, noise, x, y=None):
        return lanes(self._mismatch, 0)(params, noise, x, y)

    def noise(self):
        if not self.stochastic:
            return Normal(self.shape)
        return {"start": Normal(self.shape), "steps": Normal((self.steps, *self.shape))}

    def push(self, params, noise, y=None):
        return lanes(self._draw, 0)(params, noise, y)

    def pull(self, params, x, y=None):
        return lanes(self._noise_of, 0)(params, x, y)

    # The methods below take arrays of one event, or with a first axis of rows.

    def _mismatch(self, params, noise, x, y):
        place = None if self.levels is None else _within(self.levels, noise["place"])[0]
        possible, x = self._enter(params, x, place)
        time, rows = noise["time"], x.ndim - len(self.shape)
        a, b, a_slope, b_slope = (self._up(v, rows) for v in self._path(time))
        z = a * x + b * noise["start"]
        context = self._context(params, y, x.dtype)
        if context is not None:
            kept = (noise["kept"] >= _DROPPED)[..., None]
            context = jnp.where(kept, context, self._unknown(context))
        velocity = self._velocity(params, z, time, context)
        target = a_slope * x + b_slope * noise["start"]
        loss = ((velocity - target) ** 2).sum(self._event_axes(x))
        return jnp.where(possible, loss, jnp.inf)

    def _draw(self, params, noise, y):
        z = noise["start"] if self.stochastic else noise
        field = self._field(params, y, z)
        times = self._times(z.dtype)
        if self.solver == "heun":
            z = self._solve(field, z, times)
        else:
            new: Any = ()
            if self.stochastic:
                new = jnp.moveaxis(noise["steps"], z.ndim - len(self.shape), 0)
            z = lax.scan(self._denoised(field), z, (times[:-1], times[1:], new))[0]
        frame = params["frame"]["x"]
        x = frame["shift"] + frame["scale"] * z
        if self.levels is None:
            return x
        return jnp.clip(jnp.floor(x), 0, self.levels - 1).astype(jnp.int32)

    def _denoised(self, field):
        """A step of a scan, from time t to s, by the estimates of x and noise at t."""

        def step(z, times_and_noise):
            t, s, new = times_and_noise
            (a, b, a_slope, b_slope), (a_next, b_next, *_) = self._path(t), self._path(s)
            velocity = field(z, t)
            det = a * b_slope - b * a_slope
            x = (b_slope * z - b * velocity) / det
            noise = (a * velocity - a_slope * z) / det
            if not self.stochastic:
                return a_next * x + b_next * noise, None
            # the variance of z_s given z_t and x
            spread = b_next**2 * (1 - (a * b_next / (a_next * b)) ** 2) * self.stochastic**2
            kept = jnp.sqrt(jnp.maximum(b_next**2 - spread, 0))
            return a_next * x + kept * noise + jnp.sqrt(jnp.maximum(spread, 0)) * new, None

        return step

    def _noise_of(self, params, x, y):
        middle = None if self.levels is None else 0.5
        _, z = self._enter(params, x, middle)
        return self._solve(self._field(params, y, z), z, self._times(z.dtype)[::-1])

    def _score(self, params, x, y):
        place, cost = None, jnp.zeros((), x.dtype)
        if self.levels is not None:
            uniform = np.asarray(fixed.generator().uniform(size=self.shape), x.dtype)
            place, log_q = _within(self.levels, uniform)
            cost = log_q.sum()
        possible, z = self._enter(params, x, place)
        field, axes, size = self._field(params, y, z), self._event_axes(x), math.prod(self.shape)
        exact = size <= self.probes
        if exact:
            probes = np.eye(size)
        else:
            probes = fixed.generator().choice([-1.0, 1.0], (self.probes, size))
        probes = np.asarray(probes, z.dtype).reshape(-1, *self.shape)

        def field_and_trace(state, time):
            velocity, derivative = jax.linearize(lambda z: field(z, time), state[0])

            def along(probe):
                change = derivative(jnp.broadcast_to(probe, state[0].shape))
                return (change * probe).sum(axes)

            # one at a time where a network of images fills the caches
            each = functools.partial(lax.map, along) if self._is_image else jax.vmap(along)
            traces = each(probes)
            return velocity, traces.sum(0) if exact else traces.mean(0)

        start = z, jnp.zeros(z.shape[: z.ndim - len(self.shape)], z.dtype)
        z, trace = self._solve(field_and_trace, start, self._times(z.dtype)[::-1])
        log_scale = jnp.log(params["frame"]["x"]["scale"]).sum()
        score = (-0.5 * z * z - 0.5 * _LOG_2PI).sum(axes) + trace - log_scale - cost
        return jnp.where(possible, score, -jnp.inf)

    def _solve(self, change, state, times):
        """The state at the last of the times, by Heun's method; change is d state / dt."""
        add = lambda a, b, size: jax.tree_util.tree_map(lambda a, b: a + size * b, a, b)  # noqa: E731

        @jax.checkpoint  # a gradient stores the states between steps only
        def step(state, ends):
            t, s = ends
            first = change(state, t)
            second = change(add(state, first, s - t), s)
            return add(add(state, first, (s - t) / 2), second, (s - t) / 2), None

        return lax.scan(step, state, (times[:-1], times[1:]))[0]

    def _field(self, params, y, like):
        """The velocity with guidance: a function of z (*rows, *shape) and of one time."""
        context = self._context(params, y, like.dtype)

        def field(z, time):
            if self.guidance == 1:
                return self._velocity(params, z, time, context)
            without = self._velocity(params, z, time, self._unknown(context))
            if self.guidance == 0:
                return without
            return without + self.guidance * (self._velocity(params, z, time, context) - without)

        return field

    def _velocity(self, params, z, time, context):
        inputs, rows = self._inputs(z, time, context), z.ndim - len(self.shape)
        return event_outputs(self._network, params["network"], inputs, rows, self.shape)[0]

    def _inputs(self, z, time, context):
        """Inputs of the network for z, one time or one per row, and context (*rows, numbers)."""
        rows = z.shape[: z.ndim - len(self.shape)]
        multiples = np.arange(1, _TIME_WAVES + 1) * math.pi
        angle = jnp.broadcast_to(time, rows)[..., None] * np.asarray(multiples, z.dtype)
        given = () if context is None else (context,)
        numbers = jnp.concatenate([jnp.cos(angle), jnp.sin(angle), *given], -1)
        z = jnp.clip(z, -_CLIP, _CLIP)
        if not self._is_image:
            return jnp.concatenate([z.reshape(*rows, -1), numbers], -1)
        z = z.reshape(*rows, *self.shape[:2], -1)
        channels = jnp.broadcast_to(numbers[..., None, None, :], (*z.shape[:-1], numbers.shape[-1]))
        return jnp.concatenate([z, channels], -1)

    def _example(self):
        """The arguments of ``_inputs`` for one event."""
        size = self._conditions.size
        return jnp.zeros(self.shape), 0.0, None if self.y_shape is None else jnp.zeros(size + 1)

    def _enter(self, params, x, place):
        """Whether events are possible, (*rows), and the standard coordinates of those that are.

        place: what is added to levels.
        """
        axes, frame = self._event_axes(x), params["frame"]["x"]
        if self.levels is None:
            possible = (jnp.abs(standard(frame, x)) <= FURTHEST).all(axes)
        else:
            possible = ((x == jnp.floor(x)) & (x >= 0) & (x < self.levels)).all(axes)
        x = jnp.where(jnp.expand_dims(possible, axes), x, 0)
        return possible, standard(frame, x if place is None else x + place)

    def _path(self, t):
        """a, b and their derivatives at times t."""
        if self.path == "straight":
            return t, 1 - t, jnp.ones_like(t), -jnp.ones_like(t)
        a, b = jnp.sin(t * (math.pi / 2)), jnp.cos(t * (math.pi / 2))
        return a, b, b * (math.pi / 2), -a * (math.pi / 2)

    def _context(self, params, y, dtype):
        """y, encoded for the network, and a 0, (*rows, numbers); None without y."""
        if self.y_shape is None:
            return None
        frame = params["frame"]["y"]
        encoded = self._conditions.encode_rows(frame, y, dtype)
        return jnp.concatenate([encoded, jnp.zeros_like(encoded[..., :1])], -1)

    def _unknown(self, context):
        """The context where y is not known."""
        return jnp.zeros_like(context).at[..., -1].set(1)

    def _times(self, dtype):
        return jnp.asarray(np.linspace(0, 1, self.steps + 1), dtype)

    def _up(self, v, rows):
        """v (*rows) with axes of the event."""
        return v.reshape(*v.shape[:rows], *[1] * len(self.shape))

    def _event_axes(self, x):
        return tuple(range(x.ndim - len(self.shape), x.ndim))

    @property
    def _is_image(self) -> bool:
        return len(self.shape) > 1

    @property
    def _network(self) -> Network:
        default = UNet() if self._is_image else MLP(width=128, depth=3)
        return (default if self.network is None else self.network).for_events(self.shape)
