"""The clusters from which fits of mixtures start."""

import jax
import numpy as np

from jaxgen.models.kmeans import responsibilities


def test_clusters_far_apart_are_found():
    """The squared distances within clusters are as small as for the true clusters."""
    rng = np.random.default_rng(0)
    label = rng.integers(3, size=600)
    centre, spread = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]]), np.array([0.3, 0.6, 0.9])
    x = centre[label] + spread[label, None] * rng.normal(size=(600, 2))
    wanted = sum(_squares(x[label == k]) for k in range(3))
    for seed in range(20):
        own = np.asarray(responsibilities(jax.random.key(seed), x, 3)).argmax(1)
        assert sum(_squares(x[own == k]) for k in range(3)) <= 1.01 * wanted


def _squares(x):
    return ((x - x.mean(0)) ** 2).sum()
