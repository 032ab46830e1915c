"""Mixtures of copies of any model."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.by_index import by_index
from jaxgen.core.degrees import numbers_not_frozen
from jaxgen.core.families import (
    given_of_each,
    mask_argument,
    modulate,
    namespace,
    resized,
    token_log_probs_of_each,
    without_weight,
)
from jaxgen.core.model import Model
from jaxgen.core.numerics import logsumexp
from jaxgen.core.promotion import standard_promotion
from jaxgen.core.random import Bits
from jaxgen.core.random.choice import choose, words_for
from jaxgen.core.records import Components, Sizes
from jaxgen.core.spec import Count, Params
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

    def _traits(self):
        sizes = Sizes(self._of_size, resized, self._init_some)
        components = Components(self.count, self._joint, self._which, sizes)
        tokens = self.component.traits.token_log_probs
        return (
            super()
            ._traits()
            ._replace(
                components=components,
                degrees_of_freedom=self._degrees_of_freedom,
                token_log_probs=None if tokens is None else self._token_log_probs,
            )
        )

    @standard_promotion
    def weights(self, params: Params) -> jax.Array:
        """The weights of the components, (count,), which sum to 1.

        >>> mixture = Mixture(Gaussian(2), count=4)
        >>> mixture.weights(mixture.init(key))
        Array([0.25, 0.25, 0.25, 0.25], dtype=float32)
        """
        return jax.nn.softmax(jnp.asarray(params["logits"]))

    def log_prior(self, params):
        each = jax.vmap(self.component.log_prior)(params["component"])
        return logsumexp(jax.nn.log_softmax(params["logits"])[:, None] + each, 0)

    def init(self, key, x=None, y=None):
        keys = jax.random.split(key, self.count)
        if x is None:
            component = jax.vmap(self.component.init)(keys)
            return {"logits": jnp.zeros(self.count), "component": component}
        if self.learning.method == "gradient":
            shares = kmeans.responsibilities(key, kmeans_input(self, x), self.count)
            return self._start(keys, x, y, shares)
        return self._init_some(self.count, key, x, y)

    def _init_some(self, count, key, x, y=None):
        """Params for EM, whose first ``count`` components alone have weight."""
        shares = kmeans.responsibilities(key, kmeans_input(self, x), self.count, count)
        params = _maximised(self, jnp.asarray(x, shares.dtype), y, shares)
        weightless = np.arange(self.count) >= count
        return without_weight(params, weightless) if weightless.any() else params

    def _of_size(self, count):
        return Mixture(self.component, count)

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
        which = self._which(params, noise)

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
        shares, score = expected_shares(joint, weights)
        return self._maximise(x, y, shares, observed), score

    def _start(self, keys, x, y, shares):
        """Params from the ``init`` of each component on its cluster, so that components differ."""
        each = []
        for k in range(self.count):
            rows = repeated_rows_where(shares.argmax(1) == k, x)
            each.append(self.component.init(keys[k], x[rows], None if y is None else y[rows]))
        component = jax.tree_util.tree_map(lambda *leaves: jnp.stack(leaves), *each)
        return {"logits": jnp.log(shares.mean(0) + 1e-3), "component": component}

    def _which(self, params, noise, y=None):
        return choose(jax.nn.softmax(params["logits"]), noise["which"])

    def _degrees_of_freedom(self, params):
        return numbers_not_frozen(self, params) - 1  # the weights sum to 1

    def _joint(self, params, x, y=None, observed=None):
        """log w_k + log p_k(x) of one event, (count,)."""
        score = lambda p: self.component.log_prob(p, x, y, **mask_argument(observed))  # noqa: E731
        log_weights = jax.nn.log_softmax(params["logits"])
        # the score of a component without weight may be NaN
        scores = jax.vmap(score)(params["component"])
        return jnp.where(log_weights == -jnp.inf, -jnp.inf, log_weights + scores)

    def _token_log_probs(self, params, x, y=None):
        tokens = self.component.traits.token_log_probs
        each = jax.vmap(lambda one: tokens(one, x, y))(params["component"])
        return token_log_probs_of_each(jax.nn.log_softmax(params["logits"]), each)

    def _maximise(self, x, y, shares, observed=None):
        total = shares.sum(0)
        shares = jnp.where(total > 0, shares, 1)  # a component without rows is fitted to all
        estimate = jax.vmap(
            lambda share: self.component.estimate(x, y, share, **mask_argument(observed))
        )
        return {"logits": jnp.log(total / total.sum()), "component": estimate(shares.T)}


def expected_shares(joint: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The shares (n, count) of components in rows, times the weights, and the mean log density.

    joint (n, count) is log w_k + log p_k(x) of each row, weights (n,). A row of zero density has no
    shares.
    """
    score = logsumexp(joint, 1)
    shares = jnp.where(score[:, None] == -jnp.inf, 0, jax.nn.softmax(joint, 1))
    return shares * weights[:, None], (weights * score).sum() / weights.sum()


def kmeans_input(mixture: Model, x: Any) -> Any:
    """x with features of unit deviation, so that k-means does not depend on their units.

    Whole numbers stay as they are.
    """
    if mixture.support.is_discrete:
        return x
    xp, spread = namespace(x), x.max(0) - x.min(0)
    z = (x - x.min(0)) / xp.where(spread > 0, spread, 1)
    return z / xp.where(spread > 0, z.std(0), 1)


def repeated_rows_where(chosen: Any, x: Any) -> Any:
    """Indices (n,) of the rows of x (n, ...) for which ``chosen`` (n,) is true, in turn.

    They are repeated up to the number of rows of x: one shape, so one compiled program.
    """
    xp = namespace(x)
    chosen = xp.asarray(chosen)
    chosen_first = xp.argsort(~chosen, stable=True)
    return chosen_first[xp.arange(len(x)) % xp.maximum(chosen.sum(), 1)]


@functools.partial(jax.jit, static_argnums=0)
def _maximised(mixture, x, y, shares):
    """``_maximise`` as one compiled program."""
    return mixture._maximise(x, y, shares)
