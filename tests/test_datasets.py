"""The land: its area, its outlines, and samples against its density. Drawings and sprites."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxgen import datasets
from jaxgen.core.precision import enable_x64
from jaxgen.data.datasets import land_geometry
from jaxgen.laws.compiled import noise_rows

CASES = [(r, m) for r in ("110m", "50m") for m in ("map", "sphere")]
STEP = 0.25  # degrees, of the grid that densities are summed on
SPHERE = 4 * math.pi * math.degrees(1) ** 2  # square degrees


@functools.cache
def loaded(resolution="110m", measure="map"):
    model = datasets.land(resolution, measure)
    return model, model.init(None)


@functools.partial(jax.jit, static_argnums=0)
def density(model, params, x):
    return jax.vmap(model.log_prob, in_axes=(None, 0))(params, x)


def log_prob(model, params, x):
    return np.asarray(density(model, params, x))


@functools.partial(jax.jit, static_argnums=(0, 3))
def sample(model, params, seed, n):
    dtype = params["keep"].dtype
    noise = noise_rows(model, jax.random.key(seed), n, dtype)
    return jax.vmap(model.push, in_axes=(None, -1))(params, noise)


def grid(step):
    """Midpoints of a grid of the box, (180 / step, 360 / step, 2)."""
    longitude = np.arange(-180 + step / 2, 180, step)
    latitude = np.arange(-90 + step / 2, 90, step)
    return np.stack(np.meshgrid(longitude, latitude), axis=-1).astype(np.float32)


@pytest.mark.parametrize(
    ("resolution", "flat_share", "sphere_share"),
    [("110m", 0.3317, 0.2887), ("50m", 0.3305, 0.2875)],
)
def test_area(resolution, flat_share, sphere_share):
    flat, cosine, _ = land_geometry.areas(resolution)
    assert flat / (360 * 180) == pytest.approx(flat_share, abs=5e-5)
    assert cosine / SPHERE == pytest.approx(sphere_share, abs=5e-5)


def test_entropy_of_the_flat_map():
    assert datasets.land().entropy() == pytest.approx(9.9757, abs=5e-5)


@pytest.mark.parametrize("resolution", ["110m", "50m"])
def test_triangles_tile_what_the_outlines_hold(resolution):
    flat, cosine, _ = land_geometry.areas(resolution)
    triangles = land_geometry.half_triangles(resolution)
    for measure, area in (("map", flat), ("sphere", cosine)):
        weights = datasets.land(resolution, measure)._weights(triangles)
        assert weights.sum() == pytest.approx(area, rel=1e-11)


@pytest.mark.parametrize(("resolution", "measure"), CASES)
def test_density_integrates_to_one_with_the_entropy_stated(resolution, measure):
    model, params = loaded(resolution, measure)
    lp = log_prob(model, params, grid(STEP).reshape(-1, 2)).astype(float)
    p = np.exp(lp) * STEP**2
    # the error of midpoints, at the coasts, is at most 2e-4; a filled Caspian Sea would add 2e-3
    assert p.sum() == pytest.approx(1, abs=4e-4)
    assert -(p * np.where(p > 0, lp, 0)).sum() == pytest.approx(model.entropy(), abs=4e-3)


@pytest.mark.parametrize(("resolution", "measure"), CASES)
def test_samples_follow_the_density(resolution, measure):
    """Chi-square test over cells of 10 degrees, which fails by chance for 1 in 10,000 keys."""
    n, cell = 200_000, 10
    model, params = loaded(resolution, measure)
    x = np.asarray(sample(model, params, 7, n))
    assert np.isneginf(log_prob(model, params, x)).mean() < 2e-5  # 2e-7 is rounding error

    p = np.exp(log_prob(model, params, grid(STEP).reshape(-1, 2)).astype(float))
    fine = round(cell / STEP)
    expected = p.reshape(180 // cell, fine, 360 // cell, fine).sum((1, 3)).ravel()
    expected *= n / expected.sum()
    edges = [np.arange(-180, 181, cell), np.arange(-90, 91, cell)]
    observed = np.histogram2d(x[:, 0], x[:, 1], edges)[0].T.ravel()
    assert observed.sum() == n
    rare = expected < 20
    observed, expected = (np.append(a[~rare], a[rare].sum()) for a in (observed, expected))
    assert stats.chisquare(observed, expected).pvalue > 1e-4


@pytest.mark.parametrize("resolution", ["110m", "50m"])
def test_samples_within_triangles_follow_latitude_on_the_sphere(resolution):
    """Kolmogorov-Smirnov test of sin(lat) within Antarctica, which fails for 1 in 10,000 keys."""
    x = np.asarray(sample(*loaded(resolution, "sphere"), 11, 200_000), float)
    inland = x[(x[:, 1] < -84) & (x[:, 0] > 0) & (x[:, 0] < 150)]
    sine = np.sin(np.deg2rad(inland[:, 1]))
    rim = np.sin(np.deg2rad(-84))
    assert stats.kstest((sine + 1) / (rim + 1), "uniform").pvalue > 1e-4


@pytest.mark.parametrize(("resolution", "measure"), CASES)
@pytest.mark.parametrize(
    ("place", "longitude", "latitude", "is_land"),
    [
        ("Paris", 2.35, 48.85, True),
        ("middle of the Atlantic", -30, 30, False),
        ("Caspian Sea", 51, 42, False),
        ("next to the south pole", 0, -89, True),
        ("Chukotka, west of the antimeridian", 179, 67, True),
        ("Chukotka, east of the antimeridian", -175, 66.5, True),
        ("Chukotka, on the antimeridian from the east", -180, 67.5, True),
        ("Chukotka, on the antimeridian from the west", 180, 67.5, True),
        ("Antarctica, on the antimeridian", 180, -86, True),
        ("Null Island", 0, 0, False),
        ("just west of Null Island", -1e-9, 0, False),
        ("Sahara on the prime meridian", 0, 25, True),
        ("just west of the Sahara on the prime meridian", -1e-9, 25, True),
        ("north pole", 0, 90, False),
        ("far off", 1e30, 1e30, False),
        ("far off along Asia", 1e30, 50, False),
        ("just beyond the map", 180.001, 67, False),
        ("below the map", 0, -90.001, False),
    ],
)
def test_places(resolution, measure, place, longitude, latitude, is_land):
    x = np.array([[longitude, latitude]], np.float32)
    (lp,) = log_prob(*loaded(resolution, measure), x)
    if not is_land:
        assert lp == -math.inf
        return
    flat, cosine, _ = land_geometry.areas(resolution)
    exact = -math.log(flat)
    if measure == "sphere":
        exact = math.log(math.cos(math.radians(latitude)) / cosine)
    assert lp == pytest.approx(exact, rel=1e-5)


def test_south_pole():
    """The pole is a side of the flat map, and a point without density on the sphere."""
    pole = np.array([[30.0, -90.0]], np.float32)
    for measure, expected in (("map", -9.9757), ("sphere", -math.inf)):
        (lp,) = log_prob(*loaded(measure=measure), pole)
        assert lp == pytest.approx(expected, abs=1e-4)


def test_double_precision():
    model, single = loaded(measure="sphere")
    with enable_x64(True):
        params = model.init(None)
        x = sample(model, params, 3, 20_000)
        assert x.dtype == params["keep"].dtype == jnp.float64
        assert np.isfinite(log_prob(model, params, x)).all()
        x = sample(model, single, 3, 100)
        assert x.dtype == log_prob(model, single, x).dtype == jnp.float32


def test_edges_agree_with_a_direct_even_odd_test():
    """The grid agrees with a test against all edges at once, in float64."""
    rng = np.random.default_rng(0)
    start, end, _ = land_geometry.outlines("50m")
    x = start[rng.integers(len(start), size=300)] + rng.normal(size=(300, 2)) * 0.05
    x = np.clip(x, [-180, -90], [180, 90]).astype(np.float32)
    lon, lat = x.astype(float).T[:, :, None]
    spans = (start[:, 1] <= lat) != (end[:, 1] <= lat)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (lat - start[:, 1]) / (end - start)[:, 1]
        crossing = start[:, 0] + share * (end - start)[:, 0]
    on_land = (spans & (crossing <= lon)).sum(1) % 2 == 1
    assert (np.isfinite(log_prob(*loaded("50m"), x)) == on_land).all()
    assert 0.3 < on_land.mean() < 0.7


def test_support_holds_every_sample():
    model, params = loaded()
    assert bool(model.support(sample(model, params, 7, 200_000)).all())
    assert not bool(model.support(jnp.array([0.0, 91.0])))


def test_drawings():
    found = datasets.drawings()
    images, labels, names = found
    assert images.shape == (8000, 28, 28)
    assert images.dtype == np.uint8
    assert images.max() == 1
    assert len(np.unique(images.reshape(8000, -1), axis=0)) == 8000
    assert images.mean() == pytest.approx(0.16688, abs=1e-5)
    assert names == tuple(sorted(set(labels.tolist())))
    assert (np.sort(labels) == labels).all()
    train, test = found.split()
    for part, count in ((train, 800), (test, 200)):
        assert all((part.labels == name).sum() == count for name in names)
    np.testing.assert_array_equal(train.images[:800], images[:800])
    np.testing.assert_array_equal(test.images[-200:], images[-200:])
    file = datasets.drawings.__globals__["FILE"]
    assert file.stat().st_size < 345_000


def test_sprites():
    images, factors, names = datasets.sprites()
    assert images.shape == (6144, 32, 32)
    assert names == ("shape", "scale", "orientation", "x", "y")
    assert len(np.unique(factors, axis=0)) == 6144
    assert (factors.max(0) + 1).tolist() == [3, 4, 8, 8, 8]
    # the middle of the ink is a shape's centre, and no shape is cut off
    ink = images.sum((1, 2))
    by_place = ink.reshape(-1, 64)
    assert (by_place == by_place[:, :1]).all()
    shape, scale, _, x, y = factors.T
    centred = shape < 2
    across = (images.sum(1) * (np.arange(32) + 0.5)).sum(1) / ink
    down = (images.sum(2) * (np.arange(32) + 0.5)).sum(1) / ink
    np.testing.assert_allclose(across[centred], (9 + 2 * x)[centred], atol=1e-6)
    np.testing.assert_allclose(down[centred], (9 + 2 * y)[centred], atol=1e-6)
    for kind in range(3):
        area = [ink[(shape == kind) & (scale == size)].mean() for size in range(4)]
        assert (np.diff(area) > 10).all()
    # equal images: a square after two eighths of a turn, an ellipse after four
    turns = images.reshape(3, 4, 8, 8, 8, 32, 32)
    np.testing.assert_array_equal(turns[0, :, :6], turns[0, :, 2:])
    np.testing.assert_array_equal(turns[1, :, :4], turns[1, :, 4:])
    assert (turns[2, :, :4] != turns[2, :, 4:]).any((-1, -2)).all()
    # clockwise: a quarter turn of the images
    np.testing.assert_array_equal(np.rot90(turns[2, :, 0, 3, 3], -1, (1, 2)),
                                  np.roll(turns[2, :, 2, 3, 3], (0, 2), (1, 2)))  # fmt: skip
