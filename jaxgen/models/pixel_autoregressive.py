"""Autoregressive models of images: a causal network over patches, a masked one within a patch."""

from __future__ import annotations

import functools
import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpyro.distributions import constraints

from jaxgen.core.degrees import numbers_not_frozen
from jaxgen.core.lanes import lanes
from jaxgen.core.model import Learning, Traits
from jaxgen.core.random import Uniform
from jaxgen.core.spec import AtLeast, Count
from jaxgen.models import heads
from jaxgen.models.causal import Causal
from jaxgen.networks.domains import Domain
from jaxgen.networks.mlp import Masked
from jaxgen.networks.network import Network
from jaxgen.networks.transformer import Transformer

_TILE_PATCHES = 512  # patches to score at once
_DRAWN = 64  # images to draw at once
_NEIGHBOURS = (
    (0, 0),
    (0, 1),
    (0, 2),
    (1, 0),
)  # rows and columns of patches, from the one above left


class PixelAutoregressive(Causal):
    """Images of discrete pixels, drawn one by one: log p(x) = sum_i log p(x_i | x_1 .. x_i-1).

    An image is cut into patches, which are ordered by rows. A causal network, by default a
    transformer, has one position for each patch: its input are the patches to the left and above,
    and its features describe all patches before. Given these features, a masked network gives the
    probabilities of each pixel of the patch given the pixels before it in the patch. So weights are
    shared over places, the density is exact, and a draw computes each feature once.

    Args:
      shape: shape of an image, (height, width) or (height, width, channels).
      levels: number of values of a pixel; x holds 0 .. levels - 1. 2 is black and white.
      network: a causal network of sequences; see ``jaxgen.networks``.
      patch: height and width of a patch. Where it does not divide those of the image, patches at
        the lower and the right edge are smaller.
      width: hidden units of a layer of the masked network.
      depth: hidden layers of the masked network.
      y_shape: shape of a condition; None for p(x).
      y_domain: domain of each number in y, or one for all (see ``jaxgen.domains``); None for real
        numbers; ``Levels(10)`` for one of 10 labels.

    Params: ``levels``, the frequencies of each pixel's levels, which are set from the data and not
    trained, and codes of the levels; ``embedding`` (inputs, network.width) and ``position``
    (patches, network.width), which make inputs of the network; ``network``; ``head``, the masked
    network; with y, ``frame``, set from the data and not trained, and ``context``.

    Source: van den Oord et al. 2016, "Pixel recurrent neural networks"; Chen et al. 2020,
    "Generative pretraining from pixels"; Germain et al. 2015 (masked networks).

    >>> network = jaxgen.networks.Transformer(16, layers=1)
    >>> model = PixelAutoregressive((8, 8), network=network, width=16)
    >>> jaxgen.sample(model, model.init(key), key, 3).shape
    (3, 8, 8)
    """

    shape: tuple[Count, ...]
    levels: Annotated[int, AtLeast(2)] = 2
    network: Network = Transformer()  # type: ignore[misc]
    patch: Count = 4
    width: Count = 256
    depth: Count = 2
    y_shape: tuple[int, ...] | None = None  # type: ignore[misc]
    y_domain: tuple[Domain, ...] | None = None  # type: ignore[misc]

    def __post_init__(self):
        super().__post_init__()
        if len(self.shape) not in (2, 3):
            raise ValueError(
                "PixelAutoregressive: shape must be (height, width) or (height, width, channels), "
                f"got {self.shape}"
            )

    @property
    def event_shape(self):
        return self.shape

    @property
    def support(self):
        levels = constraints.integer_interval(0, self.levels - 1)
        return constraints.independent(levels, len(self.shape))

    @functools.cached_property
    def learning(self):
        frozen = ("levels/log_shares",) if self.y_shape is None else ("levels/log_shares", "frame")
        return Learning(rate=self._rate, frozen=frozen, batch_size=32)

    @functools.cached_property
    def traits(self):
        return Traits(
            tile=max(_TILE_PATCHES // self._patches, 1),
            draw_tile=_DRAWN,
            degrees_of_freedom=self._degrees_of_freedom,
        )

    def _degrees_of_freedom(self, params):
        return numbers_not_frozen(self, params) - self._head(params).masked_weights

    def init(self, key, x=None, y=None):
        self._check_causal(self._patches)
        params = _init(self, key)
        flat = None if x is None else x.reshape(len(x), -1)
        params["levels"] = heads.levels_init(key, math.prod(self.shape), self.levels, flat)
        if self.y_shape is not None:
            params["frame"] = self._conditions.init(y)
        return params

    def log_prob(self, params, x, y=None):
        level = jnp.clip(x, 0, self.levels - 1).astype(jnp.int32)
        score = lanes(self._score, 0)(params, level, y)
        return jnp.where((level == x).all(), score, -jnp.inf)

    def noise(self):
        return Uniform(self.shape)

    def push(self, params, noise, y=None):
        return lanes(self._draw, 0)(params, noise, y)

    # The methods below take arrays of one event, or with a first axis of rows. The masked network
    # has rows and patches on the last axes.

    def _score(self, params, level, y):
        """log p(x | y) of levels (*rows, *shape)."""
        rows = level.ndim - len(self.shape)
        patches = self._cut(
            self._encoded(params, level), rows
        )  # (*rows, patches, pixels, channels)
        inputs = self._inputs(params, self._canvas(patches), y)
        features = self.network.apply_rows(params["network"], inputs, rows)
        pixels = jnp.moveaxis(patches, (-1, -2), (0, 1))  # (channels, pixels, *rows, patches)
        context = jnp.moveaxis(features, -1, 0)
        head, count = self._head(params), math.prod(context.shape[1:])
        u = head.apply(
            head.matrices(params["head"]),
            pixels.reshape(*pixels.shape[:2], count),
            context.reshape(-1, count),
        )
        u = u.reshape(*u.shape[:2], *context.shape[1:])
        return self._sum_of_levels(params, u, jnp.moveaxis(self._cut(level, rows), -1, 0))

    def _sum_of_levels(self, params, u, level):
        """Log probabilities (*rows,) of levels (pixels, *rows, patches) by outputs (outputs, ...).

        Some pixels are computed at a time, so that their logits fit in a cache.
        """
        size, rows = math.prod(level.shape[1:]) * self.levels, level.ndim - 2
        most = max(heads.LOGITS_AT_ONCE // size, 1)
        count = next(c for c in range(min(most, len(level)), 0, -1) if len(level) % c == 0)

        def cut(v, axis):
            return jnp.moveaxis(
                v.reshape(*v.shape[:axis], -1, count, *v.shape[axis + 1 :]), axis, 0
            )

        @jax.checkpoint  # a gradient recomputes the logits, which is faster than loading them
        def add(total, some):
            u, shares, inside, level = some
            # axes of rows are before that of patches
            shares = shares.reshape(*shares.shape[:2], *[1] * rows, -1)
            inside = inside.reshape(count, *[1] * rows, -1)
            score = heads.log_prob_of_level(self._logits(params, u, shares), level)
            return total + jnp.where(inside, score, 0).sum((0, -1)), None

        shares = self._shares(params)
        pixels = cut(u, 1), cut(shares, 1), cut(jnp.asarray(self._inside), 0), cut(level, 0)
        return lax.scan(add, jnp.zeros(level.shape[1:-1], u.dtype), pixels)[0]

    def _draw(self, params, noise, y):
        """Images (*rows, *shape), int32, of uniform noise of the same shape."""
        rows = noise.shape[: noise.ndim - len(self.shape)]
        head = self._head(params)
        matrices = head.matrices(params["head"])
        channels, pixels = heads.CHANNELS, self._pixels
        uniform = jnp.moveaxis(self._cut(noise, len(rows)), (-2, -1), (0, 1))
        cache, step = self.network.rows_cache(params["network"], self._patches, noise.dtype, rows)
        context = self._context(params, y, noise.dtype)
        down, across = self._grid
        canvas = jnp.zeros((*rows, down + 1, across + 2, pixels * channels), noise.dtype)

        def draw_pixel(carry, i_and_noise):
            i, uniform, shares, inside = i_and_noise
            carry, u = head.step(matrices, carry, i)
            shares = shares.reshape(-1, *[1] * len(rows))
            level = heads.draw_level(self._logits(params, u, shares), uniform)
            code = jnp.moveaxis(self._encoded(params, level), -1, 0)
            code = jnp.where(inside, code, 0)  # as outside of the image in a score
            return head.insert(carry, i, code), (level, code)

        def draw_patch(carry, t_and_noise):
            canvas, cache = carry
            t, uniform, shares, inside, position = t_and_noise
            at = t // across, t % across
            near = [
                lax.dynamic_slice(
                    canvas,
                    (*[0] * len(rows), at[0] + i, at[1] + j, 0),
                    (*rows, 1, 1, pixels * channels),
                ).reshape(*rows, -1)
                for i, j in _NEIGHBOURS
            ]
            x = jnp.concatenate(near, -1) @ params["embedding"] + position
            cache, features = step(cache, x if context is None else x + context, t)
            known = head.start(matrices, _rows_last(features, len(rows)))
            steps = jnp.arange(pixels), uniform, shares, inside
            _, (levels, codes) = lax.scan(draw_pixel, known, steps)
            patch = jnp.moveaxis(codes.reshape(pixels * channels, *rows), 0, -1)
            place = (*[0] * len(rows), at[0] + 1, at[1] + 1, 0)
            canvas = lax.dynamic_update_slice(canvas, patch[..., None, None, :], place)
            return (canvas, cache), levels

        places = (
            jnp.arange(self._patches),
            uniform,
            jnp.moveaxis(self._shares(params), (2, 1), (0, 1)),
            jnp.asarray(self._inside.T),
            params["position"],
        )
        levels = lax.scan(draw_patch, (canvas, cache), places)[1]  # (patches, pixels, *rows)
        return self._joined(jnp.moveaxis(levels, (0, 1), (-2, -1)))

    def _inputs(self, params, canvas, y):
        """Inputs of the network (*rows, patches, width), from ``_canvas``."""
        down, across = self._grid
        each = [canvas[..., i : i + down, j : j + across, :] for i, j in _NEIGHBOURS]
        near = jnp.concatenate(each, -1)
        near = near.reshape(*near.shape[:-3], self._patches, -1)
        x = near @ params["embedding"] + params["position"]
        context = self._context(params, y, x.dtype)
        return x if context is None else x + context[..., None, :]

    def _canvas(self, patches):
        """Patches as (*rows, down + 1, across + 2, numbers), with zeros above, left and right."""
        down, across = self._grid
        v = patches.reshape(*patches.shape[:-3], down, across, -1)
        return jnp.pad(v, [*[(0, 0)] * (v.ndim - 3), (1, 0), (1, 1), (0, 0)])

    def _encoded(self, params, level):
        """Codes (..., channels) of levels (...)."""
        return params["levels"]["meaning"].T[level]

    def _logits(self, params, u, shares):
        """Logits (levels, ...) of outputs u (outputs, ...) and log frequencies (levels, ...)."""
        if "table" in params["levels"]:
            u = jnp.tensordot(params["levels"]["table"], u, 1)
        return u + shares

    def _shares(self, params):
        """Log frequencies of levels by the place of a pixel, (levels, pixels, patches)."""
        shares = params["levels"]["log_shares"].reshape(self.levels, *self.shape)
        return jnp.moveaxis(self._cut(shares, 1), -1, 1)

    # Patches. Pixels of a patch are ordered by rows, and its channels by pixels.

    @property
    def _grid(self) -> tuple[int, int]:
        """The number of patches down and across an image."""
        return -(-self.shape[0] // self.patch), -(-self.shape[1] // self.patch)

    @property
    def _patches(self) -> int:
        return math.prod(self._grid)

    @property
    def _pixels(self) -> int:
        """Numbers in a patch: pixels and their channels."""
        return self.patch**2 * math.prod(self.shape[2:])

    @functools.cached_property
    def _inside(self) -> np.ndarray:
        """Which places of patches are in the image, (pixels, patches)."""
        return self._cut(np.ones(self.shape, bool), 0).T

    def _cut(self, v: Any, rows: int) -> Any:
        """Images (*rows, *shape, *more) as patches (*rows, patches, pixels, *more); padded by 0."""
        before, more = v.shape[:rows], v.shape[rows + len(self.shape) :]
        (down, across), size = self._grid, self.patch
        v = v.reshape(*before, *self.shape[:2], -1)
        padding = down * size - self.shape[0], across * size - self.shape[1]
        if any(padding):
            xp = np if isinstance(v, np.ndarray) else jnp
            v = xp.pad(v, [*[(0, 0)] * rows, *((0, p) for p in padding), (0, 0)])
        v = v.reshape(*before, down, size, across, size, -1)
        v = v.swapaxes(-4, -3)
        return v.reshape(*before, self._patches, self._pixels, *more)

    def _joined(self, v: Any) -> Any:
        """Images (*rows, *shape) of patches (*rows, patches, pixels)."""
        (down, across), size = self._grid, self.patch
        rows = v.shape[:-2]
        v = jnp.swapaxes(v.reshape(*rows, down, across, size, size, -1), -4, -3)
        v = v.reshape(*rows, down * size, across * size, -1)
        return v[..., : self.shape[0], : self.shape[1], :].reshape(*rows, *self.shape)

    def _head(self, params: Any) -> Masked:
        """The masked network, whose context are the features of the network."""
        features = params["head"]["in"]["w"].shape[-1] - self._pixels * heads.CHANNELS
        return self._head_of(features)

    def _head_of(self, features: int) -> Masked:
        outputs = self.levels if self.levels <= 2 * heads.RANK else heads.RANK
        sizes = heads.CHANNELS, features, outputs, 0, self.width, self.depth
        return Masked(self._pixels, *sizes)


@functools.partial(jax.jit, static_argnums=0)
def _init(model: PixelAutoregressive, key: jax.Array) -> Any:
    """Params but those that follow from data."""
    keys = jax.random.split(key, 5)
    params, features = model._init_network(keys[0], keys[4], model._patches)
    width, inputs = model.network.width, len(_NEIGHBOURS) * model._pixels * heads.CHANNELS
    return {
        **params,
        "embedding": inputs**-0.5 * jax.random.normal(keys[1], (inputs, width)),
        "position": 0.1 * jax.random.normal(keys[2], (model._patches, width)),
        "head": model._head_of(features).init(keys[3]),
    }


def _rows_last(v: jax.Array, rows: int) -> jax.Array:
    """v with its first axes, those of rows, last."""
    return jnp.moveaxis(v, tuple(range(rows)), tuple(range(-rows, 0)))
