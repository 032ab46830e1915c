"""Training by gradient: losses with noise, weight decay, ensembles and checkpoints."""

import contextlib
import itertools
import os
import re
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.check import count_compiles
from jaxgen.compose import Mixture
from jaxgen.files import write_atomically
from jaxgen.fit import Adam, checkpoint, epochs, fit, gradient, optimizers
from jaxgen.fit.progress import Progress
from jaxgen.fit.rows import mean_score, pad
from jaxgen.fitted import Fitted
from jaxgen.model import Model
from jaxgen.models import Gaussian, GaussianMixture
from jaxgen.precision import enable_x64
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
    settings = {"key": KEY, "epochs": 6, "batch_size": 1, "optimizer": optax.sgd(0.0)}
    history = fit(Pure(), np.zeros(400), **settings).history
    assert len(set(history["train"])) == 6
    assert len(set(history["validation"])) == 1
    # Steps of one row, 360 an epoch: did all take the same noise, a mean would be of size 1.
    assert np.abs(history["train"]).max() < 5 / np.sqrt(360)
    other = fit(Pure(), np.zeros(400), **{**settings, "key": jax.random.key(1)}).history
    assert not set(other["train"]) & set(history["train"])
    assert other["validation"] != history["validation"]


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


# few settings, so that tests share programs
SMALL = {"epochs": 2, "batch_size": 16, "validation": 0}


def waves(n, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    x[:, 1] = np.sin(2 * x[:, 0]) + 0.3 * x[:, 1]
    return x


@pytest.mark.parametrize("freeze", [(), ("0/weight",)])
def test_adam_on_one_vector_is_adam_on_a_tree(freeze):
    x = waves(60)
    settings = {**SMALL, "key": KEY, "epochs": 20, "freeze": freeze}
    spec = Adam(0.02, clip=0.5, weight_decay=0.1)
    ours = fit(Network(), x, optimizer=spec, **settings)
    theirs = fit(Network(), x, optimizer=adam_of_optax(0.02, 0.5, 0.1, 80), **settings)
    np.testing.assert_allclose(ours.history["train"], theirs.history["train"], rtol=1e-4)
    both = zip(*map(jax.tree_util.tree_leaves, (ours.params, theirs.params)), strict=True)
    for a, b in both:
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    with count_compiles() as count:
        plain = fit(Network(), x, optimizer=Adam(0.02, clip=0.5), **settings)
    assert count == [0]
    assert plain.history["train"] != ours.history["train"]


@pytest.mark.parametrize("bad", [{"weight_decay": -1}, {"clip": -1}, {"learning_rate": "fast"}])
def test_settings_of_adam_are_checked(bad):
    with pytest.raises((TypeError, ValueError), match=next(iter(bad))):
        Adam(**bad)


# Ensembles.


class Steep(Model):
    """log p = height, whatever x: NaN from 1 to 1.3. It starts below 0.8, and a step adds 1/8."""

    event_shape = ()

    def init(self, key, x=None, y=None):
        return {"height": 0.8 * jax.random.uniform(key)}

    def log_prob(self, params, x, y=None):
        height = params["height"]
        return height + jnp.where((height > 1) & (height < 1.3), jnp.nan, 0) + 0 * x


def member_keys(count):
    return [jax.random.fold_in(KEY, i) for i in range(count)]


def member(fitted, i):
    return jax.tree_util.tree_map(lambda leaf: leaf[i], fitted.params["component"])


def assert_close(got, wanted, rtol=1e-3, atol=1e-4):
    pairs = zip(*map(jax.tree_util.tree_leaves, (got, wanted)), strict=True)
    for a, b in pairs:
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def assert_same_history(got, wanted):
    assert {**got, "train": 0, "validation": 0, "best_score": 0} == {
        **wanted,
        "train": 0,
        "validation": 0,
        "best_score": 0,
    }
    for name in ("train", "validation", "best_score"):
        np.testing.assert_allclose(got[name], wanted[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (Network(), {"validation": waves(40, seed=1), "weights": np.linspace(0.5, 2, 60)}),
        (Network(), {"optimizer": optax.adam(1e-2), "validation": 0, "freeze": ("0/bias",)}),
        (Leaves(), {"optimizer": Adam(0.1, weight_decay=0.1), "validation": 0}),
        (Noisy(), {"optimizer": optax.sgd(0.1), "validation": np.zeros(7)}),
    ],
    ids=["network", "optax", "leaves", "noise"],
)
def test_members_are_the_fits_of_their_keys(model, settings):
    x = waves(60) if model.event_shape else waves(60)[:, 1]
    settings = {**SMALL, "epochs": 6, **settings}
    fitted = fit(model, x, key=KEY, ensemble=3, **settings)
    assert fitted.model == Mixture(model, 3)
    np.testing.assert_array_equal(fitted.params["logits"], np.zeros(3))
    history = fitted.history
    assert {name: history[name] for name in ("method", "epochs", "steps", "stopped")} == {
        "method": "gradient", "epochs": 6, "steps": 24, "stopped": "epochs"
    }  # fmt: skip
    for i, key in enumerate(member_keys(3)):
        alone = fit(model, x, key=key, **settings)
        assert_close(member(fitted, i), alone.params)
        history_alone = {k: v for k, v in alone.history.items() if k != "seconds"}
        assert_same_history(history["members"][i], history_alone)
    for name in ("train", "validation"):
        means = np.mean([own[name] for own in history["members"]], 0)
        assert history[name] == pytest.approx(list(means))


def test_an_ensemble_averages_densities():
    x = waves(60)
    fitted = fit(Network(), x, key=KEY, ensemble=3, **SMALL)
    each = [Fitted(Network(), member(fitted, i)).log_prob(x) for i in range(3)]
    average = np.log(np.mean(np.exp(np.float64(each)), 0))
    np.testing.assert_allclose(fitted.log_prob(x), average, rtol=1e-4, atol=1e-5)
    assert len({float(own[0]) for own in each}) == 3


def test_an_optimizer_a_member():
    x = waves(60)
    specs = [Adam(1e-2), Adam(1e-3, clip=0.1), Adam(1e-2, weight_decay=1.0)]
    settings = {**SMALL, "epochs": 10}
    fitted = fit(Network(), x, key=KEY, optimizer=specs, **settings)
    assert fitted.model.count == 3
    for i, key in enumerate(member_keys(3)):
        assert_close(
            member(fitted, i), fit(Network(), x, key=key, optimizer=specs[i], **settings).params
        )
    with count_compiles() as count:
        fit(Network(), x, key=KEY, optimizer=(Adam(1e-4),) * 3, ensemble=3, **settings)
    assert count == [0]


def test_members_stop_each_for_itself():
    x, held_out = waves(60), waves(60, seed=1)
    settings = {
        "epochs": 60, "patience": 2, "validation": held_out, "optimizer": optax.sgd(0.3),
    }  # fmt: skip
    fitted = fit(Network(), x, key=KEY, ensemble=6, **settings)
    for i, key in enumerate(member_keys(6)):
        alone = fit(Network(), x, key=key, **settings)
        own = fitted.history["members"][i]
        for name in ("epochs", "steps", "best_epoch", "stopped"):
            assert own[name] == alone.history[name]
        assert_close(member(fitted, i), alone.params)
    epochs = [own["epochs"] for own in fitted.history["members"]]
    assert len(set(epochs)) > 2
    assert len(fitted.history["train"]) == fitted.history["epochs"] == max(epochs)
    last = [own["train"][-1] for own in fitted.history["members"] if own["epochs"] == max(epochs)]
    assert fitted.history["train"][-1] == pytest.approx(np.mean(last))


def test_a_member_that_turns_nan_is_returned_at_its_best():
    settings = {"epochs": 6, "validation": 0, "optimizer": optax.sgd(0.125)}
    starts = [float(Steep().init(jax.random.fold_in(key, 0))["height"]) for key in member_keys(8)]
    falls = [i for i in range(8) if starts[i] > 0.25]  # 6 steps lead beyond 1
    assert 0 < len(falls) < 8
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted = fit(Steep(), np.zeros(5), key=KEY, ensemble=8, **settings)
    said = [str(one.message) for one in caught]
    assert len(said) == len(falls)
    assert all(one.filename == __file__ for one in caught)
    for i in range(8):
        own, start = fitted.history["members"][i], starts[i]
        steps = min(6, int((1 - start) / 0.125))
        assert own["best_epoch"] == own["epochs"] == steps
        assert float(member(fitted, i)["height"]) == pytest.approx(start + steps / 8, abs=1e-6)
        assert any(f"member {i} of" in one for one in said) == (i in falls)
        assert own["stopped"].startswith("nan at step") == (i in falls)
    assert np.isfinite(fitted.history["train"]).all()
    assert fitted.history["stopped"].startswith("epochs, nan at step")


def test_members_share_the_rows_held_out():
    class Fixed(Noisy):
        def loss_noise(self):
            return ()

        def loss(self, params, noise, x, y=None):
            return x + 0 * params["mean"]

    x = np.random.default_rng(0).normal(size=200)
    settings = {"key": KEY, "epochs": 2, "validation": 0.2}
    alone = fit(Fixed(), x, **settings)
    ensemble = fit(Fixed(), x, ensemble=3, **settings)
    for own in ensemble.history["members"]:
        assert own["validation"] == pytest.approx(alone.history["validation"])
        assert own["train"] == pytest.approx(alone.history["train"])


def test_members_start_from_a_fitted():
    start = Fitted(Network(), Network().init(jax.random.key(5)), columns=("a", "b"))
    settings = {**SMALL, "optimizer": Adam(0.0)}
    fitted = fit(start, waves(60), key=KEY, ensemble=3, **settings)
    assert fitted.columns == ("a", "b")
    for i in range(3):
        assert_close(member(fitted, i), start.params, 0, 0)
    with pytest.raises(ValueError, match="give row 0 a loss of nan"):
        fit(Fitted(Noisy(), {"mean": jnp.nan}), np.zeros(5), key=KEY, ensemble=2)


def loops(jaxpr):
    """Every while loop of a program: the shape of its predicate, and those of what it carries."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "while":
            predicate = equation.params["cond_jaxpr"].jaxpr.outvars[0]
            yield predicate.aval.shape, [v.aval.shape for v in equation.outvars]
        for value in jax.tree_util.tree_leaves(list(equation.params.values())):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from loops(inner)


def test_loops_of_an_ensemble_end_together(monkeypatch):
    """Where members end a loop apart, each turn of it selects among all that it carries."""
    seen = []

    def chunk(*args):
        seen.append(args)
        return compiled(*args)

    compiled = gradient._chunk
    monkeypatch.setattr(gradient, "_chunk", chunk)
    fit(Network(), waves(60), key=KEY, ensemble=3, **SMALL)
    program = jax.make_jaxpr(epochs.chunk, static_argnums=0)(*seen[0]).jaxpr
    numbers = sum(leaf.size for leaf in jax.tree_util.tree_leaves(Network().init(KEY)))
    predicates = [shape for shape, carried in loops(program) if (3, numbers) in carried]
    assert predicates == [(), ()]  # over epochs, and over minibatches


BAD = [
    (Gaussian(1), {"ensemble": 2}, ValueError, "ensemble does not apply.*pass an optimizer"),
    (Gaussian(1), {"checkpoint": "a"}, ValueError, "checkpoint does not apply"),
    (GaussianMixture(1, 2), {"ensemble": 2}, ValueError, "ensemble does not apply"),
    (GaussianMixture(1, 2), {"checkpoint": "a"}, ValueError, "checkpoint does not apply"),
    (Steep(), {"ensemble": 0}, ValueError, "ensemble must be at least 1"),
    (Steep(), {"ensemble": 1.5}, TypeError, "ensemble must be an int"),
    (Steep(), {"optimizer": []}, TypeError, "optimizer: a list must hold an Adam a member"),
    (Steep(), {"optimizer": [optax.sgd(1)]}, TypeError, "optimizer: a list must hold an Adam"),
    (Steep(), {"optimizer": [Adam()], "ensemble": 2}, ValueError, "got 1 for ensemble=2"),
    (Steep(), {"checkpoint": 3}, TypeError, "checkpoint must be a path"),
    (Steep(), {"checkpoint": "none/such"}, OSError, "there is no directory none"),
]


@pytest.mark.parametrize(("model", "given", "error", "message"), BAD)
def test_bad_arguments_are_named(model, given, error, message):
    with pytest.raises(error, match=message):
        fit(model, np.zeros((9, *model.event_shape)), key=KEY, **given)


# Checkpoints.


class Interrupt(Exception):
    """What a test raises in place of Ctrl-C."""


@contextlib.contextmanager
def interrupted(monkeypatch, after):
    """A run that stops once so many chunks are done."""
    advance, calls = Progress.advance, []

    def count(self, *args):
        calls.append(args)
        if len(calls) == after:
            raise Interrupt
        advance(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "advance", count)
        patch.setattr(gradient, "SOON", 0.0)  # chunks stay short
        with pytest.raises(Interrupt):
            yield


def assert_same_bits(a, b):
    pairs = zip(*map(jax.tree_util.tree_leaves, (a.params, b.params)), strict=True)
    for one, other in pairs:
        assert one.dtype == other.dtype
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
    assert {**a.history, "seconds": 0} == {**b.history, "seconds": 0}


@pytest.mark.parametrize("after", [1, 3])
@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (Network(), {"validation": 0.2}),
        (Network(), {"ensemble": 3, "optimizer": [Adam(), Adam(1e-3), Adam(weight_decay=1.0)]}),
        (Network(), {"optimizer": optax.adam(1e-3)}),
        (Network(), {"optimizer": optax.sgd(0.3), "ensemble": 6, "patience": 2}),
        (Leaves(), {"optimizer": optax.adam(1e-3, mu_dtype=jnp.bfloat16), "freeze": ("cube",)}),
        (Noisy(), {"optimizer": optax.chain(optax.add_noise(0.1, 0.5, 3), optax.sgd(0.1))}),
    ],
    ids=["adam", "ensemble", "optax", "patience", "leaves", "noise"],
)
def test_a_run_goes_on_where_it_stopped(model, settings, after, tmp_path, monkeypatch):
    x = waves(60) if model.event_shape else waves(60)[:, 1]
    settings = {**SMALL, "key": KEY, "epochs": 6, **settings}
    whole = fit(model, x, **settings)
    path = tmp_path / "run"
    with interrupted(monkeypatch, after):
        fit(model, x, checkpoint=path, **settings)
    counted, compiled = [], gradient._chunk
    monkeypatch.setattr(gradient, "_chunk", lambda *a: counted.append(a) or compiled(*a))
    resumed = fit(model, x, checkpoint=str(path), **settings)
    assert 0 < len(counted) <= 6 - after
    assert_same_bits(resumed, whole)

    counted.clear()
    written = path.stat().st_mtime_ns
    with count_compiles() as count:
        again = fit(model, x, checkpoint=path, **settings)
    assert_same_bits(again, whole)
    assert counted == []
    assert count == [0]
    assert path.stat().st_mtime_ns == written
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_within_a_chunk_keeps_the_last_complete_one(tmp_path, monkeypatch):
    settings = {**SMALL, "key": KEY, "epochs": 6, "checkpoint": tmp_path / "run"}
    counted = []

    def chunk(*args):
        counted.append(args)
        if len(counted) == 4:
            raise KeyboardInterrupt
        return compiled(*args)

    compiled = gradient._chunk
    monkeypatch.setattr(gradient, "_chunk", chunk)
    monkeypatch.setattr(gradient, "SOON", 0.0)  # chunks stay short
    with pytest.raises(KeyboardInterrupt):
        fit(Network(), waves(60), **settings)
    resumed = fit(Network(), waves(60), **settings)
    assert len(counted) == 4 + 3
    del settings["checkpoint"]
    assert_same_bits(resumed, fit(Network(), waves(60), **settings))


def test_a_run_that_turned_nan_is_done(tmp_path):
    settings = {"key": KEY, "validation": 0, "optimizer": optax.sgd(0.125), "epochs": 30}
    settings["checkpoint"] = tmp_path / "run"
    fitted = []
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match="not finite at step"):
            fitted.append(fit(Steep(), np.zeros(5), **settings))
    assert_same_bits(*fitted)


def test_short_runs_write_once_and_long_ones_by_the_chunk(tmp_path, monkeypatch):
    written = []

    @contextlib.contextmanager
    def counted(path):
        written.append(path)
        with write_atomically(path) as file:
            yield file

    monkeypatch.setattr(checkpoint, "write_atomically", counted)
    monkeypatch.setattr(gradient, "SOON", 0.0)  # chunks stay short
    settings = {**SMALL, "key": KEY, "epochs": 6}
    fit(Network(), waves(60), checkpoint=tmp_path / "a", **settings)
    assert written == [tmp_path / "a"]
    monkeypatch.setattr(checkpoint, "PAUSE", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", 1e9)
    fit(Network(), waves(60), checkpoint=tmp_path / "b", **settings)
    assert written[1:] == [tmp_path / "b"] * 6


RUN = {
    "model": Network(), "x": waves(60), "key": KEY, "epochs": 2, "batch_size": 16, "patience": 9,
    "validation": 0.2, "optimizer": Adam(), "freeze": ("0/bias",), "weights": np.ones(60),
    "ensemble": 2,
}  # fmt: skip
OTHER = {
    "model": [(Network(3), "model"), (Fitted(Network(), Network().init(KEY)), "start")],
    "x": [(waves(60, seed=1), "x")],
    "key": [(jax.random.key(1), "key"), (jax.random.key(0, impl="rbg"), "key")],
    "epochs": [(3, r"epochs \(2 there, 3 here\)")],
    "batch_size": [(17, r"batch_size \(16 there, 17 here\)")],
    "patience": [(8, "patience"), (None, "patience")],
    "validation": [(0.1, r"validation \(0.2 there, 0.1 here\)"), (waves(9), "validation")],
    "optimizer": [
        (Adam(1e-4), r"optimizer"), (Adam(clip=1.0), "optimizer"), (optax.sgd(1), "optimizer"),
        (Adam(weight_decay=0.1), "optimizer"), ([Adam(), Adam(1e-4)], "optimizer"),
    ],
    "freeze": [((), "freeze"), (("1.bias",), "freeze")],
    "weights": [(np.r_[2.0, np.ones(59)], "weights")],
    "ensemble": [(3, r"ensemble \(2 there, 3 here\)"), (None, "ensemble")],
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "run"
    fit(**RUN, checkpoint=path)
    return path


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [(name, value, said) for name, others in OTHER.items() for value, said in others],
)
def test_a_checkpoint_of_another_run_is_refused(name, value, said, finished):
    before = finished.read_bytes()
    with pytest.raises(ValueError, match=f"of another run, with other {said}.*: remove") as error:
        fit(**{**RUN, name: value}, checkpoint=finished)
    told = str(error.value).split("with other ")[1]
    assert not [one for one in OTHER if one != name and re.search(rf"(^|, ){one}[ ,:]", told)]
    assert finished.read_bytes() == before


def test_other_conditions_are_another_run(tmp_path):
    class Given(Noisy):
        y_shape = ()

        def loss(self, params, noise, x, y=None):
            return (x - params["mean"] * y) ** 2

    settings = {"key": KEY, **SMALL, "checkpoint": tmp_path / "run"}
    fit(Given(), np.ones(9), np.ones(9), **settings)
    with pytest.raises(ValueError, match="with other y:"):
        fit(Given(), np.ones(9), np.zeros(9), **settings)


def test_arguments_that_say_the_same_are_the_same_run(finished):
    same = {"freeze": "0.bias", "optimizer": [Adam(), Adam(5e-3)], "x": RUN["x"].tolist()}
    fit(**{**RUN, **same}, checkpoint=finished)


def test_a_checkpoint_in_another_precision_or_version_is_refused(finished, monkeypatch):
    with enable_x64(True), pytest.raises(ValueError, match=r"with other .*dtype"):
        fit(**RUN, checkpoint=finished)
    monkeypatch.setattr(gradient, "versions", lambda *_: "jax 0.1")
    with pytest.raises(ValueError, match="with other versions"):
        fit(**RUN, checkpoint=finished)


def spoiled(raw):
    yield b""
    yield b"notes"
    yield raw[:-1]
    yield raw[:100]
    yield raw + b"\0"
    for place in np.random.default_rng(0).integers(0, len(raw), 20):
        yield raw[:place] + bytes([raw[place] ^ 4]) + raw[place + 1 :]


def test_a_damaged_checkpoint_is_refused(finished, tmp_path):
    path = tmp_path / "run"
    for raw in spoiled(finished.read_bytes()):
        path.write_bytes(raw)
        with pytest.raises(ValueError, match=r"run is (damaged|of another run)"):
            fit(**RUN, checkpoint=path)
    Fitted(Network(), Network().init(KEY)).save(path)
    with pytest.raises(ValueError, match="run is damaged, or no checkpoint"):
        fit(**RUN, checkpoint=path)


DESCRIBE = """
import optax
from jaxgen.fit.optimizers import Adam, describe
rate = optax.cosine_decay_schedule(1e-3, 100)
def own(step):
    return 1e-3 if step in {1, 2, 3} else {"a": 2.0, "b": 3.0}["a"]
for made in (optax.adam(1e-3), optax.adamw(rate), optax.sgd(own), optax.lbfgs(), Adam(1e-3)):
    print(describe(made, None))
"""


def test_descriptions_of_optimizers_outlive_the_process():
    said = [
        subprocess.run(
            [sys.executable, "-c", DESCRIBE],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split("\n")
        for seed in (1, 2)
    ]
    assert said[0] == said[1]
    assert len(set(said[0])) == 6
    assert optimizers.describe(optax.adam(1e-3), 2) != optimizers.describe(optax.adam(2e-3), 2)
