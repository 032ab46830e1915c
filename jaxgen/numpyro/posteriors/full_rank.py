"""A normal with all correlations for the globals, started by Newton steps."""

from __future__ import annotations

import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy.special import ndtri

from jaxgen.core import compiler
from jaxgen.core.random import Normal
from jaxgen.core.spec import Count
from jaxgen.numpyro import density, global_latents, param_sites
from jaxgen.numpyro.posteriors.base import Posterior
from jaxgen.numpyro.posteriors.prior_units import ENTROPY, NARROW, prior_units
from jaxgen.numpyro.row_density import Row
from jaxgen.numpyro.runs import fixed_key

_STEPS = 40  # most Newton steps of the start
_FIRST = 4096  # rows that the first steps use
_RUNS = 2**14  # draws x rows of a step, if there are few rows
_HELD = 2**20  # rows x draws x directions x samples of locals held at once
_LEAST = 0.1  # least curvature, so that a step widens the normal by a bounded factor
_FURTHEST = 5.0  # longest step, in spreads of the prior
_PACE = 0.1  # pace of training if the search has converged
_EVENTS = 1000  # with more, the gradients of minibatches are noisier, and the pace is lower
_SHORTEST = 1e-4  # shortest damped step, as a share of the full step
_NOISE = 0.1  # nats by which the noise of a few draws may lower the bound
_ROUNDING = 1e-6  # relative rounding error of a sum over rows
_CLOSE = 0.02  # standard deviations; the search ends with a shorter step

_map = jax.tree_util.tree_map


class FullRank(Posterior):
    """A normal with all correlations for the globals mapped to the reals.

    A fit starts with damped Newton steps on the evidence lower bound of all rows, so that training
    begins nearly converged for all units and correlations of the globals.

    Args:
      draws: draws of the globals that the density is an average over, the same in every call. Their
        values of each number are evenly spread (a Latin hypercube). They have the mean of the
        normal, and its covariance too if there are more draws than numbers.

    Params, for d numbers in the order of the sites: ``middle`` (d,), ``frame`` (d, d), lower
    triangular, and ``pace`` (), which training does not change; ``loc`` (d,), ``log_scale`` (d,)
    and ``lower`` (d (d - 1) / 2,). The last three, times ``pace``, are the mean of the normal in
    the coordinates of the frame, the log diagonal of its Cholesky factor ``tril``, and the entries
    below the diagonal, row by row. A draw is middle + frame @ (pace loc + tril @ z).

    Source: Kucukelbir et al. 2017, "Automatic differentiation variational inference"; for the
    Newton steps, Khan and Lin 2017, "Conjugate-computation variational inference".
    """

    draws: Count = 100  # type: ignore[misc]

    alternatives: ClassVar[tuple[str, ...]] = ("NUTS()",)

    def init(self, program, param_values, key):
        units = prior_units(program, param_values, key)
        middle, unit = (_flat(program, units[name]) for name in ("middle", "unit"))
        params = _params(middle, jnp.diag(unit), jnp.ones((), middle.dtype))
        return {**params, "log_scale": jnp.full_like(middle, np.log(NARROW))}

    def prepare(self, program, params, x, y, weights):
        others = {name: v for name, v in params.items() if name != "posterior"}
        start, blocks = params["posterior"], _blocks(program, x, y, weights)
        middle, frame, converged = _search(program, others, start, blocks)
        if middle is None:
            return start
        pace = 1.0
        if converged and not jax.tree_util.tree_leaves(others):
            pace = _PACE * min(1.0, (_EVENTS / float(weights.sum())) ** 0.5)
        return _params(*(jnp.asarray(v, x.dtype) for v in (middle, frame, pace)))

    def values(self, program, params, param_values):
        z = jnp.asarray(_normals(self.draws, len(params["loc"])), params["loc"].dtype)

        def constrained(flat):
            return global_latents.constrain(program, _by_site(program, flat), param_values)[0]

        return jax.vmap(constrained)(_from_normals(params, z))

    def noise(self, program):
        return Normal((global_latents.size(program),))

    def sample(self, program, params, param_values, noise):
        fixed = {name: params[name] for name in ("middle", "frame", "pace")}
        params = {**params, **lax.stop_gradient(fixed)}
        flat = _from_normals(params, noise)
        unconstrained = _by_site(program, flat)
        values, log_p, log_det = global_latents.constrain(program, unconstrained, param_values)
        # the mean of log q is known, and so has no noise
        log_volume = jnp.log(jnp.diag(params["frame"])).sum()
        log_volume += params["pace"] * params["log_scale"].sum()
        return values, -log_volume - len(flat) * ENTROPY - log_p - log_det

    def sample_with_ratio(self, program, params, param_values, noise):
        values, cost = self.sample(program, params, param_values, noise)
        return values, cost + (1 - noise**2).sum() / 2


def _flat(program, unconstrained):
    """Unconstrained globals as one vector."""
    return jnp.concatenate([jnp.ravel(unconstrained[site.name]) for site in program.sites.globals])


def _by_site(program, flat):
    """Unconstrained globals by site, of one vector."""
    sites = program.sites.globals
    parts = jnp.split(flat, np.cumsum([site.real_size for site in sites])[:-1])
    pairs = zip(sites, parts, strict=True)
    return {site.name: part.reshape(site.real_shape) for site, part in pairs}


def _params(middle, frame, pace) -> dict[str, Any]:
    """Params of the normal with that mean and Cholesky factor."""
    d = len(middle)
    zeros = functools.partial(jnp.zeros, dtype=middle.dtype)
    return {
        "middle": middle,
        "frame": frame,
        "pace": pace,
        "loc": zeros(d),
        "log_scale": zeros(d),
        "lower": zeros(d * (d - 1) // 2),
    }


def _from_normals(params, z):
    """Flat unconstrained globals (..., d) of standard normals z (..., d)."""
    pace, d = params["pace"], len(params["loc"])
    tril = jnp.diag(jnp.exp(pace * params["log_scale"]))
    tril = tril.at[np.tril_indices(d, -1)].set(pace * params["lower"])
    mean = params["middle"] + params["frame"] @ (pace * params["loc"])
    return mean + z @ (params["frame"] @ tril).T


@functools.lru_cache(maxsize=64)
def _normals(count: int, d: int) -> np.ndarray:
    """Standard normals (count, d), evenly spread in each column, and uncorrelated if count > d."""
    rng = np.random.default_rng(0)
    cells = ndtri((np.arange(count) + 0.5) / count)
    z = rng.permuted(np.tile(cells, (d, 1)), axis=1).T
    if count <= d:
        return z
    return np.linalg.solve(np.linalg.cholesky(z.T @ z / count), z.T).T


# The start: natural-gradient steps on the evidence lower bound, estimated by a few fixed draws.


class _Blocks(NamedTuple):
    """Rows in blocks (blocks, rows, ...), each spread over all rows; weights sum to the events."""

    x: Any
    y: Any
    weights: Any
    numbers: Any  # of the rows


class _Expansion(NamedTuple):
    """The bound around a normal, in the coordinates of its Cholesky factor."""

    score: float  # mean log joint over the draws, in nats
    size: float  # mean absolute value of the terms in it, which its rounding error grows with
    slope: np.ndarray  # (d,)
    curvature: np.ndarray  # (d, d), minus the mean Hessian


def _blocks(program, x, y, weights) -> _Blocks:
    locals_ = max(density.samples_in_loss(program), 1)
    held = max(_HELD // (global_latents.size(program) * _draws(len(x)) * locals_), 1)
    # powers of two, which divide the number of rows
    rows = max(min(_FIRST, len(x) & -len(x), 1 << held.bit_length() - 1), 1)
    cut = lambda v: jnp.swapaxes(v.reshape(rows, -1, *v.shape[1:]), 0, 1)  # noqa: E731
    return _Blocks(cut(x), None if y is None else cut(y), cut(weights), cut(np.arange(len(x))))


def _draws(rows: int) -> int:
    """How many draws a step averages over; they come in pairs of opposite sign."""
    return 2 * int(np.clip(_RUNS // (2 * rows), 1, 8))


def _search(program, others, start, blocks: _Blocks):
    """Mean and Cholesky factor of the normal at the end of the steps, and whether they converged.

    The mean is None if the start has no finite score. ``others`` are the params of the program
    besides those of the posterior.
    """
    unit = np.diag(start["frame"]).astype(np.float64)
    middle = np.asarray(start["middle"], np.float64)
    frame = np.diag(unit * np.exp(np.asarray(start["log_scale"], np.float64)))
    size, total = len(unit), len(blocks.weights)
    half = np.random.default_rng(0).normal(size=(_draws(blocks.weights.size) // 2, size))
    draws = jnp.asarray(np.concatenate([half, -half]), start["loc"].dtype)
    count, share = min(total, max(_FIRST // blocks.weights.shape[1], 1)), 1.0
    expand = functools.partial(_finite_expansion, program, others, draws, blocks)
    here = expand(count, middle, frame)
    for _ in range(_STEPS):
        if here is None:
            return None, None, False
        step, new_frame = _step(here, frame, unit, share)
        there = expand(count, middle + step, new_frame)
        if there is None or _largest_gain(here, there, frame, new_frame) < 0:
            share /= 4
            if share > _SHORTEST:
                continue
            is_close = False
        else:
            length = np.linalg.norm(np.linalg.solve(new_frame, step))
            change = np.abs(np.linalg.solve(frame, new_frame) - np.eye(size)).max()
            is_close = share == 1 and max(length, change) < _CLOSE
            middle, frame, here = middle + step, new_frame, there
            share = min(1.0, 2 * share)
        if is_close and count == total:
            return middle, frame, True
        if is_close or share <= _SHORTEST:
            if count == total:
                break
            count, share = total, 1.0
            here = expand(count, middle, frame)
    return middle, frame, False


def _finite_expansion(program, others, draws, blocks, count, middle, frame) -> _Expansion | None:
    """``_expansion`` in float64 on the host; None if it is not finite."""
    found = _compiled_expansion(program, others, middle, frame, draws, blocks, np.int32(count))
    score, size, slope, hessian = (np.asarray(v, np.float64) for v in jax.device_get(found))
    expansion = _Expansion(float(score), float(size), slope, -hessian)
    return expansion if all(np.isfinite(v).all() for v in expansion) else None


def _step(here: _Expansion, frame, unit, share):
    """A damped step of the mean, and the new Cholesky factor."""
    precision = (1 - share) * np.eye(len(unit)) + share * _positive(here.curvature)
    step = frame @ np.linalg.solve(precision, share * here.slope)
    step /= max(1.0, np.max(np.abs(step) / (_FURTHEST * unit)))
    return step, _lower(frame @ np.linalg.inv(np.linalg.cholesky(precision)).T)


def _largest_gain(here: _Expansion, there: _Expansion, frame, new_frame) -> float:
    """An upper bound of the rise of the evidence lower bound, which few draws and rounding blur."""
    gain = there.score - here.score + _log_det(new_frame) - _log_det(frame)
    return gain + _NOISE + _ROUNDING * max(there.size, here.size)


def _positive(curvature):
    """The curvature with the absolute values of its eigenvalues, and none below the least."""
    values, vectors = np.linalg.eigh((curvature + curvature.T) / 2)
    return (vectors * np.maximum(np.abs(values), _LEAST)) @ vectors.T


def _lower(root):
    """The lower triangular L with L L^T = root root^T and a positive diagonal."""
    lower = np.linalg.qr(root.T)[1].T
    return lower * np.where(np.diag(lower) < 0, -1, 1)


def _log_det(lower):
    return np.log(np.diag(lower)).sum()


def _expansion(program, others, middle, frame, draws, blocks, count):
    """Mean log joint over draws (s, d) of the frame, the size of its terms, slope and Hessian.

    It takes ``count`` evenly spaced blocks in place of all rows.
    """
    param_values, key = param_sites.values(program, others), fixed_key()
    stride = len(blocks.weights) // count
    block_weights = blocks.weights.sum(1)
    is_used = jnp.arange(len(block_weights)) % stride == 0
    is_used &= jnp.arange(len(block_weights)) < stride * count
    scale = block_weights.sum() / jnp.where(is_used, block_weights, 0).sum()

    def score(flat, rows, share):
        """The part of a block in the log joint of a draw."""
        unconstrained = _by_site(program, flat)
        values, log_p, log_det = global_latents.constrain(program, unconstrained, param_values)

        def of_row(x, y, weight, number):
            row, row_key = Row(x, y, values, param_values), jax.random.fold_in(key, number)
            log_p = density.log_prob_of_row(program, others, row, row_key)
            return jnp.where(weight > 0, weight * jnp.where(weight > 0, log_p, 0), 0)

        each = jax.vmap(of_row, (0, None if rows.y is None else 0, 0, 0))(*rows)
        return each.sum() + share * (log_p + log_det)

    def add(j, sums):
        rows = _map(lambda v: v[j * stride], blocks)
        rows = rows._replace(weights=scale * rows.weights)

        def mean(shift):
            flat = middle + (shift + draws) @ frame.T
            return jax.vmap(lambda v: score(v, rows, 1 / count))(flat).mean()

        shift = jnp.zeros_like(middle)
        (value, slope), change = jax.linearize(jax.value_and_grad(mean), shift)
        _, hessian = jax.vmap(change)(jnp.eye(len(shift), dtype=shift.dtype))
        return _map(jnp.add, sums, (value, jnp.abs(value), slope, hessian))

    zero = jnp.zeros((), middle.dtype)
    zeros = zero, zero, jnp.zeros_like(middle), jnp.zeros_like(frame)
    return lax.fori_loop(0, count, add, zeros)


_compiled_expansion = compiler.jit(_expansion, static_argnums=0)
