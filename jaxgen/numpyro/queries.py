"""What a fitted program can be asked beyond ``log_prob`` and ``sample``: its draws, one by one."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.compose import Labelled, PerClass
from jaxgen.core import compiler, inputs
from jaxgen.core.numerics import logsumexp
from jaxgen.core.promotion import standard_promotion
from jaxgen.numpyro import blocks
from jaxgen.numpyro.drawing import Drawing
from jaxgen.numpyro.pareto import warn_of_tails
from jaxgen.numpyro.posterior import fixed_key
from jaxgen.numpyro.program import Program
from jaxgen.numpyro.row_samples import row_modes, tail_index
from jaxgen.numpyro.runs import trace
from jaxgen.training.fitted import Fitted


class Estimate(NamedTuple):
    """log p(x|y) of rows, and how much to trust it.

    Attributes:
      log_prob: (n,), nats.
      ess: (n,), the effective number of the K samples of each row, a mean over the draws of the
        globals; infinite where nothing is sampled. A large one does not show that the estimate is
        right: samples that all miss a mode of the locals have one.
      pareto_k: (n,), the tail index of the importance weights of each row, a mean over the draws
        of the globals with the largest shares of the row's density: up to 0.7 the estimate can be
        trusted. inf: a few weights are all there is; -inf: nothing is sampled, or all weights are
        equal; NaN: fewer than 25 samples, or none of any weight, so that x is impossible or all
        samples missed it.
      method: "exact", "enumerated" or "importance-weighted, ...".
    """

    log_prob: Any
    ess: Any
    pareto_k: Any
    method: str


@standard_promotion
def posterior(fitted: Fitted) -> dict[str, jax.Array]:
    """Draws of the globals of a fitted program, by site, each (draws, *shape).

    After them come the ``numpyro.deterministic`` sites that are made of globals alone.
    """
    program, params = _on_host(fitted)
    values = _values(program, params)
    names = (*(site.name for site in program.sites.globals), *program.sites.computed)
    return {name: values[name] for name in names if name in values}  # in the program's order


@standard_promotion
def predictive(fitted: Fitted, key: jax.Array, y=None, n: int | None = None) -> jax.Array:
    """Joint draws of rows, (draws, n, *event_shape): the rows of a draw share its globals.

    ``fitted.sample`` draws rows apart, each with globals of its own, any number of them.

    Args:
      fitted: a fitted program, or ``Labelled`` one.
      key: a typed PRNG key.
      y: conditions (n, *y_shape).
      n: number of rows, of an unconditional program.

    >>> bands = np.quantile(predictive(fitted, key, grid), [0.05, 0.95], 0)
    """
    program, params = _on_host(fitted, key, y)
    key = inputs.as_key(key)
    if program.y_shape is None:
        if y is not None:
            raise ValueError(f"y was given, but {program} is unconditional (its y_shape is None)")
        argument: Any = inputs.as_count(n, "n", 1)
        return _predictive_of_count(program, argument, params, key)
    if n is not None:
        raise ValueError("n does not apply: there are as many rows as conditions y")
    count = np.shape(y)[0] if np.ndim(y) > len(program.y_shape) else 1
    y = _conditions(fitted, y, count, inputs.float_dtype(params))
    return _predictive(program, params, key, y)


@standard_promotion
def log_likelihood(fitted: Fitted, x, y=None) -> jax.Array:
    """log p(x | y, globals) of each draw of the globals and each row, (draws, n), in nats.

    Args:
      fitted: a fitted program, or ``Labelled`` one.
      x: events (n, *event_shape).
      y: conditions (n, *y_shape).
    """
    program, params, x, y = _asked(fitted, x, y)
    log_p, k = _log_likelihood(program, params, (x, y))
    warn_of_tails(k, program.program.name)
    return log_p.T


@standard_promotion
def estimate(fitted: Fitted, x, y=None, *, key: jax.Array, samples: int | None = None) -> Estimate:
    """log p(x|y) with samples of each row's own, how far to trust it, and the method.

    It warns of rows whose Pareto k is above 0.7.

    Args:
      fitted: a fitted program, or ``Labelled`` one.
      x: events (n, *event_shape).
      y: conditions (n, *y_shape).
      key: a typed PRNG key.
      samples: K, by default the program's.
    """
    program, params, x, y = _asked(fitted, x, y)
    if samples is not None:
        program = dataclasses.replace(program, samples=inputs.as_count(samples, "samples", 1))
    keys = jax.random.split(inputs.as_key(key), len(x))
    log_prob, ess, k = _estimate(program, params, (x, y, keys))
    warn_of_tails(k, program.program.name)
    return Estimate(log_prob, ess, k, program.method)


@standard_promotion
def latents(fitted: Fitted, key: jax.Array, x, y=None) -> dict[str, jax.Array]:
    """Draws of the local latents given x, by site, each (draws, n, *shape).

    Draw s is made with the globals of draw s of ``posterior``. Continuous ones are resampled from
    the K samples of ``from_program``; ``numpyro.deterministic`` sites of rows are there too. Where
    x is impossible under the draw, they are NaN, or the least integer.
    """
    program, params, x, y = _asked(fitted, x, y)
    keys = jax.random.split(inputs.as_key(key), len(x))
    drawn = _latents(program, params, (x, y, keys))
    return {name: jnp.swapaxes(v, 0, 1) for name, v in drawn.items()}


def program_of(fitted):
    """The program in a fitted model, and its params."""
    model = fitted.model if isinstance(fitted, Fitted) else None
    if isinstance(model, Program):
        return model, fitted.params
    if isinstance(model, Labelled) and not isinstance(model, PerClass):
        inner = model.model
        if isinstance(inner, Program):
            return inner, fitted.params["model"]
    what = type(fitted).__name__ if model is None else str(model)
    raise TypeError(f"fitted must be a fitted program (see from_program), got {what:.80}")


def _on_host(fitted, *arguments):
    """The program in a fitted model, and its params; none of it traced."""
    program, params = program_of(fitted)
    if inputs.is_tracing(params, *arguments):
        raise TypeError(
            "questions to a program run on the host, and cannot be called within jit, grad or "
            "vmap: there are log_prob and sample of the fitted program"
        )
    return program, params


def _asked(fitted, x, y):
    program, params = _on_host(fitted, x, y)
    dtype = inputs.float_dtype(params)
    x = inputs.as_events(program, x, dtype)
    if x.ndim != len(program.event_shape) + 1:
        raise ValueError(f"x must have one batch dimension, (n, ...); got shape {x.shape}")
    return program, params, x, _conditions(fitted, y, len(x), dtype)


def _conditions(fitted, y, count, dtype):
    """Checked conditions (count, *y_shape), or None of an unconditional program."""
    if y is None and fitted.model.y_shape is not None:
        raise ValueError(f"y is missing: the rows of {fitted.model} depend on it")
    return inputs.as_conditions(fitted.model, inputs.as_labels(y, fitted.labels), (count,), dtype)


def _each(function, program, rows):
    """``function(row, count)`` of rows, rows leading; count: how many are run at once."""
    n = len(rows[0])
    count = min(n, blocks.ROWS, max(blocks.SCALARS // program.footprint, 1))

    def some(index):
        own = jax.tree_util.tree_map(lambda v: v[index], rows)
        return jax.vmap(lambda row: function(row, count))(own)

    return blocks.in_blocks(some, n, count)


def _values_of(program, params):
    values, learnt = program.values(params), program.learnt(params)
    if not values:
        return values
    return {**values, **jax.vmap(lambda own: program.computed(own, learnt))(values)}


def _predict(program, params, key, y):
    learnt, keys = program.learnt(params), jax.random.split(key, program.count)
    rows = y if program.y_shape is None else len(y)
    drawing = Drawing(program.large_counts)

    def draw(i, values):
        sites = trace(program.program, y, keys[i], {**values, **learnt}, drawing=drawing)
        x = jnp.moveaxis(sites[program.observed]["value"], program.sites.observed.axis, 0)
        return x.reshape(len(x), *program.event_shape)

    return program.each_draw(draw, params, blocks.SCALARS // (rows * program.footprint), 0)


def _row_log_likelihood(program, params, rows):
    def of_row(row, count):
        log_weights = program.log_weights_each(params, *row, fixed_key(), count)
        return _mean(log_weights, 1), tail_index(program, log_weights, row[0])

    return _each(of_row, program, rows)


def _row_estimate(program, params, rows):
    def of_row(row, count):
        log_weights = program.log_weights_each(params, *row, count)
        ess = (1 / (jax.nn.softmax(log_weights, 1) ** 2).sum(1)).mean()
        ess = ess if program.sites.locals else jnp.full_like(ess, jnp.inf)
        return _mean(log_weights), ess, tail_index(program, log_weights, row[0])

    return _each(of_row, program, rows)


def _mean(log_weights, axis=None):
    size = log_weights.size if axis is None else log_weights.shape[axis]
    return logsumexp(log_weights, axis) - np.log(size) if size > 1 else log_weights.sum(axis)


def _row_latents(program, params, rows):
    def of_row(row, count):
        x, y, key = row
        keys, modes = jax.random.split(key, program.count), row_modes(program, params, x, y, key)

        def draw(i, values):
            return program.latents(params, values, keys[i], x, y, modes)

        return program.each_draw(draw, params, program.together(count))

    return _each(of_row, program, rows)


_values = compiler.jit(_values_of, static_argnums=0)
_predictive = compiler.jit(_predict, static_argnums=0)
_predictive_of_count = compiler.jit(
    lambda program, n, params, key: _predict(program, params, key, n), static_argnums=(0, 1)
)
_log_likelihood = compiler.jit(_row_log_likelihood, static_argnums=0)
_estimate = compiler.jit(_row_estimate, static_argnums=0)
_latents = compiler.jit(_row_latents, static_argnums=0)
