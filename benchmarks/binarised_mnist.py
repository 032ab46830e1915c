"""MNIST in black and white: log p of fixed test images, by models trained on bits drawn anew.

    python -m benchmarks.binarised_mnist DATA.npz [MODEL ...] [--epochs N] [--json FILE]

A pixel is white with a probability of its intensity. In training the bits are drawn anew at each
step ("dynamic binarisation"), from the first 50,000 images; the next 1,000, with fixed bits, select
the params. The test bits are one draw of all 10,000 test images, whose SHA-256 is checked; figures
for another draw differ by about .1 nats. log p is in nats: that of a VAE is an importance-weighted
bound with 1,000 draws, or 16 where the decoder is convolutional. ``probe`` is the accuracy of a
linear classifier of the digit from the latents of intensities, and ``probe_of_components`` that
from as many principal components. DATA.npz holds x_train (60000, 28, 28) and x_test, uint8, and the
digits y_train and y_test.
"""

import hashlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

import jaxgen
from benchmarks import model_rows
from jaxgen import Model, models, networks
from jaxgen.core.random import Uniform
from jaxgen.training import Adam

TEST = "0f63fc8e6fb24d6960bdbc30098cba9c4aab73de21f08426831d350caeea258f"


class Binarised(jaxgen.Wrapper):
    """Images of intensities from 0 to 255, of which ``base`` learns bits that are drawn anew.

    Args:
      base: a model of bits.
    """

    base: Model

    @property
    def inner(self):
        return (jaxgen.Inner(self.base, ("base",)),)

    @property
    def event_shape(self):
        return self.base.event_shape

    @property
    def support(self):
        return constraints.independent(constraints.interval(0, 255), len(self.event_shape))

    def _learning(self):
        noise = {"bits": Uniform(self.event_shape), "base": self.base.learning.noise}
        return super()._learning()._replace(noise=noise)

    def init(self, key, x=None, y=None):
        return {"base": self.base.init(key, None if x is None else 1.0 * (x > 127), y)}

    def loss(self, params, noise, x, y=None):
        bits = (noise["bits"] < x / 255).astype(x.dtype)
        return self.base.loss(params["base"], noise["base"], bits, y)

    def log_prob(self, params, x, y=None):
        return self.base.log_prob(params["base"], (x > 127).astype(x.dtype), y)

    def noise(self):
        return self.base.noise()

    def push(self, params, noise, y=None):
        return 255 * self.base.push(params["base"], noise, y)

    def pull(self, params, x, y=None):
        return self.base.pull(params["base"], x / 255, y)


class Entry(NamedTuple):
    """A model of bits, arguments of ``jaxgen.fit``, and draws of the bound of a VAE."""

    model: Any
    epochs: int
    settings: dict[str, Any]
    draws: int = 1000


def _pixels(features, layers, epochs, rate, **fields):
    network = networks.Transformer(features, layers=layers)
    model = models.PixelAutoregressive((28, 28), 2, network, **fields)
    return Entry(model, epochs, {"batch_size": 32, "optimizer": Adam(rate)})


def _vae(latent, epochs):
    each = networks.MLP(width=512)
    model = models.VAE((28, 28), latent, 2, encoder=each, decoder=each)
    return Entry(model, epochs, {"batch_size": 128, "optimizer": Adam(1e-3)})


def _convolutional_vae(latent):
    encoder, decoder = networks.ConvEncoder(16), networks.ConvDecoder(16)
    model = models.VAE((28, 28), latent, 2, encoder=encoder, decoder=decoder)
    return Entry(model, 2, {"batch_size": 128, "optimizer": Adam(2e-3)}, draws=16)


MODELS = {
    "pixels": _pixels(64, 4, 2, 3e-3),
    "pixels_large": _pixels(128, 6, 12, 2e-3, width=512),
    "vae": _vae(50, 100),
    "vae_20": _vae(20, 30),
    "vae_10": _vae(10, 30),
    "vae_convolutional": _convolutional_vae(50),
    "vae_convolutional_20": _convolutional_vae(20),
}


def main():
    arguments = model_rows.arguments("binarised_mnist", __doc__, MODELS)
    with np.load(arguments.data) as data:
        images, intensities = data["x_train"], data["x_test"]
        digits = data["y_train"], data["y_test"]
    test = bits(intensities, seed=1)
    packed = np.packbits(test.reshape(len(test), -1), axis=1)
    if hashlib.sha256(packed).hexdigest() != TEST:
        raise ValueError(f"{arguments.data}: the bits of the test images are others")
    names, epochs = arguments.names or MODELS, arguments.epochs
    data = images, intensities, test, digits
    model_rows.write((_row(name, epochs, *data) for name in names), arguments.json)


def bits(images, seed):
    """A fixed draw of bits, whose probabilities are the intensities of images (n, 28, 28)."""
    uniform = np.random.default_rng(seed).random(images.shape, dtype=np.float32)
    return uniform < images.astype(np.float32) / 255


def _row(name, epochs, images, intensities, test, digits):
    entry = MODELS[name]
    epochs = entry.epochs if epochs is None else epochs
    held_out = 255 * bits(images, seed=0)[50_000:51_000]
    start = time.perf_counter()
    trained = jaxgen.fit(
        Binarised(entry.model), images[:50_000], key=jax.random.key(0), epochs=epochs,
        validation=held_out, **entry.settings,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    fitted = jaxgen.Fitted(entry.model, trained.params["base"])
    found = {}
    if fitted.model.traits.density == "bound":
        fitted = fitted.replace(samples=entry.draws)
        weights = jaxgen.metrics.importance_weights(fitted, test)
        scores = np.asarray(weights.log_prob, np.float64)
        found["effective_samples"] = float(np.mean(weights.effective_samples))
        key = jax.random.key(1)
        losses = jaxgen.core.batch.loss_rows(
            entry.model, fitted.params, key, jnp.asarray(test, float), None, 1
        )
        found["bound"] = -float(jnp.mean(losses))
        probe = jaxgen.metrics.probe(
            trained, images[:50_000], digits[0][:50_000],
            x_test=intensities, labels_test=digits[1],
        )  # fmt: skip
        found["probe"], found["probe_of_components"] = probe.accuracy, probe.pca
    else:
        scores = np.asarray(fitted.log_prob(test), np.float64)
    return {
        "name": name, "model": repr(entry.model), "log_prob": scores.mean(),
        "standard_error": scores.std() / len(scores) ** 0.5, **found,
        "parameters": sum(np.size(v) for v in jax.tree_util.tree_leaves(fitted.params)),
        "seconds": seconds, "epochs": epochs,
        "best_epoch": trained.history.get("best_epoch"),
        "validation": trained.history["validation"],
    }  # fmt: skip


if __name__ == "__main__":
    main()
