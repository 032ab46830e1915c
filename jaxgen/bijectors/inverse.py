"""An invertible map, taken the other way."""

from __future__ import annotations

from jaxgen.bijectors.bijector import Bijector


class Inverse(Bijector):
    """x = inner^-1(z): ``Inverse(Interval(0, 1))`` takes shares to their logits.

    Args:
      inner: the map from x to z, onto the places where the base may lie.

    Params: those of the inner map.
    """

    inner: Bijector

    def __post_init__(self):
        super().__post_init__()
        if self.inner.event_shape((2,)) != (2,):
            raise ValueError(f"Inverse: inner must keep the shape of events, got {self.inner}")

    def init(self, event_shape, x=None):
        return self.inner.init(event_shape)

    def part(self, params, features):
        return self.inner.part(params, features)

    def forward(self, params, z):
        return self.inner.inverse(params, z)

    def inverse(self, params, x):
        return self.inner.forward(params, x)
