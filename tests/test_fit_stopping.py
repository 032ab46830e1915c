"""When ``fit`` stops, which params it returns, and that an epoch uses every row."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from learners import KEY, Climber, EMClimber, Exponential, exponential, rate

from jaxgen.core.model import Learning
from jaxgen.models import GaussianMixture
from jaxgen.training import fit
from jaxgen.training.em import SHORT_RUNS
from jaxgen.training.fitted import Fitted


class Lottery(Climber):
    """EM that changes nothing, so that the params show which start was kept."""

    learning = Learning("em")

    def init(self, key, x=None, y=None):
        height = jax.random.uniform(key)
        return {"height": jnp.where(height > 0.8, jnp.nan, height)}

    def em_step(self, params, x, y=None, weights=None):
        return params, params["height"]


class Trap(Lottery):
    """EM whose best starts become NaN after one step."""

    def em_step(self, params, x, y=None, weights=None):
        height = params["height"]
        return {"height": jnp.where(height > 0.5, jnp.nan, height)}, height


# Each step adds 1/16, so the tenth exceeds a height of 0.6.
CLIMB = {"batch_size": 1, "optimizer": optax.sgd(1 / 16)}


def test_nan_between_epochs_returns_the_best_params():
    with pytest.warns(RuntimeWarning, match=r"not finite at step 10 \(epoch 10\)"):
        fitted = fit(Climber(), np.zeros(1), key=KEY, epochs=100, **CLIMB)
    assert fitted.history["stopped"] == "nan at step 10"
    assert float(fitted.params["height"]) == 9 / 16
    assert fitted.history["train"] == [step / 16 for step in range(1, 10)]
    assert fitted.history["best_epoch"] == 9


def test_nan_within_an_epoch_stops_at_once():
    with pytest.warns(RuntimeWarning, match=r"not finite at step 11 \(epoch 1\)"):
        fitted = fit(Climber(), np.zeros(50), key=KEY, validation=0, **CLIMB)
    assert fitted.history["stopped"] == "nan at step 11"
    assert float(fitted.params["height"]) == 0
    assert fitted.history["train"] == []


def test_an_epoch_that_turns_nan_is_finished_and_the_step_named():
    with pytest.warns(RuntimeWarning, match=r"not finite at step 11 \(epoch 2\)"):
        fitted = fit(Climber(), np.zeros(8), key=KEY, validation=0, **CLIMB)
    assert fitted.history["stopped"] == "nan at step 11"
    assert fitted.history["steps"] == 11
    assert fitted.history["epochs"] == 1
    assert float(fitted.params["height"]) == 0.5


def test_nan_in_em_returns_the_last_finite_params():
    with pytest.warns(RuntimeWarning, match="not finite at step 3"):
        fitted = fit(EMClimber(), np.zeros(5), key=KEY)
    assert fitted.history["stopped"] == "nan at step 3"
    assert float(fitted.params["height"]) == 0.5
    assert fitted.history["train"] == [0.0, 0.25, 0.5]


def test_em_stops_at_epochs():
    fitted = fit(EMClimber(), np.zeros(5), key=KEY, epochs=2)
    assert fitted.history["stopped"] == "epochs"
    assert float(fitted.params["height"]) == 0.5
    assert fitted.history["train"] == [0.0, 0.25, 0.5]
    assert fitted.history["steps"] == 2


def test_em_stops_at_its_tolerance():
    fitted = fit(GaussianMixture(1, 3), exponential(400), key=KEY, epochs=2000)
    gains = np.diff(fitted.history["train"])
    assert fitted.history["stopped"] == "converged"
    assert (gains[:-1] >= 1e-5).all()
    assert gains[-1] < 1e-5


def test_a_start_that_is_not_finite_is_an_error():
    start = Fitted(Climber(), {"height": jnp.array(jnp.nan)})
    with pytest.raises(ValueError, match="give row 0 a log-density of nan"):
        fit(start, np.zeros(5), key=KEY, **CLIMB)
    start = Fitted(EMClimber(), {"height": jnp.array(1.0)})
    with pytest.raises(ValueError, match="give row 0 a log-density of nan"):
        fit(start, np.zeros(5), key=KEY)


@pytest.mark.parametrize("weights", [None, np.r_[0.0, np.ones(99)]])
def test_a_row_of_zero_density_is_named(weights):
    x = exponential(100)
    x[42] = -1
    with pytest.raises(ValueError, match=r"x .*give row 42 zero density"):
        fit(Exponential(), x, key=KEY, weights=weights, validation=0)
    for seed in range(4):  # the row is in either part of the split
        with pytest.raises(ValueError, match=r"x .*give row 42 zero density"):
            fit(Exponential(), x, key=jax.random.key(seed), weights=weights, validation=0.5)
    with pytest.raises(ValueError, match=r"validation .*give row 42 zero density"):
        fit(Exponential(), exponential(100), key=KEY, validation=x)


def test_early_stopping_keeps_the_best():
    # training moves the rate from e to 5 and so passes the rate of the held-out rows, 3.5
    held_out = exponential(60, rate=3.5, seed=1)
    settings = {"key": KEY, "validation": held_out, "optimizer": optax.sgd(0.05), "epochs": 100}
    fitted = fit(Exponential(), exponential(60), patience=3, **settings)
    history = fitted.history
    assert history["stopped"] == "patience"
    assert history["epochs"] == history["best_epoch"] + 3 < 100
    best = max(history["validation"])
    assert history["validation"].index(best) + 1 == history["best_epoch"]
    assert best == pytest.approx(float(np.mean(fitted.log_prob(held_out))), abs=1e-5)
    assert history["validation"][-1] < best
    longer = fit(Exponential(), exponential(60), **settings)
    assert longer.history["epochs"] == 100
    assert rate(longer) == rate(fitted)


def starts_of(model, restarts):
    """The height of every start that EM tries: several short runs for each restart."""
    keys = [jax.random.fold_in(KEY, i) for i in range(restarts)]
    keys = [jax.random.fold_in(key, j) for key in keys for j in range(SHORT_RUNS)]
    return np.array([model.init(key)["height"] for key in keys])


def test_restarts_keep_the_best():
    fitted = fit(Lottery(), np.zeros(5), key=KEY, restarts=20)
    starts = starts_of(Lottery(), 20)
    assert np.isnan(starts).any()
    assert float(fitted.params["height"]) == np.nanmax(starts)
    assert fitted.history["train"][-1] == max(fitted.history["restarts"])


def test_restarts_that_turn_nan_lose_against_finite_ones():
    fitted = fit(Trap(), np.zeros(5), key=KEY, restarts=20)
    starts = starts_of(Trap(), 20)
    assert (starts > 0.5).any()
    assert float(fitted.params["height"]) == starts[starts <= 0.5].max()
    assert fitted.history["stopped"] == "converged"


@pytest.mark.parametrize("batch_size", [256, 7])
@pytest.mark.parametrize("n", [300, 257])
def test_an_epoch_sees_every_row_once(n, batch_size):
    x = exponential(n)
    weights = np.linspace(0.5, 2, n)
    fitted = fit(Exponential(), x, key=KEY, weights=weights, epochs=1, batch_size=batch_size,
                 optimizer=optax.sgd(0.0), validation=x[:5])  # fmt: skip
    mean = np.average(fitted.log_prob(x), weights=weights)
    assert fitted.history["train"] == pytest.approx([mean], abs=1e-5)
    assert fitted.history["steps"] == math.ceil(n / batch_size)
