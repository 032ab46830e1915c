"""MNIST in logit space, with the protocol of Papamakarios et al. 2017, section 5.2.

    python -m benchmarks.mnist DATA.npz [MODEL ...] [--epochs N] [--json FILE]

Models are trained on the first 50,000 images; the next 10,000 select the params, and all 10,000
images of the test set are scored. x = (pixel + u) / 256 with u uniform, then 1e-6 + (1 - 2e-6) x,
then its logit; log p is in nats. DATA.npz holds x_train (60000, 28, 28) and x_test, uint8, and
their labels y_train and y_test. For models of labelled digits, log p(x) = log sum_y p(y) p(x|y),
and p(y|x) follows by Bayes' rule.
"""

import math
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxgen
from benchmarks import model_rows
from jaxgen import compose, domains, models, networks
from jaxgen.training import Adam

DIM, LEVELS, RATE, DIGITS, HELD_OUT = 784, 256, 1e-6, 10, 2000


class Entry(NamedTuple):
    """A model and its fit.

    Attributes:
      model: the spec.
      settings: arguments of ``jaxgen.fit``.
      space: the events: "levels" of pixels, also as "images" (28, 28), "shares" in (0, 1), or
        "logits" of shares.
    """

    model: Any
    settings: dict[str, Any]
    space: str = "logits"


def _masked(head, rate, epochs, width=1024, digits=None, **fields):
    if digits is not None:
        fields |= {"y_shape": (), "y_domain": domains.Levels(digits)}
    model = models.MaskedAutoregressive(DIM, width=width, head=head, **fields)
    model = model if digits is None else compose.Labelled(model, digits)
    settings = {"epochs": epochs, "batch_size": 256, "optimizer": Adam(rate), "validation": True}
    return Entry(model, settings, "levels" if head == "categorical" else "logits")


def _pixels(width, layers, epochs, rate, digits=None, **fields):
    network = networks.Transformer(width, layers=layers)
    model = models.PixelAutoregressive((28, 28), LEVELS, network, **fields)
    model = model if digits is None else compose.Labelled(model, digits)
    settings = {"epochs": epochs, "batch_size": 32, "optimizer": Adam(rate), "validation": True}
    return Entry(model, settings, "images")


MODELS = {
    "gaussian": Entry(models.Gaussian(DIM), {}),
    "categorical": _masked("categorical", 2e-3, 15, width=512, levels=LEVELS),
    "mixture": _masked("mixture", 1e-3, 10, components=10),
    "affine": _masked("affine", 1e-3, 10, layers=5),
    "spline": _masked("spline", 1e-3, 10, width=512, layers=2),
    "gaussians": Entry(compose.PerClass(models.Gaussian(DIM), DIGITS), {}),
    "mixtures": Entry(
        compose.PerClass(models.GaussianMixture(DIM, 3, jitter=0.3), DIGITS),
        {"epochs": 30},
        "shares",
    ),
    "labelled": _masked("categorical", 2e-3, 15, width=512, levels=LEVELS, digits=DIGITS),
    "pixels": _pixels(128, 4, 8, 2e-3),
    "pixels_labelled": _pixels(128, 4, 8, 2e-3, digits=DIGITS),
}


def main():
    arguments = model_rows.arguments("mnist", __doc__, MODELS)
    with np.load(arguments.data) as data:
        levels = _parts(data["x_train"].reshape(-1, DIM), data["x_test"].reshape(-1, DIM))
        digits = _parts(data["y_train"], data["y_test"])
    rng = np.random.default_rng(0)
    images = {part: level.reshape(-1, 28, 28) for part, level in levels.items()}
    data = {"levels": levels, "images": images, "shares": {}, "logits": {}}
    for part, level in levels.items():
        share = RATE + (1 - 2 * RATE) * (level + rng.random(level.shape)) / LEVELS
        data["shares"][part] = share
        data["logits"][part] = np.log(share) - np.log1p(-share)
    names, epochs = arguments.names or MODELS, arguments.epochs
    model_rows.write((_row(name, epochs, data, digits) for name in names), arguments.json)


def _parts(train, test):
    return {"train": train[:50_000], "held out": train[50_000:], "test": test}


def _row(name, epochs, spaces, digits):
    entry = MODELS[name]
    settings = dict(entry.settings)
    if epochs and "epochs" in settings:
        settings["epochs"] = epochs
    data, share = spaces[entry.space], spaces["shares"]["test"]
    labelled = entry.model.classes is not None
    if "validation" in settings:
        held_out = data["held out"][:HELD_OUT]
        digits_held_out = digits["held out"][:HELD_OUT]
        settings["validation"] = (held_out, digits_held_out) if labelled else held_out
    y = digits["train"] if labelled else None
    fitted = jaxgen.fit(entry.model, data["train"], y, key=jax.random.key(0), **settings)
    by_bayes = {}
    if labelled:
        log_p = np.asarray(fitted.classify(data["test"]), np.float64)
        by_bayes = {
            "accuracy": (log_p.argmax(1) == digits["test"]).mean(),
            "log_prob_of_digit": log_p[np.arange(len(log_p)), digits["test"]].mean(),
        }
    scores = np.asarray(fitted.log_prob(data["test"]), np.float64)
    # the same as compose.Dequantized and bijectors.Inverse, but in float64
    of_shares = np.log(share * (1 - share)).sum(1)
    of_levels = of_shares - DIM * math.log((1 - 2 * RATE) / LEVELS)
    scores += {"levels": of_levels, "images": of_levels, "shares": of_shares, "logits": 0}[
        entry.space
    ]
    bits = -(scores - of_levels) / math.log(2) / DIM
    return {
        "name": name,
        "model": repr(entry.model),
        "log_prob": scores.mean(),
        "standard_error": scores.std() / len(scores) ** 0.5,
        "bits_per_dimension": bits.mean(),
        **by_bayes,
        "parameters": sum(np.size(v) for v in jax.tree_util.tree_leaves(fitted.params)),
        "seconds": fitted.history["seconds"],
        "epochs": fitted.history["epochs"],
        "best_epoch": fitted.history.get("best_epoch"),
        "validation": fitted.history["validation"],
    }


if __name__ == "__main__":
    main()
