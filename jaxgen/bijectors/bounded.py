"""Maps from real numbers onto an interval, the positive numbers, or the simplex."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import log_sigmoid, sigmoid
from numpyro.distributions import constraints

from jaxgen.bijectors.bijector import Bijector
from jaxgen.core.spec import Params


class Positive(Bijector):
    """x = exp(z) for each feature, onto x > 0."""

    def support(self, event_shape: tuple[int, ...]) -> constraints.Constraint:
        return constraints.independent(constraints.positive, len(event_shape))

    def contains(self, params: Params, x: jax.Array) -> jax.Array:
        return (x > 0).all()

    def part(self, params: Params, features: tuple[int, ...]) -> Params:
        return {}

    def forward(self, params: Params, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.maximum(jnp.exp(z), jnp.finfo(z.dtype).tiny), z.sum()  # exp may underflow to 0

    def inverse(self, params: Params, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        z = jnp.log(x)
        return z, -z.sum()


class Interval(Bijector):
    """x = low + (high - low) sigmoid(z) for each feature, onto low < x < high.

    Args:
      low: lower edge, in the units of x.
      high: upper edge.
    """

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not -np.inf < self.low < self.high < np.inf:
            raise ValueError(
                f"Interval: low and high must be finite with low < high, got {self.low} and "
                f"{self.high}"
            )

    def support(self, event_shape: tuple[int, ...]) -> constraints.Constraint:
        interval = constraints.open_interval(self.low, self.high)
        return constraints.independent(interval, len(event_shape))

    def contains(self, params: Params, x: jax.Array) -> jax.Array:
        return ((x > self.low) & (x < self.high)).all()

    def part(self, params: Params, features: tuple[int, ...]) -> Params:
        return {}

    def forward(self, params: Params, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        low, high = np.asarray(self.low, z.dtype), np.asarray(self.high, z.dtype)
        x = low + (high - low) * sigmoid(z)
        # sigmoid saturates in floating point, but x must not be at the edge
        inside = jnp.clip(x, np.nextafter(low, high), np.nextafter(high, low))
        return inside, self._log_det(z)

    def inverse(self, params: Params, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        z = jnp.log(x - self.low) - jnp.log(self.high - x)
        return z, -self._log_det(z)

    def _log_det(self, z: jax.Array) -> jax.Array:
        log_width = np.log(np.float64(self.high) - self.low).astype(z.dtype)
        return (log_width + log_sigmoid(z) + log_sigmoid(-z)).sum()


class Simplex(Bijector):
    """Stick-breaking from dim - 1 real numbers onto dim positive parts that sum to one.

    Part k is the share sigmoid(z_k - log(dim - k)) of the remainder after parts 1 .. k - 1. The
    density is that of the first dim - 1 parts, as in NumPyro and Stan.

    Source: Stan Reference Manual, "Unit simplex".
    """

    def event_shape(self, base_shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(base_shape) != 1:
            raise ValueError(f"Simplex: events of the base must be vectors, got shape {base_shape}")
        return (base_shape[0] + 1,)

    def support(self, event_shape: tuple[int, ...]) -> constraints.Constraint:
        return constraints.simplex

    def contains(self, params: Params, x: jax.Array) -> jax.Array:
        rounding = 8 * len(x) * jnp.finfo(x.dtype).eps
        return (x > 0).all() & (jnp.abs(x.sum() - 1) <= rounding)

    def forward(self, params: Params, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        t = z - self._even(z)
        # logarithms of the remainder before each part, and after the last
        left = jnp.concatenate([jnp.zeros(1, z.dtype), jnp.cumsum(log_sigmoid(-t))])
        x = jnp.exp(jnp.append(left[:-1] + log_sigmoid(t), left[-1]))
        x = jnp.maximum(x, jnp.finfo(x.dtype).tiny)
        return x / x.sum(), (left[:-1] + log_sigmoid(t) + log_sigmoid(-t)).sum()

    def inverse(self, params: Params, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        after = jnp.cumsum(x[::-1])[::-1][1:]  # summed from the end; 1 - sum would cancel
        t = jnp.log(x[:-1]) - jnp.log(after)
        left = jnp.cumsum(log_sigmoid(-t)) - log_sigmoid(-t)
        return t + self._even(t), -(left + log_sigmoid(t) + log_sigmoid(-t)).sum()

    def _even(self, z: jax.Array) -> np.ndarray:
        """The shift of z for which z = 0 makes all parts equal."""
        return np.log(np.arange(len(z), 0, -1)).astype(z.dtype)
