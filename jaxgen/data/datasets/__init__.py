"""Distributions with known densities, to test models on, and a list of first names.

>>> land = jaxgen.datasets.land()
>>> jaxgen.Fitted(land, land.init(None)).sample(jax.random.key(0), 3).shape
(3, 2)
"""

from jaxgen.data.datasets.land_model import Land, land
from jaxgen.data.datasets.names import first_names
from jaxgen.data.datasets.toys import (
    Checkerboard,
    EightGaussians,
    Pinwheel,
    TwoMoons,
    checkerboard,
    eight_gaussians,
    pinwheel,
    two_moons,
)

__all__ = [
    "Checkerboard",
    "EightGaussians",
    "Land",
    "Pinwheel",
    "TwoMoons",
    "checkerboard",
    "eight_gaussians",
    "first_names",
    "land",
    "pinwheel",
    "two_moons",
]
