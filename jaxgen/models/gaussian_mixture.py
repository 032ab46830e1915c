"""Mixture of Gaussians, fitted by expectation-maximisation."""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from jaxgen import kmeans
from jaxgen.by_index import by_index
from jaxgen.choice import choose, words_for
from jaxgen.model import Model
from jaxgen.models.gaussian import (
    SCALARS,
    Gaussian,
    log_constant,
    product,
    squared_length,
    whitening,
)
from jaxgen.numerics import logsumexp, logsumexp_of_tiles
from jaxgen.random import Bits, Normal
from jaxgen.spec import Count, NonNegative

_TILE = 2048  # rows whose responsibilities are held at once in an EM step
_UNROLLED = 2  # components scored in one step of the scan
_map = jax.tree_util.tree_map


class GaussianMixture(Model):
    """Mixture of normals, log p(x) = log sum_k w_k N(x; mean_k, covariance_k).

    Fitted by EM from a k-means++ start; refined by gradients when ``fit`` is given an optimizer.

    Args:
      dim: number of features.
      components: number of normals.
      covariance: "full" or "diagonal", one for each component.
      jitter: added to the diagonal of each covariance, in squared units of x.

    Params: ``logits`` (components,), the log weights up to a constant; ``mean`` (components, dim);
    ``scale_tril`` (components, dim, dim), lower Cholesky factors, or ``scale`` (components, dim).

    Source: Dempster, Laird and Rubin 1977; Bishop 2006, section 9.2.

    >>> fitted = jaxgen.fit(GaussianMixture(2, components=16), x, key=jax.random.key(0), restarts=4)
    """

    dim: Count
    components: Count
    covariance: Literal["full", "diagonal"] = "full"
    jitter: NonNegative = 1e-6

    fit_method = "em"

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

    def log_prob(self, params, x, y=None):
        if self.dim > SCALARS:
            return logsumexp(lax.map(lambda part: self._score(part, x), self._parts(params)))

        x = list(x)  # out of the scan, where rows would be read by columns

        def scores(tile):
            return [self._score(_map(lambda v: v[i], tile), x) for i in range(_UNROLLED)]  # noqa: B023

        return logsumexp_of_tiles(scores, _tiles(self._parts(params), self.components), x[0].dtype)

    def noise(self):
        return {"component": Bits((words_for(self.components),)), "z": Normal((self.dim,))}

    def push(self, params, noise, y=None):
        weights = jax.nn.softmax(params["logits"])
        if self.covariance == "diagonal" or self.dim > SCALARS:
            component = choose(weights, noise["component"])
            normals = {k: v for k, v in params.items() if k != "logits"}
            return by_index(self._normal.push, normals, component, noise["z"])
        # a gather for each scalar is twice as fast as one of whole matrices
        component, z = choose(weights, noise["component"]), noise["z"]
        mean, scale = params["mean"], params["scale_tril"]
        pick = lambda table: table.at[component].get(mode="promise_in_bounds")  # noqa: E731
        rows = [
            sum((pick(scale[:, i, j]) * z[j] for j in range(i + 1)), pick(mean[:, i]))
            for i in range(self.dim)
        ]
        return jnp.stack(rows)

    def em_step(self, params, x, y=None, weights=None):
        """One EM step, Bishop equations 9.23 to 9.26; memory does not grow with n x components."""
        tile = min(_TILE, len(x))
        padding = -len(x) % tile
        # rows last, which sums over them want
        x = jnp.pad(x, ((0, padding), (0, 0))).reshape(-1, tile, self.dim).swapaxes(1, 2)
        weights = jnp.pad(weights, (0, padding)).reshape(-1, tile)

        def add(sums, rows):
            x, weights = rows
            joint = jax.vmap(self._joint, in_axes=(None, 1), out_axes=1)(params, x)
            score = logsumexp(joint, 0)
            shares = jnp.exp(joint - score) * weights
            moments = self._moments(x, shares, params["mean"])
            new = *moments, (weights * score).sum()
            return jax.tree_util.tree_map(jnp.add, sums, new), None

        shape = params["mean"].shape
        second = shape if self.covariance == "diagonal" else (*shape, self.dim)
        zeros = tuple(jnp.zeros(s, x.dtype) for s in (shape[:1], shape, second, ()))
        (*moments, score), _ = lax.scan(add, zeros, (x, weights))
        return self._maximise(moments, params["mean"]), score / weights.sum()

    def _joint(self, params, x):
        """log w_k + log N(x; k) of one event, (components,)."""
        return lax.map(lambda part: self._score(part, x), self._parts(params))

    def _parts(self, params):
        """Mean, whitening map and log of the constant factor of each component."""
        scale = params["scale" if self.covariance == "diagonal" else "scale_tril"]
        constant = jax.nn.log_softmax(params["logits"]) + log_constant(scale, self.covariance)
        return params["mean"], whitening(scale, self.covariance), constant

    def _score(self, part, x):
        """log w + log N(x) of one component."""
        mean, whiten, constant = part
        return constant - 0.5 * squared_length(x, mean, whiten)

    def _moments(self, x, shares, mean):
        """Sums over rows of shares, of shares (x - mean) and of shares (x - mean)(x - mean)^T.

        x is (dim, rows), shares (components, rows). Sums about the means keep the digits of narrow
        components.
        """

        def one(component):
            share, mean = component
            centred = x - mean[:, None]
            ones = jnp.ones_like(x[:1])
            if self.covariance == "diagonal":
                sums = product(jnp.concatenate([ones, centred, centred**2]), share)
                return sums[0], sums[1 : self.dim + 1], sums[self.dim + 1 :]
            terms = jnp.concatenate([ones, centred])
            sums = product(terms * share, terms.T)
            return sums[0, 0], sums[0, 1:], sums[1:, 1:]

        return lax.map(one, (shares, mean))

    def _maximise(self, moments, mean):
        """Params from moments about ``mean``, near enough for small covariances to keep digits."""
        total, first, second = moments
        total = total + 10 * jnp.finfo(total.dtype).eps  # an empty component divides by it
        shift = first / total[:, None]
        logits = jnp.log(total) - jnp.log(total.sum())
        if self.covariance == "diagonal":
            variance = second / total[:, None] - shift**2
            scale = jnp.sqrt(jnp.maximum(variance, 0) + self.jitter)
            return {"logits": logits, "mean": mean + shift, "scale": scale}
        covariance = second / total[:, None, None] - shift[:, :, None] * shift[:, None, :]
        covariance = covariance + self.jitter * jnp.eye(self.dim, dtype=total.dtype)
        scale_tril = jnp.linalg.cholesky(covariance)
        return {"logits": logits, "mean": mean + shift, "scale_tril": scale_tril}


def _tiles(parts, count):
    """Components in tiles of _UNROLLED; padding weighs nothing."""
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
    """Params of the components that shares (components, rows) make of the rows."""
    centre = jnp.broadcast_to(x.mean(0), (model.components, model.dim))
    return model._maximise(model._moments(x.T, shares, centre), centre)
