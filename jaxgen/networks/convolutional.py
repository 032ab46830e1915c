"""Convolutional networks of images: an encoder, a decoder and a U-Net.

Arrays are (*rows, height, width, channels), with any number of axes of rows. Images are halved by
products of 2 x 2 blocks of pixels, and doubled likewise. Where a size is odd, an image is padded
with zeros before it is halved, and cut after it is doubled.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Annotated, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.core.spec import AtLeast, Count, Params
from jaxgen.networks.network import Network

_GROUP = 8  # channels in a group of a norm
_SMALLEST = 1e-5  # added to the variance that a norm divides by
_RESIDUAL = 0.1  # scale of the last weights of a block at the start, relative to the first
_IN_CACHE = 2**17  # numbers of the largest images, whose patches are in a core's cache
Halvings = Annotated[int, AtLeast(0)]


class _Convolutional(Network):
    """Base of networks with the fields ``width`` and ``halvings``."""

    halvings: ClassVar[int]
    takes_rows: ClassVar[bool] = True

    def tile(self, shape: tuple[int, ...]) -> int:
        numbers = math.prod(shape[:2]) * self.width
        return max(_IN_CACHE // numbers, 1)

    def _channels(self, level: int) -> int:
        """Channels of images that were halved so many times: they double once."""
        return self.width * min(2**level, 2)


class ConvEncoder(_Convolutional):
    """A residual network from an image to a vector, by convolutions.

    Images are halved ``halvings`` times, with a residual block before each and one at the end. The
    features are the last image, flattened.

    Args:
      width: channels of the first images; smaller images have twice as many.
      halvings: number of times that an image is halved.

    Params: ``in``, ``blocks`` and ``down``, one for each size of images.

    Source: He et al. 2016; Wu and He 2018, "Group normalization".

    >>> network = jaxgen.networks.ConvEncoder(8)
    >>> network.apply(network.init(key, (28, 28, 1)), jnp.zeros((28, 28, 1))).shape
    (784,)
    """

    width: Count = 32  # type: ignore[misc]
    halvings: Halvings = 2  # type: ignore[misc]

    def init(self, key: jax.Array, shape: tuple[int, ...]) -> Params:
        """Params for images (height, width, channels)."""
        each = [self._channels(i) for i in range(self.halvings + 1)]
        layers = {
            "in": _convolution_of(_channels_of(shape), each[0]),
            "blocks": [_block_of(channels) for channels in each],
            "down": [_dense_of(4 * a, b) for a, b in itertools.pairwise(each)],
        }
        return _start(key, layers)

    def apply(self, params: Params, x: jax.Array) -> jax.Array:
        """Features (*rows, numbers) of images (*rows, height, width, channels)."""
        x, rows = _images(x)
        h = _convolution(params["in"], x)
        for block, down in zip(params["blocks"], params["down"], strict=False):
            h = _dense(down, _halved(_block(block, h)))
        h = jax.nn.silu(_normed(_block(params["blocks"][-1], h)))
        return h.reshape(*rows, -1)


class ConvDecoder(_Convolutional):
    """A residual network from a vector to an image, by convolutions: ``ConvEncoder`` in reverse.

    Args:
      width: channels of the last images, the features; smaller images have twice as many.
      halvings: number of times that an image is doubled.
      shape: height and width of the image; None for those of the events of a model.

    Params: ``in``, ``blocks`` and ``up``, one for each size of images.

    >>> network = jaxgen.networks.ConvDecoder(8, shape=(28, 28))
    >>> network.apply(network.init(key, (10,)), jnp.zeros(10)).shape
    (28, 28, 8)
    """

    width: Count = 32  # type: ignore[misc]
    halvings: Halvings = 2  # type: ignore[misc]
    shape: tuple[Count, ...] | None = None

    def for_events(self, shape: tuple[int, ...]) -> Network:
        if self.shape is not None or len(shape) < 2:
            return self
        return dataclasses.replace(self, shape=shape[:2])

    def tile(self, shape: tuple[int, ...]) -> int:
        return super().tile(self.shape or (1, 1))

    def init(self, key: jax.Array, shape: tuple[int, ...]) -> Params:
        """Params for vectors of the shape (numbers,)."""
        if self.shape is None or len(self.shape) != 2:
            raise ValueError(f"ConvDecoder: shape must be (height, width), got {self.shape}")
        each = [self._channels(i) for i in range(self.halvings + 1)]
        smallest = math.prod(_sizes(self.shape, self.halvings)[-1]) * each[-1]
        layers = {
            "in": _dense_of(math.prod(shape), smallest),
            "blocks": [_block_of(channels) for channels in each],
            "up": [_dense_of(b, 4 * a) for a, b in itertools.pairwise(each)],
        }
        return _start(key, layers)

    def apply(self, params: Params, x: jax.Array) -> jax.Array:
        """Features (*rows, height, width, self.width) of vectors (*rows, numbers)."""
        rows = x.shape[:-1]
        sizes = _sizes(self.shape or (1, 1), self.halvings)
        h = _dense(params["in"], x.reshape(-1, x.shape[-1]))
        h = _block(params["blocks"][-1], h.reshape(len(h), *sizes[-1], -1))
        for i in range(self.halvings)[::-1]:
            h = _doubled(_dense(params["up"][i], h), sizes[i])
            h = _block(params["blocks"][i], h)
        h = jax.nn.silu(_normed(h))
        return h.reshape(*rows, *h.shape[1:])


class UNet(_Convolutional):
    """A network from an image to an image of the same size, by convolutions on several sizes.

    The image is halved ``halvings`` times and doubled as often; images of one size on the way up
    get those on the way down added. Each residual block has its norms scaled and shifted by the
    context, such as a time and a condition.

    Args:
      width: channels of the largest images, and of the features; smaller ones have twice as many.
      halvings: number of times that an image is halved.
      channels: number of channels of the input that are the image; the others, which are constant
        over its places, are the context. None for those of the events of a model, or for all.

    Params: ``in``, ``down``, ``up``, and ``blocks``, ``context`` on the way down and up.

    Source: Ronneberger et al. 2015, "U-Net"; Dhariwal and Nichol 2021 (norms that depend on the
    context).

    >>> network = jaxgen.networks.UNet(8)
    >>> network.apply(network.init(key, (28, 28, 1)), jnp.zeros((28, 28, 1))).shape
    (28, 28, 8)
    """

    width: Count = 32  # type: ignore[misc]
    halvings: Halvings = 2  # type: ignore[misc]
    channels: Count | None = None

    def for_events(self, shape: tuple[int, ...]) -> Network:
        if self.channels is not None or len(shape) < 2:
            return self
        return dataclasses.replace(self, channels=math.prod(shape[2:]))

    def init(self, key: jax.Array, shape: tuple[int, ...]) -> Params:
        """Params for inputs (height, width, channels)."""
        each = [self._channels(i) for i in range(self.halvings + 1)]
        image = min(self.channels or _channels_of(shape), _channels_of(shape))
        context, hidden = _channels_of(shape) - image, 4 * self.width
        order = [*each, *each[:-1][::-1]]  # channels of the blocks
        layers: dict[str, Any] = {
            "in": _convolution_of(image, each[0]),
            "blocks": [_block_of(channels) for channels in order],
            "down": [_dense_of(4 * a, b) for a, b in itertools.pairwise(each)],
            "up": [_dense_of(b, 4 * a) for a, b in itertools.pairwise(each)],
        }
        if context:
            layers["context"] = _dense_of(context, hidden)
            layers["modulations"] = [_dense_of(hidden, 2 * c, _RESIDUAL) for c in order]
        return _start(key, layers)

    def apply(self, params: Params, x: jax.Array) -> jax.Array:
        """Features (*rows, height, width, features) of (*rows, height, width, channels)."""
        x, rows = _images(x)
        image = params["in"]["w"].shape[2]
        modulations: list[Any] = [None] * len(params["blocks"])
        if "context" in params:
            context = jax.nn.silu(_dense(params["context"], x[:, 0, 0, image:]))
            modulations = [_dense(m, context)[:, None, None] for m in params["modulations"]]
        blocks = iter(zip(params["blocks"], modulations, strict=True))
        h, known = _convolution(params["in"], x[..., :image]), []
        for down in params["down"]:
            h = _block(*_with(next(blocks), h))
            known.append(h)
            h = _dense(down, _halved(h))
        h = _block(*_with(next(blocks), h))
        for up, skip in zip(params["up"][::-1], known[::-1], strict=True):
            h = _doubled(_dense(up, h), skip.shape[1:3]) + skip
            h = _block(*_with(next(blocks), h))
        h = jax.nn.silu(_normed(h))
        return h.reshape(*rows, *h.shape[1:])


def _with(block: tuple[Params, Any], h: jax.Array) -> tuple[Params, jax.Array, Any]:
    return block[0], h, block[1]


def _images(x: jax.Array) -> tuple[jax.Array, tuple[int, ...]]:
    """x as images (n, height, width, channels), and the axes of rows that it has."""
    return x.reshape(-1, *x.shape[-3:]), x.shape[:-3]


def _channels_of(shape: tuple[int, ...]) -> int:
    if len(shape) != 3:
        raise ValueError(
            f"a convolutional network takes images (height, width, channels), got shape {shape}"
        )
    return shape[2]


def _sizes(shape: tuple[int, ...], halvings: int) -> list[tuple[int, int]]:
    """Heights and widths of images that were halved 0, 1, .. halvings times."""
    sizes = [(shape[0], shape[1])]
    for _ in range(halvings):
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    return sizes


def _halved(h: jax.Array) -> jax.Array:
    """Blocks of 2 x 2 pixels as pixels with four times the channels."""
    n, height, width, channels = h.shape
    if height % 2 or width % 2:
        h = jnp.pad(h, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    h = h.reshape(n, -(-height // 2), 2, -(-width // 2), 2, channels).swapaxes(2, 3)
    return h.reshape(*h.shape[:3], -1)


def _doubled(h: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """The inverse of ``_halved``, for images of a size."""
    n, height, width, channels = h.shape
    h = h.reshape(n, height, width, 2, 2, channels // 4).swapaxes(2, 3)
    h = h.reshape(n, 2 * height, 2 * width, channels // 4)
    return h[:, : size[0], : size[1]]


def _block_of(channels: int) -> dict[str, Any]:
    return {
        "first": _convolution_of(channels, channels),
        "second": _convolution_of(channels, channels, _RESIDUAL),
        "norms": [_Weights((channels,), 0.0)] * 2,
    }


def _block(params: Params, h: jax.Array, modulation: jax.Array | None = None) -> jax.Array:
    """h plus two convolutions of it; modulation (n, 1, 1, 2 channels) changes the second norm."""
    first, second = params["norms"]
    new = _convolution(params["first"], jax.nn.silu(_scaled(first, _normed(h))))
    new = _scaled(second, _normed(new))
    if modulation is not None:
        scale, shift = jnp.split(modulation, 2, -1)
        new = new * (1 + scale) + shift
    return h + _convolution(params["second"], jax.nn.silu(new))


def _scaled(params: Params, h: jax.Array) -> jax.Array:
    return h * (1 + params["w"]) + params["b"]


def _normed(h: jax.Array) -> jax.Array:
    """h with mean 0 and variance 1 in each image and group of channels."""
    channels = h.shape[-1]
    group = math.gcd(_GROUP, channels)
    # a product with this matrix puts the mean of a group at each of its channels; loops over
    # contiguous channels then need no indices of groups, and a gradient takes 3/4 of the time
    averages = np.kron(np.eye(channels // group), np.full((group, group), 1 / group))

    def mean(v):
        each = jnp.matmul(v.mean((1, 2)), averages.astype(h.dtype), precision="highest")
        return each[:, None, None]

    centred = h - mean(h)
    return centred * lax.rsqrt(mean(centred * centred) + np.asarray(_SMALLEST, h.dtype))


def _convolution(params: Params, x: jax.Array) -> jax.Array:
    return _product(x, params["w"]) + params["b"]


@jax.checkpoint  # a gradient makes the patches again, which is faster than loading them
def _product(x: jax.Array, w: jax.Array) -> jax.Array:
    """The convolution of images with w (3, 3, inputs, outputs), of the same size.

    It is a sum of products of matrices, one for each row of w. On a CPU the gradient of XLA's
    convolution by w takes three times as long, and within a loop more than ten times.
    """
    n, height, width, inputs = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = jnp.concatenate([padded[:, :, j : j + width] for j in range(3)], -1)
    w = w.reshape(3, 3 * inputs, -1)
    products = [patches[:, i : i + height].reshape(-1, 3 * inputs) @ w[i] for i in range(3)]
    return (products[0] + products[1] + products[2]).reshape(n, height, width, -1)


def _dense(params: Params, x: jax.Array) -> jax.Array:
    return x @ params["w"] + params["b"]


class _Weights(NamedTuple):
    """Weights of a layer: their shape, in which outputs are last, and their deviation."""

    shape: tuple[int, ...]
    deviation: float


def _convolution_of(inputs: int, outputs: int, scale: float = 1.0) -> _Weights:
    return _Weights((3, 3, inputs, outputs), scale * (2 / (9 * inputs)) ** 0.5)


def _dense_of(inputs: int, outputs: int, scale: float = 1.0) -> _Weights:
    return _Weights((inputs, outputs), scale * (1 / max(inputs, 1)) ** 0.5)


def _start(key: jax.Array, layers: Any) -> Params:
    """Params of layers, a pytree of ``_Weights``: normal weights ``w`` and biases ``b`` of 0.

    One draw makes all weights, since JAX compiles each draw.
    """
    leaves, tree = jax.tree_util.tree_flatten(layers, is_leaf=lambda v: isinstance(v, _Weights))
    sizes = [math.prod(leaf.shape) for leaf in leaves]
    parts = jnp.split(jax.random.normal(key, (sum(sizes),)), np.cumsum(sizes)[:-1])
    each = [
        {"w": leaf.deviation * part.reshape(leaf.shape), "b": jnp.zeros(leaf.shape[-1])}
        for leaf, part in zip(leaves, parts, strict=True)
    ]
    return jax.tree_util.tree_unflatten(tree, each)
