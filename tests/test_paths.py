"""Paths between events through their noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jaxgen
from jaxgen import Fitted, compose, models
from jaxgen.core.model import Model
from jaxgen.core.random import Bits, Normal, Uniform

KEY = jax.random.key(31)


class Squares(Model):
    """Noise of both kinds, and a condition with a number and a whole number."""

    event_shape = (3,)
    y_shape = (2,)

    @property
    def y_support(self):
        return jaxgen.models.SplineCoupling(
            1, y_shape=(2,), y_domain=(jaxgen.domains.Real(), jaxgen.domains.Levels(4))
        ).y_support

    def init(self, key, x=None, y=None):
        return {"scale": jnp.ones(3)}

    def noise(self):
        return {"u": Uniform((2,)), "z": Normal(())}

    def push(self, params, noise, y=None):
        both = jnp.append(noise["u"], noise["z"])
        return both * params["scale"] + 10 * y[0] + 1000 * y[1]

    def pull(self, params, x, y=None):
        both = (x - 10 * y[0] - 1000 * y[1]) / params["scale"]
        return {"u": both[:2], "z": both[2]}


class Coins(Squares):
    y_shape = None
    y_support = None

    def noise(self):
        return Bits((3,))


@pytest.fixture(scope="module")
def squares():
    return Fitted(Squares(), Squares().init(KEY))


def test_steps_between_independent_events_have_the_law_of_the_noise(squares):
    y = np.zeros(2, np.float32)
    x = np.asarray(squares.sample(KEY, 2000, y))
    paths = [squares.path(a, b, 5, y0=y) for a, b in zip(x[:1000], x[1000:], strict=True)]
    steps = np.array(paths)[:, 1:-1]
    laws = scipy.stats.uniform.cdf, scipy.stats.uniform.cdf, scipy.stats.norm.cdf
    for step in range(3):
        for j, law in enumerate(laws):
            assert scipy.stats.kstest(steps[:, step, j], law).pvalue > 1e-4
        assert abs(np.corrcoef(steps[:, step].T)[np.triu_indices(3, 1)]).max() < 0.15


def test_ends_are_the_events_themselves_and_steps_follow_the_formula(squares):
    x = np.asarray([[0.2, 0.9, -1.0], [0.4, 0.5, 2.0]], np.float32)
    found = np.asarray(squares.path(*x, steps=7, y0=[0.0, 0]))
    assert found.shape == (7, 3)
    np.testing.assert_array_equal(found[[0, -1]], x)
    t = 1 / 6
    middle = ((1 - t) * -1.0 + t * 2.0) / np.sqrt((1 - t) ** 2 + t**2)
    assert found[1, 2] == pytest.approx(middle, rel=1e-5)
    same = scipy.stats.norm.ppf(x[:, 0])
    middle = scipy.stats.norm.cdf(((1 - t) * same[0] + t * same[1]) / np.sqrt((1 - t) ** 2 + t**2))
    assert found[1, 0] == pytest.approx(middle, rel=1e-5)


def test_numbers_in_y_move_and_labels_change_halfway(squares):
    event = np.array([0.5, 0.5, 0.0])
    found = np.asarray(squares.path(event + 10, event + 3020, steps=5, y0=[1.0, 0], y1=[2.0, 3]))
    np.testing.assert_allclose(found[:, 2], [10, 12.5, 3015, 3017.5, 3020], rtol=1e-6)


def test_events_and_labels_may_have_names():
    x = np.random.default_rng(0).normal(size=(300, 2)) * [1, 5]
    y = np.where(np.arange(300) % 2, "pear", "apple")
    table = {"b": x[:, 1], "a": x[:, 0]}
    per_class = compose.PerClass(models.Gaussian(2), 2)
    fitted = jaxgen.fit(per_class, {"a": x[:, 0], "b": x[:, 1]}, y, key=KEY)
    found = fitted.path(x[0], x[1], 4, "apple", "pear")
    row = [{name: column[i] for name, column in table.items()} for i in (0, 1)]
    np.testing.assert_array_equal(fitted.path(*row, 4, "apple", "pear"), found)
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(table)
    rows = frame.iloc[0], frame.iloc[[1]]
    np.testing.assert_array_equal(fitted.path(*rows, 4, "apple", "pear"), found)
    with pytest.raises(ValueError, match="y0 is missing"):
        fitted.path(x[0], x[1])


def test_edges_of_the_support_are_ends_of_paths():
    box = Fitted(models.Box(2), {"low": jnp.zeros(2), "high": jnp.ones(2)})
    found = np.asarray(box.path([0, 0], [1, 1], 5))
    np.testing.assert_array_equal(found[[0, -1]], [[0, 0], [1, 1]])
    assert ((found[1:-1] > 0) & (found[1:-1] < 1)).all()


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"x0": np.zeros((2, 3))}, ValueError, r"x0 must be one event, of shape \(3,\)"),
        ({"x1": [0.5, np.nan, 0]}, ValueError, "x1 must be an event of positive density"),
        ({"steps": 1}, ValueError, "steps must be at least 2"),
        ({"y0": None}, ValueError, "y0 is missing"),
    ],
)
def test_wrong_arguments_are_named(squares, arguments, error, match):
    given = {"x0": [0.5] * 3, "x1": [0.4] * 3, "y0": [0.0, 0], **arguments}
    with pytest.raises(error, match=match):
        squares.path(**given)


def test_models_without_a_path_say_so(squares):
    coins = Fitted(Coins(), Coins().init(KEY))
    with pytest.raises(TypeError, match=r"Normal or Uniform; .* takes Bits"):
        coins.path(np.zeros(3), np.ones(3))
    gaussian = Fitted(models.Gaussian(3), models.Gaussian(3).init(KEY))
    with pytest.raises(ValueError, match="y0 and y1 must be None"):
        gaussian.path(np.zeros(3), np.ones(3), y1=0)
    with pytest.raises(NotImplementedError, match="path needs pull"):
        Fitted(models.KDE(3), models.KDE(3).init(KEY)).path(np.zeros(3), np.ones(3))
    box = Fitted(models.Box(3), {"low": jnp.zeros(3), "high": jnp.ones(3)})
    with pytest.raises(ValueError, match=r"x1 must be .* outside the support"):
        box.path(np.full(3, 0.5), np.full(3, 2))
    with pytest.raises(TypeError, match="cannot be called within jit"):
        jax.jit(gaussian.path)(jnp.zeros(3), jnp.ones(3))
