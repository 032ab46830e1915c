"""A shift and scale of each feature, to standardise data."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.bijectors.bijector import Bijector
from jaxgen.core.families import namespace
from jaxgen.core.spec import Params


class Affine(Bijector):
    """x = shift + scale z for each feature, with the mean and standard deviation of data.

    A constant feature has scale 1.

    Params: ``shift`` and ``scale``, of the event's shape, in the units of x.
    """

    def init(self, event_shape: tuple[int, ...], x: Any = None) -> Params:
        if x is None:
            return {"shift": jnp.zeros(event_shape), "scale": jnp.ones(event_shape)}
        xp = namespace(x)
        deviation = x.std(0)
        return {"shift": x.mean(0), "scale": xp.where(x.max(0) > x.min(0), deviation, 1.0)}

    rescalable = True

    def rescale(self, params: Params, shift: Any, scale: Any) -> Params:
        return {"shift": shift + scale * params["shift"], "scale": scale * params["scale"]}

    def part(self, params: Params, features: tuple[int, ...]) -> Params:
        return {name: leaf.reshape(-1)[np.array(features)] for name, leaf in params.items()}

    def forward(self, params: Params, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        return params["shift"] + params["scale"] * z, jnp.log(jnp.abs(params["scale"])).sum()

    def inverse(self, params: Params, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return (x - params["shift"]) / params["scale"], -jnp.log(jnp.abs(params["scale"])).sum()
