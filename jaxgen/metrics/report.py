"""``evaluate``: the accuracy, generation and representation of a fitted model, as a report."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxgen.core import inputs
from jaxgen.core.promotion import standard_promotion
from jaxgen.data import output
from jaxgen.data.text import holds_texts, sequence_in
from jaxgen.metrics.figure import draw_report
from jaxgen.metrics.generation import duplicates
from jaxgen.metrics.measure import (
    closeness,
    likelihood,
    of_labels,
    originality,
    pulled_noise,
    timing,
)
from jaxgen.metrics.sections import Accuracy, Generation, Labels, Representation, lines
from jaxgen.metrics.texts import TextReport, text_report
from jaxgen.training.fitted import Fitted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SECTIONS = "accuracy", "labels", "generation", "representation"
_TRAIN = 5  # most training rows to search for neighbours, in multiples of max_rows


@dataclasses.dataclass(frozen=True)
class Report:
    """The results of ``evaluate``. ``print(report)`` is a table, ``report.plot()`` a figure.

    Attributes:
      model: the spec, as source code.
      accuracy, generation: metrics by name; None for one that could not be measured.
      representation: the same, or None for a model without ``pull``.
      labels: the same, or None for a model without labels.
      notes: by "section.metric", why a metric is missing or what to know about it.
      n_test: number of events that were scored.
      n_samples: number of events that were drawn.
      n_distance: rows in each set of the metrics that need distances.
      k: the number of the neighbour in precision, recall, density and coverage.
      reference: the sets of real data that the references of these metrics compare.
      evidence: the arrays that ``plot`` shows.

    >>> report = jaxgen.evaluate(fitted, x, key=jax.random.key(0), n_samples=200)
    >>> report.n_test
    200
    """

    model: str
    accuracy: Accuracy
    generation: Generation
    representation: Representation | None
    notes: dict[str, str]
    n_test: int
    n_samples: int
    n_distance: int
    k: int
    reference: str
    evidence: dict[str, Any] = dataclasses.field(repr=False, compare=False)
    labels: Labels | None = None

    def to_dict(self) -> dict[str, Any]:
        """The report as nested dicts of numbers and strings, without the evidence, for JSON.

        JSON has no NaN and no infinity: such a metric is None, and its note begins with the value.
        """
        # asdict would copy the evidence
        plain = dataclasses.asdict(dataclasses.replace(self, evidence={}))
        del plain["evidence"]
        for section in _SECTIONS:
            if plain[section] is None:
                continue
            plain[section], not_finite = output.finite(plain[section])
            for name, value in not_finite.items():
                name = f"{section}.{name}"
                note = self.notes.get(name)
                plain["notes"][name] = value if note is None else f"{value}; {note}"
        return plain

    def __str__(self) -> str:
        head = ["", "value", "error", "reference", "unit", "ideal", ""]
        names = [name for name in _SECTIONS if name != "labels" or self.labels is not None]
        tables = {name: lines(name, getattr(self, name), self.notes) for name in names}
        everything = [head] + [row for table in tables.values() for row in table]
        width = [max(len(row[i]) for row in everything) for i in range(len(head))]
        width[0] = max(width[0], len("representation"))

        def text(row: list[str]) -> str:
            cells = [f"{c:{'>' if 0 < i < 4 else '<'}{width[i]}}" for i, c in enumerate(row)]
            return "  ".join(cells).rstrip()

        model = self.model if len(self.model) <= 100 else self.model[:97] + "..."
        out = [model, f"{self.n_test:,} test events, {self.n_samples:,} samples; distances on "]
        out[1] += f"{self.n_distance:,} rows a side, k = {self.k}, reference: {self.reference}"
        for name, table in tables.items():
            out += ["", text([name.upper(), *head[1:]])] + [text(row) for row in table]
        return "\n".join(out)

    __repr__ = __str__

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """The report as a figure: test data beside samples, log-likelihoods, noise, key metrics.

        Features and pairs of features come in the order in which samples differ from test data, at
        most six and three of them. Two features also show the density, images are drawn as
        images, and up to four labels have colours. If tails are long, an axis ends where at most
        1 % of the events lie beyond it, and the panel states their share.

        Args:
          path: a file to save the figure to; its ending, such as .png, .pdf or .svg, sets the
            format. None saves nothing.

        Returns:
          A Matplotlib ``Figure``.

        Raises:
          ValueError, OSError: the file cannot be written; raised before the figure is drawn.
        """
        return output.drawn(lambda: draw_report(self), path)


@standard_promotion
def evaluate(
    fitted: Fitted,
    x_test: ArrayLike,
    y_test: Any = None,
    *,
    x_train: ArrayLike | None = None,
    y_train: Any = None,
    p_data: Fitted | None = None,
    key: jax.Array,
    n_samples: int = 10_000,
    max_rows: int = 2000,
    k: int = 5,
    features: Callable[[np.ndarray], ArrayLike] | None = None,
) -> Report | TextReport:
    """Measure the accuracy, generation and representation of a fitted model.

    Args:
      fitted: a ``Fitted`` model.
      x_test: held-out events (n, *event_shape).
      y_test: their conditions (n, *y_shape), for a conditional model; without labels, x is scored
        and drawn from the marginal.
      x_train: the events that the model was fitted to, to search for copies and as a reference.
      y_train: their conditions; without them a conditional model is not scored on x_train.
      p_data: the distribution that x_test was drawn from, if it is known.
      key: a typed PRNG key, for the samples and for random choices of rows.
      n_samples: events to draw; a conditional model draws at most one for each test condition.
      max_rows: rows in each set of the metrics that need distances; their cost grows with its
        square.
      k: the number of the neighbour in precision, recall, density and coverage, and the number of
        neighbours that classify a sample.
      features: a function from events (n, *event_shape) to rows (n, d) whose distances are
        meaningful, such as standardised columns or an embedding of images. None: the flattened
        events.

    Returns:
      A ``Report``. Distances compare x alone: they do not show that a conditional model confuses
      its conditions, but the log-likelihood does. For a model with labels, ``report.labels`` has
      the accuracy of ``classify`` on the test events, beside the share of the most frequent label;
      and the share of samples that the k nearest training events (test events without y_train),
      in units of their standard deviations, assign to the label that the sample was drawn for,
      beside the same share of test events.

      For a model of texts it is a ``TextReport``, if x_test are texts: see ``text_report``, which
      takes x_train as ``train`` and n_samples as ``n``, and none of the other arguments.

    Raises:
      TypeError, ValueError: an argument has the wrong type, shape or range, or p_data or features
        are given for texts.

    >>> report = evaluate(fitted, x_test, key=jax.random.key(0))
    >>> report.accuracy.coverage > 0.5
    True
    """
    model = fitted.model
    if sequence_in(model) is not None and holds_texts(x_test):
        for name, value in (("p_data", p_data), ("features", features)):
            if value is not None:
                raise TypeError(f"{name} does not apply to texts, got {value!r:.40}")
        return text_report(fitted, x_test, y_test, train=x_train, key=key, n=n_samples)
    x_test, x_train = fitted.events_of(x_test, "x_test"), fitted.events_of(x_train, "x_train")
    y_test, y_train = map(fitted.conditions_of, (y_test, y_train))
    label_names = fitted.labels or ()
    fitted = Fitted(model, fitted.params, columns=fitted.columns)  # labels are numbers from here
    notes: dict[str, str] = {}
    sample_key, time_key, choice_key = jax.random.split(inputs.as_key(key), 3)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(choice_key)))
    test_events, y_test = _data(fitted, x_test, y_test, "x_test")
    train_events = None
    if x_train is not None:
        known = model.y_shape is None or y_train is not None
        train_events, y_train = _data(fitted, x_train, y_train, "x_train", known)
    n_samples = inputs.as_count(n_samples, "n_samples", 2)
    max_rows = inputs.as_count(max_rows, "max_rows", 2)
    k = inputs.as_count(k, "k", 1)

    y_samples = None
    if y_test is not None:
        chosen = rng.permutation(len(y_test))[:n_samples]
        y_samples, n_samples = y_test[chosen], len(chosen)
    # first, since any other call would compile the sampler
    speed = timing(fitted, time_key, n_samples, y_samples, notes)
    samples = np.asarray(fitted.sample(sample_key, n_samples, y_samples))
    finite = np.isfinite(samples.reshape(n_samples, -1)).all(1)

    def some(x: np.ndarray, y: Any, most: int) -> tuple[np.ndarray, Any]:
        kept = np.flatnonzero(np.isfinite(x.reshape(len(x), -1)).all(1))
        kept = kept[rng.permutation(len(kept))[:most]]
        x, y = x[kept], None if y is None else y[kept]
        return x if features is None or not len(x) else np.asarray(features(x)), y

    test, test_labels = some(test_events, y_test, max_rows)
    drawn, drawn_labels = some(samples, y_samples, max_rows)
    train, train_labels = None, None
    if train_events is not None:
        train, train_labels = some(train_events, y_train, _TRAIN * max_rows)
    found, log_p, log_p_train = likelihood(
        fitted, test_events, y_test, train_events, y_train, p_data, notes
    )
    if p_data is not None:
        y = y_samples if p_data.model.y_shape is not None else None
        found["inside_support"] = float(np.mean(np.asarray(p_data.log_prob(samples, y)) > -np.inf))
    size = min(len(test), len(drawn))
    reference = None if train is None or len(train) <= k else train[:size]
    labels = of_labels(
        fitted,
        test_events,
        y_test,
        (test, test_labels),
        (drawn, drawn_labels),
        None if train is None or train_labels is None else (train, train_labels),
        k,
        notes,
    )
    found |= closeness(test[:size], drawn[:size], reference, k, notes)

    generation = {"finite": float(finite.mean()), **speed}
    generation |= originality(test, drawn, train, notes)
    if train_events is not None:
        generation["duplicates"] = duplicates(samples, train_events)
        generation["duplicates_ref"] = duplicates(test_events, train_events)
    pulled, noise = pulled_noise(fitted, test_events, y_test, log_p, rng, n_samples, notes)

    shown = rng.permutation(np.flatnonzero(finite))[:max_rows]
    y_shown = None if y_samples is None else y_samples[shown]
    scores = np.zeros(0) if log_p is None else np.asarray(fitted.log_prob(samples[shown], y_shown))
    shown_test = rng.permutation(len(test_events))[:max_rows]
    shown_labels = None
    if labels is not None and y_test is not None:
        shown_labels = y_test[shown_test], y_shown
    halves = "half of test against the rest"
    return Report(
        repr(model), Accuracy(**found), Generation(**generation), pulled, notes,
        n_test=len(test_events), n_samples=n_samples, n_distance=size, k=k,
        reference=halves if reference is None else "train against test",
        evidence={
            "fitted": fitted, "test": test_events[shown_test], "samples": samples[shown],
            "log_prob_test": log_p, "log_prob_samples": scores, "log_prob_train": log_p_train,
            "noise": noise, "labels": shown_labels, "label_names": label_names,
            "conditioned": y_test is not None,
        },
        labels=labels,
    )  # fmt: skip


def _data(
    fitted: Fitted, x: Any, y: Any, name: str, conditioned: bool = True
) -> tuple[np.ndarray, np.ndarray | None]:
    """x and y as host arrays in the dtype that the model computes in."""
    dtype = inputs.float_dtype(fitted.params)
    x = np.asarray(inputs.as_events(fitted.model, x, dtype))
    if x.ndim != len(fitted.model.event_shape) + 1 or len(x) == 0:
        raise ValueError(f"{name} must have one batch dimension, not empty; got shape {x.shape}")
    if not conditioned:
        return x, None
    y = inputs.as_conditions(fitted.model, y, (len(x),), dtype)
    return x, None if y is None else np.asarray(y)
