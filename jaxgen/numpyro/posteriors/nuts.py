"""Draws of the posterior by the no-U-turn sampler: all chains and fits in one compiled program."""

from __future__ import annotations

import functools
from typing import Any, ClassVar, Literal, NamedTuple

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
from jaxgen.core.spec import Count
from jaxgen.core.warn import warn
from jaxgen.numpyro import density, global_latents, local_latents
from jaxgen.numpyro.posteriors.base import Posterior
from jaxgen.numpyro.runs import raw_key
from jaxgen.training.finite import described
from jaxgen.training.progress import CHUNKS, Progress
from jaxgen.training.rows import pad

_CANDIDATES = 64  # draws of the prior; a chain starts at the most likely one
_WORST_R_HAT = 1.05
_ENOUGH = 50  # draws of a chain from which r_hat has a meaning
_FEWEST_DRAWS = 4  # of a chain, to compare chains
_MULTIPLE = 8  # a program is compiled for each multiple of so many rows, up to a size class

_map = jax.tree_util.tree_map


class NUTS(Posterior):
    """Draws of the posterior by the no-U-turn sampler, jointly with the locals of the data.

    ``fit`` warns if draws diverged or chains disagree. ``fitted.history`` has "divergences";
    "accept", the mean acceptance probability; and by site "r_hat" and "ess", the effective number
    of draws, each of the worst entry of an array.

    Args:
      draws: draws that each chain keeps.
      warmup: steps before these draws, in which the step size and the mass matrix adapt.
      chains: number of chains, which run side by side.
      target_accept: mean acceptance probability that the step size is adapted to.
      dense_mass: whether the mass matrix has off-diagonal entries.

    Params: ``draws``, by site, (chains x draws, *shape).

    Source: Hoffman and Gelman 2014, "The No-U-Turn sampler"; ``numpyro.infer`` runs it.
    """

    draws: Count = 250  # type: ignore[misc]
    warmup: Count = 500
    chains: Count = 4  # type: ignore[misc]
    target_accept: float = 0.8
    dense_mass: bool = False

    method: ClassVar[Literal["gradient", "mcmc"]] = "mcmc"

    def check(self, program):
        sites = program.sites
        if sites.param_transforms:
            raise ValueError(
                f"posterior: NUTS draws no numpyro.param, and program {program.name} has "
                f"{sorted(sites.param_transforms)}; make them sample sites, or fit by gradients"
            )
        if not sites.globals:
            raise ValueError(
                f"posterior: program {program.name} has no global latents for NUTS to draw"
            )
        if self.draws < _FEWEST_DRAWS:
            raise ValueError(
                f"posterior: draws of NUTS must be at least {_FEWEST_DRAWS}, got {self}"
            )

    def init(self, program, param_values, key):
        def draw(key):
            unconstrained = global_latents.draw_prior(program, key, param_values)
            return global_latents.constrain(program, unconstrained, param_values)[0]

        return {"draws": jax.vmap(draw)(jax.random.split(key, self.count))}

    def values(self, program, params, param_values):
        return params["draws"]

    def draw_posteriors(self, program, keys, data, progress=None):
        # stacked on the host: a compiled stack would be compiled for every number of fits
        rows = _map(jnp.asarray, stack([_padded(program, *of_fit) for of_fit in data]))
        total = self.warmup + self.draws
        state = _compiled_begin(program, keys, rows)
        _check_start(program, state, rows)
        length = -(-total // CHUNKS)
        chunks: list[Any] = []
        with Progress(progress, total) as bar:
            for first in range(0, total, length):
                state, records = _compiled_steps(program, state, rows, length)
                chunks.append(jax.device_get(records))
                bar.advance(min(length, total - first), -float(np.mean(state.potential_energy)))
        # (fits, chains, steps, ...)
        together = _map(lambda *parts: np.concatenate(parts, 2), *chunks)
        kept = _map(lambda v: v[:, :, self.warmup : total], together)
        for fit, chain in np.argwhere(kept.diverging.all(2)):
            raise ValueError(
                f"x cannot be fitted: every draw of {_chain(chain, fit, len(keys))} diverged, so "
                f"NUTS has not drawn from the posterior of program {program.name}"
            )
        draws = _map(lambda v: v.reshape(len(v), -1, *v.shape[3:]), kept.values)
        histories = [_history(program, _map(lambda v, i=i: v[i], kept)) for i in range(len(keys))]
        if len(histories) == 1:
            _warn_of_chains(program, histories[0])
        return {"posterior": {"draws": _map(jnp.asarray, draws)}, "program": {}}, histories


class _Rows(NamedTuple):
    """The data of a fit, or those of several fits with a leading axis."""

    x: Any
    y: Any
    weights: Any


def _padded(program, x, y, weights) -> _Rows:
    """Rows of one fit, padded to one of few sizes if rows have no continuous latents."""
    padded = pad(x, y, weights)
    if not program.sites.locals:
        few = -(-len(x) // _MULTIPLE) * _MULTIPLE
        # a size class is much larger than a small number of rows
        count = few if few < size_class(1) else len(padded.x)
    elif weights is None or np.isin(weights, (0, 1)).all():
        count = len(x)
    else:
        raise ValueError(
            f"weights must be 0 or 1: program {program.name} has continuous latents of each row, "
            "which are drawn with the globals"
        )
    return _Rows(*(v if v is None else np.asarray(v)[:count] for v in padded[:3]))


class _Record(NamedTuple):
    """The record of a step."""

    values: Any  # globals
    locals: Any
    diverging: Any
    accept: Any
    steps: Any


def _begin(program, keys, rows):
    """The starting states of all chains of all fits."""

    def begin_chain(key, rows):
        start_key, key = jax.random.split(key)
        candidates = jax.vmap(lambda key: _draw_position(program, key, rows))(
            jax.random.split(start_key, _CANDIDATES)
        )
        scores = jax.vmap(functools.partial(_log_likelihood, program, rows))(candidates)
        best = jnp.argmax(jnp.where(jnp.isfinite(scores), scores, -jnp.inf))
        begin, _ = _kernel(program, rows)
        return begin(_map(lambda v: v[best], candidates), key)

    def begin_fit(key, rows):
        keys = jax.random.split(key, program.posterior.chains)
        return jax.vmap(begin_chain, (0, None))(keys, rows)

    return jax.vmap(begin_fit)(keys, rows)


def _draw_position(program, key, rows):
    """Globals and the locals of all rows, drawn from the prior and mapped to the reals."""
    globals_key, locals_key = jax.random.split(key)
    unconstrained = global_latents.draw_prior(program, globals_key, {})
    values, _, _ = global_latents.constrain(program, unconstrained, {})
    draw = lambda key, y: local_latents.draw_prior(program, values, key, y)  # noqa: E731
    axes = 0, None if rows.y is None else 0
    locals_ = jax.vmap(draw, axes)(jax.random.split(locals_key, len(rows.x)), rows.y)
    return {"globals": unconstrained, "locals": locals_}


def _log_likelihood(program, rows, position):
    """log p(x | position).

    The joint density would be a poor criterion: it is highest where a prior is narrow, such as in
    the neck of a funnel, which a chain does not leave.
    """
    joint = density.log_posterior(program, position, *rows)
    prior = density.log_posterior(program, position, *rows._replace(weights=0 * rows.weights))
    return joint - prior


def _kernel(program, rows):
    """The functions that begin a chain and that take a step."""
    nuts = program.posterior
    potential = lambda position: -density.log_posterior(program, position, *rows)  # noqa: E731
    begin, step = hmc(potential, algo="NUTS")

    def start(position, key):
        return begin(
            position,
            nuts.warmup,
            dense_mass=nuts.dense_mass,
            target_accept_prob=nuts.target_accept,
            rng_key=raw_key(key),
        )

    return start, step


def _steps(program, state, rows, count):
    """The states of all chains after so many steps, and a record of each step."""

    def steps_of_chain(state, rows):
        begin, step = _kernel(program, rows)
        begin(
            state.z, jax.random.key(0)
        )  # sets up the adaptation of ``step``; its result is unused

        def next_step(state, _):
            state = step(state)
            values, _, _ = global_latents.constrain(program, state.z["globals"], {})
            locals_, accept = state.z["locals"], state.accept_prob
            return state, _Record(values, locals_, state.diverging, accept, state.num_steps)

        return lax.scan(next_step, state, length=count)

    return jax.vmap(jax.vmap(steps_of_chain, (0, None)))(state, rows)


def _finite_slopes(program, position, rows):
    """Whether the gradient of the prior in the globals is finite, and that of each row with it."""

    def is_finite(fn):
        slopes = jax.grad(fn)(position["globals"])
        return jnp.array([jnp.isfinite(v).all() for v in jax.tree_util.tree_leaves(slopes)]).all()

    def of_row(row, locals_):
        row, locals_ = _map(lambda v: v[None], (row, locals_))
        at = lambda free: {"globals": free, "locals": locals_}  # noqa: E731
        return is_finite(lambda free: density.log_posterior(program, at(free), *row))

    def log_prior(unconstrained):
        _, log_p, log_det = global_latents.constrain(program, unconstrained, {})
        return log_p + log_det

    return is_finite(log_prior), jax.vmap(of_row)(tuple(rows), position["locals"])


_compiled_begin = compiler.jit(_begin, static_argnums=0)
_compiled_steps = compiler.jit(_steps, static_argnums=(0, 3))
_compiled_finite_slopes = compiler.jit(_finite_slopes, static_argnums=0)


def _check_start(program, state, rows) -> None:
    """Raise if a chain starts with no finite density or gradient, where it could not move."""
    if not np.isfinite(np.asarray(state.potential_energy)).all():
        raise ValueError(
            f"x cannot be fitted: it has zero density under the prior of program {program.name}"
        )
    slopes = jax.tree_util.tree_leaves(jax.device_get(state.z_grad))
    is_bad = np.any([~np.isfinite(v).all(tuple(range(2, v.ndim))) for v in slopes], 0)
    for fit, chain in np.argwhere(is_bad):
        all_rows, positions = jax.device_get((rows, state.z))
        fit_rows = _map(lambda v, i=fit: v[i], all_rows)
        position = _map(lambda v, i=(fit, chain): v[i], positions)
        prior_is_finite, is_finite = _compiled_finite_slopes(program, position, fit_rows)
        bad_rows, culprit = ~np.asarray(is_finite) & (fit_rows.weights > 0), "the density of x"
        if not prior_is_finite:
            culprit = "the prior"
        elif bad_rows.any():
            row = int(bad_rows.argmax())
            y = None if fit_rows.y is None else fit_rows.y[row]
            culprit = Message(places.row(row), f", {described(fit_rows.x[row], y)},")
        start = f"x cannot be fitted: where {_chain(chain, fit, len(is_bad))} of NUTS starts, "
        slope = f" has a gradient that is not finite under program {program.name}"
        raise ValueError(Message(start, culprit, slope))


def _chain(chain, fit, fits):
    return f"chain {chain}" + (f" of fit {fit}" if fits > 1 else "")


def _history(program, records) -> dict[str, Any]:
    """The history of a fit, with diagnostics of its chains."""
    moving = {name: _moving(v) for name, v in records.values.items()}
    r_hat = {n: float(np.max(split_gelman_rubin(v))) if v.size else 1.0 for n, v in moving.items()}
    count = float(program.posterior.count)
    ess = {
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
        "r_hat": r_hat,
        "ess": ess,
    }


def _moving(values):
    """The entries that are not the same in all draws, (chains, draws, entries)."""
    flat = values.reshape(*values.shape[:2], -1)
    return flat[:, :, (flat != flat[:1, :1]).any((0, 1))]


def _warn_of_chains(program, history) -> None:
    """Warn if draws diverged or chains disagree."""
    if history["divergences"]:
        share = f"{history['divergences']} of {program.posterior.count} draws"
        warn(
            f"{share} of {program.name} diverged: NUTS may not reach all of its posterior; raise "
            "target_accept, or reparameterize the program"
        )
    unsettled = {n: v for n, v in history["r_hat"].items() if not v <= _WORST_R_HAT}
    if unsettled and program.posterior.draws >= _ENOUGH:
        warn(
            f"the chains of {program.name} disagree, r_hat {unsettled}: raise warmup, or "
            "reparameterize the program"
        )
