"""Autoregressive models of tokens, whose conditionals are given by a causal network."""

from __future__ import annotations

import functools
import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.core.lanes import lanes
from jaxgen.core.model import Learning
from jaxgen.core.random import Uniform
from jaxgen.core.spec import AtLeast, Count
from jaxgen.models.causal import Causal
from jaxgen.models.sequence import Sequence
from jaxgen.networks.domains import Domain
from jaxgen.networks.network import Network
from jaxgen.networks.transformer import Transformer

_INITIAL = 0.02  # standard deviation of weights at the start
_TILE_TOKENS = 1024  # tokens to score at once
_DRAWN = 8  # sequences to draw at once: more take no less time each on a CPU core
_BATCH_TOKENS = 1024  # tokens in a minibatch by default
_BATCH_SIZES = 8, 256  # fewest and most sequences in one


class Autoregressive(Sequence, Causal):
    """Sequences of tokens, each drawn given those before it: log p(x) = sum_t log p(x_t | x_<t).

    A causal network computes the features of each position from the tokens before it, and their
    linear function is the logits of the next token. Tokens are embedded in ``network.width``
    numbers; y is encoded and added to them.

    Events are as in ``models.Sequence``: vectors of ``length`` whole numbers, in which
    ``vocabulary`` marks the end. ``fit`` takes texts too, and then ``length`` and ``vocabulary``
    follow from them.

    A draw takes one uniform number for each token, whose quantile it is; with a transformer the
    keys and values of earlier tokens are kept. Temperature, top-k and top-p change the model that
    is drawn from AND the density, so that both agree: ``fitted.replace(temperature=0.8)`` is
    another distribution than the fitted one.

    Args:
      length: largest number of tokens in a sequence.
      vocabulary: number of different tokens.
      network: a causal network of sequences; see ``jaxgen.networks``.
      stop: whether sequences end; otherwise all of them have ``length`` tokens.
      window: largest number of tokens that the network takes; None for ``length``. In a longer
        sequence windows overlap by half, so a token depends on between window / 2 and window
        tokens before it.
      prompt: number of first tokens that are given (see ``Sequence``).
      temperature: number that logits are divided by.
      top_k: number of the likeliest tokens that may follow; None for all.
      top_p: the likeliest tokens whose probabilities reach this sum may follow.
      y_shape: shape of a condition; None for p(x).
      y_domain: domain of each number in y, or one for all (see ``jaxgen.domains``); None for real
        numbers; ``Levels(10)`` for one of 10 labels.

    Params: ``embedding`` (vocabulary + 1, width), whose last row stands before the first token;
    ``network``; ``head`` (features, outputs); with y, ``frame``, which is set from the data and not
    trained, and ``context`` (numbers, width); with a prompt, ``prompt``.

    Source: Bengio et al. 2003, "A neural probabilistic language model"; Holtzman et al. 2020
    (top-p).

    >>> model = Autoregressive(length=8, vocabulary=3, network=jaxgen.networks.Transformer(16))
    >>> jaxgen.sample(model, model.init(key), key, 5).shape
    (5, 8)
    """

    length: Count  # type: ignore[misc]
    vocabulary: Count  # type: ignore[misc]
    network: Network = Transformer()  # type: ignore[misc]
    stop: bool = True  # type: ignore[misc]
    window: Annotated[int, AtLeast(2)] | None = None
    prompt: Annotated[int, AtLeast(0)] = 0  # type: ignore[misc]
    temperature: float = 1.0
    top_k: Count | None = None
    top_p: float = 1.0
    y_shape: tuple[int, ...] | None = None  # type: ignore[misc]
    y_domain: tuple[Domain, ...] | None = None  # type: ignore[misc]

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.temperature < math.inf:
            raise ValueError(
                f"Autoregressive: temperature must be positive, got {self.temperature}"
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"Autoregressive: top_p must be in (0, 1], got {self.top_p}")

    @functools.cached_property
    def learning(self):
        fewest, most = _BATCH_SIZES
        frozen = ("frame",) if self.y_shape is not None else ()
        return Learning(
            rate=self._rate,
            frozen=(*frozen, "prompt") if self.prompt else frozen,
            batch_size=min(max(_BATCH_TOKENS // self.length, fewest), most),
        )

    @property
    def stream_windows(self):
        return self._window, self._hop

    def _traits(self):
        tile = max(_TILE_TOKENS // self.length, 1)
        changeable = "length", "window", "temperature", "top_k", "top_p"
        return super()._traits()._replace(tile=tile, draw_tile=_DRAWN, changeable=changeable)

    def init(self, key, x=None, y=None):
        self._check_causal(self._window)
        params = _init(self, key)
        if self.y_shape is not None:
            params["frame"] = self._conditions.init(y)
        return self._with_prompt(params)

    def noise(self):
        return Uniform((self.length - self.prompt,))

    def _log_probs(self, params, sequence, y):
        return lanes(self._score, 0)(params, sequence, y)

    def _draw(self, params, noise, y):
        return lanes(self._generate, 0)(params, noise, y)

    # The methods below take arrays of one event, or with a first axis of rows.

    def _score(self, params, sequence, y):
        """log p of each token given those before it, (*rows, length)."""
        windows, hop = self._windows, self._hop
        padded = jnp.pad(
            sequence, _last_axis(sequence, 0, windows[-1] + self._window - self.length)
        )
        # (*rows, windows, window); a window begins with the mark of the start
        tokens = padded[..., windows[:, None] + np.arange(self._window)]
        start = jnp.full_like(tokens[..., :1], self.vocabulary)
        x = self._embedded(params, jnp.concatenate([start, tokens[..., :-1]], -1))
        context = self._context(params, y, x.dtype)
        if context is not None:
            x = x + context[..., None, None, :]
        logits = self._logits(params, self.network.apply_rows(params["network"], x, x.ndim - 2))
        log_p = jnp.take_along_axis(logits, tokens[..., None], -1)[..., 0]
        log_p = log_p - jax.nn.logsumexp(logits, -1)
        # of a later window, only the last tokens have enough before them
        later = log_p[..., 1:, self._window - hop :]
        each = jnp.concatenate([log_p[..., 0, :], later.reshape(*later.shape[:-2], -1)], -1)
        return each[..., : self.length]

    def _generate(self, params, noise, y):
        """Sequences (*rows, length) that begin with the prompt."""
        rows, window, hop = noise.shape[:-1], self._window, self._hop
        context = self._context(params, y, noise.dtype)
        given = params["prompt"] if self.prompt else jnp.zeros(0, jnp.int32)
        # the first window that is not known, and what is known of it
        first = max(-(-(self.prompt + 1 - window) // hop), 0) * hop
        known = jnp.broadcast_to(given[first:], (*rows, self.prompt - first))
        count = min(window, self.length - first) - known.shape[-1]
        drawn = self._continue(params, context, known, noise[..., :count])
        whole = [jnp.broadcast_to(given[:first], (*rows, first)), known, drawn]
        left = noise[..., count:]
        if left.shape[-1]:
            blocks = -(-left.shape[-1] // hop)
            left = jnp.pad(left, _last_axis(left, 0, blocks * hop - left.shape[-1]))
            left = jnp.moveaxis(left.reshape(*rows, blocks, hop), -2, 0)

            def draw_block(recent, noise):
                new = self._continue(params, context, recent, noise)
                return jnp.concatenate([recent, new], -1)[..., hop:], new

            recent = jnp.concatenate([known, drawn], -1)[..., hop:]
            later = lax.scan(draw_block, recent, left)[1]
            whole.append(jnp.moveaxis(later, 0, -2).reshape(*rows, -1))
        return jnp.concatenate(whole, -1)[..., : self.length]

    def _continue(self, params, context, known, noise):
        """Tokens (*rows, count) that follow those known, (*rows, n), of a window."""
        rows, count = noise.shape[:-1], noise.shape[-1]
        start = jnp.full((*rows, 1), self.vocabulary, jnp.int32)
        inputs = jnp.moveaxis(jnp.concatenate([start, known], -1), -1, 0)
        positions = inputs.shape[0] - 1 + count
        cache, step = self.network.rows_cache(params["network"], positions, noise.dtype, rows)

        def advance(cache, token, i):
            x = self._embedded(params, token)
            return step(cache, x if context is None else x + context, i)

        def read(cache, i_and_token):
            return advance(cache, i_and_token[1], i_and_token[0])[0], None

        def draw(carry, i_and_noise):
            cache, token = carry
            i, u = i_and_noise
            cache, features = advance(cache, token, i)
            new = _quantile(jax.nn.softmax(self._logits(params, features), -1), u)
            if self.stop:
                # the start has the number of the end
                ended = (token == self.vocabulary) & (i > 0)
                new = jnp.where(ended, self.vocabulary, new)
            return (cache, new), new

        places = np.arange(positions, dtype=np.int32)
        cache, _ = lax.scan(read, cache, (places[: len(inputs) - 1], inputs[:-1]))
        steps = places[len(inputs) - 1 :], jnp.moveaxis(noise, -1, 0)
        return jnp.moveaxis(lax.scan(draw, (cache, inputs[-1]), steps)[1], 0, -1)

    def _embedded(self, params, tokens):
        return params["embedding"][tokens]

    def _logits(self, params, features):
        """Logits of the next token, (..., outputs); -inf where it cannot follow."""
        logits = features @ params["head"]
        if self.temperature != 1:
            logits = logits / np.asarray(self.temperature, logits.dtype)
        if self.top_k is not None and self.top_k < self.outputs:
            least = lax.top_k(logits, self.top_k)[0][..., -1:]
            logits = jnp.where(logits >= least, logits, -jnp.inf)
        if self.top_p < 1:
            ordered = -jnp.sort(-logits, -1)
            shares = jax.nn.softmax(ordered, -1)
            before = jnp.cumsum(shares, -1) - shares  # of all likelier tokens
            least = jnp.where(before < self.top_p, ordered, jnp.inf).min(-1, keepdims=True)
            logits = jnp.where(logits >= least, logits, -jnp.inf)
        return logits

    @property
    def _window(self) -> int:
        """The number of tokens that the network takes at once."""
        return self.length if self.window is None else min(self.window, self.length)

    @property
    def _hop(self) -> int:
        """The number of tokens by which a window begins after the one before it."""
        return max(self._window // 2, 1)

    @property
    def _windows(self) -> np.ndarray:
        """The place at which each window begins."""
        return np.arange(0, self.length - self._window + self._hop, self._hop)


@functools.partial(jax.jit, static_argnums=0)
def _init(model: Autoregressive, key: jax.Array) -> Any:
    """Params but those that follow from data: the embedding, the network and the head."""
    keys = jax.random.split(key, 4)
    params, features = model._init_network(keys[0], keys[3], model._window)
    size = model.vocabulary + 1, model.network.width
    return {
        **params,
        "embedding": jax.random.normal(keys[1], size),
        "head": _INITIAL * jax.random.normal(keys[2], (features, model.outputs)),
    }


def _quantile(probs: jax.Array, u: jax.Array) -> jax.Array:
    """The first token, (*rows) int32, up to which probs (*rows, tokens) sum to a share u of all.

    Tokens of probability 0 are never chosen, as u is positive.
    """
    total = jnp.cumsum(probs, -1)
    return (total < u[..., None] * total[..., -1:]).sum(-1).astype(jnp.int32)


def _last_axis(x: jax.Array, before: int, after: int) -> list[tuple[int, int]]:
    """The padding of the last axis, for ``jnp.pad``."""
    return [(0, 0)] * (x.ndim - 1) + [(before, after)]
