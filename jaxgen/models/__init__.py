"""The families, one file each. To add one, write its file, list it here, and give it a test row.

>>> fitted = jaxgen.fit(jaxgen.models.Gaussian(2), x, key=key)
"""

from jaxgen.models.autoregressive import Autoregressive
from jaxgen.models.box import Box
from jaxgen.models.diffusion import Diffusion
from jaxgen.models.discrete import Bernoulli, Categorical
from jaxgen.models.flow_matching import FlowMatching
from jaxgen.models.gaussian import Gaussian
from jaxgen.models.gaussian_mixture import GaussianMixture
from jaxgen.models.histogram import Histogram
from jaxgen.models.kde import KDE
from jaxgen.models.masked_autoregressive import MaskedAutoregressive
from jaxgen.models.ngram import NGram
from jaxgen.models.pixel_autoregressive import PixelAutoregressive
from jaxgen.models.spline_coupling import SplineCoupling
from jaxgen.models.vae import VAE

__all__ = [
    "KDE",
    "VAE",
    "Autoregressive",
    "Bernoulli",
    "Box",
    "Categorical",
    "Diffusion",
    "FlowMatching",
    "Gaussian",
    "GaussianMixture",
    "Histogram",
    "MaskedAutoregressive",
    "NGram",
    "PixelAutoregressive",
    "SplineCoupling",
]
