"""NumPyro in both directions: programs as models, and fitted models as distributions.

>>> program = jaxgen.numpyro.from_program(regression, y_shape=())
>>> fitted = jaxgen.fit(program, x, y, key=jax.random.key(0), epochs=20)
>>> jaxgen.numpyro.posterior(fitted)["slope"].shape
(100,)
"""

from jaxgen.numpyro.arviz import to_arviz
from jaxgen.numpyro.build_program import from_program
from jaxgen.numpyro.calibration import SBC, sbc
from jaxgen.numpyro.distillation import Distilled, distil
from jaxgen.numpyro.distribution import as_distribution
from jaxgen.numpyro.posteriors.full_rank import FullRank
from jaxgen.numpyro.posteriors.guide import Guide
from jaxgen.numpyro.posteriors.mean_field import MeanField
from jaxgen.numpyro.posteriors.nuts import NUTS
from jaxgen.numpyro.posteriors.point import Point
from jaxgen.numpyro.queries import (
    Estimate,
    estimate,
    latents,
    log_likelihood,
    posterior,
    predictive,
)

__all__ = [
    "NUTS",
    "SBC",
    "Distilled",
    "Estimate",
    "FullRank",
    "Guide",
    "MeanField",
    "Point",
    "as_distribution",
    "distil",
    "estimate",
    "from_program",
    "latents",
    "log_likelihood",
    "posterior",
    "predictive",
    "sbc",
    "to_arviz",
]
