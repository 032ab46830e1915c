"""Samples of a row's continuous locals, their importance weights and what these are worth."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpyro.distributions import biject_to

from jaxgen.core import batch
from jaxgen.core.numerics import computed_once, logsumexp
from jaxgen.core.random.threefry import key_words
from jaxgen.numpyro import laplace
from jaxgen.numpyro.pareto import FEWEST, pareto_k
from jaxgen.numpyro.runs import trace

_OF_PRIOR = 8  # one of so many samples of the locals is from the prior
_SEARCHED = 32  # draws of the prior that a search for the modes of locals starts from
_COMPARED = 8  # draws of the globals whose importance weights have their Pareto k computed
_END = 80.0  # stands for infinities without constraints, which are values on their edges


def samples(program, params, values, learnt, x, y, key, count, modes=None):
    """Samples of the continuous locals by their proposal, and log p(x, locals|y) / q(locals).

    Returns the samples by site, without constraints, and their log weights, (count,); no
    samples and one weight where there are no continuous locals. ``modes`` are those of
    ``row_modes``, to start from.
    """
    if not program.sites.locals:
        return {}, program.scores(values, learnt, x, y, {})[1][None]
    known = lax.stop_gradient((values, learnt, x, y))
    density, still = density_of(program, values, learnt, x, y), density_of(program, *known)
    if program.proposal is None:
        flat, log_q, share = _adapted(program, *known, key, count, modes, density)
    else:
        own = params["proposal"]
        given = jnp.concatenate([jnp.ravel(v).astype(x.dtype) for v in (x, y) if v is not None])
        flat = batch.sample(program.proposal, own, key, count, given)
        log_q, share = batch.log_prob(program.proposal, own, flat, given), 0.0
    if share:
        log_q = jnp.logaddexp(log_q, math.log(share) + jax.vmap(still)(flat)[0])
    return jax.vmap(functools.partial(_parts, program))(flat), jax.vmap(density)(flat)[1] - log_q


def _adapted(program, values, learnt, x, y, key, count, modes, moving):
    """Samples (count, d) of the locals: a share from the prior, the rest near modes.

    Returns the samples, the log density of the others times their share, and that of the prior.
    With the prior in the denominator no weight exceeds p(x | locals) / share. Gradients pass
    through the modes alone, as those of ``moving``, the density whose arguments may be traced.
    """
    of_prior, of_modes, of_search = jax.random.split(key, 3)
    size = count // _OF_PRIOR if adapts(program) else count
    flat = _prior_draws(program, values, learnt, x, y, of_prior, size)
    if not adapts(program):
        return flat, jnp.full(count, -jnp.inf, flat.dtype), 1.0
    density = density_of(program, values, learnt, x, y)
    joint = lambda flat: density(flat)[1]  # noqa: E731
    if modes is None:
        modes = _modes(program, values, learnt, x, y, of_search)
    else:
        modes = laplace.refine(joint, modes)
    near = laplace.proposal(laplace.follow(lambda flat: moving(flat)[1], modes))
    others, log_weights = laplace.sample(near, of_modes, count - size)
    flat = jnp.concatenate([flat, others])
    log_q = laplace.log_prob(near, log_weights, flat)
    return flat, log_q + math.log1p(-size / count), size / count


def density_of(program, values, learnt, x, y):
    """A function of flattened free locals that returns log p(locals) and log p(x, locals)."""
    return lambda flat: program.scores(values, learnt, x, y, {}, _parts(program, flat))


def adapts(program) -> bool:
    """Whether proposals follow the modes of each row's locals."""
    return program.proposal is None and bool(program.sites.locals) and _differentiable(program)


def _prior_draws(program, values, learnt, x, y, key, count):
    """Continuous locals drawn from the prior, flattened without constraints, (count, d)."""
    known = {**values, **learnt, program.observed: program.observed_with_plate(x)[0]}

    def draw(key):
        sites = trace(program.program, program.argument(y), key, known)
        free = [jnp.ravel(free_value(sites[site.name])) for site in program.sites.locals]
        return jnp.nan_to_num(jnp.concatenate(free), posinf=_END, neginf=-_END)

    return computed_once(jax.vmap(draw)(jax.random.split(key, count)), key_words(key)[0])


def _parts(program, flat):
    """Values of the continuous locals by site of those that are flattened."""
    sizes = [int(np.prod(site.free)) for site in program.sites.locals]
    parts = jnp.split(flat, np.cumsum(sizes)[:-1]) if sizes else []
    return {s.name: p.reshape(s.free) for s, p in zip(program.sites.locals, parts, strict=True)}


def row_modes(program, params, x, y, key):
    """Modes of the continuous locals of a row for one draw of the globals, of several."""
    if program.count == 1 or not adapts(program):
        return None
    known = program.draw_of(params)(0), program.learnt(params), x, y
    return _modes(program, *lax.stop_gradient(known), key)


def _modes(program, values, learnt, x, y, key):
    """Modes of the continuous locals of a row given x and the globals."""
    draws = _prior_draws(program, values, learnt, x, y, key, _SEARCHED)
    density = density_of(program, values, learnt, x, y)
    return laplace.search(lambda flat: density(flat)[1], draws)


def tail_index(program, log_weights, x):
    """Tail index of the weights (draws, K) of a row's locals, a mean over a few draws.

    They are those with the largest shares of the row's density, and count by them. It is -inf
    if nothing is sampled, inf if no weight is above zero though x is in the support, and NaN
    with fewer than 25 samples, or if x is outside of the support.
    """
    if not program.sites.locals:
        return jnp.full((), -jnp.inf, log_weights.dtype)
    totals, places = lax.top_k(logsumexp(log_weights, 1), min(_COMPARED, len(log_weights)))
    log_weights = log_weights[places]
    shares = jax.nn.softmax(jnp.where(jnp.isfinite(totals).any(), totals, 0))
    k = (jnp.where(shares > 0, jax.vmap(pareto_k)(log_weights), 0) * shares).sum()
    missed = jnp.where(program.support(x), jnp.inf, jnp.nan)
    known = k if program.samples >= FEWEST else jnp.nan
    return jnp.where(jnp.isfinite(totals).any(), known, missed)


@functools.lru_cache(maxsize=256)
def _differentiable(program):
    """Whether JAX can derive the density of the continuous locals twice."""
    values, x, y, flat = example_row(program)
    density = density_of(program, values, {}, x, y)
    try:
        jax.eval_shape(jax.hessian(lambda flat: density(flat)[1]), flat)
    except (TypeError, ValueError, NotImplementedError):  # such as of a loop without derivatives
        return False
    return True


def example_row(program):
    """Globals, x, y and flattened locals of the right shapes."""
    sites = program.sites
    values = {site.name: sites.example[site.name] for site in sites.globals}
    dtype = jnp.result_type(float)
    x = np.zeros(program.event_shape, dtype)
    y = None if program.y_shape is None else np.asarray(sites.argument)[0]
    return values, x, y, np.zeros(sum(int(np.prod(site.free)) for site in sites.locals), dtype)


def free_value(site):
    """The value of a site without constraints."""
    return biject_to(site["fn"].support).inv(site["value"])
