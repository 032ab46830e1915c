"""Importance samples of the continuous locals of a row.

``flat`` locals are the values of all continuous locals of a row, mapped to the reals, as one vector
in the order of their sites.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.core import functions
from jaxgen.core.model import Params
from jaxgen.core.numerics import computed_once, logsumexp
from jaxgen.core.random.threefry import key_words
from jaxgen.numpyro import laplace, param_sites
from jaxgen.numpyro.global_latents import draw_function
from jaxgen.numpyro.laplace import Modes
from jaxgen.numpyro.pareto import FEWEST, pareto_k
from jaxgen.numpyro.program_spec import ProgramSpec
from jaxgen.numpyro.row_density import Row, log_joint, observed_value
from jaxgen.numpyro.runs import trace, unconstrained_value

_PRIOR_SHARE = 8  # one in so many samples is drawn from the prior
_SEARCHED = 32  # draws of the prior from which a search for modes starts
_COMPARED = 8  # draws of the globals for which Pareto k is computed
_END = 80.0  # takes the place of infinity, the image of a value on the edge of its support


def sample(
    program: ProgramSpec,
    params: Params,
    row: Row,
    key: jax.Array,
    count: int,
    modes: Modes | None = None,
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Samples of the continuous locals of a row, and their log weights.

    Args:
      program: the program.
      params: its params, of which the proposal takes its own.
      row: the row.
      key: a typed PRNG key.
      count: number of samples.
      modes: modes for a similar density, from ``row_modes``, where the search starts.

    Returns:
      The samples by site, (count, *real_shape), mapped to the reals, and log p(x, locals|y) /
      q(locals), (count,). Without continuous locals: no samples, and log p(x|y) as one weight.
    """
    if not program.sites.locals:
        return {}, log_joint(program, row, {})[1][None]
    density = flat_density(program, row)
    fixed_row = lax.stop_gradient(row)
    fixed_density = flat_density(program, fixed_row)
    if program.proposal is None:
        flat, log_q, prior_share = _adapted(program, fixed_row, key, count, modes, density)
    else:
        proposal_params, given = params["proposal"], [v for v in (row.x, row.y) if v is not None]
        condition = jnp.concatenate([jnp.ravel(v).astype(row.x.dtype) for v in given])
        flat = functions.sample(program.proposal, proposal_params, key, count, condition)
        log_q = functions.log_prob(program.proposal, proposal_params, flat, condition)
        prior_share = 0.0
    if prior_share:
        log_prior = jax.vmap(fixed_density)(flat)[0]
        log_q = jnp.logaddexp(log_q, math.log(prior_share) + log_prior)
    by_site = jax.vmap(functools.partial(_by_site, program))(flat)
    return by_site, jax.vmap(density)(flat)[1] - log_q


def _adapted(program, row, key, count, modes, density):
    """Flat samples (count, d): a share from the prior, the rest from around the modes.

    Returns the samples, the log density of the rest times its share, and the share of the prior.
    With the prior in the denominator no weight exceeds p(x | locals) / share. Gradients pass
    through the modes only: ``density`` may depend on what is differentiated, and ``row`` does not.
    """
    prior_key, proposal_key, search_key = jax.random.split(key, 3)
    size = count // _PRIOR_SHARE if adapts(program) else count
    flat = _prior_draws(program, row, prior_key, size)
    if not adapts(program):
        return flat, jnp.full(count, -jnp.inf, flat.dtype), 1.0
    fixed_density = flat_density(program, row)
    if modes is None:
        modes = _modes(program, row, search_key)
    else:
        modes = laplace.refine(lambda flat: fixed_density(flat)[1], modes)
    proposal = laplace.proposal(laplace.differentiable(lambda flat: density(flat)[1], modes))
    others, log_weights = laplace.sample(proposal, proposal_key, count - size)
    flat = jnp.concatenate([flat, others])
    log_q = laplace.log_prob(proposal, log_weights, flat)
    return flat, log_q + math.log1p(-size / count), size / count


def flat_density(program: ProgramSpec, row: Row) -> Callable[[jax.Array], tuple[Any, Any]]:
    """A function from flat locals to log p(locals) and log p(x, locals)."""
    return lambda flat: log_joint(program, row, _by_site(program, flat))


def adapts(program: ProgramSpec) -> bool:
    """Whether the default proposal follows the modes of the locals of each row."""
    return program.proposal is None and bool(program.sites.locals) and _is_differentiable(program)


def draw_prior(program: ProgramSpec, values: Any, key: Any, y: Any = None) -> dict[str, jax.Array]:
    """Continuous locals of a row drawn from the prior, by site, mapped to the reals."""
    if not program.sites.locals:
        return {}
    sites = trace(program.program, program.row_argument(y), key, values)
    return {site.name: unconstrained_value(sites[site.name]) for site in program.sites.locals}


def _prior_draws(program, row, key, count):
    """Flat locals drawn from the prior, (count, d)."""
    value, _ = observed_value(program, row.x)
    known = {**row.globals, **row.param_values, program.observed: value}

    def draw(key):
        locals_ = draw_prior(program, known, key, row.y)
        flat = jnp.concatenate([jnp.ravel(locals_[site.name]) for site in program.sites.locals])
        return jnp.nan_to_num(flat, posinf=_END, neginf=-_END)

    return computed_once(jax.vmap(draw)(jax.random.split(key, count)), key_words(key)[0])


def _by_site(program, flat):
    """Flat locals by site."""
    sites = program.sites.locals
    parts = jnp.split(flat, np.cumsum([site.real_size for site in sites])[:-1]) if sites else []
    pairs = zip(sites, parts, strict=True)
    return {site.name: part.reshape(site.real_shape) for site, part in pairs}


def row_modes(program: ProgramSpec, params: Params, x: Any, y: Any, key: jax.Array) -> Modes | None:
    """Modes of the locals of a row at one draw of the globals, where searches for others start.

    None if there is only one draw, or if proposals do not follow modes.
    """
    if program.draws == 1 or not adapts(program):
        return None
    values = draw_function(program, params)(0)
    row = Row(x, y, values, param_sites.values(program, params))
    return _modes(program, lax.stop_gradient(row), key)


def _modes(program, row, key):
    """Modes of the flat locals of a row."""
    density = flat_density(program, row)
    prior_draws = _prior_draws(program, row, key, _SEARCHED)
    return laplace.search(lambda flat: density(flat)[1], prior_draws)


def tail_index(program: ProgramSpec, log_weights: jax.Array, x: jax.Array) -> jax.Array:
    """Pareto k of the importance weights of a row, a mean over a few draws of the globals.

    The mean is over the draws with the largest shares of the density of the row, weighted by the
    shares. It is -inf if nothing is sampled, inf if no weight is positive although x is in the
    support, and NaN with fewer than 25 samples, or if x is outside the support.

    Args:
      program: the program.
      log_weights: (draws, K).
      x: the event.
    """
    if not program.sites.locals:
        return jnp.full((), -jnp.inf, log_weights.dtype)
    totals, largest = lax.top_k(logsumexp(log_weights, 1), min(_COMPARED, len(log_weights)))
    log_weights = log_weights[largest]
    shares = jax.nn.softmax(jnp.where(jnp.isfinite(totals).any(), totals, 0))
    k = (jnp.where(shares > 0, jax.vmap(pareto_k)(log_weights), 0) * shares).sum()
    without_weight = jnp.where(program.support(x), jnp.inf, jnp.nan)
    known = k if program.samples >= FEWEST else jnp.nan
    return jnp.where(jnp.isfinite(totals).any(), known, without_weight)


@functools.lru_cache(maxsize=256)
def _is_differentiable(program):
    """Whether JAX can differentiate the density of the continuous locals twice."""
    row, flat = example(program)
    density = flat_density(program, row)
    try:
        jax.eval_shape(jax.hessian(lambda flat: density(flat)[1]), flat)
    except (TypeError, ValueError, NotImplementedError):  # such as a loop without derivatives
        return False
    return True


def example(program: ProgramSpec) -> tuple[Row, np.ndarray]:
    """A row and its flat locals, of the right shapes."""
    sites = program.sites
    values = {site.name: sites.example_values[site.name] for site in sites.globals}
    dtype = jnp.result_type(float)
    x = np.zeros(program.event_shape, dtype)
    y = None if program.y_shape is None else np.asarray(sites.example_argument)[0]
    flat = np.zeros(sum(site.real_size for site in sites.locals), dtype)
    return Row(x, y, values, {}), flat
