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
SCALARS = 8  # features up to which sums are written out on scalars: ten times as fast


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
    def elementwise(self):
        return self.covariance == "diagonal"

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
        scale, mean = params[self._scale_name], params["mean"]
        # squares of longer distances overflow, and their gradients with them
        spread = jnp.abs(scale if self.covariance == "diagonal" else jnp.diagonal(scale))
        near = (jnp.abs(x - mean) < furthest(x.dtype) * spread).all()
        x = jnp.where(near, x, mean)
        square = squared_length(x, mean, whitening(scale, self.covariance))
        return jnp.where(near, log_constant(scale, self.covariance) - 0.5 * square, -jnp.inf)

    def noise(self):
        return Normal((self.dim,))

    def push(self, params, noise, y=None):
        scale = params[self._scale_name]
        diagonal = self.covariance == "diagonal"
        return params["mean"] + (scale * noise if diagonal else product(jnp.tril(scale), noise))

    def pull(self, params, x, y=None):
        whiten = whitening(params[self._scale_name], self.covariance)
        centred = x - params["mean"]
        return whiten * centred if whiten.ndim == 1 else product(whiten, centred)

    @property
    def _scale_name(self):
        return "scale" if self.covariance == "diagonal" else "scale_tril"


def furthest(dtype):
    """Scales beyond which a normal density is zero, with room for sums of squares."""
    return jnp.finfo(dtype).max ** 0.5 / 16


def whitening(scale, covariance):
    """W of z = W (x - mean): the inverse of the scale, made once for all events.

    ``scale`` may have leading axes, of components.
    """
    if covariance == "diagonal":
        return 1 / scale
    eye = jnp.broadcast_to(jnp.eye(scale.shape[-1], dtype=scale.dtype), scale.shape)
    return solve_triangular(scale, eye, lower=True)


def log_constant(scale, covariance):
    """Log density at the mean; ``scale`` may have leading axes."""
    full = covariance == "full"
    diagonal = jnp.diagonal(scale, axis1=-2, axis2=-1) if full else scale
    return -jnp.log(jnp.abs(diagonal)).sum(-1) - 0.5 * scale.shape[-1] * LOG_2PI


def squared_length(x, mean, whiten):
    """|W (x - mean)|^2 of one event."""
    dim = len(x)
    if dim > SCALARS:
        z = whiten * (x - mean) if whiten.ndim == 1 else product(whiten, x - mean)
        return (z * z).sum()
    centred = [x[i] - mean[i] for i in range(dim)]
    if whiten.ndim == 1:
        z = [whiten[i] * c for i, c in enumerate(centred)]
    else:
        z = [sum(whiten[i, j] * centred[j] for j in range(i + 1)) for i in range(dim)]
    return sum(v * v for v in z)


def product(a, b):
    """Matrix product with all its digits, some of which a GPU would drop by default."""
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _host_cholesky(cov):
    try:
        return np.linalg.cholesky(cov)
    except np.linalg.LinAlgError:
        rank = np.linalg.matrix_rank(cov)
        raise ValueError(
            f"the covariance of x is singular (rank {rank} of {len(cov)}): pass jitter > 0, "
            'or covariance="diagonal"'
        ) from None
