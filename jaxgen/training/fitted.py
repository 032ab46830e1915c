"""Fitted: a model and its params, with the methods that people expect."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, TypeAlias

import jax
import numpy as np

from jaxgen.core import batch, engine, inputs
from jaxgen.core.model import Model, Params
from jaxgen.core.promotion import standard_promotion

Place: TypeAlias = jax.Device | jax.sharding.Sharding | None


@jax.tree_util.register_pytree_node_class
class Fitted:
    """A model with params. A pytree: it passes through jit, grad and vmap.

    Attributes:
      model: the spec.
      params: pytree of arrays.
      history: what ``fit`` recorded, a dict of lists or numbers; lost inside a transformation.
      columns: names of the event's features, or None.
      labels: names of the labels that y may be, strings or ints, in the order of their places; None
        where they are 0, 1, .. or y is no label.
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

    def tree_flatten(self):
        return (self.params,), (self.model, self.columns, self.labels)

    @classmethod
    def tree_unflatten(cls, static, children):
        model, columns, labels = static
        return cls(model, children[0], columns=columns, labels=labels)

    def __repr__(self) -> str:
        count = sum(np.size(leaf) for leaf in jax.tree_util.tree_leaves(self.params))
        return f"Fitted({self.model}, {count} parameters)"

    @standard_promotion
    def log_prob(self, x, y=None, *, device: Place = None) -> jax.Array:
        """log p(x) or log p(x|y) in nats: see ``jaxgen.log_prob``; device as in ``sample``.

        Where y is a label, without it the score is the marginal, log sum_y p(y) p(x|y). Inside a
        transformation a label that is a number may be an argument; of an unknown one, which cannot
        raise there, every method gives NaN.
        """
        y = inputs.as_labels(y, self.labels)
        if inputs.is_tracing(self.params, x, y):
            return batch.log_prob(self.model, self.params, x, y)
        x, y, shape = self._rows(x, y)
        device, marginal = inputs.as_place(device), y is None and self.model.classes is not None
        if self.model.traits.log_prob_and_k is None or marginal:
            return engine.log_prob(self.model, self.params, x, y, shape, device)
        log_p, k = engine.log_prob_and_k(self.model, self.params, x, y, shape, device)
        if self.model.learning.hooks is not None:
            self.model.learning.hooks.warn_of_tails(k)
        return log_p

    @standard_promotion
    def classify(self, x, prior=None) -> jax.Array:
        """log p(y|x) of each label by Bayes' rule, (..., classes): see ``jaxgen.classify``.

        >>> best = np.array(labelled.labels)[labelled.classify(x).argmax(-1)]
        """
        if inputs.is_tracing(self.params, x, prior):
            return batch.classify(self.model, self.params, x, prior)
        prior = inputs.as_prior(self.model, prior, inputs.float_dtype(self.params))
        x, _, shape = self._rows(x, None)
        return engine.classify(self.model, self.params, x, prior, shape)

    @standard_promotion
    def sample(self, key: jax.Array, n: int, y=None, *, device: Place = None) -> jax.Array:
        """n events, (n, *event_shape): see ``jaxgen.sample``.

        Args:
          key: a typed PRNG key.
          n: number of events.
          y: conditions (n, *y_shape), or one of y_shape for all; None for an unconditional model,
            and for one of labels, which then draws y from p(y) first.
          device: where the events are to be, a ``jax.Device`` or a ``jax.sharding.Sharding``, whose
            devices then also draw them. By default all local devices draw (or the one that JAX's
            ``jax_default_device`` or the params are bound to), and the first has the result. The
            events are the same wherever they are drawn. Inside a transformation it has no meaning.
        """
        y = inputs.as_labels(y, self.labels)
        if inputs.is_tracing(self.params, key, y):
            return batch.sample(self.model, self.params, key, n, y)
        key, n, y = self._draws(key, n, y)
        return engine.sample(self.model, self.params, key, n, y, inputs.as_place(device))

    @standard_promotion
    def stream(
        self, key: jax.Array, n: int, y=None, *, start: int = 0, device: Place = None
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
        key, n, y = self._draws(key, n, inputs.as_labels(y, self.labels))
        start, device = inputs.as_count(start, "start"), inputs.as_place(device)
        if start > 2**64 - n:
            raise ValueError(f"start must be at most 2**64 - n, as rows are numbered; got {start}")
        return engine.stream(self.model, self.params, key, n, y, start, device)

    @standard_promotion
    def pull(self, x, y=None) -> Any:
        """The noise that makes the events (n, *event_shape): a pytree like ``model.noise()``.

        Rows lead. Where an event is outside the support its noise means nothing.

        Raises:
          NotImplementedError: the model is not invertible.
        """
        y = self._condition(y, "pull")
        if inputs.is_tracing(self.params, x, y):
            return batch.pull(self.model, self.params, x, y)
        x, y, _ = self._rows(x, y)
        return engine.pull(self.model, self.params, x, y)

    @standard_promotion
    def push(self, noise: Any, y=None) -> jax.Array:
        """The events that the noise makes; the inverse of ``pull``, rows leading."""
        y = self._condition(y, "push")
        if inputs.is_tracing(self.params, noise, y):
            return batch.push(self.model, self.params, noise, y)
        noise, n = inputs.as_noise(self.model, noise)
        y = inputs.as_conditions(self.model, y, (n,), inputs.float_dtype(self.params))
        return engine.push(self.model, self.params, noise, y)

    @standard_promotion
    def marginal(self, features, *, key: jax.Array | None = None) -> Fitted:
        """The model of some features alone, a Fitted whose events are vectors of them.

        In closed form where the family has one, else by importance sampling: its ``history`` says
        which, and how good. See ``jaxgen.training.parts``.

        Args:
          features: places in the flattened event, or names of ``columns``; in the order wanted.
          key: a typed PRNG key, for importance sampling.

        Raises:
          TypeError, ValueError: unknown, repeated or no features.
          NotImplementedError: the model has no closed form and no density to sample by.
        """
        from jaxgen.training.parts import marginal

        return marginal(self, features, key=key)

    @standard_promotion
    def given(self, values: dict, *, key: jax.Array | None = None) -> Fitted:
        """The model of all other features, given the values of some: p(x_b | x_a = values).

        In closed form where the family has one, else by importance sampling: its ``history`` says
        which, and how good. See ``jaxgen.training.parts``.

        Args:
          values: by place in the flattened event, or by name of ``columns``.
          key: a typed PRNG key, for importance sampling.

        Raises:
          TypeError, ValueError: unknown features, none or all of them, or values of zero density.
          NotImplementedError: the model has no closed form and no density to sample by.

        >>> longitudes = fitted.given({"latitude": 0.5}).sample(jax.random.key(0), 10)
        """
        from jaxgen.training.parts import given

        return given(self, values, key=key)

    @standard_promotion
    def impute(self, x, key: jax.Array, y=None) -> jax.Array:
        """Events with each NaN in x drawn given the rest of its event: one plausible completion.

        Where the rest has no density, such as an infinity or a value outside the support, nothing
        follows from it, and NaN stays.

        Args:
          x: events (n, *event_shape); what is there stays.
          key: a typed PRNG key; another gives another completion.
          y: conditions, as in ``log_prob``; labels are drawn from p(y|x) where y is None.

        Raises:
          TypeError, ValueError: an argument of the wrong kind or shape, by its name.
          NotImplementedError: the model has no missing values (``model.learning.missing`` is None).
        """
        model = self.model
        if model.learning.missing is None:
            raise NotImplementedError(f"{model} does not say how a part of an event follows")
        if inputs.is_tracing(self.params, x, key, y):
            raise TypeError("impute runs on the host and cannot be called within jit, grad or vmap")
        x, y, shape = self._rows(x, inputs.as_labels(y, self.labels))
        return engine.complete(model, self.params, inputs.as_key(key), x, y, shape)

    def save(self, path: str | os.PathLike) -> None:
        """Write the model to one file, which ``jaxgen.load`` reads back."""
        from jaxgen.data.model_file import save

        save(self, path)

    def _condition(self, y, what):
        if y is None and self.model.classes is not None:
            raise ValueError(f"y is missing: to {what} an event takes its label")
        return inputs.as_labels(y, self.labels)

    def _draws(self, key, n, y):
        """Checked key, n and y, for drawing outside of a transformation."""
        key, n = inputs.as_key(key), inputs.as_count(n)
        y = np.asarray(y) if isinstance(y, jax.Array) else y
        return key, n, inputs.as_conditions(self.model, y, (n,), inputs.float_dtype(self.params))

    def _rows(self, x, y):
        """Checked x and y with one row axis, and the batch shape they had."""
        dtype = inputs.float_dtype(self.params)
        # on the host: a cast or a reshape on the device would compile for every shape
        x, y = (np.asarray(v) if isinstance(v, jax.Array) else v for v in (x, y))
        x = inputs.as_events(self.model, x, dtype)
        shape = x.shape[: x.ndim - len(self.model.event_shape)]
        y = inputs.as_conditions(self.model, y, shape, dtype)
        x = x.reshape(-1, *self.model.event_shape)
        if y is not None:
            y = y.reshape(-1, *y.shape[len(shape) :])
        return x, y, shape
