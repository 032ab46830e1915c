"""Small residual networks, for arrays with features on the first axis (see ``lanes``).

h_1 = f(W_0 x), h_{l+1} = h_l + f(W_l h_l), out = V h_depth, each with a bias. A bias is a column of
its matrix, which multiplies a constant feature: on a CPU, a separate addition of the bias, and the
sum in its gradient, take longer than the small matrix products.
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

from jaxgen.core import compiler
from jaxgen.core.spec import Count, Params
from jaxgen.networks.domains import Domain
from jaxgen.networks.network import FINAL, Network

_ACTIVATIONS: dict[str, Any] = {  # function and its value at 1; the value at 0 is 0
    "relu": (jax.nn.relu, 1.0),
    "silu": (jax.nn.silu, 0.7310585786300049),
}
# Standard deviation that levels give a hidden unit at the start, relative to that of all other
# inputs together. If a level had the weights of any other input, a network of many features would
# overfit before it learnt the effect of levels.
_LEVELS = 1.5
_UNROLLED = 4  # layers to unroll
_GATHERED = 64  # with more features, a gather is faster than a product with a permutation matrix


class MLP(Network):
    """A residual network, whose inputs are flattened and whose features are its last hidden layer.

    Args:
      y_shape: shape of a condition, for ``compose.Conditional``; None for other models.
      width: hidden units of a layer.
      depth: number of hidden layers.
      y_domain: the domain of each number in y (see ``jaxgen.domains``), or one domain for all; None
        for real numbers; ``Levels(10)`` for one of 10 labels.

    Params: ``in`` (width, inputs) and ``hidden`` (depth - 1, width, width), each with weights ``w``
    and a bias ``b``; in models also ``out`` (outputs, width).

    Source: He et al. 2016.

    >>> jaxgen.networks.MLP((2,), width=16)
    MLP(y_shape=(2,), width=16, depth=2, y_domain=None)
    """

    y_shape: tuple[int, ...] | None = None  # type: ignore[misc]
    width: Count = 64  # type: ignore[misc]
    depth: Count = 2
    y_domain: tuple[Domain, ...] | None = None  # type: ignore[misc]

    @property
    def widest(self) -> int:
        return self.width

    def init(self, key: jax.Array, shape: tuple[int, ...]) -> Params:
        params = self.init_outputs(key, shape, 1)
        return {name: params[name] for name in ("in", "hidden")}

    def apply(self, params: Params, x: jax.Array) -> jax.Array:
        return _last_hidden(params, x.reshape(-1), "relu")[:-1]

    def apply_rows(self, params: Params, x: jax.Array, rows: int = 1) -> jax.Array:
        # rows on the first axis: the products of vmap would be slower
        h = jax.nn.relu(_dense_rows(params["in"], x.reshape(*x.shape[:rows], -1)))
        for layer in _each_hidden(params):
            h = h + jax.nn.relu(_dense_rows(layer, h))
        return h

    def init_outputs(self, key: jax.Array, shape: tuple[int, ...], count: int) -> Params:
        # levels are treated as numbers here, since no features compete with them
        return _first_of_stack(key, 1, math.prod(shape), (), count, self.width, self.depth)

    def outputs(self, params: Params, x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return mlp(params, x.reshape(-1, *x.shape[len(shape) :]))


def mlp_init(
    key: jax.Array,
    numbers: int,
    levels: tuple[int, ...],
    outputs: tuple[int, ...],
    width: int,
    depth: int,
) -> Params:
    """Params of a residual network whose outputs are near zero at the start.

    They are ``in`` (width, inputs), ``hidden`` (depth - 1, width, width) and ``out``
    (*outputs, width), each with weights ``w`` and a bias ``b``. The column of a level in ``in`` is
    its embedding, whose effect at the start is larger than that of all other inputs together.

    Args:
      numbers: number of inputs that are not levels; they come first.
      levels: number of categories of each categorical input, whose inputs are one-hot.
    """
    keys = jax.random.split(key, 3)
    inputs = numbers + sum(levels)
    scale = np.full(inputs, (2 / max(inputs, 1)) ** 0.5)
    scale[numbers:] *= _LEVELS * (max(numbers, 1) / max(len(levels), 1)) ** 0.5
    return {
        "in": _dense(keys[0], (width, len(scale)), scale),
        "hidden": _dense(keys[1], (depth - 1, width, width), 0.5 * (2 / width) ** 0.5),
        "out": _dense(keys[2], (*outputs, width), FINAL * (2 / width) ** 0.5),
    }


@functools.partial(compiler.jit, quick=True, static_argnums=(1, 2, 3, 4, 5, 6))
def mlp_stack(
    key: jax.Array,
    count: int,
    numbers: int,
    levels: tuple[int, ...],
    outputs: int,
    width: int,
    depth: int,
) -> Params:
    """Params of ``count`` networks on a leading axis: see ``mlp_init``."""

    def start(key: jax.Array) -> Params:
        return mlp_init(key, numbers, levels, (outputs,), width, depth)

    return jax.vmap(start)(jax.random.split(key, count))


@functools.partial(compiler.jit, quick=True, static_argnums=(1, 2, 3, 4, 5, 6))
def _first_of_stack(*args: Any) -> Params:
    return jax.tree_util.tree_map(lambda v: v[0], mlp_stack(*args))


def mlp(params: Params, x: jax.Array, activation: str = "relu", zeros: int = 0) -> jax.Array:
    """Outputs (outputs + zeros, ...) for inputs x (inputs, ...); the last ``zeros`` are 0."""
    h = _last_hidden(params, x, activation)
    _, one = _ACTIVATIONS[activation]
    return _with_zeros(_matrix(params["out"], None, one), zeros) @ h


def _last_hidden(params: Params, x: jax.Array, activation: str) -> jax.Array:
    """The last hidden layer (width + 1, ...), of which the last number multiplies biases."""
    f, one = _ACTIVATIONS[activation]
    h = f(_matrix(params["in"], 1.0) @ with_one(x))
    for layer in _each_hidden(params):
        h = h + f(_matrix(layer, 0.0, one) @ h)
    return h


def with_one(x: jax.Array) -> jax.Array:
    """x (features, ...) with one more feature, which is 1."""
    return jnp.concatenate([x, jnp.ones((1, *x.shape[1:]), x.dtype)])


def scan_layers(
    layer: Callable[[Any, Any], Any], carry: Any, stacked: Any, reverse: bool = False
) -> Any:
    """The carry after ``carry = layer(carry, params)`` for the params of each layer.

    A few layers are unrolled, which is faster. More layers are a loop, partly unrolled, so that the
    size of the program and its compilation time do not grow with depth.

    Args:
      stacked: pytree with a leading axis of layers.
      reverse: whether the last layer comes first.
    """
    count = len(jax.tree_util.tree_leaves(stacked)[0])
    if count > _UNROLLED:
        step = lambda carry, params: (layer(carry, params), None)  # noqa: E731
        # a divisor of the count: a remainder would be compiled separately
        at_once = next(u for u in range(_UNROLLED, 0, -1) if count % u == 0)
        return lax.scan(step, carry, stacked, reverse=reverse, unroll=at_once)[0]
    for i in range(count)[:: -1 if reverse else 1]:
        carry = layer(carry, jax.tree_util.tree_map(lambda v, i=i: v[i], stacked))
    return carry


def reorder(x: jax.Array, order: Any) -> jax.Array:
    """x[order] for a permutation of the features; the gradient for few features has no scatter."""
    if len(x) > _GATHERED:
        return jnp.take(x, order, axis=0, unique_indices=True)
    if isinstance(order, np.ndarray):
        if (order == np.arange(len(x))).all():
            return x
        if (order[::-1] == np.arange(len(x))).all():
            return x[::-1]
    chosen = (order[:, None] == np.arange(len(x))).astype(x.dtype)
    return jnp.matmul(chosen, x, precision=lax.Precision.HIGHEST)


def _dense(key: jax.Array, shape: tuple[int, ...], scale: Any) -> Params:
    """Normal weights, with a scale for each input or one for all, and biases of 0."""
    w = jax.random.normal(key, shape)
    scales = jnp.asarray(np.broadcast_to(scale, shape), w.dtype)
    return {"w": w * scales, "b": jnp.zeros(shape[:-1])}


def _dense_rows(layer: Params, x: jax.Array) -> jax.Array:
    """W x + b for x (*rows, inputs), (*rows, outputs)."""
    return lax.dot_general(x, layer["w"], (((x.ndim - 1,), (1,)), ((), ()))) + layer["b"]


def _each_hidden(params: Params) -> list[Params]:
    hidden = params["hidden"]
    return [jax.tree_util.tree_map(lambda v, i=i: v[i], hidden) for i in range(len(hidden["b"]))]


def _matrix(layer: Params, corner: float | None, one: float = 1.0, mask: Any = None) -> jax.Array:
    """[[W, b / one], [0, corner]], for inputs whose last feature is ``one``.

    The last row is left out if corner is None.
    """
    w = layer["w"] if mask is None else jnp.where(mask, layer["w"], 0)
    top = jnp.concatenate([w, layer["b"][..., None] / one], -1)
    if corner is None:
        return top
    last = np.zeros((1, top.shape[-1]), top.dtype)
    last[0, -1] = corner
    return jnp.concatenate([top, last])


def _with_zeros(matrix: jax.Array, count: int) -> jax.Array:
    return jnp.pad(matrix, ((0, count), *[(0, 0)] * (matrix.ndim - 1)))


class Masked:
    """A network whose output i depends on features 0 .. i - 1, and on a context such as y.

    Hidden units are sorted by the last feature that they may read, so that the inverse computes
    each of them once (see ``step``).

    Args:
      dim: number of features.
      channels: inputs for each feature.
      context: inputs of the context, which all units may read.
      outputs: outputs for each feature.
      zeros: further outputs for each feature, which are 0.
      width: hidden units of a layer.
      depth: number of hidden layers.
      levels: number of categories of each level in the context, whose inputs are its last ones.

    Source: Germain et al. 2015, "MADE: masked autoencoder for distribution estimation".
    """

    def __init__(
        self,
        dim: int,
        channels: int,
        context: int,
        outputs: int,
        zeros: int,
        width: int,
        depth: int,
        levels: tuple[int, ...] = (),
    ):
        self.dim, self.channels, self.context = dim, channels, context
        self.levels = levels
        self.outputs, self.zeros = outputs, zeros
        self.width, self.depth = width, depth
        lowest = -1 if context or dim == 1 else 0  # -1: reads the context alone
        rank = lowest + np.arange(width) * (dim - 1 - lowest) // width
        source = np.concatenate([np.tile(np.arange(dim), channels), np.full(context, -1)])
        self._may_read = (
            rank[:, None] >= source,
            rank[:, None] >= rank,
            np.arange(dim)[:, None] > rank,
        )
        # the first of the units that can be computed once feature i - 1 is known; all slices have
        # one size, so some units are computed too early, read by nothing, and computed again later
        self._most = int(np.bincount(rank - lowest).max())
        first = np.searchsorted(rank, np.arange(dim) - 1)
        self._first = np.minimum(first, width - self._most).astype(np.int32)

    def init(self, key: jax.Array) -> Params:
        """Params as in ``mlp_init``; inputs are features, then the context."""
        numbers = self.dim * self.channels + self.context - sum(self.levels)
        outputs = self.outputs, self.dim
        return mlp_init(key, numbers, self.levels, outputs, self.width, self.depth)

    @property
    def masked_weights(self) -> int:
        """The number of weights in the params that the masks leave out."""
        first, hidden, last = (int((~mask).sum()) for mask in self._may_read)
        return first + (self.depth - 1) * hidden + self.outputs * last

    def matrices(self, params: Params) -> Any:
        """The masked matrices, for the other methods."""
        first, hidden, last = self._may_read
        return (
            _matrix(params["in"], 1.0, mask=first),
            [_matrix(layer, 0.0, mask=hidden) for layer in _each_hidden(params)],
            _with_zeros(_matrix(params["out"], None, mask=last), self.zeros),
        )

    def apply(self, matrices: Any, x: jax.Array, context: jax.Array) -> jax.Array:
        """Outputs (outputs + zeros, dim, ...) of x (channels, dim, ...) and (context, ...)."""
        first, hidden, last = matrices
        features = x.reshape(self.dim * self.channels, *x.shape[2:])
        h = jax.nn.relu(first @ jnp.concatenate([features, with_one(context)]))
        for matrix in hidden:
            h = h + jax.nn.relu(matrix @ h)
        out = last.reshape(-1, self.width + 1) @ h
        return out.reshape(len(last), self.dim, *out.shape[1:])

    def start(self, matrices: Any, context: jax.Array) -> Any:
        """The carry of ``step`` before any feature is known, for a context (context, ...)."""
        inputs = self.dim * self.channels
        fixed = matrices[0][:, inputs:] @ with_one(context)
        rows, dtype = context.shape[1:], fixed.dtype
        empty = jnp.zeros((self.width + 1, *rows), dtype).at[-1].set(1)
        return jnp.zeros((inputs, *rows), dtype), fixed, (empty,) * self.depth

    def step(self, matrices: Any, carry: Any, i: Any) -> tuple[Any, jax.Array]:
        """The next carry and the outputs (outputs + zeros, ...) for feature i.

        The carry must hold features 0 .. i - 1.
        """
        first, hidden, last = matrices
        x, fixed, layers = carry
        at = jnp.asarray(self._first)[i]

        def ready(v: jax.Array) -> jax.Array:
            return lax.dynamic_slice_in_dim(v, at, self._most)

        value, known = jax.nn.relu(ready(first)[:, : len(x)] @ x + ready(fixed)), []
        for layer, matrix in zip(layers, [*hidden, None], strict=True):
            known.append(lax.dynamic_update_slice_in_dim(layer, value, at, 0))
            if matrix is not None:
                value = value + jax.nn.relu(ready(matrix) @ known[-1])
        of_feature = lax.dynamic_index_in_dim(last, i, 1, keepdims=False)
        return (x, fixed, tuple(known)), of_feature @ known[-1]

    def insert(self, carry: Any, i: Any, x: jax.Array) -> Any:
        """The carry with the inputs x (channels, ...) of feature i."""
        known, fixed, layers = carry
        rows = known.reshape(self.channels, self.dim, *known.shape[1:])
        rows = lax.dynamic_update_slice_in_dim(rows, x[:, None], i, 1)
        return rows.reshape(known.shape), fixed, layers
