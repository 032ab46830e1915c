"""Small fitted models with known densities, and helpers for tests of their distributions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from cases import Gamma, LinearGaussian

from jaxgen import Fitted, bijectors, compose, models
from jaxgen.laws.subject import away_from_init

KEY = jax.random.key(0)
PLANE = {"mean": [1.0, -1.0], "scale_tril": [[1.0, 0.0], [0.8, 0.6]]}
NUMBER = {"mean": [0.0], "scale_tril": [[1.0]]}
MIXTURE = {
    "logits": [0.5, 0.0, -1.0],
    "mean": [[-4.0, 0.0], [0.0, 3.0], [5.0, 1.0]],
    "scale_tril": [[[1.0, 0.0], [0.5, 0.3]], [[0.4, 0.0], [-0.3, 0.6]], [[0.2, 0.0], [0.0, 1.5]]],
}
UNIT_NOISE = Fitted(LinearGaussian(), {"w": jnp.array([1.0, 0.0]), "b": jnp.zeros(1),
                                       "log_scale": jnp.zeros(1)})  # fmt: skip


def arrays(tree):
    is_list = lambda v: isinstance(v, list)  # noqa: E731
    return jax.tree_util.tree_map(jnp.asarray, tree, is_leaf=is_list)


def gaussian():
    return Fitted(models.Gaussian(2), arrays(PLANE))


def made(model, **params):
    """A standard normal transformed by a bijector without params."""
    dim = model.base.dim
    base = {"mean": jnp.zeros(dim), "scale_tril": jnp.eye(dim), **params}
    return Fitted(model, {"base": base, "bijector": {}})


@functools.partial(jax.jit, static_argnums=1)
def draw(d, shape=()):
    return d.sample(KEY, shape)


@jax.jit
def score(d, x):
    return d.log_prob(x)


def away(model, size):
    """Params away from the initial ones, where networks return zero, with no unit at its kink."""
    params = away_from_init(model, KEY, np.zeros(size), seed=1)
    return jax.tree_util.tree_map(jnp.asarray, params)


BOUNDED = {
    "lognormal": made(compose.Transformed(models.Gaussian(1), bijectors.Positive())),
    "interval": made(compose.Transformed(models.Gaussian(2), bijectors.Interval(-1.0, 3.0))),
    "simplex": made(compose.Transformed(models.Gaussian(2), bijectors.Simplex())),
    "uniform": Fitted(models.Box(2), arrays({"low": [-3.0, 10.0], "high": [-2.5, 14.0]})),
    "exponential": Fitted(Gamma(1), arrays({"shape": [1.0], "rate": [1.0]})),
    "parts": Fitted(
        compose.Product(
            (
                models.Box(1),
                compose.Transformed(models.Gaussian(2), bijectors.Simplex()),
                models.Gaussian(1),
            )
        ),
        (
            arrays({"low": [5.0], "high": [6.0]}),
            {"base": {"mean": jnp.zeros(2), "scale_tril": jnp.eye(2)}, "bijector": {}},
            arrays(NUMBER),
        ),
    ),
}
