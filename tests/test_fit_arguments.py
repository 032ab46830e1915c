"""Errors of ``fit`` about arguments, data and models."""

import math

import jax
import numpy as np
import optax
import pytest
from learners import KEY, Climber, Exponential, exponential

from jaxgen.core.model import Learning, Traits
from jaxgen.models import Gaussian, GaussianMixture
from jaxgen.training import fit
from jaxgen.training.fitted import Fitted

X = exponential(20)
BAD = [
    (Gaussian(1), {"epochs": 5}, ValueError, "epochs does not apply"),
    (Gaussian(1), {"batch_size": 5}, ValueError, "batch_size does not apply"),
    (Gaussian(1), {"validation": 0.1}, ValueError, "validation does not apply"),
    (Gaussian(1), {"freeze": ("mean",)}, ValueError, "freeze does not apply.*pass an optimizer"),
    (Gaussian(1), {"restarts": 2}, ValueError, "restarts does not apply"),
    (GaussianMixture(1, 2), {"batch_size": 5}, ValueError, "batch_size does not apply"),
    (GaussianMixture(1, 2), {"patience": 5}, ValueError, "patience does not apply"),
    (GaussianMixture(1, 2), {"restarts": 0}, ValueError, "restarts must be at least 1"),
    (GaussianMixture(1, 2), {"restarts": 1.5}, TypeError, "restarts must be an int"),
    (GaussianMixture(1, 2), {"epochs": 0}, ValueError, "epochs must be at least 1"),
    (Exponential(), {"restarts": 2}, ValueError, "restarts does not apply"),
    (Exponential(), {"epochs": 1.5}, TypeError, "epochs must be an int"),
    (Exponential(), {"epochs": True}, TypeError, "epochs must be an int"),
    (Exponential(), {"batch_size": 0}, ValueError, "batch_size must be at least 1"),
    (Exponential(), {"patience": "2"}, TypeError, "patience must be an int"),
    (Exponential(), {"validation": 1.0}, ValueError, r"validation must be a share in \[0, 1\)"),
    (Exponential(), {"validation": -0.1}, ValueError, r"validation must be a share in \[0, 1\)"),
    (Exponential(), {"validation": math.nan}, ValueError, "validation must be a share"),
    (Exponential(), {"validation": np.zeros((5, 2))}, ValueError, "validation: x must have shape"),
    (Exponential(), {"validation": (X, X)}, ValueError, "validation: y was given"),
    (Exponential(), {"validation": ()}, ValueError, "validation: a tuple must be"),
    (Exponential(), {"freeze": ("rate",)}, ValueError, "freeze names no param: 'rate'"),
    (Exponential(), {"freeze": ("log",)}, ValueError, "freeze names no param: 'log'"),
    (Exponential(), {"freeze": ("base", "bias")}, ValueError, "freeze leaves no param"),
    (Exponential(), {"freeze": 3}, TypeError, "freeze must be a sequence"),
    (Exponential(), {"optimizer": "adam"}, TypeError, "optimizer must be an optax"),
    (Exponential(), {"optimizer": optax.adam}, TypeError, "optimizer must be an optax"),
    (Exponential(), {"progress": "yes"}, TypeError, "progress must be True, False or None"),
    (Exponential(), {"key": 0}, TypeError, "key must be a PRNG key"),
    (Exponential(), {"y": X}, ValueError, "y was given"),
    (Exponential(), {"weights": -np.ones(20)}, ValueError, "weights must be non-negative"),
    (Exponential(), {"weights": np.full(20, 1e300)}, ValueError, "weights must fit in float32"),
    (Exponential(), {"x": np.full((20, 1), 1e300)}, ValueError, "x must fit in float32"),
    (Gaussian(1), {"x": np.full((20, 1), 1e300)}, ValueError, "x must fit in float32"),
    (Exponential(), {"x": np.full((20, 1), np.nan)}, ValueError, "x must be finite"),
    (Exponential(), {"x": np.zeros((20, 2))}, ValueError, "x must have shape"),
    (Exponential(), {"x": np.zeros((0, 1))}, ValueError, "x must hold at least one"),
    (Exponential, {}, TypeError, "model must be a Model"),
    ({"mean": 0}, {}, TypeError, "model must be a Model"),
]


@pytest.mark.parametrize(("model", "given", "error", "message"), BAD)
def test_bad_arguments_are_named(model, given, error, message):
    with pytest.raises(error, match=message):
        fit(model, **{"x": X, "key": KEY, **given})


def test_restarts_of_a_fitted_are_refused():
    start = Fitted(GaussianMixture(1, 2), {})
    with pytest.raises(ValueError, match="restarts does not apply to a Fitted"):
        fit(start, X, key=KEY, restarts=2)


def test_fit_within_a_trace_is_refused():
    with pytest.raises(TypeError, match="fit runs on the host"):
        jax.jit(lambda x: fit(Gaussian(1), x, key=KEY).params["mean"])(X)


def test_models_without_density_cannot_be_fitted_by_gradient():
    class Silent(Climber):
        traits = Traits(density="none")

    with pytest.raises(ValueError, match="no density"):
        fit(Silent(), np.zeros(5), key=KEY)


def test_params_that_overflow_are_an_error():
    class Cube(Climber):
        learning = Learning("closed_form")

        def estimate(self, x, y=None, weights=None):
            return {"height": x.max() ** 3}

    with pytest.raises(ValueError, match="x is too large"):
        fit(Cube(), np.full(5, 1e30), key=KEY)
