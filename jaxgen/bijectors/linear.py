"""Invertible linear maps: a triangular matrix with a shift, and a permutation of features."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import solve_triangular

from jaxgen.bijectors.bijector import Bijector
from jaxgen.core.families import namespace
from jaxgen.core.spec import NonNegative, Params


class Linear(Bijector):
    """x = shift + L z with L lower triangular, the mean and the Cholesky factor of data.

    A flow as its base then learns only how the data differ from a Gaussian, which helps with few
    data.

    Args:
      jitter: share of each variance that is added to the diagonal of the covariance.

    Params: ``shift`` (dim,) and ``tril`` (dim, dim), in the units of x; entries above the diagonal
    are ignored.
    """

    jitter: NonNegative = 1e-3

    rescalable = True

    def init(self, event_shape: tuple[int, ...], x: Any = None) -> Params:
        (dim,) = event_shape
        if x is None:
            return {"shift": jnp.zeros(dim), "tril": jnp.eye(dim)}
        xp = namespace(x)
        centred = x - x.mean(0)
        variance = xp.where(x.max(0) > x.min(0), (centred**2).mean(0), 1.0)
        covariance = centred.T @ centred / len(x) + xp.diag(self.jitter * variance)
        # a constant feature gets the variance 1
        covariance = covariance + xp.diag(xp.where(xp.diag(covariance) < variance, variance, 0.0))
        return {"shift": x.mean(0), "tril": xp.linalg.cholesky(covariance)}

    def rescale(self, params: Params, shift: Any, scale: Any) -> Params:
        return {"shift": shift + scale * params["shift"], "tril": scale[:, None] * params["tril"]}

    def degrees_of_freedom(self, params: Params) -> int:
        (dim,) = params["shift"].shape
        return dim + dim * (dim + 1) // 2

    def forward(self, params: Params, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = jnp.matmul(jnp.tril(params["tril"]), z, precision=lax.Precision.HIGHEST)
        return params["shift"] + x, self._log_det(params)

    def inverse(self, params: Params, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        # the inverse matrix is computed once for all events
        whiten = solve_triangular(params["tril"], jnp.eye(len(x), dtype=x.dtype), lower=True)
        z = jnp.matmul(whiten, x - params["shift"], precision=lax.Precision.HIGHEST)
        return z, -self._log_det(params)

    def _log_det(self, params: Params) -> jax.Array:
        return jnp.log(jnp.abs(jnp.diagonal(params["tril"]))).sum()


class Permute(Bijector):
    """x[i] = z[order[i]], a permutation of the features.

    Args:
      order: each of 0 .. dim - 1 once.
    """

    order: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if sorted(self.order) != list(range(len(self.order))) or not self.order:
            raise ValueError(f"Permute: order must hold 0 .. dim - 1 once each, got {self.order}")

    @property
    def permutation(self) -> tuple[int, ...]:
        return self.order

    def forward(self, params: Params, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        return z[np.array(self.order)], jnp.zeros((), z.dtype)

    def inverse(self, params: Params, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return x[np.argsort(self.order)], jnp.zeros((), x.dtype)
