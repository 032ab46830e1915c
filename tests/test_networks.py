"""Networks of other packages within models, and networks that models refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_networks as nets
from cases import Tanh

import jaxgen
from jaxgen import compose, domains, models
from jaxgen.core import spec
from jaxgen.laws import count_compiles
from jaxgen.networks import MLP, Transformer
from jaxgen.networks.network import check_causal, init_checked, shape_of_features

KEY = jax.random.key(0)
OTHER = jax.random.key(1)
N = 64


def conditional(network):
    return compose.Conditional(network(y_shape=(2,)), models.Gaussian(1))


def flow_matching(network):
    return models.FlowMatching(1, steps=2, y_shape=(2,), network=network())


def autoregressive(network):
    return models.Autoregressive(4, 3, network(), stop=False, y_shape=(2,))


def data_for(build):
    rng = np.random.default_rng(0)
    y = rng.normal(size=(N, 2))
    if build is autoregressive:
        return rng.integers(0, 3, (N, 4)), y
    return y[:, :1] + 0.1 * rng.normal(size=(N, 1)), y


@pytest.mark.parametrize(("build", "network"), [
    *[(conditional, network) for network in nets.NETWORKS],
    *[(flow_matching, network) for network in nets.NETWORKS],
    *[(autoregressive, network) for network in nets.SEQUENCES],
])  # fmt: skip
def test_a_network_of_another_package(build, network, tmp_path):
    """It fits and is saved, and an equal model compiles nothing."""
    x, y = data_for(build)
    first = jaxgen.fit(build(network), x, y, key=KEY, epochs=2)
    with count_compiles() as count:
        again = jaxgen.fit(build(network), x, y, key=OTHER, epochs=2)
    assert count == [0]
    assert not np.array_equal(first.log_prob(x, y), again.log_prob(x, y))
    first.save(tmp_path / "model.jaxgen")
    loaded = jaxgen.load(tmp_path / "model.jaxgen")
    assert loaded.model == first.model
    assert loaded.model == build(network)
    np.testing.assert_array_equal(loaded.log_prob(x, y), first.log_prob(x, y))
    np.testing.assert_array_equal(loaded.sample(KEY, N, y), first.sample(KEY, N, y))


def test_the_network_learns():
    """A fit finds that x follows y, which is 2.3 nats better than the normal of all x."""
    x, y = data_for(conditional)
    fitted = jaxgen.fit(conditional(nets.Linen), x, y, key=KEY, epochs=2000)
    gaussian = jaxgen.fit(models.Gaussian(1), x, key=KEY)
    assert fitted.log_prob(x, y).mean() > gaussian.log_prob(x).mean() + 1


def test_a_label_as_condition():
    y = np.arange(N) % 3
    x = np.random.default_rng(0).normal(size=(N, 1)) + 9 * y[:, None]
    model = compose.Labelled(compose.Conditional(nets.OfLabel(), models.Gaussian(1)), 3)
    fitted = jaxgen.fit(model, x, y, key=KEY, epochs=300)
    assert (fitted.classify(x).argmax(1) == y).mean() > 0.9


def test_a_file_needs_the_class(tmp_path, monkeypatch):
    model = conditional(nets.Linen)
    jaxgen.Fitted(model, model.init(KEY)).save(tmp_path / "model.jaxgen")
    monkeypatch.delitem(spec._registry, "small_networks.Linen")
    with pytest.raises(
        ValueError, match=r"unknown spec 'small_networks\.Linen': import the module"
    ):
        jaxgen.load(tmp_path / "model.jaxgen")


@pytest.mark.parametrize(("network", "message"), [
    (nets.LinenNorm, r"LinenNorm.init .* collections \['batch_stats', 'params'\].*GroupNorm"),
    (nets.LinenNormLeftOut, "LinenNormLeftOut.apply raised .*batch_stats.*BatchNorm is not poss"),
    (nets.LinenDropout, "LinenDropout.apply raised InvalidRngError.*dropout must be switched off"),
    (nets.NnxNorm, "NnxNorm.init raised ValueError: Non-exhaustive filters"),
    (nets.NnxWholeState, "NnxWholeState.init must return params, a dict .*; got a State"),
    (nets.EquinoxNorm, "EquinoxNorm"),
    (nets.EquinoxModule, "EquinoxModule.init must return params, a dict .*; got a MLP"),
    (nets.HaikuNorm, "HaikuNorm.init raised NonEmptyStateError.*BatchNorm is not possible"),
    (nets.Counter, "Counter.init .*'layer/steps' is an array of int32"),
    (nets.Nothing, "Nothing.init must return params, a dict .*; got a NoneType"),
    (nets.Pair, "Pair.apply must return one array of floats, got "),
])  # fmt: skip
def test_networks_that_are_refused(network, message):
    for build in conditional, flow_matching:
        with pytest.raises(TypeError, match=message):
            build(network).init(KEY)


@pytest.mark.parametrize(("build", "message"), [
    (lambda: compose.Conditional(MLP(), models.Gaussian(1)), "net must have y_shape"),
    (lambda: models.FlowMatching(2, width=8, network=nets.Linen()), "width is that of the default"),
    (lambda: models.FlowMatching(2, depth=8, network=nets.Linen()), "depth is that of the default"),
    (lambda: models.FlowMatching(2, network=MLP((2,))), "fields of the model"),
    (lambda: models.Autoregressive(4, 3, network=MLP((2,))), "fields of the model"),
    (lambda: nets.Linen(y_shape=(2,), width="a"), "width must be an int"),
])  # fmt: skip
def test_invalid_specs(build, message):
    with pytest.raises((TypeError, ValueError), match=message):
        build()


@pytest.mark.parametrize(("y_shape", "y_domain", "shape"), [
    ((2, 3), None, (2, 3)),
    ((), None, (1,)),
    ((2, 1), (domains.Real(), domains.Levels(3)), (4,)),
    ((1,), domains.Interval(0, 1), (9,)),
])  # fmt: skip
def test_the_input_of_a_conditional(y_shape, y_domain, shape):
    """It is y in its shape, or a vector if some numbers of y have several inputs."""
    network = Tanh(y_shape=y_shape, y_domain=y_domain)
    params = jax.eval_shape(compose.Conditional(network, models.Gaussian(1)).init, KEY)
    assert params["network"]["features"]["w"].shape == (4, *shape)


def test_the_linear_layer_behind_a_network():
    rng = np.random.default_rng(0)
    net, w, b = Tanh(), rng.normal(size=(2, 4)), rng.normal(size=2)
    features = {"w": rng.normal(size=(4, 3)), "b": rng.normal(size=4)}
    x = rng.normal(size=(3, 5))  # five rows
    found = jax.jit(net.outputs, static_argnums=2)(
        {"features": features, "out": {"w": w, "b": b}}, x, (3,)
    )
    hidden = np.tanh(features["w"] @ x + features["b"][:, None])
    np.testing.assert_allclose(found, w @ hidden + b[:, None], rtol=1e-4, atol=1e-5)


def test_features_of_an_mlp():
    """They are the last hidden layer of the network that models use."""
    net, x = MLP(width=3, depth=2), jnp.arange(4.0).reshape(2, 2)
    params = net.init_outputs(KEY, x.shape, 5)
    features = jax.jit(net.apply)(net.init(KEY, x.shape), x)
    outputs = jax.jit(net.outputs, static_argnums=2)(params, x, x.shape)
    assert features.shape == (3,)
    np.testing.assert_allclose(params["out"]["w"] @ features, outputs, rtol=1e-5)


@pytest.mark.parametrize("network", nets.SEQUENCES)
def test_sequences(network):
    """Networks are causal, and their steps give what the whole sequence gives."""
    net = network()
    check_causal(net, 100)
    shape = 5, net.width

    @jax.jit
    def both_ways(key):
        x = jax.random.normal(key, shape)
        params = init_checked(net, key, shape)
        assert shape_of_features(net, params, shape) == (5, 4)

        def step(cache, i_and_x):
            return net.step(params, cache, i_and_x[1], i_and_x[0])

        cache = net.start(params, 5, x.dtype)
        return jax.lax.scan(step, cache, (np.arange(5), x))[1], net.apply(params, x)

    np.testing.assert_allclose(*both_ways(KEY), atol=1e-6)


@pytest.mark.parametrize(("network", "message"), [
    (nets.LinenSequence(padding="SAME"), "LinenSequence must be causal: its output at position 0 "
     "depends on the input at position 1"),
    (nets.NoWidth(), "NoWidth must have the field width"),
    (nets.LastPosition(), r"LastPosition.apply must return features of each position.*\(4,\)"),
])  # fmt: skip
def test_sequence_networks_that_are_refused(network, message):
    with pytest.raises((TypeError, ValueError), match=message):
        check_causal(network, 8)


def test_the_transformer_is_causal():
    check_causal(Transformer(8, 2, 1), 8)
