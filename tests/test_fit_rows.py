"""How ``fit`` pads, shuffles and repeats rows."""

import math

import jax
import numpy as np
import pytest
from learners import KEY

import jaxgen
from jaxgen import compose, models
from jaxgen.core.sizes import size_class
from jaxgen.laws import count_compiles
from jaxgen.training.rows import for_init
from jaxgen.training.shuffle import order

shuffle = jax.jit(order, static_argnums=2)


@pytest.mark.parametrize("n", [1, 2, 3, 64, 65, 100, 1000])
def test_shuffle_is_a_permutation(n):
    size = size_class(n)
    shuffled = np.asarray(shuffle(KEY, n, size))
    assert sorted(shuffled[:n]) == list(range(n))
    assert shuffled.shape == (size,)
    if n >= 100:
        other = np.asarray(shuffle(jax.random.key(1), n, size))[:n]
        # within five deviations 1 / sqrt(n) of a correlation
        assert abs(np.corrcoef(shuffled[:n], other)[0, 1]) < 5 / math.sqrt(n)
        assert abs(np.corrcoef(shuffled[: n - 1], shuffled[1:n])[0, 1]) < 5 / math.sqrt(n)
        assert abs(np.corrcoef(shuffled[:n], np.arange(n))[0, 1]) < 5 / math.sqrt(n)


def test_size_classes_are_few_and_close():
    sizes = [size_class(n) for n in range(1, 5000)]
    assert all(n <= size for n, size in enumerate(sizes, 1))
    assert all(size <= 1.25 * n + 1 for n, size in enumerate(sizes, 1) if n >= 128)
    assert len(set(sizes)) < 30


def test_rows_for_init_hold_each_row_and_follow_weights():
    x = np.arange(100.0)
    plain, _ = for_init(x, None, None)
    assert len(plain) == size_class(100)
    assert set(plain) == set(x)
    weighted, _ = for_init(x, None, np.where(x == 7, 1000.0, 1e-3))
    assert set(weighted) == set(x)
    assert (weighted == 7).sum() > 90


def test_eight_sizes_per_octave_include_the_four():
    finer = {size_class(n, 8) for n in range(1, 5000)}
    assert finer >= {size_class(n) for n in range(1, 4097)}
    assert all(n <= size_class(n, 8) <= 1.125 * n for n in range(64, 5000))


def fits_of(n, model, y=None, weights=None, missing=False, **settings):
    """Fit a model to the first n of 200 rows, and use the fit."""
    x = np.random.default_rng(0).normal(size=(200, *model.event_shape))[:n]
    if missing:
        x[::5, 0] = np.nan
    own = {k: None if v is None else v[:n] for k, v in {"y": y, "weights": weights}.items()}
    fitted = jaxgen.fit(model, x, key=KEY, **own, **settings)
    label = None if y is None else 0
    fitted.log_prob(QUERY[:, : model.event_shape[0]], label)
    fitted.sample(KEY, 5, label)
    return fitted


QUERY = np.zeros((3, 2))
LABELS = (np.arange(200) % 4 == 0).astype(int)  # one class three times as large as the other
WEIGHTS = np.random.default_rng(1).uniform(0.5, 2, 200)
REFITS = {
    "kernels": {"model": models.KDE(2)},
    "kernels, weights": {"model": models.KDE(2), "weights": WEIGHTS},
    "kernels of each class": {"model": compose.PerClass(models.KDE(2), 2), "y": LABELS},
    "mixture of kernels": {"model": compose.Mixture(models.KDE(1), 2), "epochs": 2},
    "kernels beside EM": {
        "model": compose.Product((models.KDE(1), models.GaussianMixture(1, 2))),
        "epochs": 2,
    },
    "EM of each class, weights": {
        "model": compose.PerClass(models.GaussianMixture(1, 2), 2),
        "y": LABELS,
        "weights": WEIGHTS,
        "epochs": 2,
    },
    "EM of missing values": {"model": models.Gaussian(2), "missing": True, "epochs": 2},
    "ensemble, weights": {
        "model": models.SplineCoupling(2, 2, 4, 1, 3),
        "weights": WEIGHTS,
        "ensemble": 2,
        "epochs": 1,
    },
}


@pytest.mark.parametrize("case", REFITS)
def test_refit_to_another_number_of_rows_compiles_nothing(case):
    """Refits by wrappers and options; a law checks each family."""
    fits_of(200, **REFITS[case])
    with count_compiles() as count:
        fits_of(195, **REFITS[case])
    assert count[0] == 0


def test_kernels_of_another_number_of_events_share_all_programs(tmp_path):
    def use(n):
        fitted = fits_of(n, models.KDE(2))
        fitted.save(tmp_path / "kernels.jaxgen")
        loaded = jaxgen.load(tmp_path / "kernels.jaxgen")
        for one in (loaded, loaded.marginal(0), loaded.given({1: 0.3})):
            one.log_prob(np.zeros((3, *one.model.event_shape)))
            one.sample(KEY, 5)

    use(200)
    with count_compiles() as count:
        use(195)
    assert count[0] == 0
