"""Marginals, conditionals and missing values against formulas, quadrature and known truths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from jaxgen import bijectors, compose, models
from jaxgen.core.precision import enable_x64
from jaxgen.laws.compiled import noise_rows

RNG = np.random.default_rng(0)


def normal(rng, dim):
    """A mean, and a covariance with condition number around 100."""
    root = rng.normal(size=(dim, dim))
    return rng.normal(size=dim), root @ root.T + 0.1 * np.eye(dim)


def conditional(mean, covariance, known, left, values):
    """Mean and covariance of N(mean, covariance) given some features, by the textbook."""
    gain = np.linalg.solve(covariance[np.ix_(known, known)], covariance[np.ix_(known, left)]).T
    away = values - mean[list(known)]
    rest = covariance[np.ix_(left, left)] - gain @ covariance[np.ix_(known, left)]
    return mean[list(left)] + gain @ away, rest


def samples(model, params, n, seed=0):
    noise = noise_rows(model, jax.random.key(seed), n, jnp.result_type(float))
    return np.asarray(jax.jit(jax.vmap(model.push, (None, -1)))(params, noise))


def part_of(method, params, features, *values):
    """The model and params of a part, computed by one program."""
    specs = []

    @jax.jit
    def own(params, *values):
        spec, params = method(params, features, *values)
        specs.append(spec)
        return params

    at = own(params, *values)
    return specs[0], at


def score(model, params, *args):
    return jax.jit(model.log_prob)(params, *args)


@pytest.mark.parametrize("dim", [5, 11])
@pytest.mark.parametrize("known", [(3, 0), (1,), (4, 2, 0, 3)])
def test_gaussian_agrees_with_the_textbook(dim, known):
    mean, covariance = normal(np.random.default_rng(dim), dim)
    left = tuple(j for j in range(dim) if j not in known)
    values = np.random.default_rng(1).normal(size=len(known))
    wanted = conditional(mean, covariance, known, left, values)
    with enable_x64(True):
        model = models.Gaussian(dim, jitter=0.5)
        tril = np.linalg.cholesky(covariance) + np.triu(np.ones((dim, dim)), 1)  # must be ignored
        params = {"mean": jnp.asarray(mean), "scale_tril": jnp.asarray(tril)}
        part, at = part_of(model.given, params, known, values)
        assert part == models.Gaussian(len(left), jitter=0.5)
        np.testing.assert_allclose(at["mean"], wanted[0], rtol=1e-10, atol=1e-10)
        factor = np.asarray(at["scale_tril"])
        np.testing.assert_allclose(factor, np.linalg.cholesky(wanted[1]), rtol=1e-10, atol=1e-10)
        part, at = part_of(model.marginal, params, known)
        assert part == models.Gaussian(len(known), jitter=0.5)
        factor = np.linalg.cholesky(covariance[np.ix_(known, known)])
        np.testing.assert_allclose(at["scale_tril"], factor, rtol=1e-10, atol=1e-10)
        np.testing.assert_array_equal(at["mean"], mean[list(known)])


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_gaussian_mixture_agrees_with_the_textbook(covariance):
    known, left, values = (2, 0), (1, 3), np.array([0.3, -0.4])
    rng = np.random.default_rng(2)
    logits = np.array([0.3, -1.0, 0.5])
    normals = [normal(rng, 4) for _ in logits]
    if covariance == "diagonal":
        normals = [(mean, np.diag(np.diag(cov))) for mean, cov in normals]
    joint = [
        w + stats.multivariate_normal(m[list(known)], c[np.ix_(known, known)]).logpdf(values)
        for w, (m, c) in zip(logits, normals, strict=True)
    ]
    parts = [conditional(m, c, known, left, values) for m, c in normals]
    with enable_x64(True):
        model = models.GaussianMixture(4, 3, covariance)
        roots = np.stack([np.linalg.cholesky(c) for _, c in normals])
        scale = {"scale_tril": roots}
        if covariance == "diagonal":
            scale = {"scale": np.diagonal(roots, axis1=1, axis2=2)}
        params = {"logits": logits, "mean": np.stack([m for m, _ in normals]), **scale}
        params = jax.tree_util.tree_map(jnp.asarray, params)
        part, at = part_of(model.given, params, known, values)
        assert part == models.GaussianMixture(2, 3, covariance)
        weights = np.exp(joint) / np.exp(joint).sum()
        at = jax.tree_util.tree_map(np.asarray, at)
        np.testing.assert_allclose(special.softmax(at["logits"]), weights, rtol=1e-10)
        for k, (mean, cov) in enumerate(parts):
            np.testing.assert_allclose(at["mean"][k], mean, rtol=1e-10, atol=1e-10)
            root = at["scale_tril"][k] if covariance == "full" else np.diag(at["scale"][k])
            np.testing.assert_allclose(root @ root.T, cov, rtol=1e-10, atol=1e-10)
        alone, at = part_of(model.marginal, params, known)
        density = sum(np.exp(joint)) / np.exp(logits).sum()
        np.testing.assert_allclose(score(alone, at, values), np.log(density), rtol=1e-10)


@pytest.mark.parametrize("dim", [3, 12])
def test_float32_keeps_its_digits_where_a_covariance_would_lose_them(dim):
    # features are nearly equal, and the condition number of the covariance is about 1e8
    tril = np.tril(1e-4 * RNG.normal(size=(dim, dim))) + 1e-4 * np.eye(dim)
    tril[:, 0] = 1.0
    covariance, mean = tril @ tril.T, np.zeros(dim)
    model = models.Gaussian(dim)
    params = {"mean": np.zeros(dim, np.float32), "scale_tril": tril.astype(np.float32)}
    known, left = (dim - 1, 0), tuple(range(1, dim - 1))
    values = tril[[dim - 1, 0]] @ RNG.normal(size=dim)
    _, wanted = conditional(mean, covariance, known, left, values)
    _, at = part_of(model.given, params, known, values.astype(np.float32))
    got = np.asarray(at["scale_tril"], np.float64)
    np.testing.assert_allclose(got @ got.T, wanted, rtol=2e-2, atol=2e-2 * wanted.max())
    observed = np.isin(np.arange(dim), known)
    x = np.zeros(dim, np.float32)
    x[list(known)] = values
    wanted = stats.multivariate_normal(mean[:2], covariance[np.ix_(known, known)]).logpdf(values)
    assert abs(score(model, params, x, None, observed) - wanted) < 0.05


_MIXTURE = {
    "logits": [0.0, 1.0],
    "mean": [[-1.0, 0.0, 2.0], [1.0, 0.5, -1.0]],
    "scale_tril": [
        [[1.0, 0, 0], [0.5, 0.3, 0], [0.1, -1.0, 0.6]],
        [[0.4, 0, 0], [-0.3, 0.6, 0], [0.9, 0.2, 0.8]],
    ],
}
_MIXTURE = {name: jnp.asarray(leaf) for name, leaf in _MIXTURE.items()}
_POINTS = {
    "points": jnp.asarray(RNG.normal(size=(20, 2)), jnp.float32),
    "log_weights": jnp.asarray(RNG.normal(size=20), jnp.float32),
    "bandwidth": jnp.asarray([0.3, 0.5]),
}
JOINTS = {
    "gaussian mixture": (models.GaussianMixture(3, 2), _MIXTURE, (2, 0), [0.4, -0.3]),
    "kernels": (models.KDE(2), _POINTS, (1,), [0.2]),
    "positive": (
        compose.Transformed(models.GaussianMixture(3, 2), bijectors.Positive()),
        {"base": _MIXTURE, "bijector": {}},
        (0, 1),
        [0.8, 2.0],
    ),
}


@pytest.mark.parametrize("name", JOINTS)
def test_samples_given_features_follow_the_joint_density(name):
    """KS test against the integrated joint density; it fails by chance with probability 2e-5."""
    model, params, known, values = JOINTS[name]
    part, at = part_of(model.given, params, known, jnp.asarray(values))
    drawn = samples(part, at, 20000)[:, 0]
    (left,) = (j for j in range(len(known) + 1) if j not in known)
    grid = np.linspace(drawn.min() - 1, drawn.max() + 1, 20001)
    x = np.zeros((len(grid), len(known) + 1), np.float32)
    x[:, left], x[:, list(known)] = grid, values
    scores = jax.jit(jax.vmap(model.log_prob, (None, 0)))(params, x)
    density = np.exp(np.asarray(scores, np.float64))
    steps = np.diff(grid) * (density[1:] + density[:-1]) / 2
    cdf = np.append(0, np.cumsum(steps)) / steps.sum()
    assert stats.kstest(drawn, lambda v: np.interp(v, grid, cdf)).pvalue > 2e-5


def holes(x, share, seed=0):
    observed = np.random.default_rng(seed).random(x.shape) > share
    return jnp.asarray(np.where(observed, x, 0)), jnp.asarray(observed)


def climb(model, params, x, observed, steps, weights=None):
    step = jax.jit(lambda p: model.em_step(p, x, None, weights, observed))
    scores = []
    for _ in range(steps):
        params, score = step(params)
        scores.append(float(score))
    return params, np.array(scores)


def test_em_recovers_a_known_gaussian():
    n, dim = 20000, 3
    mean, covariance = normal(np.random.default_rng(3), dim)
    rng = np.random.default_rng(4)
    with enable_x64(True):
        x, observed = holes(rng.multivariate_normal(mean, covariance, n), 0.2)
        model = models.Gaussian(dim)
        params, scores = climb(model, model.init(None), x, observed, 60, jnp.ones(n))
        assert (np.diff(scores) > -1e-12).all()
        assert scores[-1] - scores[-2] < 1e-6
        tril = np.asarray(params["scale_tril"])
        error = 5 * np.sqrt(np.diag(covariance) / (0.8 * n))
        assert (np.abs(params["mean"] - mean) < error).all()
        size = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
        assert (np.abs(tril @ tril.T - covariance) < 5 * size * np.sqrt(2 / (0.6 * n))).all()


@pytest.mark.parametrize(
    ("make", "covariance"),
    [
        ("normals", "full"),
        ("normals", "diagonal"),
        ("mixture", "diagonal"),
        ("product", "full"),
        ("product", "diagonal"),
    ],
)
def test_em_with_missing_values_climbs_and_without_them_is_plain_em(make, covariance):
    rng = np.random.default_rng(5)
    x = np.concatenate([rng.normal(size=(300, 2)), rng.normal(3, 0.5, size=(201, 2))])
    mixture = models.GaussianMixture(2, 2, covariance)
    if make == "mixture":
        mixture = compose.Mixture(models.Gaussian(2, covariance), 2)
    if make == "product":
        x = np.concatenate([x, rng.integers(0, 3, size=(len(x), 1))], 1)
        mixture = compose.Product((mixture, models.Categorical((1,), 3)))
    assert mixture.learning.missing == "em"
    with enable_x64(True):
        weights = jnp.asarray(rng.uniform(0.5, 2, len(x)))
        start = jax.tree_util.tree_map(jnp.asarray, mixture.init(jax.random.key(1), x))
        some, observed = holes(x, 0.3)
        _, scores = climb(mixture, start, some, observed, 20, weights)
        assert (np.diff(scores) > -1e-10).all()
        assert scores[-1] > scores[0]
        alone = jax.jit(jax.vmap(mixture.log_prob, (None, 0, None, 0)))(start, some, None, observed)
        np.testing.assert_allclose(scores[0], np.average(alone, weights=weights), rtol=1e-10)
        x = jnp.asarray(x)
        step = jax.jit(mixture.em_step)
        plain = step(start, x, None, weights)
        whole = step(start, x, None, weights, np.ones(x.shape, bool))
        jax.tree_util.tree_map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), plain, whole
        )


CLOSED = {
    "box": models.Box(3),
    "bits": models.Bernoulli((3,)),
    "levels": models.Categorical((3,), 2),
    "normal": models.Gaussian(3, "diagonal"),
    "product": compose.Product((models.Gaussian(1, "diagonal"), models.Bernoulli((2,)))),
}


@pytest.mark.parametrize("name", CLOSED)
def test_estimates_with_missing_values_use_the_observed_rows_of_each_feature(name):
    model, rng = CLOSED[name], np.random.default_rng(6)
    x, observed = rng.integers(0, 2, size=(40, 3)).astype(float), rng.random((40, 3)) < 0.6
    weights = rng.uniform(0.5, 2, 40)
    assert model.learning.missing == "closed_form"
    got = model.estimate(np.where(observed, x, 0), None, weights, observed)
    for j in range(3):
        rows = observed[:, j]
        alone = np.repeat(x[rows, j : j + 1], 3, 1)
        part, wanted = model.marginal(model.estimate(alone, None, weights[rows]), (j,))
        same, at = model.marginal(got, (j,))
        assert same == part
        jax.tree_util.tree_map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), at, wanted
        )
    traced = jax.jit(model.estimate)(np.where(observed, x, 0), None, weights, observed)
    jax.tree_util.tree_map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), traced, got)
    observed[:, 1] = False
    with pytest.raises(ValueError, match="x has no value of feature 1"):
        model.estimate(np.where(observed, x, 0), None, weights, observed)


@pytest.mark.parametrize(
    "model",
    [
        models.Gaussian(2),
        models.Gaussian(9),
        models.Gaussian(2, "diagonal"),
        models.GaussianMixture(2, 3),
        models.GaussianMixture(2, 3, "diagonal"),
        models.Box(2),
        models.Bernoulli((2, 3)),
        compose.Mixture(models.Categorical((2,), 3), 2),
        compose.Product((models.Box(1), models.GaussianMixture(2, 2))),
    ],
    ids=str,
)
def test_events_without_observed_features_score_zero_and_complete_to_a_sample(model):
    @jax.jit
    def without(key):
        params = model.init(key)
        x, observed = jnp.zeros(model.event_shape), jnp.zeros(model.event_shape, bool)
        noise = noise_rows(model, key, 50, jnp.float32)
        axes = (None, -1, None, None)
        done = jax.vmap(model.complete, axes)(params, noise, x, observed)
        events = jax.vmap(model.push, axes[:2])(params, noise)
        scored = jax.value_and_grad(lambda p: model.log_prob(p, x, None, observed))
        return done, events, *scored(params)

    done, events, value, grads = without(jax.random.key(0))
    assert abs(value) < 1e-6
    np.testing.assert_allclose(done, events, rtol=1e-5, atol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree_util.tree_leaves(grads))


def test_parts_of_a_product_in_and_out_of_order():
    model = compose.Product((models.Gaussian(2), models.Bernoulli((2,)), models.Box(1)))
    params = (
        {"mean": jnp.array([1.0, 2.0]), "scale_tril": jnp.array([[1.0, 0.0], [0.5, 2.0]])},
        {"logits": jnp.array([0.5, -2.0])},
        {"low": jnp.zeros(1), "high": jnp.ones(1)},
    )
    part, at = part_of(model.given, params, (4, 2, 1), np.array([0.5, 1.0, 0.0], np.float32))
    assert part == compose.Product((models.Gaussian(1), models.Bernoulli((1,))))
    part, _ = part_of(model.marginal, params, (4, 1))
    assert part == compose.Product((models.Box(1), models.Gaussian(1)))
    # features that alternate between parts
    part, at = part_of(model.marginal, params, (3, 0, 2, 1))
    x = np.array([1.0, 0.3, 0.0, 4.0], np.float32)
    wanted = score(model, params, np.array([0.3, 4.0, 0.0, 1.0, 0.5], np.float32))
    np.testing.assert_allclose(score(part, at, x), wanted, rtol=1e-6)
    left, at_left = part_of(part.given, at, (3, 0), x[[3, 0]])
    alone, at_alone = part_of(part.marginal, at, (3, 0))
    total = score(left, at_left, x[1:3]) + score(alone, at_alone, x[[3, 0]])
    np.testing.assert_allclose(total, wanted, rtol=1e-6)


def test_parts_of_maps_that_mix_features_are_refused():
    model = compose.Transformed(models.Gaussian(2), bijectors.Linear())
    params = model.init(jax.random.key(0))
    with pytest.raises(NotImplementedError, match="Linear"):
        model.marginal(params, (0,))
    with pytest.raises(NotImplementedError, match="Linear"):
        model.given(params, (0,), jnp.zeros(1))
