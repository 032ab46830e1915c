"""The families, one file each. To add one, write its file, list it here, and give it a test row.

>>> fitted = jaxgen.fit(jaxgen.models.Gaussian(2), x, key=key)
"""

from jaxgen.models.autoregressive import Autoregressive
from jaxgen.models.box import Box
from jaxgen.models.discrete import Bernoulli, Categorical
from jaxgen.models.flow_matching import FlowMatching
from jaxgen.models.gaussian import Gaussian
from jaxgen.models.gaussian_mixture import GaussianMixture
from jaxgen.models.histogram import Histogram
from jaxgen.models.kde import KDE
from jaxgen.models.masked_autoregressive import MaskedAutoregressive
from jaxgen.models.ngram import NGram
from jaxgen.models.spline_coupling import SplineCoupling

__all__ = [
    "KDE",
    "Autoregressive",
    "Bernoulli",
    "Box",
    "Categorical",
    "FlowMatching",
    "Gaussian",
    "GaussianMixture",
    "Histogram",
    "MaskedAutoregressive",
    "NGram",
    "SplineCoupling",
]
