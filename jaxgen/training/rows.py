"""Rows of training data: as the user gave them, and as compiled programs take them."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from jaxgen.core import batch, inputs, places
from jaxgen.core.model import overrides
from jaxgen.core.places import Message
from jaxgen.core.random import is_leaf
from jaxgen.core.sizes import size_class
from jaxgen.core.units import Units
from jaxgen.core.wrapper import inner_of
from jaxgen.training.devices import Split, place, replicated

_TILE = 1024  # rows scored at once: caps the memory of a network's activations
_COPIED = 2**22  # most numbers in padded rows that are mostly copies, as of one long text


class Data(NamedTuple):
    """Checked rows in float64 on the host. y and weights may be None; NaN in x is missing."""

    x: Any
    y: Any
    weights: Any
    numbers: Any  # the number of each row in what the user gave
    units: Units | None = None  # the units of x, if it is in standard units
    name: str = "x"  # the argument that the rows came in

    def take(self, rows) -> Data:
        """Some of the rows, by index."""
        x, y, weights, numbers = (None if v is None else v[rows] for v in self[:4])
        return self._replace(x=x, y=y, weights=weights, numbers=numbers)

    @property
    def weight(self) -> float:
        """The sum of the weights."""
        return float(len(self.x) if self.weights is None else self.weights.sum())

    def log_volume(self) -> float:
        """Scores in standard units minus scores in the units of the data, in nats."""
        return 0.0 if self.units is None else self.units.log_volume(self.x, self.weights)


class Rows(NamedTuple):
    """Padded events, conditions and weights; the padding copies a real row and has weight 0."""

    x: Any
    y: Any
    weights: Any
    count: Any  # number of real rows, which come first
    events: Any  # number of events that they stand for, before weights were scaled


def pad(x, y, weights, each=1.0, size=None) -> Rows:
    """Checked float64 rows in JAX's default float dtype, padded to a size class.

    each: number of events that a unit of weight stands for.
    size: number of rows after padding, by default as few as a size class has.
    """
    n, size = len(x), size_class(len(x)) if size is None else size
    if size > 2 * n and size * math.prod(x.shape[1:]) > _COPIED:
        size = n
    dtype = jnp.result_type(float)
    weights = np.ones(n) if weights is None else weights
    events = np.asarray(weights.sum() * each, dtype)

    def fill(array, value):
        out = np.empty((size, *array.shape[1:]), _dtype(array, dtype))
        out[:n], out[n:] = array, value
        return jax.device_put(out)  # jnp.asarray would compile a program for each shape

    y = None if y is None else fill(y, y[0])
    return Rows(fill(x, x[0]), y, fill(weights, 0), np.int32(n), events)


def split_rows(rows: Rows, sharding: NamedSharding, own_rows: bool = False) -> tuple[Rows, Split]:
    """Rows that lie on several devices, and how; each share is padded with copies of weight 0.

    own_rows: whether arrays have a leading axis of members.
    """
    axis = 1 if own_rows else 0
    split = Split(sharding, np.shape(rows.weights)[axis])
    each = -(-split.size // split.count)
    # a round number, which divides into tiles of a round number of rows
    each = each if each < size_class(1) else size_class(each)
    more = each * split.count - split.size
    by_rows = NamedSharding(sharding.mesh, PartitionSpec(*[None] * axis, *sharding.spec))

    def put(v, fill=None):
        v = np.asarray(v)
        first = v[:, :1] if own_rows else v[:1]
        first = first if fill is None else np.full_like(first, fill)
        padded = np.concatenate([v, np.repeat(first, more, axis)], axis) if more else v
        return place(padded, by_rows)

    y = None if rows.y is None else put(rows.y)
    count, events = replicated((rows.count, rows.events), sharding)
    return Rows(put(rows.x), y, put(rows.weights, 0), count, events), split


def training_data(model, x, y, weights, missing=False):
    """Checked data in float64, of numbers that JAX's default float dtype can hold."""
    x, y, weights = inputs.training_data(model, x, y, weights, missing)
    check_range(x, "x")
    check_range(y, "y")
    check_range(weights, "weights")
    return x, y, weights


def for_init(x, y, weights):
    """Rows for ``model.init``: each at least once, repeated up to a size class.

    Missing values become their feature's mean. Repeating rows keeps ``init`` to few shapes, so that
    it compiles few programs. With weights there are twice as many rows, and those beyond the first
    n are repeated in proportion to the weights.
    """
    n = len(x)
    extra = size_class(n if weights is None else 2 * n) - n
    cdf = np.arange(1.0, n + 1) if weights is None else np.cumsum(weights)
    places = (np.arange(extra) + 0.5) / max(extra, 1) * cdf[-1]
    more = np.searchsorted(cdf, places, side="right").clip(max=n - 1)
    rows = np.concatenate([np.arange(n), more])
    return inputs.filled(x, np.nanmean)[rows], None if y is None else y[rows]


def event_weights(rows: Rows):
    """Weights that sum to the number of events."""
    weights = np.asarray(rows.weights)  # eager operations of JAX take longer
    return weights * (np.asarray(rows.events) / weights.sum())


def check_range(array, name: str) -> None:
    """Raise if a finite float64 value overflows JAX's default float dtype."""
    dtype = jnp.result_type(float)
    if array is None or array.dtype.kind != "f":
        return
    large = np.abs(array) > jnp.finfo(dtype).max
    if large.any():
        holds = f" holds {np.abs(array[large][0]):.3g}: rescale it or turn on jax_enable_x64"
        where = inputs.first_of(large, array, name)
        raise ValueError(Message(f"{name} must fit in {dtype}, but ", *where, holds))


def as_params(params: Any) -> Any:
    """Params as JAX arrays, floats in the default float dtype.

    Raises:
      ValueError: a finite value overflows that dtype.
    """
    dtype = jnp.result_type(float)

    def cast(leaf):
        leaf = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
        if getattr(leaf, "weak_type", False):  # lost in training, so a second fit would compile
            leaf = np.asarray(leaf)
        if not jnp.issubdtype(leaf.dtype, jnp.floating) or leaf.dtype == dtype:
            return leaf if isinstance(leaf, jax.Array) else jax.device_put(leaf.copy())
        wide = np.asarray(leaf, np.float64)
        with np.errstate(over="ignore"):
            narrow = wide.astype(dtype)
        if (np.isfinite(wide) & ~np.isfinite(narrow)).any():
            raise ValueError(
                f"x is too large: fitted params overflow {dtype}; rescale x or turn on "
                "jax_enable_x64"
            )
        return jax.device_put(narrow)

    return jax.tree_util.tree_map(cast, params)


def check_scores(model, params, rows: Rows, numbers, name, which="the starting", key=None) -> None:
    """Raise if the params give a real row no finite score.

    Args:
      numbers: the number of each row in what the user gave.
      name: the argument that the rows came in.
      which: which params they are, for the error.
      key: with a key, the score of a model that defines a loss is minus that loss, as in training:
        its density may be slow, or missing.
    """
    by_loss = key is not None and has_own_loss(model)
    score = _scores_missing if inputs.has_missing(rows.x) else _scores
    scores = np.asarray(score(model, by_loss, params, key, rows))[: int(rows.count)]
    bad = ~np.isfinite(scores)
    if bad.any():
        row = int(bad.argmax())
        what = f"a loss of {-scores[row]}" if by_loss else f"a log-density of {scores[row]}"
        if scores[row] == -np.inf and not by_loss:
            what = "zero density"
        whose = f"{name} cannot be fitted: {which} params give "
        under = f" {what} under {model} in {scores.dtype}"
        raise ValueError(Message(whose, places.row(numbers[row]), under))


def noise_key(model, key, number):
    """The folded key of a loss's noise; the key itself if the loss takes none, as hashes compile
    slowly."""
    if not jax.tree_util.tree_leaves(model.learning.noise, is_leaf=is_leaf):
        return key
    return jax.random.fold_in(key, number)


def has_own_loss(model: Any) -> bool:
    """Whether training minimises something other than the negative log-likelihood."""
    inside = inner_of(model)
    if inside:
        return model.provides("loss") and any(has_own_loss(inner.model) for inner in inside)
    return overrides(model, "loss")


def mean_score(model, params, key, rows: Rows, split: Split | None = None):
    """Weighted mean of minus the loss of the rows: for most models the mean log-likelihood.

    split: how the rows lie on devices, each of which then runs this on its own; None for one.
    """
    scores = _tiled_scores(model, True, params, key, rows, split=split)
    live = rows.weights > 0  # padding may not turn 0 x -inf into NaN
    weighted = jnp.where(live, rows.weights * jnp.where(live, scores, 0), 0)
    total, weight = weighted.sum(), rows.weights.sum()
    if split is not None:
        total, weight = split.total((total, weight))
    return total / weight


def _tiled_scores(
    model, by_loss, params, key, rows: Rows, missing=False, split: Split | None = None
):
    size = len(rows.x)
    on_one = size if split is None else split.size
    tile = on_one if on_one <= _TILE else min(_TILE, on_one & -on_one)
    part = tile
    if split is not None:
        part = size if on_one <= _TILE else math.gcd(size, tile)

    def cut(v):
        return v.reshape(-1, part, *v.shape[1:])

    def score(own):
        i, x, y = own
        if not by_loss:
            return batch.log_prob_rows(model, params, x, y, missing)
        number = 0
        if split is not None:  # the tile on one device, and the number within it
            first = split.first(size) + i.astype(jnp.uint32) * np.uint32(part)
            i, number = (first // tile, first % tile) if on_one > _TILE else (0, first)
        # rows are numbered from 0 in each tile, so each tile needs another key
        own_key = noise_key(model, key, i)
        return -batch.loss_rows(model, params, own_key, x, y, rows.events, number)

    tiles = jnp.arange(size // part), cut(rows.x), None if rows.y is None else cut(rows.y)
    return lax.map(score, tiles).reshape(size)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _scores(model, by_loss, params, key, rows):
    return _tiled_scores(model, by_loss, params, key, rows)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _scores_missing(model, by_loss, params, key, rows):
    return _tiled_scores(model, by_loss, params, key, rows, True)


@functools.partial(jax.jit, static_argnums=1)
def member_keys(key, members: int):
    """Keys of members, on a leading axis."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(members))


def _dtype(array, dtype):
    return dtype if array.dtype.kind == "f" else array.dtype
