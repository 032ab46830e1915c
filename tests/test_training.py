"""Training by gradient: losses with noise, weight decay, ensembles and checkpoints."""

import contextlib
import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.fit import Adam, fit
from jaxgen.fit.rows import mean_score, pad
from jaxgen.fitted import Fitted
from jaxgen.model import Model
from jaxgen.random import Normal

KEY = jax.random.key(0)
_compiled: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: _compiled.append(event) if "backend_compile_duration" in event else None
)


@contextlib.contextmanager
def compiles():
    """How many programs the block compiled, as a list that fills when it ends."""
    before, count = len(_compiled), []
    yield count
    count.append(len(_compiled) - before)


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


# Adam's weight decay, and its params in one vector.


class Leaves(Model):
    """Params of several ranks and no gradient: what moves them is weight decay."""

    event_shape = ()
    frozen = ("fixed",)

    def init(self, key, x=None, y=None):
        scale = jnp.arange(1.0, 7.0)
        return {
            "a": scale[0],
            "b": {"matrix": scale.reshape(2, 3), "vector": -scale},
            "cube": scale.reshape(3, 1, 2),
            "fixed": scale.reshape(3, 2),
            "version": 7,
        }

    def log_prob(self, params, x, y=None):
        size = sum(jnp.abs(leaf).sum() for leaf in jax.tree_util.tree_leaves(params))
        return -(x**2) - jax.lax.stop_gradient(size)  # smaller is better, so the end is kept


def learning_rates(steps):
    share = np.arange(1, steps + 1) / steps
    rise = np.minimum(share / 0.02, 1)
    return rise * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * share)))


def test_weight_decay_shrinks_matrices_alone():
    start = Leaves().init(KEY)
    settings = {"key": KEY, "epochs": 7, "validation": 0}
    fitted = fit(Leaves(), np.zeros(9), optimizer=Adam(0.1, weight_decay=0.5), **settings)
    kept = np.prod(1 - 0.5 * 0.1 * learning_rates(7))
    for name in ("a", "fixed", "version"):
        np.testing.assert_array_equal(fitted.params[name], start[name])
    np.testing.assert_array_equal(fitted.params["b"]["vector"], start["b"]["vector"])
    for got, first in [
        (fitted.params["cube"], start["cube"]),
        (fitted.params["b"]["matrix"], start["b"]["matrix"]),
    ]:
        np.testing.assert_allclose(got, kept * first, rtol=1e-5)


def adam_of_optax(learning_rate, clip, weight_decay, steps):
    """The default optimizer as optax has it: params as a tree."""
    table = jnp.asarray(learning_rate * learning_rates(steps), jnp.float32)
    return optax.chain(
        optax.clip_by_global_norm(clip),
        optax.adamw(
            lambda count: table[count],
            weight_decay=weight_decay,
            mask=lambda params: jax.tree_util.tree_map(lambda leaf: jnp.ndim(leaf) >= 2, params),
        ),
    )


class Network(Model):
    """x_1 given x_0, by a network: leaves of one and two dimensions, out of order by rank."""

    layers: int = 2

    event_shape = (2,)

    def init(self, key, x=None, y=None):
        widths = [1, *(4 for _ in range(self.layers - 1)), 2]
        keys = jax.random.split(key, self.layers)
        shapes = itertools.pairwise(widths)
        return [
            {"bias": jnp.zeros(shape[1]), "weight": jax.random.normal(key, shape)}
            for key, shape in zip(keys, shapes, strict=True)
        ]

    def log_prob(self, params, x, y=None):
        hidden = x[:1]
        for i, layer in enumerate(params):
            hidden = (jnp.tanh(hidden) if i else hidden) @ layer["weight"] + layer["bias"]
        location, log_scale = hidden[0], jnp.tanh(hidden[1])
        return -0.5 * ((x[1] - location) * jnp.exp(-log_scale)) ** 2 - log_scale - 0.5 * x[0] ** 2

    def noise(self):
        return Normal((2,))


def waves(n, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    x[:, 1] = np.sin(2 * x[:, 0]) + 0.3 * x[:, 1]
    return x


@pytest.mark.parametrize("freeze", [(), ("0/weight",), ("1",)])
def test_adam_on_one_vector_is_adam_on_a_tree(freeze):
    x = waves(500)
    settings = {"key": KEY, "epochs": 8, "validation": 0, "batch_size": 50, "freeze": freeze}
    spec = Adam(0.02, clip=0.5, weight_decay=0.1)
    ours = fit(Network(), x, optimizer=spec, **settings)
    theirs = fit(Network(), x, optimizer=adam_of_optax(0.02, 0.5, 0.1, 80), **settings)
    np.testing.assert_allclose(ours.history["train"], theirs.history["train"], rtol=1e-4)
    both = zip(*map(jax.tree_util.tree_leaves, (ours.params, theirs.params)), strict=True)
    for a, b in both:
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    with compiles() as count:
        plain = fit(Network(), x, optimizer=Adam(0.02, clip=0.5), **settings)
    assert count == [0]
    assert plain.history["train"] != ours.history["train"]


@pytest.mark.parametrize("bad", [{"weight_decay": -1}, {"clip": -1}, {"learning_rate": "fast"}])
def test_settings_of_adam_are_checked(bad):
    with pytest.raises((TypeError, ValueError), match=next(iter(bad))):
        Adam(**bad)
