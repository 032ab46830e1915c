"""The mode of the posterior of the globals."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxgen.numpyro import global_latents
from jaxgen.numpyro.posteriors.base import Posterior
from jaxgen.numpyro.posteriors.prior_units import from_units, prior_units, with_fixed_units

_map = jax.tree_util.tree_map


class Point(Posterior):
    """The most likely globals given the data: the mode of the posterior (MAP).

    Args:
      jacobian: False for the mode of the density of the globals, as NumPyro's AutoDelta finds it;
        True for the mode of the density of the globals mapped to the reals, the centre of
        AutoLaplaceApproximation. For Gamma(3, 1), the first is 2 and the second 3.

    Params, by site: ``loc``, mapped to the reals, in units of the prior: ``middle`` + ``unit`` *
    ``loc``. Training changes ``loc`` only.
    """

    jacobian: bool = False

    is_random: ClassVar[bool] = False

    def init(self, program, param_values, key):
        units = prior_units(program, param_values, key)
        return {"loc": _map(jnp.zeros_like, units["middle"]), **units}

    def values(self, program, params, param_values):
        unconstrained = from_units(params, params["loc"])
        values, _, _ = global_latents.constrain(program, unconstrained, param_values)
        return _map(lambda v: v[None], values)

    def sample(self, program, params, param_values, noise):
        params = with_fixed_units(params)
        unconstrained = from_units(params, params["loc"])
        values, log_p, log_det = global_latents.constrain(program, unconstrained, param_values)
        return values, -log_p - log_det if self.jacobian else -log_p
