"""A model whose events are transformed by an invertible map."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.bijectors import Bijector, Permute
from jaxgen.bijectors.bijector import check_methods
from jaxgen.core.degrees import degrees_of_freedom
from jaxgen.core.families import modulate, others
from jaxgen.core.model import Model
from jaxgen.core.places import Names, feature
from jaxgen.core.sizes import size_class
from jaxgen.core.wrapper import Inner, Wrapper


class Transformed(Wrapper):
    """x = bijector(z) with z from ``base``: log p(x) = log p_base(z) + log|det dz/dx|.

    The params of the bijector come from the data; closed forms and EM do not change them.

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
        if self.base.support.is_discrete and self.bijector.permutation is None:
            raise ValueError(
                f"Transformed: base must be continuous for {self.bijector}, got {self.base}"
            )
        check_methods(self.bijector, self.base.event_shape)

    @property
    def inner(self):
        return (Inner(self.base, ("base",)),)

    @property
    def event_shape(self):
        return self.bijector.event_shape(self.base.event_shape)

    def _traits(self):
        return (
            super()
            ._traits()
            ._replace(
                reparameterized=self.base.traits.reparameterized,
                components=self._components(),
                degrees_of_freedom=self._degrees_of_freedom,
                bijector=(self._forward, self._inverse),
            )
        )

    def _forward(self, params, z):
        return self.bijector.forward(params["bijector"], z)

    def _inverse(self, params, x):
        return self.bijector.inverse(params["bijector"], x)

    @property
    def support(self):
        return self.bijector.support(self.event_shape)

    def _learning(self):
        learning = super()._learning()
        if self.bijector.permutation is not None:
            rescalable = np.broadcast_to(learning.rescalable, self.event_shape)
            return learning._replace(rescalable=rescalable[list(self.bijector.permutation)])
        return learning._replace(rescalable=self.bijector.rescalable)

    def rescale(self, params, shift, scale):
        if self.bijector.permutation is not None:
            inverse = np.argsort(self.bijector.permutation)
            base = self.base.rescale(params["base"], shift[inverse], scale[inverse])
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
        return self._score(self.base.log_prob, params, x, y)

    def _joint(self, params, x, y=None, observed=None):
        return self._score(self.base.traits.components.joint, params, x, y)

    def _score(self, score, params, x, y):
        """``score(base params, z, y)``, log densities of z, as log densities of x."""
        inside = self.bijector.contains(params["bijector"], x)
        origin = jnp.zeros(self.base.event_shape, x.dtype)
        safe, _ = self.bijector.forward(params["bijector"], origin)
        z, log_det = self.bijector.inverse(params["bijector"], jnp.where(inside, x, safe))
        return jnp.where(inside, score(params["base"], z, y) + log_det, -jnp.inf)

    def _degrees_of_freedom(self, params):
        base = degrees_of_freedom(self.base, params["base"])
        return base + self.bijector.degrees_of_freedom(params["bijector"])

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
        permutation = self.bijector.permutation
        if permutation is not None:
            return self.base.marginal(params["base"], tuple(permutation[j] for j in features))
        bijector = self.bijector.part(params["bijector"], features)
        part, base = self.base.marginal(params["base"], features)
        return Transformed(part, self.bijector), {"base": base, "bijector": bijector}

    def given(self, params, features, values):
        rest = others(self, features)
        permutation = self.bijector.permutation
        if permutation is not None:
            base_features = tuple(permutation[j] for j in features)
            part, base = self.base.given(params["base"], base_features, values)
            order = tuple(np.argsort(np.argsort([permutation[j] for j in rest])).tolist())
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
        """z of a batch, computed in the same precision as in ``log_prob``.

        A base with bounds, such as a Box, then contains the events that it learnt them from.
        """
        if isinstance(x, jax.Array):
            return _inverse_of_rows(self.bijector, params, x)
        # x is on the host: pad the rows, since each shape needs its own compiled program
        rows = np.pad(x, [(0, size_class(len(x)) - len(x)), *[(0, 0)] * (x.ndim - 1)], mode="edge")
        params, rows = jax.tree_util.tree_map(jnp.asarray, (params, rows))
        return np.asarray(_inverse_of_rows(self.bijector, params, rows), np.float64)[: len(x)]

    def _names(self):
        """A context in which errors of the base name the features of x where they can."""
        if self.bijector.permutation is not None:
            inverse = np.argsort(self.bijector.permutation)
            return Names(feature=lambda j: feature(inverse[j]))
        if self.bijector.elementwise:
            return Names()
        return Names(feature=lambda j: f"{feature(j)} of the base")


@functools.partial(jax.jit, static_argnums=0)
def _inverse_of_rows(bijector, params, x):
    return jax.vmap(lambda x: bijector.inverse(params, x)[0])(x)
