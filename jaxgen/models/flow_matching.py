"""Continuous normalising flows, fitted by flow matching."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.bijectors import spline
from jaxgen.core.lanes import lanes
from jaxgen.core.random import Uniform
from jaxgen.core.spec import Count
from jaxgen.models.flow import Flow
from jaxgen.networks import mlp as nets
from jaxgen.networks.domains import Domain
from jaxgen.networks.frame import REACH, fourier_features
from jaxgen.networks.network import Network, tile_of

_WAVES = (1,)  # frequencies of features; higher ones need smaller steps of the solver
_TIME_WAVES = 3  # frequencies whose sines and cosines encode the time


class FlowMatching(Flow):
    """Continuous flow dz/dt = v(z, t, y), from noise at t = 0 to an event at t = 1.

    Training minimises |v(z_t, t, y) - (x - z)|^2 with z noise, t uniform and z_t = (1 - t) z + t x.
    This needs no solver, and the scores that ``fit`` reports are minus this loss, not likelihoods.
    The density follows from d log p / dt = -trace(dv/dz) along the path from x back to its noise,
    exactly up to the error of the solver. At each time, a density takes dim + 1 passes through the
    network and a sample takes one.

    Args:
      dim: number of features.
      width: hidden units of a layer of the default network.
      depth: hidden layers of the default network.
      steps: number of fourth-order Runge-Kutta steps from noise to event.
      y_shape: shape of a condition; None for p(x).
      domain: each feature's domain, or one for all (see ``jaxgen.domains``); None for real numbers.
      y_domain: domain of each number in y, likewise; ``Levels(10)`` for one of 10 labels.
      network: any ``networks.Network``, in place of the default one, a residual network. Its input
        is a vector: coordinates of mean 0 and deviation 1, six waves of the time, and y, encoded.
        Its features go through a linear layer. It should be smooth, as the field is differentiated.

    Params: ``frame``, the shift and scale of x and y, set from the data and not trained; and
    ``network``, for a network that is given the dict ``features``, its params, and ``out``, those
    of the linear layer.

    Source: Lipman et al. 2023, "Flow matching for generative modeling"; Chen et al. 2018, "Neural
    ordinary differential equations", equation 8; on circles, Chen and Lipman 2024.

    >>> fitted = jaxgen.fit(FlowMatching(2), x, key=jax.random.key(0))
    """

    dim: Count  # type: ignore[misc]
    width: Count = 64  # type: ignore[misc]
    depth: Count = 3  # type: ignore[misc]
    steps: Count = 32
    y_shape: tuple[int, ...] | None = None  # type: ignore[misc]
    domain: tuple[Domain, ...] | None = None  # type: ignore[misc]
    y_domain: tuple[Domain, ...] | None = None  # type: ignore[misc]
    network: Network | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.network is None:
            return
        self._check_no_conditions_of("network")
        for name in ("width", "depth"):
            if getattr(self, name) != getattr(type(self), name):
                raise ValueError(
                    f"FlowMatching: {name} is that of the default network, so it cannot be given "
                    f"with network; got {name}={getattr(self, name)} and {self.network}"
                )

    def _traits(self):
        return super()._traits()._replace(changeable=("steps",))

    @property
    def _tile(self):
        widest = self.width if self.network is None else self.network.widest
        return tile_of(widest * self.dim)

    def init(self, key, x=None, y=None):
        features = self.dim * self._frame.channels(_WAVES) + 2 * _TIME_WAVES
        if self.network is None:
            stack = self._init_networks(key, 1, features, self.dim)
            network = jax.tree_util.tree_map(lambda v: v[0], stack)
        else:
            shape = (features + self._conditions.size,)
            network = self.network.init_outputs(key, shape, self.dim)
        return {"frame": self._init_frame(x, y), "network": network}

    def loss(self, params, noise, x, y=None):
        return lanes(self._mismatch)(params, noise, x, y)

    def _learning(self):
        noise = {"base": self._frame.noise(), "time": Uniform(())}
        return super()._learning()._replace(noise=noise)

    # The methods below take arrays with features on the first axis and rows, if any, on the last.

    def _mismatch(self, params, noise, x, y):
        x, _, _ = self._frame.enter(params["frame"]["x"], x)
        z, time = self._frame.base(noise["base"]), noise["time"]
        target = self._on_circles(x - z)  # on a circle, the shorter of the two ways
        velocity = self._field(params, y, x)(self._on_circles(z + time * target), time)
        return ((velocity - target) ** 2).sum(0)

    def _score(self, params, x, y):
        start, log_det, possible = self._frame.enter(params["frame"]["x"], x)
        field = self._field(params, y, start)
        basis = jnp.eye(self.dim, dtype=start.dtype)

        def field_and_trace(carry, time):
            z, _ = carry

            def derivative_along(direction):
                direction = direction.reshape(-1, *[1] * (z.ndim - 1))
                change = jax.jvp(
                    lambda z: field(z, time), (z,), (jnp.broadcast_to(direction, z.shape),)
                )
                return (change[1] * direction).sum(0)

            return field(z, time), jax.vmap(derivative_along)(basis).sum(0)

        z, trace = self._solve(field_and_trace, (start, jnp.zeros_like(log_det)), 1.0, 0.0)
        score = self._frame.log_base(self._on_circles(z)) + trace + log_det
        return jnp.where(possible, score, -jnp.inf)

    def _push(self, params, noise, y):
        z = self._frame.base(noise)
        z = self._solve(self._field(params, y, z), z, 0.0, 1.0)
        return self._frame.leave(params["frame"]["x"], self._on_circles(z))

    def _to_base(self, params, x, y):
        z, _, _ = self._frame.enter(params["frame"]["x"], x)
        return self._on_circles(self._solve(self._field(params, y, z), z, 1.0, 0.0))

    def _field(self, params, y, like):
        """The vector field: a function of coordinates (dim, ...) and of one time or one per row."""
        context = self._encode_y(params, y, like)
        multiples = np.arange(1, _TIME_WAVES + 1, dtype=like.dtype) * np.asarray(np.pi, like.dtype)
        has_ends = self._frame.bounded & ~self._frame.circular

        def field(z, time):
            time = jnp.broadcast_to(jnp.asarray(time, z.dtype), z.shape[1:])
            angle = multiples.reshape(-1, *[1] * time.ndim) * time
            features = fourier_features(z, self._frame.topology, _WAVES)
            inputs = [features, jnp.cos(angle), jnp.sin(angle), context]
            velocity = self._velocity(params["network"], jnp.concatenate(inputs))
            if has_ends.any():  # the velocity is 0 at the ends of an interval: nothing leaves it
                stops = has_ends.reshape(-1, *[1] * (z.ndim - 1))
                velocity = jnp.where(stops, velocity * (1 - (z / REACH) ** 2), velocity)
            return velocity

        return field

    def _velocity(self, params, inputs):
        """Outputs (dim, ...) of the network for its inputs (numbers, ...)."""
        if self.network is None:
            return nets.mlp(params, inputs, "silu")
        return self.network.outputs(params, inputs, inputs.shape[:1])

    def _solve(self, change, state, start, end):
        """The state at time ``end``, by the classical Runge-Kutta method."""
        step = (end - start) / self.steps
        change = jax.jit(change)  # traced once, though each step calls it four times
        add = lambda a, b, size: jax.tree_util.tree_map(lambda a, b: a + size * b, a, b)  # noqa: E731

        @jax.checkpoint  # a gradient stores the states between steps only
        def take_step(state, i):
            dtype = jax.tree_util.tree_leaves(state)[0].dtype
            time = start + step * i.astype(dtype)
            first = change(state, time)
            second = change(add(state, first, step / 2), time + step / 2)
            third = change(add(state, second, step / 2), time + step / 2)
            fourth = change(add(state, third, step), time + step)
            for slope, size in ((first, 1), (second, 2), (third, 2), (fourth, 1)):
                state = add(state, slope, step * size / 6)
            return state, None

        return lax.scan(take_step, state, jnp.arange(self.steps))[0]

    def _on_circles(self, z):
        """z with the coordinates of circles wrapped to [-REACH, REACH]."""
        if not self._frame.circular.any():
            return z
        circular = self._frame.circular.reshape(-1, *[1] * (z.ndim - 1))
        return jnp.where(circular, spline.wrap(z), z)
