"""Invertible maps, for ``compose.Transformed``."""

from jaxgen.bijectors.affine import Affine
from jaxgen.bijectors.bijector import Bijector
from jaxgen.bijectors.bounded import Interval, Positive, Simplex
from jaxgen.bijectors.inverse import Inverse
from jaxgen.bijectors.linear import Linear, Permute

__all__ = ["Affine", "Bijector", "Interval", "Inverse", "Linear", "Permute", "Positive", "Simplex"]
