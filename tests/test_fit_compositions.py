"""Fits of composed models: the recorded scores are those of x in the units of the user."""

import jax
import numpy as np
import optax
import pytest

import jaxgen
from jaxgen.bijectors import Affine, Positive
from jaxgen.compose import Product, Transformed
from jaxgen.models import Box, Gaussian, GaussianMixture, SplineCoupling

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("weighted", [False, True])
def test_em_records_the_scores_of_x(weighted):
    x = np.exp(RNG.normal(size=(130, 1)))  # 130 rows are padded
    x = np.concatenate([x, RNG.normal(size=(130, 1))], 1)
    weights = RNG.uniform(0.1, 3, 130) if weighted else None
    positive = Transformed(GaussianMixture(1, 2), Positive())
    fitted = jaxgen.fit(Product((positive, Gaussian(1))), x, key=KEY, weights=weights)
    mean = np.average(fitted.log_prob(x), weights=weights)
    np.testing.assert_allclose(fitted.history["train"][-1], mean, rtol=1e-3)


def test_gradients_record_the_scores_of_x():
    x = np.exp(RNG.normal(size=(256, 2)))
    model = Transformed(SplineCoupling(2, 2, 4, 1, 3), Positive())
    settings = {"optimizer": optax.sgd(0.0), "epochs": 1, "validation": x}
    fitted = jaxgen.fit(model, x, key=KEY, **settings)
    mean = np.mean(fitted.log_prob(x))
    np.testing.assert_allclose(fitted.history["train"][0], mean, rtol=1e-4)


def test_the_frame_of_a_flow_is_not_trained():
    x = RNG.normal(size=(256, 2))
    model = SplineCoupling(2, 2, 4, 1, 3)
    start = jaxgen.Fitted(model, jax.jit(model.init)(KEY))
    fitted = jaxgen.fit(start, x, key=KEY, epochs=1)
    before, after = (jax.tree_util.tree_leaves(f.params["frame"]) for f in (start, fitted))
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)
    before, after = (jax.tree_util.tree_leaves(f.params["layers"]) for f in (start, fitted))
    assert any((np.asarray(a) != b).any() for a, b in zip(before, after, strict=True))


def test_a_margin_widens_a_box_at_both_ends():
    fitted = jaxgen.fit(Box(1, margin=0.1), np.array([[0.0], [1.0]]), key=KEY)
    np.testing.assert_allclose(fitted.params["low"], [-0.1], rtol=1e-6)
    np.testing.assert_allclose(fitted.params["high"], [1.1], rtol=1e-6)


def test_a_constant_feature_keeps_its_scale():
    x = np.stack([RNG.normal(size=50), np.full(50, 3.0)], 1)
    params = Affine().init((2,), x)
    assert params["scale"][1] == 1
    assert params["shift"][1] == 3
