"""The values of ``numpyro.param`` sites; params of models hold them mapped to the reals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from numpyro.distributions.transforms import Transform

from jaxgen.core.model import Params
from jaxgen.numpyro.program_spec import ProgramSpec
from jaxgen.numpyro.runs import param_transform

_map = jax.tree_util.tree_map


def initial_params(sites: Mapping[str, Any]) -> dict[str, Any]:
    """Starting values of the params among the sites of a run, mapped to the reals, by name."""
    params = {name: site for name, site in sites.items() if site["type"] == "param"}
    start = {name: _map(jnp.asarray, site["value"]) for name, site in params.items()}
    return transformed(start, {name: param_transform(site).inv for name, site in params.items()})


def transformed(named: Mapping[str, Any], transforms: Mapping[str, Transform]) -> dict[str, Any]:
    """Named values, each mapped by the transform of its name."""

    def widest(value):  # NumPyro's maps onto matrices take JAX's default float dtype only
        return jnp.asarray(value, jnp.promote_types(value.dtype, jnp.result_type(float)))

    return {
        name: _map(lambda v, onto=transforms[name]: onto(widest(v)), value)
        for name, value in named.items()
    }


def values(program: ProgramSpec, params: Params) -> dict[str, Any]:
    """Values of the ``numpyro.param`` sites of a program, by name."""
    return transformed(params["program"], program.sites.param_transforms)
