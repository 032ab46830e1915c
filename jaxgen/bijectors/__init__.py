"""Invertible maps, for ``compose.Transformed``."""

from jaxgen.bijectors.affine import Affine
from jaxgen.bijectors.bijector import Bijector
from jaxgen.bijectors.domains import Interval, Positive, Simplex

__all__ = ["Affine", "Bijector", "Interval", "Positive", "Simplex"]
