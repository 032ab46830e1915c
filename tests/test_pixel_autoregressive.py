"""``PixelAutoregressive``: patches, edges, networks of one's own, and malformed fields."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import LinenSequence

import jaxgen
from jaxgen import compose, models, networks

KEY = jax.random.key(0)
TINY = networks.Transformer(4, heads=2, layers=1, expansion=2)


def _fitted(shape, levels, network=TINY, **fields):
    model = models.PixelAutoregressive(shape, levels, network, width=6, **fields)
    params = model.init(KEY)
    rng = np.random.default_rng(0)
    moved = jax.tree.map(lambda v: jnp.asarray(v + 0.5 * rng.normal(size=v.shape), v.dtype), params)
    return jaxgen.Fitted(model, moved)


def _all_images(shape, levels):
    size = int(np.prod(shape))
    return np.array(list(itertools.product(range(levels), repeat=size))).reshape(-1, *shape)


# edges that patches do not divide, one patch, channels, a row
@pytest.mark.parametrize(
    ("shape", "levels", "patch"),
    [((3, 3), 2, 2), ((2, 2), 3, 4), ((1, 2, 2), 3, 1), ((1, 7), 2, 3), ((2, 2, 1), 2, 2)],
)
def test_probabilities_of_all_images_sum_to_one_and_draws_follow_them(shape, levels, patch):
    fitted, images = _fitted(shape, levels, patch=patch), _all_images(shape, levels)
    p = np.exp(np.asarray(fitted.log_prob(images), np.float64))
    assert p.sum() == pytest.approx(1, abs=1e-5)
    draws = np.asarray(fitted.sample(KEY, 4096)).reshape(4096, -1)
    places = draws @ levels ** np.arange(draws.shape[1])[::-1]
    found = np.bincount(places, minlength=len(p)) / len(draws)
    # chi-square: above its mean by 5 deviations with probability below 1e-5
    common = p * len(draws) > 5
    chi2 = len(draws) * ((found - p)[common] ** 2 / p[common]).sum()
    assert chi2 < common.sum() + 5 * np.sqrt(2 * common.sum())


def test_a_network_of_ones_own_draws_what_it_scores():
    fitted, images = _fitted((2, 4), 2, LinenSequence(4), patch=2), _all_images((2, 4), 2)
    p = np.exp(np.asarray(fitted.log_prob(images), np.float64))
    assert p.sum() == pytest.approx(1, abs=1e-5)
    draws = np.asarray(fitted.sample(KEY, 4096)).reshape(4096, -1)
    found = np.bincount(draws @ 2 ** np.arange(8)[::-1], minlength=256) / 4096
    assert np.abs(found - p).sum() < 0.3  # .19 expected


def test_it_learns_what_pixels_have_to_do_with_each_other_and_with_the_label():
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=2000)
    left = rng.integers(2, size=2000)
    x = np.stack([left, left ^ y, rng.integers(2, size=2000), left], 1).reshape(-1, 2, 2)
    model = models.PixelAutoregressive(levels=2, network=TINY, width=16, patch=1)
    model = compose.Labelled(model, 2)
    fitted = jaxgen.fit(model, x, y, key=KEY, epochs=20)
    assert fitted.log_prob(x, y).mean() == pytest.approx(-2 * np.log(2), abs=0.05)
    assert (np.asarray(fitted.classify(x)).argmax(1) == y).mean() > 0.99


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"shape": (4,)}, r"shape must be \(height, width\) or .*got \(4,\)"),
        ({"shape": (4, 4), "levels": 1}, "levels must be at least 2, got 1"),
        ({"shape": (4, 4), "patch": 0}, "patch must be at least 1, got 0"),
        ({"shape": (4, 4), "y_domain": jaxgen.domains.Levels(2)}, "y_domain must be None"),
    ],
)
def test_fields_that_do_not_suit_are_errors(fields, error):
    with pytest.raises(ValueError, match=error):
        models.PixelAutoregressive(**fields)


def test_pixels_outside_of_the_levels_are_refused_and_score_minus_infinity():
    model = models.PixelAutoregressive((2, 2), 4, TINY, width=6)
    with pytest.raises(ValueError, match=r"must hold|must be|support"):
        jaxgen.fit(model, np.full((3, 2, 2), 7), key=KEY)
    scores = jaxgen.Fitted(model, model.init(KEY)).log_prob(np.array([[[0, 1], [2, 4]]]))
    assert scores[0] == -np.inf
