"""Flows beyond the laws: ends of splines, extreme rows, masks, the fast inverse, and lanes."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES

import jaxgen
from jaxgen import bijectors, compose, domains, models
from jaxgen.bijectors import spline
from jaxgen.core import batch
from jaxgen.core.lanes import lanes, over_rows
from jaxgen.core.precision import enable_x64
from jaxgen.laws.compiled import noise_rows
from jaxgen.laws.subject import Subject, away_from_init
from jaxgen.networks import mlp as nets

KEY = jax.random.key(0)
REAL = spline.Topology(np.array([False]), np.array([False]))
INTERVAL = spline.Topology(np.array([True]), np.array([False]))
CIRCLE = spline.Topology(np.array([True]), np.array([True]))
FLOWS = [case for case in CASES if case.name.startswith(("coupling", "autoregressive", "matching"))]
SMALL = {
    "coupling": models.SplineCoupling(3, 4, 8, 2, 6),
    "spline": models.MaskedAutoregressive(3, 2, 8, 2, bins=6),
    "affine": models.MaskedAutoregressive(3, 2, 8, 2, "affine"),
    "mixture": models.MaskedAutoregressive(3, 1, 8, 2, "mixture", components=4),
    "matching": models.FlowMatching(3, 8, 2),
}


@functools.cache
def away(name):
    return away_from_init(SMALL[name], KEY)


def drawn(model, params, n):
    """Events, from the program that ``away_from_init`` has compiled."""
    return Subject(model, params, key=KEY).draw(n)


def numbers(kind, bins=5, seed=0, size=2.0):
    rng = np.random.default_rng(seed)
    u = np.zeros((spline.param_rows(bins, kind is not None), 1))
    learnt = spline.param_count(bins, kind is not None)
    u[:learnt] = size * rng.normal(size=(learnt, 1))
    return u.astype(np.float32)


@jax.jit  # the topology is an array here, so that all tests share a program
def both_ways(u, x, kind):
    """For ``forward`` and ``inverse``: the results, the results mapped back, and gradients.

    The gradients are of the sum of values and log slopes.
    """
    out = []
    for way, back in ((spline.forward, spline.inverse), (spline.inverse, spline.forward)):

        def total(u, x, way=way):
            there = way(u, x, kind)
            return there[0].sum() + there[1].sum(), there

        grads, there = jax.grad(total, (0, 1), has_aux=True)(u, x)
        out.append((there, back(u, there[0], kind), grads))
    return out


@pytest.mark.parametrize("kind", [None, REAL, INTERVAL, CIRCLE])
@pytest.mark.parametrize("bins", [1, 2, 8])
def test_a_spline_at_its_edges(kind, bins):
    """At ends, knots and far away nothing is NaN, and the inverse returns to x."""
    u = numbers(kind, bins)
    reach = np.float32(spline.REACH)
    near = [np.nextafter(reach, np.float32(to)) for to in (0, 9)]
    x = np.array([0.0, *near, reach], np.float32)
    x = np.concatenate([x, -x, [1e30, -1e30]]).astype(np.float32)[None]
    x = np.where(abs(x) <= reach, x, 0) if kind in (INTERVAL, CIRCLE) else x
    u = np.broadcast_to(u[..., None], (*u.shape, x.shape[1]))
    for (_, slope), (again, other), grads in both_ways(u, x, kind):
        far = np.maximum(np.abs(x), 1)
        gap = np.abs(again - x) / far
        if kind is CIRCLE:  # both ends are the same point
            gap = np.minimum(gap, np.abs(2 * reach - np.abs(again - x)))
        assert gap.max() < 2e-5
        np.testing.assert_allclose(slope, -other, atol=2e-3)
        assert all(np.isfinite(g).all() for g in jax.tree_util.tree_leaves(grads))


@jax.jit
def values_and_slopes(u, x, kind):
    """Values and log slopes of a spline of one feature, and its derivatives."""
    value = lambda x, u: spline.forward(u, x[None], kind)[0][0]  # noqa: E731
    return *spline.forward(u, x[None], kind), jax.vmap(jax.grad(value), (0, 2))(x, u)


@pytest.mark.parametrize("kind", [None, INTERVAL, CIRCLE])
def test_a_spline_is_monotonic_and_its_slope_is_its_derivative(kind):
    with enable_x64(True):
        u = np.asarray(numbers(kind), np.float64)
        x = np.linspace(-4, 4, 2001)[1:-1]
        u = np.broadcast_to(u[..., None], (*u.shape, len(x)))
        y, log_slope, slope = values_and_slopes(u, x, kind)
        np.testing.assert_allclose(np.log(slope), log_slope[0], atol=1e-9)
        steps = np.diff(y[0])
        assert (steps > 0).sum() >= len(steps) - (kind is CIRCLE)  # values on a circle wrap once


@pytest.mark.parametrize("way", [spline.forward, spline.inverse])
def test_a_spline_can_be_differentiated_twice(way):
    """Forward over reverse mode, also where the slopes are smallest."""
    hessian_of = jax.jit(jax.hessian(lambda u: sum(way(u, jnp.float32(0.3)))))
    for size in (1.0, 100.0):
        hessian = hessian_of(numbers(None, bins=4, size=size)[:, 0])
        assert np.isfinite(hessian).all()
        np.testing.assert_allclose(hessian, hessian.T, atol=1e-3 * np.abs(hessian).max())


@pytest.mark.parametrize("way", [spline.forward, spline.inverse])
def test_the_gradient_at_a_knot_is_exact(way):
    u = np.zeros((spline.param_rows(8, False), 1), np.float32)
    slopes = jax.jit(jax.vmap(jax.grad(lambda x: way(u, x[None])[0][0])))
    np.testing.assert_allclose(slopes(np.arange(-3.0, 4.0)), 1, rtol=1e-4)


def test_zero_params_are_the_identity():
    x = np.linspace(-6, 6, 101, dtype=np.float32)[None]
    y, log_slope = jax.jit(spline.forward)(
        np.zeros((spline.param_rows(8, False), 1, 101), np.float32), x
    )
    np.testing.assert_allclose(y, x, atol=2e-6)
    np.testing.assert_allclose(log_slope, 0, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_an_extreme_row_does_not_change_the_gradients_of_others(name):
    """A row far away has zero density and no gradient."""
    model = SMALL[name]
    params = away(name)
    x = np.array(drawn(model, params, 8))
    others, wild_one = np.arange(8) != 3, np.arange(8) == 3

    @jax.jit
    def gradient(params, x, which):
        def total(params):
            scores = batch.log_prob_rows(model, params, x, None)
            return jnp.where(which, scores, 0).sum(), scores

        return jax.grad(total, has_aux=True)(params)

    wanted, _ = gradient(params, x, others)
    for wild in (1e30, -1e30, 3e38, 1e15, np.inf, -np.inf):
        x[3, 1] = wild
        got, scores = gradient(params, x, others)
        assert not np.isnan(scores).any()
        for a, b in zip(*map(jax.tree_util.tree_leaves, (got, wanted)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
        own, _ = gradient(params, x, wild_one)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree_util.tree_leaves(own))


@pytest.mark.parametrize("name", SMALL)
def test_no_rows(name):
    model = SMALL[name]

    @jax.jit
    def none(params):
        x = jaxgen.sample(model, params, KEY, 0)
        return x, jaxgen.log_prob(model, params, np.zeros((0, 3)))

    x, scores = none(away(name))
    assert x.shape == (0, 3)
    assert scores.shape == (0,)


@pytest.mark.parametrize(
    "name",
    # without fused multiply-adds the gap of these two is about ten times as large
    [
        pytest.param("coupling", marks=pytest.mark.optimized),
        pytest.param("spline", marks=pytest.mark.optimized),
        "affine",
        "matching",
    ],
)
def test_round_trip(name):
    """``push`` of ``pull`` returns to the event, to 1e-4 in float32 and 1e-9 in float64.

    Where the flow stretches so much that the rounding of the noise moves an event further, the
    bound is that distance; perturbed splines have slopes up to a thousand.
    """
    model = SMALL[name]
    if name == "matching":  # its solver is approximate
        model = models.FlowMatching(3, 8, 2, steps=128)
    # the field is smooth and slow to integrate; a spline has many bins to cover
    rows = 512 if name == "matching" else 4096
    params, z = away(name), np.asarray(noise_rows(model, KEY, rows, np.float32)).T
    with enable_x64(True):
        exact = jaxgen.Fitted(model, as_float64(params))
        at, step = np.asarray(z, np.float64), 1e-7
        columns = [exact.push(at + step * unit) - exact.push(at) for unit in np.eye(3)]
        stretch = np.linalg.norm(np.stack(columns, 2) / step, axis=(1, 2))
    for x64, dtype, gap in ((False, np.float32, 1e-4), (True, np.float64, 1e-9)):
        with enable_x64(x64):
            own, noise = as_float64((params, z)) if x64 else (params, z)
            fitted = jaxgen.Fitted(model, own)
            x = np.asarray(fitted.push(noise))
            again = np.asarray(fitted.push(fitted.pull(x)))
            rounding = np.finfo(dtype).eps * spline.REACH * stretch
            error = np.abs(again - x) / (1 + np.abs(x))
            assert (error.max(1) < np.maximum(gap, rounding)).all()
            assert (rounding < gap).mean() > 0.99


def as_float64(tree):
    return jax.tree_util.tree_map(lambda v: jnp.asarray(np.asarray(v, np.float64)), tree)


@pytest.mark.parametrize("case", FLOWS, ids=lambda case: case.name)
def test_lanes_do_not_change_scores(case):
    """Under ``over_rows`` a flow gets all rows at once; under ``vmap`` one event."""
    model, rows = case.model, 64
    y = None if case.y is None else np.repeat(np.asarray(case.y, np.float32)[None], rows, 0)
    axes = (None, 0, None if y is None else 0)
    start = jax.eval_shape(model.init, KEY)
    rng = np.random.default_rng(0)

    @jax.jit
    def both(noise):
        params = jax.tree_util.tree_map(lambda a, b: a + 0.2 * b, model.init(KEY), noise)
        x = jaxgen.sample(model, params, KEY, rows, y)
        scores = [over(model.log_prob, axes)(params, x, y) for over in (jax.vmap, over_rows)]
        return x, *scores

    noise = jax.tree_util.tree_map(lambda v: rng.uniform(-1, 1, v.shape).astype(v.dtype), start)
    x, plain, quick = both(noise)
    assert np.isfinite(plain).all()
    assert len(np.unique(x)) > 1
    np.testing.assert_allclose(quick, plain, rtol=2e-5, atol=2e-5)


def test_lanes_of_stacked_params():
    """An ensemble batches over its members, with rows still on the last axis."""
    seen = []

    def product(params, x):
        seen.append(x.shape)
        return params["w"] @ x

    def members(params, x):
        return jax.vmap(lambda p: lanes(product)(p, x))(params)

    stacked = {"w": np.random.default_rng(0).normal(size=(3, 4, 2)).astype(np.float32)}
    x = np.random.default_rng(1).normal(size=(5, 2)).astype(np.float32)
    out = over_rows(members, (None, 0))(stacked, x)
    np.testing.assert_allclose(out, np.einsum("eij,nj->nei", stacked["w"], x), rtol=1e-5)
    assert seen[-1] == (2, 5)


@pytest.mark.parametrize(
    ("dim", "width", "given"), [(1, 4, 0), (1, 4, 2), (5, 3, 0), (5, 16, 1), (4, 9, 0)]
)
def test_a_masked_network_reads_what_it_may(dim, width, given):
    """Output i depends on the features before i, and on no others."""
    net = nets.Masked(dim, 2, given, 3, 1, width, 3)

    @jax.jit
    def derivatives(x):
        params = net.init(KEY)
        params["out"]["w"] = params["out"]["w"] * 100
        matrices, y = net.matrices(params), jnp.ones(given)
        both = jax.jacfwd(lambda x, y: net.apply(matrices, x, y), (0, 1))
        return jax.vmap(both, (0, None))(x, y)

    x = np.random.default_rng(0).normal(size=(50, 2, dim))  # enough to activate every unit
    by_x, by_y = derivatives(x.astype(np.float32))
    reads = np.abs(by_x).max((0, 1, 3)) > 0  # axes: points, outputs, dim, channels, dim
    assert not np.triu(reads).any()
    if width > dim:
        assert reads.sum() == dim * (dim - 1) / 2
    assert given == 0 or (np.abs(by_y).max((0, 1, 3)) > 0).all()


@pytest.mark.parametrize(
    ("dim", "width", "given"), [(1, 4, 0), (5, 3, 0), (5, 16, 1), (4, 9, 0), (3, 2, 2)]
)
def test_the_quick_inverse_is_the_network(dim, width, given):
    """Steps with one feature at a time give the outputs of a whole pass."""
    net = nets.Masked(dim, 2, given, 3, 1, width, 3)

    @jax.jit
    def whole_and_in_turn(x):
        matrices, y, turns = net.matrices(net.init(KEY)), jnp.ones((given, 7)), []
        carry = net.start(matrices, y)
        for i in range(dim):
            carry, out = net.step(matrices, carry, i)
            turns.append(out)
            carry = net.insert(carry, i, x[:, i])
        return net.apply(matrices, x, y), jnp.stack(turns, 1)

    x = np.random.default_rng(0).normal(size=(2, dim, 7)).astype(np.float32)
    wanted, turns = whole_and_in_turn(x)
    np.testing.assert_allclose(turns, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [
    lambda layers: models.SplineCoupling(4, layers, 8, 2, 4),
    lambda layers: models.MaskedAutoregressive(4, layers, 8, 2, bins=4),
])  # fmt: skip
def test_programs_do_not_grow_with_depth(make):
    def size(layers):
        model = make(layers)
        params = jax.eval_shape(model.init, KEY)
        x = np.zeros((8, 4), np.float32)
        program = jax.jit(functools.partial(jaxgen.log_prob, model)).lower(params, x)
        return len(program.as_text())

    assert size(32) < 1.1 * size(8)


def test_logits_of_levels_are_the_published_transform():
    """log p in logit space is that of the levels minus the log-determinant, in float64 by hand."""
    rate, levels = 1e-6, 256
    pad = levels * rate / (1 - 2 * rate)
    pixels = models.Categorical((3,), levels=levels)
    model = compose.Transformed(
        compose.Dequantized(pixels), bijectors.Inverse(bijectors.Interval(-pad, levels + pad))
    )
    params = pixels.init(KEY, np.random.default_rng(0).integers(0, levels, (999, 3)).astype(float))
    level = np.array([[0, 255, 17]])
    share = rate + (1 - 2 * rate) * (level + np.array([[0.2, 0.7, 0.5]])) / levels
    z = np.log(share) - np.log1p(-share)
    log_det = (np.log(share) + np.log1p(-share) - math.log((1 - 2 * rate) / levels)).sum()
    with enable_x64(True):
        got = jaxgen.Fitted(model, {"base": params, "bijector": {}}).log_prob(z)
    wanted = jaxgen.Fitted(pixels, params).log_prob(level) + log_det
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


@pytest.mark.parametrize(("build", "message"), [
    (lambda: models.SplineCoupling(2, domain=(domains.Real(),) * 3), "1 entry or 2"),
    (lambda: models.MaskedAutoregressive(2, 2, head="mixture"), "layers must be 1"),
    (lambda: models.MaskedAutoregressive(2, head="affine", domain=domains.Circle(0, 1)), "suit"),
    (lambda: models.MaskedAutoregressive(2, head="logistic"), "head must be one of"),
    (lambda: domains.Circle(1.0, 1.0), "low < high"),
    (lambda: compose.Dequantized(models.Gaussian(1)), "a discrete model"),
    (lambda: bijectors.Inverse(bijectors.Simplex()), "keep the shape"),
    (lambda: models.FlowMatching(0), "at least 1"),
])  # fmt: skip
def test_invalid_specs(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_raw_data_of_any_size_are_standardised():
    """Features of size 1e-6 and 1e6 give the same model up to their scale."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 2)) * [1, 2] + [3, -1]
    scale = np.array([1e-6, 1e6])
    model = models.SplineCoupling(2, 2, 8, 1, 4)
    a, b = (jaxgen.fit(model, v, key=KEY, epochs=3) for v in (x, x * scale))
    gap = a.log_prob(x) - b.log_prob(x * scale) - np.log(scale).sum()
    assert np.abs(gap).max() < 1e-2


def test_bounded_features_stay_within():
    model = models.SplineCoupling(
        2, 2, 8, 1, 4, domain=(domains.Interval(0, 1), domains.Circle(-2, 2))
    )
    params = away_from_init(model, KEY)
    assert np.asarray(model.support(np.asarray(drawn(model, params, 4096)))).all()
    edges = jaxgen.Fitted(model, params).log_prob(
        [[0.0, -2.0], [1.0, 2.0], [0.5, 2.0], [0.5, -2.0], [1.01, 0], [0.5, 2.01]]
    )
    assert np.isfinite(edges[:4]).all()
    assert np.isneginf(edges[4:]).all()
    np.testing.assert_allclose(edges[2], edges[3], rtol=1e-4)  # ends of a circle coincide
