"""The multivariate normal distribution."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jaxgen.core.families import check_observed, namespace, others
from jaxgen.core.model import Learning, Model, Traits
from jaxgen.core.places import Message, feature
from jaxgen.core.random import Normal
from jaxgen.core.spec import Count, NonNegative
from jaxgen.models.normal import (
    Covariance,
    cholesky,
    condition,
    em_step_observed,
    log_density,
    matmul,
    scale_name,
    smallest_variance,
    triangular,
    whitening,
)

_MAX_LOG_FACTOR = 10.0  # largest log of the factor by which ``modulate`` changes a scale


class Gaussian(Model):
    """Normal distribution, log p(x) = -|L^-1 (x - mean)|^2 / 2 - log|det L| - dim/2 log(2 pi).

    Args:
      dim: number of features.
      covariance: "full" or "diagonal".
      jitter: added to the diagonal of the maximum-likelihood covariance, relative to each feature's
        variance in all the data (for a constant feature, to its square).

    Params: ``mean`` (dim,) and ``scale_tril`` (dim, dim), the lower Cholesky factor L of the
    covariance (entries above its diagonal are ignored); for "diagonal", ``scale`` (dim,), the
    standard deviations.

    Raises:
      ValueError: when fitted without jitter to data whose covariance is singular.

    >>> fitted = jaxgen.fit(Gaussian(2), x, key=jax.random.key(0))
    >>> fitted.sample(jax.random.key(1), 1000).shape
    (1000, 2)
    """

    dim: Count
    covariance: Covariance = "full"
    jitter: NonNegative = 0.0

    @property
    def learning(self):
        diagonal = self.covariance == "diagonal"
        return Learning("closed_form", missing="closed_form" if diagonal else "em", rescalable=True)

    @property
    def traits(self):
        return Traits(reparameterized=True, elementwise=self.covariance == "diagonal")

    @property
    def event_shape(self):
        return (self.dim,)

    def init(self, key, x=None, y=None):
        if x is not None:
            return self.estimate(x)
        scale = jnp.ones(self.dim) if self.covariance == "diagonal" else jnp.eye(self.dim)
        return {"mean": jnp.zeros(self.dim), self._scale_name: scale}

    def estimate(self, x, y=None, weights=None, observed=None):
        xp = namespace(x, weights)
        if observed is not None:
            return self._estimate_observed(x, weights, observed, xp)
        if xp is np and self.jitter == 0:
            self._check_varied(x.min(0), x.max(0))
        weights = xp.ones(len(x), x.dtype) if weights is None else weights
        share = weights / weights.sum()
        mean = share @ x
        centred = x - mean
        floor = self._floor(x, xp)
        if self.covariance == "diagonal":
            return {"mean": mean, "scale": xp.sqrt(share @ centred**2 + floor)}
        covariance = (share[:, None] * centred).T @ centred + xp.diag(floor)
        scale = cholesky(covariance, floor) if xp is jnp else _host_cholesky(covariance)
        return {"mean": mean, "scale_tril": scale}

    def em_step(self, params, x, y=None, weights=None, observed=None):
        """One EM step from rows with missing values, for the covariance "full"."""
        if observed is None or self.covariance == "diagonal":
            return super().em_step(params, x, y, weights)
        one = {"logits": jnp.zeros(1, x.dtype), **{k: v[None] for k, v in params.items()}}
        new, score = em_step_observed(one, x, weights, observed, self.covariance, self.jitter)
        return {k: new[k][0] for k in params}, score

    def log_prob(self, params, x, y=None, observed=None):
        return log_density(params, x, self.covariance, observed)

    def noise(self):
        return Normal((self.dim,))

    def push(self, params, noise, y=None):
        scale = params[self._scale_name]
        diagonal = self.covariance == "diagonal"
        return params["mean"] + (scale * noise if diagonal else matmul(jnp.tril(scale), noise))

    def pull(self, params, x, y=None):
        whiten = whitening(params[self._scale_name], self.covariance)
        centred = x - params["mean"]
        return whiten * centred if whiten.ndim == 1 else matmul(whiten, centred)

    def complete(self, params, noise, x, observed, y=None):
        if self.covariance == "diagonal":
            return jnp.where(observed, x, self.push(params, noise))
        _, mean, root = condition(params["mean"], jnp.tril(params["scale_tril"]), x, observed)
        return jnp.where(observed, x, mean + matmul(root, noise))

    def marginal(self, params, features):
        part = Gaussian(len(features), self.covariance, self.jitter)
        places, scale = np.array(features), params[self._scale_name]
        diagonal = self.covariance == "diagonal"
        scale = scale[places] if diagonal else triangular(jnp.tril(scale)[places])
        return part, {"mean": params["mean"][places], self._scale_name: scale}

    def given(self, params, features, values):
        rest = others(self, features)
        if self.covariance == "diagonal":
            return self.marginal(params, rest)
        given, left = np.array(features), np.array(rest)
        mean, tril = params["mean"], jnp.tril(params["scale_tril"])
        x = jnp.zeros_like(mean).at[given].set(values)
        _, mean, root = condition(mean, tril, x, np.isin(np.arange(self.dim), given))
        part = Gaussian(len(rest), self.covariance, self.jitter)
        return part, {"mean": mean[left], "scale_tril": triangular(root[left])}

    def modulate(self, params, change):
        scale, step = params[self._scale_name], change[self._scale_name]
        if self.covariance == "diagonal":
            mean = params["mean"] + scale * change["mean"]
            return {"mean": mean, "scale": scale * _factor(step)}
        root = jnp.tril(scale)
        step = jnp.tril(step, -1) + jnp.diag(_factor(jnp.diagonal(step)))
        mean = params["mean"] + matmul(root, change["mean"])
        return {"mean": mean, "scale_tril": matmul(root, step)}

    def rescale(self, params, shift, scale):
        by_row = scale if self.covariance == "diagonal" else scale[:, None]
        name = self._scale_name
        return {**params, "mean": shift + scale * params["mean"], name: by_row * params[name]}

    @property
    def _scale_name(self):
        return scale_name(self.covariance)

    def _check_varied(self, low, high):
        """Raise if a feature's minimum and maximum are equal, so that its variance is zero."""
        constant = low == high
        if constant.any():
            where = feature(constant.argmax())
            raise ValueError(Message("x is constant in ", where, f": pass jitter > 0 to {self}"))

    def _floor(self, x, xp):
        """The number added to the variance of each feature, (dim,)."""
        if xp is np:
            return np.full(self.dim, self.jitter)
        # within EM, the weights may leave a component without variance
        return self.jitter + smallest_variance(x.var(0))

    def _estimate_observed(self, x, weights, observed, xp):
        if self.covariance == "full":
            raise NotImplementedError(
                'Gaussian: estimate takes no missing values with covariance="full"; em_step does'
            )
        if xp is np:
            check_observed(observed)
            if self.jitter == 0:
                low, high = (np.where(observed, x, edge) for edge in (np.inf, -np.inf))
                self._check_varied(low.min(0), high.max(0))
        weights = xp.ones(len(x), x.dtype) if weights is None else weights
        share = xp.where(observed, weights[:, None], 0)
        share = share / share.sum(0)
        mean = (share * x).sum(0)
        variance = (share * (x - mean) ** 2).sum(0)
        return {"mean": mean, "scale": xp.sqrt(variance + self._floor(x, xp))}


def _factor(log):
    """The exponential of a log that is softly limited, so that it does not overflow."""
    return jnp.exp(_MAX_LOG_FACTOR * jnp.tanh(log / _MAX_LOG_FACTOR))


def _host_cholesky(cov):
    try:
        return np.linalg.cholesky(cov)
    except np.linalg.LinAlgError:
        rank = np.linalg.matrix_rank(cov)
        raise ValueError(
            f"the covariance of x is singular (rank {rank} of {len(cov)}): pass jitter > 0, "
            'or covariance="diagonal"'
        ) from None
