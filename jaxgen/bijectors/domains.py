"""Maps of the reals onto the places where data may lie: an interval, the positives, the simplex."""

from __future__ import annotations

import jax.numpy as jnp
from numpyro.distributions import constraints
from numpyro.distributions.transforms import biject_to

from jaxgen.bijectors.bijector import Bijector


class _Onto(Bijector):
    """A map onto the support of a NumPyro constraint, by NumPyro's own transform."""

    @property
    def _transform(self):
        return biject_to(self._constraint)

    @property
    def _constraint(self):
        raise NotImplementedError

    def support(self, event_shape):
        return constraints.independent(self._constraint, len(event_shape))

    def forward(self, params, z):
        transform = self._transform
        x = transform(z)
        return x, jnp.sum(transform.log_abs_det_jacobian(z, x))

    def inverse(self, params, x):
        transform = self._transform
        z = transform.inv(x)
        return z, -jnp.sum(transform.log_abs_det_jacobian(z, x))


class Positive(_Onto):
    """x = exp(z) for each feature, onto x > 0."""

    @property
    def _constraint(self):
        return constraints.positive

    def contains(self, params, x):
        return (x > 0).all()

    def forward(self, params, z):
        x, log_det = super().forward(params, z)
        return jnp.maximum(x, jnp.finfo(x.dtype).tiny), log_det  # exp may underflow to the edge


class Interval(_Onto):
    """x = low + (high - low) sigmoid(z) for each feature, onto low < x < high.

    Args:
      low: lower edge, in the units of x.
      high: upper edge.
    """

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if not self.low < self.high:
            raise ValueError(f"Interval: low must be below high, got {self.low} and {self.high}")

    @property
    def _constraint(self):
        return constraints.open_interval(self.low, self.high)

    def contains(self, params, x):
        return ((x > self.low) & (x < self.high)).all()

    def forward(self, params, z):
        x, log_det = super().forward(params, z)
        low, high = jnp.asarray(self.low, x.dtype), jnp.asarray(self.high, x.dtype)
        # sigmoid saturates in floating point; a sample must not lie on the edge
        return jnp.clip(x, jnp.nextafter(low, high), jnp.nextafter(high, low)), log_det


class Simplex(_Onto):
    """Stick-breaking from dim - 1 reals onto positive x of dim parts that sum to one.

    The density is with respect to the first dim - 1 parts, as in NumPyro and Stan.

    Source: Stan Reference Manual, "Unit simplex".
    """

    @property
    def _constraint(self):
        return constraints.simplex

    def base_shape(self, event_shape):
        return (*event_shape[:-1], event_shape[-1] - 1)

    def event_shape(self, base_shape):
        return (*base_shape[:-1], base_shape[-1] + 1)

    def support(self, event_shape):
        return constraints.independent(self._constraint, len(event_shape) - 1)

    def contains(self, params, x):
        rounding = 8 * x.shape[-1] * jnp.finfo(x.dtype).eps
        return ((x > 0).all(-1) & (jnp.abs(x.sum(-1) - 1) <= rounding)).all()

    def forward(self, params, z):
        x, log_det = super().forward(params, z)
        x = jnp.maximum(x, jnp.finfo(x.dtype).tiny)
        return x / x.sum(-1, keepdims=True), log_det
