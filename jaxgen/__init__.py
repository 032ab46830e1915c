"""jaxgen: fit a probability model to data in JAX, then draw from it and score with it."""

from jaxgen import bijectors, compose, data, laws, metrics, models, networks, numpyro, training
from jaxgen.core import random
from jaxgen.core.compiler import cache_compilations
from jaxgen.core.functions import classify, log_prob, sample
from jaxgen.core.model import Learning, Model, Traits
from jaxgen.core.wrapper import Inner, Wrapper
from jaxgen.data import datasets
from jaxgen.data.bulk import generate, score_files
from jaxgen.laws import check
from jaxgen.metrics import Report, evaluate
from jaxgen.networks import domains
from jaxgen.training import fit, fit_each, select, unstack
from jaxgen.training.fitted import Fitted, load

__all__ = [
    "Fitted",
    "Inner",
    "Learning",
    "Model",
    "Report",
    "Traits",
    "Wrapper",
    "bijectors",
    "cache_compilations",
    "check",
    "classify",
    "compose",
    "data",
    "datasets",
    "domains",
    "evaluate",
    "fit",
    "fit_each",
    "generate",
    "laws",
    "load",
    "log_prob",
    "metrics",
    "models",
    "networks",
    "numpyro",
    "random",
    "sample",
    "score_files",
    "select",
    "training",
    "unstack",
]


def __dir__() -> list[str]:
    return __all__
