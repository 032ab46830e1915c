"""Continuous flows, fitted without solving their equation: flow matching."""

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
from jaxgen.networks.frame import REACH, seen

_WAVES = (1,)  # shorter ones would bend the way faster than a solver's steps can follow
_TIMES = 3  # of sines and cosines in which a network is told the time


class FlowMatching(Flow):
    """Flow along a vector field: dz/dt = v(z, t, y) from noise at t = 0 to an event at t = 1.

    Training minimises |v(z_t, t, y) - (x - z)|^2 with z noise, t uniform and z_t = (1 - t) z + t x,
    which needs no solver; so ``fit`` reports minus this loss, not a likelihood. The density follows
    from the trace of dv/dz along the way of x back to its noise, d log p / dt = -trace, exact but
    for the steps of the solver; it takes dim + 1 passes through the network where a sample takes 1.

    Args:
      dim: number of features.
      width: hidden units of the network's layers.
      depth: hidden layers.
      steps: Runge-Kutta steps of fourth order from noise to event.
      y_shape: shape of a condition; None for p(x).
      domain: where each feature lives, of ``jaxgen.domains``; one for all, None for real numbers.
      y_domain: where each number in y lives, likewise; ``Levels(10)`` for one of 10 labels.

    Params: ``frame``, shift and scale of x and y, from the data and not learnt; and ``network``.

    Source: Lipman et al. 2023, "Flow matching for generative modeling"; Chen et al. 2018, "Neural
    ordinary differential equations", equation 8; on circles, Chen and Lipman 2024.

    >>> fitted = jaxgen.fit(FlowMatching(2), x, key=jax.random.key(0))
    """

    dim: Count  # type: ignore[misc]
    width: Count = 64
    depth: Count = 3
    steps: Count = 32
    y_shape: tuple[int, ...] | None = None  # type: ignore[misc]
    domain: tuple[Domain, ...] | None = None  # type: ignore[misc]
    y_domain: tuple[Domain, ...] | None = None  # type: ignore[misc]

    @property
    def _tile(self):
        return nets.tile_of(self.width * self.dim)

    def init(self, key, x=None, y=None):
        inputs = self.dim * self._frame.channels(_WAVES) + 2 * _TIMES + self._conditions.count
        stack = nets.mlp_stack(key, 1, inputs, self.dim, self.width, self.depth)
        network = jax.tree_util.tree_map(lambda v: v[0], stack)
        return {"frame": self._init_frame(x, y), "network": network}

    def loss(self, params, noise, x, y=None):
        return lanes(self._mismatch)(params, noise, x, y)

    @property
    def learning(self):
        noise = {"base": self._frame.noise(), "time": Uniform(())}
        return super().learning._replace(noise=noise)

    # What follows takes features first and, if any, rows last.

    def _mismatch(self, params, noise, x, y):
        x, _, _ = self._frame.enter(params["frame"]["x"], x)
        z, time = self._frame.base(noise["base"]), noise["time"]
        way = self._on_circles(x - z)  # the shorter of the two on a circle
        velocity = self._field(params, y, x)(self._on_circles(z + time * way), time)
        return ((velocity - way) ** 2).sum(0)

    def _score(self, params, x, y):
        start, log_det, possible = self._frame.enter(params["frame"]["x"], x)
        field = self._field(params, y, start)
        basis = jnp.eye(self.dim, dtype=start.dtype)

        def both(carry, time):
            z, _ = carry

            def along(direction):
                direction = direction.reshape(-1, *[1] * (z.ndim - 1))
                change = jax.jvp(
                    lambda z: field(z, time), (z,), (jnp.broadcast_to(direction, z.shape),)
                )
                return (change[1] * direction).sum(0)

            return field(z, time), jax.vmap(along)(basis).sum(0)

        z, gained = self._solve(both, (start, jnp.zeros_like(log_det)), 1.0, 0.0)
        score = self._frame.log_base(self._on_circles(z)) + gained + log_det
        return jnp.where(possible, score, -jnp.inf)

    def _push(self, params, noise, y):
        z = self._frame.base(noise)
        z = self._solve(self._field(params, y, z), z, 0.0, 1.0)
        return self._frame.leave(params["frame"]["x"], self._on_circles(z))

    def _back(self, params, x, y):
        z, _, _ = self._frame.enter(params["frame"]["x"], x)
        return self._on_circles(self._solve(self._field(params, y, z), z, 1.0, 0.0))

    def _field(self, params, y, like):
        """The vector field, of coordinates (dim, ...) and a time, or one of each row."""
        given = self._given(params, y, like)
        multiples = np.arange(1, _TIMES + 1, dtype=like.dtype) * np.asarray(np.pi, like.dtype)
        still = self._frame.bounded & ~self._frame.circular

        def field(z, time):
            time = jnp.broadcast_to(jnp.asarray(time, z.dtype), z.shape[1:])
            angle = multiples.reshape(-1, *[1] * time.ndim) * time
            told = [seen(z, self._frame.kind, _WAVES), jnp.cos(angle), jnp.sin(angle), given]
            velocity = nets.mlp(params["network"], jnp.concatenate(told), "silu")
            if still.any():  # nothing crosses the ends of an interval
                at_ends = still.reshape(-1, *[1] * (z.ndim - 1))
                velocity = jnp.where(at_ends, velocity * (1 - (z / REACH) ** 2), velocity)
            return velocity

        return field

    def _solve(self, change, state, start, end):
        """The state at time ``end``, by the classical Runge-Kutta method."""
        step = (end - start) / self.steps
        change = jax.jit(change)  # traced once for the four times that a step asks
        add = lambda a, b, size: jax.tree_util.tree_map(lambda a, b: a + size * b, a, b)  # noqa: E731

        @jax.checkpoint  # a gradient needs the states between steps alone
        def one(state, i):
            dtype = jax.tree_util.tree_leaves(state)[0].dtype
            time = start + step * i.astype(dtype)
            first = change(state, time)
            second = change(add(state, first, step / 2), time + step / 2)
            third = change(add(state, second, step / 2), time + step / 2)
            fourth = change(add(state, third, step), time + step)
            for slope, size in ((first, 1), (second, 2), (third, 2), (fourth, 1)):
                state = add(state, slope, step * size / 6)
            return state, None

        return lax.scan(one, state, jnp.arange(self.steps))[0]

    def _on_circles(self, z):
        """Coordinates of circles brought back to [-REACH, REACH]."""
        if not self._frame.circular.any():
            return z
        circular = self._frame.circular.reshape(-1, *[1] * (z.ndim - 1))
        return jnp.where(circular, spline.wrap(z), z)
