"""The multivariate normal distribution."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.families import check_observed, namespace, others
from jaxgen.core.model import Learning, Model, Traits
from jaxgen.core.places import Message, feature
from jaxgen.core.promotion import standard_promotion
from jaxgen.core.random import Normal
from jaxgen.core.spec import Count, NonNegative, Params
from jaxgen.models.normal import covariances
from jaxgen.models.normal.covariances import Covariance, collapse, expand
from jaxgen.models.normal.density import WRITTEN_OUT, condition, log_density, whitening
from jaxgen.models.normal.em import em_step_observed
from jaxgen.models.normal.matrices import (
    SCALARS,
    cholesky,
    matmul,
    smallest_variance,
    triangular,
)

_MAX_LOG_FACTOR = 10.0  # largest log of the factor by which ``modulate`` changes a scale


class Gaussian(Model):
    """Normal distribution, log p(x) = -|L^-1 (x - mean)|^2 / 2 - log|det L| - dim/2 log(2 pi).

    Args:
      dim: number of features.
      covariance: "full"; "diagonal", or "diag" for short; or "spherical", one variance for all
        features, so that the fit depends on the units of one feature relative to another.
      jitter: added to the diagonal of the maximum-likelihood covariance, relative to each feature's
        variance in all the data (for a constant feature, to its square); for "spherical" relative
        to their mean.

    Params: ``mean`` (dim,) and ``scale_tril`` (dim, dim), the lower Cholesky factor L of the
    covariance (entries above its diagonal are ignored); for "diagonal", ``scale`` (dim,), the
    standard deviations; for "spherical", ``scale`` (), the standard deviation.

    Raises:
      ValueError: when fitted without jitter to data whose covariance is singular.

    >>> fitted = jaxgen.fit(Gaussian(2), x, key=jax.random.key(0))
    >>> fitted.sample(jax.random.key(1), 1000).shape
    (1000, 2)
    """

    dim: Count
    covariance: Covariance = "full"
    jitter: NonNegative = 0.0

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "covariance", covariances.without_alias(self.covariance))

    @property
    def learning(self):
        return Learning(
            "closed_form",
            missing="em" if self.covariance == "full" else "closed_form",
            rescalable=covariances.units(self.covariance),
        )

    @functools.cached_property
    def traits(self):
        return Traits(
            reparameterized=True,
            elementwise=self.covariance != "full",
            row_major=self.covariance == "full",
            guarded=self._form == "diagonal" and self.dim > WRITTEN_OUT,
            degrees_of_freedom=self._degrees_of_freedom,
        )

    @property
    def event_shape(self):
        return (self.dim,)

    def init(self, key, x=None, y=None):
        if x is not None:
            return self.estimate(x)
        scale = jnp.eye(self.dim) if self.covariance == "full" else jnp.ones(self.dim)
        params = {"mean": jnp.zeros(self.dim), self._scale_name: scale}
        return collapse(params, self.covariance)

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
        if self.covariance != "full":
            return {"mean": mean, "scale": xp.sqrt(self._shared(share @ centred**2) + floor)}
        covariance = (share[:, None] * centred).T @ centred + xp.diag(floor)
        scale = cholesky(covariance, floor) if xp is jnp else _host_cholesky(covariance)
        return {"mean": mean, "scale_tril": scale}

    def em_step(self, params, x, y=None, weights=None, observed=None):
        """One EM step from rows with missing values, for the covariance "full"."""
        if observed is None or self.covariance != "full":
            return super().em_step(params, x, y, weights)
        one = {"logits": jnp.zeros(1, x.dtype), **{k: v[None] for k, v in params.items()}}
        new, score = em_step_observed(one, x, weights, observed, self.covariance, self.jitter)
        return {k: new[k][0] for k in params}, score

    def log_prob(self, params, x, y=None, observed=None):
        return log_density(expand(params, self.covariance), x, self._form, observed)

    def noise(self):
        return Normal((self.dim,))

    def push(self, params, noise, y=None):
        scale = params[self._scale_name]
        if self.covariance != "full":
            return params["mean"] + scale * noise
        tril = jnp.tril(scale)
        if self.dim > SCALARS:
            return params["mean"] + matmul(noise, tril.T)
        return sum((noise[j] * tril[:, j] for j in range(self.dim)), params["mean"])

    def pull(self, params, x, y=None):
        whiten = whitening(params[self._scale_name], self._form)
        centred = x - params["mean"]
        return matmul(whiten, centred) if self.covariance == "full" else whiten * centred

    def complete(self, params, noise, x, observed, y=None):
        if self.covariance != "full":
            return jnp.where(observed, x, self.push(params, noise))
        _, mean, root = condition(params["mean"], jnp.tril(params["scale_tril"]), x, observed)
        return jnp.where(observed, x, mean + matmul(root, noise))

    def marginal(self, params, features):
        part = Gaussian(len(features), self.covariance, self.jitter)
        places, scale = np.array(features), params[self._scale_name]
        if self.covariance == "full":
            scale = triangular(jnp.tril(scale)[places])
        elif self.covariance == "diagonal":
            scale = scale[places]
        return part, {"mean": params["mean"][places], self._scale_name: scale}

    def given(self, params, features, values):
        rest = others(self, features)
        if self.covariance != "full":
            return self.marginal(params, rest)
        given, left = np.array(features), np.array(rest)
        mean, tril = params["mean"], jnp.tril(params["scale_tril"])
        x = jnp.zeros_like(mean).at[given].set(values)
        _, mean, root = condition(mean, tril, x, np.isin(np.arange(self.dim), given))
        part = Gaussian(len(rest), self.covariance, self.jitter)
        return part, {"mean": mean[left], "scale_tril": triangular(root[left])}

    def modulate(self, params, change):
        scale, step = params[self._scale_name], change[self._scale_name]
        if self.covariance != "full":
            mean = params["mean"] + scale * change["mean"]
            return {"mean": mean, "scale": scale * _factor(step)}
        root = jnp.tril(scale)
        step = jnp.tril(step, -1) + jnp.diag(_factor(jnp.diagonal(step)))
        mean = params["mean"] + matmul(root, change["mean"])
        return {"mean": mean, "scale_tril": matmul(root, step)}

    def rescale(self, params, shift, scale):
        return covariances.rescale(params, self.covariance, shift, scale)

    @standard_promotion
    def covariance_matrix(self, params: Params) -> jax.Array:
        """The covariance, (dim, dim), in the squared units of x.

        >>> Gaussian(2).covariance_matrix(fitted.params).shape
        (2, 2)
        """
        return covariances.matrices(params, self.covariance)

    def _degrees_of_freedom(self, params):
        return self.dim + covariances.scale_size(self.covariance, self.dim)

    @property
    def _form(self):
        return covariances.form_of(self.covariance)

    @property
    def _scale_name(self):
        return covariances.scale_name(self.covariance)

    def _shared(self, variance):
        """Variances (dim,) as the covariance has them: their mean for "spherical"."""
        return variance.mean() if self.covariance == "spherical" else variance

    def _check_varied(self, low, high):
        """Raise if the minimum and maximum are equal, so that a variance is zero."""
        constant = low == high
        if constant.all() if self.covariance == "spherical" else constant.any():
            where = feature(constant.argmax())
            raise ValueError(Message("x is constant in ", where, f": pass jitter > 0 to {self}"))

    def _floor(self, x, xp):
        """The number added to each variance."""
        if xp is np:
            return np.full(self.dim if self.covariance == "full" else (), self.jitter)
        # within EM, the weights may leave a component without variance
        return self.jitter + smallest_variance(self._shared(x.var(0)))

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
        total = share.sum(0)
        share = share / total
        mean = (share * x).sum(0)
        variance = (share * (x - mean) ** 2).sum(0)
        if self.covariance == "spherical":
            variance = (variance * total).sum() / total.sum()
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
