"""``fit``: the params that it finds, the programs that it compiles, weights and freezing."""

import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from learners import (
    KEY,
    EMClimber,
    Exponential,
    Regression,
    exponential,
    leaves,
    rate,
    two_normals,
)

from jaxgen.core.precision import enable_x64
from jaxgen.laws import count_compiles
from jaxgen.models import Box, Gaussian, GaussianMixture
from jaxgen.training import Adam, fit
from jaxgen.training.fitted import Fitted
from jaxgen.training.rows import as_params

X = exponential(20)


# Params. Bounds are five standard errors, which fail one time in 1.7 million.


def test_closed_form_recovers_params():
    truth = Fitted(
        Gaussian(2),
        {"mean": jnp.array([1.0, -2.0]), "scale_tril": jnp.array([[2.0, 0.0], [1.0, 0.5]])},
    )
    x = truth.sample(KEY, 20_000)
    fitted = fit(Gaussian(2), x, key=KEY)
    np.testing.assert_allclose(fitted.params["mean"], [1, -2], atol=5 * 2 / math.sqrt(20_000))
    np.testing.assert_allclose(
        fitted.params["scale_tril"], truth.params["scale_tril"], atol=5 * 2 / math.sqrt(20_000)
    )
    assert fitted.history["method"] == "closed_form"
    assert fitted.history["seconds"] > 0


def test_em_recovers_params():
    fitted = fit(GaussianMixture(1, 2), two_normals(20_000), key=KEY)
    params = jax.device_get(fitted.params)
    by_mean = np.argsort(params["mean"][:, 0])
    np.testing.assert_allclose(params["mean"][by_mean, 0], [-4, 3], atol=0.07)
    np.testing.assert_allclose(params["scale_tril"][by_mean, 0, 0], [1, 0.5], atol=0.05)
    share = scipy.special.softmax(params["logits"])[by_mean]
    np.testing.assert_allclose(share, [0.3, 0.7], atol=0.017)
    history = fitted.history
    assert history["stopped"] == "converged"
    assert len(history["train"]) in (history["steps"], history["steps"] + 1)
    assert min(np.diff(history["train"])) >= 0
    score = float(np.mean(fitted.log_prob(two_normals(20_000))))
    assert history["train"][-1] == pytest.approx(score, abs=1e-4)


def test_gradient_recovers_params():
    fitted = fit(Exponential(), exponential(20_000), key=KEY, validation=0.0, epochs=20)
    assert rate(fitted) == pytest.approx(5, abs=5 * 5 / math.sqrt(20_000))
    best = 1 / exponential(20_000).mean()
    assert rate(fitted) == pytest.approx(best, rel=2e-3)
    score = float(np.mean(fitted.log_prob(exponential(20_000))))
    assert max(fitted.history["train"]) == pytest.approx(score, abs=1e-4)
    assert fitted.params["version"] == 7
    assert fitted.params["version"].dtype == jnp.int32


def test_conditional_model_with_held_out_pairs():
    rng = np.random.default_rng(0)
    y = rng.normal(size=1000)
    x = 3 * y + rng.normal(size=1000)
    settings = {"key": KEY, "optimizer": Adam(3e-2)}
    fitted = fit(Regression(), x, y, validation=(x, y), epochs=200, **settings)
    slope = (x * y).sum() / (y * y).sum()
    assert float(fitted.params["slope"]) == pytest.approx(slope, abs=0.01)
    best = max(fitted.history["validation"])
    assert best == pytest.approx(float(np.mean(fitted.log_prob(x, y))), abs=1e-5)
    twice = np.r_[x, x], np.r_[y, y]
    shares = fit(Regression(), *twice, validation=0.5, epochs=2, **settings)
    assert len(shares.history["validation"]) == 2


def test_an_optimizer_fits_any_density_by_gradient():
    x = exponential(1000)
    start = fit(GaussianMixture(1, 2), x, key=KEY, epochs=1)
    refined = fit(start, x, key=KEY, optimizer=Adam(1e-2), epochs=100, validation=0)
    assert refined.history["method"] == "gradient"
    assert refined.history["train"][-1] > start.history["train"][-1] + 0.01


@pytest.mark.parametrize(
    ("name", "jitter"), [("iris", 1e-6), ("wine", 1e-6), ("digits", 1e-2)], ids=lambda v: str(v)
)
def test_em_against_scikit_learn(name, jitter):
    """The best of five starts reaches scikit-learn's best of five, less 0.01 nats.

    Starts reach optima by chance: with other keys either side may be better by more than that.
    """
    datasets = pytest.importorskip("sklearn.datasets")
    mixture = pytest.importorskip("sklearn.mixture")
    x = getattr(datasets, f"load_{name}")().data[:600]
    x = (x - x.mean(0)) / np.where(x.std(0) > 0, x.std(0), 1)
    form, ours = ("full", "full") if name == "iris" else ("diag", "diagonal")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = mixture.GaussianMixture(3, covariance_type=form, reg_covar=jitter, n_init=5)
        peer.set_params(random_state=0).fit(x)
    with enable_x64(True):
        fitted = fit(GaussianMixture(x.shape[1], 3, ours, jitter), x, key=KEY, restarts=5)
        score = float(np.mean(fitted.log_prob(x)))
    assert fitted.params["mean"].dtype == np.float64
    assert score == pytest.approx(fitted.history["train"][-1], abs=1e-9)
    assert score >= peer.score(x) - 0.01


# Compilation.


def test_em_compiles_once_for_data_of_similar_size():
    x = two_normals(1000)
    model = GaussianMixture(1, 2)
    start = Fitted(model, model.init(KEY, two_normals(1024, seed=1)))
    fit(start, x, key=KEY)
    other = jax.random.key(1)  # making a key compiles a program too
    with count_compiles() as count:
        fit(start, x, key=KEY)
        fit(start, two_normals(990, seed=2), key=other, epochs=30)
    assert count == [0]


def test_gradient_compiles_once_for_equal_arguments():
    x = exponential(1000)
    first = fit(Exponential(), x, key=KEY, epochs=3, optimizer=optax.adam(1e-3))
    default = fit(Exponential(), x, key=KEY, epochs=3)
    with count_compiles() as count:
        again = fit(Exponential(), x, key=KEY, epochs=3, optimizer=optax.adam(1e-3))
        other = fit(Exponential(), exponential(1020, seed=1), key=KEY, epochs=5, patience=3,
                    optimizer=optax.adam(1e-3))  # fmt: skip
        fast = fit(Exponential(), x, key=KEY, epochs=3, optimizer=Adam(1e-2))
    assert count == [0]
    assert again.history["train"] == first.history["train"]
    np.testing.assert_array_equal(leaves(again)[0], leaves(first)[0])
    assert rate(other) != rate(first)
    assert rate(fast) != rate(default)


def test_params_of_weak_types_do_not_compile_anew():
    params = as_params({"a": jnp.asarray(0.5), "b": jnp.asarray(7), "c": 1.5})
    assert not any(leaf.weak_type for leaf in params.values())


def test_the_same_key_gives_the_same_params():
    x = exponential(1000)
    settings = {"epochs": 3, "validation": x[:100]}  # so that the key only decides the shuffles
    a, b = (fit(Exponential(), x, key=KEY, **settings) for _ in range(2))
    other = fit(Exponential(), x, key=jax.random.key(1), **settings)
    np.testing.assert_array_equal(leaves(a)[0], leaves(b)[0])
    assert rate(a) != rate(other)


# Weights.


def heavier(x, extra):
    """Weights 3 for the rows with the largest first features, 1 otherwise.

    The weights sum to len(x) + extra.
    """
    weights = np.ones(len(x), int)
    weights[np.argsort(x[:, 0])[-extra // 2 :]] = 3
    return weights


def test_integer_weights_are_repeated_rows():
    # with and without the copies, the rows have the same padded size
    x, wide = two_normals(900), np.random.default_rng(0).normal(size=(900, 2))
    weights = heavier(wide, 124)
    weighted = fit(Gaussian(2), wide, key=KEY, weights=weights)
    repeated = fit(Gaussian(2), np.repeat(wide, weights, 0), key=KEY)
    for a, b in zip(leaves(weighted), leaves(repeated), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    weights = heavier(x, 124)
    start = fit(GaussianMixture(1, 2), x, key=KEY, epochs=1)
    weighted = fit(start, x, key=KEY, weights=weights)
    repeated = fit(start, np.repeat(x, weights, 0), key=KEY)
    for a, b in zip(leaves(weighted), leaves(repeated), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3)


def test_gradient_weights_are_ratios():
    x = exponential(58)
    weights = heavier(x, 6)
    settings = {"key": KEY, "epochs": 5, "validation": 0, "optimizer": optax.sgd(0.1)}
    weighted = fit(Exponential(), x, weights=weights, **settings)
    tiny = fit(Exponential(), x, weights=weights * 1e-60, **settings)
    repeated = fit(Exponential(), np.repeat(x, weights, 0), **settings)
    plain = fit(Exponential(), x, **settings)
    assert rate(weighted) == pytest.approx(rate(repeated), rel=1e-5)
    assert rate(weighted) == pytest.approx(rate(tiny), rel=1e-5)
    assert rate(weighted) != pytest.approx(rate(plain), rel=1e-3)


@pytest.mark.parametrize(
    ("model", "n", "settings"),
    [
        (Gaussian(1), 80, {}),
        (Box(1), 80, {}),
        (GaussianMixture(1, 2), 480, {"epochs": 5}),  # weights double the rows of a start
        (Exponential(), 80, {"epochs": 2, "validation": 0.25}),
    ],
    ids=lambda v: type(v).__name__,
)
def test_rows_of_weight_zero_have_no_influence(model, n, settings):
    x = exponential(n)
    weights = np.r_[np.ones(n), np.zeros(20)]
    with_them = fit(model, np.r_[x, np.full((20, 1), 1e6)], key=KEY, weights=weights, **settings)
    without = fit(model, x, key=KEY, weights=np.ones(n), **settings)
    for a, b in zip(leaves(with_them), leaves(without), strict=True):
        np.testing.assert_array_equal(a, b)


# Freezing.


@pytest.mark.parametrize("freeze", ["base", ("base",), ("base/log_rate",), ["base.log_rate"]])
def test_frozen_params_keep_their_bits(freeze):
    start = Fitted(
        Exponential(),
        {"base": {"log_rate": jnp.array([0.3])}, "bias": jnp.array(0.1), "version": 7},
        columns=("wait",),
    )
    optimizer = optax.adamw(0.1, weight_decay=0.5)
    fitted = fit(start, exponential(60), key=KEY, epochs=3, optimizer=optimizer, freeze=freeze)
    assert fitted.params["base"]["log_rate"].tobytes() == np.float32(0.3).tobytes()
    assert fitted.params["bias"] != np.float32(0.1)
    assert fitted.params["version"] == 7
    assert fitted.columns == ("wait",)


# Few rows, and the progress bar.


@pytest.mark.parametrize("n", [1, 2, 9])
def test_few_rows(n):
    fitted = fit(Exponential(), exponential(n), key=KEY, epochs=2)
    assert len(fitted.history["train"]) == 2
    assert np.isfinite(fitted.history["train"]).all()
    assert fitted.history["validation"] == []


def test_progress(capsys):
    fit(Exponential(), X, key=KEY, epochs=2, progress=True)
    shown = capsys.readouterr().err
    assert "2/2" in shown
    assert "loss" in shown
    fit(EMClimber(), np.zeros(5), key=KEY, epochs=2, progress=True)
    assert "loss" in capsys.readouterr().err
    for progress in (False, None):
        fit(Exponential(), X, key=KEY, epochs=2, progress=progress)
        assert capsys.readouterr().err == ""
