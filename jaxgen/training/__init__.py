"""Fitting: closed forms, expectation-maximisation, gradients and draws of posteriors."""

from jaxgen.training.api import fit
from jaxgen.training.each import fit_each, unstack
from jaxgen.training.optimizers import Adam

__all__ = ["Adam", "fit", "fit_each", "unstack"]
