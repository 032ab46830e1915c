"""Convolutional networks: the product that is a convolution, odd sizes, rows and the context."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxgen import networks
from jaxgen.networks import convolutional

KEY = jax.random.key(0)


def _init(network, shape):
    return jax.jit(lambda key: network.init(key, shape))(KEY)


def test_the_product_is_a_convolution_and_so_is_its_gradient():
    keys = jax.random.split(KEY, 3)
    x, w = jax.random.normal(keys[0], (2, 5, 4, 3)), jax.random.normal(keys[1], (3, 3, 3, 2))
    weights = jax.random.normal(keys[2], (2, 5, 4, 2))

    def xla(x, w):
        dimensions = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=dimensions)

    @jax.jit
    def both(x, w):
        def value_and_gradient(convolution):
            return jax.value_and_grad(lambda x, w: (weights * convolution(x, w)).sum(), (0, 1))(
                x, w
            )

        return value_and_gradient(convolutional._product), value_and_gradient(xla)

    found, expected = both(x, w)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected
    )


# an image that is halved to odd sizes, and one without channels
@pytest.mark.parametrize("shape", [(8, 8, 3), (7, 5, 1)])
def test_shapes_and_rows(shape):
    size = -(-shape[0] // 4) * -(-shape[1] // 4)
    each = (
        (networks.ConvEncoder(4), shape, (8 * size,)),
        (networks.ConvDecoder(4).for_events(shape), (6,), (*shape[:2], 4)),
        (networks.UNet(4).for_events(shape), (*shape[:2], shape[2] + 2), (*shape[:2], 4)),
    )
    for network, inputs, features in each:
        params = _init(network, inputs)
        x = jnp.asarray(np.random.default_rng(0).normal(size=(3, *inputs)), jnp.float32)
        apply = jax.jit(network.apply)
        rows = apply(params, x)
        assert rows.shape == (3, *features)
        np.testing.assert_allclose(apply(params, x[1]), rows[1], rtol=1e-4, atol=1e-5)


def test_the_context_of_a_unet_changes_its_features():
    network = networks.UNet(4, channels=1)
    params = _init(network, (8, 8, 3))
    x = np.zeros((2, 8, 8, 3), np.float32)
    x[1, ..., 2] = 1
    first, second = jax.jit(network.apply)(params, x)
    assert np.abs(first - second).max() > 1e-3


@pytest.mark.parametrize(
    ("network", "shape", "error"),
    [
        (
            networks.ConvEncoder(4),
            (8, 8),
            r"images \(height, width, channels\), got shape \(8, 8\)",
        ),
        (networks.UNet(4), (8,), r"images \(height, width, channels\), got shape \(8,\)"),
        (networks.ConvDecoder(4), (8,), r"shape must be \(height, width\), got None"),
    ],
)
def test_shapes_that_do_not_suit_are_errors(network, shape, error):
    with pytest.raises(ValueError, match=error):
        network.init(KEY, shape)
