"""Mixture of Gaussians, fitted by expectation-maximisation."""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import solve_triangular

from jaxgen import kmeans
from jaxgen.by_index import by_index
from jaxgen.model import Model
from jaxgen.models.gaussian import LOG_2PI, Gaussian
from jaxgen.numerics import choose, logsumexp
from jaxgen.random import Normal, Uniform
from jaxgen.spec import Count, NonNegative

_TILE = 2048  # rows whose responsibilities are held at once in an EM step
_SCALARS = 8  # features up to which sums are written out on scalars: ten times as fast


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
        return logsumexp(self._joint(params, x))

    def noise(self):
        return {"component": Uniform(), "z": Normal((self.dim,))}

    def push(self, params, noise, y=None):
        component = choose(jax.nn.softmax(params["logits"]), noise["component"])
        normals = {k: v for k, v in params.items() if k != "logits"}
        return by_index(self._normal.push, normals, component, noise["z"])

    def em_step(self, params, x, y=None, weights=None):
        """One EM step, Bishop equations 9.23 to 9.26; memory does not grow with n x components."""
        tile = min(_TILE, len(x))
        padding = -len(x) % tile
        x = jnp.pad(x, ((0, padding), (0, 0))).reshape(-1, tile, self.dim)
        weights = jnp.pad(weights, (0, padding)).reshape(-1, tile)

        def add(sums, rows):
            x, weights = rows
            joint = jax.vmap(self._joint, in_axes=(None, 0), out_axes=1)(params, x)
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
        log_weights = jax.nn.log_softmax(params["logits"])
        if self.covariance == "diagonal":
            whiten = 1 / params["scale"]
            log_det = -jnp.log(jnp.abs(params["scale"])).sum(-1)
        else:
            # inverted once for all rows, as the inverse does not depend on them
            eye = jnp.broadcast_to(jnp.eye(self.dim, dtype=x.dtype), params["scale_tril"].shape)
            whiten = solve_triangular(params["scale_tril"], eye, lower=True)
            diagonal = jnp.diagonal(params["scale_tril"], axis1=-2, axis2=-1)
            log_det = -jnp.log(jnp.abs(diagonal)).sum(-1)

        def one(component):
            mean, whiten, constant = component
            if self.covariance == "diagonal":
                return constant - 0.5 * ((whiten * (x - mean)) ** 2).sum()
            if self.dim > _SCALARS:
                return constant - 0.5 * (_product(whiten, x - mean) ** 2).sum()
            centred = [x[i] - mean[i] for i in range(self.dim)]
            z = [sum(whiten[i, j] * centred[j] for j in range(i + 1)) for i in range(self.dim)]
            return constant - 0.5 * sum(v * v for v in z)

        constant = log_weights + log_det - 0.5 * self.dim * LOG_2PI
        return lax.map(one, (params["mean"], whiten, constant))

    def _moments(self, x, shares, mean):
        """Sums over rows of shares, of shares (x - mean) and of shares (x - mean)(x - mean)^T.

        shares is (components, rows). Sums about the means keep the digits of narrow components.
        """

        def one(component):
            share, mean = component
            if self.covariance == "diagonal" or self.dim > _SCALARS:
                centred = x - mean
                weighted = share[:, None] * centred
                if self.covariance == "diagonal":
                    return share.sum(), weighted.sum(0), (weighted * centred).sum(0)
                return share.sum(), weighted.sum(0), _product(weighted.T, centred)
            centred = [x[:, i] - mean[i] for i in range(self.dim)]
            weighted = [share * c for c in centred]
            first = jnp.stack([w.sum() for w in weighted])
            pairs = [[(w * c).sum() for c in centred[: i + 1]] for i, w in enumerate(weighted)]
            rows = [[pairs[max(i, j)][min(i, j)] for j in range(self.dim)] for i in range(self.dim)]
            return share.sum(), first, jnp.stack([jnp.stack(row) for row in rows])

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


@functools.partial(jax.jit, static_argnums=0)
def _from_shares(model, x, shares):
    """Params of the components that shares (components, rows) make of the rows."""
    centre = jnp.broadcast_to(x.mean(0), (model.components, model.dim))
    return model._maximise(model._moments(x, shares, centre), centre)


def _product(a, b):
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)  # a GPU would drop digits by default
