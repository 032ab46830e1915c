"""Fitted: a model and its params, with the methods that people expect."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxgen.core import dataframes, engine, inputs, label_names, verbs
from jaxgen.core.degrees import degrees_of_freedom
from jaxgen.core.model import Model, Params
from jaxgen.core.promotion import standard_promotion
from jaxgen.core.tracing import is_tracing
from jaxgen.core.verbs import Request
from jaxgen.core.wrapper import inner_of, replace_inner
from jaxgen.data import model_file
from jaxgen.data.images import PixelFormat
from jaxgen.data.text import Vocabulary, holds_texts, sequence_in, strings_of, tokens_of
from jaxgen.training import frames, parts, paths

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
      labels: the labels that y may be, in order: strings, ints or bools, and 0, 1, ... if they
        have no names; None if y is no label.
      y_columns: names of the numbers in y, or the one name of the label; None if they have none.
      vocabulary: the ``jaxgen.data.Vocabulary`` of a model that was fitted to texts, else None.
      pixels: the ``jaxgen.data.PixelFormat`` of a model of images, whose events are its levels;
        None if it is not known. Methods do not use it: ``pixels.encode`` makes events of images,
        and ``pixels.decode`` images of draws.

    Wherever a method takes events x or conditions y it also takes a table: a DataFrame of pandas or
    polars, a pyarrow Table, or a dict of arrays. Its columns are matched by name, in any order, and
    other columns are ignored; without names to match, all columns are taken in their order.

    With a vocabulary, wherever a method takes events it also takes a list or a column of texts, or
    the ``Texts`` of ``jaxgen.data.tokenize``, and draws are a list of str. Within a transformation
    events are tokens.

    >>> jaxgen.Fitted(jaxgen.models.Gaussian(2), fitted.params).sample(jax.random.key(0), 3).shape
    (3, 2)
    """

    # which pickles of 0.3.0 do not have
    y_columns: tuple[str, ...] | None = None
    vocabulary: Vocabulary | None = None
    pixels: PixelFormat | None = None

    def __init__(
        self,
        model: Model,
        params: Params,
        history: dict[str, Any] | None = None,
        columns: tuple[str, ...] | None = None,
        labels: tuple[str | int, ...] | None = None,
        y_columns: tuple[str, ...] | None = None,
        vocabulary: Vocabulary | None = None,
        pixels: PixelFormat | None = None,
    ):
        self.model = model
        self.params = params
        self.history = history or {}
        self.columns = columns
        self.labels = _numbered(model) if labels is None else labels
        self.y_columns = y_columns
        self.vocabulary = vocabulary
        self.pixels = pixels

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self.labels is None:  # as in pickles of 0.3.0
            self.labels = _numbered(self.model)

    def tree_flatten(self) -> tuple[tuple[Params], tuple[Any, ...]]:
        names = self.columns, self.labels, self.y_columns, self.vocabulary, self.pixels
        return (self.params,), (self.model, *names)

    @classmethod
    def tree_unflatten(cls, static: tuple[Any, ...], children: tuple[Params]) -> Fitted:
        model, *names = static
        return cls(model, children[0], None, *names)

    def __repr__(self) -> str:
        count = sum(np.size(leaf) for leaf in jax.tree_util.tree_leaves(self.params))
        return f"Fitted({self.model}, {count} parameters)"

    @standard_promotion
    def log_prob(self, x: Any, y: Any = None, *, device: Place = None) -> jax.Array:
        """log p(x) or log p(x|y) of events (..., *event_shape), in nats.

        x has at least one batch dimension. See ``jaxgen.log_prob``; device is as in ``sample``.
        """
        request = self._request(verbs.to_log_prob, self.events_of(x), self.conditions_of(y))
        marginal = request.y is None and self.model.classes is not None
        if self.model.traits.log_prob_and_k is None or marginal or engine.is_traced(request):
            return _answer(request, device)
        log_p, k = _answer(request._replace(verb=verbs.LOG_PROB_AND_K), device)
        if self.model.learning.hooks is not None:
            self.model.learning.hooks.warn_of_tails(k)
        return log_p

    @standard_promotion
    def token_log_probs(self, x: Any, y: Any = None) -> jax.Array:
        """log p of each token given those before it, (..., length), in nats; 0 after the end.

        The sum over an event is ``log_prob``. Events outside the support are NaN.

        Args:
          x: events (..., length) of a model of sequences, or texts.
          y: conditions or labels, as in ``log_prob``; without labels, those of p(x).

        Raises:
          TypeError: the model is not one of sequences.

        >>> names = jaxgen.fit(jaxgen.models.NGram(), ["anna", "bob"], key=key)
        >>> names.token_log_probs(["bob"]).shape
        (1, 5)
        """
        request = self._request(verbs.to_token_log_probs, self.events_of(x), self.conditions_of(y))
        return _answer(request)

    @standard_promotion
    def classify(self, x: Any, prior: Any = None) -> jax.Array:
        """log p(y|x) of each label by Bayes' rule, (..., classes), in nats; NaN where p(x) = 0.

        The last axis is in the order of ``labels``.

        Args:
          x: events (..., *event_shape), with at least one batch dimension; NaN is as in
            ``log_prob``.
          prior: p(y), not negative, with a positive sum: a dict or a pandas Series by label, or an
            array (classes,) in the order of ``labels``. None takes the learnt frequencies.

        Raises:
          TypeError, ValueError: an argument of the wrong kind or shape, a label that ``prior`` does
            not hold, or one that is unknown; the message names it.

        >>> best = np.array(labelled.labels)[labelled.classify(x).argmax(-1)]
        """
        if self.labels is not None:
            prior = label_names.in_order(prior, self.labels, "prior")
        return _answer(self._request(verbs.to_classify, self.events_of(x), prior))

    @standard_promotion
    def responsibilities(self, x: Any, y: Any = None) -> jax.Array:
        """The probabilities of a mixture's components given each event, (..., components).

        ``responsibilities(x).argmax(-1)`` are hard labels. Rows are NaN where p(x) = 0.

        Args:
          x: events (..., *event_shape), with at least one batch dimension; NaN is as in
            ``log_prob``.
          y: conditions, for a conditional mixture.

        Raises:
          TypeError: the model has no components.
          TypeError, ValueError: an argument of the wrong kind or shape; the message names it.

        >>> mixture = jaxgen.fit(jaxgen.models.GaussianMixture(components=2), x, key=key, epochs=2)
        >>> mixture.responsibilities(x).shape
        (200, 2)
        """
        x, y = self.events_of(x), self.conditions_of(y)
        return _answer(self._request(verbs.to_responsibilities, x, y))

    @property
    def degrees_of_freedom(self) -> int:
        """The number of free real numbers of the model: see ``jaxgen.core.degrees``.

        Raises:
          NotImplementedError: the model has no such number, as a KDE or a NumPyro program.

        >>> fitted.degrees_of_freedom
        5
        """
        return degrees_of_freedom(self.model, self.params)

    def aic(self, x: Any, y: Any = None, *, weights: Any = None) -> float:
        """Akaike's information criterion of events x, in nats: 2 k - 2 log p(x). Lower is better.

        k is ``degrees_of_freedom``, and log p(x) the sum over events; that of a model of labels is
        log p(x, y) if y is given. Arguments and errors are as in ``log_prob``; weights are (n,), by
        which each event counts as that many.

        Source: Akaike 1974, "A new look at the statistical model identification".

        >>> fitted.aic(x) < fitted.bic(x)
        True
        """
        return self.information_criterion(x, y, "aic", self.degrees_of_freedom, weights)

    def bic(self, x: Any, y: Any = None, *, weights: Any = None) -> float:
        """The Bayesian information criterion of n events x, k log n - 2 log p(x): see ``aic``.

        Source: Schwarz 1978, "Estimating the dimension of a model".
        """
        return self.information_criterion(x, y, "bic", self.degrees_of_freedom, weights)

    def information_criterion(
        self, x: Any, y: Any, name: str, degrees: int, weights: Any = None
    ) -> float:
        """The criterion "aic" or "bic" for a number of degrees of freedom: see ``aic``.

        >>> fitted.information_criterion(x, None, "bic", 5) == fitted.bic(x)
        True
        """
        if is_tracing(self.params, x, y, weights):
            raise TypeError(f"{name} cannot be called within jit, grad or vmap")
        log_p = np.asarray(self.log_prob(x, y), np.float64)
        if not log_p.size:
            raise ValueError(f"x must hold at least one event for {name}")
        if y is not None and self.model.classes is not None:
            log_prior = np.asarray(self.model.log_prior(self.params), np.float64)
            log_p = log_p + log_prior[np.asarray(self.conditions_of(y))]
        weights = np.ones(log_p.shape) if weights is None else inputs.numbers(weights, "weights")
        if np.shape(weights) != log_p.shape:
            raise ValueError(f"weights must have shape {log_p.shape}, got {np.shape(weights)}")
        counts = np.asarray(weights, np.float64)
        total = (counts * np.where(counts > 0, log_p, 0)).sum()
        price = {"aic": 2.0, "bic": math.log(counts.sum())}[name]
        return float(price * degrees - 2 * total)

    @standard_promotion
    def sample(
        self,
        key: jax.Array,
        n: int,
        y: Any = None,
        *,
        with_labels: bool = False,
        as_frame: bool = False,
        device: Place = None,
    ) -> Any:
        """n events, (n, *event_shape), or n texts, a list of str: see ``jaxgen.sample``.

        Args:
          key: a typed PRNG key.
          n: number of events.
          y: conditions (n, *y_shape), or one of y_shape for all; None for an unconditional model,
            and for a model of labels, which then draws y from p(y) first.
          with_labels: return (events, labels), where labels (n,) are the labels of a model of
            labels, by their names, or else the components of a mixture, by their numbers, such as
            those of a ``GaussianMixture``.
          as_frame: return a pandas DataFrame, whose columns are the features, or "text", and then
            the labels or conditions, by their names. Conditions in y keep their values and dtypes.
            Labels that are not in sorted order, as those of a categorical column, are categories.
          device: where the events are to be, a ``jax.Device`` or a ``jax.sharding.Sharding``, whose
            devices also draw them. By default all local devices draw (or the one that JAX's
            ``jax_default_device`` or the params are bound to), and the first has the result. The
            events do not depend on it, and a transformation ignores it.

        Raises:
          TypeError, ValueError: as in ``jaxgen.sample``, or a model without labels or components.
          ImportError: ``as_frame`` needs pandas.

        >>> x, y = labelled.sample(jax.random.key(0), 5, with_labels=True)
        """
        request = self._request(verbs.to_sample, key, n, self.conditions_of(y))
        labelled = with_labels or (as_frame and self.model.classes is not None)
        if labelled:
            request = request._replace(verb=verbs.with_labels(self.model))
        if as_frame and engine.is_traced(request):
            raise TypeError("as_frame=True does not work inside a transformation")
        answer = _answer(request, device)
        x, labels = answer if labelled else (answer, None)
        if self.vocabulary is not None and not engine.is_traced(request):
            x = self.vocabulary.decode(x)
        if labelled and not engine.is_traced(request):
            labels = self._names_of_labels(labels)
        if as_frame and self.model.classes is None:
            given = None if request.y is None else self._given_columns(y, request.y)
            return frames.to_frame(self._named(self._features(x), given, labels))
        if as_frame:
            return frames.to_frame(self._named(self._features(x), [self._label_column(y, labels)]))
        return (x, labels) if labelled else x

    @standard_promotion
    def stream(
        self, key: jax.Array, n: int, y: Any = None, *, start: int = 0, device: Place = None
    ) -> Iterator[Any]:
        """n events in blocks (rows, *event_shape), in constant memory: for files, sums, feeds.

        With a vocabulary the blocks are lists of str.

        The blocks in a row are the events of ``sample(key, start + n)[start:]``, so a stream that
        was cut short goes on from where it stopped, and several processes can share one.

        Args:
          start: number of the first event, at most 2**64 - n.
          key, n, y, device: as in ``sample``; y is that of the n events.

        >>> total = sum(block.sum(0) for block in fitted.stream(jax.random.key(1), 10**6))
        """
        if is_tracing(self.params, key, y):
            raise TypeError("stream cannot be called within jit, grad or vmap: use sample there")
        start, device = inputs.as_count(start, "start"), inputs.as_place(device)
        request = self._request(verbs.to_sample, key, n, self.conditions_of(y), start)
        if start > 2**64 - request.n:
            raise ValueError(f"start must be at most 2**64 - n, as rows are numbered; got {start}")
        blocks = engine.stream(request, device)
        return blocks if self.vocabulary is None else map(self.vocabulary.decode, blocks)

    @standard_promotion
    def pull(self, x: Any, y: Any = None) -> Any:
        """The noise that makes the events (n, *event_shape): a pytree like ``model.noise()``.

        Rows lead. Outside the support the noise of an event has no meaning.

        Raises:
          NotImplementedError: the model is not invertible.
        """
        return _answer(
            self._request(verbs.to_pull, self.events_of(x), self.conditions_of(y, "pull"))
        )

    @standard_promotion
    def push(self, noise: Any, y: Any = None) -> jax.Array:
        """The events that the noise makes; the inverse of ``pull``, rows leading."""
        return _answer(self._request(verbs.to_push, noise, self.conditions_of(y, "push")))

    @standard_promotion
    def path(
        self, x0: ArrayLike, x1: ArrayLike, steps: int = 8, y0: Any = None, y1: Any = None
    ) -> jax.Array:
        """Events (steps, *event_shape) on a path from x0 to x1 through their noise.

        Each step between two independent events of the model is an event of the model: see
        ``jaxgen.training.paths``.

        Args:
          x0, x1: events of event_shape, or tables of one row. They are the first and the last step.
          steps: number of events, at least 2.
          y0: the condition of x0, for a conditional model, as in ``log_prob``.
          y1: the condition of x1; None for y0. Numbers move linearly from y0 to y1, and labels and
            other whole numbers change from y0 to y1 halfway.

        Raises:
          TypeError, ValueError: an argument has the wrong kind, shape or range, an event is outside
            the support, or the noise is not normal or uniform.
          NotImplementedError: the model has no ``pull``.

        >>> fitted.path(x[0], x[1], steps=5).shape
        (5, 2)
        """
        return paths.path(self, x0, x1, steps, y0, y1)

    @standard_promotion
    def impute(self, x: Any, key: jax.Array, y: Any = None, *, as_frame: bool = False) -> Any:
        """Events with each NaN in x drawn given the rest of its event: one plausible completion.

        NaN stays where the rest has no density, such as an infinity or a value outside the support.

        Args:
          x: events (n, *event_shape), or a table of them.
          key: a typed PRNG key; another gives another completion.
          y: conditions, as in ``log_prob``; labels are drawn from p(y|x) where y is None.
          as_frame: return a pandas DataFrame of the features, with the index of x if that is one.
            The values in x and the dtypes of its columns stay, except that ints become floats where
            draws are not whole. Otherwise the result is in the dtype of the params.

        Raises:
          TypeError, ValueError: an argument of the wrong kind or shape; the message names it.
          ImportError: ``as_frame`` needs pandas.
          NotImplementedError: the model takes no missing values (``model.learning.missing``).
        """
        if self.model.learning.missing is None:
            raise NotImplementedError(f"{self.model} cannot draw missing values: it takes none")
        if is_tracing(self.params, x, key, y):
            raise TypeError("impute runs on the host and cannot be called within jit, grad or vmap")
        events = self.events_of(x)
        done = _answer(self._request(verbs.to_complete, key, events, self.conditions_of(y)))
        if not as_frame:
            return done
        table = dataframes.is_table(x)
        given = frames.columns_of(x, self.columns) if table else _columns(inputs.numbers(x, "x"))
        given = [column if np.ndim(column) else np.full(len(done), column) for column in given]
        columns = [frames.filled(v, z) for v, z in zip(given, _columns(done), strict=True)]
        return frames.to_frame(self._named(columns), getattr(x, "index", None))

    def replace(self, **fields: Any) -> Fitted:
        """The same params under a model with other values of some fields.

        A field is changed wherever the model, or a model inside it, has it. So a model of sequences
        becomes longer, or is drawn from at another temperature, which is another distribution than
        the fitted one.

        Args:
          **fields: names of fields and their values.

        Raises:
          TypeError: no model has the field.
          ValueError: a value that does not suit the field, or a field that params depend on: those
            that may change are in the model's ``traits.changeable``.

        >>> names = jaxgen.fit(jaxgen.models.NGram(), ["anna", "bob"], key=key)
        >>> names.replace(length=20).model.length
        20
        """
        model = _with_fields(self.model, fields)
        names = self.columns, self.labels, self.y_columns, self.vocabulary
        pixels = self.pixels if model.event_shape == self.model.event_shape else None
        return Fitted(model, self.params, self.history, *names, pixels)

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
    def given(self, values: Mapping[Any, Any] | str, *, key: jax.Array | None = None) -> Fitted:
        """The model of all other features given the values of some, p(x_b | x_a = values).

        Args:
          values: {feature: value}; features, key and ``history`` are as in ``marginal``. With a
            vocabulary also the beginning of a text, a str; then draws are how the text goes on,
            without its beginning.

        Raises:
          TypeError, ValueError: no, all or unknown features, or values of zero density; an unknown
            character, or a beginning that is not shorter than a text can be.
          NotImplementedError: the model has no closed form and no density to sample by.

        >>> longitudes = fitted.given({"latitude": 0.5}).sample(jax.random.key(0), 10)
        """
        return self._part(*parts.given(self, self._tokens_by_place(values), key))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to one file, which ``jaxgen.load`` reads back."""
        model_file.save(self, path)

    def _part(
        self, model: Model, params: Params, history: dict[str, Any], features: Sequence[int]
    ) -> Fitted:
        columns = self.columns and tuple(self.columns[j] for j in features)
        labels = None if model.classes is None else self.labels
        y_columns = None if model.y_shape is None else self.y_columns
        vocabulary = None if sequence_in(model) is None else self.vocabulary
        return Fitted(model, params, history, columns, labels, y_columns, vocabulary)

    def _tokens_by_place(self, values: Any) -> Any:
        """The beginning of a text as {place: token}; other values unchanged."""
        if not isinstance(values, str):
            return values
        if self.vocabulary is None:
            raise TypeError(
                f"given: the beginning of a text needs a model fitted to texts, got {values!r:.40}"
            )
        tokens, _ = self.vocabulary.encode_all([values], "given: values", rows=False)
        length = self.model.event_shape[0]
        if not 0 < len(tokens) < length:
            raise ValueError(
                f"given: the beginning of a text must have from 1 to {length - 1} tokens, as a "
                f"text has at most {length}; got {len(tokens)}: {values!r:.40}"
            )
        return dict(enumerate(tokens.tolist()))

    def named_columns(self, x: Any, y: Any = None, components: Any = None) -> dict[str, np.ndarray]:
        """Events x (n, *event_shape), and what is given besides, as {name: (n,)} on the host.

        Names are those of ``columns`` and ``y_columns``, else "x0", "x1", ... and "y" ("y0", ... if
        y has several numbers). With a vocabulary the one column of the events is "text". The
        components of a mixture are "component". A name that an earlier column has gets an
        underscore at its end.

        Args:
          x: events.
          y: conditions (n, *y_shape), or labels.
          components: numbers of a mixture's components, (n,).

        >>> fitted.named_columns(x)["latitude"].shape
        (200,)
        """
        return self._named(self._features(x), None if y is None else _columns(y), components)

    def _features(self, x: Any) -> list[Any]:
        """Events as columns (n,): those of the features, or the one of texts."""
        if self.vocabulary is None:
            return _columns(x)
        texts = strings_of(x, "x") if holds_texts(x) else self.vocabulary.decode(x)
        return [np.array(texts, object)]

    def _named(
        self, features: list[Any], conditions: list[Any] | None = None, components: Any = None
    ) -> dict[str, Any]:
        """``named_columns`` of columns (n,), which may be those of pandas."""
        names = list(self.columns or [f"x{j}" for j in range(len(features))])
        if self.vocabulary is not None:
            names = ["text"]
        columns = list(features)
        if conditions is not None:
            columns += conditions
            names += self._names_of_conditions(len(conditions))
        if components is not None:
            columns.append(np.asarray(components))
            names.append("component")
        named: dict[str, Any] = {}
        for name, column in zip(names, columns, strict=True):
            while name in named:
                name += "_"
            named[name] = column
        return named

    def _names_of_conditions(self, count: int) -> list[str]:
        if self.y_columns is not None:
            return list(self.y_columns)
        covariates = self.model.traits.covariates
        if covariates is not None:
            return list(covariates.names)
        return ["y"] if count == 1 else [f"y{j}" for j in range(count)]

    def _given_columns(self, y: Any, rows: Any) -> list[Any]:
        """The conditions of draws as columns (n,), as they were given where they have columns.

        rows are the same as numbers (n, *y_shape), in the model's dtypes.
        """
        columns, n, shape = _columns(rows), len(rows), tuple(self.model.y_shape or ())
        names = None
        if self.y_columns is not None or self.model.traits.covariates is not None:
            names = self._names_of_conditions(len(columns))
        y = dataframes.row_of(y, names)
        if not dataframes.is_table(y):
            return _columns(np.broadcast_to(np.asarray(inputs.numbers(y, "y")), (n, *shape)))
        if names is None:
            return [frames.repeated(value, n) for value in frames.columns_of(y, None)]
        held = dataframes.column_names(y, "y") or ()
        if not set(names) & set(held):
            return columns
        return [
            frames.repeated(y[name], n) if name in held else column
            for name, column in zip(names, columns, strict=True)
        ]

    def _label_column(self, y: Any, drawn: Any) -> Any:
        """The labels of draws, (n,): those given for each, or the names of those drawn."""
        y = label_names.column_of_labels(y, self.y_columns[0] if self.y_columns else None)
        if y is None or not np.ndim(y):
            return frames.categorical(drawn, self.labels or ())
        return frames.repeated(y, len(drawn))

    def _names_of_labels(self, labels: Any) -> np.ndarray:
        """Labels by their names, from their numbers (n,)."""
        numbers = np.asarray(labels)
        if self.labels is None or self.model.classes is None:
            return numbers
        return np.array(self.labels)[numbers]

    def events_of(self, x: Any, name: str = "x") -> Any:
        """The features of a table as events (n, *event_shape), by name, and texts as their tokens;
        other values unchanged.

        Raises:
          TypeError, ValueError: a column is missing or holds no numbers, or a text does not suit
            the model; the error has ``name``.

        >>> fitted.events_of({"longitude": np.zeros(3), "latitude": np.ones(3)}).shape
        (3, 2)
        """
        x = tokens_of(x, self.vocabulary, self.model, name)
        return inputs.events_of_table(self.model, x, self.columns, name)

    def conditions_of(self, y: Any, verb: str | None = None) -> Any:
        """Conditions as numbers: those of a table by name, and the numbers of labels.

        Args:
          y: conditions, labels by their names, a table that holds them, or None.
          verb: the caller's name, if it needs the label of each event.

        Raises:
          TypeError, ValueError: an unknown label, or a column that is missing or no numbers.

        >>> labelled.conditions_of(["pear", "apple"])
        array([1, 0], dtype=int32)
        """
        if self.model.classes is None:
            return inputs.conditions_of_table(self.model, y, self.y_columns)
        if verb is not None and y is None:
            raise ValueError(f"y is missing: {verb} takes the label of an event")
        column = self.y_columns[0] if self.y_columns else None
        return label_names.as_labels(y, self.labels, column=column)

    def _request(self, to_request: Callable[..., Request], *arguments: Any) -> Request:
        return to_request(self.model, self.params, *arguments)


def load(path: str | os.PathLike[str]) -> Fitted:
    """Read a fitted model that ``Fitted.save`` wrote: see ``jaxgen.data.model_file``.

    >>> jaxgen.load("gaussian.jaxgen").columns
    ('latitude', 'longitude')
    """
    record = model_file.load(path)
    names = record.columns, record.labels, record.y_columns
    return Fitted(record.model, record.params, None, *names, record.vocabulary, record.pixels)


def _with_fields(model: Model, values: dict[str, Any]) -> Model:
    """The model with other values of fields, wherever it or a model inside it has them.

    Raises:
      TypeError: no model has a field.
      ValueError: params depend on a field.
    """
    left = set(values)

    def changed(model: Any) -> Any:
        names = {field.name for field in dataclasses.fields(model)} & set(values)
        left.difference_update(names)
        new = dataclasses.replace(model, **{name: values[name] for name in names})
        for name in sorted(names.difference(model.traits.changeable)):
            if getattr(new, name) != getattr(model, name):
                can = ", ".join(model.traits.changeable)
                raise ValueError(
                    f"replace: {name} of {type(model).__name__} cannot change, as params depend on "
                    f"it: fit another model instead{f' (it can change {can})' if can else ''}"
                )
        return replace_inner(new, changed) if inner_of(new) else new

    new = changed(model)
    if left:
        known = ", ".join(field.name for field in dataclasses.fields(model))
        raise TypeError(f"replace: {model} has no field {sorted(left)[0]!r}; it has {known}")
    return new


def _numbered(model: Model) -> tuple[int, ...] | None:
    """The labels 0, 1, ... of a model; None if it has no labels."""
    return None if model.classes is None else tuple(range(model.classes))


def _columns(array: Any) -> list[np.ndarray]:
    """The numbers of rows (n, ...) as columns (n,)."""
    array = np.asarray(array)
    return list(array.reshape(len(array), math.prod(array.shape[1:])).T)


def _answer(request: Request, device: Place = None) -> Any:
    return engine.answer(request, inputs.as_place(device))
