"""Diagnostics of a posterior that gradients have fitted, and a warning if it cannot be trusted."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

from jaxgen.core import compiler
from jaxgen.core.model import Params
from jaxgen.core.random import draw
from jaxgen.numpyro import density, global_latents, param_sites
from jaxgen.numpyro.pareto import TRUSTED, pareto_k
from jaxgen.numpyro.program_spec import ProgramSpec
from jaxgen.numpyro.row_density import Row

_RUNS = 2**23  # draws x rows in all
_DRAWS = (100, 500)  # fewest and most draws of the posterior
_HELD = 2**20  # draws x rows x samples of locals held at once
_EQUAL = 0.8  # share of effective draws above which Pareto k does not matter
_SHIFT = 0.5  # largest difference of a weighted mean, in standard deviations
_RATIO = 1.5  # largest ratio of standard deviations
_CENTRAL = (0.01, 0.99)  # quantiles to which draws are clipped before they are compared
_EPOCHS = 10  # fewest epochs that show a trend
_RISE = (0.5, 0.1)  # nats, and nats for each number, by which the bound may still rise
_STEPPED = 64  # most params of a program for which a step of Fisher scoring is computed
_PARTS = (1.0, 0.3, 0.1)  # of that step, of which the best counts
_RIDGE = 1e-4  # relative, for params that rows cannot tell apart
_NAMED = 3  # most globals in a warning

_map = jax.tree_util.tree_map


def diagnose(
    program: ProgramSpec, params: Params, x: Any, y: Any, weights: Any, key: Any, scores: Any
) -> tuple[dict[str, Any], str]:
    """Entries of the history for a fitted program, and a warning, or "" if it can be trusted.

    Args:
      program: a program that gradients fit.
      params: its fitted params.
      x: events (n, *event_shape).
      y: conditions (n, *y_shape), or None.
      weights: (n,), with the number of events as their sum, and 0 for padding.
      key: a typed PRNG key.
      scores: mean evidence lower bound of an event in each epoch, in nats.
    """
    if not (program.sites.globals or program.sites.param_transforms or program.proposal):
        return {}, ""
    if not program.sites.globals:
        return _diagnose_params(program, params, x, y, weights, key, scores)
    converged = _has_converged(program, scores, float(weights.sum()))
    history: dict[str, Any] = {"converged": converged}
    shifts: dict[str, tuple[float, float]] = {}
    if program.posterior.is_random:
        count = int(np.clip(_RUNS // len(x), *_DRAWS))
        noise = _drawn(count, weights.dtype, program.posterior.noise(program), key)
        rows = _blocks(program, count, x, y, weights)
        values, log_weights = _compiled_log_weights(program, params, noise, rows, key)
        history["pareto_k"] = float(_compiled_k(log_weights))
        shares = _shares(np.asarray(log_weights, np.float64))
        history["efficiency"] = float(1 / (len(shares) * (shares**2).sum()))
        shifts = {name: _shift(v, shares) for name, v in values.items() if v.size}
        history["shift"] = {name: shift for name, (shift, _) in shifts.items()}
        history["deviation"] = {name: ratio for name, (_, ratio) in shifts.items()}
    return history, _warning(program, history, shifts)


def _diagnose_params(program, params, x, y, weights, key, scores):
    """``diagnose`` of a program without globals: could one more step raise the log-likelihood?"""
    size = sum(leaf.size for leaf in jax.tree_util.tree_leaves(params["program"]))
    if not 0 < size <= _STEPPED:
        return {"converged": _has_converged(program, scores, float(weights.sum()))}, ""
    rows = _blocks(program, 1, x, y, weights)
    gain = float(_compiled_gain(program, params, rows, key))
    if not gain > max(_RISE[0], _RISE[1] * size):
        return {"converged": True}, ""
    warning = (
        f"the fit of program {program.name} has not converged: one more step raises its "
        f"log-likelihood by {gain:.3g} nats; train for more epochs, or with an optimizer of a "
        "higher rate"
    )
    return {"converged": False}, warning


def _gain(program, params, rows, key):
    """Nats by which a step of Fisher scoring, or a part of it, raises the log-likelihood.

    The Fisher information is estimated by the squared gradients of the rows.
    """
    start, unravel = ravel_pytree(params["program"])

    def score(flat, x, y, number):
        moved = {**params, "program": unravel(flat)}
        row = Row(x, y, {}, param_sites.values(program, moved))
        return density.log_prob_of_row(program, moved, row, jax.random.fold_in(key, number))

    axes = None, 0, None if rows[1] is None else 0, 0

    def add_gradients(sums, block):
        x, y, weight, number = block
        each = jax.vmap(jax.grad(score), axes)(start, x, y, number)
        return (sums[0] + weight @ each, sums[1] + (weight * each.T) @ each), None

    zeros = jnp.zeros_like(start), jnp.zeros((start.size, start.size), start.dtype)
    (gradient, fisher), _ = lax.scan(add_gradients, zeros, rows)
    ridge = _RIDGE * jnp.diag(jnp.diag(fisher)) + jnp.finfo(start.dtype).tiny * jnp.eye(start.size)
    step = jnp.linalg.solve(fisher + ridge, gradient)

    def gain(part):
        def add(total, block):
            x, y, weight, number = block
            scores = jax.vmap(score, axes)
            rise = scores(start + part * step, x, y, number) - scores(start, x, y, number)
            return total + weight @ rise, None

        return lax.scan(add, jnp.zeros((), start.dtype), rows)[0]

    return jnp.nanmax(lax.map(gain, jnp.array(_PARTS, start.dtype)))


def _has_converged(program, scores, events) -> bool:
    """Whether the bound has stopped rising over the last two fifths of the epochs."""
    part = len(scores) // 5
    if part * 5 < _EPOCHS:
        return True
    early, late = (events * np.asarray(v) for v in (scores[-2 * part : -part], scores[-part:]))
    size = global_latents.size(program)
    # each row of an epoch has draws of its own: the noise is at least about the root of the size
    noise = np.sqrt(max(early.var() + late.var(), 2 * size) / part)
    return bool(late.mean() - early.mean() <= max(3 * noise, _RISE[0], _RISE[1] * size))


def _warning(program, history, shifts) -> str:
    k, posterior = history.get("pareto_k", -np.inf), program.posterior
    worst = sorted(shifts, key=lambda site: -_badness(*shifts[site]))[:_NAMED]
    findings = []
    if not k <= TRUSTED and history["efficiency"] < _EQUAL:
        findings.append(f"its importance ratios have Pareto k = {k:.2f}, above {TRUSTED}")
    else:
        worst = [site for site in worst if _badness(*shifts[site]) > 1]
    if worst:
        moves = [
            f"{site!r} (mean by {shifts[site][0]:.2g} standard deviations, standard deviation by "
            f"the factor {shifts[site][1]:.2g})"
            for site in worst
        ]
        findings.append(f"importance weights move {', '.join(moves)}")
    if not history["converged"] and not program.sites.param_transforms and program.proposal is None:
        findings.append("its evidence lower bound is still rising")
    if not findings:
        return ""
    advice = [f"take {other}" for other in posterior.alternatives]
    advice.append("reparameterize the program")
    if not history["converged"]:
        advice.insert(0, "train for more epochs")
    return (
        f"the posterior of program {program.name} by {type(posterior).__name__} cannot be trusted: "
        f"{', and '.join(findings)}; {', or '.join(advice)}"
    )


def _badness(shift: float, ratio: float) -> float:
    """Above 1 if the posterior of a global is wrong."""
    if not np.isfinite([shift, ratio]).all():
        return np.inf
    return max(shift / _SHIFT, abs(np.log(max(ratio, 1e-9))) / np.log(_RATIO))


def _blocks(program, count, x, y, weights):
    """All rows and their numbers, in blocks of bounded memory."""
    held = max(_HELD // (count * max(density.samples_in_loss(program), 1)), 1)
    size = min(len(x) & -len(x), 1 << held.bit_length() - 1)
    rows = x, y, weights, np.arange(len(x))
    return _map(lambda v: v.reshape(-1, size, *v.shape[1:]), rows)


def _log_weights(program, params, noise, rows, key):
    """Draws of the globals (s, ...) by site, and their log p - log q up to a constant, (s,)."""
    param_values = param_sites.values(program, params)

    def sample(noise):
        return program.posterior.sample_with_ratio(
            program, params["posterior"], param_values, noise
        )

    values, costs = jax.vmap(sample, -1)(noise)

    def add(total, block):
        def of_row(x, y, weight, number):
            # all draws share the samples of locals, so that their noise cancels
            row_key = jax.random.fold_in(key, number)

            def score(values):
                row = Row(x, y, values, param_values)
                return density.log_prob_of_row(program, params, row, row_key)

            each = jax.vmap(score)(values)
            most = jnp.max(each)  # subtracted, as a sum of large numbers rounds differences off
            each = each - jnp.where(jnp.isfinite(most), most, 0)
            return jnp.where(weight > 0, weight * jnp.where(weight > 0, each, 0), 0)

        axes = 0, None if block[1] is None else 0, 0, 0
        return total + jax.vmap(of_row, axes)(*block).sum(0), None

    total, _ = lax.scan(add, jnp.zeros_like(costs), rows)
    return values, total - costs


def _shift(values, shares) -> tuple[float, float]:
    """How far weighted draws are from unweighted ones, for the worst entry of an array.

    Returns the difference of means in standard deviations, and the ratio of standard deviations.
    Both are of values clipped to the central range of the draws, since the moments of heavy tails
    depend on few draws.
    """
    flat = np.asarray(values, np.float64).reshape(len(shares), -1)
    flat = np.clip(flat, *np.quantile(flat, _CENTRAL, axis=0))
    mean, deviation = flat.mean(0), flat.std(0)
    varies = deviation > 0
    if not varies.any():
        return 0.0, 1.0
    flat, mean, deviation = flat[:, varies], mean[varies], deviation[varies]
    weighted_mean = shares @ flat
    ratios = np.sqrt(shares @ (flat - weighted_mean) ** 2) / deviation
    worst = np.argmax(np.maximum(ratios, 1 / np.maximum(ratios, 1e-9)))
    return float(np.max(np.abs(weighted_mean - mean) / deviation)), float(ratios[worst])


def _shares(log_weights):
    """Weights that sum to 1; equal ones if none is positive."""
    most = log_weights.max()
    if not np.isfinite(most):
        return np.full(len(log_weights), 1 / len(log_weights))
    weights = np.exp(log_weights - most)
    return weights / weights.sum()


def _draw(count, dtype, noise, key):
    return draw(noise, key, np.zeros(2, np.uint32), count, dtype)


# the first two do not depend on the program, so that all programs share them
_drawn = compiler.jit(_draw, static_argnums=(0, 1))
_compiled_k = compiler.jit(pareto_k)
_compiled_gain = compiler.jit(_gain, static_argnums=0)
_compiled_log_weights = compiler.jit(_log_weights, static_argnums=0)
