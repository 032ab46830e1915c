"""Distributions to practise on whose density is known exactly."""

from jaxgen.data.datasets.land import Land, land
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
    "land",
    "pinwheel",
    "two_moons",
]
