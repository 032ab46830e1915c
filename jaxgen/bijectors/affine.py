"""Shift and scale of each feature: how raw data are standardised."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jaxgen.bijectors.bijector import Bijector
from jaxgen.core.families import namespace


class Affine(Bijector):
    """x = shift + scale z for each feature; from data, their mean and standard deviation.

    A constant feature gets scale 1.

    Params: ``shift`` and ``scale``, of the event's shape, in the units of x.
    """

    def init(self, event_shape, x=None):
        if x is None:
            return {"shift": jnp.zeros(event_shape), "scale": jnp.ones(event_shape)}
        xp = namespace(x)
        deviation = x.std(0)
        return {"shift": x.mean(0), "scale": xp.where(x.max(0) > x.min(0), deviation, 1.0)}

    rescalable = True

    def rescale(self, params, shift, scale):
        return {"shift": shift + scale * params["shift"], "scale": scale * params["scale"]}

    def part(self, params, features):
        return {name: leaf.reshape(-1)[np.array(features)] for name, leaf in params.items()}

    def forward(self, params, z):
        return params["shift"] + params["scale"] * z, jnp.log(jnp.abs(params["scale"])).sum()

    def inverse(self, params, x):
        return (x - params["shift"]) / params["scale"], -jnp.log(jnp.abs(params["scale"])).sum()
