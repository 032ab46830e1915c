"""How far to trust the posterior of a program that gradients have fitted."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.core import compiler
from jaxgen.core.random import draw
from jaxgen.numpyro.full_rank import FullRank
from jaxgen.numpyro.pareto import TRUSTED, pareto_k
from jaxgen.numpyro.posterior import globals_size

_RUNS = 2**23  # draws x rows in all
_DRAWS = (100, 500)  # fewest and most of the posterior
_HELD = 2**20  # draws x rows x samples of their locals held at once
_EQUAL = 0.8  # share of effective draws above which weights are so equal that no tail matters
_SHIFT = 0.5  # deviations by which a weighted mean may lie off
_RATIO = 1.5  # by which a weighted deviation may differ
_CENTRAL = (0.01, 0.99)  # shares of the draws between which means and deviations are compared
_EPOCHS = 10  # without as many, training has no trend
_RISE = (0.5, 0.1)  # nats, and nats a number, that the bound may rise at the end
_NAMED = 3  # globals in a warning

_map = jax.tree_util.tree_map


def diagnose(program, params, x, y, weights, key, scores) -> tuple[dict[str, Any], str]:
    """What to record of a fit's posterior, and a warning, "" where it can be trusted.

    Args:
      program: a ``Program`` with globals.
      params: fitted ones.
      x, y, weights: all rows; weights sum to the number of events, and padding has none.
      key: a typed PRNG key.
      scores: of each epoch, the mean evidence lower bound of an event, in nats.
    """
    converged = _converged(program, scores, float(weights.sum()))
    found: dict[str, Any] = {"converged": converged}
    off: dict[str, tuple[float, float]] = {}
    if program.posterior.is_random:
        count = int(np.clip(_RUNS // len(x), *_DRAWS))
        noise = _drawn(count, weights.dtype, program.posterior.noise(program), key)
        rows = _blocks(program, count, x, y, weights)
        values, log_weights = _scores(program, params, noise, rows, key)
        found["pareto_k"] = float(_pareto_k(log_weights))
        share = _shares(np.asarray(log_weights, np.float64))
        found["efficiency"] = float(1 / (len(share) * (share**2).sum()))
        off = {name: _off(v, share) for name, v in values.items() if v.size}
        found["shift"] = {name: shift for name, (shift, _) in off.items()}
        found["deviation"] = {name: ratio for name, (_, ratio) in off.items()}
    return found, _warning(program, found, off)


def _converged(program, scores, events) -> bool:
    """Has the bound stopped rising over the last two fifths of the epochs?"""
    part = len(scores) // 5
    if part * 5 < _EPOCHS:
        return True
    early, late = (events * np.asarray(v) for v in (scores[-2 * part : -part], scores[-part:]))
    numbers = globals_size(program)
    # of an epoch, with draws of their own for each row, at least about the root of the numbers
    noise = np.sqrt(max(early.var() + late.var(), 2 * numbers) / part)
    return bool(late.mean() - early.mean() <= max(3 * noise, _RISE[0], _RISE[1] * numbers))


def _warning(program, found, off) -> str:
    k, name, way = found.get("pareto_k", -np.inf), program.program.name, program.posterior
    worst = sorted(off, key=lambda site: -_badness(*off[site]))[:_NAMED]
    whats, heavy = [], not k <= TRUSTED and found["efficiency"] < _EQUAL
    if heavy:
        whats.append(f"its importance ratios have Pareto k = {k:.2f}, above {TRUSTED}")
    else:
        worst = [site for site in worst if _badness(*off[site]) > 1]
    if worst:
        said = [
            f"{site!r} (mean {off[site][0]:.2g} deviations away, deviation x {off[site][1]:.2g})"
            for site in worst
        ]
        whats.append(f"importance weights move {', '.join(said)}")
    if not found["converged"] and not program.sites.params and program.proposal is None:
        whats.append("its evidence lower bound is still rising")
    if not whats:
        return ""
    advice = ["take NUTS()", "reparameterise the program"]
    if not isinstance(way, FullRank):
        advice.insert(0, "take FullRank()")
    if not found["converged"]:
        advice.insert(0, "train for more epochs")
    return (
        f"the posterior of program {name} by {type(way).__name__} is not to be trusted: "
        f"{', and '.join(whats)}; {', or '.join(advice)}"
    )


def _badness(shift: float, ratio: float) -> float:
    """Above 1 where the posterior of a global is off."""
    if not np.isfinite([shift, ratio]).all():
        return np.inf
    return max(shift / _SHIFT, abs(np.log(max(ratio, 1e-9))) / np.log(_RATIO))


def _blocks(program, count, x, y, weights):
    held = max(_HELD // (count * max(program.samples_in_loss, 1)), 1)
    size = min(len(x) & -len(x), 1 << held.bit_length() - 1)
    rows = x, y, weights, np.arange(len(x))
    return _map(lambda v: v.reshape(-1, size, *v.shape[1:]), rows)


def _scored(program, params, noise, rows, key):
    """Draws of the globals (s, ...) by site, and their log p - log q up to a constant, (s,)."""
    posterior, learnt = program.posterior, program.learnt(params)
    ratio = lambda own: posterior.ratio(program, params["posterior"], learnt, own)  # noqa: E731
    values, costs = jax.vmap(ratio, -1)(noise)

    def add(total, own):
        def of_row(x, y, weight, number):
            # the same samples of locals for all draws: their noise then weighs no draw
            own = jax.random.fold_in(key, number)
            score = lambda v: program.log_p_of_row(params, v, learnt, x, y, own)  # noqa: E731
            each = jax.vmap(score)(values)
            most = jnp.max(each)  # subtracted, since a sum of large numbers would round it off
            each = each - jnp.where(jnp.isfinite(most), most, 0)
            return jnp.where(weight > 0, weight * jnp.where(weight > 0, each, 0), 0)

        axes = 0, None if own[1] is None else 0, 0, 0
        return total + jax.vmap(of_row, axes)(*own).sum(0), None

    total, _ = lax.scan(add, jnp.zeros_like(costs), rows)
    return values, total - costs


def _off(values, share) -> tuple[float, float]:
    """How far weighted draws lie from those without weights, of the worst entry.

    Returns the difference of means in deviations, and the ratio of deviations; both of values
    moved into the central range of the draws, for a heavy tail's moments rest on a few of them.
    """
    flat = np.asarray(values, np.float64).reshape(len(share), -1)
    flat = np.clip(flat, *np.quantile(flat, _CENTRAL, axis=0))
    mean, deviation = flat.mean(0), flat.std(0)
    moving = deviation > 0  # of a point nothing is known
    if not moving.any():
        return 0.0, 1.0
    flat, mean, deviation = flat[:, moving], mean[moving], deviation[moving]
    weighted = share @ flat
    ratios = np.sqrt(share @ (flat - weighted) ** 2) / deviation
    worst = np.argmax(np.maximum(ratios, 1 / np.maximum(ratios, 1e-9)))
    return float(np.max(np.abs(weighted - mean) / deviation)), float(ratios[worst])


def _shares(log_weights):
    """Weights that sum to one; equal ones where none is above zero."""
    most = log_weights.max()
    if not np.isfinite(most):
        return np.full(len(log_weights), 1 / len(log_weights))
    weights = np.exp(log_weights - most)
    return weights / weights.sum()


def _noise(count, dtype, noise, key):
    return draw(noise, key, np.zeros(2, np.uint32), count, dtype)


# apart from the program's own, so that all programs share them
_drawn = compiler.jit(_noise, static_argnums=(0, 1))
_pareto_k = compiler.jit(pareto_k)
_scores = compiler.jit(_scored, static_argnums=0)
