"""Small networks as init / apply over dicts, for arrays whose features lead (see ``lanes``).

All are residual: h_1 = f(W_0 x), h_{l+1} = h_l + f(W_l h_l), out = V h_depth, each with a bias. A
bias goes into its matrix as a column, next to a feature that stays constant: on a CPU adding it
apart, and summing its gradient, takes longer than the small products themselves.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.core.spec import Count, Spec
from jaxgen.networks.domains import Domain
from jaxgen.networks.frame import Conditions

_ACTIVATIONS: dict[str, Any] = {  # each with its value at 1, and zero at 0
    "relu": (jax.nn.relu, 1.0),
    "silu": (jax.nn.silu, 0.7310585786300049),
}
_FINAL = 0.01  # size of the last layer at the start: an output near zero
_UNROLLED = 4
_GATHERED = 64  # features beyond which a product with an order's matrix takes longer
_TILES = (512, 64)
_TILE_NUMBERS = 2**20  # of a layer, that caches hold


class MLP(Spec):
    """A residual network that reads conditions y.

    Args:
      y_shape: shape of a condition.
      width: hidden units of a layer.
      depth: hidden layers.
      y_domain: where each number in y lives, of ``jaxgen.domains``; one for all, None for real
        numbers; ``Levels(10)`` for one of 10 labels.

    Source: He et al. 2016.
    """

    y_shape: tuple[int, ...]
    width: Count = 64
    depth: Count = 2
    y_domain: tuple[Domain, ...] | None = None

    def __post_init__(self):
        super().__post_init__()
        _ = self.conditions  # raises

    @property
    def conditions(self) -> Conditions:
        """How it is told of y."""
        return Conditions(self.y_shape, self.y_domain)

    def init(self, key, outputs: int) -> dict:
        """Params, with which the outputs are near zero."""
        return _first_of_stack(key, 1, self.conditions.count, outputs, self.width, self.depth)


def mlp_init(key, inputs: int, outputs: tuple[int, ...], width: int, depth: int) -> dict:
    """Params of a residual network, whose outputs are near zero at the start.

    ``in`` (width, inputs), ``hidden`` (depth - 1, width, width) and ``out`` (*outputs, width), each
    as ``w`` with its bias ``b``.
    """
    keys = jax.random.split(key, 3)
    return {
        "in": _dense(keys[0], (width, inputs), 1.0),
        "hidden": _dense(keys[1], (depth - 1, width, width), 0.5),
        "out": _dense(keys[2], (*outputs, width), _FINAL),
    }


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4, 5))
def mlp_stack(key, count: int, inputs: int, outputs: int, width: int, depth: int) -> dict:
    """Params of ``count`` networks, stacked: see ``mlp_init``."""
    start = functools.partial(mlp_init, inputs=inputs, outputs=(outputs,), width=width, depth=depth)
    return jax.vmap(start)(jax.random.split(key, count))


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4, 5))
def _first_of_stack(*args) -> dict:
    return jax.tree_util.tree_map(lambda v: v[0], mlp_stack(*args))


def mlp(params: dict, x, activation: str = "relu", zeros: int = 0):
    """Outputs (outputs, ...) of inputs x (inputs, ...), followed by so many that are 0."""
    f, one = _ACTIVATIONS[activation]
    h = f(_matrix(params["in"], 1.0) @ with_one(x))
    for own in _each_hidden(params):
        h = h + f(_matrix(own, 0.0, one) @ h)
    return _with_zeros(_matrix(params["out"], None, one), zeros) @ h


def with_one(x):
    """x (features, ...) with one more feature, which is 1."""
    return jnp.concatenate([x, jnp.ones((1, *x.shape[1:]), x.dtype)])


def through(layer, carry, stacked, reverse=False):
    """``carry`` after ``carry = layer(carry, own)`` for each entry of the leading axis of stacked.

    Few layers are written out, which is faster; more are a loop over as many at a time, so that a
    program's size, and the time to compile it, do not grow with depth.
    """
    count = len(jax.tree_util.tree_leaves(stacked)[0])
    if count > _UNROLLED:
        step = lambda carry, own: (layer(carry, own), None)  # noqa: E731
        # a remainder would be compiled apart
        at_once = next(u for u in range(_UNROLLED, 0, -1) if count % u == 0)
        return lax.scan(step, carry, stacked, reverse=reverse, unroll=at_once)[0]
    for i in range(count)[:: -1 if reverse else 1]:
        carry = layer(carry, jax.tree_util.tree_map(lambda v, i=i: v[i], stacked))
    return carry


def reorder(x, order):
    """x[order] of an order of all features; where few, without a scatter in its gradient."""
    if len(x) > _GATHERED:
        return jnp.take(x, order, axis=0, unique_indices=True)
    if isinstance(order, np.ndarray):
        if (order == np.arange(len(x))).all():
            return x
        if (order[::-1] == np.arange(len(x))).all():
            return x[::-1]
    chosen = (order[:, None] == np.arange(len(x))).astype(x.dtype)
    return jnp.matmul(chosen, x, precision=lax.Precision.HIGHEST)


def tile_of(widest: int) -> int:
    """Rows to work on at once where the widest layer holds ``widest`` numbers a row."""
    return next((tile for tile in _TILES if tile * widest <= _TILE_NUMBERS), _TILES[-1])


def _dense(key, shape, size):
    w = jax.random.normal(key, shape) * (size * (2 / max(shape[-1], 1)) ** 0.5)
    return {"w": w, "b": jnp.zeros(shape[:-1])}


def _each_hidden(params):
    hidden = params["hidden"]
    return [jax.tree_util.tree_map(lambda v, i=i: v[i], hidden) for i in range(len(hidden["b"]))]


def _matrix(layer, corner, one=1.0, mask=None):
    """[[W, b], [0, corner]], for an input whose last feature is ``one``; W, b alone for None."""
    w = layer["w"] if mask is None else jnp.where(mask, layer["w"], 0)
    top = jnp.concatenate([w, layer["b"][..., None] / one], -1)
    if corner is None:
        return top
    last = np.zeros((1, top.shape[-1]), top.dtype)
    last[0, -1] = corner
    return jnp.concatenate([top, last])


def _with_zeros(matrix, count):
    return jnp.pad(matrix, ((0, count), *[(0, 0)] * (matrix.ndim - 1)))


class Masked:
    """A network whose output i reads features 0 .. i - 1 (and y): Germain et al. 2015, "MADE".

    Hidden units are sorted by the last feature that they may read, so that the inverse computes
    each of them once (``step``).

    Args:
      dim: number of features.
      channels: numbers in which a feature comes in.
      given: numbers in y, which all units may read.
      outputs: numbers put out for each feature.
      zeros: further numbers put out, which are 0.
      width, depth: of the hidden layers.
    """

    def __init__(self, dim, channels, given, outputs, zeros, width, depth):
        self.dim, self.channels, self.given = dim, channels, given
        self.outputs, self.zeros = outputs, zeros
        self.width, self.depth = width, depth
        lowest = -1 if given or dim == 1 else 0  # -1: reads y alone
        rank = lowest + np.arange(width) * (dim - 1 - lowest) // width
        source = np.concatenate([np.tile(np.arange(dim), channels), np.full(given, -1)])
        self._may_read = (
            rank[:, None] >= source,
            rank[:, None] >= rank,
            np.arange(dim)[:, None] > rank,
        )
        # units that become ready with feature i - 1, by their first; those taken too early are
        # computed again when it is their turn, and nothing reads them before
        self._most = int(np.bincount(rank - lowest).max())
        first = np.searchsorted(rank, np.arange(dim) - 1)
        self._first = np.minimum(first, width - self._most).astype(np.int32)

    def init(self, key) -> dict:
        """Params; ``in`` takes features, then y; ``out`` is (outputs, dim, width)."""
        inputs = self.dim * self.channels + self.given
        return mlp_init(key, inputs, (self.outputs, self.dim), self.width, self.depth)

    def matrices(self, params):
        """The weights as ``apply`` and ``step`` take them."""
        first, hidden, last = self._may_read
        return (
            _matrix(params["in"], 1.0, mask=first),
            [_matrix(own, 0.0, mask=hidden) for own in _each_hidden(params)],
            _with_zeros(_matrix(params["out"], None, mask=last), self.zeros),
        )

    def apply(self, matrices, x, given):
        """Outputs (outputs, dim, ...) of features (channels, dim, ...) and y (given, ...)."""
        first, hidden, last = matrices
        known = jnp.concatenate(
            [x.reshape(self.dim * self.channels, *x.shape[2:]), with_one(given)]
        )
        h = jax.nn.relu(first @ known)
        for matrix in hidden:
            h = h + jax.nn.relu(matrix @ h)
        out = last.reshape(-1, self.width + 1) @ h
        return out.reshape(len(last), self.dim, *out.shape[1:])

    def start(self, matrices, given):
        """What ``step`` carries before any feature is known."""
        inputs = self.dim * self.channels
        fixed = matrices[0][:, inputs:] @ with_one(given)
        rows, dtype = given.shape[1:], fixed.dtype
        empty = jnp.zeros((self.width + 1, *rows), dtype).at[-1].set(1)
        return jnp.zeros((inputs, *rows), dtype), fixed, (empty,) * self.depth

    def step(self, matrices, carry, i):
        """The carry once features 0 .. i - 1 are known, and the outputs (outputs, ...) for i."""
        first, hidden, last = matrices
        x, fixed, layers = carry
        at = jnp.asarray(self._first)[i]

        def ready(v):
            return lax.dynamic_slice_in_dim(v, at, self._most)

        value, known = jax.nn.relu(ready(first)[:, : len(x)] @ x + ready(fixed)), []
        for layer, matrix in zip(layers, [*hidden, None], strict=True):
            known.append(lax.dynamic_update_slice_in_dim(layer, value, at, 0))
            if matrix is not None:
                value = value + jax.nn.relu(ready(matrix) @ known[-1])
        own = lax.dynamic_index_in_dim(last, i, 1, keepdims=False)
        return (x, fixed, tuple(known)), own @ known[-1]

    def learn(self, carry, i, x):
        """The carry with feature i, which comes in as x (channels, ...)."""
        known, fixed, layers = carry
        rows = known.reshape(self.channels, self.dim, *known.shape[1:])
        rows = lax.dynamic_update_slice_in_dim(rows, x[:, None], i, 1)
        return rows.reshape(known.shape), fixed, layers
