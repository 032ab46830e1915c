"""Invertible maps, for ``compose.Transformed``.

>>> positive = jaxgen.compose.Transformed(jaxgen.models.Gaussian(2), jaxgen.bijectors.Positive())
>>> positive.support(np.array([0.5, -1.0])).item()
False
"""

from jaxgen.bijectors.affine import Affine
from jaxgen.bijectors.bijector import Bijector
from jaxgen.bijectors.bounded import Interval, Positive, Simplex
from jaxgen.bijectors.inverse import Inverse
from jaxgen.bijectors.linear import Linear, Permute

__all__ = ["Affine", "Bijector", "Interval", "Inverse", "Linear", "Permute", "Positive", "Simplex"]
