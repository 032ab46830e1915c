"""jaxgen: fit a probability model to data in JAX, then draw from it and score with it."""

from jaxgen import bijectors, compose, models, random
from jaxgen.batch import log_prob, sample
from jaxgen.fitted import Fitted
from jaxgen.model import Model

__all__ = ["Fitted", "Model", "bijectors", "compose", "log_prob", "models", "random", "sample"]
