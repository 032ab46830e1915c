"""Distributions with known densities, to test models on; first names; and images.

>>> land = jaxgen.datasets.land()
>>> jaxgen.Fitted(land, land.init(None)).sample(jax.random.key(0), 3).shape
(3, 2)
"""

from jaxgen.data.datasets.land_model import Land, land
from jaxgen.data.datasets.names import first_names
from jaxgen.data.datasets.quick_draw import Drawings, drawings
from jaxgen.data.datasets.sprite_images import Sprites, sprites
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
    "Drawings",
    "EightGaussians",
    "Land",
    "Pinwheel",
    "Sprites",
    "TwoMoons",
    "checkerboard",
    "drawings",
    "eight_gaussians",
    "first_names",
    "land",
    "pinwheel",
    "sprites",
    "two_moons",
]
