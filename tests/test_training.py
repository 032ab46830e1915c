"""Training by gradient: losses with noise, weight decay, ensembles and checkpoints."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.fit import fit
from jaxgen.fit.rows import mean_score, pad
from jaxgen.fitted import Fitted
from jaxgen.model import Model
from jaxgen.random import Normal

KEY = jax.random.key(0)


class Noisy(Model):
    """Learns the mean of x + noise by least squares. It has no density worth calling."""

    event_shape = ()
    density = "none"

    def init(self, key, x=None, y=None):
        return {"mean": jnp.zeros(())}

    def loss_noise(self):
        return {"shift": Normal()}

    def loss(self, params, noise, x, y=None):
        return (params["mean"] - x - noise["shift"]) ** 2


class Pure(Noisy):
    """A loss of noise alone."""

    def loss(self, params, noise, x, y=None):
        return noise["shift"] + 0 * params["mean"]


# A loss of the model's own.


def test_a_loss_with_noise_is_minimised():
    x = np.random.default_rng(0).normal(3, 1, 4000)
    fitted = fit(Noisy(), x, key=KEY, epochs=40, optimizer=optax.adam(0.02))
    # x + noise has deviation sqrt(2), and 3600 rows train
    assert float(fitted.params["mean"]) == pytest.approx(3, abs=5 * np.sqrt(2 / 3600))
    assert fitted.history["validation"][-1] == pytest.approx(-2, abs=5 * np.sqrt(8 / 400))


def test_noise_is_new_at_every_step_and_the_same_at_every_judging():
    settings = {"key": KEY, "epochs": 6, "batch_size": 50, "optimizer": optax.sgd(0.0)}
    history = fit(Pure(), np.zeros(400), **settings).history
    assert len(set(history["train"])) == 6
    assert len(set(history["validation"])) == 1
    # the mean of 360 numbers a time: five deviations
    assert np.abs(history["train"]).max() < 5 / np.sqrt(360)
    other = fit(Pure(), np.zeros(400), **{**settings, "key": jax.random.key(1)}).history
    assert not set(other["train"]) & set(history["train"])
    assert other["validation"] != history["validation"]


def test_noise_is_new_within_an_epoch():
    """Steps of one row: did all take the same noise, an epoch's mean would be of size 1."""
    settings = {"key": KEY, "epochs": 3, "batch_size": 1, "optimizer": optax.sgd(0.0)}
    history = fit(Pure(), np.zeros(900), validation=np.zeros(5), **settings).history
    assert np.abs(history["train"]).max() < 5 / np.sqrt(900)


def test_rows_that_judge_have_noise_of_their_own():
    params = {"mean": jnp.zeros(())}
    both = mean_score(Pure(), params, KEY, pad(np.zeros(2048), None, None))
    first = mean_score(Pure(), params, KEY, pad(np.zeros(2048), None, np.r_[:2048] < 1024))
    assert both != first


@pytest.mark.parametrize(
    ("value", "said"), [(jnp.nan, "a loss of nan"), (jnp.inf, "a loss of inf")]
)
def test_a_row_without_a_finite_loss_is_named(value, said):
    class Broken(Noisy):
        def loss(self, params, noise, x, y=None):
            return jnp.where(x == 7, value, x - params["mean"])

    x = np.arange(20.0)
    with pytest.raises(ValueError, match=f"give row 7 {said}"):
        fit(Broken(), x, key=KEY)


def test_a_start_of_another_model_is_scored_by_its_loss():
    start = Fitted(Noisy(), {"mean": jnp.array(jnp.nan)})
    with pytest.raises(ValueError, match="give row 0 a loss of nan"):
        fit(start, np.zeros(5), key=KEY)


def test_an_epoch_that_turns_nan_is_finished_and_the_step_named():
    class Cliff(Noisy):
        def loss_noise(self):
            return ()

        def loss(self, params, noise, x, y=None):
            return jnp.where(params["mean"] > 0.6, jnp.nan, -params["mean"]) + 0 * x

    with pytest.warns(RuntimeWarning, match=r"not finite at step 11 \(epoch 2\)"):
        fitted = fit(
            Cliff(), np.zeros(8), key=KEY, batch_size=1, optimizer=optax.sgd(1 / 16), validation=0
        )
    assert fitted.history["stopped"] == "nan at step 11"
    assert fitted.history["steps"] == 11
    assert fitted.history["epochs"] == 1
    assert float(fitted.params["mean"]) == 0.5


def test_losses_without_noise_are_likelihoods():
    class Plain(Noisy):
        density = "exact"

        def loss_noise(self):
            return ()

        def log_prob(self, params, x, y=None):
            return -((params["mean"] - x) ** 2)

        loss = Model.loss

    class Own(Plain):
        def loss(self, params, noise, x, y=None):
            return (params["mean"] - x) ** 2

    x = np.random.default_rng(0).normal(size=100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain, own = (fit(m, x, key=KEY, epochs=5) for m in (Plain(), Own()))
    assert plain.history["train"] == own.history["train"]
    assert plain.params == own.params
