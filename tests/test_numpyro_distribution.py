"""Fitted models as NumPyro distributions: densities, supports, shapes and round trips."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from cases import LinearGaussian
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.distributions.batch_util import promote_batch_shape, vmap_over
from numpyro.distributions.transforms import biject_to
from numpyro.infer.util import log_density
from small_models import (
    BOUNDED,
    KEY,
    MIXTURE,
    PLANE,
    UNIT_NOISE,
    arrays,
    away,
    draw,
    gaussian,
    score,
)

import jaxgen
from jaxgen import Fitted, compose, models, networks
from jaxgen.core.model import Traits
from jaxgen.core.precision import enable_x64
from jaxgen.networks.domains import Circle, Positive, Real
from jaxgen.numpyro import as_distribution

# Densities.


@pytest.mark.parametrize("x64", [False, True])
def test_a_mixture_scores_as_that_of_numpyro(x64):
    with enable_x64(x64):
        params, x = arrays(MIXTURE), jnp.asarray(np.random.default_rng(0).normal(0, 3, (50, 2)))

        def ours(params, x):
            return as_distribution(Fitted(models.GaussianMixture(2, 3), params)).log_prob(x)

        def theirs(params, x):
            normals = dist.MultivariateNormal(params["mean"], scale_tril=params["scale_tril"])
            weights = dist.Categorical(logits=params["logits"])
            return dist.MixtureSameFamily(weights, normals).log_prob(x)

        def scores(fn):
            gradients = jax.grad(lambda *args: fn(*args).sum(), (0, 1))
            score, (by_params, by_x) = jax.jit(lambda *a: (fn(*a), gradients(*a)))(params, x)
            return score, {**by_params, "scale_tril": jnp.tril(by_params["scale_tril"])}, by_x

        tight = {"rtol": 1e-10, "atol": 1e-10} if x64 else {"rtol": 1e-5, "atol": 2e-4}
        found = scores(ours)
        assert found[0].dtype == (jnp.float64 if x64 else jnp.float32)
        jax.tree_util.tree_map(
            lambda a, b: np.testing.assert_allclose(a, b, **tight), found, scores(theirs)
        )


# Supports.


def mixed():
    domain = Circle(0.0, 1.0), Positive(), Real()
    model = models.SplineCoupling(3, 1, 6, 1, 4, domain=domain, y_shape=())
    return as_distribution(Fitted(model, away(model, ())), 0.7)


@pytest.mark.parametrize("name", [*BOUNDED, "mixed"])
def test_the_reals_are_mapped_onto_the_support(name):
    d = mixed() if name == "mixed" else as_distribution(BOUNDED[name])
    onto, x = biject_to(d.support), draw(d, (5, 4))
    support = d.support

    @jax.jit
    def mapped(x):
        z = onto.inv(x)
        inside = support(x), support(x - 100), support(support.feasible_like(x))
        return z, onto(z), onto.log_abs_det_jacobian(z, x), inside

    z, back, log_dets, (inside, outside, feasible) = mapped(x)
    assert inside.shape == (5, 4)
    assert inside.all()
    assert not outside.any()
    assert feasible.all()
    np.testing.assert_allclose(back, x, rtol=1e-4, atol=1e-5)
    assert onto.inverse_shape(x.shape) == z.shape
    assert onto.forward_shape(z.shape) == x.shape
    free = z[0, 0]
    part = (lambda z: onto(z)[:-1]) if name == "simplex" else onto
    if name == "parts":
        part = lambda z: onto(z)[jnp.array([0, 1, 2, 4])]  # noqa: E731
    log_det = jax.jit(lambda z: jnp.linalg.slogdet(jax.jacobian(part)(z))[1])(free)
    np.testing.assert_allclose(log_dets[0, 0], log_det, rtol=1e-4)
    assert d.support == d.support
    assert jax.tree_util.tree_map(lambda v: v, d.support) == d.support
    assert jax.tree_util.tree_map(lambda v: v, onto) == onto


def test_bounded_models_are_components_of_numpyros_mixtures():
    component = as_distribution(BOUNDED["interval"])
    d = dist.MixtureSameFamily(dist.Categorical(logits=jnp.zeros(2)), component.expand((2,)))
    x = draw(d, (3,))
    np.testing.assert_allclose(score(d, x), score(component, x), rtol=1e-5)
    assert biject_to(d.support)(jnp.zeros(2)).tolist() == [1.0, 1.0]


# Shapes, keys, handlers and round trips.

CONDITIONS = jnp.asarray(np.random.default_rng(1).normal(size=(4, 2)), jnp.float32)


def test_values_and_conditions_broadcast_both_ways():
    d = as_distribution(UNIT_NOISE, CONDITIONS)
    assert (d.batch_shape, d.event_shape, d.event_dim) == ((4,), (1,), 1)
    one = as_distribution(UNIT_NOISE, CONDITIONS[1])
    assert one.batch_shape == ()
    many = jnp.arange(12.0).reshape(3, 4, 1)
    assert score(d, many).shape == (3, 4)
    np.testing.assert_allclose(score(d, many)[:, 1], score(one, many[:, 1]), rtol=1e-6)
    assert score(d, many[0, 0]).shape == (4,)
    assert score(d, many[:, :1]).shape == (3, 4)
    assert score(one, many[0, 0]).shape == ()
    grid = as_distribution(UNIT_NOISE, CONDITIONS[:, None])
    assert grid.batch_shape == (4, 1)
    assert score(grid, many[:, None]).shape == (3, 4, 4)


def test_draws_take_both_kinds_of_key_and_differ_by_row():
    d = as_distribution(UNIT_NOISE, jnp.zeros((4, 2)))
    x = d.sample(KEY, (3,))
    assert x.shape == (3, 4, 1)
    assert len(np.unique(x)) == 12
    np.testing.assert_array_equal(x, d.sample(jax.random.PRNGKey(0), (3,)))
    np.testing.assert_allclose(x, draw(d, (3,)), rtol=1e-6)
    shifted = as_distribution(UNIT_NOISE, jnp.array([[10.0, 0.0], [-10.0, 0.0]]))
    np.testing.assert_allclose(draw(shifted, (400,)).mean((0, 2)), [10, -10], atol=0.2)


def test_expand_to_event_and_mask():
    d = as_distribution(UNIT_NOISE, CONDITIONS)
    x = draw(d.expand((3, 4)))
    assert x.shape == (3, 4, 1)
    assert len(np.unique(x)) == 12
    own = score(d, x)
    np.testing.assert_array_equal(score(d.expand((3, 4)), x), own)
    event = d.expand((3, 4)).to_event(1)
    assert (event.batch_shape, event.event_shape) == ((3,), (4, 1))
    np.testing.assert_allclose(score(event, x), own.sum(1), rtol=1e-6)
    mask = jnp.array([True, False, True, False])
    np.testing.assert_allclose(score(d.mask(mask), x), own * mask, rtol=1e-6)
    bounded = as_distribution(BOUNDED["uniform"]).expand((2,)).mask(jnp.array([True, False]))
    np.testing.assert_allclose(score(bounded, np.array([-2.7, 11.0])), [-np.log(2), 0], 1e-5)
    by_one = as_distribution(UNIT_NOISE, CONDITIONS[:, None]).expand((4, 3))
    assert draw(by_one).shape == (4, 3, 1)


def test_a_subsampled_plate_scales_the_density():
    x = np.asarray(gaussian().sample(KEY, 10))

    def program():
        with numpyro.plate("rows", 10, subsample_size=4) as i:
            numpyro.sample("x", as_distribution(gaussian()), obs=jnp.asarray(x)[i])

    @jax.jit
    def run():
        seeded = handlers.seed(program, 0)
        total, _ = log_density(seeded, (), {}, {})
        return total, handlers.trace(handlers.seed(program, 0)).get_trace()["x"]["value"]

    total, chosen = run()
    np.testing.assert_allclose(total, 2.5 * gaussian().log_prob(chosen).sum(), rtol=1e-5)


def test_jit_and_scan_round_trips():
    d = as_distribution(UNIT_NOISE, CONDITIONS)
    x = draw(d)
    back = jax.jit(lambda d: d)(d)
    assert (back.batch_shape, back.event_shape, back.model) == (d.batch_shape, (1,), d.model)
    np.testing.assert_array_equal(score(back, x), score(d, x))
    carried, scores = jax.lax.scan(lambda d, v: (d, d.log_prob(v)), d, x[None])
    np.testing.assert_allclose(scores[0], score(d, x), rtol=1e-6)
    assert carried.batch_shape == (4,)
    bounded = jax.jit(lambda d: d)(as_distribution(BOUNDED["parts"]))
    assert bounded.support(draw(bounded)).all()


@pytest.mark.parametrize("conditional", [False, True])
def test_a_vmap_over_params_adds_to_the_batch(conditional):
    scales = jnp.array([0.5, 1.0, 2.0])

    def make(scale):
        if conditional:
            params = {**UNIT_NOISE.params, "b": scale[None], "log_scale": jnp.log(scale)[None]}
            return as_distribution(Fitted(UNIT_NOISE.model, params), CONDITIONS)
        params = {**arrays(PLANE), "scale_tril": scale * jnp.eye(2)}
        return as_distribution(Fitted(models.Gaussian(2), params))

    many, each = jax.jit(jax.vmap(make))(scales), [make(scale) for scale in scales]
    d, batch_shape = promote_batch_shape(many), each[0].batch_shape
    assert many.batch_shape == batch_shape
    assert d.batch_shape == (3, *batch_shape)
    x = draw(d, (200,))
    assert x.shape == (200, *d.batch_shape, *d.event_shape)
    assert len(np.unique(x)) == x.size
    np.testing.assert_allclose(x.std(0).reshape(3, -1).mean(1), scales, rtol=0.15)
    wanted = jnp.stack([score(own, x[:, i]) for i, own in enumerate(each)], 1)
    np.testing.assert_allclose(score(d, x), wanted, rtol=1e-4, atol=1e-5)
    wide = jax.jit(jax.vmap(lambda scale: make(scale).expand((2, *batch_shape))))(scales)
    wide = promote_batch_shape(wide)
    assert wide.batch_shape == (3, 2, *batch_shape)
    rows = jnp.swapaxes(x[:2], 0, 1)
    np.testing.assert_allclose(
        score(wide, rows), jnp.swapaxes(wanted[:2], 0, 1), rtol=1e-4, atol=1e-5
    )
    axes = vmap_over(many, params=0, y=0 if conditional else None)
    inside = jax.jit(jax.vmap(lambda d, x: d.log_prob(x), (axes, 1), 1))
    np.testing.assert_allclose(inside(many, x), wanted, rtol=1e-4, atol=1e-5)


def test_a_vmap_over_conditions_adds_to_the_batch():
    make = lambda y: as_distribution(UNIT_NOISE, y)  # noqa: E731
    d = promote_batch_shape(jax.jit(jax.vmap(make))(CONDITIONS))
    assert d.batch_shape == (4,)
    plain = as_distribution(UNIT_NOISE, CONDITIONS)
    x = draw(plain)
    assert draw(d, (3,)).shape == (3, 4, 1)
    assert len(np.unique(draw(d, (3,)))) == 12
    np.testing.assert_allclose(score(d, x), score(plain, x), rtol=1e-6)
    axes = vmap_over(plain, y=0)
    inside = jax.jit(jax.vmap(lambda d, x: d.log_prob(x), (axes, 0)))
    np.testing.assert_allclose(inside(plain, x), score(plain, x), rtol=1e-6)


def test_a_chain_in_numpyros_scan():
    def program(start):
        def step(x, _):
            y = jnp.concatenate([x, jnp.zeros(1)])
            x = numpyro.sample("x", as_distribution(UNIT_NOISE, y))
            return x, x

        scan(step, start, None, length=5)

    @jax.jit
    def run(start):
        site = handlers.trace(handlers.seed(program, 0)).get_trace(start)["x"]
        assert site["fn"].batch_shape == (5,)
        return site["value"], site["fn"].log_prob(site["value"])

    values, scores = run(np.ones(1, np.float32))
    steps = np.diff(np.concatenate([[1.0], values[:, 0]]))
    wanted = -0.5 * steps**2 - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(scores, wanted, rtol=1e-4)


# Labels, levels, missing values, precision.


def per_class():
    params = {
        "logits": jnp.log(jnp.array([0.7, 0.3])),
        "model": {"mean": jnp.array([[-1.0], [2.0]]), "scale_tril": jnp.ones((2, 1, 1))},
    }
    return Fitted(compose.PerClass(models.Gaussian(1), 2), params, labels=("apple", "pear"))


def test_labels_are_conditions_or_summed_over():
    x = jnp.array([[0.3], [4.0]])
    given = [score(as_distribution(per_class(), y), x) for y in (["apple"], ["pear"])]
    joint = jnp.stack(given, 1) + jnp.log(jnp.array([0.7, 0.3]))
    marginal = as_distribution(per_class())
    assert marginal.batch_shape == ()
    np.testing.assert_allclose(score(marginal, x), jax.nn.logsumexp(joint, 1), rtol=1e-5)
    nameless = Fitted(per_class().model, per_class().params)
    by_place = jax.jit(lambda y: as_distribution(nameless, y).log_prob(x))(jnp.array([0, 1]))
    np.testing.assert_allclose(by_place, [given[0][0], given[1][1]], rtol=1e-6)
    draws = draw(marginal, (4000,))
    np.testing.assert_allclose(draws.mean(), -0.1, atol=0.1)


LEVELS = {
    "bit": (Fitted(models.Bernoulli(()), {"logits": jnp.array(-2.0)}), None, [0, 1]),
    "level": (
        Fitted(models.Categorical((), 3), {"logits": jnp.array([0.0, 1.0, -1.0])}), None, [0, 1, 2],
    ),
    "given": (
        Fitted(*(lambda m: (m, away(m, 2)))(
            compose.Conditional(networks.MLP((2,), 4), models.Categorical((), 3)))),
        CONDITIONS, [0, 1, 2],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LEVELS)
def test_levels_are_enumerated(name):
    fitted, y, values = LEVELS[name]
    d = as_distribution(fitted, y)
    assert d.is_discrete
    assert d.has_enumerate_support
    assert not d.has_rsample
    support = d.enumerate_support()
    assert support.shape == (len(values), *d.batch_shape)
    assert d.enumerate_support(expand=False).ravel().tolist() == values
    np.testing.assert_allclose(jnp.exp(score(d, support)).sum(0), 1, rtol=1e-5)
    assert draw(d, (5,)).dtype == support.dtype
    expanded = d.expand((3, *d.batch_shape)).enumerate_support(expand=False)
    assert expanded.shape == (len(values), 1, *[1] * len(d.batch_shape))


def test_vectors_of_levels_are_not_enumerated():
    d = as_distribution(Fitted(models.Bernoulli((3,)), {"logits": jnp.zeros(3)}))
    assert d.is_discrete
    assert not d.has_enumerate_support
    with pytest.raises(NotImplementedError):
        d.enumerate_support()
    with pytest.raises(NotImplementedError):
        biject_to(d.support)


def test_missing_values_and_values_outside():
    x = jnp.array([[0.3, jnp.nan], [0.1, 0.2]])
    with numpyro.validation_enabled():
        score = as_distribution(gaussian()).log_prob(x)
        np.testing.assert_array_equal(score, jaxgen.log_prob(gaussian().model, arrays(PLANE), x))
        assert np.isfinite(score).all()
        with pytest.warns(UserWarning, match="Out-of-support"):
            outside = as_distribution(BOUNDED["uniform"]).log_prob(jnp.zeros(2))
    assert outside == -jnp.inf
    with numpyro.validation_enabled(False):
        assert as_distribution(BOUNDED["uniform"]).log_prob(jnp.zeros(2)) == -jnp.inf


@pytest.mark.parametrize("x64", [False, True])
def test_numbers_have_the_precision_of_the_params(x64):
    with enable_x64(x64):
        narrow = Fitted(UNIT_NOISE.model, jax.tree_util.tree_map(np.float32, UNIT_NOISE.params))
        d = as_distribution(narrow, np.zeros(2))
        assert draw(d).dtype == jnp.float32
        assert score(d, np.zeros(1)).dtype == jnp.float32


def test_frozen_params_have_no_gradient():
    fitted = BOUNDED["parts"]
    x = draw(as_distribution(fitted))
    own = lambda params: as_distribution(Fitted(fitted.model, params)).log_prob(x)  # noqa: E731
    found = jax.jit(jax.grad(own))(fitted.params)
    assert not any(map(np.any, jax.tree_util.tree_leaves(found[0])))
    assert np.any(found[2]["mean"])


class Unscored(LinearGaussian):
    traits = Traits(density="none")


@pytest.mark.parametrize(
    ("fitted", "y", "error", "words"),
    [
        (models.Gaussian(2), None, TypeError, "fitted must be a jaxgen.Fitted.*got Gaussian"),
        (Fitted(Unscored(), UNIT_NOISE.params), None, ValueError, "fitted must have a density"),
        (UNIT_NOISE, None, ValueError, "y is missing"),
        (gaussian(), jnp.zeros(2), ValueError, "y was given, but .* is unconditional"),
        (UNIT_NOISE, jnp.zeros(3), ValueError, r"y must have shape \(..., 2\) .*got \(3,\)"),
        (UNIT_NOISE, 1.0, ValueError, r"y must have shape \(..., 2\) .*got \(\)"),
        (UNIT_NOISE, ["a", "b"], TypeError, "y must be an array of numbers"),
        (per_class(), ["plum"], ValueError, "unknown label 'plum'"),
        (Fitted(per_class().model, per_class().params), 0.5, TypeError, "y must hold labels"),
        (Fitted(per_class().model, per_class().params), 2, ValueError, "y must be a label 0 .. 1"),
    ],
)
def test_bad_arguments_are_named(fitted, y, error, words):
    with pytest.raises(error, match=words):
        as_distribution(fitted, y)


def test_bad_values_and_keys_are_named():
    d = as_distribution(gaussian())
    for value in (jnp.zeros(3), jnp.zeros(()), jnp.zeros((2, 1))):
        with pytest.raises(ValueError, match=r"value must have shape \(..., 2\)"):
            score(d, value)
    with pytest.raises(TypeError, match="key must be a PRNG key"):
        d.sample(0)
