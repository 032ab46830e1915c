"""Mixture of Gaussians, fitted by expectation-maximisation."""

from __future__ import annotations

import functools
from typing import Literal

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
from jaxgen.models.gaussian import (
    SCALARS,
    Gaussian,
    cholesky,
    condition,
    log_constant,
    product,
    smallest_variance,
    squared_length,
    whitening,
)

_TILE = 2048  # rows whose responsibilities are held at once in an EM step
_NUMBERS = 1 << 20  # of conditional covariances held at once where values are missing
_UNROLLED = 2  # components scored in one step of the scan
_NARROWEST = 0.01  # variance within components that jitter takes for a feature's, at least
_map = jax.tree_util.tree_map


class GaussianMixture(Model):
    """Mixture of normals, log p(x) = log sum_k w_k N(x; mean_k, covariance_k).

    Fitted by EM from a k-means++ start; refined by gradients when ``fit`` is given an optimizer.

    Args:
      dim: number of features.
      components: number of normals.
      covariance: "full" or "diagonal", one for each component.
      jitter: added to the diagonal of each covariance, as a share of each feature's mean variance
        within components, which counts for a hundredth of that in all the data at least.

    Params: ``logits`` (components,), the log weights up to a constant; ``mean`` (components, dim);
    ``scale_tril`` (components, dim, dim), lower Cholesky factors, or ``scale`` (components, dim).

    Source: Dempster, Laird and Rubin 1977; Bishop 2006, section 9.2.

    >>> fitted = jaxgen.fit(GaussianMixture(2, components=16), x, key=jax.random.key(0), restarts=4)
    """

    dim: Count
    components: Count
    covariance: Literal["full", "diagonal"] = "full"
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
            return by_index(self._normal.push, _normals(params), component, noise["z"])
        # a gather for each scalar is twice as fast as one of whole matrices
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
        return self._of(part), {"logits": params["logits"], **normals}

    def given(self, params, features, values):
        normals, log_weights = _normals(params), jax.nn.log_softmax(params["logits"])
        part, rest, logits = given_of_each(self._normal, normals, log_weights, features, values)
        return self._of(part), {"logits": logits, **rest}

    def modulate(self, params, change):
        normals = jax.vmap(self._normal.modulate)(_normals(params), _normals(change))
        return {"logits": params["logits"] + change["logits"], **normals}

    def rescale(self, params, shift, scale):
        return {**params, **self._normal.rescale(_normals(params), shift, scale)}

    def em_step(self, params, x, y=None, weights=None, observed=None):
        """One EM step, Bishop equations 9.23 to 9.26; memory does not grow with n x components.

        Of what is not seen each component expects a mean and a covariance: Ghahramani and Jordan
        1994, "Supervised learning from incomplete data via an EM approach", section 3.
        """
        if observed is not None:
            return self._em_step_observed(params, x, weights, observed)
        tile = min(_TILE, len(x))
        padding = -len(x) % tile
        # rows last, which sums over them want
        x = jnp.pad(x, ((0, padding), (0, 0))).reshape(-1, tile, self.dim).swapaxes(1, 2)
        weights = jnp.pad(weights, (0, padding)).reshape(-1, tile)

        def add(sums, rows):
            x, weights = rows
            joint = jax.vmap(self._joint, in_axes=(None, 1), out_axes=1)(params, x)
            shares, score = _shares(joint, weights)
            moments = self._moments(x, shares, params["mean"])
            new = *moments, (weights * score).sum()
            return jax.tree_util.tree_map(jnp.add, sums, new), None

        (*moments, score), _ = lax.scan(add, self._zeros(x.dtype), (x, weights))
        return self._maximise(moments, params["mean"]), score / weights.sum()

    def _em_step_observed(self, params, x, weights, observed):
        zeros = self._zeros(x.dtype)
        tile = min(max(_NUMBERS // zeros[2].size, 1), _TILE, len(x))
        padding = -len(x) % tile

        def tiles(rows):
            rows = jnp.pad(rows, ((0, padding), *((0, 0),) * (rows.ndim - 1)))
            return jnp.moveaxis(rows.reshape(-1, tile, *rows.shape[1:]), 1, -1)

        normals, log_weights = _normals(params), jax.nn.log_softmax(params["logits"])

        def add(sums, rows):
            x, weights, observed = rows
            scores, means, spreads = lax.map(lambda n: self._expect(n, x, observed), normals)
            shares, score = _shares(log_weights[:, None] + scores, weights)
            centred = means - params["mean"][:, :, None]
            total, first, second = lax.map(lambda c: self._sums(*c), (shares, centred))
            second = second + lax.map(lambda c: self._spread(*c), (shares, spreads))
            new = total, first, second, (weights * score).sum()
            return _map(jnp.add, sums, new), None

        (*moments, score), _ = lax.scan(add, zeros, _map(tiles, (x, weights, observed)))
        return self._maximise(moments, params["mean"]), score / weights.sum()

    def _expect(self, normal, x, observed):
        """Scores of what one component sees of (dim, rows), and x's mean and spread given that."""
        if self.covariance == "full":
            mean, root = normal["mean"][:, None], jnp.tril(normal["scale_tril"])[:, :, None]
            return condition(mean, root, x, observed)
        scores = jax.vmap(self._normal.log_prob, (None, 1, None, 1))(normal, x, None, observed)
        mean, scale = normal["mean"][:, None], normal["scale"][:, None]
        return scores, jnp.where(observed, x, mean), jnp.where(observed, 0, scale)

    def _spread(self, share, spread):
        """Sum over rows of share times the covariance that ``spread`` is the root of."""
        if self.covariance == "diagonal":
            return product(spread**2, share)
        flat = spread.reshape(self.dim, -1)
        return product((spread * share).reshape(self.dim, -1), flat.T)

    def _joint_observed(self, params, x, observed):
        """log w_k + log N(what is seen of x; k) of one event, (components,)."""
        scores = lax.map(lambda n: self._normal.log_prob(n, x, None, observed), _normals(params))
        return jax.nn.log_softmax(params["logits"]) + scores

    def _of(self, normal):
        """A mixture like this one, of such normals."""
        return GaussianMixture(normal.dim, self.components, self.covariance, self.jitter)

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
            return self._sums(share, x - mean[:, None])

        return lax.map(one, (shares, mean))

    def _sums(self, share, centred):
        """Moments of one component."""
        ones = jnp.ones_like(centred[:1])
        if self.covariance == "diagonal":
            sums = product(jnp.concatenate([ones, centred, centred**2]), share)
            return sums[0], sums[1 : self.dim + 1], sums[self.dim + 1 :]
        terms = jnp.concatenate([ones, centred])
        sums = product(terms * share, terms.T)
        return sums[0, 0], sums[0, 1:], sums[1:, 1:]

    def _zeros(self, dtype):
        """Moments and score of no rows."""
        shape = self.components, self.dim
        second = shape if self.covariance == "diagonal" else (*shape, self.dim)
        return tuple(jnp.zeros(s, dtype) for s in (shape[:1], shape, second, ()))

    def _maximise(self, moments, mean):
        """Params from sums of shares, and of their first and second moments about ``mean``."""
        total, first, second = moments
        eps = jnp.finfo(total.dtype).eps
        full, weights = self.covariance == "full", total / total.sum()
        divisor = total + 10 * eps  # no component divides by zero
        shift = first / divisor[:, None]
        if full:
            square = shift[:, :, None] * shift[:, None, :]
            covariance = second / divisor[:, None, None] - square
            variance = jnp.diagonal(covariance, axis1=1, axis2=2)
        else:
            variance = second / divisor[:, None] - shift**2
        mean, variance = mean + shift, jnp.maximum(variance, 0)
        centre, within = weights @ mean, weights @ variance
        whole = within + weights @ (mean - centre) ** 2
        floor = self.jitter * jnp.clip(within, _NARROWEST, 1) + smallest_variance(whole)
        # a component without rows is put where all rows are, and may find some
        empty = (total <= 10 * eps * total.sum())[:, None]
        mean = jnp.where(empty, centre, mean)
        logits = jnp.log(divisor) - jnp.log(total.sum())
        if not full:
            scale = jnp.sqrt(jnp.where(empty, whole, variance + floor))
            return {"logits": logits, "mean": mean, "scale": scale}
        covariance = jnp.where(empty[:, :, None], jnp.diag(whole), covariance + jnp.diag(floor))
        return {"logits": logits, "mean": mean, "scale_tril": cholesky(covariance, floor)}


def _normals(params):
    """The components' own params, stacked."""
    return {k: v for k, v in params.items() if k != "logits"}


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


def _shares(joint, weights):
    """Each component's share of each row, times the row's weight; and the rows' log densities.

    joint is (components, rows). Shares of a row sum to its weight, however small its density is.
    """
    score = logsumexp(joint, 0)
    largest = jnp.where(score == -jnp.inf, 0, joint.max(0))
    terms = jnp.exp(joint - largest)
    return terms * (weights / jnp.where(score == -jnp.inf, 1, terms.sum(0))), score


@functools.partial(jax.jit, static_argnums=0)
def _from_shares(model, x, shares):
    """Params of the components that shares (components, rows) make of the rows."""
    centre = jnp.broadcast_to(x.mean(0), (model.components, model.dim))
    total, first, _ = model._moments(x.T, shares, centre)
    # moments about components' own means, which keep the digits of narrow ones
    centre = centre + first / jnp.maximum(total, 1)[:, None]
    return model._maximise(model._moments(x.T, shares, centre), centre)
