"""The no-U-turn sampler over a program's globals: chains and data sets in one compiled program."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.infer.hmc import hmc

from jaxgen.core import compiler, places
from jaxgen.core.labels import stack
from jaxgen.core.places import Message
from jaxgen.core.sizes import size_class
from jaxgen.core.warn import warn
from jaxgen.numpyro.runs import raw
from jaxgen.training.finite import described
from jaxgen.training.progress import CHUNKS, Progress
from jaxgen.training.rows import pad

_CANDIDATES = 64  # draws of the prior, that of highest likelihood is where a chain starts
_WORST_R_HAT = 1.05
_ENOUGH = 50  # draws of a chain, for r_hat to mean something
_FEWEST = 8  # rows, of whose multiples there are programs

_map = jax.tree_util.tree_map


class Rows(NamedTuple):
    """Data, or with a leading axis that of several fits."""

    x: Any
    y: Any
    weights: Any


def run(program, keys, data, progress=None) -> tuple[Any, list[dict[str, Any]]]:
    """Draws of the posteriors of several fits.

    Args:
      program: a ``Program`` whose posterior is ``NUTS``.
      keys: (fits,).
      data: (x, y, weights) of each fit, as many rows in each.

    Returns the params, with a leading axis of fits, and the history of each.
    """
    # stacked on the host: a compiled stack would be compiled for every number of fits
    rows = _map(jnp.asarray, stack([_rows_of(program, *own) for own in data]))
    nuts = program.posterior
    total = nuts.warmup + nuts.draws
    state = _compiled_begin(program, keys, rows)
    start = np.asarray(state.potential_energy)
    if not np.isfinite(start).all():
        raise ValueError(
            f"x cannot be fitted: the prior of program {program.program.name} gives it zero density"
        )
    _check_slopes(program, state, rows)
    length = -(-total // CHUNKS)
    kept: list[Any] = []
    with Progress(progress, total) as bar:
        for first in range(0, total, length):
            state, records = _compiled_steps(program, state, rows, length)
            kept.append(jax.device_get(records))
            bar.advance(min(length, total - first), -float(np.mean(state.potential_energy)))
    # (fits, chains, steps, ...)
    records = _map(lambda *parts: np.concatenate(parts, 2)[:, :, nuts.warmup : total], *kept)
    for fit, chain in np.argwhere(records.diverging.all(2)):
        raise ValueError(
            f"x cannot be fitted: every draw of {_named(chain, fit, len(keys))} diverged, so NUTS "
            f"has not drawn from the posterior of program {program.program.name}"
        )
    draws = _map(lambda v: v.reshape(len(v), -1, *v.shape[3:]), records.values)
    history = [_history(program, _map(lambda v, i=i: v[i], records)) for i in range(len(keys))]
    if len(history) == 1:
        _warn_of(program, history[0])
    return {"posterior": {"draws": _map(jnp.asarray, draws)}, "program": {}}, history


def _rows_of(program, x, y, weights) -> Rows:
    """Rows of one fit, padded to few sizes where a row has no latents of its own."""
    padded = pad(x, y, weights)
    if not program.sites.locals:
        few = -(-len(x) // _FEWEST) * _FEWEST
        count = few if few < size_class(1) else len(padded.x)  # of few, most would be padding
    elif weights is None or np.isin(weights, (0, 1)).all():
        count = len(x)
    else:
        raise ValueError(
            f"weights do not apply: program {program.program.name} has continuous latents of each "
            "row, drawn with the globals, and a row is there or not"
        )
    return Rows(*(v if v is None else np.asarray(v)[:count] for v in padded[:3]))


class _Record(NamedTuple):
    """Of one step."""

    values: Any  # globals
    locals: Any
    diverging: Any
    accept: Any
    steps: Any


def _begin(program, keys, rows):
    def one(key, rows):
        starts, key = jax.random.split(key)
        candidates = jax.vmap(lambda key: _start(program, key, rows))(
            jax.random.split(starts, _CANDIDATES)
        )
        scores = jax.vmap(functools.partial(_likelihood, program, rows))(candidates)
        best = jnp.argmax(jnp.where(jnp.isfinite(scores), scores, -jnp.inf))
        begin, _ = _kernel(program, rows)
        return begin(_map(lambda v: v[best], candidates), key)

    def chains(key, rows):
        each = jax.random.split(key, program.posterior.chains)
        return jax.vmap(one, (0, None))(each, rows)

    return jax.vmap(chains)(keys, rows)


def _likelihood(program, rows, position):
    """log p(x | position) of a draw of the prior.

    The joint density is highest where a prior is narrow, such as in the neck of a funnel, which a
    chain does not leave.
    """
    joint = program.log_joint(position, *rows)
    return joint - program.log_joint(position, *rows._replace(weights=0 * rows.weights))


def _steps(program, state, rows, count):
    def one(state, rows):
        begin, step = _kernel(program, rows)
        begin(state.z, jax.random.key(0))  # which tells ``step`` how to adapt; its result is unused

        def next_one(state, _):
            state = step(state)
            values, _, _ = program.constrain(state.z["globals"], {})
            return state, _Record(
                values, state.z["locals"], state.diverging, state.accept_prob, state.num_steps
            )

        return lax.scan(next_one, state, length=count)

    return jax.vmap(jax.vmap(one, (0, None)))(state, rows)


def _slopes(program, position, rows):
    """Whether the prior's gradient in the globals is finite, and that of each row beside it."""

    def finite(fn):
        slopes = jax.grad(fn)(position["globals"])
        return jnp.array([jnp.isfinite(v).all() for v in jax.tree_util.tree_leaves(slopes)]).all()

    def of_row(row, own):
        one = _map(lambda v: v[None], (*row, own))
        return finite(lambda free: program.log_joint({"globals": free, "locals": one[3]}, *one[:3]))

    def prior(free):
        _, log_p, log_det = program.constrain(free, {})
        return log_p + log_det

    return finite(prior), jax.vmap(of_row)(tuple(rows), position["locals"])


_compiled_begin = compiler.jit(_begin, static_argnums=0)
_compiled_steps = compiler.jit(_steps, static_argnums=(0, 3))
_compiled_slopes = compiler.jit(_slopes, static_argnums=0)


def _check_slopes(program, state, rows) -> None:
    """Raise where a chain starts with a gradient that is not finite: it could not move."""
    found = jax.tree_util.tree_leaves(jax.device_get(state.z_grad))
    bad = np.any([~np.isfinite(v).all(tuple(range(2, v.ndim))) for v in found], 0)
    for fit, chain in np.argwhere(bad):
        own, position = jax.device_get((rows, state.z))
        own = _map(lambda v: v[fit], own)  # noqa: B023
        position = _map(lambda v: v[fit, chain], position)  # noqa: B023
        of_prior, of_rows = _compiled_slopes(program, position, own)
        at_fault, what = ~np.asarray(of_rows) & (own.weights > 0), "the density of x"
        if not of_prior:
            what = "the prior"
        elif at_fault.any():
            row = int(at_fault.argmax())
            values = described(own.x[row], None if own.y is None else own.y[row])
            what = Message(places.row(row), f", {values},")
        whose = f"x cannot be fitted: where {_named(chain, fit, len(bad))} of NUTS starts, "
        slope = f" has a gradient that is not finite under program {program.program.name}"
        raise ValueError(Message(whose, what, slope))


def _named(chain, fit, fits):
    return f"chain {chain}" + (f" of fit {fit}" if fits > 1 else "")


def _kernel(program, rows):
    nuts = program.posterior
    begin, step = hmc(lambda position: -program.log_joint(position, *rows), algo="NUTS")

    def start(position, key):
        return begin(
            position,
            nuts.warmup,
            dense_mass=nuts.dense_mass,
            target_accept_prob=nuts.target_accept,
            rng_key=raw(key),
        )

    return start, step


def _start(program, key, rows):
    of_globals, of_locals = jax.random.split(key)
    free = program.prior_draw(of_globals, {})
    values, _, _ = program.constrain(free, {})
    draw = lambda key, y: program.locals_draw(values, key, y)  # noqa: E731
    axes = 0, None if rows.y is None else 0
    each = jax.vmap(draw, axes)(jax.random.split(of_locals, len(rows.x)), rows.y)
    return {"globals": free, "locals": each}


def _history(program, records) -> dict[str, Any]:
    """What to know of a fit's chains."""
    moving = {name: _moving(v) for name, v in records.values.items()}
    worst = {n: float(np.max(split_gelman_rubin(v))) if v.size else 1.0 for n, v in moving.items()}
    count = float(program.posterior.count)
    sizes = {
        n: float(np.min(effective_sample_size(v))) if v.size else count for n, v in moving.items()
    }
    return {
        "method": "mcmc",
        "steps": int(records.steps.sum()),
        "epochs": 0,
        "train": [],
        "validation": [],
        "stopped": "draws",
        "divergences": int(records.diverging.sum()),
        "accept": float(records.accept.mean()),
        "r_hat": worst,
        "ess": sizes,
    }


def _moving(values):
    """The entries that are not the same in all draws, flat: (chains, draws, entries)."""
    flat = values.reshape(*values.shape[:2], -1)
    return flat[:, :, (flat != flat[:1, :1]).any((0, 1))]


def _warn_of(program, history) -> None:
    """A RuntimeWarning where the chains cannot be trusted."""
    if history["divergences"]:
        share = f"{history['divergences']} of {program.posterior.count} draws"
        warn(
            f"{share} of {program.program.name} diverged: NUTS may not reach all of its posterior; "
            "raise target_accept, or reparameterise it"
        )
    unsettled = {n: v for n, v in history["r_hat"].items() if not v <= _WORST_R_HAT}
    if unsettled and program.posterior.draws >= _ENOUGH:
        warn(
            f"the chains of {program.program.name} disagree, r_hat {unsettled}: raise warmup, or "
            "reparameterise it"
        )
