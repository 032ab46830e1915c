"""Independent normals for the globals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri

from jaxgen.core.random import Normal, permutations
from jaxgen.core.spec import Count
from jaxgen.numpyro import global_latents
from jaxgen.numpyro.posteriors.base import Posterior
from jaxgen.numpyro.posteriors.prior_units import (
    ENTROPY,
    NARROW,
    from_units,
    prior_units,
    with_fixed_units,
)
from jaxgen.numpyro.runs import fixed_key

_map = jax.tree_util.tree_map


class MeanField(Posterior):
    """Independent normals for the globals mapped to the reals, as NumPyro's AutoNormal.

    Args:
      draws: draws of the globals that the density is an average over, the same in every call. Their
        values of each number are evenly spread (a Latin hypercube).

    Params, by site: ``loc`` and ``log_scale`` of the normals, in units of the prior: a draw is
    ``middle`` + ``unit`` * (``loc`` + exp(``log_scale``) * z). Training changes ``loc`` and
    ``log_scale`` only.

    Source: Kucukelbir et al. 2017, "Automatic differentiation variational inference".
    """

    draws: Count = 100  # type: ignore[misc]

    def init(self, program, param_values, key):
        units = prior_units(program, param_values, key)
        loc = _map(jnp.zeros_like, units["middle"])
        log_scale = _map(lambda v: jnp.full_like(v, np.log(NARROW)), loc)
        return {"loc": loc, "log_scale": log_scale, **units}

    def values(self, program, params, param_values):
        draw = self.draw_function(program, params, param_values)
        return jax.vmap(draw)(jnp.arange(self.draws))

    def draw_function(self, program, params, param_values):
        leaves, structure = jax.tree_util.tree_flatten(params["loc"])
        key = fixed_key()
        normals = [
            _latin_hypercube(jax.random.fold_in(key, i), self.draws, leaf)
            for i, leaf in enumerate(leaves)
        ]

        def draw(i):
            z = jax.tree_util.tree_unflatten(structure, [normal(i) for normal in normals])
            unconstrained = from_units(params, _scaled(params, z))
            return global_latents.constrain(program, unconstrained, param_values)[0]

        return draw

    def noise(self, program):
        return {site.name: Normal(site.real_shape) for site in program.sites.globals}

    def sample(self, program, params, param_values, noise):
        params = with_fixed_units(params)
        unconstrained = from_units(params, _scaled(params, noise))
        values, log_p, log_det = global_latents.constrain(program, unconstrained, param_values)
        # the mean of log q is known, and so has no noise
        log_q = _map(
            lambda s, u: -(s + jnp.log(u) + ENTROPY).sum(), params["log_scale"], params["unit"]
        )
        return values, sum(jax.tree_util.tree_leaves(log_q)) - log_p - log_det

    def sample_with_ratio(self, program, params, param_values, noise):
        values, cost = self.sample(program, params, param_values, noise)
        return values, cost + sum((1 - z**2).sum() for z in jax.tree_util.tree_leaves(noise)) / 2


def _scaled(params, z):
    """Normals of standard normals, in units of the prior."""
    return _map(lambda loc, s, z: loc + jnp.exp(s) * z, params["loc"], params["log_scale"], z)


def _latin_hypercube(key, count, like):
    """A function from 0 .. count - 1 to standard normals of the shape of ``like``.

    Each number takes ``count`` evenly spread values, in an order of its own: a Latin hypercube.
    """
    cells = ndtri((jnp.arange(count, dtype=like.dtype) + 0.5) / count)
    order = permutations(key, like.shape, count)
    return lambda i: cells[order(i)]
