"""A full-rank normal over the globals of a program, started where Newton steps lead."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy.special import ndtri

from jaxgen import compiler
from jaxgen.numpyro.posterior import NARROW, Posterior, fixed_key, prior_frame
from jaxgen.random import Normal
from jaxgen.spec import Count

_ENTROPY = 0.5 * np.log(2 * np.pi * np.e)  # of a standard normal
_STEPS = 40  # at most so many Newton steps of the start
_FIRST = 4096  # rows of the first of them
_RUNS = 2**14  # draws x rows of a step that has few rows
_HELD = 2**20  # numbers of rows x draws x directions held at once
_LEAST = 0.1  # curvature below which a step does not widen the normal further
_FURTHEST = 5.0  # spreads of the prior that a step may go
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
    Cholesky factor, and what lies below the diagonal, row by row. A draw is
    middle + frame @ (loc + tril @ z).

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
            **_still(middle, jnp.diag(unit)),
            "log_scale": jnp.full_like(middle, np.log(NARROW)),
        }

    def prepare(self, program, params, x, y, weights):
        own = {name: v for name, v in params.items() if name != "posterior"}
        normal = _search(program, own, params["posterior"], _blocks(program, x, y, weights))
        return params["posterior"] if normal is None else normal

    def values(self, program, params, learnt):
        offset = jnp.asarray(_spread(self.draws, len(params["loc"])), params["loc"].dtype)
        free = _placed(params, params["loc"] + offset @ _tril(params).T)
        return jax.vmap(lambda v: program.constrain(_sites(program, v), learnt)[0])(free)

    def noise(self, program):
        return Normal((_size(program),))

    def one(self, program, params, learnt, noise):
        frame = {name: params[name] for name in ("middle", "frame")}
        params = {**params, **lax.stop_gradient(frame)}
        free = _placed(params, params["loc"] + _tril(params) @ noise)
        values, log_p, log_det = program.constrain(_sites(program, free), learnt)
        # log q in its mean, which is without noise
        volume = jnp.log(jnp.abs(jnp.diag(params["frame"]))).sum() + params["log_scale"].sum()
        return values, -volume - len(free) * _ENTROPY - log_p - log_det

    def ratio(self, program, params, learnt, noise):
        values, cost = self.one(program, params, learnt, noise)
        return values, cost + (1 - noise**2).sum() / 2


def _size(program) -> int:
    """The number of globals without constraints."""
    return sum(int(np.prod(site.free)) for site in program.sites.globals)


def _flat(program, free):
    """Globals without constraints as one vector."""
    return jnp.concatenate([jnp.ravel(free[site.name]) for site in program.sites.globals])


def _sites(program, flat):
    """Globals without constraints by site, of one vector."""
    sizes = [int(np.prod(site.free)) for site in program.sites.globals]
    parts = jnp.split(flat, np.cumsum(sizes)[:-1])
    pairs = zip(program.sites.globals, parts, strict=True)
    return {site.name: part.reshape(site.free) for site, part in pairs}


def _still(middle, frame) -> dict[str, Any]:
    """Params of the normal of that mean and Cholesky factor."""
    d = len(middle)
    zeros = functools.partial(jnp.zeros, dtype=middle.dtype)
    return {
        "middle": middle,
        "frame": frame,
        "loc": zeros(d),
        "log_scale": zeros(d),
        "lower": zeros(d * (d - 1) // 2),
    }


def _tril(params):
    d = len(params["loc"])
    diagonal = jnp.diag(jnp.exp(params["log_scale"]))
    return diagonal.at[np.tril_indices(d, -1)].set(params["lower"])


def _placed(params, own):
    """Globals (..., d) without constraints, of those in the frame."""
    return params["middle"] + own @ params["frame"].T


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


class _Local(NamedTuple):
    """The bound around a normal, in its own frame."""

    score: float  # mean log joint over the draws, in nats
    size: float  # of the terms in it, for the rounding error
    slope: np.ndarray  # (d,)
    curvature: np.ndarray  # (d, d), minus the mean Hessian


def _blocks(program, x, y, weights) -> _Blocks:
    held = _HELD // (_size(program) * _draws(len(x)) * max(program.samples_in_loss, 1))
    rows = max(min(_FIRST, len(x) & -len(x), 1 << max(held, 1).bit_length() - 1), 1)
    cut = lambda v: jnp.swapaxes(v.reshape(rows, -1, *v.shape[1:]), 0, 1)  # noqa: E731
    return _Blocks(cut(x), None if y is None else cut(y), cut(weights))


def _draws(rows: int) -> int:
    """How many draws a step takes the mean over: pairs of opposite sign."""
    return 2 * int(np.clip(_RUNS // (2 * rows), 1, 8))


def _search(program, own, start, blocks: _Blocks):
    """Params of the normal where the steps end; None where the start has no finite score."""
    unit = np.diag(start["frame"]).astype(np.float64)
    middle = np.asarray(start["middle"], np.float64)
    frame = np.diag(unit * np.exp(np.asarray(start["log_scale"], np.float64)))
    half = np.random.default_rng(0).normal(size=(_draws(blocks.weights.size) // 2, len(unit)))
    draws = jnp.asarray(np.concatenate([half, -half]), start["loc"].dtype)
    total = len(blocks.weights)
    count = min(total, max(_FIRST // blocks.weights.shape[1], 1))

    def around(middle, frame):
        found = _around(program, own, middle, frame, draws, blocks, np.int32(count))
        score, size, slope, curvature = jax.device_get(found)
        local = _Local(float(score), float(size), slope.astype(float), -curvature.astype(float))
        sound = all(np.isfinite(v).all() for v in local)
        return local if sound else None

    at = around(middle, frame)
    if at is None:
        return None
    share = 1.0
    for _ in range(_STEPS):
        precision = _positive(at.curvature)
        size = len(unit)
        mixed = (1 - share) * np.eye(size) + share * precision
        step = frame @ np.linalg.solve(mixed, share * at.slope)
        step /= max(1.0, np.max(np.abs(step) / (_FURTHEST * unit)))
        new = _lower(frame @ np.linalg.inv(np.linalg.cholesky(mixed)).T)
        length = np.linalg.norm(np.linalg.solve(new, step))
        change = np.abs(np.linalg.solve(frame, new) - np.eye(size)).max()
        if share == 1 and length < _CLOSE and change < _CLOSE:
            middle, frame = middle + step, new
            if count == total:
                break
            count = total
            at = around(middle, frame)
            if at is None:
                return None
            continue
        then = around(middle + step, new)
        gain = -np.inf
        if then is not None:
            gain = then.score - at.score + _log_det(new) - _log_det(frame)
            gain += 1e-6 * max(then.size, at.size) + 1e-3
        if gain < 0:
            share /= 4
            if share < 1e-4:
                if count == total:
                    break
                count, share = total, 1.0
                at = around(middle, frame)
            continue
        middle, frame, at, share = middle + step, new, then, min(1.0, 2 * share)
    cast = lambda v: jnp.asarray(v, start["loc"].dtype)  # noqa: E731
    return _still(cast(middle), cast(frame))


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
    """Mean log joint over draws (s, d) of the frame, the size of its terms, slope and Hessian."""
    learnt = program.learnt(own)
    key = fixed_key()

    def mean(shift, of_draw):
        free = middle + (shift + draws) @ frame.T
        return jax.vmap(lambda v: of_draw(_sites(program, v)))(free).mean()

    def derivatives(of_draw):
        shift = jnp.zeros_like(middle)
        function = lambda shift: mean(shift, of_draw)  # noqa: E731
        value, slope = jax.value_and_grad(function)(shift)
        return value, jnp.abs(value), slope, jax.hessian(function)(shift)

    def prior(free):
        _, log_p, log_det = program.constrain(free, learnt)
        return log_p + log_det

    total = blocks.weights.sum()
    stride = len(blocks.weights) // count
    used = lax.fori_loop(
        0, count, lambda j, s: s + blocks.weights[j * stride].sum(), jnp.zeros_like(total)
    )

    def add(j, sums):
        x, y, weights = _map(lambda v: v[j * stride], blocks)

        def score(free):
            values, _, _ = program.constrain(free, learnt)

            def of_row(x, y, weight):
                log_p = program.log_p_of_row(own, values, learnt, x, y, key)
                return jnp.where(weight > 0, weight * jnp.where(weight > 0, log_p, 0), 0)

            rows = jax.vmap(of_row, (0, None if y is None else 0, 0))(x, y, weights)
            return rows.sum() * total / used

        return _map(jnp.add, sums, derivatives(score))

    return lax.fori_loop(0, count, add, derivatives(prior))


_around = compiler.jit(_local, static_argnums=0)
