"""The log density of one row, given the globals and the locals of the row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.core.numerics import logsumexp
from jaxgen.numpyro.likelihood import log_prob_within
from jaxgen.numpyro.program_spec import ProgramSpec
from jaxgen.numpyro.runs import placing, trace
from jaxgen.numpyro.sites.records import Site


class Row(NamedTuple):
    """One row, and the values that its density depends on.

    Attributes:
      x: event (*event_shape).
      y: condition (*y_shape); None for a program without conditions.
      globals: values of the globals, by site.
      param_values: values of the ``numpyro.param`` sites, by name.
    """

    x: Any
    y: Any
    globals: Mapping[str, Any]
    param_values: Mapping[str, Any]


def log_joint(
    program: ProgramSpec, row: Row, unconstrained: Mapping[str, Any]
) -> tuple[jax.Array, jax.Array]:
    """log p(locals) and log p(x, locals), summed over all values of the discrete latents.

    ``unconstrained`` are values of the continuous locals mapped to the reals, and the densities are
    those of the mapped values, in nats.
    """
    if not program.sites.discrete:
        prior, score = log_densities(program, row, unconstrained, {})
        return prior, prior + score

    def with_discrete(discrete):
        return log_densities(program, row, unconstrained, discrete)

    priors, scores = jax.vmap(with_discrete)(program.combinations)
    return logsumexp(priors), logsumexp(priors + scores)


def log_densities(
    program: ProgramSpec,
    row: Row,
    unconstrained: Mapping[str, Any],
    discrete: Mapping[str, Any],
) -> tuple[jax.Array, jax.Array]:
    """log p(locals) and log p(x | locals), given values of the discrete latents too."""
    value, is_possible = observed_value(program, row.x)
    place, log_dets = placing(unconstrained)
    sites = run_row(program, row, jnp.zeros(2, jnp.uint32), value, discrete, place)
    log_p = (_log_p(program, sites[site.name]) for site in program.sites.latents)
    prior = sum(log_p, jnp.zeros((), float))
    observed = sites[program.observed]
    score = log_prob_within(observed["fn"], observed["value"]).sum()
    return prior + sum(log_dets), jnp.where(is_possible, score, -jnp.inf)


def run_row(
    program: ProgramSpec, row: Row, key: Any, value: Any, discrete, place
) -> dict[str, Any]:
    """The sites of a run for one row.

    Args:
      program: the program.
      row: the row.
      key: a typed or raw PRNG key, for sites that are drawn.
      value: value of the observed site, as ``observed_value`` returns it.
      discrete: values of the discrete latents, by site.
      place: gives the values of continuous locals: see ``runs.placing``.
    """
    known = {**row.globals, **row.param_values, **discrete, program.observed: value}
    keywords, argument = program.observed_keyword(value), program.row_argument(row.y)
    return trace(program.program, argument, key, known, place, keywords=keywords)


def _log_p(program, site):
    """log p of a latent; -inf if y does not allow the value of a discrete one."""
    if site["name"] in program.sites.varying:
        return log_prob_within(site["fn"], site["value"]).sum()
    return site["fn"].log_prob(site["value"]).sum()


def observed_value(program: ProgramSpec, x: Any) -> tuple[jax.Array, Any]:
    """The value of the observed site in a run for the row x, and whether it is possible.

    It is impossible if it is not an integer where events are integers.
    """
    site, is_possible = program.sites.observed, True
    if site.discrete:
        is_integer = x == jnp.round(x)
        x, is_possible = jnp.where(is_integer, x, -1), is_integer.all()
        x = x.astype(jnp.result_type(int)) if program.in_integers else x
    return with_plate(x, site), is_possible


def with_plate(value: Any, site: Site) -> jax.Array:
    """The value of a site in the plate with an axis of length 1 for the plate."""
    assert site.axis is not None
    return jnp.expand_dims(value, site.axis)


def without_plate(value: Any, site: Site) -> jax.Array:
    """The value of a site in a run for one row, without the axis of the plate."""
    return jnp.squeeze(jnp.asarray(value), site.axis)
