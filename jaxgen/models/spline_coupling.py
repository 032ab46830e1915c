"""Spline coupling flows: half of the features bend the others, layer after layer."""

from __future__ import annotations

import itertools

import jax.numpy as jnp
import numpy as np

from jaxgen.bijectors import spline
from jaxgen.core.spec import Count
from jaxgen.models.flow import Flow
from jaxgen.networks import mlp as nets
from jaxgen.networks.domains import Domain
from jaxgen.networks.frame import seen


class SplineCoupling(Flow):
    """Flow of rational-quadratic splines whose knots are given by the other half of the features.

    log p(x | y) = log p_base(z) + sum over layers of log|det|, z = the layers' image of x. A layer
    keeps half of the features, from which (and y) a residual network makes the splines of the rest;
    the halves change from layer to layer, and each feature is bent in one of two layers. With one
    feature it is one spline a layer, whose knots y decides.

    Args:
      dim: number of features.
      layers: number of coupling layers, best even.
      width: hidden units of a network's layer.
      depth: hidden layers of a network.
      bins: pieces of a spline.
      y_shape: shape of a condition; None for p(x).
      domain: where each feature lives, of ``jaxgen.domains``; one for all, None for real numbers.
      y_domain: where each number in y lives, likewise; ``Levels(10)`` for one of 10 labels.

    Params: ``frame``, shift and scale of x and y, from the data and not learnt; and
    ``layers``, the networks, with a leading axis of layers.

    Source: Durkan et al. 2019, "Neural spline flows"; He et al. 2016 (residual networks).

    >>> fitted = jaxgen.fit(SplineCoupling(2), x, key=jax.random.key(0))
    """

    dim: Count  # type: ignore[misc]
    layers: Count = 4
    width: Count = 64
    depth: Count = 2
    bins: Count = 8
    y_shape: tuple[int, ...] | None = None  # type: ignore[misc]
    domain: tuple[Domain, ...] | None = None  # type: ignore[misc]
    y_domain: tuple[Domain, ...] | None = None  # type: ignore[misc]

    @property
    def _tile(self):
        return nets.tile_of(max(self.width, self._numbers * self._bent))

    def init(self, key, x=None, y=None):
        inputs = self._kept * self._frame.channels() + self._conditions.count
        outputs = self._numbers * self._bent
        layers = nets.mlp_stack(key, self.layers, inputs, outputs, self.width, self.depth)
        return {"frame": self._init_frame(x, y), "layers": layers}

    # What follows takes features first and, if any, rows last.

    def _score(self, params, x, y):
        z, log_det, possible = self._pull(params, x, y)
        return jnp.where(possible, self._frame.log_base(z) + log_det, -jnp.inf)

    def _back(self, params, x, y):
        return self._pull(params, x, y)[0]

    def _pull(self, params, x, y):
        z, log_det, possible = self._frame.enter(params["frame"]["x"], x)
        given = self._given(params, y, z)

        def layer(carry, own):
            z, log_det = carry
            network, (order, _), kind = own
            kept, bent = jnp.split(nets.reorder(z, order), [self._kept])
            bent, slopes = spline.forward(
                self._knots(network, kept, given, kind), bent, kind and kind[1]
            )
            return jnp.concatenate([kept, bent]), log_det + slopes.sum(0)

        stacked = params["layers"], self._orders, self._kinds
        z, log_det = nets.through(layer, (z, log_det), stacked)
        return nets.reorder(z, np.argsort(self._order(self.layers - 1))), log_det, possible

    def _push(self, params, noise, y):
        z = self._frame.base(noise)
        given = self._given(params, y, z)

        def layer(z, own):
            network, (_, back), kind = own
            kept, bent = jnp.split(z, [self._kept])
            bent, _ = spline.inverse(
                self._knots(network, kept, given, kind), bent, kind and kind[1]
            )
            return nets.reorder(jnp.concatenate([kept, bent]), back)

        z = nets.reorder(z, self._order(self.layers - 1))
        stacked = params["layers"], self._orders, self._kinds
        return self._frame.leave(params["frame"]["x"], nets.through(layer, z, stacked, True))

    def _knots(self, network, kept, given, kind):
        """The numbers that shape the splines, (numbers, bent, ...)."""
        known = seen(kept, kind and kind[0])
        rows = spline.rows(self.bins, bool(self._frame.bounded.any()))
        zeros = (rows - self._numbers) * self._bent
        u = nets.mlp(network, jnp.concatenate([known, given]), zeros=zeros)
        return u.reshape(rows, self._bent, *u.shape[1:])

    @property
    def _kept(self):
        return self.dim // 2

    @property
    def _bent(self):
        return self.dim - self._kept

    @property
    def _numbers(self):
        return spline.numbers(self.bins, bool(self._frame.bounded.any()))

    def _order(self, layer):
        """Features as the layer takes them: those that it keeps, then those that it bends."""
        order = np.arange(self.dim)
        if layer > 1:  # halves unlike those of the first pair of layers
            order = np.random.default_rng(layer // 2).permutation(self.dim)
        return order[::-1] if layer % 2 else order

    @property
    def _orders(self):
        """How to put each layer's features in order, given the order before; and the way back."""
        orders = [np.arange(self.dim), *map(self._order, range(self.layers))]
        steps = [np.argsort(a)[b] for a, b in itertools.pairwise(orders)]
        return np.stack(steps), np.stack([np.argsort(step) for step in steps])

    @property
    def _kinds(self):
        """Where the kept and the bent features of each layer live; None: all are real."""
        if self._frame.kind is None:
            return None
        orders = np.stack([self._order(layer) for layer in range(self.layers)])
        kind = [v[orders] for v in self._frame.kind]
        kept = self._kept
        return spline.Kind(*(v[:, :kept] for v in kind)), spline.Kind(*(v[:, kept:] for v in kind))
