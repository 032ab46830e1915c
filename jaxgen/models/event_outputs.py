"""Networks whose outputs are several numbers for each entry of an event, and what they take.

A linear layer makes the outputs. If the features of the network are an image of the size of the
event, its pixels share the weights of the layer; each entry has its own bias. Arrays have rows, if
any, on the first axes.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxgen.core.spec import Params
from jaxgen.networks.network import FINAL, Network, init_checked, shape_of_features


@functools.partial(jax.jit, static_argnums=(0, 2, 3, 4))
def init_event_outputs(
    network: Network, key: jax.Array, shape: tuple[int, ...], event: tuple[int, ...], numbers: int
) -> Params:
    """Params of a network and of a linear layer, with outputs near 0 at the start.

    They are ``features``, of the network, and ``out``, with weights ``w`` (outputs, features) and a
    bias ``b`` (numbers, *event).

    Args:
      network: the network.
      key: a typed PRNG key.
      shape: shape of one input of the network.
      event: shape of an event.
      numbers: outputs for each entry of the event.

    Raises:
      TypeError: the network does not suit the shape, or is not what ``Network`` states.
    """
    keys = jax.random.split(key)
    params = init_checked(network, keys[0], shape)
    features = shape_of_features(network, params, shape)
    if _is_image(features, event):
        size = numbers * math.prod(event[2:]), features[-1]
    else:
        size = numbers * math.prod(event), math.prod(features)
    return {
        "features": params,
        "out": {"w": near_zero(keys[1], size), "b": jnp.zeros((numbers, *event))},
    }


def event_outputs(
    network: Network, params: Params, x: jax.Array, rows: int, event: tuple[int, ...]
) -> jax.Array:
    """Outputs (numbers, *rows, *event) for inputs x (*rows, *shape) with so many axes of rows."""
    features = network.apply_rows(params["features"], x, rows)
    w, b = params["out"]["w"], params["out"]["b"]
    numbers, leading = len(b), x.shape[:rows]
    if _is_image(features.shape[rows:], event):
        out = dense(w, features).reshape(*features.shape[:-1], numbers, *event[2:])
        out = jnp.moveaxis(out, rows + 2, 0)
    else:
        out = dense(w, features.reshape(*leading, -1)).reshape(*leading, numbers, *event)
        out = jnp.moveaxis(out, rows, 0)
    return out + b.reshape(numbers, *[1] * rows, *event)


def near_zero(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Weights (outputs, inputs) of a linear layer whose outputs are near 0."""
    return FINAL * (2 / max(shape[1], 1)) ** 0.5 * jax.random.normal(key, shape)


def dense(w: jax.Array, x: jax.Array) -> jax.Array:
    """w (outputs, inputs) times x (*rows, inputs), (*rows, outputs)."""
    return lax.dot_general(x, w, (((x.ndim - 1,), (1,)), ((), ())))


def _is_image(features: tuple[int, ...], event: tuple[int, ...]) -> bool:
    """Whether features are an image (H, W, channels) of the size of the event."""
    return len(features) == 3 and len(event) >= 2 and features[:2] == event[:2]
