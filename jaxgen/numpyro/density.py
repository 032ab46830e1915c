"""The log density of rows of a program, averaged over the globals, and draws of rows."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core import inputs
from jaxgen.core.model import Params
from jaxgen.core.numerics import blanked, logsumexp
from jaxgen.numpyro import blocks, global_latents, local_latents, param_sites
from jaxgen.numpyro.drawing import Drawing
from jaxgen.numpyro.laplace import Modes
from jaxgen.numpyro.program_spec import ProgramSpec
from jaxgen.numpyro.row_density import (
    Row,
    log_densities,
    log_joint,
    observed_value,
    run_row,
    without_plate,
)
from jaxgen.numpyro.runs import fixed_key, placing, trace

_IN_LOSS = 8  # samples in a loss; with more, the gradient of a learnt proposal drowns in noise

_map = jax.tree_util.tree_map


# Scores.


def log_prob(program: ProgramSpec, params: Params, x: Any, y: Any = None) -> jax.Array:
    """log p(x|y) of a row in nats, a mean over the draws of the globals."""
    total = logsumexp(log_prob_of_draws(program, params, x, y)) - np.log(program.draws)
    # a program may compute in JAX's default dtype, wider than that of the params
    return total.astype(x.dtype)


def log_prob_and_k(
    program: ProgramSpec, params: Params, x: Any, y: Any = None
) -> tuple[jax.Array, jax.Array]:
    """log p(x|y) of a row and the Pareto k of its importance weights."""
    log_weights = log_weights_of_draws(program, params, x, y, fixed_key())
    log_p = logsumexp(log_weights) - np.log(log_weights.size)
    k = local_latents.tail_index(program, log_weights, x)
    return log_p.astype(x.dtype), k.astype(x.dtype)


def log_prob_of_draws(
    program: ProgramSpec, params: Params, x: Any, y: Any = None, rows: int = blocks.ROWS
) -> jax.Array:
    """log p(x | y, globals) of a row for each draw of the globals, (draws,), in nats.

    rows: the largest number of rows that are scored at the same time, which bounds the memory.
    """
    log_weights = log_weights_of_draws(program, params, x, y, fixed_key(), rows)
    if log_weights.shape[1] == 1:
        return log_weights[:, 0]
    return logsumexp(log_weights, 1) - np.log(log_weights.shape[1])


def log_weights_of_draws(
    program: ProgramSpec, params: Params, x: Any, y: Any, key: jax.Array, rows: int = blocks.ROWS
) -> jax.Array:
    """Log weights of samples of the locals for each draw of the globals, (draws, K).

    Without continuous locals they are log p(x | y, globals), (draws, 1). ``rows`` is as in
    ``log_prob_of_draws``.
    """
    param_values = param_sites.values(program, params)
    keys = jax.random.split(key, program.draws)
    modes = local_latents.row_modes(program, params, x, y, key)

    def of_draw(i, values):
        draw_key = key if program.draws == 1 and not values else keys[i]
        row = Row(x, y, values, param_values)
        return local_latents.sample(program, params, row, draw_key, program.samples, modes)[1]

    return global_latents.map_draws(program, of_draw, params, draws_at_once(program, rows))


def log_prob_of_row(program: ProgramSpec, params: Params, row: Row, key: jax.Array) -> jax.Array:
    """log p(x | y, globals) of a row, by as many samples of its locals as a loss takes."""
    count = samples_in_loss(program)
    _, log_weights = local_latents.sample(program, params, row, key, count)
    if len(log_weights) == 1:  # a sum of exponentials would round off second derivatives
        return log_weights[0]
    return logsumexp(log_weights) - np.log(len(log_weights))


def samples_in_loss(program: ProgramSpec) -> int:
    """Samples of the continuous locals that the loss of a row takes; 0 if there are none."""
    if not program.sites.locals:
        return 0
    few = program.proposal is not None or local_latents.adapts(program)
    return min(program.samples, _IN_LOSS) if few else program.samples


def log_posterior(
    program: ProgramSpec, position: Mapping[str, Any], x: Any, y: Any, weights: Any
) -> Any:
    """log p(x, locals | y, globals) p(globals) of all rows, in nats, for a program without params.

    Args:
      program: the program.
      position: "globals" and, for each row, "locals", by site, mapped to the reals.
      x: events (n, *event_shape).
      y: conditions (n, *y_shape), or None.
      weights: (n,).
    """
    values, log_p, log_det = global_latents.constrain(program, position["globals"], {})

    def of_row(x, y, weight, locals_):
        prior, joint = log_joint(program, Row(x, y, values, {}), locals_)
        if not locals_:
            return jnp.where(weight > 0, weight * jnp.where(weight > 0, joint, 0), 0)
        return jnp.where(weight > 0, joint, prior)

    axes = 0, None if y is None else 0, 0, 0
    rows = jax.vmap(of_row, axes)(x, y, weights, position["locals"])
    return log_p + log_det + rows.sum()


# Memory.


def draws_at_once(program: ProgramSpec, rows: int = blocks.ROWS) -> int:
    """Draws of the globals that are scored at the same time, for so many rows."""
    return min(program.draws, max(blocks.SCALARS // (rows * footprint(program)), 1))


def footprint(program: ProgramSpec) -> int:
    """Scalars that scoring a row for one draw of the globals holds at once."""
    return _scalars_of_row(program) * (program.samples if program.sites.locals else 1)


@functools.lru_cache(maxsize=256)
def _scalars_of_row(program):
    row, flat = local_latents.example(program)
    if program.sites.varying and program.ranges is None:
        return 1

    def score(values, of_row):
        x, y, flat = of_row
        return local_latents.flat_density(program, Row(x, y, values, {}))(flat)

    return max(blocks.scalars_of(score, row.globals, (row.x, row.y, flat)), 1)


# Draws.


def draw_row(
    program: ProgramSpec, params: Params, values: Mapping[str, Any], key: jax.Array, y: Any = None
) -> jax.Array:
    """An event drawn given the values of the globals."""
    known = {**values, **param_sites.values(program, params)}
    drawing = Drawing(program.large_counts)
    sites = trace(program.program, program.row_argument(y), key, known, drawing=drawing)
    value = sites[program.observed]["value"]
    is_integer = not jnp.issubdtype(value.dtype, jnp.floating) and program.in_integers
    dtype = jnp.result_type(int) if is_integer else inputs.float_dtype((params, values))
    return value.reshape(program.event_shape).astype(dtype)


def draw_latents(
    program: ProgramSpec, params: Params, row: Row, key: jax.Array, modes: Modes | None = None
) -> dict[str, jax.Array]:
    """Locals of a row drawn given x and the globals, and its deterministic sites, by site.

    Continuous locals are resampled from K samples. All values are NaN, or the least integer, where
    x is impossible. ``modes`` are those of ``local_latents.row_modes``.
    """
    samples_key, choice_key, discrete_key, run_key = jax.random.split(key, 4)
    samples, log_weights = local_latents.sample(
        program, params, row, samples_key, program.samples, modes
    )
    chosen = _choice(choice_key, log_weights)
    continuous = _map(lambda v: v[chosen], samples)
    discrete: dict[str, Any] = {}
    if program.sites.discrete:

        def score(discrete):
            return sum(log_densities(program, row, continuous, discrete))

        combination = _choice(discrete_key, jax.vmap(score)(program.combinations))
        discrete = {name: jnp.asarray(v)[combination] for name, v in program.combinations.items()}
    place, _ = placing(continuous)
    value, _ = observed_value(program, row.x)
    sites = run_row(program, row, run_key, value, discrete, place)
    found = program.sites
    shown = (*found.latents, *found.unread, *found.row_deterministic)
    drawn = {site.name: without_plate(sites[site.name]["value"], site) for site in shown}
    return blanked(jnp.isfinite(logsumexp(log_weights)), drawn)


def _choice(key, log_weights):
    # JAX adds noise to the log weights, and large log weights would round it off
    return jax.random.categorical(key, jax.nn.log_softmax(log_weights))
