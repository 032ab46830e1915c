"""Measures of a model of images: bits per dimension, and draws beside real images."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from jaxgen.core import inputs
from jaxgen.core.constraints import discrete_numbers
from jaxgen.core.promotion import standard_promotion
from jaxgen.metrics.accuracy import bits_per_dim, mean_and_error, neighbours
from jaxgen.metrics.events_figure import is_image
from jaxgen.metrics.features.latent_space import check_known, shown_shape
from jaxgen.metrics.features.probes import numbers_of_labels
from jaxgen.metrics.generation import copying, duplicates
from jaxgen.metrics.images.classifier import ImageClassifier, fit_image_classifier
from jaxgen.metrics.images.frechet import frechet_distance
from jaxgen.metrics.images.results import ImageReport
from jaxgen.metrics.images.training_neighbours import nearest_training
from jaxgen.training.fitted import Fitted
from jaxgen.training.progress import Progress

_LEAST = 20  # images in each set
_NEIGHBOUR = 5  # of precision and recall
_SEARCHED = 20_000  # training images that are searched for copies
_SHOWN = 200  # images kept for the figure


@standard_promotion
def image_report(
    fitted: Fitted,
    x_test: Any,
    y_test: Any = None,
    *,
    x_train: Any,
    y_train: Any = None,
    key: jax.Array,
    n_samples: int = 2000,
    classifier: ImageClassifier | None = None,
    progress: bool | None = None,
) -> ImageReport:
    """Measure a model of images: bits per dimension, and draws beside real images.

    The Frechet distance, precision and recall compare features: the last hidden layer of a small
    classifier that is trained on the labels of x_train. So distances compare with those of another
    model only if both have the same classifier, data and number of draws; nothing compares with the
    distances of Inception features. Without labels the network is not trained. The training images
    against the test images, as many as draws, give the distance that a perfect model has, about.

    Args:
      fitted: a ``Fitted`` model whose events are images, (height, width) or (height, width,
        channels), at least 4 pixels on a side; or flattened images with ``pixels.size``.
      x_test: held-out images (n, *event_shape), at least 20.
      y_test: their labels, also for a model without conditions; else the conditions of the model.
        Draws have the conditions of the test images.
      x_train, y_train: the images that the model was fitted to, at least 20, and their labels.
      key: a typed PRNG key, for draws and for the classifier.
      n_samples: number of draws, at most that of the test and of the training images.
      classifier: a network of ``fit_image_classifier`` instead of one that is trained here.
      progress: whether to show bars; None shows them on a terminal after two seconds.

    Returns:
      An ``ImageReport``.

    Raises:
      TypeError, ValueError: an argument has the wrong kind, shape or range.

    Source: Heusel et al. 2017 (see ``frechet_distance``); Ravuri and Vinyals 2019, "Classification
    accuracy score for conditional generative models" (labels of draws).

    >>> pixels = models.Bernoulli((28, 28))
    >>> bits = images > 127
    >>> fitted = jaxgen.fit(pixels, bits, key=key)
    >>> report = image_report(fitted, bits, x_train=bits, key=key)
    >>> report.bits_per_dim < 1.01, report.frechet > report.frechet_ref
    (True, True)
    """
    model, key = fitted.model, inputs.as_key(key)
    shape = shown_shape(fitted)
    if not is_image(shape):
        raise ValueError(
            "fitted must be a model of images, with events of shape (height, width), or with 1 or "
            f"3 channels behind, at least 4 pixels on a side; got {shape} for {model}"
        )
    test, train = (_events(fitted, x, n) for x, n in ((x_test, "x_test"), (x_train, "x_train")))
    n_samples = inputs.as_count(n_samples, "n_samples", _LEAST)
    n = min(n_samples, len(test), len(train))
    given, labels = _conditions_and_labels(fitted, y_test, len(test), "y_test")
    train_labels = None
    if y_train is not None:
        _, train_labels = _conditions_and_labels(fitted, y_train, len(train), "y_train")
    fitted = Fitted(model, fitted.params, pixels=fitted.pixels)  # labels are numbers from here
    sample_key, choice_key, fit_key = jax.random.split(key, 3)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(choice_key)))
    chosen, searched = rng.permutation(len(test))[:n], rng.permutation(len(train))[:_SEARCHED]

    def images(events: np.ndarray) -> np.ndarray:
        return events.reshape(len(events), *shape)

    if classifier is None:
        classifier = fit_image_classifier(
            images(train), train_labels, key=fit_key, progress=progress
        )
        kinds = len(classifier.labels)
        words = "an untrained network"
        if kinds:
            words = f"a classifier of {kinds} labels fitted to the {len(train):,} training images"
    else:
        kinds = len(classifier.labels)
        words = f"a given classifier of {kinds} labels" if kinds else "a given untrained network"
    with Progress(progress, 4, unit="part", task="image_report") as bar:
        bar.label("log densities")
        log_p = None if model.traits.density == "none" else np.asarray(fitted.log_prob(test, given))
        bar.advance(1)
        bar.label("draws")
        y_drawn = None if given is None else given[chosen]
        drawn = np.asarray(fitted.sample(sample_key, n, y_drawn))
        check_known(drawn, "draws of the model")
        bar.advance(1)
        bar.label("features")
        sets = [images(v) for v in (drawn, test[chosen], train[searched[:n]])]
        of_drawn, of_test, of_train = (classifier.features(v) for v in sets)
        near = neighbours(of_test, of_drawn, _NEIGHBOUR)
        near_ref = neighbours(of_test, of_train, _NEIGHBOUR)
        bar.advance(1)
        bar.label("copies")
        copies = copying(drawn, train[searched], test[chosen])
        nearest = nearest_training(sets[0], images(train[searched]), progress=False)
        bar.advance(1)
    found: dict[str, Any] = {}
    if kinds and labels is not None and model.classes is not None:
        found["accuracy"] = classifier.accuracy(sets[0], labels[chosen])
        found["accuracy_ref"] = classifier.accuracy(images(test), labels)
    return ImageReport(
        repr(model), len(test), n, model.traits.density, "p(x)" if given is None else "p(x | y)",
        _constant(fitted), words,
        frechet_distance(of_drawn, of_test), frechet_distance(of_train, of_test),
        near.precision, near_ref.precision, near.recall, near_ref.recall,
        copies.nearer, copies.z, duplicates(drawn, train), duplicates(test, train),
        nearest=nearest,
        evidence={
            "test": sets[1][:_SHOWN], "samples": sets[0][:_SHOWN],
            "labels": None if labels is None else labels[chosen][:_SHOWN],
            "by_label": model.classes is not None,
        },
        **_likelihood(log_p, math.prod(shape)), **found,
    )  # fmt: skip


def _events(fitted: Fitted, x: Any, name: str) -> np.ndarray:
    """The events of an argument, in the dtype that the model computes in."""
    dtype = inputs.float_dtype(fitted.params)
    x = np.asarray(inputs.as_events(fitted.model, fitted.events_of(x, name), dtype))
    if x.ndim != len(fitted.model.event_shape) + 1 or len(x) < _LEAST:
        raise ValueError(f"{name} must hold at least {_LEAST} images; got shape {x.shape}")
    check_known(x, name)
    return x


def _conditions_and_labels(
    fitted: Fitted, y: Any, n: int, name: str
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Conditions of images as numbers, and their labels by name, each or None."""
    model = fitted.model
    if model.y_shape is None:
        if y is None:
            return None, None
        numbers, names = numbers_of_labels(y, n, name)
        return None, np.array(names)[numbers]
    if y is None and model.classes is not None:
        return None, None
    dtype = inputs.float_dtype(fitted.params)
    given = np.asarray(inputs.as_conditions(model, fitted.conditions_of(y), (n,), dtype))
    if model.classes is None:
        return given, None
    return given, np.array(fitted.labels or range(model.classes))[given]


def _likelihood(log_p: np.ndarray | None, dim: int) -> dict[str, float]:
    """Mean log density and its error in nats, and both in bits per dimension."""
    if log_p is None:
        return {}
    mean = mean_and_error(log_p)
    bits, error = bits_per_dim(mean.value, dim), abs(bits_per_dim(mean.se, dim))
    return {
        "log_likelihood": mean.value,
        "log_likelihood_se": mean.se,
        "bits_per_dim": bits,
        "bits_per_dim_se": error,
    }


def _constant(fitted: Fitted) -> str:
    """What bits per dimension are relative to, in words."""
    model = fitted.model
    if model.traits.density == "none":
        return ""
    if discrete_numbers(model.support, tuple(model.event_shape)).all():
        return "of probabilities of levels: no constant is added"
    if fitted.pixels is not None:
        return f"of densities per level, with {fitted.pixels.levels} levels: no constant is added"
    return (
        "of densities in the units of x: for levels divided by L add log2 L, as 8 for 256 levels "
        "in [0, 1]"
    )
