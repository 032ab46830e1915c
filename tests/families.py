"""One model of each family with params, for tests of blocks, streams and devices."""

import jax
import numpy as np

import jaxgen
from jaxgen.models import KDE, Bernoulli, Box, Categorical, Gaussian, GaussianMixture, Histogram

KEY = jax.random.key(3)
RNG = np.random.default_rng(0)
_MEANS = 3 * RNG.normal(size=(20, 2))
_TRIL = np.tril(RNG.normal(size=(20, 2, 2))) + 2 * np.eye(2)
_LOGITS = RNG.normal(size=20)
_WIDE_TRIL = np.tril(RNG.normal(size=(12, 12))) / 4 + np.eye(12)
FAMILIES = {
    "box": (Box(2), {"low": [-3, 10], "high": [-2.5, 14]}),
    "histogram": (
        Histogram((5, 7)),
        {"log_probs": RNG.normal(size=(5, 7)), "low": [-1, 0], "high": [1, 0.1]},
    ),
    "diagonal": (Gaussian(3, "diagonal"), {"mean": [1, 2, -9], "scale": [0.1, 3, 1]}),
    "full": (Gaussian(12), {"mean": np.arange(12), "scale_tril": _WIDE_TRIL}),
    "mixture": (
        GaussianMixture(2, components=20),
        {"logits": _LOGITS, "mean": _MEANS, "scale_tril": _TRIL},
    ),
    "diagonal_mixture": (
        GaussianMixture(2, components=3, covariance="diagonal"),
        {"logits": _LOGITS[:3], "mean": _MEANS[:3], "scale": np.abs(_TRIL[:3, :, 0])},
    ),
    "kde": (
        KDE(2),
        {"points": _MEANS[:8], "log_weights": _LOGITS[:8], "bandwidth": [0.3, 2]},
    ),
    "bits": (Bernoulli((3, 2)), {"logits": RNG.normal(size=(3, 2))}),
    "levels": (Categorical((2,), levels=40), {"logits": RNG.normal(size=(2, 40))}),
}
INEXACT = {"full"}  # the order of sums in a matrix product depends on its size


def family(name):
    model, params = FAMILIES[name]
    is_leaf = lambda v: isinstance(v, list)  # noqa: E731
    as_leaf = lambda v: np.asarray(v, np.float32)  # noqa: E731
    return jaxgen.Fitted(model, jax.tree_util.tree_map(as_leaf, params, is_leaf=is_leaf))


def same_bytes(name, got, wanted):
    got, wanted = np.asarray(got), np.asarray(wanted)
    assert got.shape == wanted.shape
    assert got.dtype == wanted.dtype
    if name in INEXACT:
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    else:
        assert got.tobytes() == wanted.tobytes()
