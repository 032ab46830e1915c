"""The contract of an invertible map, the twin of ``jaxgen/model.py``."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
from numpyro.distributions import constraints

from jaxgen.core.spec import Spec

Params = Any  # a pytree of arrays


class Bijector(Spec):
    """A smooth invertible map from a base event z to an event x, written for ONE event.

    A subclass gives ``forward`` and ``inverse``; the rest has defaults for a map without params
    that keeps the shape and reaches every real x.
    """

    rescalable: ClassVar[bool] = False  # is there a ``rescale``?

    def event_shape(self, base_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of x, given that of z."""
        return base_shape

    def support(self, event_shape: tuple[int, ...]):
        """NumPyro constraint of x, where z is real."""
        return constraints.independent(constraints.real, len(event_shape))

    def init(self, event_shape: tuple[int, ...], x=None) -> Params:
        """Params, from a batch of data (n, *event_shape) when given."""
        return {}

    def contains(self, params: Params, x) -> Any:
        """Whether ``inverse`` is defined at x, a scalar bool."""
        return jnp.asarray(True)

    def rescale(self, params: Params, shift, scale) -> Params:
        """Params of the map to ``shift + scale * x``: see ``Model.rescale``."""
        raise NotImplementedError(f"{type(self).__name__} has no rescale")

    def part(self, params: Params, features: tuple[int, ...]) -> Params:
        """Params of the map of some features, as a vector, where it takes them one by one."""
        raise NotImplementedError(f"{self} does not take features one by one")

    def forward(self, params: Params, z) -> tuple[Any, Any]:
        """x and log|det dx/dz|."""
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def inverse(self, params: Params, x) -> tuple[Any, Any]:
        """z and log|det dz/dx|."""
        raise NotImplementedError(f"{type(self).__name__} must define inverse")
