"""Mixtures of normal distributions, fitted by expectation-maximisation."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

from jaxgen.core.by_index import by_index
from jaxgen.core.families import given_of_each
from jaxgen.core.model import Learning, Model
from jaxgen.core.numerics import logsumexp, logsumexp_of_tiles
from jaxgen.core.random import Bits, Normal
from jaxgen.core.random.choice import choose, words_for
from jaxgen.core.spec import Count, NonNegative
from jaxgen.models import kmeans
from jaxgen.models.gaussian import Gaussian
from jaxgen.models.normal import (
    SCALARS,
    Covariance,
    component_moments,
    em_step_observed,
    em_tile,
    log_constant,
    maximise,
    no_moments,
    row_shares,
    scale_name,
    squared_length,
    whitening,
)

_UNROLLED = 2  # components scored in one step of the scan
_map = jax.tree_util.tree_map


class GaussianMixture(Model):
    """Mixture of normals, log p(x) = log sum_k w_k N(x; mean_k, covariance_k).

    ``fit`` runs EM from a k-means++ start, then gradients if it is given an optimizer.

    Args:
      dim: number of features.
      components: number of normals.
      covariance: "full" or "diagonal"; each component has a covariance of its own.
      jitter: added to the diagonal of each covariance, relative to each feature's mean variance
        within components; that variance is first clipped to between 0.01 and 1 times the feature's
        variance in all the data.

    Params: ``logits`` (components,), the log weights up to a constant; ``mean`` (components, dim);
    ``scale_tril`` (components, dim, dim), lower Cholesky factors, or ``scale`` (components, dim).

    Source: Dempster, Laird and Rubin 1977; Bishop 2006, section 9.2.

    >>> fitted = jaxgen.fit(GaussianMixture(2, components=16), x, key=jax.random.key(0), restarts=4)
    """

    dim: Count
    components: Count
    covariance: Covariance = "full"
    jitter: NonNegative = 1e-6

    learning = Learning("em", missing="em", rescalable=True)

    @property
    def event_shape(self):
        return (self.dim,)

    @property
    def _normal(self):
        return Gaussian(self.dim, self.covariance, self.jitter)

    def init(self, key, x=None, y=None):
        if x is not None:
            shares = kmeans.responsibilities(key, x, self.components)
            return _from_shares(self, jnp.asarray(x, shares.dtype), shares.T)
        normal = self._normal.init(key)
        stacked = {k: jnp.broadcast_to(v, (self.components, *v.shape)) for k, v in normal.items()}
        mean = jax.random.normal(key, (self.components, self.dim))
        return {"logits": jnp.zeros(self.components), **stacked, "mean": mean}

    def log_prob(self, params, x, y=None, observed=None):
        if observed is not None:
            return logsumexp(self._joint_observed(params, x, observed))
        if self.dim > SCALARS:
            return logsumexp(self._joint(params, x))

        x = list(x)  # outside the scan, inside of which rows would be read by columns

        def scores(tile):
            return [self._score(_map(lambda v: v[i], tile), x) for i in range(_UNROLLED)]  # noqa: B023

        return logsumexp_of_tiles(scores, _tiles(self._parts(params), self.components), x[0].dtype)

    def noise(self):
        return {"component": Bits((words_for(self.components),)), "z": Normal((self.dim,))}

    def push(self, params, noise, y=None):
        weights = jax.nn.softmax(params["logits"])
        if self.covariance == "diagonal" or self.dim > SCALARS:
            component = choose(weights, noise["component"])
            return by_index(self._normal.push, _normals(params), component, noise["z"])
        # one gather for each scalar is twice as fast as a gather of whole matrices
        component, z = choose(weights, noise["component"]), noise["z"]
        mean, scale = params["mean"], params["scale_tril"]
        pick = lambda table: table.at[component].get(mode="promise_in_bounds")  # noqa: E731
        rows = [
            sum((pick(scale[:, i, j]) * z[j] for j in range(i + 1)), pick(mean[:, i]))
            for i in range(self.dim)
        ]
        return jnp.stack(rows)

    def complete(self, params, noise, x, observed, y=None):
        weights = jax.nn.softmax(self._joint_observed(params, x, observed))
        component = choose(weights, noise["component"])

        def complete(normal, args):
            return self._normal.complete(normal, *args)

        return by_index(complete, _normals(params), component, (noise["z"], x, observed))

    def marginal(self, params, features):
        part, normals = jax.vmap(lambda p: self._normal.marginal(p, features))(_normals(params))
        return self._with_normal(part), {"logits": params["logits"], **normals}

    def given(self, params, features, values):
        normals, log_weights = _normals(params), jax.nn.log_softmax(params["logits"])
        part, rest, logits = given_of_each(self._normal, normals, log_weights, features, values)
        return self._with_normal(part), {"logits": logits, **rest}

    def modulate(self, params, change):
        normals = jax.vmap(self._normal.modulate)(_normals(params), _normals(change))
        return {"logits": params["logits"] + change["logits"], **normals}

    def rescale(self, params, shift, scale):
        return {**params, **self._normal.rescale(_normals(params), shift, scale)}

    def em_step(self, params, x, y=None, weights=None, observed=None):
        """One EM step, Bishop equations 9.23 to 9.26; memory does not grow with n x components."""
        if observed is not None:
            return em_step_observed(params, x, weights, observed, self.covariance, self.jitter)
        tile = em_tile(len(x))
        padding = -len(x) % tile
        # rows on the last axis, over which the moments are summed
        x = jnp.pad(x, ((0, padding), (0, 0))).reshape(-1, tile, self.dim).swapaxes(1, 2)
        weights = jnp.pad(weights, (0, padding)).reshape(-1, tile)

        def add(sums, rows):
            x, weights = rows
            joint = jax.vmap(self._joint, in_axes=(None, 1), out_axes=1)(params, x)
            shares, score = row_shares(joint, weights)
            moments = self._moments(x, shares, params["mean"])
            new = *moments, (weights * score).sum()
            return jax.tree_util.tree_map(jnp.add, sums, new), None

        zeros = no_moments(self.components, self.dim, self.covariance, x.dtype)
        (*moments, score), _ = lax.scan(add, zeros, (x, weights))
        return self._maximise(moments, params["mean"]), score / weights.sum()

    def _joint_observed(self, params, x, observed):
        """log w_k + log N(observed features of x; k) of one event, (components,)."""
        scores = lax.map(lambda n: self._normal.log_prob(n, x, None, observed), _normals(params))
        return jax.nn.log_softmax(params["logits"]) + scores

    def _with_normal(self, normal):
        """A mixture of as many components, each with the spec ``normal``."""
        return GaussianMixture(normal.dim, self.components, self.covariance, self.jitter)

    def _joint(self, params, x):
        """log w_k + log N(x; k) of one event, (components,)."""
        return lax.map(lambda part: self._score(part, x), self._parts(params))

    def _parts(self, params):
        """Mean, whitening matrix and log density at the mean, with its log weight, of each part."""
        scale = params[scale_name(self.covariance)]
        constant = jax.nn.log_softmax(params["logits"]) + log_constant(scale, self.covariance)
        return params["mean"], whitening(scale, self.covariance), constant

    def _score(self, part, x):
        """log w + log N(x) of one component."""
        mean, whiten, constant = part
        return constant - 0.5 * squared_length(x, mean, whiten)

    def _moments(self, x, shares, mean):
        """Moments about ``mean`` of each component; x is (dim, rows), shares (components, rows)."""

        def moments(component):
            share, mean = component
            return component_moments(share, x - mean[:, None], self.covariance)

        return lax.map(moments, (shares, mean))

    def _maximise(self, moments, mean):
        return maximise(moments, mean, self.covariance, self.jitter)


def _normals(params):
    """Params of the ``Gaussian`` components, stacked."""
    return {k: v for k, v in params.items() if k != "logits"}


def _tiles(parts, count):
    """Components in tiles of _UNROLLED; components added as padding have log weight -inf."""
    padding = -count % _UNROLLED

    def tile(leaf):
        return jnp.concatenate([leaf, leaf[:1].repeat(padding, 0)]).reshape(
            -1, _UNROLLED, *leaf.shape[1:]
        )

    mean, whiten, constant = map(tile, parts)
    weightless = jnp.arange(count + padding).reshape(-1, _UNROLLED) >= count
    return mean, whiten, jnp.where(weightless, -jnp.inf, constant)


@functools.partial(jax.jit, static_argnums=0)
def _from_shares(model, x, shares):
    """Params by one maximisation step from given shares (components, rows)."""
    centre = jnp.broadcast_to(x.mean(0), (model.components, model.dim))
    total, first, _ = model._moments(x.T, shares, centre)
    # moments about each component's mean keep the digits of narrow components
    centre = centre + first / jnp.maximum(total, 1)[:, None]
    return model._maximise(model._moments(x.T, shares, centre), centre)
