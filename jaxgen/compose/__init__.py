"""Models made of other models: mixtures, products, transforms, labels and conditions.

>>> mixture = jaxgen.compose.Mixture(jaxgen.models.Bernoulli((28, 28)), count=10)
"""

from jaxgen.compose.conditional import Conditional
from jaxgen.compose.dequantized import Dequantized
from jaxgen.compose.importance import GivenByImportance, MarginalByImportance
from jaxgen.compose.labelled import Labelled, PerClass
from jaxgen.compose.mixture import Mixture
from jaxgen.compose.mixture_general import MixtureGeneral
from jaxgen.compose.product import Product
from jaxgen.compose.quantized import Quantized
from jaxgen.compose.transformed import Transformed

__all__ = [
    "Conditional",
    "Dequantized",
    "GivenByImportance",
    "Labelled",
    "MarginalByImportance",
    "Mixture",
    "MixtureGeneral",
    "PerClass",
    "Product",
    "Quantized",
    "Transformed",
]
