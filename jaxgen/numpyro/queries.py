"""Questions to a fitted program: draws of its posterior and of its latents, and densities."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxgen.core import compiler, inputs
from jaxgen.core.model import Params
from jaxgen.core.numerics import logsumexp
from jaxgen.core.promotion import standard_promotion
from jaxgen.core.tracing import is_tracing
from jaxgen.numpyro import blocks, density, global_latents, param_sites
from jaxgen.numpyro.drawing import Drawing
from jaxgen.numpyro.local_latents import row_modes, tail_index
from jaxgen.numpyro.pareto import warn_of_tails
from jaxgen.numpyro.program import Program, find_program
from jaxgen.numpyro.row_density import Row
from jaxgen.numpyro.runs import fixed_key, trace
from jaxgen.training.fitted import Fitted


class Estimate(NamedTuple):
    """log p(x|y) of rows, and how far it can be trusted.

    Attributes:
      log_prob: (n,), in nats.
      ess: (n,), the effective number of the K samples of each row, a mean over the draws of the
        globals; inf if nothing is sampled. A large number does not prove that the estimate is
        right: it may be large if all samples miss a mode of the locals.
      pareto_k: (n,), the tail index of the importance weights of each row, a mean over the draws
        of the globals with the largest shares of its density. The estimate can be trusted up to
        0.7. inf if a few weights dominate; -inf if nothing is sampled, or all weights are equal;
        NaN with fewer than 25 samples, or if no weight is positive, because x is impossible or
        all samples missed it.
      method: "exact", "enumerated" or "importance-weighted, ...".
    """

    log_prob: jax.Array
    ess: jax.Array
    pareto_k: jax.Array
    method: str


@standard_promotion
def posterior(fitted: Fitted) -> dict[str, jax.Array]:
    """Draws of the globals of a fitted program, by site, each (draws, *shape).

    ``numpyro.deterministic`` sites that depend on globals only are included.

    Raises:
      TypeError: fitted is not a fitted program, or is traced.

    >>> posterior(fitted)["slope"].shape
    (100,)
    """
    program, params = _program(fitted)
    values = _compiled_values(program, params)
    names = (*(site.name for site in program.sites.globals), *program.sites.global_deterministic)
    return {name: values[name] for name in names if name in values}


@standard_promotion
def predictive(
    fitted: Fitted, key: jax.Array, y: ArrayLike | None = None, n: int | None = None
) -> jax.Array:
    """Joint draws of rows, (draws, n, *event_shape): the rows of one draw share its globals.

    In contrast, ``fitted.sample`` draws rows independently, each with its own globals.

    Args:
      fitted: a fitted program, or ``Labelled`` program.
      key: a typed PRNG key.
      y: conditions (n, *y_shape).
      n: number of rows, for a program without conditions.

    Raises:
      TypeError, ValueError: an argument of the wrong kind, shape or range, by its name.

    >>> bands = np.quantile(predictive(fitted, key, grid), [0.05, 0.95], 0)
    """
    program, params = _program(fitted, key, y)
    key = inputs.as_key(key)
    if program.y_shape is None:
        if y is not None:
            raise ValueError(f"y was given, but {program} is unconditional (its y_shape is None)")
        count = inputs.as_count(n, "n", 1)
        return _compiled_predictive_of_count(program, count, params, key)
    if n is not None:
        raise ValueError("n must be None, as the number of rows is that of the conditions y")
    y = inputs.conditions_of_table(fitted.model, y)
    count = np.shape(y)[0] if np.ndim(y) > len(program.y_shape) else 1
    conditions = _conditions(fitted, y, count, inputs.float_dtype(params))
    return _compiled_predictive(program, params, key, conditions)


@standard_promotion
def log_likelihood(fitted: Fitted, x: ArrayLike, y: ArrayLike | None = None) -> jax.Array:
    """log p(x | y, globals) for each draw of the globals and each row, (draws, n), in nats.

    Args:
      fitted: a fitted program, or ``Labelled`` program.
      x: events (n, *event_shape).
      y: conditions (n, *y_shape).

    Raises:
      TypeError, ValueError: an argument of the wrong kind, shape or range, by its name.

    Warns:
      RuntimeWarning: rows whose Pareto k is above 0.7.

    >>> log_likelihood(fitted, x, y).shape
    (100, 20)
    """
    program, params, events, conditions = _rows(fitted, x, y)
    log_p, k = _compiled_log_likelihood(program, params, (events, conditions))
    warn_of_tails(k, program.name)
    return log_p.T


@standard_promotion
def estimate(
    fitted: Fitted,
    x: ArrayLike,
    y: ArrayLike | None = None,
    *,
    key: jax.Array,
    samples: int | None = None,
) -> Estimate:
    """log p(x|y) with new samples for each row, how far it can be trusted, and the method.

    Args:
      fitted: a fitted program, or ``Labelled`` program.
      x: events (n, *event_shape).
      y: conditions (n, *y_shape).
      key: a typed PRNG key.
      samples: number of samples K; None for that of the program.

    Raises:
      TypeError, ValueError: an argument of the wrong kind, shape or range, by its name.

    Warns:
      RuntimeWarning: rows whose Pareto k is above 0.7.

    >>> estimate(fitted, x, y, key=key).method
    'exact'
    """
    program, params, events, conditions = _rows(fitted, x, y)
    if samples is not None:
        program = dataclasses.replace(program, samples=inputs.as_count(samples, "samples", 1))
    keys = jax.random.split(inputs.as_key(key), len(events))
    log_prob, ess, k = _compiled_estimate(program, params, (events, conditions, keys))
    warn_of_tails(k, program.name)
    return Estimate(log_prob, ess, k, program.method)


@standard_promotion
def latents(
    fitted: Fitted, key: jax.Array, x: ArrayLike, y: ArrayLike | None = None
) -> dict[str, jax.Array]:
    """Draws of the local latents given x, by site, each (draws, n, *shape).

    Draw s has the globals of draw s of ``posterior``. Continuous latents are resampled from the K
    samples of ``from_program``. ``numpyro.deterministic`` sites of rows are included. Values are
    NaN, or the least integer, where x is impossible under the draw.

    Args:
      fitted: a fitted program, or ``Labelled`` program.
      key: a typed PRNG key.
      x: events (n, *event_shape).
      y: conditions (n, *y_shape).

    Raises:
      TypeError, ValueError: an argument of the wrong kind, shape or range, by its name.

    >>> latents(fitted, key, x, y)  # the program has none
    {}
    """
    program, params, events, conditions = _rows(fitted, x, y)
    keys = jax.random.split(inputs.as_key(key), len(events))
    drawn = _compiled_latents(program, params, (events, conditions, keys))
    return {name: jnp.swapaxes(v, 0, 1) for name, v in drawn.items()}


def _program(fitted, *arguments) -> tuple[Program, Params]:
    """The program in a fitted model, and its params; nothing may be traced."""
    found = find_program(fitted.model, fitted.params) if isinstance(fitted, Fitted) else None
    if found is None:
        what = str(fitted.model) if isinstance(fitted, Fitted) else type(fitted).__name__
        raise TypeError(f"fitted must be a fitted program (see from_program), got {what:.80}")
    program, params = found
    if is_tracing(params, *arguments):
        raise TypeError(
            "questions to a program run on the host and cannot be called within jit, grad or "
            "vmap: use log_prob and sample of the fitted program there"
        )
    return program, params


def _rows(fitted, x, y):
    """The program in a fitted model, its params, and checked rows."""
    program, params = _program(fitted, x, y)
    dtype = inputs.float_dtype(params)
    x = inputs.as_events(program, x, dtype)
    if x.ndim != len(program.event_shape) + 1:
        raise ValueError(f"x must have one batch dimension, (n, ...); got shape {x.shape}")
    return program, params, x, _conditions(fitted, y, len(x), dtype)


def _conditions(fitted, y, count, dtype):
    """Checked conditions (count, *y_shape); None for a program without conditions."""
    if y is None and fitted.model.y_shape is not None:
        raise ValueError(f"y is missing: the rows of {fitted.model} depend on it")
    return inputs.as_conditions(fitted.model, fitted.conditions_of(y), (count,), dtype)


def _map_rows(function, program, rows):
    """``function(row, count)`` of all rows, which lead; ``count`` rows are computed at once."""
    n = len(rows[0])
    count = min(n, blocks.ROWS, max(blocks.SCALARS // density.footprint(program), 1))

    def some(numbers):
        block = jax.tree_util.tree_map(lambda v: v[numbers], rows)
        return jax.vmap(lambda row: function(row, count))(block)

    return blocks.in_blocks(some, n, count)


def _values(program, params):
    values = global_latents.draws(program, params)
    param_values = param_sites.values(program, params)
    if not values:
        return values
    computed = jax.vmap(lambda v: global_latents.deterministic(program, v, param_values))(values)
    return {**values, **computed}


def _predictive(program, params, key, y):
    """Joint draws of the rows with conditions y, or of so many rows."""
    param_values = param_sites.values(program, params)
    keys = jax.random.split(key, program.draws)
    rows = y if program.y_shape is None else len(y)
    drawing = Drawing(program.large_counts)

    def draw(i, values):
        known = {**values, **param_values}
        sites = trace(program.program, y, keys[i], known, drawing=drawing)
        x = jnp.moveaxis(sites[program.observed]["value"], program.sites.observed.axis, 0)
        return x.reshape(len(x), *program.event_shape)

    at_once = blocks.SCALARS // (rows * density.footprint(program))
    return global_latents.map_draws(program, draw, params, at_once, 0)


def _log_likelihood(program, params, rows):
    """log p of rows for each draw (n, draws), and their Pareto k (n,)."""

    def of_row(row, count):
        x, y = row
        log_weights = density.log_weights_of_draws(program, params, x, y, fixed_key(), count)
        return _log_mean(log_weights, 1), tail_index(program, log_weights, x)

    return _map_rows(of_row, program, rows)


def _estimate(program, params, rows):
    """log p of rows, the effective number of samples, and Pareto k, each (n,)."""

    def of_row(row, count):
        x, y, key = row
        log_weights = density.log_weights_of_draws(program, params, x, y, key, count)
        ess = (1 / (jax.nn.softmax(log_weights, 1) ** 2).sum(1)).mean()
        ess = ess if program.sites.locals else jnp.full_like(ess, jnp.inf)
        return _log_mean(log_weights), ess, tail_index(program, log_weights, x)

    return _map_rows(of_row, program, rows)


def _log_mean(log_weights, axis=None):
    size = log_weights.size if axis is None else log_weights.shape[axis]
    return logsumexp(log_weights, axis) - np.log(size) if size > 1 else log_weights.sum(axis)


def _latents(program, params, rows):
    """Latents of rows for each draw of the globals, by site, (n, draws, *shape)."""
    param_values = param_sites.values(program, params)

    def of_row(row, count):
        x, y, key = row
        keys, modes = jax.random.split(key, program.draws), row_modes(program, params, x, y, key)

        def draw(i, values):
            of_draw = Row(x, y, values, param_values)
            return density.draw_latents(program, params, of_draw, keys[i], modes)

        at_once = density.draws_at_once(program, count)
        return global_latents.map_draws(program, draw, params, at_once)

    return _map_rows(of_row, program, rows)


_compiled_values = compiler.jit(_values, static_argnums=0)
_compiled_predictive = compiler.jit(_predictive, static_argnums=0)
_compiled_predictive_of_count = compiler.jit(
    lambda program, n, params, key: _predictive(program, params, key, n), static_argnums=(0, 1)
)
_compiled_log_likelihood = compiler.jit(_log_likelihood, static_argnums=0)
_compiled_estimate = compiler.jit(_estimate, static_argnums=0)
_compiled_latents = compiler.jit(_latents, static_argnums=0)
