"""A model seen through an invertible map."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.bijectors import Bijector, Permute
from jaxgen.core.families import modulate, others
from jaxgen.core.model import Model
from jaxgen.core.places import Names, feature
from jaxgen.core.sizes import size_class
from jaxgen.core.wrapper import Inner, Wrapper


class Transformed(Wrapper):
    """The law of x = bijector(z) with z from ``base``: log p(x) = log p_base(z) + log|det dz/dx|.

    The bijector's own params come from the data and are not refitted by closed form or EM.

    Args:
      base: model of z.
      bijector: map from z to x.

    Params: ``base`` and ``bijector``.

    >>> positive = Transformed(GaussianMixture(2, components=4), bijectors.Positive())
    """

    base: Model
    bijector: Bijector

    def __post_init__(self):
        super().__post_init__()
        if self.base.support.is_discrete and not isinstance(self.bijector, Permute):
            raise ValueError(f"Transformed: base must be continuous, got {self.base}")

    @property
    def inner(self):
        return (Inner(self.base, ("base",)),)

    @property
    def event_shape(self):
        return self.bijector.event_shape(self.base.event_shape)

    def _traits(self):
        return super()._traits()._replace(reparameterized=self.base.traits.reparameterized)

    @property
    def support(self):
        return self.bijector.support(self.event_shape)

    def _learning(self):
        learning = super()._learning()
        if isinstance(self.bijector, Permute):
            rescalable = np.broadcast_to(learning.rescalable, self.event_shape)
            return learning._replace(rescalable=rescalable[list(self.bijector.order)])
        return learning._replace(rescalable=self.bijector.rescalable)

    def rescale(self, params, shift, scale):
        if isinstance(self.bijector, Permute):
            back = np.argsort(self.bijector.order)
            base = self.base.rescale(params["base"], shift[back], scale[back])
            return {**params, "base": base}
        return {**params, "bijector": self.bijector.rescale(params["bijector"], shift, scale)}

    def log_prior(self, params):
        return self.base.log_prior(params["base"])

    def init(self, key, x=None, y=None):
        bijector = self.bijector.init(self.event_shape, x)
        z = None if x is None else self._inverse_batch(bijector, x)
        with self._names():
            return {"base": self.base.init(key, z, y), "bijector": bijector}

    def log_prob(self, params, x, y=None):
        inside = self.bijector.contains(params["bijector"], x)
        origin = jnp.zeros(self.base.event_shape, x.dtype)
        safe, _ = self.bijector.forward(params["bijector"], origin)
        z, log_det = self.bijector.inverse(params["bijector"], jnp.where(inside, x, safe))
        score = self.base.log_prob(params["base"], z, y) + log_det
        return jnp.where(inside, score, -jnp.inf)

    def loss(self, params, noise, x, y=None):
        z, log_det = self.bijector.inverse(params["bijector"], x)
        return self.base.loss(params["base"], noise, z, y) - log_det

    def modulate(self, params, change):
        return {**params, "base": modulate(self.base, params["base"], change["base"])}

    def noise(self):
        return self.base.noise()

    def push(self, params, noise, y=None):
        z = self.base.push(params["base"], noise, y)
        return self.bijector.forward(params["bijector"], z)[0]

    def pull(self, params, x, y=None):
        z, _ = self.bijector.inverse(params["bijector"], x)
        return self.base.pull(params["base"], z, y)

    def marginal(self, params, features):
        if isinstance(self.bijector, Permute):
            return self.base.marginal(params["base"], _permuted(self.bijector, features))
        bijector = self.bijector.part(params["bijector"], features)
        part, base = self.base.marginal(params["base"], features)
        return Transformed(part, self.bijector), {"base": base, "bijector": bijector}

    def given(self, params, features, values):
        rest = others(self, features)
        if isinstance(self.bijector, Permute):
            part, base = self.base.given(params["base"], _permuted(self.bijector, features), values)
            places = _permuted(self.bijector, rest)
            order = tuple(np.argsort(np.argsort(places)).tolist())
            return Transformed(part, Permute(order)), {"base": base, "bijector": {}}
        z, _ = self.bijector.inverse(self.bijector.part(params["bijector"], features), values)
        bijector = self.bijector.part(params["bijector"], rest)
        part, base = self.base.given(params["base"], features, z)
        return Transformed(part, self.bijector), {"base": base, "bijector": bijector}

    def estimate(self, x, y=None, weights=None):
        bijector = self.bijector.init(self.event_shape, x)
        z = self._inverse_batch(bijector, x)
        with self._names():
            return {"base": self.base.estimate(z, y, weights), "bijector": bijector}

    def em_step(self, params, x, y=None, weights=None):
        z, log_det = jax.vmap(self.bijector.inverse, (None, 0))(params["bijector"], x)
        base, score = self.base.em_step(params["base"], z, y, weights)
        log_det = jnp.average(log_det, weights=weights)
        return {"base": base, "bijector": params["bijector"]}, score + log_det

    def _inverse_batch(self, params, x):
        """z of a batch as log_prob computes it, so that bounds learnt from z hold when scoring."""
        if isinstance(x, jax.Array):
            return _inverse_of_rows(self.bijector, params, x)
        # on the host: padded, since a program is compiled for each shape
        rows = np.pad(x, [(0, size_class(len(x)) - len(x)), *[(0, 0)] * (x.ndim - 1)], mode="edge")
        params, rows = jax.tree_util.tree_map(jnp.asarray, (params, rows))
        return np.asarray(_inverse_of_rows(self.bijector, params, rows), np.float64)[: len(x)]

    def _names(self):
        """Errors of the base, with its features as those of x where they are the same."""
        if isinstance(self.bijector, Permute):
            back = np.argsort(self.bijector.order)
            return Names(feature=lambda j: feature(back[j]))
        if type(self.bijector).part is Bijector.part:
            return Names(feature=lambda j: f"{feature(j)} of the base")
        return Names()


@functools.partial(jax.jit, static_argnums=0)
def _inverse_of_rows(bijector, params, x):
    return jax.vmap(lambda x: bijector.inverse(params, x)[0])(x)


def _permuted(permute: Permute, features):
    """Where the base has the features."""
    return tuple(permute.order[feature] for feature in features)
