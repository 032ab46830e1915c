"""Masked autoregressive models: each feature given those before it, all by one network."""

from __future__ import annotations

import functools
import math
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpyro.distributions import constraints

from jaxgen.bijectors import spline
from jaxgen.core.random import Normal, Uniform
from jaxgen.core.spec import AtLeast, Count
from jaxgen.models import heads
from jaxgen.models.flow import Flow
from jaxgen.networks import mlp as nets
from jaxgen.networks.domains import Domain
from jaxgen.networks.frame import seen


class MaskedAutoregressive(Flow):
    """p(x | y) = prod_i p(x_i | x_1 .. x_i-1, y), by a masked network, once or in several layers.

    What the network puts out for a feature is its ``head``:

    - "spline", "affine": a map of the feature to its noise, which makes the model a flow: several
      layers may follow each other, the features in reverse order in every second one;
    - "mixture": a mixture of normals;
    - "categorical": probabilities of the levels 0 .. levels - 1, for discrete data; see
      ``compose.Dequantized`` for a density over what uniform noise makes of them.

    A density takes one pass through the network. A sample takes as many steps as there are
    features, which compute each hidden unit once, so together little more than one pass.

    Args:
      dim: number of features.
      layers: number of networks; 1 for "mixture" and "categorical".
      width: hidden units of a network's layer.
      depth: hidden layers of a network.
      head: "spline", "affine", "mixture" or "categorical".
      bins: pieces of a spline.
      components: parts of a mixture.
      levels: number of values of a discrete feature.
      y_shape: shape of a condition; None for p(x).
      domain: where each feature lives, of ``jaxgen.domains``; one for all, None for real numbers.
        Intervals and circles are for "spline".
      y_domain: where each number in y lives, likewise; ``Levels(10)`` for one of 10 labels.

    Params: ``frame``, shift and scale of x and y, from the data and not learnt; ``layers``, the
    networks, with a leading axis of layers; and for "categorical" ``levels``.

    Source: Germain et al. 2015 (MADE); Papamakarios et al. 2017 (MAF); Durkan et al. 2019
    (splines); Uria et al. 2013 (mixtures).

    >>> fitted = jaxgen.fit(MaskedAutoregressive(2, layers=2), x, key=jax.random.key(0))
    """

    dim: Count  # type: ignore[misc]
    layers: Count = 1
    width: Count = 64
    depth: Count = 2
    head: Literal["spline", "affine", "mixture", "categorical"] = "spline"
    bins: Count = 8
    components: Count = 8
    levels: Annotated[int, AtLeast(2)] = 2
    y_shape: tuple[int, ...] | None = None  # type: ignore[misc]
    domain: tuple[Domain, ...] | None = None  # type: ignore[misc]
    y_domain: tuple[Domain, ...] | None = None  # type: ignore[misc]

    def __post_init__(self):
        super().__post_init__()
        bounded = self._frame.bounded.any()
        if self.layers > 1 and not self._bijective:
            raise ValueError(
                f'MaskedAutoregressive: layers must be 1 for head="{self.head}", got {self.layers}'
            )
        if (bounded and self.head != "spline") or (self.domain and self.head == "categorical"):
            raise ValueError(
                f'MaskedAutoregressive: domain={self.domain} does not suit head="{self.head}"'
            )

    @property
    def support(self):
        if self.head == "categorical":
            return constraints.independent(constraints.integer_interval(0, self.levels - 1), 1)
        return super().support

    @property
    def learning(self):
        if self.head != "categorical":
            return super().learning
        frozen = "frame", "levels/log_shares"
        return super().learning._replace(frozen=frozen, rescalable=False)

    @property
    def traits(self):
        bijective = self._bijective
        return super().traits._replace(reparameterized=bijective, invertible=bijective)

    @property
    def _bijective(self):
        return self.head in ("spline", "affine")

    @property
    def _tile(self):
        widest = max(self.width, self._net.outputs * self.dim)
        # products of matrices gain from more rows, and logits are not made of all features at once
        return nets.tile_of(widest // 8 if self.head == "categorical" else widest)

    def init(self, key, x=None, y=None):
        params = {"frame": self._init_frame(x, y), "layers": self._init_layers(key)}
        if self.head == "categorical":
            params["levels"] = heads.levels_init(key, self.dim, self.levels, x)
        return params

    def noise(self):
        if self.head == "mixture":
            return Uniform((self.dim,)), Normal((self.dim,))
        return Uniform((self.dim,)) if self.head == "categorical" else super().noise()

    # What follows takes features first and, if any, rows last.

    def _score(self, params, x, y):
        if self.head == "categorical":
            return self._score_levels(params, x, y)
        if self._bijective:
            z, log_det, possible = self._pull(params, x, y)
            return jnp.where(possible, self._frame.log_base(z) + log_det, -jnp.inf)
        z, log_det, possible = self._frame.enter(params["frame"]["x"], x)
        network = self._network(params)
        u = self._net.apply(network, seen(z)[None], self._given(params, y, z))
        score = heads.Mixture.of(u).log_prob(z).sum(0)
        return jnp.where(possible, score + log_det, -jnp.inf)

    def _score_levels(self, params, x, y):
        level = jnp.clip(x, 0, self.levels - 1).astype(jnp.int32)
        network = self._network(params)
        known = jnp.moveaxis(params["levels"]["meaning"].T[level], -1, 0)
        u = self._net.apply(network, known, self._given(params, y, known[0]))
        score = self._sum_of_levels(params, u, level)
        return jnp.where((level == x).all(0), score, -jnp.inf)

    def _sum_of_levels(self, params, u, level):
        """Log probability of all levels, a few features at a time, whose logits caches hold."""
        rows = math.prod(u.shape[2:])
        fitting = max(heads.LOGITS // (self.levels * rows), 1)
        some = next(c for c in range(min(fitting, self.dim), 0, -1) if self.dim % c == 0)

        def cut(v, axis):
            shape = *v.shape[:axis], -1, some, *v.shape[axis + 1 :]
            return jnp.moveaxis(v.reshape(shape), axis, 0)

        @jax.checkpoint  # a gradient computes logits again, which is faster than to fetch them
        def add(total, own):
            u, shares, level = own
            score = heads.log_prob_of_level(self._logits(params, u, shares), level)
            return total + score.sum(0), None

        features = cut(u, 1), cut(params["levels"]["log_shares"], 1), cut(level, 0)
        return lax.scan(add, jnp.zeros(u.shape[2:], u.dtype), features)[0]

    def _back(self, params, x, y):
        return self._pull(params, x, y)[0]

    def _pull(self, params, x, y):
        z, log_det, possible = self._frame.enter(params["frame"]["x"], x)
        given = self._given(params, y, z)

        def layer(carry, own):
            z, log_det = carry
            network, kind = own
            u = self._net.apply(self._net.matrices(network), self._known(z, kind), given)
            z, slopes = self._forward(u, z, kind)
            return z[::-1], log_det + slopes.sum(0)

        z, log_det = nets.through(layer, (z, log_det), (params["layers"], self._kinds))
        return z, log_det, possible

    def _push(self, params, noise, y):
        if not self._bijective:
            return self._draw(params, noise, y)
        z = self._frame.base(noise)
        given = self._given(params, y, z)

        def layer(z, own):
            network, kind = own
            matrices = self._net.matrices(network)

            def feature(carry, of_feature):
                i, value, kind = of_feature
                carry, u = self._net.step(matrices, carry, i)
                value = self._inverse(u[:, None], value[None], kind)
                return self._net.learn(carry, i, self._known(value, kind)[:, 0]), value[0]

            kinds = jax.tree_util.tree_map(lambda v: v[:, None], kind)
            each_feature = jnp.arange(self.dim), z[::-1], kinds
            return lax.scan(feature, self._net.start(matrices, given), each_feature)[1]

        stacked = params["layers"], self._kinds
        return self._frame.leave(params["frame"]["x"], nets.through(layer, z, stacked, True))

    def _draw(self, params, noise, y):
        network = self._network(params)
        uniform = noise[0] if self.head == "mixture" else noise
        given = self._given(params, y, uniform)

        def feature(carry, own):
            i, noise = own
            carry, u = self._net.step(network, carry, i)
            if self.head == "mixture":
                value = heads.Mixture.of(u).draw(*noise)
                known = seen(value)[None]
            else:
                shares = params["levels"]["log_shares"][:, i]
                value = heads.draw_level(self._logits(params, u, shares), noise)
                known = jnp.moveaxis(params["levels"]["meaning"].T[value], -1, 0)
            return self._net.learn(carry, i, known), value

        each_feature = jnp.arange(self.dim), noise
        x = lax.scan(feature, self._net.start(network, given), each_feature)[1]
        return x if self.head == "categorical" else self._frame.leave(params["frame"]["x"], x)

    def _logits(self, params, u, shares):
        """Logits (levels, ...) of features whose log shares are (levels, ...), without rows."""
        if "table" in params["levels"]:
            u = jnp.tensordot(params["levels"]["table"], u, 1)
        return u + shares.reshape(*shares.shape, *[1] * (u.ndim - shares.ndim))

    def _known(self, z, kind):
        """Features as the network is told them, (channels, features, ...)."""
        return seen(z, kind).reshape(self._frame.channels(), *z.shape)

    def _forward(self, u, z, kind):
        return heads.affine_forward(u, z) if self.head == "affine" else spline.forward(u, z, kind)

    def _inverse(self, u, z, kind):
        return (
            heads.affine_inverse(u, z) if self.head == "affine" else spline.inverse(u, z, kind)[0]
        )

    def _network(self, params):
        """The only layer's network."""
        return self._net.matrices(jax.tree_util.tree_map(lambda v: v[0], params["layers"]))

    @functools.partial(jax.jit, static_argnums=0)
    def _init_layers(self, key):
        return jax.vmap(self._net.init)(jax.random.split(key, self.layers))

    @property
    def _net(self):
        bounded = bool(self._frame.bounded.any())
        outputs = {
            "affine": 2,
            "spline": spline.numbers(self.bins, bounded),
            "mixture": 3 * self.components,
            "categorical": self.levels if self.levels <= 2 * heads.RANK else heads.RANK,
        }[self.head]
        channels = self._frame.channels()
        channels = heads.CHANNELS if self.head == "categorical" else channels
        zeros = spline.rows(self.bins, bounded) - outputs if self.head == "spline" else 0
        given = self._conditions.count
        return nets.Masked(self.dim, channels, given, outputs, zeros, self.width, self.depth)

    @property
    def _kinds(self):
        """Of each layer's features, which are in reverse order in every second; None: all real."""
        if self._frame.kind is None:
            return None
        kinds = np.stack(self._frame.kind)
        of_layer = [kinds[:, :: -1 if layer % 2 else 1] for layer in range(self.layers)]
        return spline.Kind(*np.stack(of_layer, 1))
