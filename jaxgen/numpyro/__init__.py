"""NumPyro both ways: a program as a model, and a fitted model as a distribution."""

from jaxgen.numpyro.arviz import to_arviz as to_arviz
from jaxgen.numpyro.distil import Distilled as Distilled
from jaxgen.numpyro.distil import distil as distil
from jaxgen.numpyro.distribution import as_distribution as as_distribution
from jaxgen.numpyro.full_rank import FullRank as FullRank
from jaxgen.numpyro.posterior import NUTS as NUTS
from jaxgen.numpyro.posterior import Guide as Guide
from jaxgen.numpyro.posterior import MeanField as MeanField
from jaxgen.numpyro.posterior import Point as Point
from jaxgen.numpyro.program import from_program as from_program
from jaxgen.numpyro.queries import Estimate as Estimate
from jaxgen.numpyro.queries import estimate as estimate
from jaxgen.numpyro.queries import latents as latents
from jaxgen.numpyro.queries import log_likelihood as log_likelihood
from jaxgen.numpyro.queries import posterior as posterior
from jaxgen.numpyro.queries import predictive as predictive
from jaxgen.numpyro.sbc import SBC as SBC
from jaxgen.numpyro.sbc import sbc as sbc
