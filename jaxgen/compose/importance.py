"""Some features of any model alone, or given the others, by importance sampling."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from jaxgen.core.families import namespace, others
from jaxgen.core.model import Model, Params
from jaxgen.core.numerics import computed_once, logsumexp
from jaxgen.core.promotion import standard_promotion
from jaxgen.core.random import Key, Uniform, draw
from jaxgen.core.spec import Count
from jaxgen.core.wrapper import Inner, Wrapper
from jaxgen.models.gaussian import product
from jaxgen.models.gaussian_mixture import GaussianMixture

_ROWS = 4096  # events of the base that a tile scores at once
_WIDER = 1.3  # times the covariances of the data: a proposal must have the longer tails
_WIDEST = 4.0  # times the covariance of all data, for one component more,
_SHARE = 0.05  # of this weight, which bounds the weights of draws
_FAR = 20.0  # widest deviations beyond which a proposal does not follow what is given
_START = 512  # events of the base that a start's proposal is made of
_FIRST = np.zeros(2, np.uint32)  # number of the first row


class _ByImportance(Wrapper):
    """Base of both: they have the fields ``base``, ``features``, ``candidates``, ``components``."""

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
        return super()._traits()._replace(density="estimate", tile=tile)

    @property
    def support(self):
        whole = self.base.support
        alike = isinstance(whole, constraints.independent) and whole.base_constraint.event_dim == 0
        return constraints.independent(whole.base_constraint if alike else constraints.real, 1)

    @property
    def rest(self) -> tuple[int, ...]:
        """The other features, in order."""
        return others(self.base, self.features)

    def loss(self, params, noise, x, y=None):
        raise NotImplementedError(f"{type(self).__name__} comes of a fitted model: fit its base")

    def _score_joint(self, params, chosen, rest):
        """log p of the event of the base with these features, and these others."""
        order = np.argsort(np.array(self.features + self.rest))
        event = jnp.concatenate([chosen, rest])[order].reshape(self.base.event_shape)
        return self.base.log_prob(params["base"], event)

    @standard_promotion
    def init(self, key, x=None, y=None):
        return _init(self, key)

    def _start(self, key):
        """Params of the base, a few of its events (n, size) and a proposal of all features."""
        params = self.base.init(key)
        noise = draw(self.base.noise(), key, _FIRST, _START, jnp.result_type(float))
        events = jax.vmap(self.base.push, (None, -1))(params, noise).reshape(_START, -1)
        shift, scale = events.mean(0), events.std(0) + jnp.finfo(events.dtype).tiny
        normals = GaussianMixture(events.shape[1], max(self.components - 1, 1))
        z = (events - shift) / scale
        return params, events, defensive(normals.init(key, z), z, shift, scale)


@functools.partial(jax.jit, static_argnums=0)  # hundreds of operations, else compiled one by one
def _init(model, key):
    return model._init(key)


class GivenByImportance(_ByImportance):
    """p(x_rest | x_features = values) of a model without closed forms: log p(x) - log p(values).

    A draw is one of ``candidates`` draws from a mixture of normals that is near the conditional,
    picked in proportion to p / q: its law is right up to about 1 / (effective candidates). The log
    density is right up to the error of the constant log p(values). ``Fitted.given`` makes it.

    Args:
      base: model of all features.
      features: places, in the flattened event, of those that are known.
      candidates: proposals for each draw.
      components: normals of the proposal.

    Params: ``base``; ``values`` (features,); ``proposal``, of a ``GaussianMixture`` over the other
    features; ``log_total``, log p(values) in nats.

    Source: Rubin 1988, "Using the SIR algorithm to simulate posterior distributions"; the proposal,
    Hesterberg 1995, "Weighted average importance sampling and defensive mixture distributions".
    """

    @property
    def event_shape(self):
        return (len(self.rest),)

    @property
    def proposal(self) -> GaussianMixture:
        """The spec of ``params["proposal"]``."""
        return GaussianMixture(len(self.rest), self.components)

    def _init(self, key):
        base, events, joint = self._start(key)
        values = events[0, np.array(self.features)]
        whole = GaussianMixture(events.shape[1], self.components)
        _, proposal = whole.given(joint, self.features, values)
        params = {"base": base, "values": values, "proposal": proposal}
        noise = draw(self.proposal.noise(), key, _FIRST, _START, values.dtype)
        log_weights = jax.vmap(self._propose, (None, -1))(params, noise)[1]
        return {**params, "log_total": logsumexp(log_weights) - math.log(_START)}

    def log_prob(self, params, x, y=None):
        return self._score_joint(params, params["values"], x) - params["log_total"]

    def noise(self):
        return Key()

    def push(self, params, noise, y=None):
        kinds = {"proposal": self.proposal.noise(), "race": Uniform()}
        noise = draw(kinds, noise, _FIRST, self.candidates, params["values"].dtype)
        noise = computed_once(noise, params["log_total"])
        events, log_weights = jax.vmap(self._propose, (None, -1))(params, noise["proposal"])
        # the highest of log weight + Gumbel noise is a choice by weight; beside large ones the
        # noise would be rounded off
        log_weights = jax.nn.log_softmax(log_weights)
        return events[(log_weights - jnp.log(-jnp.log(noise["race"]))).argmax()]

    def _propose(self, params, noise):
        """A draw from the proposal, and the logarithm of p / q there."""
        x = self.proposal.push(params["proposal"], noise)
        score = self._score_joint(params, params["values"], x)
        return x, score - self.proposal.log_prob(params["proposal"], x)


class MarginalByImportance(_ByImportance):
    """p(x_features) of a model without closed forms: a mean of p(x) / q(x_rest | x_features).

    Draws are exact: those of the base without the other features. The log density is the logarithm
    of a mean over ``candidates`` points for the other features, in a mixture of normals that is
    near their conditional; the points, a Latin hypercube's, are the same in every call.
    ``Fitted.marginal`` makes it.

    Args:
      base: model of all features.
      features: places, in the flattened event, of those to keep, in this order.
      candidates: points for each density.
      components: normals of the proposal.

    Params: ``base``; ``proposal``, of a ``GaussianMixture`` over all features.

    Source: as of ``GivenByImportance``; McKay, Beckman and Conover 1979 (Latin hypercubes).
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
        """log p / q at each of the points, (candidates,)."""
        places = np.array(self.features)
        centre = params["proposal"]["mean"][-1, places]
        widest = params["proposal"]["scale_tril"][-1, places]
        reach = _FAR * jnp.sqrt((widest**2).sum(1))
        near = jnp.clip(x, centre - reach, centre + reach)  # any proposal is right
        rest, normals = self.proposal.given(params["proposal"], self.features, near)
        cumulative = jnp.cumsum(jax.nn.softmax(normals["logits"]))
        levels, z = (v.astype(x.dtype) for v in _points(self.candidates, len(self.rest)))

        def weigh(level, z):
            k = (cumulative[:-1] <= level).sum()
            away = normals["mean"][k] + product(normals["scale_tril"][k], z)
            return self._score_joint(params, x, away) - rest.log_prob(normals, away)

        return jax.vmap(weigh)(levels, z)

    def noise(self):
        return self.base.noise()

    def push(self, params, noise, y=None):
        return self.base.push(params["base"], noise).reshape(-1)[np.array(self.features)]

    def marginal(self, params, features):
        kept = tuple(self.features[place] for place in features)
        return MarginalByImportance(self.base, kept, self.candidates, self.components), params


def defensive(params: Params, z, shift, scale) -> Params:
    """A mixture of normals as a proposal: wider, with one wide component more, in raw units.

    Args:
      params: of a GaussianMixture that suits z.
      z: events (n, size) in standard units, (x - shift) / scale.
      shift, scale: (size,).

    Source: Owen 2013, "Monte Carlo theory, methods and examples", section 9.11.
    """
    xp = namespace(z)
    log_weights = jax.nn.log_softmax(params["logits"])
    covariance = z.T @ z / len(z) - xp.outer(z.mean(0), z.mean(0)) + 1e-6 * xp.eye(z.shape[1])
    widest = _WIDEST**0.5 * xp.linalg.cholesky(covariance)
    logits = [log_weights + math.log(1 - _SHARE), xp.full(1, math.log(_SHARE), z.dtype)]
    means = xp.concatenate([params["mean"], z.mean(0)[None]])
    tril = xp.concatenate([_WIDER**0.5 * xp.tril(params["scale_tril"]), widest[None]])
    return {
        "logits": xp.concatenate(logits),
        "mean": shift + scale * means,
        "scale_tril": scale[:, None] * tril,
    }


@functools.cache
def _points(count, dim):
    """Levels (count,), and normal scores (count, dim) of a Latin hypercube beside them."""
    from scipy.special import ndtri

    levels = (np.arange(count) + 0.5) / count
    rng = np.random.default_rng(0)
    columns = [ndtri(rng.permutation(levels)) for _ in range(dim)]
    return levels, np.stack(columns, 1)
