"""The globals of a program: their prior, and the draws of them that params hold.

Values of globals are dictionaries by site. "Unconstrained" values are values mapped to the reals,
and ``param_values`` are the values of ``numpyro.param`` sites, which a prior may depend on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from numpyro.distributions import constraints

from jaxgen.core.model import Params
from jaxgen.numpyro import param_sites
from jaxgen.numpyro.blocks import in_blocks
from jaxgen.numpyro.program_spec import ProgramSpec
from jaxgen.numpyro.runs import placing, trace, unconstrained_value

Values = Mapping[str, Any]
_map = jax.tree_util.tree_map


# The prior.


def size(program: ProgramSpec) -> int:
    """How many real numbers the globals are mapped to."""
    return sum(site.real_size for site in program.sites.globals)


def constrain(
    program: ProgramSpec, unconstrained: Values, param_values: Values
) -> tuple[dict[str, Any], Any, Any]:
    """Values of all globals, their log p in nats, and the log determinant of the map onto them."""
    place, log_dets = placing(unconstrained)
    sites = _run(program, param_values, place)
    values = {name: sites[name]["value"] for name in unconstrained}
    return values, _log_p(program, sites), sum(log_dets)


def log_prior(program: ProgramSpec, values: Values, param_values: Values) -> Any:
    """log p of the globals, in nats."""
    return _log_p(program, _run(program, {**values, **param_values}))


def draw_prior(program: ProgramSpec, key: Any, param_values: Values) -> dict[str, jax.Array]:
    """Unconstrained globals drawn from the prior."""
    sites = trace(program.program, program.sites.example_argument, key, param_values)
    return {site.name: unconstrained_value(sites[site.name]) for site in program.sites.globals}


def deterministic(program: ProgramSpec, values: Values, param_values: Values) -> dict[str, Any]:
    """The deterministic sites that depend on globals only, by name."""
    sites = _run(program, {**values, **param_values})
    return {name: sites[name]["value"] for name in program.sites.global_deterministic}


def supports(program: ProgramSpec, values: Values) -> dict[str, constraints.Constraint]:
    """The supports of the globals that have those values, by site."""
    sites = _run(program, values)
    return {site.name: sites[site.name]["fn"].support for site in program.sites.globals}


def _run(program, known, make_value=None):
    """A run for one row with example values of the sites in the plate."""
    sites = program.sites
    examples = {name: sites.example_values[name] for name in sites.names_in_plate}
    keywords = program.observed_keyword(examples[program.observed])
    key, values = jnp.zeros(2, jnp.uint32), {**examples, **known}
    return trace(
        program.program, sites.example_argument, key, values, make_value, keywords=keywords
    )


def _log_p(program, sites):
    """log p of all sample sites outside the plate."""
    in_plate = program.sites.names_in_plate
    outside = [s for n, s in sites.items() if s["type"] == "sample" and n not in in_plate]
    return sum(_scaled_log_p(site) for site in outside)


def _scaled_log_p(site):
    scale = 1 if site["scale"] is None else site["scale"]
    return site["fn"].log_prob(site["value"]).sum() * scale


# Draws that the params hold.


def draws(program: ProgramSpec, params: Params) -> dict[str, Any]:
    """All draws of the globals that the density is an average over, by site, (draws, *shape)."""
    if not program.sites.globals:
        return {}
    param_values = param_sites.values(program, params)
    values = program.posterior.values(program, params["posterior"], param_values)
    for site in program.sites.globals:
        shape, expected = jnp.shape(values[site.name]), (program.draws, *site.shape)
        if shape != expected:
            raise ValueError(
                f"params must hold {site.name!r} of shape {expected}, got {shape}; params of "
                "many fits need jax.vmap or jaxgen.unstack"
            )
    return values


def draw_function(program: ProgramSpec, params: Params) -> Callable[[Any], dict[str, Any]]:
    """A function from the number of a draw, 0 .. draws - 1, to the globals of that draw."""
    function = None
    if program.sites.globals:
        param_values = param_sites.values(program, params)
        function = program.posterior.draw_function(program, params["posterior"], param_values)
    if function is not None:
        return function
    values = draws(program, params)
    return lambda i: _map(lambda v: v[i], values)


def map_draws(
    program: ProgramSpec,
    function: Callable[[Any, dict[str, Any]], Any],
    params: Params,
    at_once: int,
    axis: int = -1,
) -> Any:
    """``function(i, values)`` of all draws of the globals, (draws, ...).

    Args:
      program: the program.
      function: takes the number of a draw and its globals.
      params: params of the program.
      at_once: the largest number of draws that are computed at the same time.
      axis: where the draws are while they are computed. On a CPU, sums of an event's numbers are
        fastest over the last axis, and matrix products over the first.
    """
    draw = draw_function(program, params)

    def some(numbers):
        values = jax.vmap(draw, out_axes=axis)(numbers)
        return jax.vmap(function, (0, axis))(numbers, values)

    return in_blocks(some, program.draws, at_once)
