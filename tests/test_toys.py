"""The toy data sets: their laws, their stated entropies, and their places."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgen
from jaxgen import datasets
from jaxgen.core.precision import enable_x64

TOYS = datasets.checkerboard, datasets.eight_gaussians, datasets.two_moons, datasets.pinwheel
STEP = 0.05  # of the grid on which densities are summed; it divides the squares of the board
LAWS = ("spec", "dtypes", "support", "determinism", "prefix", "batches", "totality")
LAWS += ("normalisation", "goodness_of_fit", "precision", "files")
by_toy = pytest.mark.parametrize("toy", TOYS, ids=lambda toy: toy.__name__)


@functools.cache
def fitted(toy):
    model = toy()
    return jaxgen.Fitted(model, model.init(None))


@functools.cache
def sampled(toy):
    return np.asarray(fitted(toy).sample(jax.random.key(7), 200_000), float)


def sums(toy):
    """Integral of the density, and entropy, by the midpoint rule in float64."""
    with enable_x64(True):
        model = toy()
        side = np.arange(-8 + STEP / 2, 8, STEP)
        x = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
        lp = np.asarray(jaxgen.Fitted(model, model.init(None)).log_prob(x))
    p = np.exp(lp) * STEP**2
    return p.sum(), -(p * np.where(p > 0, lp, 0)).sum()


@by_toy
def test_laws(toy):
    """The laws of samples and densities; those of params do not apply, as toys are not families."""
    jaxgen.check(toy(), fitted(toy).params, laws=LAWS)


@by_toy
def test_entropy(toy):
    total, entropy = sums(toy)
    assert total == pytest.approx(1, abs=1e-8)  # midpoints are accurate
    assert toy().entropy() == pytest.approx(entropy, abs=1e-7)


def test_entropies_as_known():
    assert datasets.checkerboard().entropy() == pytest.approx(3.4657, abs=5e-5)
    assert datasets.eight_gaussians().entropy() == pytest.approx(2.833, abs=2e-3)


@by_toy
def test_samples_score_their_entropy(toy):
    """Fails by chance for 1 key in 15,000."""
    lp = np.asarray(fitted(toy).log_prob(sampled(toy)), float)
    error = lp.std() / len(lp) ** 0.5 + 1e-6  # 1e-6 for rounding
    assert abs(lp.mean() + toy().entropy()) < 4 * error


@by_toy
def test_nothing_to_learn(toy):
    learnt = jaxgen.fit(toy(), sampled(toy)[:100], key=jax.random.key(0))
    same = jax.tree_util.tree_map(np.array_equal, learnt.params, fitted(toy).params)
    assert all(jax.tree_util.tree_leaves(same))


@by_toy
def test_double_precision(toy):
    with enable_x64(True):
        model = toy()
        double = jaxgen.Fitted(model, model.init(None))
        x = double.sample(jax.random.key(3), 1000)
        assert x.dtype == jnp.float64
        lp = double.log_prob(x)
    single = fitted(toy).log_prob(np.asarray(x, np.float32))
    inside = np.isfinite(single)  # rounding may cross the edge of a square
    assert inside.sum() > 990
    np.testing.assert_allclose(single[inside], lp[inside], rtol=2e-4, atol=2e-4)


def test_squares():
    """The squares are those of the published generator, which shifts x_2 by the column's parity."""
    x = sampled(datasets.checkerboard)
    assert np.isfinite(fitted(datasets.checkerboard).log_prob(x)).all()
    edges = np.arange(-4, 5, 2)
    count = np.histogram2d(x[:, 0], x[:, 1], [edges, edges])[0]
    column, row = np.indices((4, 4))
    is_black = (column + row) % 2 == 0  # such as the squares at (-4, -4) and (0, 0)
    assert (count[~is_black] == 0).all()
    assert np.abs(count[is_black] / len(x) - 1 / 8).max() < 0.004  # 5 standard errors


@pytest.mark.parametrize(
    ("x", "inside"),
    [
        ((-4, -4), True),
        ((-4.001, -4), False),
        ((3.999, 3.999), True),
        ((4, 4), False),
        ((0, 0), True),
        ((-0.001, 0.001), False),
        ((-0.001, -0.001), True),
        ((2, 0), False),
        ((1e9, 1e9), False),
    ],
)
def test_edges_of_the_board(x, inside):
    (lp,) = fitted(datasets.checkerboard).log_prob(np.array([x], np.float32))
    assert lp == (pytest.approx(-math.log(32), rel=1e-6) if inside else -math.inf)


def test_moons_agree_with_scikit_learn():
    """Moments agree with those of scikit-learn's points; fails by chance for 1 key in 10,000."""
    make_moons = pytest.importorskip("sklearn.datasets").make_moons
    n = 100_000
    theirs = 2 * make_moons(n, noise=0.1, random_state=0)[0] - [1, 0.2]
    ours = sampled(datasets.two_moons)
    powers = [(1, 0), (0, 1), (2, 0), (1, 1), (0, 2), (3, 0), (2, 1)]
    for power in powers:
        a, b = ((x**power).prod(1) for x in (theirs, ours))
        error = math.sqrt(a.var() / len(a) + b.var() / len(b))
        assert abs(a.mean() - b.mean()) < 4.5 * error, power


def test_the_pinwheel_is_nearly_the_published_one():
    """The published generator rotates by the position along the arm, ours by the distance."""
    n, rng = 200_000, np.random.default_rng(0)
    along, across = 1 + 0.3 * rng.normal(size=n), 0.1 * rng.normal(size=n)
    angle = 2 * np.pi / 5 * rng.integers(5, size=n) + 0.25 * np.exp(along)
    cosine, sine = np.cos(angle), np.sin(angle)
    published = 2 * np.stack([along * cosine + across * sine, across * cosine - along * sine], 1)
    lp = np.asarray(fitted(datasets.pinwheel).log_prob(published), float)
    assert lp.mean() == pytest.approx(-datasets.pinwheel().entropy(), abs=0.02)
    edges = np.linspace(-4, 4, 17)
    a, b = (
        np.histogram2d(*x.T, [edges, edges])[0] / n for x in (published, sampled(datasets.pinwheel))
    )
    assert np.abs(a - b).sum() < 0.05  # twice the total variation distance
