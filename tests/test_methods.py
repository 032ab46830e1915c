"""Errors of authors: a model that breaks the contract gets one error that names its method."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import constraints

import jaxgen
from jaxgen.core import spec
from jaxgen.core.methods import check_own, hint


class Exponential(jaxgen.Model):
    """Without a mistake; a property may replace each fact, a method each method."""

    dim: int = 2

    @property
    def event_shape(self):
        return (self.dim,)

    def init(self, key, x=None, y=None):
        return {"rate": jnp.ones(self.dim) if x is None else 1 / x.mean(0)}

    def log_prob(self, params, x, y=None):
        score = jnp.sum(jnp.log(params["rate"]) - params["rate"] * x)
        return jnp.where((x >= 0).all(), score, -jnp.inf)

    def noise(self):
        return jaxgen.random.Uniform((self.dim,))

    def push(self, params, noise, y=None):
        return -jnp.log(noise) / params["rate"]


class WithoutShape(jaxgen.Model):
    init, log_prob = Exponential.init, Exponential.log_prob
    noise, push = Exponential.noise, Exponential.push


def changed(**members):
    return type("Changed", (Exponential,), members)()


def log_prob_with_if(self, params, x, y=None):
    return -jnp.inf if (x < 0).any() else x.sum()


def log_prob_of_numpy(self, params, x, y=None):
    return np.log(x).sum()


def push_twice(self, params, noise, y=None):
    return jnp.tile(Exponential.push(self, params, noise), 2)


BROKEN = {
    "no event_shape": (WithoutShape(), "WithoutShape must define event_shape"),
    "a list as event_shape": (
        changed(event_shape=[2]),
        r"Changed\.event_shape must be a tuple of ints such as \(2,\), got \[2\]",
    ),
    "an int as event_shape": (changed(event_shape=2), r"event_shape must be a tuple .* got 2"),
    "a list as y_shape": (changed(y_shape=[1]), r"y_shape must be a tuple .* got \[1\]"),
    "floats": (
        changed(init=lambda self, key, x=None, y=None: {"rate": 1.0}),
        r"Changed\.init must return arrays, but 'rate' is a float: use jnp\.asarray",
    ),
    "a list of floats": (
        changed(init=lambda self, key, x=None, y=None: {"rate": [1.0, 1.0]}),
        r"init must return arrays, but 'rate/0' is a float",
    ),
    "ints": (
        changed(init=lambda self, key, x=None, y=None: {"rate": jnp.ones(2, int)}),
        r"init must return at least one array of floats.*'rate' is int",
    ),
    "no params": (
        changed(init=lambda self, key, x=None, y=None: None),
        r"init must return params, a pytree of arrays; got None",
    ),
    "a score of shape (1,)": (
        changed(log_prob=lambda self, params, x, y=None: x.sum(keepdims=True)),
        r"Changed\.log_prob must return a scalar for one event, got shape \(1,\): sum over",
    ),
    "no score": (
        changed(log_prob=lambda self, params, x, y=None: None),
        r"log_prob must return a scalar .* got None: is a return missing",
    ),
    "a score of ints": (
        changed(log_prob=lambda self, params, x, y=None: x.sum().astype(int)),
        r"log_prob must return a float, got int",
    ),
    "an event twice as long": (
        changed(push=push_twice),
        r"Changed\.push must return one event of shape \(2,\), .* got shape \(4,\)",
    ),
    "a scalar event": (
        changed(push=lambda self, params, noise, y=None: noise.sum()),
        r"push must return one event of shape \(2,\), .* got shape \(\)",
    ),
    "noise of another kind": (
        changed(noise=lambda self: (2,)),
        r"Changed\.noise must return leaves of jaxgen\.random such as Normal.*got \(2,\)",
    ),
    "a support of each feature": (
        changed(support=constraints.positive),
        r"Changed\.support must return a scalar .* wrap it in constraints\.independent",
    ),
    "a support that is a method": (
        changed(support=lambda self, x: (x > 0).all()),
        r"Changed\.support must be a property that returns a NumPyro constraint",
    ),
    "pull of another shape": (
        changed(pull=lambda self, params, x, y=None: {"z": x}),
        r"Changed\.pull must return noise like that of noise\(\), shape \(2,\); got \{'z': \(2,\)",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_fit_and_check_name_the_method(what):
    model, text = BROKEN[what]
    x = np.ones((20, 2))
    with pytest.raises(TypeError, match=text):
        jaxgen.fit(model, x, key=jax.random.key(0))
    with pytest.raises(jaxgen.laws.LawError, match=text) as caught:
        jaxgen.check(model)
    assert list(caught.value.report.failures) == ["methods"]


@pytest.mark.parametrize(
    ("method", "kind", "note"),
    [
        (log_prob_with_if, jax.errors.TracerBoolConversionError, "jnp.where"),
        (log_prob_of_numpy, jax.errors.TracerArrayConversionError, "jax.numpy"),
        (lambda self, params, x: x.sum(), TypeError, "(2,), None)"),
        (lambda self, params, x, y=None: params["scale"], KeyError, "{'rate': (2,)}"),
        (lambda self, params, x, y=None: params["scale"], KeyError, "`init` returns: it must"),
    ],
)
def test_an_error_of_a_method_is_one_sentence(method, kind, note):
    model = changed(log_prob=method)
    with pytest.raises(TypeError) as caught:
        jaxgen.fit(model, np.ones((20, 2)), key=jax.random.key(0))
    assert isinstance(caught.value.__cause__, kind)
    assert f"Changed.log_prob raised {kind.__name__}: " in str(caught.value)
    assert note in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(jaxgen.laws.LawError) as failed:
        jaxgen.check(model)
    assert note in str(failed.value)
    if kind is not TypeError:  # the caller raised that one
        assert "test_methods.py, line" in str(failed.value)


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    "draw", [lambda: RNG.normal(size=2), lambda: jax.random.key(RNG.integers(1 << 30))]
)
def test_random_numbers_must_come_from_the_noise(draw):
    def push(self, params, noise, y=None):
        drawn = draw()
        drawn = drawn if isinstance(drawn, np.ndarray) else jax.random.uniform(drawn, (2,))
        return Exponential.push(self, params, noise) + jnp.asarray(drawn, noise.dtype)

    with pytest.raises(jaxgen.laws.LawError, match=r"push gives another .* noise only") as caught:
        jaxgen.check(changed(push=push))
    assert list(caught.value.report.failures) == ["methods"]


def test_a_model_that_changes_itself():
    def init(self, key, x=None, y=None):
        self.count = 0

    with pytest.raises(jaxgen.laws.LawError, match=r"cannot assign[\s\S]*settings are fields"):
        jaxgen.check(changed(init=init))
    assert hint(ValueError()) == ""


class VectorScore(jaxgen.Model):
    dim: int

    event_shape, init = Exponential.event_shape, Exponential.init

    def log_prob(self, params, x, y=None):
        return x


def test_a_model_whose_dim_follows_from_the_data_is_checked():
    with pytest.raises(TypeError, match=r"VectorScore\.log_prob .* got shape \(3,\)"):
        jaxgen.fit(VectorScore(), np.ones((20, 3)), key=jax.random.key(0))


def test_a_model_inside_a_wrapper_is_checked():
    broken, text = BROKEN["a score of shape (1,)"]
    with pytest.raises(TypeError, match=text):
        jaxgen.fit(jaxgen.compose.PerClass(broken, 2), np.ones((20, 2)), np.arange(20) % 2, key=1)


class OnlyScored(jaxgen.Model):
    dim: int = 2

    event_shape = (2,)
    init, log_prob = Exponential.init, Exponential.log_prob


def test_fit_needs_no_draws_but_check_does():
    check_own(OnlyScored())
    with pytest.raises(jaxgen.laws.LawError, match="OnlyScored must define noise"):
        jaxgen.check(OnlyScored())


def test_init_may_need_data_in_fit_but_not_in_check():
    def init(self, key, x, y=None):
        return Exponential.init(self, key, x)

    check_own(changed(init=init))
    with pytest.raises(jaxgen.laws.LawError, match=r"missing 1 required.*'x'"):
        jaxgen.check(changed(init=init))


def bijector(forward, inverse):
    return type("Changed", (jaxgen.bijectors.Bijector,), {"forward": forward, "inverse": inverse})()


@pytest.mark.parametrize(
    ("forward", "inverse", "text"),
    [
        (
            lambda self, params, z: jnp.sinh(z),
            None,
            r"Changed\.forward must return a tuple, x and log\|det dx/dz\|, .* got \(2,\)",
        ),
        (
            lambda self, params, z: (2 * z, jnp.log(2) * jnp.ones(2)),
            None,
            r"Changed\.forward .* of shapes \(2,\) and \(\); got shapes \(2,\) and \(2,\)",
        ),
        (
            lambda self, params, z: (2 * z, 2 * jnp.log(2.0)),
            lambda self, params, x: (x.sum() / 2, -2 * jnp.log(2.0)),
            r"Changed\.inverse must return a tuple, z and .* got shapes \(\) and \(\)",
        ),
    ],
)
def test_a_bijector_that_breaks_its_contract(forward, inverse, text):
    with pytest.raises(TypeError, match=text):
        jaxgen.compose.Transformed(jaxgen.models.Gaussian(2), bijector(forward, inverse))


def test_a_class_of_the_main_script_in_a_file(tmp_path):
    """``save`` warns, and ``load`` without the class says where it was defined."""
    cls = type("OfTheScript", (Exponential,), {"__module__": "__main__"})
    fitted = jaxgen.Fitted(cls(2), {"rate": jnp.ones(2)})
    path = tmp_path / "model.jaxgen"
    with pytest.warns(RuntimeWarning, match=r"OfTheScript is defined in the main script .* module"):
        fitted.save(path)
    assert jaxgen.load(path).model == cls(2)
    removed = spec._registry.pop("__main__.OfTheScript")
    with pytest.raises(ValueError, match=r"unknown spec '__main__\.OfTheScript': define it here"):
        jaxgen.load(path)
    assert removed is cls
