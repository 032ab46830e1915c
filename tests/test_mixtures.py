"""Kinds of covariance, components, degrees of freedom and starts of mixtures."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES
from sklearn import cluster, datasets, mixture

import jaxgen
from jaxgen import bijectors, compose, models, networks
from jaxgen.core import random
from jaxgen.core.degrees import degrees_of_freedom
from jaxgen.core.precision import enable_x64
from jaxgen.laws import compiled

KEY = jax.random.key(0)
KINDS = {"full": "full", "tied": "tied", "diagonal": "diag", "spherical": "spherical"}


def same_start(model, kind, x, means):
    """Params of the model, and scikit-learn's mixture fitted from the same params."""
    start = model.start(x, means)
    precisions = np.linalg.inv(np.asarray(model.covariances(start)))
    diagonals = np.diagonal(precisions, axis1=1, axis2=2)
    held = {
        "full": precisions,
        "tied": precisions[0],
        "diag": diagonals,
        "spherical": diagonals[:, 0],
    }
    peer = mixture.GaussianMixture(
        model.components,
        covariance_type=kind,
        reg_covar=0,
        tol=1e-13,
        max_iter=10_000,
        weights_init=np.asarray(model.weights(start)),
        means_init=np.asarray(model.means(start)),
        precisions_init=held[kind],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer.fit(x)
    return start, peer


def matrices(peer):
    """The covariances of scikit-learn's mixture, (components, dim, dim)."""
    count, dim = peer.means_.shape
    held = peer.covariances_
    if peer.covariance_type in ("full", "tied"):
        return np.broadcast_to(held, (count, dim, dim))
    return np.eye(dim) * held.reshape(count, 1, -1)


@pytest.mark.parametrize("covariance", KINDS)
@pytest.mark.parametrize("table", ["iris", "wine"])
def test_information_criteria_are_those_of_scikit_learn(table, covariance):
    """On raw features, whose deviations in wine differ by 2500; both from the same params.

    AIC and BIC differ by less than 1e-6, absolutely.
    """
    x = getattr(datasets, f"load_{table}")().data
    z = (x - x.mean(0)) / x.std(0)
    centres = cluster.KMeans(3, n_init=3, random_state=0).fit(z).cluster_centers_
    with enable_x64(True):
        model = models.GaussianMixture(x.shape[1], 3, covariance, jitter=0)
        start, peer = same_start(model, KINDS[covariance], x, x.mean(0) + x.std(0) * centres)
        fitted = jaxgen.Fitted(model, start)
        fitted = jaxgen.fit(fitted, x, key=KEY, epochs=10_000, tolerance=1e-14)
        score = float(np.sum(fitted.log_prob(x)))
        count = degrees_of_freedom(model, fitted.params)
        assert count == peer._n_parameters()
        assert 2 * count - 2 * score == pytest.approx(peer.aic(x), rel=0, abs=1e-6)
        assert np.log(len(x)) * count - 2 * score == pytest.approx(peer.bic(x), rel=0, abs=1e-6)
        close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
        close(model.weights(fitted.params), peer.weights_)
        close(model.means(fitted.params), peer.means_)
        close(model.covariances(fitted.params), matrices(peer))


@pytest.mark.parametrize("covariance", ["tied", "spherical"])
def test_raw_features_in_float32(covariance):
    """Far from 0 and of large scale; a spherical covariance has one unit for all features."""
    rng = np.random.default_rng(0)
    centres = np.array([[1e6, -3e4], [1e6 + 9e3, 1e4], [1e6, -8e4]])
    x = np.repeat(centres, 200, 0) + rng.normal(size=(600, 2)) * [1e3, 2e3]
    model = models.GaussianMixture(2, 3, covariance, jitter=0)
    start, peer = same_start(model, covariance, x, centres)
    fitted = jaxgen.fit(jaxgen.Fitted(model, start), x, key=KEY)
    np.testing.assert_allclose(np.mean(fitted.log_prob(x)), peer.score(x), atol=2e-3)
    np.testing.assert_allclose(model.covariances(fitted.params), matrices(peer), rtol=2e-3, atol=99)
    free = jaxgen.fit(model, x, key=KEY)
    np.testing.assert_allclose(np.mean(free.log_prob(x)), peer.score(x), atol=2e-3)


@pytest.mark.parametrize("covariance", KINDS)
def test_em_with_missing_values_ends_where_the_gradient_is_zero(covariance):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 2)) @ [[1.0, 0.7], [0.0, 0.5]] + 4 * rng.integers(2, size=(300, 1))
    x[rng.random(x.shape) < 0.2] = np.nan
    x = x[~np.isnan(x).all(1)]
    with enable_x64(True):
        model = models.GaussianMixture(2, 2, covariance, jitter=0)
        start = jaxgen.Fitted(model, model.start(x, [[0.0, 0.0], [4.0, 4.0]]))
        fitted = jaxgen.fit(start, x, key=KEY, epochs=2000, tolerance=1e-14)
        assert np.diff(fitted.history["train"]).min() > -1e-9
        gradient = jax.grad(lambda params: jaxgen.log_prob(model, params, jnp.asarray(x)).mean())
        for name, leaf in jax.jit(gradient)(fitted.params).items():
            assert np.abs(leaf).max() < 1e-5, name


def test_one_normal_with_missing_values():
    """Closed forms of one normal, and EM of a mixture of one."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3)) * [1.0, 2.0, 3.0] + [1.0, -1.0, 5.0]
    x[rng.random(x.shape) < 0.2] = np.nan
    x = x[~np.isnan(x).all(1)]
    normal = models.Gaussian(3, "spherical")
    one = jaxgen.fit(normal, x, key=KEY).params
    np.testing.assert_allclose(one["mean"], np.nanmean(x, 0), rtol=1e-5)
    np.testing.assert_allclose(
        one["scale"] ** 2, np.nanmean((x - np.nanmean(x, 0)) ** 2), rtol=1e-5
    )
    np.testing.assert_allclose(
        normal.covariance_matrix(one), one["scale"] ** 2 * np.eye(3), rtol=1e-6
    )
    mixed = jaxgen.fit(models.GaussianMixture(3, 1, "spherical", jitter=0), x, key=KEY, epochs=500)
    np.testing.assert_allclose(mixed.params["scale"][0], one["scale"], rtol=1e-2)


def unequal(leaf):
    return leaf + 0.1 * jnp.arange(leaf.size).reshape(leaf.shape)


@pytest.mark.parametrize("covariance", ["tied", "spherical"])
def test_modulate_moves_the_shared_scale(covariance):
    """The change of a scale applies to all components, or features, that share it."""
    model = models.GaussianMixture(2, 3, covariance)
    params = jax.tree_util.tree_map(unequal, compiled.init(model, KEY))
    change = jax.tree_util.tree_map(lambda leaf: 0.1 + 0 * leaf, params)
    moved = model.modulate(params, change)
    assert jax.tree_util.tree_map(jnp.shape, moved) == jax.tree_util.tree_map(jnp.shape, params)
    before, after = model.covariances(params), model.covariances(moved)
    np.testing.assert_allclose(after[:, 0, 0] / before[:, 0, 0], np.exp(0.2), rtol=1e-3)
    if covariance == "spherical":
        np.testing.assert_allclose(after[:, 1, 1], after[:, 0, 0], rtol=1e-6)
    else:
        assert (after == after[0]).all()


@pytest.mark.parametrize("second", [4e6, 0.0], ids=["varies", "constant"])
def test_jitter_of_a_spherical_covariance_is_relative_to_the_mean_variance(second):
    x = np.random.default_rng(0).normal(size=(100, 2)) * [1e3, second] + [5e3, 7e7]
    fitted = jaxgen.fit(models.Gaussian(2, "spherical", jitter=1.0), x, key=KEY)
    np.testing.assert_allclose(fitted.params["scale"] ** 2, 2 * x.var(0).mean(), rtol=1e-4)


def test_diag_is_an_alias():
    for family, fields in ((models.Gaussian, (2,)), (models.GaussianMixture, (2, 3))):
        short, long = family(*fields, "diag"), family(*fields, "diagonal")
        assert short == long
        assert hash(short) == hash(long)
        assert short.covariance == "diagonal"


# Components.


class Renamed(jaxgen.Wrapper):
    base: jaxgen.Model

    same_events = True

    @property
    def inner(self):
        return (jaxgen.Inner(self.base, ("base",)),)


NORMALS = models.GaussianMixture(2, 3)
MIXTURES = {
    "normals": (NORMALS, None),
    "copies": (compose.Mixture(models.Gaussian(2, "diagonal"), 3), None),
    "renamed": (Renamed(NORMALS), None),
    "positive": (compose.Transformed(NORMALS, bijectors.Positive()), None),
    "per class": (compose.PerClass(NORMALS, 2), 1),
    "conditional": (compose.Conditional(networks.MLP((2,), 4, 1), NORMALS), np.array([0.5, 1.0])),
}


@pytest.mark.parametrize("name", MIXTURES)
def test_components(name):
    """The log weights and densities add up to the density, and draws come from their component."""
    model, y = MIXTURES[name]
    components = model.traits.components
    assert components.count == 3

    @jax.jit
    def run(key):
        def one(noise):
            x = model.push(params, noise, y)
            which, joint = components.which(params, noise, y), components.joint(params, x, y)
            return which, joint, model.log_prob(params, x, y)

        params = jax.tree_util.tree_map(unequal, model.init(key))
        noise = random.draw(model.noise(), key, np.zeros(2, np.uint32), 4096, jnp.float32)
        return jax.vmap(one, -1)(noise)

    which, joint, scores = map(np.asarray, run(KEY))
    np.testing.assert_allclose(np.logaddexp.reduce(joint, 1), scores, rtol=1e-4, atol=1e-4)
    # the mean log probability of the component that made the event is minus their entropy
    log_p = joint - scores[:, None]
    chosen = np.take_along_axis(log_p, which[:, None], 1)[:, 0]
    entropy = -(np.exp(log_p) * log_p).sum(1)
    error = np.std(chosen + entropy) / 64
    assert abs((chosen + entropy).mean()) < 5 * error
    shares = np.bincount(which, minlength=3) / 4096
    assert np.abs(shares - np.exp(log_p).mean(0)).max() < 0.03
    assert shares.max() < 0.95


def test_models_without_components():
    for model in (models.Gaussian(2), models.KDE(2), Renamed(models.Gaussian(2))):
        assert model.traits.components is None


def test_responsibilities_with_missing_values():
    params = compiled.init(NORMALS, KEY)
    joint = NORMALS.traits.components.joint
    x, observed = jnp.array([0.3, 0.0]), jnp.array([True, False])
    part, part_params = NORMALS.marginal(params, (0,))
    wanted = part.traits.components.joint(part_params, x[:1])
    np.testing.assert_allclose(joint(params, x, None, observed), wanted, rtol=1e-5)


# Degrees of freedom.

COUNTS = {
    "box2": 4,
    "many_bits": 9,
    "levels": 4,
    "gaussian3": 9,
    "diagonal4": 8,
    "spherical": 3,
    "mixture_full": 17,
    "mixture_tied": 11,
    "mixture_diagonal": 14,
    "mixture_spherical": 11,
    "histogram1": 3,  # its bounds are given
    "histogram2": 15,
    "linear": 10,
    "permuted": 6,
    "dequantized": 4,
    "mixture_of_boxes": 9,
    "mixture_of_products": 7,
    "mixed": 7,
    "per_class": 17,
    "per_class_mixture": 11,
    "gamma": 4,
}


def shapes(model):
    return jax.eval_shape(model.init, KEY)


@pytest.mark.parametrize("name", COUNTS)
def test_degrees_of_freedom(name):
    model = next(case.model for case in CASES if case.name == name)
    assert degrees_of_freedom(model, shapes(model)) == COUNTS[name]


def test_networks_count_their_weights():
    """The frame of a flow, and the family's params at the start of a Conditional, do not count."""
    flow, conditional = models.SplineCoupling(2, 2, 4, 1, 3), MIXTURES["conditional"][0]
    for model, name in ((flow, "layers"), (conditional, "network")):
        leaves = jax.tree_util.tree_leaves(shapes(model)[name])
        assert degrees_of_freedom(model, shapes(model)) == sum(leaf.size for leaf in leaves)


def test_masked_weights_are_not_free():
    """With one hidden unit, the second feature's outputs depend on the first feature alone."""
    model = models.MaskedAutoregressive(2, 1, 1, 1, head="affine")
    # the unit reads the first of two features; each of the four outputs has a bias
    assert degrees_of_freedom(model, shapes(model)) == (1 + 1) + 2 * (1 + 2)


@pytest.mark.parametrize(
    "model", [models.KDE(2), compose.PerClass(models.KDE(2), 3), compose.Mixture(models.KDE(1), 2)]
)
def test_models_without_degrees_of_freedom(model):
    with pytest.raises(NotImplementedError, match=r"KDE\(dim=.\) has no degrees of freedom"):
        degrees_of_freedom(model, shapes(model))


# A start from given means.


def test_a_start_has_the_means_given():
    x = np.repeat([[0.0, 1e3], [50.0, 3e3]], 45, 0) + np.random.default_rng(0).normal(size=(90, 2))
    x[0, 1] = np.nan
    model, means = models.GaussianMixture(2, 2), [[1.0, 1e3], [49.0, 3e3]]
    params = model.start(x, means)
    np.testing.assert_array_equal(params["mean"], np.float32(means))
    np.testing.assert_allclose(model.weights(params), 0.5, atol=0.02)
    scales = np.sqrt(np.diagonal(model.covariances(params), axis1=1, axis2=2))
    np.testing.assert_allclose(scales[1], 1, atol=0.3)


def test_one_clear_error():
    x, model = np.random.default_rng(0).normal(size=(20, 2)), models.GaussianMixture(2, 3)
    for call, kind, message in (
        (
            lambda: model.start(x, np.zeros((2, 2))),
            ValueError,
            r"means must .* \(3, 2\); got shape",
        ),
        (lambda: model.start(x, np.full((3, 2), np.nan)), ValueError, "means must be finite"),
        (lambda: model.start(x, "kmeans"), TypeError, "means"),
        (lambda: model.start(x[:, :1], np.zeros((3, 2))), ValueError, "x must have shape"),
        (lambda: models.Gaussian(2, "tied"), ValueError, "covariance must be one of"),
        (lambda: models.GaussianMixture(2, 3, "ful"), ValueError, "covariance must be one of"),
        (
            lambda: jaxgen.fit(models.Gaussian(2, "spherical"), np.ones((5, 2)), key=KEY),
            ValueError,
            "x is constant in feature 0: pass jitter",
        ),
    ):
        with pytest.raises(kind, match=message):
            call()


@pytest.mark.parametrize("covariance", ["full", "tied", "diagonal", "spherical"])
def test_empty_components_beside_a_constant_feature(covariance):
    x = np.c_[np.repeat(np.random.default_rng(0).normal(size=(3, 2)), 20, 0), np.full(60, 5.0)]
    fitted = jaxgen.fit(
        models.GaussianMixture(3, 4, covariance), x, key=jax.random.key(0), epochs=2
    )
    assert np.isfinite(fitted.log_prob(x)).all()
