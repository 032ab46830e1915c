"""The same distributions in jaxgen and in its peers.

A method with the name of a library and an operation returns the call to time.
"""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.machine import torch_device
from benchmarks.peer_process import Apart
from jaxgen import Fitted, models

KEY = jax.random.key(1)
LOG_2PI = np.log(2 * np.pi)


class Twin:
    """Base class of distributions; ``fitted`` holds jaxgen's model with params in float32.

    A subclass may define ``numpy_fill(rng)``, which returns a function that fills an array of rows.
    """

    torch = None  # kind, dim and params of ``torch_peer``

    def __init__(self, model, **params):
        self.params = {k: np.asarray(v, np.float32) for k, v in params.items()}
        self.fitted = Fitted(model, {k: jnp.asarray(v) for k, v in self.params.items()})

    def events(self, n) -> np.ndarray:
        return np.asarray(self.fitted.sample(jax.random.key(2), n), np.float32)

    def ours_sample(self, n):
        return lambda: self.fitted.sample(KEY, n)

    def ours_log_prob(self, x):
        x = jax.device_put(x)
        return lambda: self.fitted.log_prob(x)

    def numpy_sample(self, n, rows=None):
        """n new rows; or n rows in a buffer of ``rows`` rows that is filled repeatedly."""
        fill, shape = self.numpy_fill(np.random.default_rng(1)), self.fitted.model.event_shape
        buffer = np.empty((rows or 0, *shape), np.float32)

        def call():
            if rows is None:
                fill(out := np.empty((n, *shape), np.float32))
                return out
            for start in range(0, n, rows):
                fill(buffer[: n - start])

        return call

    def torch_sample(self, n, rows=None):
        return Apart("torch_peer", "fill", *self.torch, n, rows, torch_device())


class Box(Twin):
    """A uniform box.

    Args:
      cube: whether sides are equal, so that peers scale and shift by one number, three times as
        fast.
    """

    def __init__(self, dim, cube=False):
        low, width = np.linspace(-2, -1, dim), np.linspace(1, 4, dim)
        if cube:
            low, width = np.full(dim, -2.0), np.full(dim, 3.0)
        super().__init__(models.Box(dim), low=low, high=low + width)
        self.low, self.width = (np.float32(v[0] if cube else v) for v in (low, width))
        self.torch = "box", dim, (self.low.tolist(), self.width.tolist())

    def numpy_fill(self, rng):
        def fill(out):
            rng.random(out=out, dtype=np.float32)
            out *= self.width
            out += self.low

        return fill

    def numpy_log_prob(self, x):
        low, high = self.params.values()
        density = -np.log(high - low).sum()
        return lambda: np.where(((x >= low) & (x <= high)).all(1), density, -np.inf)


class Gaussian(Twin):
    """A normal, with a full covariance or a diagonal one.

    Args:
      ball: whether variances are equal, so that peers scale and shift by one number.
    """

    def __init__(self, dim, covariance="full", ball=False):
        rng = np.random.default_rng(0)
        mean, scale = rng.normal(size=dim), np.linspace(1, 3, dim)
        if ball:
            mean, scale = np.full(dim, -2.0), np.full(dim, 3.0)
        self.full = covariance == "full"
        if self.full:
            factor = np.eye(dim) + 0.3 * np.tril(rng.normal(size=(dim, dim))) / np.sqrt(dim)
            super().__init__(models.Gaussian(dim), mean=mean, scale_tril=factor)
        else:
            super().__init__(models.Gaussian(dim, covariance), mean=mean, scale=scale)
        self.mean, self.scale = self.params.values()
        if ball:
            self.mean, self.scale = self.mean[0], self.scale[0]
        kind = "normal" if self.full else "diagonal normal"
        self.torch = kind, dim, (self.mean.tolist(), self.scale.tolist())

    def numpy_fill(self, rng):
        def fill(out):
            rng.standard_normal(out=out, dtype=np.float32)
            if self.full:
                np.matmul(out, self.scale.T, out=out)
            else:
                out *= self.scale
            out += self.mean

        return fill

    def scipy_log_prob(self, x):
        from scipy.stats import Covariance, multivariate_normal

        covariance = Covariance.from_cholesky(self.params["scale_tril"])
        normal = multivariate_normal(self.params["mean"], covariance)
        return lambda: normal.logpdf(x)


class Mixture(Twin):
    """A mixture of normals with full covariances."""

    def __init__(self, dim, components):
        rng = np.random.default_rng(0)
        self.weights = rng.dirichlet(np.full(components, 2.0))
        self.mean = 4 * rng.normal(size=(components, dim))
        factors = np.eye(dim) + 0.3 * rng.normal(size=(components, dim, dim))
        self.covariance = factors @ factors.swapaxes(1, 2)
        self.scale_tril = np.linalg.cholesky(self.covariance)
        params = {"logits": np.log(self.weights), "mean": self.mean, "scale_tril": self.scale_tril}
        super().__init__(models.GaussianMixture(dim, components), **params)
        # additions and multiplications in the log density of an event; an exponential counts as one
        self.flops = components * (dim * dim + 4 * dim + 1)

    def _scikit(self, dtype):
        from sklearn.mixture import GaussianMixture

        mixture = GaussianMixture(len(self.weights), random_state=0)
        mixture.weights_ = self.weights.astype(dtype)
        mixture.means_ = self.mean.astype(dtype)
        mixture.covariances_ = self.covariance.astype(dtype)
        inverse = np.linalg.inv(self.scale_tril).swapaxes(1, 2)
        mixture.precisions_cholesky_ = inverse.astype(dtype)
        return mixture

    def scikit_sample(self, n):
        mixture = self._scikit(np.float64)  # rounded weights would not sum to one
        return lambda: mixture.sample(n)[0]

    def scikit_log_prob(self, x, dtype=np.float32):
        mixture, x = self._scikit(dtype), x.astype(dtype)
        return lambda: mixture.score_samples(x)

    def numpyro_sample(self, n):
        return _jitted(lambda key: self._numpyro().sample(key, (n,)), KEY)

    def numpyro_log_prob(self, x):
        return _jitted(lambda x: self._numpyro().log_prob(x), x)

    def distrax_sample(self, n):
        return _jitted(lambda key: self._distrax().sample(seed=key, sample_shape=n), KEY)

    def distrax_log_prob(self, x):
        return _jitted(lambda x: self._distrax().log_prob(x), x)

    def _numpyro(self):
        from numpyro import distributions

        params = self.fitted.params
        return distributions.MixtureSameFamily(
            distributions.Categorical(logits=params["logits"]),
            distributions.MultivariateNormal(params["mean"], scale_tril=params["scale_tril"]),
        )

    def _distrax(self):
        import distrax

        params = self.fitted.params
        return distrax.MixtureSameFamily(
            distrax.Categorical(logits=params["logits"]),
            distrax.MultivariateNormalTri(params["mean"], params["scale_tril"]),
        )


def _jitted(function, argument):
    function, argument = jax.jit(function), jax.device_put(argument)
    return lambda: function(argument)
