"""The report: accuracy, generation and representation of one fitted model, measured in one call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxgen.core import inputs
from jaxgen.core.promotion import standard_promotion
from jaxgen.data import output
from jaxgen.metrics.generation import duplicates
from jaxgen.metrics.measure import closeness, likelihood, originality, pulled_noise, timing
from jaxgen.metrics.sections import Accuracy, Generation, Representation, lines
from jaxgen.training.fitted import Fitted

_TRAIN = 5  # training rows searched for neighbours, in multiples of max_rows


@dataclasses.dataclass(frozen=True)
class Report:
    """What ``evaluate`` measured. ``print(report)`` is a table, ``report.plot()`` a figure.

    Attributes:
      model: the spec, as source.
      accuracy, generation: every metric by name, None where it could not be measured.
      representation: the same, or None as a whole for a model without ``pull``.
      notes: why a metric is missing, or what to know about it, by "section.metric".
      n_test, n_samples: events scored, and drawn.
      n_distance: rows on each side of the distance metrics.
      k: neighbours of precision, recall, density and coverage.
      reference: what stands in the samples' place in the distance metrics' reference.
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
    evidence: dict[str, Any] = dataclasses.field(repr=False, compare=False)  # what plot shows

    def to_dict(self) -> dict[str, Any]:
        """Nested plain numbers and strings, ready for JSON, which has no NaN and no infinity.

        A metric that is one of these is None, and its note, by "section.metric", begins with it.
        """
        # without the evidence, which asdict would copy
        plain = dataclasses.asdict(dataclasses.replace(self, evidence={}))
        del plain["evidence"]
        for section in ("accuracy", "generation", "representation"):
            if plain[section] is None:
                continue
            plain[section], odd = output.finite(plain[section])
            for name, value in odd.items():
                name = f"{section}.{name}"
                note = self.notes.get(name)
                plain["notes"][name] = value if note is None else f"{value}; {note}"
        return plain

    def __str__(self) -> str:
        head = ["", "value", "error", "reference", "unit", "ideal", ""]
        names = ("accuracy", "generation", "representation")
        tables = {name: lines(name, getattr(self, name), self.notes) for name in names}
        everything = [head] + [row for table in tables.values() for row in table]
        width = [max(len(row[i]) for row in everything) for i in range(len(head))]
        width[0] = max(width[0], len("representation"))

        def text(row):
            cells = [f"{c:{'>' if 0 < i < 4 else '<'}{width[i]}}" for i, c in enumerate(row)]
            return "  ".join(cells).rstrip()

        model = self.model if len(self.model) <= 100 else self.model[:97] + "..."
        out = [model, f"{self.n_test:,} test events, {self.n_samples:,} samples; distances on "]
        out[1] += f"{self.n_distance:,} rows a side, k = {self.k}, reference: {self.reference}"
        for name, table in tables.items():
            out += ["", text([name.upper(), *head[1:]])] + [text(row) for row in table]
        return "\n".join(out)

    __repr__ = __str__

    def plot(self, path=None):
        """The report as a figure: densities, samples, log-likelihoods, noise and key metrics.

        Args:
          path: where to save it too (PNG, PDF, SVG by its ending), or None.

        Returns:
          A matplotlib ``Figure``.

        Raises:
          ValueError, OSError: the figure cannot be written there; asked before it is drawn.
        """
        from jaxgen.metrics.figure import draw_report

        if path is not None:
            output.check_figure(path)
        figure = draw_report(self)
        if path is not None:
            output.write_figure(figure, path)
        return figure


@standard_promotion
def evaluate(
    fitted: Any,
    x_test: Any,
    y_test: Any = None,
    *,
    x_train: Any = None,
    y_train: Any = None,
    p_data: Any = None,
    key: jax.Array,
    n_samples: int = 10_000,
    max_rows: int = 2000,
    k: int = 5,
    features: Callable | None = None,
) -> Report:
    """Measure the three properties of a p_model: accuracy, generation, representation.

    Args:
      fitted: a ``Fitted`` model.
      x_test: held-out events (n, *event_shape).
      y_test: their conditions (n, *y_shape), for a conditional model; labels may be missing, and
        x then is scored and drawn without.
      x_train: the events it was fitted to, for the search for copies and as reference.
      y_train: their conditions; without them a conditional model is not scored on x_train.
      p_data: a ``Fitted`` of the density that x_test was drawn from, where it is known.
      key: a typed PRNG key; decides the samples and every random choice of rows.
      n_samples: events to draw; a conditional model draws one for each test condition, at most
        this many.
      max_rows: rows on each side of the distance metrics, whose cost grows with its square.
      k: neighbours of precision, recall, density and coverage.
      features: maps events (n, *event_shape) to rows (n, d) in which distances mean something:
        standardised columns, or an embedding of images. None: the flattened events.

    Returns:
      A ``Report``. Distances compare x alone: a conditional model that mixes up its conditions is
      caught by the log-likelihood, not by them.

    Raises:
      TypeError, ValueError: an argument of the wrong kind or shape, by its name.

    >>> report = evaluate(fitted, x_test, key=jax.random.key(0))
    >>> report.accuracy.coverage > 0.5
    True
    """
    model = fitted.model
    if fitted.labels is not None:
        y_test, y_train = (inputs.as_labels(y, fitted.labels) for y in (y_test, y_train))
        fitted = Fitted(model, fitted.params, columns=fitted.columns)
    notes: dict[str, str] = {}
    sample_key, time_key, choice_key = jax.random.split(inputs.as_key(key), 3)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(choice_key)))
    x_test, y_test = _data(fitted, x_test, y_test, "x_test")
    if x_train is not None:
        known = model.y_shape is None or y_train is not None
        x_train, y_train = _data(fitted, x_train, y_train, "x_train", known)
    n_samples = inputs.as_count(n_samples, "n_samples", 2)
    max_rows = inputs.as_count(max_rows, "max_rows", 2)
    k = inputs.as_count(k, "k", 1)

    y_samples = None
    if y_test is not None:
        chosen = rng.permutation(len(y_test))[:n_samples]
        y_samples, n_samples = y_test[chosen], len(chosen)
    # before any other call compiles the sampler
    speed = timing(fitted, time_key, n_samples, y_samples, notes)
    samples = np.asarray(fitted.sample(sample_key, n_samples, y_samples))
    finite = np.isfinite(samples.reshape(n_samples, -1)).all(1)

    def some(x, most):
        x = x[np.isfinite(x.reshape(len(x), -1)).all(1)]
        x = x[rng.permutation(len(x))[:most]]
        return x if features is None or not len(x) else np.asarray(features(x))

    test, drawn = some(x_test, max_rows), some(samples, max_rows)
    train = None if x_train is None else some(x_train, _TRAIN * max_rows)
    found, log_p = likelihood(fitted, x_test, y_test, x_train, y_train, p_data, notes)
    if p_data is not None:
        y = y_samples if p_data.model.y_shape is not None else None
        found["inside_support"] = float(np.mean(np.asarray(p_data.log_prob(samples, y)) > -np.inf))
    size = min(len(test), len(drawn))
    beside = None if train is None or len(train) <= k else train[:size]
    found |= closeness(test[:size], drawn[:size], beside, k, notes)

    made = {"finite": float(finite.mean()), **speed}
    made |= originality(test, drawn, train, notes)
    if x_train is not None:
        made["duplicates"] = duplicates(samples, x_train)
        made["duplicates_ref"] = duplicates(x_test, x_train)
    pulled, noise = pulled_noise(fitted, x_test, y_test, log_p, rng, n_samples, notes)

    shown = rng.permutation(np.flatnonzero(finite))[:max_rows]
    y_shown = None if y_samples is None else y_samples[shown]
    own = np.zeros(0) if log_p is None else np.asarray(fitted.log_prob(samples[shown], y_shown))
    return Report(
        repr(model), Accuracy(**found), Generation(**made), pulled, notes,
        n_test=len(x_test), n_samples=n_samples, n_distance=size, k=k,
        reference="train against test" if beside is not None else "half of test against the rest",
        evidence={
            "fitted": fitted, "test": x_test[rng.permutation(len(x_test))[:max_rows]],
            "samples": samples[shown], "log_prob_test": log_p, "log_prob_samples": own,
            "noise": noise,
        },
    )  # fmt: skip


def _data(fitted, x, y, name, conditioned=True):
    """x and y as host arrays in the dtype that the model computes in."""
    dtype = inputs.float_dtype(fitted.params)
    x = np.asarray(inputs.as_events(fitted.model, x, dtype))
    if x.ndim != len(fitted.model.event_shape) + 1 or len(x) == 0:
        raise ValueError(f"{name} must have one batch dimension with events; got shape {x.shape}")
    if not conditioned:
        return x, None
    y = inputs.as_conditions(fitted.model, y, (len(x),), dtype)
    return x, None if y is None else np.asarray(y)
