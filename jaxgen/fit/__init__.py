"""Fitting: closed forms, expectation-maximisation, gradients and draws of posteriors."""

from jaxgen.fit.api import fit
from jaxgen.fit.each import fit_each, unstack
from jaxgen.fit.optimizers import Adam

__all__ = ["Adam", "fit", "fit_each", "unstack"]
