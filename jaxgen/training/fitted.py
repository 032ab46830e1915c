"""Fitted: a model and its params, with the methods that people expect."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxgen.core import engine, inputs, verbs
from jaxgen.core.model import Model, Params
from jaxgen.core.promotion import standard_promotion
from jaxgen.core.verbs import Request
from jaxgen.data import model_file
from jaxgen.training import parts

Place: TypeAlias = jax.Device | jax.sharding.Sharding | None


@jax.tree_util.register_pytree_node_class
class Fitted:
    """A model with params. A pytree: it passes through jit, grad and vmap.

    Within a transformation a label that is a number may be an argument; an unknown label, which
    cannot raise an error there, gives NaN.

    Attributes:
      model: the spec.
      params: pytree of arrays.
      history: what ``fit`` recorded, a dict of lists or numbers; lost inside a transformation.
      columns: names of the event's features, or None.
      labels: names of the labels that y may be, strings or ints, in order; None if they are 0, 1,
        ... or y is no label.

    >>> jaxgen.Fitted(jaxgen.models.Gaussian(2), fitted.params).sample(jax.random.key(0), 3).shape
    (3, 2)
    """

    def __init__(
        self,
        model: Model,
        params: Params,
        history: dict[str, Any] | None = None,
        columns: tuple[str, ...] | None = None,
        labels: tuple[str | int, ...] | None = None,
    ):
        self.model = model
        self.params = params
        self.history = history or {}
        self.columns = columns
        self.labels = labels

    def tree_flatten(self) -> tuple[tuple[Params], tuple[Any, ...]]:
        return (self.params,), (self.model, self.columns, self.labels)

    @classmethod
    def tree_unflatten(cls, static: tuple[Any, ...], children: tuple[Params]) -> Fitted:
        model, columns, labels = static
        return cls(model, children[0], columns=columns, labels=labels)

    def __repr__(self) -> str:
        count = sum(np.size(leaf) for leaf in jax.tree_util.tree_leaves(self.params))
        return f"Fitted({self.model}, {count} parameters)"

    @standard_promotion
    def log_prob(self, x: ArrayLike, y: Any = None, *, device: Place = None) -> jax.Array:
        """log p(x) or log p(x|y) in nats: see ``jaxgen.log_prob``; device as in ``sample``."""
        request = self._request(verbs.to_log_prob, x, self._labels(y))
        marginal = request.y is None and self.model.classes is not None
        if self.model.traits.log_prob_and_k is None or marginal or _is_traced(request):
            return _answer(request, device)
        log_p, k = _answer(request._replace(verb=verbs.LOG_PROB_AND_K), device)
        if self.model.learning.hooks is not None:
            self.model.learning.hooks.warn_of_tails(k)
        return log_p

    @standard_promotion
    def classify(self, x: ArrayLike, prior: ArrayLike | None = None) -> jax.Array:
        """log p(y|x) of each label by Bayes' rule, (..., classes): see ``jaxgen.classify``.

        >>> best = np.array(labelled.labels)[labelled.classify(x).argmax(-1)]
        """
        return _answer(self._request(verbs.to_classify, x, prior))

    @standard_promotion
    def sample(self, key: jax.Array, n: int, y: Any = None, *, device: Place = None) -> jax.Array:
        """n events, (n, *event_shape): see ``jaxgen.sample``.

        Args:
          key: a typed PRNG key.
          n: number of events.
          y: conditions (n, *y_shape), or one of y_shape for all; None for an unconditional model,
            and for a model of labels, which then draws y from p(y) first.
          device: where the events are to be, a ``jax.Device`` or a ``jax.sharding.Sharding``, whose
            devices also draw them. By default all local devices draw (or the one that JAX's
            ``jax_default_device`` or the params are bound to), and the first has the result. The
            events do not depend on it, and a transformation ignores it.
        """
        return _answer(self._request(verbs.to_sample, key, n, self._labels(y)), device)

    @standard_promotion
    def stream(
        self, key: jax.Array, n: int, y: Any = None, *, start: int = 0, device: Place = None
    ) -> Iterator[jax.Array]:
        """n events in blocks (rows, *event_shape), in constant memory: for files, sums, feeds.

        The blocks in a row are the events of ``sample(key, start + n)[start:]``, so a stream that
        was cut short goes on from where it stopped, and several processes can share one.

        Args:
          start: number of the first event, at most 2**64 - n.
          key, n, y, device: as in ``sample``; y is that of the n events.

        >>> total = sum(block.sum(0) for block in fitted.stream(jax.random.key(1), 10**6))
        """
        if inputs.is_tracing(self.params, key, y):
            raise TypeError("stream yields blocks to Python: inside a transformation, use sample")
        start, device = inputs.as_count(start, "start"), inputs.as_place(device)
        request = self._request(verbs.to_sample, key, n, self._labels(y), start)
        if start > 2**64 - request.n:
            raise ValueError(f"start must be at most 2**64 - n, as rows are numbered; got {start}")
        return engine.stream(request, device)

    @standard_promotion
    def pull(self, x: ArrayLike, y: Any = None) -> Any:
        """The noise that makes the events (n, *event_shape): a pytree like ``model.noise()``.

        Rows lead. Outside the support the noise of an event has no meaning.

        Raises:
          NotImplementedError: the model is not invertible.
        """
        return _answer(self._request(verbs.to_pull, x, self._labels(y, "pull")))

    @standard_promotion
    def push(self, noise: Any, y: Any = None) -> jax.Array:
        """The events that the noise makes; the inverse of ``pull``, rows leading."""
        return _answer(self._request(verbs.to_push, noise, self._labels(y, "push")))

    @standard_promotion
    def impute(self, x: ArrayLike, key: jax.Array, y: Any = None) -> jax.Array:
        """Events with each NaN in x drawn given the rest of its event: one plausible completion.

        NaN stays where the rest has no density, such as an infinity or a value outside the support.

        Args:
          x: events (n, *event_shape); the values in it stay.
          key: a typed PRNG key; another gives another completion.
          y: conditions, as in ``log_prob``; labels are drawn from p(y|x) where y is None.

        Raises:
          TypeError, ValueError: an argument of the wrong kind or shape; the message names it.
          NotImplementedError: the model has no missing values (``model.learning.missing``).
        """
        if self.model.learning.missing is None:
            raise NotImplementedError(f"{self.model} does not say how a part of an event follows")
        if inputs.is_tracing(self.params, x, key, y):
            raise TypeError("impute runs on the host and cannot be called within jit, grad or vmap")
        return _answer(self._request(verbs.to_complete, key, x, self._labels(y)))

    @standard_promotion
    def marginal(self, features: Any, *, key: jax.Array | None = None) -> Fitted:
        """The model of some features alone, as a Fitted whose events are vectors.

        It is in closed form if the family has one, else by importance sampling; its ``history``
        says which, and how good. See ``jaxgen.training.parts``.

        Args:
          features: indices in the flattened event, or names of ``columns``, in the order wanted.
          key: a typed PRNG key, for importance sampling.

        Raises:
          TypeError, ValueError: no, unknown or repeated features.
          NotImplementedError: the model has no closed form and no density to sample by.
        """
        return self._part(*parts.marginal(self, features, key))

    @standard_promotion
    def given(self, values: Mapping[Any, Any], *, key: jax.Array | None = None) -> Fitted:
        """The model of all other features given the values of some, p(x_b | x_a = values).

        Args:
          values: {feature: value}; features, key and ``history`` are as in ``marginal``.

        Raises:
          TypeError, ValueError: no, all or unknown features, or values of zero density.
          NotImplementedError: the model has no closed form and no density to sample by.

        >>> longitudes = fitted.given({"latitude": 0.5}).sample(jax.random.key(0), 10)
        """
        return self._part(*parts.given(self, values, key))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to one file, which ``jaxgen.load`` reads back."""
        model_file.save(self, path)

    def _part(
        self, model: Model, params: Params, history: dict[str, Any], features: Sequence[int]
    ) -> Fitted:
        columns = self.columns and tuple(self.columns[j] for j in features)
        labels = None if model.classes is None else self.labels
        return Fitted(model, params, history, columns, labels)

    def _labels(self, y: Any, verb: str | None = None) -> Any:
        """y as label numbers, for a verb that takes a label."""
        if verb is not None and y is None and self.model.classes is not None:
            raise ValueError(f"y is missing: {verb} takes the label of an event")
        return inputs.as_labels(y, self.labels)

    def _request(self, to_request: Callable[..., Request], *arguments: Any) -> Request:
        return to_request(self.model, self.params, *arguments)


def load(path: str | os.PathLike[str]) -> Fitted:
    """Read a fitted model that ``Fitted.save`` wrote: see ``jaxgen.data.model_file``.

    >>> jaxgen.load("gaussian.jaxgen").columns
    ('latitude', 'longitude')
    """
    record = model_file.load(path)
    return Fitted(record.model, record.params, columns=record.columns, labels=record.labels)


def _is_traced(request: Request) -> bool:
    return inputs.is_tracing(request.params, request.shared, request.values, request.y)


def _answer(request: Request, device: Place = None) -> Any:
    if _is_traced(request):
        return verbs.run_traced(request)
    return engine.run(request, inputs.as_place(device))
