"""Variational autoencoders."""

from __future__ import annotations

import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy.special import ndtri

from jaxgen.core.lanes import lanes
from jaxgen.core.model import Learning, Traits
from jaxgen.core.numerics import logsumexp
from jaxgen.core.random import Normal, fixed
from jaxgen.core.spec import Count, NonNegative, Params
from jaxgen.models.conditioned import Framed
from jaxgen.models.event_outputs import (
    dense,
    event_outputs,
    init_event_outputs,
    near_zero,
)
from jaxgen.models.likelihoods import Likelihood, make_likelihood
from jaxgen.networks.domains import Domain
from jaxgen.networks.mlp import MLP
from jaxgen.networks.network import Network, init_checked, shape_of_features, tile_of

_CLIP = 32.0  # deviations at which the input of the encoder is clipped
_MAX_LOG_SCALE = 7.0  # largest |log deviation| of a latent given x
_OF_Y = 0.3  # deviation that y gives each input of the encoder at the start, in deviations of x


class VAE(Framed):
    """Variational autoencoder: p(x) = integral of N(z; 0, I) p(x|z) dz, with latents z.

    A decoder computes the parameters of p(x|z), whose entries are independent, and an encoder those
    of a normal distribution q(z|x) with independent latents. Training minimises

        KL(q(z|x) || N(0, I)) - E_q log p(x|z)

    with one sample of q. This is an upper bound on -log p(x).

    ``log_prob`` is the importance-weighted estimate log mean_k p(x, z_k) / q(z_k|x), with
    ``samples`` values of z_k drawn from q. Its expectation is a lower bound on log p(x), for any
    number of samples, and rises to log p(x) with the number; one sample gives the bound that is
    trained. The draws are the same in every call and for every x. So results can be repeated, but
    the mean over many events has an error too, which falls with ``samples`` alone.
    ``fitted.replace(samples=1000)`` has a closer bound than the model that was trained, and
    ``metrics.importance_weights`` says how many draws count.

    The noise is ``latent``, z, and ``pixels``, the noise of p(x|z). ``push`` decodes z. ``pull``
    returns the mean of q(z|x), with the noise of pixels at its median. So ``push(pull(x))`` is a
    reconstruction of x, and not x itself.

    Args:
      shape: shape of an event, such as (28, 28), (32, 32, 3) or (4,).
      latent: number of latents.
      levels: number of values of each entry, which are 0 .. levels - 1; None for real numbers.
      likelihood: p(x|z): "gaussian" for real numbers, "bernoulli" for 0 and 1, "categorical" for
        levels without an order, "logistic" for levels with one (a discretised logistic
        distribution). By default it follows from levels: None, 2, and more are "gaussian",
        "bernoulli" and "logistic".
      encoder: network of an event, or of an image (H, W, 1) if the event is one (H, W). y is added
        to the event, after a linear map.
      decoder: network of the vector of z and y, encoded. Its features are a vector, or an image
        (H, W, channels) of the size of the event, whose pixels then share one linear layer.
      free_bits: nats of the KL divergence of each latent that cost nothing in training.
      beta: weight of the KL divergence in training. With more than 1, single latents stand for
        single factors of an event more often, and densities are lower.
      samples: draws of the importance-weighted estimate.
      y_shape: shape of a condition; None for p(x).
      y_domain: domain of each number in y, or one for all (see ``jaxgen.domains``); None for real
        numbers; ``Levels(10)`` for one of 10 labels.

    Params: ``frame``, the shift and scale of x and y, set from the data and not trained;
    ``encoder`` and ``decoder``, each with ``features``, the params of the network, and ``out``,
    those of the linear layer; with y also ``y`` in the encoder; and ``likelihood``, for a Gaussian
    the ``log_scale`` of each feature of a vector, or of all pixels of an image.

    Source: Kingma and Welling 2014, "Auto-encoding variational Bayes"; Burda, Grosse and
    Salakhutdinov 2016, "Importance weighted autoencoders"; Kingma et al. 2016, "Improved
    variational inference with inverse autoregressive flow" (free bits); Higgins et al. 2017,
    "beta-VAE".

    >>> model = VAE((28, 28), latent=10, levels=2)
    >>> jaxgen.sample(model, model.init(key), key, 5).shape
    (5, 28, 28)
    """

    shape: tuple[Count, ...]
    latent: Count = 16
    levels: Count | None = None
    likelihood: Literal["gaussian", "bernoulli", "categorical", "logistic"] | None = None
    encoder: Network = MLP(width=256)
    decoder: Network = MLP(width=256)
    free_bits: NonNegative = 0.0
    beta: NonNegative = 1.0
    samples: Count = 16
    y_shape: tuple[int, ...] | None = None  # type: ignore[misc]
    y_domain: tuple[Domain, ...] | None = None  # type: ignore[misc]

    def __post_init__(self):
        super().__post_init__()
        name, levels = self._likelihood_name, self.levels
        wanted = {"gaussian": levels is None, "bernoulli": levels in (None, 2)}
        if not wanted.get(name, levels is not None and levels >= 2):
            needed = {"gaussian": "None", "bernoulli": "2 or None"}.get(name, "at least 2")
            raise ValueError(f"VAE: levels must be {needed} for likelihood {name!r}, got {levels}")
        self._check_no_conditions_of("encoder", "decoder")

    @property
    def event_shape(self):
        return self.shape

    @property
    def support(self):
        return self._likelihood.support

    @functools.cached_property
    def learning(self):
        return Learning(
            rate=1e-3,
            batch_size=128,
            frozen=("frame",),
            rescalable=self._likelihood.rescalable,
            noise=Normal((self.latent,)),
        )

    @functools.cached_property
    def traits(self):
        encoder = self._encoder.tile(self._input_shape)
        decoder = self._decoder.tile((self.latent,))
        return Traits(
            density="bound",
            changeable=("samples",),
            reparameterized=self._likelihood.reparameterized,
            degrees_of_freedom=self._degrees_of_freedom,
            tile=min(encoder, decoder, tile_of(math.prod(self.shape))),
            scratch=self.samples,
            log_weights=self._log_weights,
        )

    def _degrees_of_freedom(self, params):
        return sum(
            math.prod(leaf.shape)
            for name in ("decoder", "likelihood")
            for leaf in jax.tree_util.tree_leaves(params[name])
        )

    def init(self, key, x=None, y=None):
        keys = jax.random.split(key, 3)
        start = self._likelihood.start(keys[0], x)
        inputs = (self.latent + self._conditions.size,)
        decoder = init_event_outputs(
            self._decoder, keys[1], inputs, self.shape, self._likelihood.numbers
        )
        decoder["out"]["b"] = start.bias
        return {
            "encoder": _init_encoder(self, keys[2]),
            "decoder": decoder,
            "likelihood": start.params,
            "frame": self._frame_of(start.frame, y),
        }

    def log_prob(self, params, x, y=None):
        return logsumexp(self._log_weights(params, x, y)) - math.log(self.samples)

    def loss(self, params, noise, x, y=None):
        return lanes(self._loss, 0)(params, noise, x, y)

    def noise(self):
        return {"latent": Normal((self.latent,)), "pixels": self._likelihood.noise()}

    def push(self, params, noise, y=None):
        return lanes(self._draw, 0)(params, noise, y)

    def pull(self, params, x, y=None):
        mean, _ = lanes(self._encode, 0)(params, x, y)
        return {"latent": mean, "pixels": jnp.full(x.shape, self._likelihood.middle, mean.dtype)}

    def _log_weights(self, params, x, y=None):
        """log p(x, z_k) / q(z_k|x) of each draw, (samples,)."""
        return lanes(self._weights, 0)(params, x, y)

    # The methods below take arrays of one event, or with a first axis of rows.

    def _weights(self, params, x, y):
        """Log importance weights of the draws, (*rows, samples)."""
        possible, x = self._possible(params, x)
        mean, log_scale = self._encode(params, x, y)

        @jax.checkpoint  # a gradient recomputes the decoder instead of storing every draw
        def weigh(_, noise):
            z = mean + jnp.exp(log_scale) * noise
            score = self._log_likelihood(params, z, x, y)
            return None, score + (0.5 * (noise**2 - z**2) + log_scale).sum(-1)

        draws = np.asarray(_draws(self.samples, self.latent), mean.dtype)
        weights = jnp.moveaxis(lax.scan(weigh, None, draws)[1], 0, -1)
        return jnp.where(possible[..., None], weights, -jnp.inf)

    def _loss(self, params, noise, x, y):
        possible, x = self._possible(params, x)
        mean, log_scale = self._encode(params, x, y)
        z = mean + jnp.exp(log_scale) * noise
        divergence = 0.5 * (mean**2 + jnp.exp(2 * log_scale) - 1) - log_scale
        if self.free_bits:
            divergence = jnp.maximum(divergence, self.free_bits)
        loss = self.beta * divergence.sum(-1) - self._log_likelihood(params, z, x, y)
        return jnp.where(possible, loss, jnp.inf)

    def _possible(self, params, x):
        """Whether events are in the support, (*rows), and x with 0 in place of the others."""
        axes = self._event_axes(x)
        possible = self._likelihood.is_possible(params["frame"]["x"], x).all(axes)
        return possible, jnp.where(jnp.expand_dims(possible, axes), x, 0)

    def _log_likelihood(self, params, z, x, y):
        """log p(x|z), (*rows)."""
        u = self._decode(params, z, y)
        each = self._likelihood.log_prob(params["likelihood"], params["frame"]["x"], u, x)
        return each.sum(self._event_axes(x))

    def _draw(self, params, noise, y):
        u = self._decode(params, noise["latent"], y)
        frame = params["frame"]["x"]
        return self._likelihood.draw(params["likelihood"], frame, u, noise["pixels"])

    def _encode(self, params, x, y):
        """The means and log deviations of q(z|x), (*rows, latent)."""
        frame, of_encoder = params["frame"]["x"], params["encoder"]
        rows = x.ndim - len(self.shape)
        inputs = jnp.clip((x - frame["shift"]) / frame["scale"], -_CLIP, _CLIP)
        context = self._context(params, y, inputs.dtype)
        if context is not None:
            inputs = inputs + jnp.tensordot(context, of_encoder["y"], 1)
        inputs = inputs.reshape(*x.shape[:rows], *self._input_shape)
        features = self._encoder.apply_rows(of_encoder["features"], inputs, rows)
        features = features.reshape(*x.shape[:rows], -1)
        out = dense(of_encoder["out"]["w"], features) + of_encoder["out"]["b"]
        mean, log_scale = out[..., : self.latent], out[..., self.latent :]
        return mean, _MAX_LOG_SCALE * jnp.tanh(log_scale / _MAX_LOG_SCALE)

    def _decode(self, params, z, y):
        """The parameters of p(x|z), (numbers, *rows, *shape)."""
        context = self._context(params, y, z.dtype)
        inputs = z if context is None else jnp.concatenate([z, context], -1)
        return event_outputs(self._decoder, params["decoder"], inputs, z.ndim - 1, self.shape)

    def _context(self, params, y, dtype):
        """y, encoded for a network, (*rows, numbers), or None."""
        if self.y_shape is None:
            return None
        return self._conditions.encode_rows(params["frame"]["y"], y, dtype)

    def _event_axes(self, x):
        return tuple(range(x.ndim - len(self.shape), x.ndim))

    @property
    def _input_shape(self) -> tuple[int, ...]:
        """The shape of the input of the encoder: grey images have one channel."""
        return (*self.shape, 1) if len(self.shape) == 2 else self.shape

    @property
    def _encoder(self) -> Network:
        return self.encoder.for_events(self.shape)

    @property
    def _decoder(self) -> Network:
        return self.decoder.for_events(self.shape)

    @property
    def _likelihood_name(self) -> str:
        if self.likelihood is not None:
            return self.likelihood
        if self.levels is None:
            return "gaussian"
        return "bernoulli" if self.levels == 2 else "logistic"

    @functools.cached_property
    def _likelihood(self) -> Likelihood:
        return make_likelihood(self._likelihood_name, self.shape, self.levels)


@functools.partial(jax.jit, static_argnums=0)
def _init_encoder(model: VAE, key: jax.Array) -> Params:
    keys = jax.random.split(key, 3)
    features = init_checked(model._encoder, keys[0], model._input_shape)
    count = math.prod(shape_of_features(model._encoder, features, model._input_shape))
    w = near_zero(keys[1], (2 * model.latent, count))
    params = {"features": features, "out": {"w": w, "b": jnp.zeros(2 * model.latent)}}
    if model.y_shape is not None:
        params["y"] = _OF_Y * jax.random.normal(keys[2], (model._conditions.size, *model.shape))
    return params


@functools.lru_cache(maxsize=8)
def _draws(count: int, size: int) -> np.ndarray:
    """Standard normal draws (count, size), each by itself, that fill space evenly together.

    They are the first points of a scrambled Sobol sequence, whose mean has a smaller error than
    that of independent draws.

    Source: Owen 1998, "Scrambling Sobol' and Niederreiter-Xing points".
    """
    from scipy.stats import qmc  # whose import takes a second

    sequence = qmc.Sobol(size, scramble=True, seed=fixed.SEED)
    points = sequence.random_base2((count - 1).bit_length())[:count]
    tiny = 1e-9
    return ndtri(np.clip(points, tiny, 1 - tiny))
