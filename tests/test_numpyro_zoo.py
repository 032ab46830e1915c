"""Published programs give the same figures as in NumPyro, or an error that names the site."""

import jax
import numpy as np
import pytest
import zoo

import jaxgen
from jaxgen.core.precision import enable_x64
from jaxgen.numpyro import NUTS, MeanField

QUICK = (
    "radon_noncentred", "binomial_admissions", "growth_years", "mask_outside", "thinned_counts",
    "uniform_up_to", "measurement_error", "counts_of_4e9",
)  # fmt: skip
SERVED = [case.name for case in zoo.CASES if not case.refused]
REFUSED = [case.name for case in zoo.CASES if case.refused]


def started(case):
    """The program checked with its data, its globals drawn from the prior."""
    posterior = MeanField(20) if case.name == "param_of_noise" else NUTS(draws=20, chains=1)
    model = zoo.model_of(case, posterior)
    model = model.for_data(np.asarray(case.x, np.result_type(float)), case.y)
    return jaxgen.Fitted(model, model.init(jax.random.key(0)))


def check(case):
    fitted = started(case)
    assert zoo.log_p_difference(case, fitted) <= zoo.log_p_tolerance(fitted)
    assert zoo.predictive_z(case, fitted) <= zoo.Z


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in SERVED]
)
def test_scores_and_draws_are_those_of_numpyro(name):
    case = zoo.named(name)
    with enable_x64(case.wide):
        check(case)


def test_a_changed_global_counts():
    case = zoo.named("reads_a_global")
    try:
        for value in (1.0, 0.1):
            case.change(value)
            check(case)
    finally:
        case.change(1.0)


@pytest.mark.parametrize("name", REFUSED)
def test_invalid_programs_raise_errors_that_name_them(name):
    case = zoo.named(name)
    with pytest.raises(ValueError, match=rf"{name}.*'{case.refused}'"):
        jaxgen.fit(zoo.model_of(case), case.x, case.y, key=jax.random.key(0), epochs=1)
