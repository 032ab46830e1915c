"""The multivariate normal distribution."""

from __future__ import annotations

import math
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import solve_triangular

from jaxgen.model import Model, namespace
from jaxgen.random import Normal
from jaxgen.spec import Count, NonNegative

LOG_2PI = math.log(2 * math.pi)


class Gaussian(Model):
    """Normal distribution, log p(x) = -|L^-1 (x - mean)|^2 / 2 - log|det L| - dim/2 log(2 pi).

    Args:
      dim: number of features.
      covariance: "full" or "diagonal".
      jitter: added to the diagonal of the maximum-likelihood covariance, in squared units of x.

    Params: ``mean`` (dim,) and ``scale_tril`` (dim, dim), the lower Cholesky factor L of the
    covariance (entries above its diagonal are ignored); for "diagonal", ``scale`` (dim,), the
    standard deviations.

    Raises:
      ValueError: on fitting data whose covariance is singular, with no jitter.

    >>> fitted = jaxgen.fit(Gaussian(2), x, key=jax.random.key(0))
    >>> fitted.sample(jax.random.key(1), 1000).shape
    (1000, 2)
    """

    dim: Count
    covariance: Literal["full", "diagonal"] = "full"
    jitter: NonNegative = 0.0

    reparameterized = True
    invertible = True
    fit_method = "closed_form"

    @property
    def event_shape(self):
        return (self.dim,)

    def init(self, key, x=None, y=None):
        if x is not None:
            return self.estimate(x)
        scale = jnp.ones(self.dim) if self.covariance == "diagonal" else jnp.eye(self.dim)
        return {"mean": jnp.zeros(self.dim), self._scale_name: scale}

    def estimate(self, x, y=None, weights=None):
        xp = namespace(x, weights)
        if xp is np and self.jitter == 0 and (x.max(0) == x.min(0)).any():
            constant = int((x.max(0) == x.min(0)).argmax())
            raise ValueError(f"x is constant in feature {constant}: pass jitter > 0 to {self}")
        weights = xp.ones(len(x), x.dtype) if weights is None else weights
        share = weights / weights.sum()
        mean = share @ x
        centred = x - mean
        if self.covariance == "diagonal":
            scale = xp.sqrt(share @ centred**2 + self.jitter)
        else:
            cov = (share[:, None] * centred).T @ centred + self.jitter * xp.eye(self.dim)
            scale = xp.linalg.cholesky(cov) if xp is jnp else _host_cholesky(cov)
        return {"mean": mean, self._scale_name: scale}

    def log_prob(self, params, x, y=None):
        z = self.pull(params, x)
        scale = params[self._scale_name]
        diagonal = scale if self.covariance == "diagonal" else jnp.diagonal(scale)
        log_det = jnp.log(jnp.abs(diagonal)).sum()
        return -0.5 * (z * z).sum() - log_det - 0.5 * self.dim * LOG_2PI

    def noise(self):
        return Normal((self.dim,))

    def push(self, params, noise, y=None):
        scale = params[self._scale_name]
        if self.covariance == "diagonal":
            spread = scale * noise
        else:
            spread = jnp.matmul(jnp.tril(scale), noise, precision=lax.Precision.HIGHEST)
        return params["mean"] + spread

    def pull(self, params, x, y=None):
        centred = x - params["mean"]
        scale = params[self._scale_name]
        if self.covariance == "diagonal":
            return centred / scale
        return solve_triangular(scale, centred, lower=True)

    @property
    def _scale_name(self):
        return "scale" if self.covariance == "diagonal" else "scale_tril"


def _host_cholesky(cov):
    try:
        return np.linalg.cholesky(cov)
    except np.linalg.LinAlgError:
        rank = np.linalg.matrix_rank(cov)
        raise ValueError(
            f"the covariance of x is singular (rank {rank} of {len(cov)}): pass jitter > 0, "
            'or covariance="diagonal"'
        ) from None
