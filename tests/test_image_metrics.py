"""Metrics of models of images: features, Frechet distance, and the report."""

import json

import jax
import numpy as np
import pytest
import scipy.linalg

import jaxgen
from jaxgen import Fitted, metrics
from jaxgen.compose import PerClass
from jaxgen.models import Bernoulli, Gaussian

KEY = jax.random.key(9)


def bars(n, seed=0):
    """Binary images of 8 x 8 with a bar across or down, and which of the two."""
    rng = np.random.default_rng(seed)
    images = rng.random((n, 8, 8)) < 0.1
    labels = rng.integers(0, 2, n)
    for image, down, at in zip(images, labels, rng.integers(2, 6, n), strict=True):
        image[(slice(None), at) if down else (at, slice(None))] = True
    return images.astype(np.uint8), np.array(["across", "down"])[labels]


@pytest.fixture(scope="module", autouse=True)
def few_steps():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxgen.metrics.images.classifier._STEPS", (100, 100))
        yield


@pytest.fixture(scope="module")
def classifier():
    images, labels = bars(600)
    return metrics.fit_image_classifier(images, labels, key=KEY, progress=False)


@pytest.fixture(scope="module")
def fitted():
    images, labels = bars(600)
    return jaxgen.fit(PerClass(Bernoulli((8, 8)), 2), images, labels, key=KEY)


def test_frechet_distance_of_normals_is_that_of_the_formula():
    rng = np.random.default_rng(1)
    a = rng.normal(size=(500, 6)) @ rng.normal(size=(6, 6))
    b = rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6)) + 1
    c_a, c_b = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(c_a @ c_b).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c_a + c_b - 2 * root)
    assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    # far from 0, in few rows, and with a feature that does not vary
    assert metrics.frechet_distance(a + 1e6, b + 1e6) == pytest.approx(expected, rel=1e-6)
    wide = np.column_stack([a[:4], np.ones(4)])
    assert metrics.frechet_distance(wide, wide + 1) == pytest.approx(7, rel=1e-6)


def test_a_classifier_learns_and_depends_on_its_key_alone(classifier):
    images, labels = bars(300, seed=2)
    assert classifier.labels == ("across", "down")
    assert classifier.accuracy(images, labels) > 0.95
    np.testing.assert_allclose(np.exp(classifier.log_probs(images)).sum(1), 1, rtol=1e-5)
    features = classifier.features(images)
    assert features.shape == (300, 64)
    np.testing.assert_allclose(classifier.features(images[:7]), features[:7], atol=1e-4)
    again = metrics.fit_image_classifier(*bars(600), key=KEY, progress=False)
    np.testing.assert_array_equal(again.features(images), features)


def test_without_labels_features_are_those_of_a_random_network():
    colours = np.random.default_rng(3).integers(0, 256, (30, 9, 12, 3))
    network = metrics.fit_image_classifier(colours, key=KEY)
    assert network.features(colours).shape == (30, 64)
    with pytest.raises(TypeError, match="not trained"):
        network.log_probs(colours)


def test_the_report_of_a_model_of_labels(fitted, classifier, tmp_path):
    train, test = bars(600), bars(200, seed=4)
    report = metrics.image_report(
        fitted, *test, x_train=train[0], y_train=train[1], key=KEY, classifier=classifier
    )
    assert (report.images, report.draws, report.given) == (200, 200, "p(x | y)")
    log_p = np.asarray(fitted.log_prob(*test), np.float64)
    assert report.bits_per_dim == pytest.approx(-log_p.mean() / 64 / np.log(2))
    assert "probabilities of levels" in report.constant
    # a model of independent pixels has no bars
    assert report.frechet > 3 * report.frechet_ref
    assert report.precision < report.precision_ref
    assert report.accuracy_ref > 0.95
    assert report.accuracy_share == report.accuracy / report.accuracy_ref
    assert "a given classifier of 2 labels" in str(report)
    json.dumps(report.to_dict(), allow_nan=False)
    report.plot(tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 20_000


class Copies(Bernoulli):
    """A model whose draws are its training images, in turn."""

    def init(self, key, x=None, y=None):
        return {"images": np.zeros((300, 8, 8), np.float32)}

    def log_prob(self, params, x, y=None):
        return 0 * x.sum()

    def noise(self):
        return jaxgen.random.Uniform(())

    def push(self, params, noise, y=None):
        return params["images"][(noise * 300).astype(int)]


def test_training_images_as_draws_are_found(classifier):
    train, test = bars(600)[0], bars(300, seed=5)[0]
    fitted = Fitted(Copies((8, 8)), {"images": jax.numpy.asarray(train[300:], "float32")})
    report = metrics.image_report(
        fitted, test, x_train=train, key=KEY, classifier=classifier, n_samples=300
    )
    assert report.frechet < 4 * report.frechet_ref
    assert report.precision == pytest.approx(report.precision_ref, abs=0.1)
    assert report.nearer_train > 0.9
    assert report.duplicates == 1
    assert report.accuracy is None
    assert report.nearest.distances[:, 0].max() == 0


def test_a_density_has_the_units_of_x_as_its_constant():
    x = np.random.default_rng(6).normal(size=(200, 16)).reshape(-1, 4, 4)
    flat = jaxgen.fit(Gaussian(16), x.reshape(-1, 16), key=KEY)
    pixels = jaxgen.data.PixelFormat("L", size=(4, 4))
    images = Fitted(flat.model, flat.params, pixels=pixels)
    test = x.reshape(-1, 16)
    report = metrics.image_report(images, test[:100], x_train=test[100:], key=KEY, progress=False)
    assert "per level, with 256 levels" in report.constant
    assert report.features == "an untrained network"
    assert report.bits_per_dim == pytest.approx(2.05, abs=0.3)
    with pytest.raises(ValueError, match="model of images"):
        metrics.image_report(flat, test[:100], x_train=test[100:], key=KEY)


X, Y = bars(30)
BAD = {
    "small images": (lambda f, c: metrics.fit_image_classifier(X[:, :3], key=KEY), ValueError,
        "at least 4 pixels"),
    "one image": (lambda f, c: metrics.fit_image_classifier(X[0], key=KEY), ValueError,
        "n, height"),
    "NaN": (lambda f, c: metrics.fit_image_classifier(X + np.nan, key=KEY), ValueError, "finite"),
    "one label": (lambda f, c: metrics.fit_image_classifier(X, [1] * 30, key=KEY), ValueError,
        "two kinds"),
    "labels of others": (lambda f, c: metrics.fit_image_classifier(X, Y[:3], key=KEY), ValueError,
        r"shape \(30,\)"),
    "key": (lambda f, c: metrics.fit_image_classifier(X, Y, key=0), TypeError, "key must"),
    "other shape": (lambda f, c: c.features(X[:, :6]), ValueError, r"\(n, 8, 8\)"),
    "too large": (lambda f, c: c.features(X * 1e300), ValueError, "must be finite"),
    "unknown labels": (lambda f, c: c.accuracy(X, [7] * 30), ValueError, "unknown label 7"),
    "no features": (lambda f, c: metrics.frechet_distance(X[:, 0, :0], X[:, 0, :0]), ValueError,
        "d at least 1"),
    "accuracy": (lambda f, c: c.accuracy(X, Y[:2]), ValueError, r"shape \(30,\)"),
    "features": (lambda f, c: metrics.frechet_distance(X, X), ValueError, r"\(n, d\)"),
    "widths": (lambda f, c: metrics.frechet_distance(X[:, 0], X[:, 0, :3]), ValueError,
        r"\(m, d\)"),
    "one row": (lambda f, c: metrics.frechet_distance(X[:1, 0], X[:, 0]), ValueError, "at least 2"),
    "NaN features": (lambda f, c: metrics.frechet_distance(X[:, 0] + np.nan, X[:, 0]), ValueError,
        "a must be finite"),
    "few images": (lambda f, c: metrics.image_report(f, X[:5], x_train=X, key=KEY), ValueError,
        "x_test must hold at least 20"),
    "few draws": (lambda f, c: metrics.image_report(f, X, x_train=X, key=KEY, n_samples=3),
        ValueError, "n_samples must be at least 20"),
    "unknown label": (lambda f, c: metrics.image_report(f, X, ["up"] * 30, x_train=X, key=KEY),
        ValueError, "unknown label 'up'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_inputs(name, fitted, classifier):
    call, kind, message = BAD[name]
    with pytest.raises(kind, match=message):
        call(fitted, classifier)
