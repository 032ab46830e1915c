"""Models made of models."""

from jaxgen.compose.conditional import Conditional
from jaxgen.compose.dequantized import Dequantized
from jaxgen.compose.importance import GivenByImportance, MarginalByImportance
from jaxgen.compose.labelled import Labelled, PerClass
from jaxgen.compose.mixture import Mixture
from jaxgen.compose.product import Product
from jaxgen.compose.transformed import Transformed

__all__ = [
    "Conditional",
    "Dequantized",
    "GivenByImportance",
    "Labelled",
    "MarginalByImportance",
    "Mixture",
    "PerClass",
    "Product",
    "Transformed",
]
