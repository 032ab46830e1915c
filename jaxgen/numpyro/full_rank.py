"""A full-rank normal over the globals of a program, started where Newton steps lead."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy.special import ndtri

from jaxgen.core import compiler
from jaxgen.core.random import Normal
from jaxgen.core.spec import Count
from jaxgen.numpyro.posterior import NARROW, Posterior, fixed_key, globals_size, prior_frame

_ENTROPY = 0.5 * np.log(2 * np.pi * np.e)  # of a standard normal
_STEPS = 40  # at most so many Newton steps of the start
_FIRST = 4096  # rows of the first of them
_RUNS = 2**14  # draws x rows of a step that has few rows
_HELD = 2**20  # numbers of rows x draws x directions held at once
_LEAST = 0.1  # curvature below which a step does not widen the normal further
_FURTHEST = 5.0  # spreads of the prior that a step may go
_PACE = 0.1  # of learning from where a search has converged
_EVENTS = 1000  # above which minibatches are noisier, and the pace is lower
_SHORTEST = 1e-4  # share of a step below which none is tried
_NOISE = 0.1  # nats that the bound may seem to fall near its highest
_ROUNDING = 1e-6  # of a sum over rows, relative
_CLOSE = 0.02  # standard deviations: a step shorter than this ends the search

_map = jax.tree_util.tree_map


class FullRank(Posterior):
    """A normal with all correlations in the space without constraints.

    A fit starts it from damped Newton steps on the evidence lower bound of all rows, so that
    gradients find it nearly converged whatever the units and correlations of the globals.

    Args:
      draws: how many values of the globals, the same every time, the density is an average over.
        They are spread evenly in each number (a Latin hypercube), with the normal's own mean and,
        where there are more draws than numbers, its covariance.

    Params, of the d numbers of the globals in the order of their sites: ``middle`` (d,) and
    ``frame`` (d, d), lower triangular, which stay; in units of that frame ``loc`` (d,),
    ``log_scale`` (d,) and ``lower`` (d (d - 1) / 2,), the normal's mean, the log diagonal of its
    Cholesky factor, and what lies below the diagonal, row by row, all three times ``pace`` (),
    which stays too. A draw is middle + frame @ (pace loc + tril @ z).

    Source: Kucukelbir et al. 2017, "Automatic differentiation variational inference"; for the
    Newton steps Khan and Lin 2017, "Conjugate-computation variational inference".
    """

    draws: Count = 100

    @property
    def count(self):
        return self.draws

    def init(self, program, learnt, key):
        frame = prior_frame(program, learnt, key)
        middle, unit = (_flat(program, frame[name]) for name in ("middle", "unit"))
        return {
            **_still(middle, jnp.diag(unit), jnp.ones((), middle.dtype)),
            "log_scale": jnp.full_like(middle, np.log(NARROW)),
        }

    def prepare(self, program, params, x, y, weights):
        own = {name: v for name, v in params.items() if name != "posterior"}
        start, blocks = params["posterior"], _blocks(program, x, y, weights)
        middle, frame, converged = _search(program, own, start, blocks)
        if middle is None:
            return start
        pace = 1.0
        if converged and not jax.tree_util.tree_leaves(own):
            pace = _PACE * min(1.0, (_EVENTS / float(weights.sum())) ** 0.5)
        return _still(*(jnp.asarray(v, x.dtype) for v in (middle, frame, pace)))

    def values(self, program, params, learnt):
        z = jnp.asarray(_spread(self.draws, len(params["loc"])), params["loc"].dtype)
        free = _placed(params, z)
        return jax.vmap(lambda v: program.constrain(_sites(program, v), learnt)[0])(free)

    def noise(self, program):
        return Normal((globals_size(program),))

    def one(self, program, params, learnt, noise):
        still = {name: params[name] for name in ("middle", "frame", "pace")}
        params = {**params, **lax.stop_gradient(still)}
        free = _placed(params, noise)
        values, log_p, log_det = program.constrain(_sites(program, free), learnt)
        # log q in its mean, which is without noise
        volume = jnp.log(jnp.diag(params["frame"])).sum()
        volume += params["pace"] * params["log_scale"].sum()
        return values, -volume - len(free) * _ENTROPY - log_p - log_det

    def ratio(self, program, params, learnt, noise):
        values, cost = self.one(program, params, learnt, noise)
        return values, cost + (1 - noise**2).sum() / 2


def _flat(program, free):
    """Globals without constraints as one vector."""
    return jnp.concatenate([jnp.ravel(free[site.name]) for site in program.sites.globals])


def _sites(program, flat):
    """Globals without constraints by site, of one vector."""
    sizes = [int(np.prod(site.free)) for site in program.sites.globals]
    parts = jnp.split(flat, np.cumsum(sizes)[:-1])
    pairs = zip(program.sites.globals, parts, strict=True)
    return {site.name: part.reshape(site.free) for site, part in pairs}


def _still(middle, frame, pace) -> dict[str, Any]:
    """Params of the normal of that mean and Cholesky factor."""
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


def _placed(params, z):
    """Draws (..., d) of the globals without constraints, of standard normals."""
    pace, d = params["pace"], len(params["loc"])
    tril = jnp.diag(jnp.exp(pace * params["log_scale"]))
    tril = tril.at[np.tril_indices(d, -1)].set(pace * params["lower"])
    center = params["middle"] + params["frame"] @ (pace * params["loc"])
    return center + z @ (params["frame"] @ tril).T


@functools.lru_cache(maxsize=64)
def _spread(count: int, d: int) -> np.ndarray:
    """Standard normals (count, d), evenly spread in each column; of unit covariance if they can."""
    rng = np.random.default_rng(0)
    cells = ndtri((np.arange(count) + 0.5) / count)
    z = rng.permuted(np.tile(cells, (d, 1)), axis=1).T
    if count <= d:
        return z
    return np.linalg.solve(np.linalg.cholesky(z.T @ z / count), z.T).T


# The start: natural gradients of the evidence lower bound over a few draws that stay the same.


class _Blocks(NamedTuple):
    """Rows in blocks (blocks, rows, ...), each spread over all rows; weights sum to the events."""

    x: Any
    y: Any
    weights: Any
    numbers: Any  # of the rows


class _Local(NamedTuple):
    """The bound around a normal, in its own frame."""

    score: float  # mean log joint over the draws, in nats
    size: float  # of the terms in it, for the rounding error
    slope: np.ndarray  # (d,)
    curvature: np.ndarray  # (d, d), minus the mean Hessian


def _blocks(program, x, y, weights) -> _Blocks:
    held = _HELD // (globals_size(program) * _draws(len(x)) * max(program.samples_in_loss, 1))
    rows = max(min(_FIRST, len(x) & -len(x), 1 << max(held, 1).bit_length() - 1), 1)
    cut = lambda v: jnp.swapaxes(v.reshape(rows, -1, *v.shape[1:]), 0, 1)  # noqa: E731
    return _Blocks(cut(x), None if y is None else cut(y), cut(weights), cut(np.arange(len(x))))


def _draws(rows: int) -> int:
    """How many draws a step takes the mean over: pairs of opposite sign."""
    return 2 * int(np.clip(_RUNS // (2 * rows), 1, 8))


def _search(program, own, start, blocks: _Blocks):
    """Mean and Cholesky factor of the normal where the steps end, and whether they converged.

    The mean is None where the start has no finite score.
    """
    unit = np.diag(start["frame"]).astype(np.float64)
    middle = np.asarray(start["middle"], np.float64)
    frame = np.diag(unit * np.exp(np.asarray(start["log_scale"], np.float64)))
    size, total = len(unit), len(blocks.weights)
    half = np.random.default_rng(0).normal(size=(_draws(blocks.weights.size) // 2, size))
    draws = jnp.asarray(np.concatenate([half, -half]), start["loc"].dtype)
    count, share = min(total, max(_FIRST // blocks.weights.shape[1], 1)), 1.0
    around = functools.partial(_checked, program, own, draws, blocks)
    at = around(count, middle, frame)
    for _ in range(_STEPS):
        if at is None:
            return None, None, False
        step, new = _step(at, frame, unit, share)
        then = around(count, middle + step, new)
        if then is None or _gain(at, then, frame, new) < 0:
            share /= 4
            if share > _SHORTEST:
                continue
            close = False
        else:
            length = np.linalg.norm(np.linalg.solve(new, step))
            change = np.abs(np.linalg.solve(frame, new) - np.eye(size)).max()
            close = share == 1 and max(length, change) < _CLOSE
            middle, frame, at, share = middle + step, new, then, min(1.0, 2 * share)
        if close and count == total:
            return middle, frame, True
        if close or share <= _SHORTEST:
            if count == total:
                break
            count, share = total, 1.0
            at = around(count, middle, frame)
    return middle, frame, False


def _checked(program, own, draws, blocks, count, middle, frame) -> _Local | None:
    """``_local`` on the host, in float64; None where it is not finite."""
    found = _around(program, own, middle, frame, draws, blocks, np.int32(count))
    score, size, slope, hessian = (np.asarray(v, np.float64) for v in jax.device_get(found))
    local = _Local(float(score), float(size), slope, -hessian)
    return local if all(np.isfinite(v).all() for v in local) else None


def _step(at: _Local, frame, unit, share):
    """A damped step of the mean, and the new Cholesky factor."""
    mixed = (1 - share) * np.eye(len(unit)) + share * _positive(at.curvature)
    step = frame @ np.linalg.solve(mixed, share * at.slope)
    step /= max(1.0, np.max(np.abs(step) / (_FURTHEST * unit)))
    return step, _lower(frame @ np.linalg.inv(np.linalg.cholesky(mixed)).T)


def _gain(at: _Local, then: _Local, frame, new) -> float:
    """By how much the evidence lower bound rises, at most: it is a mean of few draws, rounded."""
    gain = then.score - at.score + _log_det(new) - _log_det(frame)
    return gain + _NOISE + _ROUNDING * max(then.size, at.size)


def _positive(curvature):
    """The curvature with eigenvalues turned positive, and none below the least."""
    values, vectors = np.linalg.eigh((curvature + curvature.T) / 2)
    return (vectors * np.maximum(np.abs(values), _LEAST)) @ vectors.T


def _lower(root):
    """The lower triangular L with L L^T = root root^T and a positive diagonal."""
    lower = np.linalg.qr(root.T)[1].T
    return lower * np.where(np.diag(lower) < 0, -1, 1)


def _log_det(lower):
    return np.log(np.diag(lower)).sum()


def _local(program, own, middle, frame, draws, blocks, count):
    """Mean log joint over draws (s, d) of the frame, the size of its terms, slope and Hessian.

    Of the rows it takes ``count`` blocks, evenly spaced, in place of all.
    """
    learnt, key = program.learnt(own), fixed_key()
    stride = len(blocks.weights) // count
    weight_of = blocks.weights.sum(1)
    used = jnp.arange(len(weight_of)) % stride == 0
    used &= jnp.arange(len(weight_of)) < stride * count
    scale = weight_of.sum() / jnp.where(used, weight_of, 0).sum()

    def score(free, rows, share):
        """A block's part of the log joint of a draw."""
        values, log_p, log_det = program.constrain(_sites(program, free), learnt)

        def of_row(x, y, weight, number):
            row_key = jax.random.fold_in(key, number)
            log_p = program.log_p_of_row(own, values, learnt, x, y, row_key)
            return jnp.where(weight > 0, weight * jnp.where(weight > 0, log_p, 0), 0)

        each = jax.vmap(of_row, (0, None if rows.y is None else 0, 0, 0))(*rows)
        return each.sum() + share * (log_p + log_det)

    def add(j, sums):
        rows = _map(lambda v: v[j * stride], blocks)
        rows = rows._replace(weights=scale * rows.weights)

        def mean(shift):
            free = middle + (shift + draws) @ frame.T
            return jax.vmap(lambda v: score(v, rows, 1 / count))(free).mean()

        shift = jnp.zeros_like(middle)
        (value, slope), change = jax.linearize(jax.value_and_grad(mean), shift)
        _, hessian = jax.vmap(change)(jnp.eye(len(shift), dtype=shift.dtype))
        return _map(jnp.add, sums, (value, jnp.abs(value), slope, hessian))

    zero = jnp.zeros((), middle.dtype)
    zeros = zero, zero, jnp.zeros_like(middle), jnp.zeros_like(frame)
    return lax.fori_loop(0, count, add, zeros)


_around = compiler.jit(_local, static_argnums=0)
