"""Fitting: closed forms, expectation-maximisation and gradients, behind one function."""

from jaxgen.fit.api import fit
from jaxgen.fit.optimizers import Adam

__all__ = ["Adam", "fit"]
