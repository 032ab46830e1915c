"""Marginals and conditionals of any model, by importance sampling."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from jaxgen.core.constraints import innermost
from jaxgen.core.families import namespace, others
from jaxgen.core.model import Model, Params
from jaxgen.core.numerics import computed_once, logsumexp
from jaxgen.core.promotion import standard_promotion
from jaxgen.core.random import Key, Uniform, draw
from jaxgen.core.spec import Count
from jaxgen.core.wrapper import Inner, Wrapper
from jaxgen.models.gaussian_mixture import GaussianMixture
from jaxgen.models.normal.matrices import matmul

_ROWS = 4096  # most events of the base that a tile scores at once
_WIDENED = 1.3  # factor on the covariances of a proposal, which needs longer tails than its target
_WIDE = 4.0  # factor on the covariance of all data, for one more, wide component
_WIDE_WEIGHT = 0.05  # weight of the wide component, which bounds the importance weights
_FAR = 20.0  # deviations of the wide component beyond which given values are clipped
_INIT_EVENTS = 512  # events of the base from which ``init`` makes a proposal
_FIRST_ROW = np.zeros(2, np.uint32)  # the number of the first row, in two words


class _ImportanceSampled(Wrapper):
    """Base of ``GivenByImportance`` and ``MarginalByImportance``, which have the same fields."""

    base: Model
    features: tuple[int, ...]
    candidates: Count = 64
    components: Count = 33

    def __post_init__(self):
        super().__post_init__()
        size, features = math.prod(self.base.event_shape), self.features
        possible = all(0 <= place < size for place in features) and 0 < len(features) < size
        if not possible or len(set(features)) < len(features):
            raise ValueError(
                f"{type(self).__name__}: features must be some, but not all, of 0 .. {size - 1}, "
                f"once each; got {features}"
            )
        if self.base.y_shape is not None:
            raise ValueError(f"{type(self).__name__}: base must have no y, got {self.base}")

    @property
    def inner(self):
        return (Inner(self.base, ("base",)),)

    def _learning(self):
        return super()._learning()._replace(method="gradient", noise=())

    def _traits(self):
        tile = max(1, _ROWS // self.candidates)
        counted = self._degrees_of_freedom
        return super()._traits()._replace(density="estimate", tile=tile, degrees_of_freedom=counted)

    def _degrees_of_freedom(self, params):
        raise NotImplementedError(f"{self} has no degrees of freedom: it is not fitted itself")

    @property
    def support(self):
        number = innermost(self.base.support)
        return constraints.independent(constraints.real if number.event_dim else number, 1)

    @property
    def other_features(self) -> tuple[int, ...]:
        """The features of the base that are not in ``features``, in order."""
        return others(self.base, self.features)

    def loss(self, params, noise, x, y=None):
        raise NotImplementedError(
            f"{type(self).__name__} cannot be fitted: fit its base, then take the same part of "
            "the result"
        )

    def _score_joint(self, params, x, x_others):
        """The base's log density of the event with ``features`` x and the other features."""
        order = np.argsort(np.array(self.features + self.other_features))
        event = jnp.concatenate([x, x_others])[order].reshape(self.base.event_shape)
        return self.base.log_prob(params["base"], event)

    @standard_promotion
    def init(self, key, x=None, y=None):
        return _init(self, key)

    def _start(self, key):
        """Params of the base, samples (n, size) of it and params of a proposal for all features."""
        params = self.base.init(key)
        noise = draw(self.base.noise(), key, _FIRST_ROW, _INIT_EVENTS, jnp.result_type(float))
        events = jax.vmap(self.base.push, (None, -1))(params, noise).reshape(_INIT_EVENTS, -1)
        shift, scale = events.mean(0), events.std(0) + jnp.finfo(events.dtype).tiny
        normals = GaussianMixture(events.shape[1], max(self.components - 1, 1))
        z = (events - shift) / scale
        return params, events, defensive(normals.init(key, z), z, shift, scale)


# jit, because its hundreds of operations would otherwise be compiled one by one
@functools.partial(jax.jit, static_argnums=0)
def _init(model, key):
    return model._init(key)


class GivenByImportance(_ImportanceSampled):
    """p(x_others | x_features = values), with log density log p(x) - log p(values).

    ``Fitted.given`` makes it of a model without conditionals in closed form. A sample is one of
    ``candidates`` draws from a proposal q, a mixture of normals close to the conditional, chosen in
    proportion to p / q. Its distribution has an error of about 1 / (effective number of
    candidates). The error of the log density is that of the constant log p(values).

    Args:
      base: model of all features.
      features: indices, in the flattened event, of the features whose values are given.
      candidates: proposals for each draw.
      components: normals of the proposal.

    Params: ``base``; ``values`` (features,); ``proposal``, of a ``GaussianMixture`` over the other
    features; ``log_total``, log p(values) in nats.

    Source: Rubin 1988, "Using the SIR algorithm to simulate posterior distributions"; for the
    proposal, Hesterberg 1995, "Weighted average importance sampling and defensive mixture
    distributions".
    """

    @property
    def event_shape(self):
        return (len(self.other_features),)

    @property
    def proposal(self) -> GaussianMixture:
        """The spec of ``params["proposal"]``."""
        return GaussianMixture(len(self.other_features), self.components)

    def _init(self, key):
        base, events, joint = self._start(key)
        values = events[0, np.array(self.features)]
        whole = GaussianMixture(events.shape[1], self.components)
        _, proposal = whole.given(joint, self.features, values)
        params = {"base": base, "values": values, "proposal": proposal}
        noise = draw(self.proposal.noise(), key, _FIRST_ROW, _INIT_EVENTS, values.dtype)
        log_weights = jax.vmap(self._propose, (None, -1))(params, noise)[1]
        return {**params, "log_total": logsumexp(log_weights) - math.log(_INIT_EVENTS)}

    def log_prob(self, params, x, y=None):
        return self._score_joint(params, params["values"], x) - params["log_total"]

    def noise(self):
        return Key()

    def push(self, params, noise, y=None):
        leaves = {"proposal": self.proposal.noise(), "race": Uniform()}
        noise = draw(leaves, noise, _FIRST_ROW, self.candidates, params["values"].dtype)
        noise = computed_once(noise, params["log_total"])
        events, log_weights = jax.vmap(self._propose, (None, -1))(params, noise["proposal"])
        # the Gumbel-max trick chooses by weight; the log weights are normalised first, because
        # rounding would lose the noise beside large numbers
        log_weights = jax.nn.log_softmax(log_weights)
        return events[(log_weights - jnp.log(-jnp.log(noise["race"]))).argmax()]

    def _propose(self, params, noise):
        """A draw from the proposal, and log p / q there."""
        x = self.proposal.push(params["proposal"], noise)
        score = self._score_joint(params, params["values"], x)
        return x, score - self.proposal.log_prob(params["proposal"], x)


class MarginalByImportance(_ImportanceSampled):
    """p(x_features), as a mean of p(x) / q(x_others | x_features).

    ``Fitted.marginal`` makes it of a model without marginals in closed form. Samples are exact:
    they are those of the base without the other features. The log density is the log of a mean
    over ``candidates`` points for the other features, which are drawn from a proposal q, a mixture
    of normals close to their conditional, by a Latin hypercube that is the same in every call.

    Args:
      base: model of all features.
      features: indices, in the flattened event, of the features to keep, in this order.
      candidates: points for each density.
      components: normals of the proposal.

    Params: ``base``; ``proposal``, of a ``GaussianMixture`` over all features.

    Source: that of ``GivenByImportance``; McKay, Beckman and Conover 1979 (Latin hypercubes).
    """

    @property
    def event_shape(self):
        return (len(self.features),)

    def _traits(self):
        return super()._traits()._replace(reparameterized=self.base.traits.reparameterized)

    @property
    def proposal(self) -> GaussianMixture:
        """The spec of ``params["proposal"]``."""
        return GaussianMixture(math.prod(self.base.event_shape), self.components)

    def _init(self, key):
        base, _, proposal = self._start(key)
        return {"base": base, "proposal": proposal}

    def log_prob(self, params, x, y=None):
        return logsumexp(self.log_weights(params, x)) - math.log(self.candidates)

    def log_weights(self, params, x):
        """log p / q at each point, (candidates,)."""
        places = np.array(self.features)
        centre = params["proposal"]["mean"][-1, places]
        wide = params["proposal"]["scale_tril"][-1, places]
        reach = _FAR * jnp.sqrt((wide**2).sum(1))
        near = jnp.clip(x, centre - reach, centre + reach)  # the mean is unbiased for any q
        conditional, normals = self.proposal.given(params["proposal"], self.features, near)
        cumulative = jnp.cumsum(jax.nn.softmax(normals["logits"]))
        levels, z = (v.astype(x.dtype) for v in _points(self.candidates, len(self.other_features)))

        def weigh(level, z):
            k = (cumulative[:-1] <= level).sum()
            x_others = normals["mean"][k] + matmul(normals["scale_tril"][k], z)
            log_q = conditional.log_prob(normals, x_others)
            return self._score_joint(params, x, x_others) - log_q

        return jax.vmap(weigh)(levels, z)

    def noise(self):
        return self.base.noise()

    def push(self, params, noise, y=None):
        return self.base.push(params["base"], noise).reshape(-1)[np.array(self.features)]

    def marginal(self, params, features):
        kept = tuple(self.features[place] for place in features)
        return MarginalByImportance(self.base, kept, self.candidates, self.components), params


def defensive(params: Params, z: Any, shift: Any, scale: Any) -> Params:
    """Params of a defensive proposal: the mixture widened, plus one wide component, in units of x.

    Args:
      params: of a ``GaussianMixture`` fitted to z.
      z: events (n, size) in standard units, (x - shift) / scale.
      shift, scale: (size,).

    Source: Owen 2013, "Monte Carlo theory, methods and examples", section 9.11.
    """
    xp = namespace(z)
    log_weights = jax.nn.log_softmax(params["logits"])
    covariance = z.T @ z / len(z) - xp.outer(z.mean(0), z.mean(0)) + 1e-6 * xp.eye(z.shape[1])
    wide = _WIDE**0.5 * xp.linalg.cholesky(covariance)
    logits = [log_weights + math.log(1 - _WIDE_WEIGHT), xp.full(1, math.log(_WIDE_WEIGHT), z.dtype)]
    means = xp.concatenate([params["mean"], z.mean(0)[None]])
    tril = xp.concatenate([_WIDENED**0.5 * xp.tril(params["scale_tril"]), wide[None]])
    return {
        "logits": xp.concatenate(logits),
        "mean": shift + scale * means,
        "scale_tril": scale[:, None] * tril,
    }


@functools.cache
def _points(count, dim):
    """A Latin hypercube: levels (count,), for the component, and normal scores (count, dim)."""
    from scipy.special import ndtri

    levels = (np.arange(count) + 0.5) / count
    rng = np.random.default_rng(0)
    columns = [ndtri(rng.permutation(levels)) for _ in range(dim)]
    return levels, np.stack(columns, 1)
