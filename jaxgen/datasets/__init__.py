"""Distributions to practise on whose density is known exactly."""

from jaxgen.datasets.land import Land, land

__all__ = ["Land", "land"]
