"""Training by gradients: losses with noise, weight decay and ensembles."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from learners import KEY, SMALL, Leaves, Network, Noisy, Steep, waves

from jaxgen.compose import Mixture, PerClass
from jaxgen.core.model import Learning, Model, Traits
from jaxgen.core.random import Normal
from jaxgen.laws import count_compiles
from jaxgen.models import Gaussian, GaussianMixture, MaskedAutoregressive, SplineCoupling
from jaxgen.training import Adam, epochs, fit, fit_each, gradient
from jaxgen.training.fitted import Fitted
from jaxgen.training.rows import mean_score, pad


class Pure(Noisy):
    """A loss that is the noise alone."""

    def loss(self, params, noise, x, y=None):
        return noise["shift"] + 0 * params["mean"]


# Losses that a model defines.


def test_a_loss_with_noise_is_minimised():
    x = np.random.default_rng(0).normal(3, 1, 4000)
    fitted = fit(Noisy(), x, key=KEY, epochs=40, optimizer=optax.adam(0.02), validation=0.1)
    # x + noise has deviation sqrt(2), and 3600 rows train
    assert float(fitted.params["mean"]) == pytest.approx(3, abs=5 * np.sqrt(2 / 3600))
    assert fitted.history["validation"][-1] == pytest.approx(-2, abs=5 * np.sqrt(8 / 400))


def test_noise_is_new_at_every_step_and_fixed_for_validation():
    settings = {"key": KEY, "epochs": 6, "batch_size": 1, "optimizer": optax.sgd(0.0)}
    settings["validation"] = 0.1
    history = fit(Pure(), np.zeros(400), **settings).history
    assert len(set(history["train"])) == 6
    assert len(set(history["validation"])) == 1
    # 360 steps an epoch, of one row each; with the same noise in all, means would be of size 1.
    assert np.abs(history["train"]).max() < 5 / np.sqrt(360)
    other = fit(Pure(), np.zeros(400), **{**settings, "key": jax.random.key(1)}).history
    assert not set(other["train"]) & set(history["train"])
    assert other["validation"] != history["validation"]


class InTiles(Noisy):
    """``Noisy``, whose network takes 7 rows at once."""

    traits = Traits(tile=7)


def test_training_in_tiles_is_training_on_whole_batches():
    x, weights = np.arange(45.0), np.r_[np.ones(40), np.zeros(5)]
    settings = {"key": KEY, "epochs": 3, "batch_size": 20, "weights": weights}
    whole, tiled = (fit(model(), x, **settings) for model in (Noisy, InTiles))
    np.testing.assert_allclose(tiled.history["train"], whole.history["train"], rtol=1e-5)
    np.testing.assert_allclose(tiled.params["mean"], whole.params["mean"], rtol=1e-5)


def test_validation_rows_have_separate_noise():
    params = {"mean": jnp.zeros(())}
    score = jax.jit(lambda rows: mean_score(Pure(), params, KEY, rows))
    both = score(pad(np.zeros(2048), None, None))
    first = score(pad(np.zeros(2048), None, 1.0 * (np.r_[:2048] < 1024)))
    assert both != first


class Broken(Noisy):
    learning = Learning()

    def loss(self, params, noise, x, y=None):
        value = jnp.where(x == 7, jnp.nan, x - params["mean"])
        return jnp.where(x == 8, jnp.inf, value)


@pytest.mark.parametrize(("value", "said"), [(7, "a loss of nan"), (8, "a loss of inf")])
def test_a_row_without_a_finite_loss_is_named(value, said):
    x = np.zeros(20)
    x[11] = value
    with pytest.raises(ValueError, match=f"give row 11 {said}"):
        fit(Broken(), x, key=KEY, validation=0)


class Kink(Model):
    """log p = -|x - mean|^(1/2), which is finite at the mean, where its gradient is not."""

    event_shape = ()
    learning = Learning(keep="last")

    def init(self, key, x=None, y=None):
        return {"mean": jnp.zeros(())}

    def log_prob(self, params, x, y=None):
        return -jnp.sqrt(jnp.abs(x - params["mean"]))

    def noise(self):
        return Normal()


@pytest.mark.parametrize(
    "way",
    [
        lambda model, x: fit(model, x, key=KEY, **SMALL),
        lambda model, x: fit(model, x, key=KEY, ensemble=2, **SMALL),
        lambda model, x: fit(PerClass(model, 2), x, np.arange(20) // 10, key=KEY, **SMALL),
        lambda model, x: fit_each(model, np.stack([x, x]), key=KEY, epochs=2),
    ],
    ids=["one", "ensemble", "classes", "each"],
)
def test_a_row_without_a_finite_gradient_is_named(way):
    x = np.linspace(1, 2, 20)
    x[11] = 0
    with pytest.raises(ValueError, match=r"row 11, x = \(0\), has a gradient that is not finite"):
        way(Kink(), x)


@jax.custom_jvp
def hides_nan(height):
    return jnp.nan_to_num(height)


hides_nan.defjvps(lambda tangent, _, height: tangent * jnp.where(height > 0.6, jnp.nan, 1.0))


@pytest.mark.parametrize("keep", ["best", "last"])
def test_params_that_turn_nan_stop_the_training(keep):
    """The params before are returned, although the loss stays finite."""

    class Hiding(Kink):
        def log_prob(self, params, x, y=None):
            return hides_nan(params["mean"]) + 0 * x

    Hiding.learning = Learning(keep=keep)
    with pytest.warns(RuntimeWarning, match="not finite at step 11"):
        fitted = fit(
            Hiding(), np.zeros(1), key=KEY, epochs=30, optimizer=optax.sgd(1 / 16), validation=0
        )
    assert float(fitted.params["mean"]) == 10 / 16
    assert fitted.history["stopped"] == "nan at step 11"


class Estimated(Kink):
    """A model in closed form with one more param."""

    name: str = "extra"
    number: str = "nan"

    learning = Learning("closed_form")

    def estimate(self, x, y=None, weights=None):
        return {"mean": np.float64(5.0), self.name: np.array([1.0, float(self.number)])}


def test_params_that_are_not_finite_are_refused():
    """Logarithms of probabilities may be infinite; params are recognised by their names."""
    for name, number in (("log_weights", "-inf"), ("logits", "-inf"), ("logits", "inf")):
        fitted = fit(Estimated(name, number), np.zeros(5), key=KEY)
        assert fitted.params[name][1] == float(number)
    for name, number in (
        ("extra", "nan"),
        ("extra", "inf"),
        ("extra", "-inf"),
        ("logits", "nan"),
        ("log_weights", "inf"),
    ):
        with pytest.raises(ValueError, match=f"params {name} of .* would hold {number}"):
            fit(Estimated(name, number), np.zeros(5), key=KEY)


def test_a_start_of_another_model_is_scored_by_its_loss():
    start = Fitted(Leaves(), {**Leaves().init(KEY), "mean": jnp.nan})
    with pytest.raises(ValueError, match="give row 0 a loss of nan"):
        fit(start, np.zeros(5), key=KEY, **SMALL)


def test_losses_without_noise_are_likelihoods():
    class Plain(Noisy):
        learning = Learning()
        traits = Traits()

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


def learning_rates(steps):
    share = np.arange(1, steps + 1) / steps
    rise = np.minimum(share / 0.02, 1)
    return rise * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * share)))


def test_weight_decay_shrinks_matrices_alone():
    start = Leaves().init(KEY)
    settings = {**SMALL, "key": KEY, "epochs": 7}
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


def test_adam_on_one_vector_is_adam_on_a_tree():
    model, x = Network(3), waves(60)
    settings = {**SMALL, "key": KEY, "epochs": 20, "freeze": ("1/weight",)}
    spec = Adam(0.02, clip=0.5, weight_decay=0.1)
    ours = fit(model, x, optimizer=spec, **settings)
    theirs = fit(model, x, optimizer=adam_of_optax(0.02, 0.5, 0.1, 80), **settings)
    np.testing.assert_allclose(ours.history["train"], theirs.history["train"], rtol=1e-4)
    both = zip(*map(jax.tree_util.tree_leaves, (ours.params, theirs.params)), strict=True)
    for a, b in both:
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    with count_compiles() as count:
        plain = fit(model, x, optimizer=Adam(0.02, clip=0.5), **settings)
    assert count == [0]
    assert plain.history["train"] != ours.history["train"]


@pytest.mark.parametrize("bad", [{"weight_decay": -1}, {"clip": -1}, {"learning_rate": "fast"}])
def test_settings_of_adam_are_checked(bad):
    with pytest.raises((TypeError, ValueError), match=next(iter(bad))):
        Adam(**bad)


# Ensembles.


MOMENTUM = optax.sgd(0.3, momentum=0.5)


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
    ("model", "count", "settings"),
    [
        (Network(), 3, {"validation": waves(40, seed=1), "weights": np.linspace(0.5, 2, 60)}),
        (Network(), 6, {"optimizer": MOMENTUM, "freeze": ("0/bias",)}),
        (Leaves(), 3, {"optimizer": Adam(0.1, weight_decay=0.1), "validation": np.zeros(7)}),
    ],
    ids=["network", "optax", "leaves"],
)
def test_members_are_the_fits_of_their_keys(model, count, settings):
    x = waves(60) if model.event_shape else waves(60)[:, 1]
    settings = {**SMALL, "epochs": 6, **settings}
    fitted = fit(model, x, key=KEY, ensemble=count, **settings)
    assert fitted.model == Mixture(model, count)
    np.testing.assert_array_equal(fitted.params["logits"], np.zeros(count))
    history = fitted.history
    assert {name: history[name] for name in ("method", "epochs", "steps", "stopped")} == {
        "method": "gradient", "epochs": 6, "steps": 24, "stopped": "epochs"
    }  # fmt: skip
    for i, key in enumerate(member_keys(count)):
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
        **SMALL, "epochs": 60, "patience": 2, "validation": held_out, "optimizer": MOMENTUM,
        "freeze": ("0/bias",),
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
    falls = [i for i in range(8) if starts[i] > 0.25]  # 6 steps exceed 1
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
    # all keep the same initial params, so that only the held-out rows could differ
    start = Fitted(Network(), Network().init(jax.random.key(5)))
    settings = {**SMALL, "key": KEY, "validation": 0.2, "optimizer": Adam(0.0)}
    alone = fit(start, waves(60), **settings)
    ensemble = fit(start, waves(60), ensemble=3, **settings)
    for own in ensemble.history["members"]:
        assert own["validation"] == pytest.approx(alone.history["validation"])
        assert own["train"] == pytest.approx(alone.history["train"])
    # each row is for either training or validation
    validation, train = alone.history["validation"][0], alone.history["train"][0]
    whole = float(np.mean(start.log_prob(waves(60))))
    assert (12 * validation + 48 * train) / 60 == pytest.approx(whole, rel=1e-5)


def test_members_start_from_a_fitted():
    start = Fitted(Network(), Network().init(jax.random.key(5)), columns=("a", "b"))
    settings = {**SMALL, "optimizer": Adam(0.0)}
    fitted = fit(start, waves(60), key=KEY, ensemble=3, **settings)
    assert fitted.columns == ("a", "b")
    for i in range(3):
        assert_close(member(fitted, i), start.params, 0, 0)
    spoilt = Fitted(Leaves(), {**Leaves().init(KEY), "mean": jnp.nan})
    with pytest.raises(ValueError, match="give row 0 a loss of nan"):
        fit(spoilt, np.zeros(5), key=KEY, ensemble=3, **SMALL)


def loops(jaxpr):
    """The shapes of the predicate and of the carried values of every while loop in a program."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "while":
            predicate = equation.params["cond_jaxpr"].jaxpr.outvars[0]
            yield predicate.aval.shape, [v.aval.shape for v in equation.outvars]
        for value in jax.tree_util.tree_leaves(list(equation.params.values())):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from loops(inner)


def test_loops_of_an_ensemble_end_together(monkeypatch):
    """If members ended a loop separately, every turn would select among all carried values."""
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
    assert predicates == [(), ()]  # the loops over epochs and over minibatches


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


# Programs.


@pytest.mark.parametrize(
    ("model", "most"),
    [(SplineCoupling(2, 1, 4, 1), 8), (MaskedAutoregressive(2, 1, 4, 1), 8),
     (GaussianMixture(2, 3), 7)],
)  # fmt: skip
def test_a_first_fit_compiles_few_programs(model, most):
    """One program scores the start and trains, and one serves the short runs of EM too."""
    jax.clear_caches()
    with count_compiles() as count:
        fit(model, np.random.default_rng(0).normal(size=(300, 2)), key=KEY, epochs=2)
    assert count[0] <= most
