"""The base class of models of sequences of tokens, such as texts."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from jaxgen.core.families import namespace
from jaxgen.core.model import Model, Traits


class TokenSequences(constraints.Constraint):
    """Vectors of tokens 0 .. vocabulary - 1; ``vocabulary`` fills the places after the end.

    Args:
      vocabulary: number of tokens.
    """

    is_discrete = True
    event_dim = 1

    def __init__(self, vocabulary: int):
        self.vocabulary = vocabulary
        super().__init__()

    @property
    def wanted(self) -> str:
        return (
            f"hold tokens 0 .. {self.vocabulary - 1}, and {self.vocabulary} in all places after "
            "the last token"
        )

    def __call__(self, x):
        xp = namespace(x)
        inside = (x == xp.floor(x)) & (x >= 0) & (x <= self.vocabulary)
        ended = x == self.vocabulary
        goes_on = ended[..., :-1] & ~ended[..., 1:]  # a token after the end
        return inside.all(-1) & ~goes_on.any(-1)

    def feasible_like(self, prototype):
        return jnp.zeros_like(prototype)

    def tree_flatten(self):
        return (), ((), {"vocabulary": self.vocabulary})

    def eq(self, other, static=False):
        return type(other) is type(self) and self.vocabulary == other.vocabulary


class Sequence(Model):
    """Base of models of sequences: log p(x) = sum_t log p(x_t | x_0 .. x_{t-1}).

    An event is a vector of whole numbers, the tokens 0 .. vocabulary - 1. With ``stop``, sequences
    have different lengths: the number ``vocabulary`` marks the end of a sequence that is shorter
    than ``length``, and fills the rest of the event. Without ``stop`` all events have ``length``
    tokens, such as windows of a long text.

    A subclass defines ``_log_probs`` and ``_draw`` for whole sequences, and the fields ``length``,
    ``vocabulary``, ``stop`` and ``prompt``. The first ``prompt`` tokens of a sequence are given,
    and are no part of the event: ``given`` makes such a model, whose params hold the tokens.
    """

    length: ClassVar[int]
    vocabulary: ClassVar[int]
    stop: ClassVar[bool]
    prompt: ClassVar[int]

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.prompt < self.length:
            raise ValueError(
                f"{type(self).__name__}: prompt must be from 0 to length - 1, got "
                f"{self.prompt} for length {self.length}"
            )

    @property
    def event_shape(self):
        return (self.length - self.prompt,)

    @functools.cached_property
    def support(self):
        if self.stop:
            return TokenSequences(self.vocabulary)
        return constraints.independent(constraints.integer_interval(0, self.vocabulary - 1), 1)

    @functools.cached_property
    def traits(self):
        return self._traits()

    def _traits(self):
        return Traits(token_log_probs=self._token_log_probs, changeable=("length",))

    @property
    def stream_windows(self) -> tuple[int, int]:
        """The length of the windows in which a stream of any length is scored, and their distance.

        Of all windows but the first, as many tokens count as the distance, the last ones.
        """
        return self.length, max(self.length // 2, 1)

    def log_prob(self, params, x, y=None):
        sequence = self._sequence(params, x)
        possible = self.support(x)
        if self.prompt and self.stop:
            possible &= self.support(sequence)  # a prompt may hold the end
        return jnp.where(possible, self._token_log_probs(params, x, y).sum(), -jnp.inf)

    def push(self, params, noise, y=None):
        return self._draw(params, noise, y)[self.prompt :]

    def marginal(self, params, features):
        if features != tuple(range(len(features))):
            raise NotImplementedError(
                f"{type(self).__name__} has marginals of its first tokens only, in order; got "
                f"features {features}"
            )
        return self._with(length=self.prompt + len(features)), params

    def given(self, params, features, values):
        count = len(features)
        if sorted(features) != list(range(count)):
            raise NotImplementedError(
                f"{type(self).__name__} has conditionals given its first tokens only; got "
                f"features {features}"
            )
        tokens = jnp.asarray(values)[np.argsort(features)].astype(jnp.int32)
        if self.prompt:
            tokens = jnp.concatenate([params["prompt"], tokens])
        return self._with(prompt=self.prompt + count), {**params, "prompt": tokens}

    def _token_log_probs(self, params, x, y=None):
        """log p of each entry given those before it, (length - prompt,); 0 after the end."""
        sequence = self._sequence(params, x)
        each = self._log_probs(params, sequence, y)
        if self.stop:
            ended = sequence == self.vocabulary
            after_end = jnp.concatenate([jnp.zeros_like(ended[:1]), ended[:-1]])
            each = jnp.where(after_end, 0, each)
        return each[self.prompt :]

    def _sequence(self, params: Any, x: Any) -> Any:
        """The whole sequence (length,), int32, of an event; tokens out of range are clipped."""
        tokens = x.astype(jnp.int32).clip(0, self.outputs - 1)
        return jnp.concatenate([params["prompt"], tokens]) if self.prompt else tokens

    def _with(self, **fields: Any) -> Any:
        spec: Any = self
        return dataclasses.replace(spec, **fields)

    def _with_prompt(self, params: Any) -> Any:
        """Params with a prompt of zeros, if the model has a prompt."""
        return {**params, "prompt": np.zeros(self.prompt, np.int32)} if self.prompt else params

    @property
    def outputs(self) -> int:
        """The number of values that follow a token: the vocabulary, and the end with ``stop``."""
        return self.vocabulary + self.stop

    def _log_probs(self, params, sequence, y):
        """log p of each of the numbers in ``sequence`` (length,) given those before it, (length,).

        sequence is int32, with values in 0 .. outputs - 1.
        """
        raise NotImplementedError

    def _draw(self, params, noise, y):
        """A sequence (length,), int32, that begins with the prompt in params."""
        raise NotImplementedError
