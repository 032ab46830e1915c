"""Simulation-based calibration. A correct posterior fails for one key in a hundred."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import programs
import pytest
from scipy.stats import chi2

from jaxgen.numpyro import NUTS, MeanField, Point, from_program, global_latents, sbc

KEY = jax.random.key(0)
BY_NUTS = NUTS(draws=300, warmup=200, chains=1)

# with 10 bins, a correct posterior has a larger chi2 once in a hundred runs
FEW = {"datasets": 200, "bins": 10}
CRITICAL = chi2.isf(0.01, 9)


def level(n, x=None):
    """A positive number whose logarithm has a normal posterior."""
    level = numpyro.sample("level", dist.LogNormal(0, 1))
    with numpyro.plate("rows", n):
        numpyro.sample("x", dist.LogNormal(jnp.log(level), 1), obs=x)


@pytest.fixture
def without_jacobian(monkeypatch):
    """Leave out the Jacobian of the map from the reals onto the values of the globals."""
    correct = global_latents.constrain

    def constrain(*arguments):
        values, log_p, log_det = correct(*arguments)
        return values, log_p, 0 * log_det

    monkeypatch.setattr(global_latents, "constrain", constrain)


def test_fits_are_calibrated():
    found = sbc(from_program(level), n=2, key=jax.random.key(1), **FEW)
    assert found.ranks.shape == (200, 1)
    assert found.chi2[0] < CRITICAL
    np.testing.assert_allclose(found.p_values, chi2.sf(found.chi2, 9), rtol=1e-4)
    assert found.calibrated
    assert "calibrated: 200 data sets" in str(found)
    assert found.figure().axes


@pytest.mark.usefixtures("without_jacobian")
def test_a_broken_jacobian_is_not_calibrated():
    def broken(n, x=None):
        level(n, x)

    found = sbc(from_program(broken), n=2, key=jax.random.key(1), **FEW)
    assert found.chi2[0] > CRITICAL
    assert not found.calibrated
    assert "NOT calibrated" in str(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "kind"),
    [
        (programs.normal, BY_NUTS),
        (programs.scaled, BY_NUTS),
        (programs.normal, MeanField()),
    ],
)
def test_many_fits_are_calibrated(program, kind):
    found = sbc(from_program(program, posterior=kind), n=10, key=jax.random.key(1))
    assert found.ranks.shape == (1000, 1)
    assert found.chi2[0] < 36.19
    assert found.calibrated
    assert "calibrated: 1000 data sets" in str(found)


@pytest.mark.slow
@pytest.mark.usefixtures("without_jacobian")
def test_a_broken_jacobian_of_nuts_is_not_calibrated():
    def broken(n, x=None):
        programs.scaled(n, x)

    found = sbc(from_program(broken, posterior=BY_NUTS), n=2, key=jax.random.key(1))
    assert found.chi2[0] > 36.19
    assert not found.calibrated


def test_sbc_refuses():
    model = from_program(programs.normal)
    with pytest.raises(ValueError, match="n is missing"):
        sbc(model, key=KEY)
    with pytest.raises(ValueError, match="bins must divide draws"):
        sbc(model, n=3, key=KEY, bins=7)
    with pytest.raises(ValueError, match="draws must be at most the 1 "):
        sbc(from_program(programs.normal, posterior=Point()), n=3, key=KEY)
    with pytest.raises(ValueError, match="global latents"):
        sbc(from_program(programs.factors), n=3, key=KEY)
