"""Masked autoregressive models: one network predicts each feature from those before it."""

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
from jaxgen.core import compiler
from jaxgen.core.degrees import numbers_not_frozen
from jaxgen.core.random import Normal, Uniform
from jaxgen.core.spec import AtLeast, Count
from jaxgen.models import heads
from jaxgen.models.flow import Flow
from jaxgen.networks import mlp as nets
from jaxgen.networks.domains import Domain
from jaxgen.networks.frame import fourier_features
from jaxgen.networks.network import tile_of


class MaskedAutoregressive(Flow):
    """p(x | y) = prod_i p(x_i | x_1 .. x_i-1, y), with all factors computed by a masked network.

    ``head`` is the form of a factor:

    - "spline", "affine": an invertible map between the feature and its noise. The model is a flow
      and may have several layers; every second layer takes the features in reverse order.
    - "mixture": a mixture of normals.
    - "categorical": probabilities of the levels 0 .. levels - 1, for discrete data;
      ``compose.Dequantized`` makes a density of it.

    A density takes one pass through the network. A sample takes one step for each feature; each
    hidden unit is computed in one of these steps only, so they cost little more than one pass.

    Args:
      dim: number of features.
      layers: number of networks; 1 for "mixture" and "categorical".
      width: hidden units of a network's layer.
      depth: hidden layers of a network.
      head: "spline", "affine", "mixture" or "categorical".
      bins: number of bins of a spline.
      components: number of normals in a mixture.
      levels: number of values of a discrete feature.
      y_shape: shape of a condition; None for p(x).
      domain: each feature's domain, or one for all (see ``jaxgen.domains``); None for real numbers.
        Intervals and circles need the head "spline".
      y_domain: domain of each number in y, likewise; ``Levels(10)`` for one of 10 labels.

    Params: ``frame``, the shift and scale of x and y, set from the data and not trained;
    ``layers``, the networks, with a leading axis of layers; and for "categorical" ``levels``.

    Source: Germain et al. 2015 (MADE); Papamakarios et al. 2017 (MAF); Durkan et al. 2019
    (splines); Uria et al. 2013 (mixtures).

    >>> fitted = jaxgen.fit(MaskedAutoregressive(2, layers=2), x, key=jax.random.key(0))
    """

    dim: Count  # type: ignore[misc]
    layers: Count = 1
    width: Count = 64  # type: ignore[misc]
    depth: Count = 2  # type: ignore[misc]
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

    def _learning(self):
        if self.head != "categorical":
            return super()._learning()
        frozen = "frame", "levels/log_shares"
        return super()._learning()._replace(frozen=frozen, rescalable=False)

    def _traits(self):
        bijective = self._bijective
        return (
            super()
            ._traits()
            ._replace(
                reparameterized=bijective,
                invertible=bijective,
                degrees_of_freedom=self._degrees_of_freedom,
            )
        )

    def _degrees_of_freedom(self, params):
        return numbers_not_frozen(self, params) - self.layers * self._net.masked_weights

    @property
    def _bijective(self):
        return self.head in ("spline", "affine")

    @property
    def _tile(self):
        widest = max(self.width, self._net.outputs * self.dim)
        # matrix products are faster with more rows, and only some features' logits exist at a time
        return tile_of(widest // 8 if self.head == "categorical" else widest)

    def init(self, key, x=None, y=None):
        params = {"frame": self._init_frame(x, y), "layers": self._init_layers(key)}
        if self.head == "categorical":
            params["levels"] = heads.levels_init(key, self.dim, self.levels, x)
        return params

    def noise(self):
        if self.head == "mixture":
            return Uniform((self.dim,)), Normal((self.dim,))
        return Uniform((self.dim,)) if self.head == "categorical" else super().noise()

    # The methods below take arrays with features on the first axis and rows, if any, on the last.

    def _score(self, params, x, y):
        if self.head == "categorical":
            return self._score_levels(params, x, y)
        if self._bijective:
            z, log_det, possible = self._pull(params, x, y)
            return jnp.where(possible, self._frame.log_base(z) + log_det, -jnp.inf)
        z, log_det, possible = self._frame.enter(params["frame"]["x"], x)
        network = self._network(params)
        u = self._net.apply(network, fourier_features(z)[None], self._encode_y(params, y, z))
        score = heads.Mixture.from_outputs(u).log_prob(z).sum(0)
        return jnp.where(possible, score + log_det, -jnp.inf)

    def _score_levels(self, params, x, y):
        level = jnp.clip(x, 0, self.levels - 1).astype(jnp.int32)
        network = self._network(params)
        encoded = jnp.moveaxis(params["levels"]["meaning"].T[level], -1, 0)
        u = self._net.apply(network, encoded, self._encode_y(params, y, encoded[0]))
        score = self._sum_of_levels(params, u, level)
        return jnp.where((level == x).all(0), score, -jnp.inf)

    def _sum_of_levels(self, params, u, level):
        """Log probability of all features, a few at a time so that their logits fit in a cache."""
        rows = math.prod(u.shape[2:])
        most = max(heads.LOGITS_AT_ONCE // (self.levels * rows), 1)
        count = next(c for c in range(min(most, self.dim), 0, -1) if self.dim % c == 0)

        def cut(v, axis):
            shape = *v.shape[:axis], -1, count, *v.shape[axis + 1 :]
            return jnp.moveaxis(v.reshape(shape), axis, 0)

        @jax.checkpoint  # a gradient recomputes the logits, which is faster than loading them
        def add(total, some_features):
            u, shares, level = some_features
            score = heads.log_prob_of_level(self._logits(params, u, shares), level)
            return total + score.sum(0), None

        features = cut(u, 1), cut(params["levels"]["log_shares"], 1), cut(level, 0)
        return lax.scan(add, jnp.zeros(u.shape[2:], u.dtype), features)[0]

    def _to_base(self, params, x, y):
        return self._pull(params, x, y)[0]

    def _pull(self, params, x, y):
        z, log_det, possible = self._frame.enter(params["frame"]["x"], x)
        context = self._encode_y(params, y, z)

        def layer(carry, inputs):
            z, log_det = carry
            network, topology = inputs
            z, slopes = self._layer(network, z, context, topology)
            return z, log_det + slopes

        z, log_det = nets.scan_layers(layer, (z, log_det), (params["layers"], self._topologies))
        return z, log_det, possible

    def _push(self, params, noise, y):
        if not self._bijective:
            return self._draw(params, noise, y)
        z = self._frame.base(noise)
        context = self._encode_y(params, y, z)

        def layer(z, inputs):
            network, topology = inputs
            matrices = self._net.matrices(network)

            def feature(carry, inputs):
                i, value, topology = inputs
                carry, u = self._net.step(matrices, carry, i)
                value = self._inverse(u[:, None], value[None], topology)
                return self._net.insert(carry, i, self._encode(value, topology)[:, 0]), value[0]

            topologies = jax.tree_util.tree_map(lambda v: v[:, None], topology)
            each_feature = jnp.arange(self.dim), z[::-1], topologies
            return lax.scan(feature, self._net.start(matrices, context), each_feature)[1]

        stacked = params["layers"], self._topologies
        return self._frame.leave(params["frame"]["x"], nets.scan_layers(layer, z, stacked, True))

    def _draw(self, params, noise, y):
        network = self._network(params)
        uniform = noise[0] if self.head == "mixture" else noise
        context = self._encode_y(params, y, uniform)

        def feature(carry, inputs):
            i, noise = inputs
            carry, u = self._net.step(network, carry, i)
            if self.head == "mixture":
                value = heads.Mixture.from_outputs(u).draw(*noise)
                encoded = fourier_features(value)[None]
            else:
                shares = params["levels"]["log_shares"][:, i]
                value = heads.draw_level(self._logits(params, u, shares), noise)
                encoded = jnp.moveaxis(params["levels"]["meaning"].T[value], -1, 0)
            return self._net.insert(carry, i, encoded), value

        each_feature = jnp.arange(self.dim), noise
        x = lax.scan(feature, self._net.start(network, context), each_feature)[1]
        return x if self.head == "categorical" else self._frame.leave(params["frame"]["x"], x)

    def _logits(self, params, u, shares):
        """Logits (levels, ...) from outputs u and the features' log shares, which have no rows."""
        if "table" in params["levels"]:
            u = jnp.tensordot(params["levels"]["table"], u, 1)
        return u + shares.reshape(*shares.shape, *[1] * (u.ndim - shares.ndim))

    def _encode(self, z, topology):
        """Features encoded for the network, (channels, features, ...)."""
        return fourier_features(z, topology).reshape(self._frame.channels(), *z.shape)

    @functools.partial(jax.jit, static_argnums=0)  # so that equal layers are traced once
    def _layer(self, network, z, context, topology):
        u = self._net.apply(self._net.matrices(network), self._encode(z, topology), context)
        z, slopes = self._forward(u, z, topology)
        return z[::-1], slopes.sum(0)

    def _forward(self, u, z, topology):
        return (
            heads.affine_forward(u, z) if self.head == "affine" else spline.forward(u, z, topology)
        )

    def _inverse(self, u, z, topology):
        return (
            heads.affine_inverse(u, z)
            if self.head == "affine"
            else spline.inverse(u, z, topology)[0]
        )

    def _network(self, params):
        """The matrices of the network, for a model of one layer."""
        return self._net.matrices(jax.tree_util.tree_map(lambda v: v[0], params["layers"]))

    @functools.partial(compiler.jit, quick=True, static_argnums=0)
    def _init_layers(self, key):
        return jax.vmap(self._net.init)(jax.random.split(key, self.layers))

    @property
    def _net(self):
        bounded = bool(self._frame.bounded.any())
        outputs = {
            "affine": 2,
            "spline": spline.param_count(self.bins, bounded),
            "mixture": 3 * self.components,
            "categorical": self.levels if self.levels <= 2 * heads.RANK else heads.RANK,
        }[self.head]
        channels = self._frame.channels()
        channels = heads.CHANNELS if self.head == "categorical" else channels
        zeros = spline.param_rows(self.bins, bounded) - outputs if self.head == "spline" else 0
        y = self._conditions
        sizes = channels, y.size, outputs, zeros, self.width, self.depth
        return nets.Masked(self.dim, *sizes, y.levels)

    @property
    def _topologies(self):
        """Topologies of the features by layer; None if all are real.

        Every second layer has the features in reverse order.
        """
        if self._frame.topology is None:
            return None
        topologies = np.stack(self._frame.topology)
        by_layer = [topologies[:, :: -1 if layer % 2 else 1] for layer in range(self.layers)]
        return spline.Topology(*np.stack(by_layer, 1))
