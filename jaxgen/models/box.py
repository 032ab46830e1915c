"""The uniform distribution on an axis-aligned box."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np

from jaxgen.core.constraints import support_within
from jaxgen.core.families import check_observed, namespace, others
from jaxgen.core.model import Learning, Model, Traits
from jaxgen.core.places import Message, feature
from jaxgen.core.random import Uniform
from jaxgen.core.spec import Count, NonNegative


class Box(Model):
    """Uniform on an axis-aligned box: p(x) = 1 / prod_j (high_j - low_j) for low <= x <= high.

    The maximum-likelihood box is the bounding box of the data. A new event may fall just outside
    it and score -inf; ``margin`` widens the box to avoid that.

    Args:
      dim: number of features.
      margin: fraction of the data's range added on each side.

    Params: ``low`` and ``high``, (dim,), in the units of x.

    Raises:
      ValueError: when fitted to data with a constant feature, since the box would have no volume.

    >>> fitted = jaxgen.fit(Box(2), np.array([[0.0, 0.0], [1.0, 4.0]]), key=jax.random.key(0))
    >>> fitted.log_prob(np.array([[0.5, 1.0]]))
    Array([-1.3862944], dtype=float32)
    """

    dim: Count
    margin: NonNegative = 0.0

    learning = Learning("closed_form", missing="closed_form", frozen=("low", "high"))

    @functools.cached_property
    def traits(self):
        return Traits(
            reparameterized=True,
            elementwise=True,
            support_at=support_within,
            degrees_of_freedom=self._degrees_of_freedom,
        )

    @property
    def event_shape(self):
        return (self.dim,)

    def _degrees_of_freedom(self, params):
        return 2 * self.dim

    def init(self, key, x=None, y=None):
        if x is not None:
            return self.estimate(x)
        return {"low": jnp.zeros(self.dim), "high": jnp.ones(self.dim)}

    def estimate(self, x, y=None, weights=None, observed=None):
        xp = namespace(x, weights)
        counted = xp.ones(len(x), bool) if weights is None else weights > 0
        counted = counted[:, None]
        if observed is not None:
            counted = counted & observed
            if xp is np:
                check_observed(counted)
        low = xp.where(counted, x, xp.inf).min(0)
        high = xp.where(counted, x, -xp.inf).max(0)
        if xp is not jnp and (low == high).any():
            constant = feature((low == high).argmax())
            raise ValueError(Message("x is constant in ", constant, ": a Box has no volume there"))
        return {
            "low": low - self.margin * (high - low),
            "high": high + self.margin * (high - low),
        }

    def log_prob(self, params, x, y=None, observed=None):
        low, high = params["low"], params["high"]
        inside, log_widths = (x >= low) & (x <= high), jnp.log(high - low)
        if observed is not None:
            inside, log_widths = inside | ~observed, jnp.where(observed, log_widths, 0)
        return jnp.where(inside.all(), -log_widths.sum(), -jnp.inf)

    def noise(self):
        return Uniform((self.dim,))

    def push(self, params, noise, y=None):
        low, high = params["low"], params["high"]
        return jnp.minimum(low + (high - low) * noise, high)  # rounding may exceed the upper edge

    def pull(self, params, x, y=None):
        return (x - params["low"]) / (params["high"] - params["low"])

    def complete(self, params, noise, x, observed, y=None):
        return jnp.where(observed, x, self.push(params, noise))

    def marginal(self, params, features):
        places = np.array(features)
        return Box(len(features), self.margin), {k: v[places] for k, v in params.items()}

    def given(self, params, features, values):
        return self.marginal(params, others(self, features))
