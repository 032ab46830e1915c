"""What a law looks at: a model, params away from their start, and values that laws share."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from jaxgen import batch
from jaxgen.fitted import Fitted
from jaxgen.inputs import float_dtype
from jaxgen.model import Model
from jaxgen.precision import enable_x64
from jaxgen.random import draw

ROWS = 65536  # samples that the statistical laws judge
FEW = 64  # rows of the laws that compare values
P_VALUE = 2e-5  # a true model fails one statistical law about once in 50,000 keys

tree_map = jax.tree_util.tree_map
tree_leaves = jax.tree_util.tree_leaves


class NotJudged(Exception):
    """The law says nothing about this model; the text says why."""


def require(condition: Any, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def require_close(got, wanted, what: str, rtol: float, atol: float = 0.0) -> float:
    """Arrays equal within ``rtol`` of their own or their column's size; returns the largest gap."""
    got, wanted = (np.atleast_1d(np.asarray(v, np.float64)) for v in (got, wanted))
    require(got.shape == wanted.shape, f"{what}: shape {got.shape} is not {wanted.shape}")
    if not got.size:
        return 0.0
    # an infinity or NaN must match; a column's typical size stands in for entries near zero
    same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
    typical = np.where(np.isfinite(wanted), np.abs(wanted), 0).mean(0)
    with np.errstate(invalid="ignore"):
        gap = np.where(same, 0.0, np.abs(got - wanted) / (np.abs(wanted) + typical + atol / rtol))
    gap = np.where(np.isnan(gap), np.inf, gap)
    worst = np.unravel_index(gap.argmax(), gap.shape)
    require(
        gap[worst] <= rtol,
        f"{what}: {got[worst]:.9g} is not {wanted[worst]:.9g} at {tuple(map(int, worst))}, "
        f"relative gap {gap[worst]:.2g} > {rtol:g}",
    )
    return float(gap.max())


class Subject:
    """One model under one setting of its params.

    Attributes:
      model: the spec.
      params: params that give samples a finite density, best away from ``model.init``.
      key: a typed PRNG key.
      y: one condition (y_shape), or None.
    """

    def __init__(self, model: Model, params: Any = None, *, key: Any = None, y: Any = None):
        self.model = model
        self.key = jax.random.key(0) if key is None else key
        if model.classes is not None and y is None:
            y = model.classes // 2
        if model.y_shape is not None and y is None:
            y = np.linspace(0.5, 1.0, int(np.prod(model.y_shape))).reshape(model.y_shape)
        self.y = y
        self.params = away_from_init(model, self.key, y) if params is None else params
        self.params = tree_map(jnp.asarray, self.params)
        self.fitted = Fitted(model, self.params)
        self.dtype = np.dtype(float_dtype(self.params))

    def __repr__(self):
        return repr(self.model)

    @functools.cached_property
    def samples(self) -> np.ndarray:
        return np.asarray(self.fitted.sample(self.key, ROWS, self.y))

    @functools.cached_property
    def scores(self) -> np.ndarray:
        return self.log_prob(self.samples)

    @functools.cached_property
    def few(self) -> np.ndarray:
        return np.asarray(self.fitted.sample(self.key, FEW, self.y))

    @functools.cached_property
    def chart(self) -> Chart:
        return Chart(self)

    def log_prob(self, x, params=None) -> np.ndarray:
        """Scores through the engine, in blocks large enough to share a compiled program."""
        fitted = self.fitted if params is None else Fitted(self.model, params)
        return np.asarray(fitted.log_prob(x, self.y))

    def gradients(self, x) -> tuple[Any, Any, np.ndarray]:
        """Over rows x: mean and mean square of d log p / d params, and rows without a NaN.

        The rows are cut into blocks of one size; the last is filled with copies of row 0, which is
        harmless for the third result only.
        """
        count = sum(np.size(leaf) for leaf in tree_leaves(self.params))
        block = int(np.clip(2**22 // count, 16, 4096))
        x = np.asarray(x).astype(self.dtype)
        sums, squares, clean = None, None, []
        for start in range(0, len(x), block):
            rows = x[start : start + block]
            padded = np.concatenate([rows, np.repeat(x[:1], block - len(rows), 0)])
            first, second, good = _gradients(
                self.model, self.params, padded, self.conditions(block)
            )
            clean.append(np.asarray(good)[: len(rows)])
            first, second = tree_map(lambda v: np.asarray(v, np.float64), (first, second))
            sums = first if sums is None else tree_map(np.add, sums, first)
            squares = second if squares is None else tree_map(np.add, squares, second)
        total = block * -(-len(x) // block)
        mean, square = (tree_map(lambda v: v / total, t) for t in (sums, squares))
        return mean, square, np.concatenate(clean)

    def noise(self, n: int):
        """Noise of n rows, from the first on, on a last axis."""
        return noise_rows(self.model, self.key, n, self.dtype)

    def inside(self, x) -> np.ndarray:
        """Which events the support holds."""
        return np.asarray(_inside(self.model, x))

    def conditions(self, n: int):
        if self.y is None:
            return None
        y = np.asarray(self.y)
        y = y.astype(self.dtype if y.dtype.kind == "f" else np.int32)
        return np.broadcast_to(y, (n, *y.shape))

    def every_condition(self, n: int):
        """n conditions that hold every label; where y is none, the same for all."""
        if self.model.classes is None:
            return self.conditions(n)
        return np.arange(n, dtype=np.int32) % self.model.classes

    @contextlib.contextmanager
    def in_float64(self):
        """A context with x64 on that gives the same subject in float64."""
        with enable_x64(True):
            exact = Subject(self.model, cast(self.params, np.float64), key=self.key, y=self.y)
            exact.chart = self.chart
            yield exact


# What follows is compiled as one program where it is many operations: each would be compiled alone.


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def noise_rows(model, key, n, dtype):
    return draw(model.noise(), key, np.zeros(2, np.uint32), n, dtype)


@functools.partial(jax.jit, static_argnums=0)
def _inside(model, x):
    return model.support(x)


@functools.partial(jax.jit, static_argnums=0)
def _gradients(model, params, x, y):
    leaves, tree = jax.tree_util.tree_flatten(params)
    floats = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]

    def score(learnt, x, y):
        chosen = [a if f else b for a, b, f in zip(learnt, leaves, floats, strict=True)]
        y = None if y is None else y[None]
        return batch.log_prob_rows(model, jax.tree_util.tree_unflatten(tree, chosen), x[None], y)[0]

    axes = (None, 0, None if y is None else 0)
    learnt = [v if f else jnp.zeros((), x.dtype) for v, f in zip(leaves, floats, strict=True)]
    by_params, by_x = jax.vmap(jax.grad(score, (0, 1)), axes)(learnt, x, y)
    clean = ~jnp.isnan(by_x).reshape(len(x), -1).any(1)
    for leaf in by_params:
        clean = clean & ~jnp.isnan(leaf).reshape(len(x), -1).any(1)
    sums, squares = [g.sum(0) for g in by_params], [(g * g).sum(0) for g in by_params]
    return (
        jax.tree_util.tree_unflatten(tree, sums),
        jax.tree_util.tree_unflatten(tree, squares),
        clean,
    )


def cast(params: Any, dtype: Any) -> Any:
    """Params with their float leaves in ``dtype``."""

    def one(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return jnp.asarray(np.asarray(leaf).astype(dtype))

    return tree_map(one, params)


def away_from_init(model: Model, key: Any, y: Any = None, seed: int = 0) -> Any:
    """``model.init(key)`` with its float leaves jittered, by as much as keeps samples possible.

    A start can hide errors: the identity map has no log-determinant to forget.
    """
    start = model.init(key)
    rng = np.random.default_rng(seed)
    noise = [rng.uniform(-1, 1, (2, *np.shape(leaf))) for leaf in tree_leaves(start)]
    for size in (0.4, 0.2, 0.1, 0.05):
        pairs = zip(tree_leaves(start), noise, strict=True)
        leaves = [_jitter(leaf, size, *z) for leaf, z in pairs]
        params = jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(start), leaves)
        fitted = Fitted(model, params)
        x = np.asarray(fitted.sample(key, FEW, y))
        possible = np.isfinite(x).all() and np.asarray(_inside(model, x)).all()
        if possible and model.density != "none":
            possible = np.isfinite(np.asarray(fitted.log_prob(x, y))).all()
        if possible:
            return params
    return start


def _jitter(leaf, size, factor, shift):
    leaf = jnp.asarray(leaf)
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf
    # what is positive everywhere may have to be
    moved = np.asarray(leaf) * np.exp(size * factor)
    moved = moved if (np.asarray(leaf) > 0).all() else moved + size * shift
    return jnp.asarray(moved, leaf.dtype)


class Chart:
    """Free coordinates u (n, dim) of events: their entries, but the last where events sum to one.

    Attributes:
      dim: number of coordinates.
      discrete: (dim,) bool, whether an entry takes whole values only.
    """

    def __init__(self, subject: Subject):
        self._shape = tuple(subject.model.event_shape)
        support = subject.model.support
        while hasattr(support, "base_constraint"):
            support = support.base_constraint
        self._simplex = isinstance(support, type(constraints.simplex)) and len(self._shape) == 1
        self.dim = int(np.prod(self._shape)) - self._simplex
        self.discrete = np.array([self._is_discrete(subject, j) for j in range(self.dim)], bool)

    def __eq__(self, other):
        return isinstance(other, Chart) and self._map == other._map  # so that they share programs

    def __hash__(self):
        return hash(self._map)

    @property
    def _map(self):
        return self._shape, self._simplex

    def drop(self, x):
        """Coordinates (n, dim) of events (n, *event_shape)."""
        return x.reshape(len(x), -1)[:, : self.dim]

    def lift(self, u):
        """Events of coordinates."""
        xp = jnp if isinstance(u, jax.Array) else np
        if self._simplex:
            u = xp.concatenate([u, 1 - u.sum(-1, keepdims=True)], -1)
        return u.reshape(*u.shape[:-1], *self._shape)

    def _is_discrete(self, subject, j):
        """Only whole values are seen, and none is possible at a fraction."""
        u = self.drop(subject.samples[:FEW]).astype(np.float64)
        if (u[:, j] != np.round(u[:, j])).any():
            return False
        u[:, j] += 0.37
        return bool((subject.log_prob(self.lift(u)) == -np.inf).all())
