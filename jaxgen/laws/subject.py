"""What a law looks at: a model, params away from their start, and values that laws share."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from jaxgen.core.inputs import float_dtype
from jaxgen.core.model import Model
from jaxgen.core.precision import enable_x64
from jaxgen.laws import compiled
from jaxgen.laws.compiled import (
    BLOCK,
    FEW,
    in_blocks,
    noise_rows,
    tree_leaves,
    tree_map,
    words,
)
from jaxgen.training.fitted import Fitted

ROWS = 65536  # samples that the statistical laws judge
P_VALUE = 2e-5  # a true model fails one statistical law about once in 50,000 keys


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


OWN: Any = object()  # the condition of a subject, for all rows


class Subject:
    """One model under one setting of its params.

    Attributes:
      model: the spec.
      params: params that give samples a finite density, best away from ``model.init``.
      key: a typed PRNG key.
      y: one condition (y_shape), or None.
      rows: number of samples that the statistical laws look at.
    """

    def __init__(
        self,
        model: Model,
        params: Any = None,
        *,
        key: Any = None,
        y: Any = None,
        rows: int = ROWS,
    ):
        self.model = model
        self.key = jax.random.key(0) if key is None else key
        if model.classes is not None and y is None:
            y = model.classes // 2
        if model.y_shape is not None and y is None:
            y = np.linspace(0.5, 1.0, int(np.prod(model.y_shape))).reshape(model.y_shape)
        self.y = y
        self.rows = rows
        self.params = away_from_init(model, self.key, y) if params is None else params
        self.params = tree_map(_on_device, self.params)
        self.fitted = Fitted(model, self.params)
        self.integrals: dict[str, Any] = {}  # what ``integrate`` has computed
        self._exact: Subject | None = None
        self.dtype = np.dtype(float_dtype(self.params))

    def __repr__(self):
        return repr(self.model)

    @functools.cached_property
    def samples(self) -> np.ndarray:
        return self.draw(self.rows)

    @functools.cached_property
    def scores(self) -> np.ndarray:
        return self.log_prob(self.samples)

    @property
    def few(self) -> np.ndarray:
        return self.samples[:FEW]

    @functools.cached_property
    def chart(self) -> Chart:
        return Chart(self)

    def draw(self, n: int, y: Any = OWN, *, key: Any = None, start: int = 0) -> np.ndarray:
        """Events of rows start .. start + n - 1; y (n, *y_shape) or None, by default the own."""
        key = self.key if key is None else key
        y = self.conditions(n) if y is OWN else y

        def block(first, y):
            return compiled.draw(self.model, self.params, key, words(start + first), y)

        return in_blocks(block, (y,), n)

    def log_prob(self, x, params: Any = None, y: Any = OWN) -> np.ndarray:
        """Scores of events (n, *event_shape); y (n, *y_shape) or None, by default the own."""
        params = self.params if params is None else params
        y = self.conditions(len(x)) if y is OWN else y
        with np.errstate(over="ignore"):  # beyond the dtype is infinite
            x = np.asarray(x).astype(self.dtype)
        missing = self.model.learning.missing is not None and bool(np.isnan(x).any())

        def block(_, x, y):
            return compiled.score(self.model, params, x, y, missing)

        return in_blocks(block, (x, y), len(x))

    def slopes(self, u, params: Any = None, along: Any = None, line: Any = None):
        """Scores of FEW rows, and slopes as params move along ``along`` and rows along ``line``.

        u and line are coordinates of the chart, (FEW, dim). Scores alone come from here in float64,
        where no other program is needed.
        """
        params = self.params if params is None else params
        along = (
            tree_map(lambda v: np.zeros(v.shape, self.dtype), params) if along is None else along
        )
        u = u.astype(self.dtype)
        line = np.zeros_like(u) if line is None else line
        rows = u, self.conditions(FEW), along, line
        return tree_map(np.asarray, compiled.slopes(self.model, self.chart, params, *rows))

    def gradients(self, x) -> tuple[Any, Any, np.ndarray]:
        """Over rows x: mean and mean square of d log p / d params, and rows without a NaN.

        The rows are cut into blocks of one size; the last is filled with copies of row 0, which is
        harmless for the third result only.
        """
        count = sum(np.size(leaf) for leaf in tree_leaves(self.params))
        block = int(np.clip(2**22 // count, 16, BLOCK))
        sums, squares = [], []

        def one(_, x, y):
            first, second, clean = compiled.gradients(self.model, self.params, x, y)
            sums.append(tree_map(lambda v: np.asarray(v, np.float64), first))
            squares.append(tree_map(lambda v: np.asarray(v, np.float64), second))
            return clean

        x = np.asarray(x).astype(self.dtype)
        clean = in_blocks(one, (x, self.conditions(len(x))), len(x), block)
        total = block * len(sums)
        mean, square = (tree_map(lambda *v: sum(v) / total, *trees) for trees in (sums, squares))
        return mean, square, clean

    def noise(self, n: int):
        """Noise of n rows, from the first on, on a last axis."""
        return noise_rows(self.model, self.key, n, self.dtype)

    def inside(self, x) -> np.ndarray:
        """Which events the support holds."""
        x = np.asarray(x)
        return in_blocks(lambda _, own: compiled.inside(self.model, own), (x,), len(x))

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
        """A context with x64 on that gives the same subject in float64, at the same events."""
        with enable_x64(True):
            if self._exact is None:
                self._exact = Subject(
                    self.model, cast(self.params, np.float64), key=self.key, y=self.y
                )
                self._exact.samples = self.samples[:FEW].astype(np.float64)
                self._exact.chart = self.chart
            yield self._exact


def _on_device(leaf):
    return leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf)


def cast(params: Any, dtype: Any) -> Any:
    """Params with their float leaves in ``dtype``."""

    def one(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return jax.device_put(np.asarray(leaf).astype(dtype))

    return tree_map(one, params)


def away_from_init(model: Model, key: Any, y: Any = None, seed: int = 0) -> Any:
    """``model.init(key)`` with its float leaves jittered, by as much as keeps samples possible.

    A start can hide errors: the identity map has no log-determinant to forget.
    """
    start = compiled.init(model, key)
    rng = np.random.default_rng(seed)
    noise = [rng.uniform(-1, 1, (2, *np.shape(leaf))) for leaf in tree_leaves(start)]
    for size in (0.4, 0.2, 0.1, 0.05):
        pairs = zip(tree_leaves(start), noise, strict=True)
        leaves = [_jitter(leaf, size, *z) for leaf, z in pairs]
        params = jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(start), leaves)
        subject = Subject(model, params, key=key, y=y)
        x = subject.draw(FEW)
        possible = np.isfinite(x).all() and subject.inside(x).all()
        if possible and model.traits.density != "none":
            possible = np.isfinite(subject.log_prob(x)).all()
        if possible:
            return params
    return start


def _jitter(leaf, size, factor, shift):
    leaf = _on_device(leaf)
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf
    # what is positive everywhere may have to be
    moved = np.asarray(leaf) * np.exp(size * factor)
    moved = moved if (np.asarray(leaf) > 0).all() else moved + size * shift
    return jax.device_put(moved.astype(leaf.dtype))


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
        self.discrete = self._which_discrete(subject)

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

    def _which_discrete(self, subject):
        """Of each coordinate, whether samples are whole there, and nothing between is possible."""
        u = self.drop(subject.samples[:FEW]).astype(np.float64)
        whole = (u == np.round(u)).all(0)
        if not whole.any():
            return whole
        moved = np.concatenate([u + 0.37 * row for row in np.eye(self.dim)])
        impossible = subject.log_prob(self.lift(moved)) == -np.inf
        return whole & impossible.reshape(self.dim, len(u)).all(1)
