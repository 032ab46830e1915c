"""The inverse of a bijector."""

from __future__ import annotations

from typing import Any

import jax

from jaxgen.bijectors.bijector import Bijector
from jaxgen.core.spec import Params


class Inverse(Bijector):
    """x = inner^-1(z): ``Inverse(Interval(0, 1))`` maps probabilities to logits.

    Args:
      inner: the map from x to z, onto the support of the base.

    Params: those of the inner map.
    """

    inner: Bijector

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inner.event_shape((2,)) != (2,):
            raise ValueError(f"Inverse: inner must keep the shape of events, got {self.inner}")

    @property
    def elementwise(self) -> bool:
        return self.inner.elementwise

    def init(self, event_shape: tuple[int, ...], x: Any = None) -> Params:
        return self.inner.init(event_shape)

    def degrees_of_freedom(self, params: Params) -> int:
        return self.inner.degrees_of_freedom(params)

    def part(self, params: Params, features: tuple[int, ...]) -> Params:
        return self.inner.part(params, features)

    def forward(self, params: Params, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.inner.inverse(params, z)

    def inverse(self, params: Params, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.inner.forward(params, x)
