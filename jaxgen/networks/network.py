"""The base class of networks, and what models ask of a network.

A model puts a linear layer behind a network, so that a network may return any number of features
and knows nothing of the model. ``init_outputs`` and ``outputs`` are the two together.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.core import compiler
from jaxgen.core.methods import traced
from jaxgen.core.spec import Params, Spec
from jaxgen.networks.domains import Domain
from jaxgen.networks.frame import Conditions

_TILES = (512, 64)
_TILE_NUMBERS = 2**20  # numbers of a layer that fit in caches
FINAL = 0.01  # initial scale of the linear layer, for outputs near zero
_POSITIONS = 32  # most positions at which the order of a sequence network is checked
_FROM_PARAMS = 0.1  # deviation of the noise on params there: some start with layers of zeros
_TOLERANCE = 1e-4  # relative difference of results that rounding may cause


class Network(Spec):
    """Base of networks: a subclass has plain fields and defines ``init`` and ``apply``.

    A network of Flax, Equinox or Haiku is a subclass of a few lines that builds the module from the
    fields (see ``docs/networks.md``). Equal networks share compiled programs. A model file holds
    the fields and the params, and loading it needs the class.

    A network for ``compose.Conditional`` also has the field ``y_shape``, the shape of a condition,
    and may have ``y_domain``, as ``networks.MLP`` does.

    A network for sequences, as ``models.Autoregressive`` takes, has the field ``width``. Its inputs
    are (positions, width), its results (positions, features), and the features of a position may
    depend on inputs of this and of earlier positions only. It may define ``start`` and ``step``,
    which make samples faster.

    >>> class Tanh(jaxgen.networks.Network):
    ...     width: int = 16
    ...     def init(self, key, shape):
    ...         return {"w": jax.random.normal(key, (self.width, *shape))}
    ...     def apply(self, params, x):
    ...         return jnp.tanh(params["w"] @ x)
    >>> flow = jaxgen.models.FlowMatching(2, network=Tanh())
    >>> jaxgen.fit(flow, x, key=key, epochs=1).params["network"]["features"]["w"].shape
    (16, 8)
    """

    y_shape: ClassVar[tuple[int, ...] | None] = None
    y_domain: ClassVar[tuple[Domain, ...] | None] = None
    width: ClassVar[int]
    # Numbers in the widest layer for one input, by which models choose how many rows a CPU core
    # takes at once. The default suits any network.
    widest: ClassVar[int] = 4096
    # Whether apply, start and step take inputs with a first axis of rows; else they are vmapped.
    takes_rows: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.conditions  # raises if y_domain does not suit y_shape

    @property
    def conditions(self) -> Conditions:
        """The encoding of y as inputs of the network."""
        domain = self.y_domain
        return Conditions(self.y_shape, (domain,) if isinstance(domain, Spec) else domain)

    def init(self, key: jax.Array, shape: tuple[int, ...]) -> Params:
        """Params for one input of the shape: a dict, which may be nested, of arrays of floats."""
        raise NotImplementedError(f"{type(self).__name__} must define init")

    def apply(self, params: Params, x: jax.Array) -> jax.Array:
        """Features of one input: an array of floats of any shape."""
        raise NotImplementedError(f"{type(self).__name__} must define apply")

    def apply_rows(self, params: Params, x: jax.Array, rows: int = 1) -> jax.Array:
        """Features (*rows, ...) of inputs (*rows, *shape) with so many axes of rows."""
        if self.takes_rows or not rows:
            return self.apply(params, x)
        apply = functools.partial(self.apply, params)
        return functools.reduce(lambda one, _: jax.vmap(one), range(rows), apply)(x)

    def tile(self, shape: tuple[int, ...]) -> int:
        """The number of inputs of the shape that a CPU core computes at once."""
        return tile_of(self.widest)

    def for_events(self, shape: tuple[int, ...]) -> Network:
        """The network for a model of events of the shape: a decoder of images needs to know it."""
        return self

    # For sequences. By default every step applies the network to all inputs so far.

    def start(self, params: Params, positions: int, dtype: Any, rows: tuple[int, ...] = ()) -> Any:
        """An empty cache for ``step``, for sequences of at most so many positions.

        rows are the axes of rows, for a network that takes them.
        """
        return jnp.zeros((positions, self.width), dtype)

    def step(self, params: Params, cache: Any, x: jax.Array, i: Any) -> tuple[Any, jax.Array]:
        """The next cache, and the features (features,) of position i from its input x (width,).

        The cache must hold positions 0 .. i - 1.
        """
        cache = lax.dynamic_update_index_in_dim(cache, x, i, 0)
        features = self.apply(params, cache)
        return cache, lax.dynamic_index_in_dim(features, i, 0, keepdims=False)

    def rows_cache(
        self, params: Params, positions: int, dtype: Any, rows: tuple[int, ...]
    ) -> tuple[Any, Callable[[Any, jax.Array, Any], tuple[Any, jax.Array]]]:
        """An empty cache for sequences with axes of rows, at most one, and its ``step``.

        The step is a function of (cache, x, i), with x (*rows, width), that returns the next cache
        and features (*rows, features).
        """
        step = functools.partial(self.step, params)
        if self.takes_rows:
            return self.start(params, positions, dtype, rows), step
        cache = self.start(params, positions, dtype)
        if rows:
            step = jax.vmap(step, (0, 0, None))
            copies = lambda v: jnp.broadcast_to(v, (*rows, *v.shape))  # noqa: E731
            cache = jax.tree_util.tree_map(copies, cache)
        return cache, step

    # The network and a linear layer behind it. Networks with faster code for this override both.

    def init_outputs(self, key: jax.Array, shape: tuple[int, ...], count: int) -> Params:
        """Params of the network, ``features``, and of a layer, ``out``, whose outputs are near 0.

        Args:
          shape: shape of one input of the network.
          count: number of outputs.

        Raises:
          TypeError: the network does not suit the shape, or is not what ``Network`` states.
        """
        return _init_outputs(self, key, shape, count)

    def outputs(self, params: Params, x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Outputs (count, ...) for inputs x (*shape, ...), with rows, if any, on the last axis."""

        def one(x: jax.Array) -> jax.Array:
            out, features = params["out"], self.apply(params["features"], x)
            return out["w"] @ features.reshape(-1) + out["b"]

        return jax.vmap(one, -1, -1)(x) if x.ndim > len(shape) else one(x)


def tile_of(widest: int) -> int:
    """The number of rows to compute at once if the widest layer has ``widest`` numbers per row."""
    return next((tile for tile in _TILES if tile * widest <= _TILE_NUMBERS), _TILES[-1])


def init_checked(network: Network, key: jax.Array, shape: tuple[int, ...]) -> Params:
    """``network.init(key, shape)``, if it returns params and nothing else.

    Raises:
      TypeError: ``init`` raises an error, or returns anything but a dict of arrays of floats; the
        message names the class and what it returns.
    """
    name, found = type(network).__name__, []

    def init(key: jax.Array) -> tuple[()]:
        found.append(network.init(key, shape))
        return ()

    traced(f"{name}.init", init, key)
    _check_params(f"{name}.init", found[0])
    return network.init(key, shape)


def shape_of_features(network: Network, params: Params, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of ``network.apply(params, x)`` for x of the shape.

    Raises:
      TypeError: ``apply`` raises an error, as it does for a network with state, or returns anything
        but one array of floats.
    """
    where = f"{type(network).__name__}.apply"
    x = jax.ShapeDtypeStruct(shape, jnp.result_type(float))
    out = traced(where, lambda x: network.apply(params, x), x)
    if not hasattr(out, "dtype") or not jnp.issubdtype(out.dtype, jnp.floating):
        raise TypeError(f"{where} must return one array of floats, got {out!r:.80}")
    return out.shape


@functools.lru_cache(maxsize=256)
def check_causal(network: Network, positions: int) -> None:
    """Raise if features of a position depend on inputs of later positions.

    It applies a network with random params to random sequences (positions, width) that differ in
    the input of one position, of the first 32.

    Raises:
      TypeError: the network is not what ``Network`` states; it has no ``width``, or the number of
        positions of its results is another.
      ValueError: the network is not causal; the message names two positions.

    >>> check_causal(jaxgen.networks.Transformer(16), 8)
    """
    name, n = type(network).__name__, min(positions, _POSITIONS)
    width = getattr(network, "width", None)
    if width is None:
        raise TypeError(f"{name} must have the field width, the size of the input of a position")
    run = functools.partial(_one_input_changed, network, n, width)
    program = jax.jit(run).lower().compile(compiler.quick_options(jax.default_backend()))
    out = np.asarray(program())  # unlike a call of jax.jit, computed within a trace too
    if out.shape[1] != n:
        raise TypeError(
            f"{name}.apply must return features of each position, (positions, features); got "
            f"shape {out.shape[1:]} for inputs ({n}, {width})"
        )
    gap = np.abs(out[1:] - out[0]).reshape(n, n, -1).max(-1)  # [changed, position of the result]
    depends = np.argwhere(np.tril(gap > _TOLERANCE * np.abs(out).max(), -1).T)
    if len(depends):
        at, changed = depends[0]
        raise ValueError(
            f"{name} must be causal: its output at position {at} depends on the input at position "
            f"{changed}"
        )


@functools.partial(compiler.jit, quick=True, static_argnums=(0, 2, 3))
def _init_outputs(network: Network, key: jax.Array, shape: tuple[int, ...], count: int) -> Params:
    keys = jax.random.split(key)
    params = init_checked(network, keys[0], shape)
    inputs = math.prod(shape_of_features(network, params, shape))
    w = FINAL * (2 / max(inputs, 1)) ** 0.5 * jax.random.normal(keys[1], (count, inputs))
    return {"features": params, "out": {"w": w, "b": jnp.zeros(count)}}


def _one_input_changed(network: Network, n: int, width: int) -> jax.Array:
    """Results (n + 1, n, features) for a sequence, then for it with one input changed, in order."""
    keys = jax.random.split(jax.random.key(0), 3)
    params = init_checked(network, keys[0], (n, width))
    shape_of_features(network, params, (n, width))
    leaves, tree = jax.tree_util.tree_flatten(params)
    noise = jax.random.split(keys[1], len(leaves))
    leaves = [
        v + _FROM_PARAMS * jax.random.normal(k, v.shape, v.dtype)
        for k, v in zip(noise, leaves, strict=True)
    ]
    x = jax.random.normal(keys[2], (2, n, width))
    changed = jnp.where(jnp.eye(n, dtype=bool)[..., None], x[1], x[0])
    inputs = jnp.concatenate([x[:1], changed])
    params = jax.tree_util.tree_unflatten(tree, leaves)
    return jax.vmap(network.apply, (None, 0))(params, inputs)


def _check_params(where: str, params: Any) -> None:
    if type(params) is not dict:
        raise TypeError(
            f"{where} must return params, a dict of arrays of floats; got a "
            f"{type(params).__name__}: see docs/networks.md"
        )
    if "params" in params and len(params) > 1:
        raise TypeError(
            f"{where} must return params alone, but got the collections {sorted(params)}: a "
            "network has no state, so use GroupNorm or RMSNorm in place of BatchNorm"
        )
    _check_leaves(where, "", params)


def _check_leaves(where: str, place: str, node: Any) -> None:
    if type(node) in (dict, list, tuple):
        for key, value in node.items() if type(node) is dict else enumerate(node):
            _check_leaves(where, f"{place}/{key}" if place else str(key), value)
        return
    is_array = isinstance(node, (jax.Array, np.ndarray))
    if not is_array or not jnp.issubdtype(node.dtype, jnp.floating):
        got = f"an array of {node.dtype}" if is_array else f"a {type(node).__name__}"
        raise TypeError(
            f"{where} must return params alone, arrays of floats, but {place!r} is {got}: "
            "counters, keys and other state are no params"
        )
