"""Coupling flows of rational-quadratic splines."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.bijectors import spline
from jaxgen.core.spec import Count
from jaxgen.models.flow import Flow
from jaxgen.networks import mlp as nets
from jaxgen.networks.domains import Domain
from jaxgen.networks.frame import fourier_features
from jaxgen.networks.network import tile_of


class SplineCoupling(Flow):
    """Coupling flow: half of the features set the splines that transform the other half.

    log p(x | y) = log p_base(z) + sum over layers of log|det|, where the layers map x to z. Each
    layer keeps half of the features; from these and y, a residual network computes a
    rational-quadratic spline for each of the others. The halves change between layers, and two
    successive layers transform every feature at least once. With one feature, each layer is one
    spline, which depends on y alone.

    Args:
      dim: number of features.
      layers: number of coupling layers, preferably even.
      width: hidden units of a network's layer.
      depth: hidden layers of a network.
      bins: number of bins of a spline.
      y_shape: shape of a condition; None for p(x).
      domain: each feature's domain, or one for all (see ``jaxgen.domains``); None for real numbers.
      y_domain: domain of each number in y, likewise; ``Levels(10)`` for one of 10 labels.

    Params: ``frame``, the shift and scale of x and y, set from the data and not trained; and
    ``layers``, the networks, with a leading axis of layers.

    Source: Durkan et al. 2019, "Neural spline flows"; He et al. 2016 (residual networks).

    >>> fitted = jaxgen.fit(SplineCoupling(2), x, key=jax.random.key(0))
    """

    dim: Count  # type: ignore[misc]
    layers: Count = 4
    width: Count = 64  # type: ignore[misc]
    depth: Count = 2  # type: ignore[misc]
    bins: Count = 8
    y_shape: tuple[int, ...] | None = None  # type: ignore[misc]
    domain: tuple[Domain, ...] | None = None  # type: ignore[misc]
    y_domain: tuple[Domain, ...] | None = None  # type: ignore[misc]

    @property
    def _tile(self):
        return tile_of(max(self.width, self._numbers * self._changed))

    def init(self, key, x=None, y=None):
        features = self._kept * self._frame.channels()
        layers = self._init_networks(key, self.layers, features, self._numbers * self._changed)
        return {"frame": self._init_frame(x, y), "layers": layers}

    # The methods below take arrays with features on the first axis and rows, if any, on the last.

    def _score(self, params, x, y):
        z, log_det, possible = self._pull(params, x, y)
        return jnp.where(possible, self._frame.log_base(z) + log_det, -jnp.inf)

    def _to_base(self, params, x, y):
        return self._pull(params, x, y)[0]

    def _pull(self, params, x, y):
        z, log_det, possible = self._frame.enter(params["frame"]["x"], x)
        context = self._encode_y(params, y, z)

        def layer(carry, inputs):
            z, log_det = carry
            network, (order, _), topology = inputs
            z, slopes = self._layer(network, nets.reorder(z, order), context, topology)
            return z, log_det + slopes

        stacked = params["layers"], self._orders, self._topologies
        z, log_det = nets.scan_layers(layer, (z, log_det), stacked)
        return nets.reorder(z, np.argsort(self._order(self.layers - 1))), log_det, possible

    def _push(self, params, noise, y):
        z = self._frame.base(noise)
        context = self._encode_y(params, y, z)

        def layer(z, inputs):
            network, (_, inverse), topology = inputs
            return nets.reorder(self._inverse_layer(network, z, context, topology), inverse)

        z = nets.reorder(z, self._order(self.layers - 1))
        stacked = params["layers"], self._orders, self._topologies
        return self._frame.leave(params["frame"]["x"], nets.scan_layers(layer, z, stacked, True))

    # jit, so that layers which differ in their params alone are traced once.

    @functools.partial(jax.jit, static_argnums=0)
    def _layer(self, network, z, context, topology):
        """The features after a layer, and the sum of its log slopes."""
        kept, changed = jnp.split(z, [self._kept])
        knots = self._knots(network, kept, context, topology)
        changed, slopes = spline.forward(knots, changed, topology and topology[1])
        return jnp.concatenate([kept, changed]), slopes.sum(0)

    @functools.partial(jax.jit, static_argnums=0)
    def _inverse_layer(self, network, z, context, topology):
        kept, changed = jnp.split(z, [self._kept])
        knots = self._knots(network, kept, context, topology)
        changed, _ = spline.inverse(knots, changed, topology and topology[1])
        return jnp.concatenate([kept, changed])

    def _knots(self, network, kept, context, topology):
        """The parameters of the splines, (numbers, changed features, ...)."""
        encoded = fourier_features(kept, topology and topology[0])
        rows = spline.param_rows(self.bins, bool(self._frame.bounded.any()))
        zeros = (rows - self._numbers) * self._changed
        u = nets.mlp(network, jnp.concatenate([encoded, context]), zeros=zeros)
        return u.reshape(rows, self._changed, *u.shape[1:])

    @property
    def _kept(self):
        return self.dim // 2

    @property
    def _changed(self):
        return self.dim - self._kept

    @property
    def _numbers(self):
        """Number of network outputs for one spline."""
        return spline.param_count(self.bins, bool(self._frame.bounded.any()))

    def _order(self, layer):
        """The order of the features in a layer: those that it keeps, then those that it changes."""
        order = np.arange(self.dim)
        if layer > 1:  # other halves than those of the first two layers
            order = np.random.default_rng(layer // 2).permutation(self.dim)
        return order[::-1] if layer % 2 else order

    @property
    def _orders(self):
        """For each layer, the permutation from the order of the layer before, and its inverse."""
        orders = [np.arange(self.dim), *map(self._order, range(self.layers))]
        steps = [np.argsort(a)[b] for a, b in itertools.pairwise(orders)]
        return np.stack(steps), np.stack([np.argsort(step) for step in steps])

    @property
    def _topologies(self):
        """Topologies of the kept and of the changed features by layer; None if all are real."""
        if self._frame.topology is None:
            return None
        orders = np.stack([self._order(layer) for layer in range(self.layers)])
        topologies = [v[orders] for v in self._frame.topology]
        kept = spline.Topology(*(v[:, : self._kept] for v in topologies))
        return kept, spline.Topology(*(v[:, self._kept :] for v in topologies))
