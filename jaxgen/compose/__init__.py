"""Models made of models."""

from jaxgen.compose.dequantized import Dequantized
from jaxgen.compose.mixture import Mixture
from jaxgen.compose.product import Product
from jaxgen.compose.transformed import Transformed

__all__ = ["Dequantized", "Mixture", "Product", "Transformed"]
