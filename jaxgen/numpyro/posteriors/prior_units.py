"""Units of the prior, in which posteriors are learnt so that a fit does not depend on units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxgen.core.model import Params
from jaxgen.numpyro import global_latents
from jaxgen.numpyro.program_spec import ProgramSpec

_DRAWS = 63  # draws of the prior that its middle and spread are estimated from
NARROW = 0.03  # spread of a normal at the start of a fit, in spreads of the prior
ENTROPY = 0.5 * (1 + math.log(2 * math.pi))  # of a standard normal, in nats

_map = jax.tree_util.tree_map


def prior_units(
    program: ProgramSpec, param_values: Mapping[str, Any], key: jax.Array
) -> dict[str, dict[str, jax.Array]]:
    """The ``middle`` and the ``unit`` of the prior of each global, mapped to the reals.

    They are the median of a few draws, and half the range of their central 68 %.
    """
    draw = lambda key: global_latents.draw_prior(program, key, param_values)  # noqa: E731
    draws = jax.vmap(draw)(jax.random.split(key, _DRAWS))
    low, middle, high = (
        _map(lambda v, share=share: jnp.quantile(v, share, 0), draws) for share in (0.16, 0.5, 0.84)
    )
    half = _map(lambda low, high: (high - low) / 2, low, high)
    return {"middle": middle, "unit": _map(lambda v: jnp.where(v > 0, v, 1), half)}


def from_units(params: Params, values: Any) -> Any:
    """Unconstrained globals of values in units of the prior."""
    return _map(lambda m, u, v: m + u * v, params["middle"], params["unit"], values)


def with_fixed_units(params: Params) -> Params:
    """Params whose units have no gradient."""
    return {**params, **lax.stop_gradient({name: params[name] for name in ("middle", "unit")})}
