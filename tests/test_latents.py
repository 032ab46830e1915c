"""Latent coordinates: moved, probed, mapped and drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import constraints

import jaxgen
from jaxgen import Fitted, metrics
from jaxgen.core.model import Model
from jaxgen.core.random import Bits, Normal, Uniform
from jaxgen.data.images import PixelFormat

KEY = jax.random.key(5)
TURN = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 0.5]], np.float32)


class Turned(Model):
    """x = TURN z + shift + y, z of normal and uniform noise; pull leaves some noise out."""

    kind: str = "plain"

    @property
    def event_shape(self):
        return (3,)

    @property
    def y_shape(self):
        return () if self.kind != "plain" else None

    @property
    def classes(self):
        return 2 if self.kind == "labels" else None

    @property
    def y_support(self):
        return constraints.integer_interval(0, 1) if self.classes else None

    def init(self, key, x=None, y=None):
        return {"shift": jnp.arange(3.0)}

    def log_prior(self, params):
        return jnp.log(jnp.full(2, 0.5))

    def log_prob(self, params, x, y=None):
        return jnp.sum(x) * 0

    def noise(self):
        return {"a": Normal((2,)), "b": Uniform((1,)), "pixels": Uniform((4,))}

    def push(self, params, noise, y=None):
        z = jnp.concatenate([noise["a"], jax.scipy.special.ndtri(noise["b"])])
        moved = TURN @ z + params["shift"] + 0 * noise["pixels"].sum()
        return moved if y is None else moved + 10 * y

    def pull(self, params, x, y=None):
        x = x if y is None else x - 10 * y
        z = np.linalg.inv(TURN) @ (x - params["shift"])
        return {"a": z[:2], "b": jax.scipy.special.ndtr(z[2:]), "pixels": jnp.full(4, 0.5)}


class Blocks(Model):
    """Images of 4 x 4 pixels: two latents light the left and the upper half."""

    @property
    def event_shape(self):
        return (4, 4)

    def init(self, key, x=None, y=None):
        return {"one": jnp.ones(())}

    def noise(self):
        return Normal((2,))

    def push(self, params, noise, y=None):
        left, upper = np.zeros((4, 4), np.float32), np.zeros((4, 4), np.float32)
        left[:, :2], upper[:2] = 1, 1
        return noise[0] * left + noise[1] * upper * params["one"]

    def pull(self, params, x, y=None):
        return jnp.stack([x[3, 0], x[0, 3]]) / params["one"]


class Shaded(Blocks):
    """The same latents are the logits of black pixels."""

    def noise(self):
        return {"z": Normal((2,)), "pixels": Uniform((4, 4))}

    def push(self, params, noise, y=None):
        return (noise["pixels"] < jax.nn.sigmoid(super().push(params, noise["z"]))).astype(int)

    def pull(self, params, x, y=None):
        z = jnp.stack([x[:, :2].mean(), x[:2].mean()]) / params["one"]
        return {"z": z, "pixels": jnp.full((4, 4), 0.5)}


class WithoutPull(Blocks):
    pull = Model.pull


class Coins(Blocks):
    def noise(self):
        return Bits((2,))


@pytest.fixture(scope="module")
def turned():
    return Fitted(Turned(), Turned().init(KEY), columns=("a", "b", "c"))


@pytest.fixture(scope="module")
def blocks():
    return Fitted(Blocks(), Blocks().init(KEY))


@pytest.fixture(scope="module")
def z():
    return np.random.default_rng(0).normal(size=(400, 3))


@pytest.fixture(scope="module")
def x(z):
    return (z @ TURN.T + np.arange(3)).astype(np.float32)


def images_and_latents():
    z = np.random.default_rng(1).normal(size=(300, 2))
    return metrics.events_of_latents(Fitted(Blocks(), Blocks().init(KEY)), z), z


def test_latents_are_normal_scores_of_noise_that_the_event_makes(turned, x, z):
    found = metrics.latents(turned, x)
    np.testing.assert_allclose(found, z, atol=2e-5)
    np.testing.assert_allclose(metrics.events_of_latents(turned, found), x, atol=1e-4)
    table = dict(zip("cab", (x[:, 2], x[:, 0], x[:, 1]), strict=True))
    np.testing.assert_array_equal(metrics.latents(turned, table), found)


def test_events_are_means_over_noise_that_latents_leave_out():
    fitted = Fitted(Shaded(), Shaded().init(KEY))
    z = np.random.default_rng(2).normal(size=(6, 2))
    black = jax.nn.sigmoid(jax.vmap(lambda z: Blocks().push(fitted.params, z))(z))
    np.testing.assert_allclose(metrics.events_of_latents(fitted, z), black, atol=1 / 64 + 1e-6)
    x = fitted.sample(KEY, 2)
    for kind in ("linear", "spherical"):
        path = metrics.interpolation(fitted, x[0], x[1], 3, kind=kind)
        np.testing.assert_array_equal(path.events[[0, -1]], x)
        middle = metrics.latents(fitted, x).mean(0) * (1 if kind == "linear" else np.sqrt(2))
        expected = metrics.events_of_latents(fitted, middle[None])[0]
        np.testing.assert_allclose(path.events[1], expected, atol=1e-6)


def test_a_model_of_labels_needs_them_by_name(x):
    model = Turned("labels")
    fitted = Fitted(model, model.init(KEY), labels=("no", "yes"))
    y = np.array(["no", "yes"] * 200)
    shifted = x + 10 * (y == "yes")[:, None]
    found = metrics.latents(fitted, shifted, y)
    np.testing.assert_allclose(metrics.events_of_latents(fitted, found, y), shifted, atol=1e-4)
    path = metrics.interpolation(fitted, shifted[0], shifted[1], 5, "no", "yes", kind="linear")
    np.testing.assert_array_equal(path.events[[0, -1]], shifted[:2].astype(np.float32))
    middle = 0.5 * found[0] + 0.5 * found[1]
    np.testing.assert_allclose(
        path.events[2], TURN @ middle + np.arange(3) + 10, atol=1e-4
    )  # a label changes halfway
    moved = metrics.move_along(fitted, shifted[:2], [1, 0, 0], (0, 1), y[:2])
    np.testing.assert_allclose(moved.events[:, 0], shifted[:2], atol=1e-4)
    np.testing.assert_allclose(
        moved.events[:, 1] - moved.events[:, 0], np.tile(TURN[:, 0], (2, 1)), atol=1e-4
    )
    report = metrics.explain(fitted, shifted, y)
    assert report.probe.labels == ("no", "yes")
    assert report.probe.accuracy < 0.75  # latents are given the label


def test_linear_and_spherical_paths(turned, x, z):
    linear = metrics.interpolation(turned, x[0], x[1], 3, kind="linear")
    spherical = metrics.interpolation(turned, x[0], x[1], 3)
    middle = (z[0] + z[1]) / 2
    centre = np.arange(3)
    np.testing.assert_allclose(linear.events[1], TURN @ middle + centre, atol=1e-4)
    np.testing.assert_allclose(
        spherical.events[1], TURN @ (middle * np.sqrt(2)) + centre, atol=1e-4
    )


def test_traversal_moves_one_coordinate_and_finds_those_that_matter(turned, blocks, x, z):
    found = metrics.traversal(turned, x[0], coordinates=[2], values=(-1, z[0, 2], 1))
    np.testing.assert_allclose(found.events[0, 1], x[0], atol=1e-4)
    steps = np.diff(found.events[0], axis=0)
    np.testing.assert_allclose(steps[:, :2], 0, atol=1e-4)
    np.testing.assert_allclose(steps.sum(0)[2], 1.0, atol=1e-4)
    found = metrics.traversal(blocks)
    assert found.events.shape == (2, 5, 4, 4)
    np.testing.assert_allclose(found.changes, np.sqrt(16 * 8 / 16), rtol=1e-5)
    np.testing.assert_array_equal(found.events[0, 2], 0)


def test_an_attribute_has_a_direction(turned, x, z):
    found = metrics.attribute_direction(turned, x, z[:, 0] > 0)
    assert found.separation > 0.95
    assert found.length == pytest.approx(2 * np.sqrt(2 / np.pi), rel=0.1)
    assert found.vector[0] / found.length > 0.97
    coin = np.random.default_rng(2).random(400) < 0.5
    assert abs(metrics.attribute_direction(turned, x, coin).separation - 0.5) < 0.12


def test_probe_finds_the_coordinate_that_tells_the_label(turned, x, z):
    labels = np.array(["low", "middle", "top"])[np.digitize(z[:, 1], [-0.5, 0.5])]
    found = metrics.probe(turned, x, labels)
    assert found.labels == ("low", "middle", "top")
    assert found.accuracy > 0.9
    assert found.pca > 0.9  # a linear map of the latents
    assert found.information.argmax() == 1
    assert found.by_label.shape == (3, 3)
    assert found.by_label.argmax(0).tolist() == [1, 1, 1]
    held = metrics.probe(turned, x, labels, x_test=x[:50], labels_test=labels[:50])
    assert held.accuracy > 0.9
    by_array = metrics.probe(z, x, labels)
    np.testing.assert_allclose(by_array.information, found.information, atol=0.05)


def test_mutual_information_is_corrected_for_its_bias():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, 2000)
    noise = rng.normal(size=(2000, 200))
    found = metrics.mutual_information(np.column_stack([noise, labels]), labels)
    assert found[-1] == pytest.approx(np.log(4), abs=0.05)
    # half of the corrected values are below 0, and set to 0
    assert found[:-1].mean() < 0.0035
    assert (found[:-1] == 0).mean() > 0.4


def test_logistic_regression_is_that_of_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    from jaxgen.metrics.features.linear import logistic_regression

    rng = np.random.default_rng(4)
    x = rng.normal(size=(300, 3))
    y = (x @ rng.normal(size=(3, 3)) + rng.gumbel(size=(300, 3))).argmax(1)
    weights = logistic_regression(x, y, 3)
    peer = LogisticRegression(tol=1e-8).fit(x, y)
    p = x @ weights[:-1] + weights[-1]
    p = np.exp(p - np.logaddexp.reduce(p, 1)[:, None])
    np.testing.assert_allclose(p, peer.predict_proba(x), atol=2e-3)


def test_shares_of_factors_follow_their_formula(turned, x, z):
    rng = np.random.default_rng(6)
    factors = {
        "square": z[:, 0] ** 2,
        "noisy": z[:, 1] + rng.normal(size=400),
        "kind": np.where(z[:, 2] > 0, "up", "down"),
        "nothing": rng.normal(size=400),
    }
    found = metrics.factor_shares(turned, x, factors)
    assert found.names == tuple(factors)
    assert found.best.tolist()[:3] == [0, 1, 2]
    square, noisy, kind, nothing = found.explained
    assert square > 0.7  # which no linear regression finds
    assert noisy == pytest.approx(0.5, abs=0.15)
    assert kind > 0.8
    assert nothing < 0.1
    assert found.pca[0] < square - 0.1  # turned by 37 degrees
    np.testing.assert_allclose(
        found.gap, np.sort(found.shares, 1)[:, -1] - np.sort(found.shares, 1)[:, -2]
    )
    assert "square" in str(found)


def test_maps_choose_the_plane_that_tells_labels_apart(turned, x, z):
    found = metrics.latent_map(turned, x, np.digitize(z[:, 2], [-0.5, 0.5]))
    assert found.accuracy > 0.85
    assert found.points.shape == (200, 2)
    # many coordinates, and labels along a diagonal
    wide = np.random.default_rng(7).normal(size=(2000, 12))
    labels = np.digitize(wide.sum(1) / np.sqrt(12), [-0.8, 0, 0.8])
    assert metrics.latent_map(wide, wide, labels).kind == "discriminants"


def test_nearest_training_events():
    train = np.arange(20.0).reshape(10, 2)
    found = metrics.nearest_training([[4.1, 5.0], [0.0, 1.0]], train, k=2)
    assert found.indices.tolist() == [[2, 3], [0, 1]]
    np.testing.assert_allclose(found.distances[0], [0.1, np.hypot(1.9, 2)])
    np.testing.assert_array_equal(found.events[1, 0], train[0])


def test_an_explanation_of_images_gathers_all(blocks, tmp_path):
    images, z = images_and_latents()
    labels = np.where(z[:, 0] > 0, "light", "dark")
    factors = {"left": z[:, 0], "upper": z[:, 1]}
    report = metrics.explain(blocks, images, labels, factors=factors, progress=False)
    assert (report.latents, report.active) == (2, 2)
    assert report.probe.accuracy > 0.95
    assert report.separations["light"] > 0.95
    assert report.factors.explained.min() > 0.9
    assert "five neighbours" in str(report)
    assert report.to_dict()["factors"]["upper"]["best"] == 1
    report.plot(tmp_path / "explanation.png")
    assert (tmp_path / "explanation.png").stat().st_size > 10_000


def test_bars_say_what_they_measure(turned, x, capsys):
    metrics.nearest_training(x[:3], x, progress=True)
    metrics.probe(x, x, x[:, 0] > 0, progress=True)
    shown = capsys.readouterr().err
    assert "nearest_training" in shown
    assert "probe" in shown
    metrics.explain(turned, x, x[:, 0] > 0, progress=False)
    assert capsys.readouterr().err == ""


def test_a_key_chooses_the_pairs(turned, x):
    first, again, other = (
        metrics.explain(turned, x, key=jax.random.key(seed)).paths[0].events[0]
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_an_explanation_without_labels(turned, x):
    report = metrics.explain(turned, x, progress=False)
    assert report.probe is None
    assert report.ks < 3 * report.ks_ref
    assert len(report.paths) == 6
    report.plot()


def test_flattened_images_are_drawn_as_images():
    model = jaxgen.models.Gaussian(16)
    x = np.random.default_rng(8).normal(size=(100, 16))
    fitted = jaxgen.fit(model, x, key=KEY)
    fitted = Fitted(model, fitted.params, pixels=PixelFormat("L", size=(4, 4)))
    found = metrics.traversal(fitted, x[0])
    assert found.table().events.shape == (8, 5, 4, 4)


def test_every_result_has_a_figure(turned, blocks, x, z, tmp_path):
    images, latents = images_and_latents()
    labels = (z[:, 0] > 0).astype(int)
    results = [
        metrics.interpolation(turned, x[0], x[1]),
        metrics.interpolation(blocks, images[0], images[1]),
        metrics.traversal(turned, x[0]),
        metrics.move_along(blocks, images[:2], [1.0, 0.0]),
        metrics.probe(turned, x, labels),
        metrics.latent_map(turned, x, labels),
        metrics.factor_shares(blocks, images, latents),
        metrics.nearest_training(images[:3], images[3:]),
        metrics.nearest_training(x[:3], x[3:]),
    ]
    for i, found in enumerate(results):
        found.plot(tmp_path / f"{i}.png")
        assert (tmp_path / f"{i}.png").stat().st_size > 5_000
    with pytest.raises(ValueError, match="ending"):
        results[0].plot(tmp_path / "figure.txt")


BAD = {
    "no pull": (lambda f, x: metrics.explain(
        Fitted(WithoutPull(), WithoutPull().init(KEY)), np.zeros((30, 4, 4))), NotImplementedError,
        "explain needs pull, which WithoutPull"),
    "noise of bits": (lambda f, x: metrics.latents(
        Fitted(Coins(), Coins().init(KEY)), np.zeros((2, 4, 4))), TypeError, "Normal or Uniform"),
    "no model": (lambda f, x: metrics.latents("flow", x), TypeError, "fitted must be"),
    "shape": (lambda f, x: metrics.latents(f, x[:, :2]), ValueError,
        r"x must have shape \(n, 3,?\)"),
    "no rows": (lambda f, x: metrics.latents(f, x[:0]), ValueError, "not empty"),
    "NaN": (lambda f, x: metrics.latents(
        f, np.where(np.arange(1200).reshape(400, 3) == 7, np.nan, x)), ValueError,
        "finite, but is not in row 2 in feature 1"),
    "unknown y": (lambda f, x: metrics.latents(f, x, np.zeros(400)), ValueError, "unconditional"),
    "latents shape": (lambda f, x: metrics.events_of_latents(f, x[:, :2]), ValueError, r"\(n, 3\)"),
    "kind": (lambda f, x: metrics.interpolation(f, x[0], x[1], kind="cubic"), ValueError, "cubic"),
    "coordinate": (lambda f, x: metrics.traversal(f, coordinates=[3]), ValueError, "from 0 to 2"),
    "coordinate type": (lambda f, x: metrics.traversal(f, coordinates=[0.5]), TypeError, "ints"),
    "values": (lambda f, x: metrics.traversal(f, values=[1]), ValueError, "at least two"),
    "one attribute": (lambda f, x: metrics.attribute_direction(f, x, np.ones(400)), ValueError,
        "it marks 400 of 400"),
    "attribute shape": (lambda f, x: metrics.attribute_direction(f, x, [True]), ValueError,
        r"shape \(400,\)"),
    "attribute values": (lambda f, x: metrics.attribute_direction(f, x, np.arange(400)), ValueError,
        "0 and 1"),
    "direction": (lambda f, x: metrics.move_along(f, x, [1.0]), ValueError, r"shape \(3,\)"),
    "infinite direction": (lambda f, x: metrics.move_along(f, x, [1.0, 0, np.inf]), ValueError,
        "direction must have shape .* and be finite"),
    "amounts": (lambda f, x: metrics.move_along(f, x, [1.0, 0, 0], [np.nan]), ValueError, "finite"),
    "one label": (lambda f, x: metrics.probe(f, x, ["a"] * 400), ValueError, "two kinds"),
    "rare label": (lambda f, x: metrics.probe(f, x, ["a"] * 399 + ["b"]), ValueError,
        "'b' is there once"),
    "labels shape": (lambda f, x: metrics.probe(f, x, ["a", "b"]), ValueError, r"shape \(400,\)"),
    "labels that are numbers": (lambda f, x: metrics.probe(f, x, x[:, 0]), TypeError,
        "factor_shares"),
    "few events": (lambda f, x: metrics.probe(f, x[:4], ["a", "b"] * 2), ValueError, "at least 10"),
    "labels alone": (lambda f, x: metrics.probe(f, x, ["a", "b"] * 200, labels_test=["a"]),
        ValueError, "x_test"),
    "test events alone": (lambda f, x: metrics.probe(f, x, ["a", "b"] * 200, x_test=x[:2]),
        ValueError, "x_test needs labels_test"),
    "unknown test label": (lambda f, x: metrics.probe(f, x, ["a", "b"] * 200, x_test=x[:2],
        labels_test=["a", "c"]), ValueError, "unknown label 'c'"),
    "latents of others": (lambda f, x: metrics.probe(x[:5], x, ["a", "b"] * 200), ValueError,
        "each of the 5"),
    "constant factor": (lambda f, x: metrics.factor_shares(f, x, {"size": np.ones(400)}),
        ValueError, "'size' must vary"),
    "factor with NaN": (lambda f, x: metrics.factor_shares(
        f, x, {"size": np.r_[np.nan, np.ones(399)]}), ValueError, "'size' must be finite"),
    "factors of others": (lambda f, x: metrics.factor_shares(f, x, np.ones((3, 2))), ValueError,
        "each of 400 events"),
    "names of factors": (lambda f, x: metrics.factor_shares(f, x, x, names=["a"]), ValueError,
        "name the 3 factors"),
    "few for a map": (lambda f, x: metrics.latent_map(f, x[:8], ["a", "b"] * 4), ValueError,
        "20 events"),
    "one latent": (lambda f, x: metrics.latent_map(x[:, :1], x, ["a", "b"] * 200), ValueError,
        "2 latents"),
    "explain, key": (lambda f, x: metrics.explain(f, x, key=1), TypeError, "key must"),
    "few to explain": (lambda f, x: metrics.explain(f, x[:5]), ValueError, "at least 20"),
    "neighbours": (lambda f, x: metrics.nearest_training(x, x[:2], k=3), ValueError, "at most"),
    "neighbours of others": (lambda f, x: metrics.nearest_training(x, x[:, :2]), ValueError,
        "one shape"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_inputs(name, turned, x):
    call, kind, message = BAD[name]
    with pytest.raises(kind, match=message):
        call(turned, x)
