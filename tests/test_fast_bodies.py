"""Bodies that were rewritten for speed, against the plain formulas that they stand for.

Values and gradients agree to 2e-5 in float32, where the plain form has float64 and the same
numbers, and to 1e-10 in float64; relative to the larger of an entry and its array's mean size.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import logsumexp
from jax.scipy.stats import multivariate_normal, norm

import jaxgen
from jaxgen import numerics
from jaxgen.choice import choose
from jaxgen.models import KDE, Bernoulli, Box, Categorical, Gaussian, GaussianMixture, Histogram
from jaxgen.precision import enable_x64

KEY = jax.random.key(5)
ROWS = 9
LIMITS = {np.float32: 2e-5, np.float64: 1e-10}
dtypes = pytest.mark.parametrize("dtype", LIMITS, ids=["float32", "float64"])
tree_map = jax.tree_util.tree_map


def as_dtype(tree, dtype):
    return tree_map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def close(got, wanted, dtype):
    for a, b in zip(*map(jax.tree_util.tree_leaves, (got, wanted)), strict=True):
        assert a.dtype == dtype
        a, b = np.asarray(a, np.float64), np.asarray(b)
        finite = np.abs(b[np.isfinite(b)])
        atol = LIMITS[dtype] * (finite.mean() if finite.size else 0)
        np.testing.assert_allclose(a, b, rtol=LIMITS[dtype], atol=atol)


@functools.lru_cache(maxsize=4)
def value_and_gradients(function, by):
    """Jitted: scores of rows, and the gradients of their sum by some of (params, x)."""

    @jax.jit
    def both(params, x):
        total = lambda params, x: function(params, x).sum()  # noqa: E731
        return function(params, x), jax.grad(total, by)(params, x) if by else ()

    return both


@functools.cache
def in_rows(plain):
    return jax.vmap(plain, (None, 0))


def assert_body(model, plain, params, x, dtype, by=(0, 1)):
    """log_prob and its gradients, by params and x, are those of ``plain(params, x)``."""
    with enable_x64(True):
        params, x = as_dtype((params, x), dtype)  # rounded, and the same for both
        got = value_and_gradients(functools.partial(jaxgen.log_prob, model), by)(params, x)
        exact = as_dtype((params, x), np.float64)
        close(got, value_and_gradients(in_rows(plain), by)(*exact), dtype)


def tril(rng, *shape):
    """Lower triangles with entries of any sign, and rubbish above, which is to be ignored."""
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


@dtypes
@pytest.mark.parametrize("covariance", ["full", "diagonal"])
@pytest.mark.parametrize("dim", [1, 2, 8, 9, 40])
def test_gaussian_pull_and_push(dim, covariance, dtype):
    model, params, x = gaussian(dim, covariance)
    with enable_x64(True):
        params, x = as_dtype((params, x), dtype)
        fitted = jaxgen.Fitted(model, params)
        z = fitted.pull(x)
        exact, exact_x = as_dtype((params, x), np.float64)
        centred = exact_x - exact["mean"]
        if covariance == "full":
            close(z, solve_triangular(exact["scale_tril"], centred.T, lower=True).T, dtype)
            moved = z.astype(np.float64) @ jnp.tril(exact["scale_tril"]).T
        else:
            close(z, centred / exact["scale"], dtype)
            moved = z.astype(np.float64) * exact["scale"]
        close(fitted.push(z), exact["mean"] + moved, dtype)


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
@pytest.mark.parametrize(("dim", "components"), [(1, 7), (2, 1), (2, 2), (8, 3), (9, 3)])
def test_mixture(dim, components, covariance, dtype):
    model, params, x = mixture(dim, components, covariance)
    by = (0, 1) if components == 3 else ()  # each takes up to ten seconds to compile
    assert_body(model, plain_mixture, params, x, dtype, by)


@dtypes
@pytest.mark.parametrize("dim", [2, 9])
def test_mixture_with_a_part_of_no_weight_far_away(dim, dtype):
    """Its first and its last component; events lie 100 standard deviations from the others."""
    model, params, x = mixture(dim, 4, "full")
    params["logits"] = np.array([-np.inf, 0.0, 1.0, -np.inf])
    x[0] += 100

    def plain(params, x):
        return plain_mixture({k: v[1:3] for k, v in params.items()}, x)

    assert_body(model, plain, params, x, dtype, by=1)


@dtypes
@pytest.mark.parametrize("covariance", ["full", "diagonal"])
@pytest.mark.parametrize(("dim", "components"), [(1, 3), (2, 1), (2, 20), (8, 3), (9, 3), (9, 20)])
def test_mixture_push(dim, components, covariance, dtype):
    """mean[k] + L[k] z, of the component that is chosen, and gradients by the noise."""
    model, params, _ = mixture(dim, components, covariance)
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**32, (200, 1), np.uint32)
    with enable_x64(True):
        params, z = as_dtype((params, rng.normal(size=(200, dim))), dtype)
        noise = {"component": words, "z": z}
        x = jaxgen.Fitted(model, params).push(noise)
        weights = jax.nn.softmax(params["logits"])
        k = np.asarray(jax.vmap(choose, (None, 0))(weights, words))
        assert len(np.unique(k)) > components // 2
        exact, z = as_dtype((params, z), np.float64)
        if covariance == "full":
            moved = jnp.einsum("nij,nj->ni", jnp.tril(exact["scale_tril"])[k], z)
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
def test_kernels_of_no_weight(dtype):
    """Single ones and a whole first tile of them, nearer to the event than all others."""
    params, x = kernels(2, 100)
    params["log_weights"][:45] = params["log_weights"][70:75] = -np.inf
    some = np.isfinite(params["log_weights"])
    x = params["points"][:ROWS].copy()

    def plain(params, x):
        of_weight = {k: params[k][some] for k in ("points", "log_weights")}
        return plain_kernels({**params, **of_weight}, x)

    assert_body(KDE(2), plain, params, x, dtype, by=1)


@dtypes
def test_where_no_kernel_reaches(dtype):
    """A number up to some 1e18 bandwidths in float32, then exactly -inf, with no gradient."""
    params, _ = kernels(2, 50)
    size = np.sqrt(np.finfo(dtype).max)
    near = np.array([[1e-3, 0], [0, -1e-3]]) * size
    far = np.array([[1, 0], [0, -1], [1, 1], [1e6, 0], [-1e16, 1e16]]) * size
    with enable_x64(True):
        params, near, far = as_dtype((params, near, far), dtype)
        score = jax.jit(functools.partial(jaxgen.log_prob, KDE(2), params))
        slope = jax.jit(jax.grad(lambda x: score(x).sum()))
        squares = (near / params["bandwidth"]) ** 2
        np.testing.assert_allclose(score(near), -0.5 * squares.sum(1), rtol=1e-5)
        np.testing.assert_array_equal(score(far), -np.inf)
        np.testing.assert_array_equal(slope(far), 0)


@pytest.mark.parametrize("dim", [2, 8])
@pytest.mark.parametrize(("offset", "apart", "nats"), [(1000, 0, 2e-4), (0, 200, 1e-4)])
def test_kernels_far_from_zero_and_from_each_other(dim, offset, apart, nats):
    """Error in float32, against float64 on the same numbers; lengths are in bandwidths."""
    params, x = kernels(dim, 200)
    params["points"] += params["bandwidth"] * (offset + apart * (np.arange(200)[:, None] % 2))
    noise = np.random.default_rng(0).normal(size=(200, dim))
    x = params["points"] + params["bandwidth"] * noise
    with enable_x64(True):
        narrow = as_dtype((params, x), np.float32)
        got = jaxgen.log_prob(KDE(dim), *narrow)
        wanted = in_rows(plain_kernels)(*as_dtype(narrow, np.float64))
        assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, rtol=0, atol=nats)


# discrete features

EXTREME = [0.0, 1e-3, -1.0, 30.0, -30.0, 1e3, -1e3]


def plain_bits(logits, x):
    return jnp.where(x == 1, jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)).sum()


@dtypes
def test_bits(dtype):
    """With logits up to 1000 in size, at which one value scores -1000 and its gradient is 1."""
    model, rng = Bernoulli((len(EXTREME), 2)), np.random.default_rng(0)
    logits = np.stack([EXTREME, rng.permuted(EXTREME)], 1)
    x = rng.integers(0, 2, (20, *logits.shape))
    with enable_x64(True):
        logits = jnp.asarray(logits, dtype)
        score = lambda logits: jaxgen.log_prob(model, {"logits": logits}, x)  # noqa: E731
        rows = lambda logits: jax.vmap(plain_bits, (None, 0))(logits, x)  # noqa: E731
        exact = logits.astype(np.float64)
        close(score(logits), rows(exact), dtype)
        close(jax.jacobian(score)(logits), jax.jacobian(rows)(exact), dtype)


def test_certain_bits():
    """Infinite logits, as a fit without smoothing gives: one value is certain, one impossible."""
    params = {"logits": jnp.array([np.inf, -np.inf, 0.0])}
    x = np.array([[1, 0, 1], [0, 0, 1], [1, 1, 0]])
    score = jaxgen.log_prob(Bernoulli((3,)), params, x)
    np.testing.assert_allclose(score, [-np.log(2), -np.inf, -np.inf], rtol=1e-6)
    drawn = np.asarray(jaxgen.sample(Bernoulli((3,)), params, KEY, 1000))
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
        logits = jnp.asarray(logits, dtype)
        score = lambda logits: jaxgen.log_prob(model, {"logits": logits}, x)  # noqa: E731
        rows = lambda logits: jax.vmap(plain_levels, (None, 0))(logits, x)  # noqa: E731
        exact = logits.astype(np.float64)
        close(score(logits), rows(exact), dtype)
        close(jax.jacobian(score)(logits), jax.jacobian(rows)(exact), dtype)


@pytest.mark.parametrize("levels", [4, 40])
def test_impossible_levels(levels):
    """Logits of -inf score -inf and are never drawn."""
    params = {"logits": jnp.full(levels, -np.inf).at[jnp.array([1, levels - 2])].set(0.0)}
    score = jaxgen.log_prob(Categorical((), levels), params, np.array([0, 1, levels - 1]))
    np.testing.assert_allclose(score, [-np.inf, -np.log(2), -np.inf], rtol=1e-6)
    drawn = np.asarray(jaxgen.sample(Categorical((), levels), params, KEY, 1000))
    assert set(drawn) == {1, levels - 2}


# powers of two, and what is computed once


def test_exp2():
    x = np.linspace(-130, 0, 200_001, dtype=np.float32)
    x = np.concatenate([x, np.arange(-130, 1), [-np.inf, -1e30]]).astype(np.float32)
    power = np.asarray(jax.jit(numerics.exp2)(x))
    assert power.dtype == np.float32
    np.testing.assert_allclose(
        power, 2.0 ** np.maximum(x, -126).astype(np.float64), rtol=2.4e-7
    )  # two units in the last place
    with enable_x64(True):
        exact = x.astype(np.float64)
        np.testing.assert_allclose(numerics.exp2(jnp.asarray(exact)), 2.0**exact, rtol=1e-13)


@dtypes
def test_gradient_of_exp2(dtype):
    with enable_x64(True):
        x = jnp.asarray(np.linspace(-125, 0, 1001), dtype)
        slope = jax.vmap(jax.grad(numerics.exp2))(x)
        assert slope.dtype == dtype
        wanted = np.log(2) * 2.0 ** np.asarray(x, np.float64)
        _, forward = jax.jvp(numerics.exp2, (x,), (jnp.ones_like(x),))
    np.testing.assert_allclose(slope, wanted, rtol=3e-7 if dtype == np.float32 else 1e-13)
    np.testing.assert_array_equal(forward, slope)


VALUES = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": (np.array([3, 2**32 - 1]),)}


@pytest.mark.parametrize(
    "witness", [0, 3, 0.5, -7.0, np.inf, -np.inf, np.nan, np.uint32(2**32 - 1)]
)
def test_computed_once_is_the_identity(witness):
    """Whatever the witness, in a jit and out of one."""
    values = {"a": VALUES["a"], "b": (VALUES["b"][0].astype(np.uint32),)}
    for function in (numerics.computed_once, jax.jit(numerics.computed_once)):
        got = function(values, jnp.asarray(witness))
        for a, b in zip(*map(jax.tree_util.tree_leaves, (got, values)), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)], ids=str)
def test_computed_once_under_transformations(axes):
    """Its values are theirs and its slope is one, where values, witness or both are batched."""
    values = jnp.arange(12.0).reshape(4, 3) if axes[0] == 0 else jnp.arange(3.0)
    witness = jnp.arange(4.0) if axes[1] == 0 else jnp.float32(2)
    wanted = np.broadcast_to(values, (4, 3))
    mapped = jax.vmap(numerics.computed_once, axes)
    for function in (mapped, jax.jit(mapped)):
        np.testing.assert_array_equal(function(values, witness), wanted)

    def loss(values, witness):
        return (mapped(values, witness) ** 2).sum()

    wanted = 2 * values if axes[0] == 0 else 8 * values
    by_values, by_witness = jax.jit(jax.grad(loss, (0, 1)))(values, witness)
    np.testing.assert_array_equal(by_values, wanted)
    np.testing.assert_array_equal(by_witness, 0)
    _, slope = jax.jvp(lambda v: mapped(v, witness), (values,), (jnp.ones_like(values),))
    np.testing.assert_array_equal(slope, 1)


ELEMENTWISE = {
    "box": Box(2),
    "odd box": Box(3),
    "diagonal": Gaussian(4, "diagonal"),
    "full": Gaussian(4),
    "bits": Bernoulli((3, 2)),
    "histogram": Histogram((3, 4)),
    "mixture": GaussianMixture(2, components=20),
    "kde": KDE(2),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_is_only_for_speed(name):
    """Either value of it gives the same events: the noise is the same, however it is computed."""
    model = ELEMENTWISE[name]
    params = tree_map(lambda leaf: leaf + 0.25, model.init(KEY))
    drawn = []
    for value in (False, True):
        kind = type(type(model).__name__, (type(model),), {"elementwise": value})
        twin = kind(
            **{field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
        )
        assert twin.elementwise is value
        drawn.append(jax.jit(lambda p, twin=twin: jaxgen.sample(twin, p, KEY, 1000))(params))
    np.testing.assert_array_equal(*drawn)
    assert len(np.unique(drawn[0], axis=0)) > 50 or name == "bits"
