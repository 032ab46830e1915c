"""Methods that are optimised for speed, against the plain formulas that they implement.

Values and gradients agree to 2e-5 in float32, where the plain formula is computed in float64 from
the same numbers, and to 1e-10 in float64. Errors are relative to the larger of an entry and the
mean absolute entry of its array.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from compilation import QUICK
from jax.scipy.special import logsumexp
from jax.scipy.stats import multivariate_normal, norm

import jaxgen
from jaxgen.core import batch, verbs
from jaxgen.core.precision import enable_x64
from jaxgen.core.random.choice import choose
from jaxgen.models import KDE, Bernoulli, Categorical, Gaussian, GaussianMixture, kde

KEY = jax.random.key(5)
ROWS = 9
LIMITS = {np.float32: 2e-5, np.float64: 1e-10}
# float32 is compiled as for users; float64 checks the formulas
dtypes = pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(np.float32, marks=pytest.mark.optimized, id="float32"),
        pytest.param(np.float64, id="float64"),
    ],
)
tree_map = jax.tree_util.tree_map


def as_dtype(tree, dtype):
    return tree_map(lambda leaf: np.asarray(leaf, dtype), tree)


def close(got, wanted, dtype):
    for a, b in zip(*map(jax.tree_util.tree_leaves, (got, wanted)), strict=True):
        assert a.dtype == dtype
        a, b = np.asarray(a, np.float64), np.asarray(b)
        finite = np.abs(b[np.isfinite(b)])
        atol = LIMITS[dtype] * (finite.mean() if finite.size else 0)
        np.testing.assert_allclose(a, b, rtol=LIMITS[dtype], atol=atol)


@functools.lru_cache(maxsize=4)
def value_and_gradients(function, by, quick=False):
    """A jitted function: scores of rows, and gradients of their sum by some of (params, x)."""

    def both(params, x):
        total = lambda params, x: function(params, x).sum()  # noqa: E731
        return function(params, x), jax.grad(total, by)(params, x) if by else ()

    return jax.jit(both, compiler_options=QUICK if quick else None)


@functools.cache
def in_rows(plain):
    return jax.vmap(plain, (None, 0))


def scores(model, params, x):
    """Scores of complete rows, without the branch for missing values in ``jaxgen.log_prob``."""
    return batch.log_prob_rows(model, params, x, None)


def assert_body(model, plain, params, x, dtype, by=(0, 1), quick=False):
    """Check log_prob and its gradients, by params and x, against ``plain(params, x)``.

    quick: use the quick compiler options, as for ``plain``; else those of the test's marks.
    """
    with enable_x64(True):
        params, x = as_dtype((params, x), dtype)  # the same rounded numbers for both
        got = value_and_gradients(functools.partial(scores, model), by, quick)(params, x)
        exact = as_dtype((params, x), np.float64)
        close(got, value_and_gradients(in_rows(plain), by, quick=True)(*exact), dtype)


def tril(rng, *shape):
    """Lower triangles with diagonal entries of any sign, and entries above that must be ignored."""
    dim = shape[-1]
    low = np.tril(rng.normal(size=(*shape, dim)) / dim**0.5)
    return low + 1.5 * np.eye(dim) + np.triu(rng.normal(size=(dim, dim)), 1)


# normals


def plain_gaussian(params, x):
    if "scale" in params:
        return norm.logpdf(x, params["mean"], params["scale"]).sum()
    scale = jnp.tril(params["scale_tril"])
    return multivariate_normal.logpdf(x, params["mean"], scale @ scale.T)


def gaussian(dim, covariance):
    rng = np.random.default_rng(dim)
    params = {"mean": 3 * rng.normal(size=dim)}
    if covariance == "full":
        params["scale_tril"] = tril(rng, dim)
    else:
        params["scale"] = rng.uniform(0.1, 4, dim)
    x = params["mean"] + 2 * rng.normal(size=(ROWS, dim))
    return Gaussian(dim, covariance), params, x


@dtypes
@pytest.mark.parametrize("covariance", ["full", "diagonal"])
@pytest.mark.parametrize("dim", [1, 2, 8, 9, 40])
def test_gaussian(dim, covariance, dtype):
    model, params, x = gaussian(dim, covariance)
    assert_body(model, plain_gaussian, params, x, dtype)


@functools.partial(jax.jit, static_argnums=0)
def pull_and_push(model, params, x):
    z = verbs.run_traced(verbs.to_pull(model, params, x, None))
    return z, verbs.run_traced(verbs.to_push(model, params, z, None))


@dtypes
@pytest.mark.parametrize("covariance", ["full", "diagonal"])
@pytest.mark.parametrize("dim", [1, 2, 8, 9, 40])
def test_gaussian_pull_and_push(dim, covariance, dtype):
    model, params, x = gaussian(dim, covariance)
    with enable_x64(True):
        params, x = as_dtype((params, x), dtype)
        z, back = pull_and_push(model, params, x)
        exact, exact_x = as_dtype((params, x), np.float64)
        centred, wide = exact_x - exact["mean"], np.asarray(z, np.float64)
        if covariance == "full":
            low = np.tril(exact["scale_tril"])
            close(z, scipy.linalg.solve_triangular(low, centred.T, lower=True).T, dtype)
            moved = wide @ low.T
        else:
            close(z, centred / exact["scale"], dtype)
            moved = wide * exact["scale"]
        close(back, exact["mean"] + moved, dtype)


# mixtures of normals


def plain_mixture(params, x):
    weights = jax.nn.log_softmax(params["logits"])
    normals = {k: v for k, v in params.items() if k != "logits"}
    return logsumexp(weights + jax.vmap(plain_gaussian, (0, None))(normals, x))


def mixture(dim, components, covariance):
    rng = np.random.default_rng(10 * dim + components)
    params = {
        "logits": 2 * rng.normal(size=components),
        "mean": 3 * rng.normal(size=(components, dim)),
    }
    if covariance == "full":
        params["scale_tril"] = tril(rng, components, dim)
    else:
        params["scale"] = rng.uniform(0.3, 3, (components, dim))
    x = params["mean"][rng.integers(0, components, ROWS)] + 2 * rng.normal(size=(ROWS, dim))
    return GaussianMixture(dim, components, covariance), params, x


@dtypes
@pytest.mark.parametrize("covariance", ["full", "diagonal"])
@pytest.mark.parametrize(("dim", "components"), [(1, 7), (2, 1), (3, 3), (8, 2), (9, 3)])
def test_mixture(dim, components, covariance, dtype):
    model, params, x = mixture(dim, components, covariance)
    # gradients are slow to compile up to 8 features, which are written out on scalars
    by = (0, 1) if components == 3 else ()
    assert_body(model, plain_mixture, params, x, dtype, by, quick=by != ())


@dtypes
@pytest.mark.parametrize("dim", [2, 9])
def test_mixture_with_distant_components_without_weight(dim, dtype):
    """The first and last component have no weight; x[0] is 100 scales away from the others."""
    model, params, x = mixture(dim, 4, "full")
    params["logits"] = np.array([-np.inf, 0.0, 1.0, -np.inf])
    x[0] += 100

    def plain(params, x):
        return plain_mixture({k: v[1:3] for k, v in params.items()}, x)

    assert_body(model, plain, params, x, dtype, by=1)


@functools.partial(jax.jit, static_argnums=0)
def push_and_choose(model, params, noise):
    """Events, and the components that the same random words choose."""
    weights = jax.nn.softmax(params["logits"])
    chosen = jax.vmap(choose, (None, 0))(weights, noise["component"])
    return verbs.run_traced(verbs.to_push(model, params, noise, None)), chosen


@dtypes
@pytest.mark.parametrize("covariance", ["full", "diagonal"])
@pytest.mark.parametrize(("dim", "components"), [(1, 3), (2, 1), (2, 20), (8, 3), (9, 3), (9, 20)])
def test_mixture_push(dim, components, covariance, dtype):
    """``push`` returns mean[k] + L[k] z for the chosen component k."""
    model, params, _ = mixture(dim, components, covariance)
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**32, (200, 1), np.uint32)
    with enable_x64(True):
        params, z = as_dtype((params, rng.normal(size=(200, dim))), dtype)
        noise = {"component": words, "z": z}
        x, k = push_and_choose(model, params, noise)
        k = np.asarray(k)
        assert len(np.unique(k)) > components // 2
        exact, z = as_dtype((params, z), np.float64)
        if covariance == "full":
            moved = np.einsum("nij,nj->ni", np.tril(exact["scale_tril"])[k], z)
        else:
            moved = exact["scale"][k] * z
        close(x, exact["mean"][k] + moved, dtype)


# kernels


def plain_kernels(params, x):
    terms = norm.logpdf(x, params["points"], params["bandwidth"]).sum(-1)
    return logsumexp(jax.nn.log_softmax(params["log_weights"]) + terms)


def kernels(dim, count):
    rng = np.random.default_rng(100 * dim + count)
    params = {
        "points": 3 * rng.normal(size=(count, dim)),
        "log_weights": rng.normal(size=count),
        "bandwidth": rng.uniform(0.3, 1, dim),
    }
    noise = params["bandwidth"] * rng.normal(size=(ROWS, dim))
    return params, params["points"][rng.integers(0, count, ROWS)] + noise


@dtypes
@pytest.mark.parametrize(
    ("dim", "count"), [(1, 41), (2, 1), (2, 40), (2, 100), (5, 19), (8, 21), (16, 7), (17, 41)]
)
def test_kernels(dim, count, dtype):
    params, x = kernels(dim, count)
    x[0] += 30  # far away
    by = 1 if count in (21, 100) else ()
    assert_body(KDE(dim), plain_kernels, params, x, dtype, by)


@dtypes
def test_kernels_without_weight(dtype):
    """Points without weight, some filling the first tile, are nearest to the events."""
    params, x = kernels(2, 100)
    params["log_weights"][:45] = params["log_weights"][70:75] = -np.inf
    some = np.isfinite(params["log_weights"])
    x = params["points"][:ROWS].copy()

    def plain(params, x):
        of_weight = {k: params[k][some] for k in ("points", "log_weights")}
        return plain_kernels({**params, **of_weight}, x)

    assert_body(KDE(2), plain, params, x, dtype, by=1)


@dtypes
def test_far_from_all_kernels(dtype):
    """The score is finite up to about 1e18 bandwidths in float32, then -inf without gradient."""
    params, _ = kernels(2, 50)
    size = np.sqrt(np.finfo(dtype).max)
    near = np.array([[1e-3, 0], [0, -1e-3]]) * size
    far = np.array([[1, 0], [0, -1], [1, 1], [1e6, 0], [-1e16, 1e16]]) * size
    with enable_x64(True):
        params, near, far = as_dtype((params, near, far), dtype)
        body = value_and_gradients(functools.partial(jaxgen.log_prob, KDE(2)), 1)
        score, slope = body(params, np.concatenate([near, far]))
        squares = (near / params["bandwidth"]) ** 2
        np.testing.assert_allclose(score[:2], -0.5 * squares.sum(1), rtol=1e-5)
        np.testing.assert_array_equal(score[2:], -np.inf)
        np.testing.assert_array_equal(slope[2:], 0)


@pytest.mark.optimized
@pytest.mark.parametrize("dim", [2, 8])
@pytest.mark.parametrize(("offset", "apart", "nats"), [(1000, 0, 2e-4), (0, 200, 1e-4)])
def test_kernels_far_from_zero_and_from_each_other(dim, offset, apart, nats):
    """The error in float32 against float64 on the same numbers; lengths are in bandwidths."""
    params, x = kernels(dim, 200)
    params["points"] += params["bandwidth"] * (offset + apart * (np.arange(200)[:, None] % 2))
    noise = np.random.default_rng(0).normal(size=(200, dim))
    x = params["points"] + params["bandwidth"] * noise
    with enable_x64(True):
        narrow = as_dtype((params, x), np.float32)
        got = jax.jit(functools.partial(jaxgen.log_prob, KDE(dim)))(*narrow)
        wanted = jax.jit(in_rows(plain_kernels))(*as_dtype(narrow, np.float64))
        assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, rtol=0, atol=nats)


score_of_kernels = jax.jit(functools.partial(scores, KDE(2)))


def test_points_beyond_the_events_have_no_weight():
    """100 events give 104 points; scores and samples are those of the events alone."""
    x = np.random.default_rng(0).normal((50, 0), size=(100, 2))
    x[0] = 1e4  # padding with it would move the mean of the points, which would cost digits
    weights = np.arange(1.0, 101)
    fitted = KDE(2).estimate(x, None, weights)
    assert len(fitted["points"]) == 104
    assert np.abs(fitted["points"][100:] - [50, 0]).max() < 10
    params = as_dtype(fitted | {"bandwidth": np.array([0.3, 0.3])}, np.float32)
    with enable_x64(True):
        exact = as_dtype({**params, "points": x, "log_weights": np.log(weights)}, np.float64)
        wanted = jax.jit(in_rows(plain_kernels))(exact, x[50:])
    np.testing.assert_allclose(score_of_kernels(params, x[50:]), wanted, atol=1e-3)
    sample = jax.jit(lambda params: jaxgen.sample(KDE(2), params, KEY, 2000))
    drawn = np.asarray(sample(params | {"bandwidth": np.zeros(2, np.float32)}))
    places = (drawn[:, None] == params["points"]).all(-1).argmax(1)
    shares = np.bincount(places, minlength=104) / 2000
    np.testing.assert_allclose(shares, np.append(weights, np.zeros(4)) / 5050, atol=0.02)


def test_rows_without_weight_do_not_change_the_bandwidth():
    x = np.random.default_rng(0).normal(size=(100, 2))
    weights = np.where(np.arange(100) < 50, 1.0, 0.0)
    alone, beside = KDE(2).estimate(x[:50]), KDE(2).estimate(x, None, weights)
    np.testing.assert_allclose(beside["bandwidth"], alone["bandwidth"], rtol=0.01)


_ARC = np.random.default_rng(0).normal(size=(8400, 2)) * [1, 0.3]
_ARC[:, 1] += np.sin(3 * _ARC[:, 0])
_LIGHT = np.arange(8400) % 2 == 1
SAMPLED = {
    "rounded": (np.round(_ARC, 1), np.ones(8400)),
    "half without weight": (np.where(_LIGHT[:, None], 30 * _ARC, _ARC), np.where(_LIGHT, 1e-9, 1)),
}


@pytest.mark.optimized
@pytest.mark.parametrize("data", SAMPLED)
def test_bandwidth_of_a_subsample_serves_all_events(data, monkeypatch):
    """New events score as high as with the bandwidth from all events."""
    x, weights = SAMPLED[data]
    means = []
    for count in (8192, 1024):
        monkeypatch.setattr(kde, "_POINTS", count)
        params = KDE(2).estimate(x[:8000], None, weights[:8000])
        got = score_of_kernels(as_dtype(params, np.float32), x[8000::2])
        means.append(np.mean(got))
    assert abs(means[1] - means[0]) < 0.02


# discrete features

value_and_jacobian = lambda f: jax.jit(lambda v: (f(v), jax.jacobian(f)(v)))  # noqa: E731
EXTREME = [0.0, 1e-3, -1.0, 30.0, -30.0, 1e3, -1e3]


def plain_bits(logits, x):
    return jnp.where(x == 1, jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)).sum()


@dtypes
def test_bits(dtype):
    """Logits up to +-1000, at which one value scores -1000 with a gradient of 1."""
    model, rng = Bernoulli((len(EXTREME), 2)), np.random.default_rng(0)
    logits = np.stack([EXTREME, rng.permuted(EXTREME)], 1)
    x = rng.integers(0, 2, (20, *logits.shape))
    with enable_x64(True):
        logits = np.asarray(logits, dtype)
        score = lambda logits: jaxgen.log_prob(model, {"logits": logits}, x)  # noqa: E731
        rows = lambda logits: jax.vmap(plain_bits, (None, 0))(logits, x)  # noqa: E731
        exact = value_and_jacobian(rows)(logits.astype(np.float64))
        close(value_and_jacobian(score)(logits), exact, dtype)


@pytest.mark.optimized
def test_certain_bits():
    """Infinite logits, from a fit without smoothing: one value is certain, one impossible."""
    fitted = jaxgen.Fitted(Bernoulli((3,)), {"logits": np.float32([np.inf, -np.inf, 0.0])})
    score = fitted.log_prob(np.array([[1, 0, 1], [0, 0, 1], [1, 1, 0]]))
    np.testing.assert_allclose(score, [-np.log(2), -np.inf, -np.inf], rtol=1e-6)
    drawn = np.asarray(fitted.sample(KEY, 1000))
    assert (drawn[:, 0] == 1).all()
    assert (drawn[:, 1] == 0).all()
    assert 400 < drawn[:, 2].sum() < 600


def plain_levels(logits, x):
    return (jax.nn.one_hot(x, logits.shape[-1]) * jax.nn.log_softmax(logits)).sum()


@dtypes
def test_levels(dtype):
    rng = np.random.default_rng(0)
    logits = np.stack([rng.permuted(EXTREME) for _ in range(6)]).reshape(2, 3, len(EXTREME))
    model, x = Categorical((2, 3), len(EXTREME)), rng.integers(0, len(EXTREME), (20, 2, 3))
    with enable_x64(True):
        logits = np.asarray(logits, dtype)
        score = lambda logits: jaxgen.log_prob(model, {"logits": logits}, x)  # noqa: E731
        rows = lambda logits: jax.vmap(plain_levels, (None, 0))(logits, x)  # noqa: E731
        exact = value_and_jacobian(rows)(logits.astype(np.float64))
        close(value_and_jacobian(score)(logits), exact, dtype)


@pytest.mark.optimized
@pytest.mark.parametrize("levels", [4, 40])
def test_impossible_levels(levels):
    """Levels with logit -inf score -inf and are never drawn."""
    logits = np.full(levels, -np.inf, np.float32)
    logits[[1, levels - 2]] = 0
    fitted = jaxgen.Fitted(Categorical((), levels), {"logits": logits})
    score = fitted.log_prob(np.array([0, 1, levels - 1]))
    np.testing.assert_allclose(score, [-np.inf, -np.log(2), -np.inf], rtol=1e-6)
    drawn = np.asarray(fitted.sample(KEY, 1000))
    assert set(drawn) == {1, levels - 2}
