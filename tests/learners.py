"""Small models and data for the tests of ``fit``."""

from __future__ import annotations

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.model import Learning, Model, Traits
from jaxgen.core.random import Normal
from jaxgen.core.spec import Count

KEY = jax.random.key(0)


class Exponential(Model):
    """Exponential distributions, fitted by gradients from a poor start; params hold an integer."""

    dim: Count = 1

    event_shape = property(lambda self: (self.dim,))

    def init(self, key, x=None, y=None):
        return {"base": {"log_rate": jnp.zeros(self.dim)}, "bias": jnp.ones(()), "version": 7}

    def log_prob(self, params, x, y=None):
        log_rate = params["base"]["log_rate"] + params["bias"]
        return jnp.where((x >= 0).all(), (log_rate - jnp.exp(log_rate) * x).sum(), -jnp.inf)

    def noise(self):
        return Normal((self.dim,))


class Climber(Model):
    """log p = height for every x, and NaN for a height above 0.6."""

    event_shape = ()

    def init(self, key, x=None, y=None):
        return {"height": jnp.zeros(())}

    def log_prob(self, params, x, y=None):
        return jnp.where(params["height"] > 0.6, jnp.nan, params["height"]) + 0 * x


class EMClimber(Climber):
    learning = Learning("em")

    def em_step(self, params, x, y=None, weights=None):
        score = jnp.where(params["height"] > 0.6, jnp.nan, params["height"])
        return {"height": params["height"] + 0.25}, score


class Regression(Model):
    """Linear regression p(x | y), normal around slope * y."""

    event_shape = ()
    y_shape = ()

    def init(self, key, x=None, y=None):
        return {"slope": jnp.zeros(())}

    def log_prob(self, params, x, y=None):
        return -0.5 * (x - params["slope"] * y) ** 2 - 0.5 * math.log(2 * math.pi)

    def noise(self):
        return Normal()


class Noisy(Model):
    """A mean fitted to x + noise by least squares, in a model without a density."""

    event_shape = ()
    learning = Learning(noise={"shift": Normal()})
    traits = Traits(density="none")

    def init(self, key, x=None, y=None):
        return {"mean": jnp.zeros(())}

    def loss(self, params, noise, x, y=None):
        return (params["mean"] - x - noise["shift"]) ** 2


class Leaves(Noisy):
    """Params of several ranks; only the mean has a gradient, and weight decay moves the others."""

    learning = Noisy.learning._replace(frozen=("fixed",))

    def init(self, key, x=None, y=None):
        scale = np.arange(1, 7, dtype=jnp.result_type(float))
        leaves = {
            "a": scale[0],
            "b": {"matrix": scale.reshape(2, 3), "vector": -scale},
            "cube": scale.reshape(3, 1, 2),
            "fixed": scale.reshape(3, 2),
            "mean": 0 * scale[0],
            "version": 7,
        }
        return jax.tree_util.tree_map(jnp.asarray, leaves)

    def loss(self, params, noise, x, y=None):
        size = sum(jnp.abs(leaf).sum() for leaf in jax.tree_util.tree_leaves(params))
        # the loss falls with the size of the params, so the last params are the best
        return super().loss(params, noise, x) + jax.lax.stop_gradient(size)


class Network(Model):
    """A network that predicts x_1 from x_0; ranks of its leaves are not in order."""

    layers: int = 2

    event_shape = (2,)

    def init(self, key, x=None, y=None):
        return _random_layers(key, self.layers)

    def log_prob(self, params, x, y=None):
        hidden = x[:1]
        for i, layer in enumerate(params):
            hidden = (jnp.tanh(hidden) if i else hidden) @ layer["weight"] + layer["bias"]
        location, log_scale = hidden[0], jnp.tanh(hidden[1])
        return -0.5 * ((x[1] - location) * jnp.exp(-log_scale)) ** 2 - log_scale - 0.5 * x[0] ** 2

    def noise(self):
        return Normal((2,))


@functools.partial(jax.jit, static_argnums=1)
def _random_layers(key, count):
    widths = [1, *(4 for _ in range(count - 1)), 2]
    keys = jax.random.split(key, count)
    return [
        {"bias": jnp.zeros(shape[1]), "weight": jax.random.normal(key, shape)}
        for key, shape in zip(keys, itertools.pairwise(widths), strict=True)
    ]


class Steep(Model):
    """log p = height for every x, and NaN for heights in (1, 1.3); it starts below 0.8.

    A step of the tests adds 1/8.
    """

    event_shape = ()

    def init(self, key, x=None, y=None):
        return {"height": 0.8 * jax.random.uniform(key)}

    def log_prob(self, params, x, y=None):
        height = params["height"]
        return height + jnp.where((height > 1) & (height < 1.3), jnp.nan, 0) + 0 * x


# Settings that tests share, so that they also share compiled programs.
SMALL = {"epochs": 2, "batch_size": 16, "validation": 0}


def exponential(n, rate=5.0, seed=0):
    return np.random.default_rng(seed).exponential(1 / rate, (n, 1))


def two_normals(n, seed=0):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(n) < 0.3, rng.normal(-4, 1, n), rng.normal(3, 0.5, n))[:, None]


def waves(n, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    x[:, 1] = np.sin(2 * x[:, 0]) + 0.3 * x[:, 1]
    return x


def leaves(fitted):
    return [np.asarray(leaf) for leaf in jax.tree_util.tree_leaves(fitted.params)]


def rate(fitted):
    params = fitted.params
    return float(np.exp(np.float64(params["base"]["log_rate"]) + np.float64(params["bias"]))[0])
