"""``Subject``, a model with params and samples that laws examine, and helpers of laws."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike
from numpyro.distributions import constraints

from jaxgen.core.constraints import innermost
from jaxgen.core.inputs import float_dtype
from jaxgen.core.model import Model, Params
from jaxgen.core.precision import enable_x64
from jaxgen.core.random import row_words
from jaxgen.laws import compiled
from jaxgen.laws.compiled import (
    BLOCK,
    FEW,
    in_blocks,
    noise_rows,
    tree_leaves,
    tree_map,
)
from jaxgen.training.fitted import Fitted

ROWS = 65536  # samples that the statistical laws use
P_VALUE = 2e-5  # a correct model fails a statistical law for about one key in 50,000


class NotApplicable(Exception):
    """The law does not apply to this model; the text says why."""


def require(condition: Any, message: str, advice: str = "") -> None:
    """Raise AssertionError unless the condition is true.

    Args:
      message: what was found, with the values of an example.
      advice: which method to look at, and the likely cause; a line of its own in the report.
    """
    if not condition:
        raise AssertionError(f"{message}\n{advice}" if advice else message)


def require_close(
    got: ArrayLike,
    wanted: ArrayLike,
    what: str,
    rtol: float,
    atol: float = 0.0,
    *,
    advice: str = "",
    events: ArrayLike | None = None,
) -> float:
    """The largest relative gap between two arrays of one shape, which must be at most ``rtol``.

    The gap of an entry is relative to its size plus the typical size of its column. Infinities and
    NaN must match exactly.

    Args:
      what: the name of the arrays.
      advice: as in ``require``.
      events: (n, *event_shape), the event of each row, which the error shows; None for none.

    Raises:
      AssertionError: the shapes differ, or a gap is larger.
    """
    got, wanted = (np.atleast_1d(np.asarray(v, np.float64)) for v in (got, wanted))
    require(got.shape == wanted.shape, f"{what}: shape {got.shape} is not {wanted.shape}", advice)
    if not got.size:
        return 0.0
    same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
    # the column's typical size keeps the gap of an entry near zero finite
    typical = np.where(np.isfinite(wanted), np.abs(wanted), 0).mean(0)
    with np.errstate(invalid="ignore"):
        gap = np.where(same, 0.0, np.abs(got - wanted) / (np.abs(wanted) + typical + atol / rtol))
    gap = np.where(np.isnan(gap), np.inf, gap)
    worst = np.unravel_index(gap.argmax(), gap.shape)
    place = f"entry {tuple(map(int, worst))}"
    if events is not None:
        place = f"event {shown(np.asarray(events)[worst[0]])}"
    require(
        gap[worst] <= rtol,
        f"{what}: {got[worst]:.9g} is not {wanted[worst]:.9g} at {place}, "
        f"relative gap {gap[worst]:.2g} > {rtol:g}",
        advice,
    )
    return float(gap.max())


def require_each(good: Any, events: Any, message: str, advice: str = "") -> None:
    """Raise AssertionError that shows the first event (n, ...) whose entry in ``good`` is false."""
    good = np.asarray(good)
    if not good.all():
        require(False, f"{message} at {shown(np.asarray(events)[good.argmin()])}", advice)


def shown(values: Any) -> str:
    """The first numbers of an array, for an error: "[0.5, -1.25]"."""
    flat = np.asarray(values, np.float64).ravel()
    numbers = ", ".join(f"{v:.7g}" for v in flat[:6])
    return f"[{numbers}{', ...' if flat.size > 6 else ''}]"


DEFAULT_Y: Any = object()  # stands for the subject's condition, repeated for every row


class Subject:
    """One model at one setting of its params.

    Attributes:
      model: the spec.
      params: params under which samples have a finite density, best away from ``model.init``.
      key: a typed PRNG key.
      y: one condition (y_shape), or None.
      rows: number of samples that the statistical laws use.
      fitted: the model and params, without names of labels.
      named: the Fitted to save in files, which may have names of columns and labels.
    """

    def __init__(
        self,
        model: Model,
        params: Params = None,
        *,
        key: jax.Array | None = None,
        y: Any = None,
        rows: int = ROWS,
        named: Fitted | None = None,
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
        self.named = self.fitted if named is None else named
        self.integrals: dict[str, Any] = {}  # results of ``integrate``, by name
        self._double: Subject | None = None
        self.dtype = np.dtype(float_dtype(self.params))

    def __repr__(self) -> str:
        return repr(self.model)

    @functools.cached_property
    def samples(self) -> np.ndarray:
        """``rows`` samples, (rows, *event_shape)."""
        return self.draw(self.rows)

    @functools.cached_property
    def scores(self) -> np.ndarray:
        """log_prob of the samples, (rows,)."""
        return self.log_prob(self.samples)

    @property
    def few_samples(self) -> np.ndarray:
        """The first FEW samples."""
        return self.samples[:FEW]

    @functools.cached_property
    def coordinates(self) -> Coordinates:
        """The free coordinates of the model's events."""
        return Coordinates(self)

    def draw(
        self, n: int, y: Any = DEFAULT_Y, *, key: jax.Array | None = None, start: int = 0
    ) -> np.ndarray:
        """Events of rows start .. start + n - 1, (n, *event_shape).

        y is (n, *y_shape), or None for the marginal of a model of labels.
        """
        key = self.key if key is None else key
        y = self.conditions(n) if y is DEFAULT_Y else y

        def block(first, y):
            return compiled.draw(self.model, self.params, key, row_words(start + first), y)

        return in_blocks(block, (y,), n)

    def log_prob(
        self, x: ArrayLike, params: Params = None, y: Any = DEFAULT_Y, missing: bool = True
    ) -> np.ndarray:
        """Scores (n,) of events (n, *event_shape); y as in ``draw``.

        missing: whether NaN is a missing value for a model that can learn from these.
        """
        params = self.params if params is None else params
        with np.errstate(over="ignore"):  # values beyond the dtype become infinite
            x = np.asarray(x).astype(self.dtype)
        y = self.conditions(len(x)) if y is DEFAULT_Y else y
        missing = missing and self.model.learning.missing is not None and bool(np.isnan(x).any())

        def block(_, x, y):
            return compiled.score(self.model, params, x, y, missing)

        return in_blocks(block, (x, y), len(x))

    def directional_derivatives(
        self,
        u: np.ndarray,
        params: Params = None,
        params_direction: Params = None,
        u_direction: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores of FEW events and the scores' derivatives along a direction, each (FEW,).

        Laws that need scores in float64 alone use this method too, so that no other program is
        compiled in float64.

        Args:
          u: coordinates of the events, (FEW, coordinates.dim).
          params: by default those of the subject.
          params_direction: pytree like params; None for zeros.
          u_direction: (FEW, coordinates.dim); None for zeros.
        """
        params = self.params if params is None else params
        if params_direction is None:
            params_direction = tree_map(lambda v: np.zeros(v.shape, self.dtype), params)
        u = u.astype(self.dtype)
        u_direction = np.zeros_like(u) if u_direction is None else u_direction
        rows = u, self.conditions(FEW), params_direction, u_direction
        scores, derivatives = compiled.directional_derivatives(
            self.model, self.coordinates, params, *rows
        )
        return np.asarray(scores), np.asarray(derivatives)

    def gradients(self, x: ArrayLike) -> tuple[Params, Params, np.ndarray]:
        """Moments of the gradient d log p / d params over rows x, and which rows are free of NaN.

        The rows are cut into blocks of one size, and the last block is filled up with copies of row
        0. So the moments need a number of rows that the block size divides.

        Returns:
          The mean and the mean square, pytrees like params, and (n,) bool: whether neither the
          gradient in params nor the one in x has a NaN.
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

    def noise(self, n: int) -> Any:
        """Noise of rows 0 .. n - 1: a pytree like ``model.noise()``, rows on the last axis."""
        return noise_rows(self.model, self.key, n, self.dtype)

    def in_support(self, x: ArrayLike) -> np.ndarray:
        """Whether each event lies in the model's support, (n,) bool."""
        x = np.asarray(x)
        return in_blocks(lambda _, rows: compiled.in_support(self.model, rows), (x,), len(x))

    def conditions(self, n: int) -> np.ndarray | None:
        """The subject's condition for n rows, (n, *y_shape), or None."""
        if self.y is None:
            return None
        y = np.asarray(self.y)
        y = y.astype(self.dtype if y.dtype.kind == "f" else np.int32)
        return np.broadcast_to(y, (n, *y.shape))

    def cycled_labels(self, n: int) -> np.ndarray | None:
        """Conditions of n rows that cycle through all labels; ``conditions`` without labels."""
        if self.model.classes is None:
            return self.conditions(n)
        return np.arange(n, dtype=np.int32) % self.model.classes

    @contextlib.contextmanager
    def in_float64(self) -> Iterator[Subject]:
        """A context with x64 on that yields the same subject in float64, with the same events."""
        with enable_x64(True):
            if self._double is None:
                self._double = Subject(
                    self.model, cast(self.params, np.float64), key=self.key, y=self.y
                )
                self._double.samples = self.samples[:FEW].astype(np.float64)
                self._double.coordinates = self.coordinates
            yield self._double


def _on_device(leaf):
    return leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf)


def cast(params: Params, dtype: Any) -> Params:
    """Params with their float leaves in ``dtype``."""

    def one(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return jax.device_put(np.asarray(leaf).astype(dtype))

    return tree_map(one, params)


def away_from_init(model: Model, key: jax.Array, y: Any = None, seed: int = 0) -> Params:
    """``model.init(key)`` with jittered float leaves.

    Params at their start can hide errors: an identity map has a log-determinant of zero. The jitter
    is the largest of four sizes under which samples are finite, in the support, and of finite
    density; without one the params are those of ``init``.
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
        possible = np.isfinite(x).all() and subject.in_support(x).all()
        if possible and model.traits.density != "none":
            possible = np.isfinite(subject.log_prob(x)).all()
        if possible:
            return params
    return start


def _jitter(leaf, size, factor, shift):
    leaf = _on_device(leaf)
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf
    moved = np.asarray(leaf) * np.exp(size * factor)
    # a leaf whose entries are all positive may have to stay positive: it is not shifted
    moved = moved if (np.asarray(leaf) > 0).all() else moved + size * shift
    return jax.device_put(moved.astype(leaf.dtype))


class Coordinates:
    """Free coordinates u (n, dim) of events: all entries; on the simplex, all but the last.

    Attributes:
      dim: number of coordinates.
      discrete: (dim,) bool, whether a coordinate takes whole values only.
    """

    def __init__(self, subject: Subject):
        self._shape = tuple(subject.model.event_shape)
        support = innermost(subject.model.support)
        self._simplex = isinstance(support, type(constraints.simplex)) and len(self._shape) == 1
        self.dim = int(np.prod(self._shape)) - self._simplex
        self.discrete = self._which_discrete(subject)

    # equal maps share compiled programs

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Coordinates) and self._map == other._map

    def __hash__(self) -> int:
        return hash(self._map)

    @property
    def _map(self):
        return self._shape, self._simplex

    def from_events(self, x: Any) -> Any:
        """Coordinates (n, dim) of events (n, *event_shape)."""
        return x.reshape(len(x), -1)[:, : self.dim]

    def to_events(self, u: Any) -> Any:
        """Events (..., *event_shape) of coordinates (..., dim)."""
        xp = jnp if isinstance(u, jax.Array) else np
        if self._simplex:
            u = xp.concatenate([u, 1 - u.sum(-1, keepdims=True)], -1)
        return u.reshape(*u.shape[:-1], *self._shape)

    def _which_discrete(self, subject):
        """Whether samples of a coordinate are whole and values in between have zero density."""
        u = self.from_events(subject.samples[:FEW]).astype(np.float64)
        whole = (u == np.round(u)).all(0)
        if not whole.any():
            return whole
        moved = np.concatenate([u + 0.37 * row for row in np.eye(self.dim)])
        impossible = subject.log_prob(self.to_events(moved)) == -np.inf
        return whole & impossible.reshape(self.dim, len(u)).all(1)
