"""Mixtures of copies of any model."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.by_index import by_index
from jaxgen.core.families import given_of_each, mask_argument, modulate, namespace
from jaxgen.core.model import Model
from jaxgen.core.numerics import logsumexp
from jaxgen.core.random import Bits
from jaxgen.core.random.choice import choose, words_for
from jaxgen.core.spec import Count
from jaxgen.core.wrapper import Inner, Wrapper
from jaxgen.models import kmeans


class Mixture(Wrapper):
    """log p(x) = log sum_k w_k p_component(x; params_k), with ``count`` copies of ``component``.

    ``fit`` uses EM if the component has a closed form and gradients otherwise; both start from
    k-means++ clusters.

    Args:
      component: model of each component.
      count: number of components.

    Params: ``logits`` (count,), log weights up to a constant; ``component``, the component's params
    with a leading axis of size count.

    >>> digits = Mixture(Bernoulli((28, 28)), count=50)
    """

    component: Model
    count: Count

    same_events = True

    @property
    def inner(self):
        return (Inner(self.component, ("component",), self.count),)

    def _learning(self):
        component = self.component.learning
        closed = component.method == "closed_form"
        return (
            super()
            ._learning()
            ._replace(
                method="em" if closed else "gradient",
                missing="em" if closed and component.missing == "closed_form" else None,
            )
        )

    def log_prior(self, params):
        each = jax.vmap(self.component.log_prior)(params["component"])
        return logsumexp(jax.nn.log_softmax(params["logits"])[:, None] + each, 0)

    def init(self, key, x=None, y=None):
        keys = jax.random.split(key, self.count)
        if x is None:
            component = jax.vmap(self.component.init)(keys)
            return {"logits": jnp.zeros(self.count), "component": component}
        z = x if self.support.is_discrete else _standard(x)
        shares = kmeans.responsibilities(key, z, self.count)
        if self.learning.method == "gradient":
            return self._start(keys, x, y, shares)
        return _maximised(self, jnp.asarray(x, shares.dtype), y, shares)

    def log_prob(self, params, x, y=None, observed=None):
        return logsumexp(self._joint(params, x, y, observed))

    def modulate(self, params, change):
        component = jax.vmap(functools.partial(modulate, self.component))(
            params["component"], change["component"]
        )
        return {"logits": params["logits"] + change["logits"], "component": component}

    def noise(self):
        return {"which": Bits((words_for(self.count),)), "component": self.component.noise()}

    def push(self, params, noise, y=None):
        which = choose(jax.nn.softmax(params["logits"]), noise["which"])

        def push(component, args):
            return self.component.push(component, *args)

        args = (noise["component"], y)
        return by_index(push, params["component"], which, args)

    def complete(self, params, noise, x, observed, y=None):
        which = choose(jax.nn.softmax(self._joint(params, x, y, observed)), noise["which"])

        def complete(component, args):
            return self.component.complete(component, *args)

        return by_index(complete, params["component"], which, (noise["component"], x, observed, y))

    def marginal(self, params, features):
        marginal = lambda one: self.component.marginal(one, features)  # noqa: E731
        part, component = jax.vmap(marginal)(params["component"])
        return Mixture(part, self.count), {"logits": params["logits"], "component": component}

    def given(self, params, features, values):
        if self.y_shape is not None:
            raise NotImplementedError(
                f"{self} has no given: the weights of its components, given values, depend on y"
            )
        log_weights = jax.nn.log_softmax(params["logits"])
        part, component, logits = given_of_each(
            self.component, params["component"], log_weights, features, values
        )
        return Mixture(part, self.count), {"logits": logits, "component": component}

    def rescale(self, params, shift, scale):
        component = self.component.rescale(params["component"], shift, scale)
        return {**params, "component": component}

    def em_step(self, params, x, y=None, weights=None, observed=None):
        axes = (None, 0, None if y is None else 0, None if observed is None else 0)
        joint = jax.vmap(self._joint, in_axes=axes)(params, x, y, observed)
        score = logsumexp(joint, 1)
        shares = jnp.where(score[:, None] == -jnp.inf, 0, jax.nn.softmax(joint, 1))
        shares = shares * weights[:, None]
        return self._maximise(x, y, shares, observed), (weights * score).sum() / weights.sum()

    def _start(self, keys, x, y, shares):
        """Params from the ``init`` of each component on its cluster, so that components differ."""
        nearest = shares.argmax(1)
        xp = namespace(x)
        if xp is np:
            nearest = np.asarray(nearest)
        each = []
        for k in range(self.count):
            # each cluster's rows are repeated up to n rows: one shape, so one compiled program
            cluster_first = xp.argsort(nearest != k, stable=True)
            rows = cluster_first[xp.arange(len(x)) % xp.maximum((nearest == k).sum(), 1)]
            each.append(self.component.init(keys[k], x[rows], None if y is None else y[rows]))
        component = jax.tree_util.tree_map(lambda *leaves: jnp.stack(leaves), *each)
        return {"logits": jnp.log(shares.mean(0) + 1e-3), "component": component}

    def _joint(self, params, x, y, observed=None):
        """log w_k + log p_k(x) of one event, (count,)."""
        score = lambda p: self.component.log_prob(p, x, y, **mask_argument(observed))  # noqa: E731
        log_weights = jax.nn.log_softmax(params["logits"])
        # the score of a component without weight may be NaN
        scores = jax.vmap(score)(params["component"])
        return jnp.where(log_weights == -jnp.inf, -jnp.inf, log_weights + scores)

    def _maximise(self, x, y, shares, observed=None):
        total = shares.sum(0)
        shares = jnp.where(total > 0, shares, 1)  # a component without rows is fitted to all
        estimate = jax.vmap(
            lambda share: self.component.estimate(x, y, share, **mask_argument(observed))
        )
        return {"logits": jnp.log(total / total.sum()), "component": estimate(shares.T)}


def _standard(x):
    """x with features of unit deviation, so that k-means does not depend on their units."""
    xp, spread = namespace(x), x.max(0) - x.min(0)
    z = (x - x.min(0)) / xp.where(spread > 0, spread, 1)
    return z / xp.where(spread > 0, z.std(0), 1)


@functools.partial(jax.jit, static_argnums=0)
def _maximised(mixture, x, y, shares):
    """``_maximise`` as one compiled program."""
    return mixture._maximise(x, y, shares)
