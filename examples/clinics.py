"""A hierarchical regression on named covariates, which ``hierarchical.py`` fits.

It has a module of its own, since a saved program is found by the name of its module.
"""

import numpyro
import numpyro.distributions as dist

import jaxgen


def model(dose, clinic, effect=None):
    slope, mean = numpyro.sample("coefficients", dist.Normal(0, 1).expand([2]))
    spread, noise = numpyro.sample("deviations", dist.LogNormal(-1, 1).expand([2]))
    with numpyro.plate("clinics", 8):
        level = numpyro.sample("level", dist.Normal(mean, spread))
    with numpyro.plate("patients", len(dose)):
        numpyro.sample("obs", dist.Normal(level[clinic] + slope * dose, noise), obs=effect)


posterior = jaxgen.numpyro.FullRank(draws=1000)
rows = {"dose": [0.5], "clinic": [0]}  # their names and dtypes count
program = jaxgen.numpyro.from_program(model, covariates=rows, posterior=posterior)
