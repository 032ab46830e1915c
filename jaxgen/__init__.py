"""jaxgen: fit a probability model to data in JAX, then draw from it and score with it."""

from jaxgen import bijectors, compose, datasets, domains, models, numpyro, random
from jaxgen.batch import classify, log_prob, sample
from jaxgen.check import check
from jaxgen.compiler import cache_compilations
from jaxgen.evaluate import Report, evaluate
from jaxgen.files import load
from jaxgen.fit import fit, fit_each, unstack
from jaxgen.fitted import Fitted
from jaxgen.model import Model

__all__ = [
    "Fitted",
    "Model",
    "Report",
    "bijectors",
    "cache_compilations",
    "check",
    "classify",
    "compose",
    "datasets",
    "domains",
    "evaluate",
    "fit",
    "fit_each",
    "load",
    "log_prob",
    "models",
    "numpyro",
    "random",
    "sample",
    "unstack",
]
