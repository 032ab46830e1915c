"""A causal transformer, with a cache of keys and values for sampling."""

from __future__ import annotations

import functools
import math
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.core.spec import AtLeast, Count, Params
from jaxgen.networks.network import Network

_INITIAL = 0.02  # standard deviation of weights at the start, for a width of 128 or more
_LONGEST = 10000.0  # positions in the longest period of the rotary embedding, over 2 pi
_SMALLEST = 1e-6  # added to the mean square that a norm divides by
_NEVER = -1e9  # score of a position that attention does not see
_READ = 64  # fewest positions of a cache to read at once


class Transformer(Network):
    """A causal transformer: the features of a position depend on it and on earlier positions.

    Each layer adds causal self-attention, then a network of each position, to its input. Inputs of
    both are divided by their root mean square. Positions enter as rotations of keys and queries
    (rotary embedding), so that attention depends on distances alone, and params do not depend on
    the number of positions. There are no biases and no dropout.

    Args:
      width: features of a position, of the input as of the output; a multiple of ``2 heads``.
      heads: number of attention heads.
      layers: number of layers.
      expansion: hidden units of a layer's network, as a multiple of width. Its activation is the
        square of the positive part.

    Params: ``layers``, a list of dicts, and ``norm`` (width,).

    Source: Vaswani et al. 2017; Su et al. 2021 (rotary embedding); Zhang and Sennrich 2019 (root
    mean square); So et al. 2021 (squared activation).

    >>> network = jaxgen.networks.Transformer(width=16, layers=2)
    >>> params = network.init(key, (10, 16))
    >>> network.apply(params, jnp.zeros((10, 16))).shape
    (10, 16)
    """

    width: Annotated[int, AtLeast(2)] = 64  # type: ignore[misc]
    heads: Count = 4
    layers: Count = 4
    expansion: Count = 4

    takes_rows: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % (2 * self.heads):
            raise ValueError(
                f"Transformer: width must be a multiple of 2 heads = {2 * self.heads}, got "
                f"{self.width}"
            )

    def init(self, key: jax.Array, shape: tuple[int, ...]) -> Params:
        """Params for inputs (positions, width)."""
        width, hidden = self.width, self.expansion * self.width
        each = max(_INITIAL, _INITIAL * math.sqrt(128 / width))
        back = each / math.sqrt(2 * self.layers)  # so that the sum of all layers stays small
        sizes = {"qkv": (width, 3 * width), "out": (width, width)}
        sizes |= {"up": (width, hidden), "down": (hidden, width)}
        scales = {"qkv": each, "out": back, "up": each, "down": back}
        keys = iter(jax.random.split(key, len(sizes) * self.layers))
        layers = [
            {
                **{k: scales[k] * jax.random.normal(next(keys), size) for k, size in sizes.items()},
                "norm_1": jnp.ones(width),
                "norm_2": jnp.ones(width),
            }
            for _ in range(self.layers)
        ]
        return {"layers": layers, "norm": jnp.ones(width)}

    def apply(self, params: Params, x: jax.Array) -> jax.Array:
        """Features (*rows, positions, width) of inputs (*rows, positions, width)."""
        n = x.shape[-2]
        rotation = _rotation(np.arange(n), self._size, x.dtype)
        hidden_part = np.triu(np.full((n, n), _NEVER, x.dtype), 1)
        for layer in params["layers"]:
            q, k, v = self._heads(layer, x)
            q, k = (_rotated(part, rotation) for part in (q, k))
            scores = jnp.einsum("...qhd,...khd->...hqk", q, k) + hidden_part
            seen = jnp.einsum("...hqk,...khd->...qhd", jax.nn.softmax(scores, -1), v)
            x = self._after_attention(layer, x, seen)
        return _normed(x, params["norm"])

    def start(self, params: Params, positions: int, dtype: Any, rows: tuple[int, ...] = ()) -> Any:
        """An empty cache of keys and values for ``step``, with positions on the first axis."""
        empty = jnp.zeros((positions, *rows, self.heads, self._size), dtype)
        return [(empty, empty)] * self.layers

    def step(self, params: Params, cache: Any, x: jax.Array, i: Any) -> tuple[Any, jax.Array]:
        """The next cache, and the features (*rows, width) of position i from its input x.

        The cache must hold positions 0 .. i - 1.
        """
        rotation, known = _rotation(jnp.asarray(i), self._size, x.dtype), []
        for layer, (keys, values) in zip(params["layers"], cache, strict=True):
            q, k, v = self._heads(layer, x)
            q, k = (_rotated(part, rotation) for part in (q, k))
            # the keys of all rows and heads are one contiguous block of the cache
            keys = lax.dynamic_update_index_in_dim(keys, k, i, 0)
            values = lax.dynamic_update_index_in_dim(values, v, i, 0)
            known.append((keys, values))
            x = self._after_attention(layer, x, _attended(q, keys, values, i))
        return known, _normed(x, params["norm"])

    @property
    def _size(self) -> int:
        """Numbers in a head."""
        return self.width // self.heads

    def _heads(self, layer: Params, x: jax.Array) -> list[jax.Array]:
        """Queries, scaled, keys and values, each (..., heads, size), of inputs (..., width)."""
        parts = jnp.split(_normed(x, layer["norm_1"]) @ layer["qkv"], 3, -1)
        q, k, v = (part.reshape(*x.shape[:-1], self.heads, self._size) for part in parts)
        return [q * np.asarray(self._size**-0.5, x.dtype), k, v]

    def _after_attention(self, layer: Params, x: jax.Array, seen: jax.Array) -> jax.Array:
        x = x + seen.reshape(x.shape) @ layer["out"]
        hidden = jax.nn.relu(_normed(x, layer["norm_2"]) @ layer["up"])
        return x + (hidden * hidden) @ layer["down"]


def _attended(q: jax.Array, keys: jax.Array, values: jax.Array, i: Any) -> jax.Array:
    """Values (positions, ...) of positions 0 .. i, weighted by attention to their keys.

    It reads a start of the cache whose size is a power of two, so that the time does not grow with
    the positions that are still to come.
    """

    def of_first(count: int) -> jax.Array:
        later = jnp.where(jnp.arange(count) > i, _NEVER, 0).astype(q.dtype)
        # sums of products, which XLA fuses, are faster here than a product of many matrices
        scores = (q * keys[:count]).sum(-1) + later.reshape(-1, *[1] * (q.ndim - 1))
        return (jax.nn.softmax(scores, 0)[..., None] * values[:count]).sum(0)

    counts = [_READ]
    while counts[-1] < len(keys):
        counts.append(2 * counts[-1])
    if len(counts) == 1:
        return of_first(len(keys))
    counts[-1] = len(keys)
    which = (i >= np.array(counts[:-1])).sum()
    return lax.switch(which, [functools.partial(of_first, count) for count in counts])


def _normed(x: jax.Array, gain: jax.Array) -> jax.Array:
    mean_square = (x * x).mean(-1, keepdims=True)
    return x * lax.rsqrt(mean_square + np.asarray(_SMALLEST, x.dtype)) * gain


def _rotation(positions: Any, size: int, dtype: Any) -> tuple[Any, Any]:
    """Cosines and sines of the angles of positions (...), each (..., 1, size / 2)."""
    rates = _LONGEST ** (-2 * np.arange(size // 2) / size)
    xp = np if isinstance(positions, np.ndarray) else jnp
    angles = positions[..., None, None] * xp.asarray(rates, np.float64 if xp is np else dtype)
    return xp.cos(angles).astype(dtype), xp.sin(angles).astype(dtype)


def _rotated(x: jax.Array, rotation: tuple[Any, Any]) -> jax.Array:
    """Queries or keys (..., heads, size), rotated by the angles of their positions."""
    cos, sin = rotation
    first, second = jnp.split(x, 2, -1)
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], -1)
