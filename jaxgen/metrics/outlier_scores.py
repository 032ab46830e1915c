"""Outliers: rows that a model gives less density than its own draws, and the values to blame."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxgen.core import inputs, places
from jaxgen.core.bars import bar
from jaxgen.core.places import Message
from jaxgen.core.promotion import standard_promotion
from jaxgen.training.fitted import Fitted

_NUMBERS = 2**19  # most numbers in the events that are scored at once
_SCORES = 2**20  # most draws to score, where the least number allows it
_LEAST_DRAWS = 100  # for rows with the same values missing and the same y
_BLAMED = 2**15  # most values whose blame is measured
_COMPLETIONS = 8  # values drawn in place of each
_GRID = 32  # quantiles in place of each, for a model that does not draw them
_SHOWN = 3  # most values to blame in a line of the table


class Outliers(NamedTuple):
    """The results of ``outliers``. ``print(found)`` lists the ten most unlikely rows.

    Attributes:
      percentile: (n,) percentage of the model's draws that have less density than the row;
        uniform if the row comes from the model, so that a hundredth of it is a p-value.
      log_prob: (n,) log density of the row's known values, in nats.
      expected: (n,) mean log density of draws with the same values missing, in nats.
      blame: (n, d) by how many nats each value is less likely than expected, given the other known
        values of its row. NaN if it is missing, if no other value would give the row density, or if
        the row is not among the 2**15 / d most unlikely ones.
      columns: the d names of the features.
      x: (n, d) the events.

    >>> found = jaxgen.metrics.outliers(fitted, x, key=jax.random.key(0), n_samples=200)
    >>> found.percentile.shape, found.blame.shape, found.columns
    ((200,), (200, 2), ('latitude', 'longitude'))
    """

    percentile: np.ndarray
    log_prob: np.ndarray
    expected: np.ndarray
    blame: np.ndarray
    columns: tuple[str, ...]
    x: np.ndarray

    def worst(self, count: int | None = None) -> np.ndarray:
        """Numbers of the rows from the most unlikely one on, (count,); None for all rows.

        Rows with one percentile are in the order of ``expected - log_prob``.
        """
        with np.errstate(invalid="ignore"):
            return np.lexsort((self.log_prob - self.expected, self.percentile))[:count]

    def most_blamed(self) -> np.ndarray:
        """(n,) number of the feature with the largest blame in each row; -1 if none is known."""
        known = np.where(np.isnan(self.blame), -np.inf, self.blame)
        return np.where(np.isnan(self.blame).all(1), -1, known.argmax(1))

    def table(
        self, count: int = 10, names: Sequence[Any] | Callable[[int], Any] | None = None
    ) -> str:
        """The most unlikely rows as text.

        Args:
          count: number of rows.
          names: names of all n rows, or a function from the number of a row to its name; None for
            numbers.
        """
        lines = [("row", "percentile", "log p", "expected", "values to blame (nats)")]
        for row in self.worst(count).tolist():
            name = row if names is None else names(row) if callable(names) else names[row]
            blame = self.blame[row]
            most = [j for j in np.argsort(-np.nan_to_num(blame, nan=-np.inf))[:_SHOWN]]
            most = [j for k, j in enumerate(most) if blame[j] > (1 if k else 0)]
            values = (f"{self.columns[j]}={self.x[row, j]:.6g} ({blame[j]:.3g})" for j in most)
            share = f"{self.percentile[row]:.3g} %"
            scores = f"{self.log_prob[row]:.4g}", f"{self.expected[row]:.4g}"
            lines.append((str(name), share, *scores, ", ".join(values) or "-"))
        width = [max(len(line[i]) for line in lines) for i in range(4)]
        return "\n".join(
            "  ".join(
                [f"{line[0]:<{width[0]}}", *(f"{line[i]:>{width[i]}}" for i in (1, 2, 3)), line[4]]
            )
            for line in lines
        )

    def __str__(self) -> str:
        return self.table()


@standard_promotion
def outliers(
    fitted: Fitted,
    x: ArrayLike,
    y: Any = None,
    *,
    key: jax.Array,
    n_samples: int = 1000,
    progress: bool | None = None,
) -> Outliers:
    """Find rows that are unlikely under a model, and the values that make them so.

    The log densities of rows with different values missing have different scales. So a row is
    compared with draws of the model in which the same values are missing: its percentile is the
    percentage of draws with less density (ties count half), which does not depend on units.

    The blame of value x_j is E[log p(X_j | rest)] - log p(x_j | rest), in nats, where X_j follows
    the model given the other known values of the row. A model that learns from missing values draws
    X_j 8 times; else the expectation is a sum over 32 quantiles of the model's draws. For a large
    table the blame is measured for the most unlikely rows, 2**15 values in all.

    Args:
      fitted: a ``Fitted`` model with a density.
      x: events (n, *event_shape); NaN is a missing value, for models that learn from them.
      y: conditions (n, *y_shape); None for an unconditional model, and for p(x) of a model of
        labels.
      key: a typed PRNG key, for the draws.
      n_samples: draws to compare a row with. The smallest percentile is about 50 / n_samples.
        Every set of rows with the same values missing and the same y has its own draws: if there
        are more than 2**20 / n_samples sets, each has fewer draws, but at least 100.
      progress: show a bar; by default on a terminal, after two seconds.

    Returns:
      An ``Outliers``.

    Raises:
      TypeError, ValueError: an argument has the wrong type, shape or range; x has missing values,
        which the model does not take; or the model has no density.

    Source: a hundredth of it is a Monte Carlo p-value, Davison and Hinkley 1997, "Bootstrap methods
    and their application", section 4.2.

    >>> found = jaxgen.metrics.outliers(fitted, x, key=jax.random.key(0), n_samples=200)
    >>> worst = x[found.worst(5)]
    """
    model, params = fitted.model, fitted.params
    if model.traits.density == "none":
        raise ValueError(f"fitted must have a density, but {model} has none")
    dtype = inputs.float_dtype(params)
    columns = fitted.columns or tuple(f"x{j}" for j in range(math.prod(model.event_shape)))
    x = np.asarray(inputs.as_events(model, fitted.events_of(x), dtype))
    if x.ndim != len(model.event_shape) + 1 or not len(x):
        raise ValueError(f"x must have one batch dimension, not empty; got shape {x.shape}")
    y = inputs.as_conditions(model, fitted.conditions_of(y), (len(x),), dtype)
    y = None if y is None else np.asarray(y)
    n_samples = inputs.as_count(n_samples, "n_samples", 2)
    missing = np.isnan(x).reshape(len(x), -1)
    if missing.any() and model.learning.missing is None:
        where = Message("x has missing values (NaN, first in ", places.row(missing.any(1).argmax()))
        raise ValueError(Message(where, f"), which {type(model).__name__} does not take"))
    scorer = _Scorer(Fitted(model, params), inputs.as_key(key), progress)
    log_prob = scorer.log_prob(x, y)
    percentile, expected = _percentiles(scorer, log_prob, missing, y, n_samples)
    x = x.reshape(missing.shape)
    found = Outliers(percentile, log_prob, expected, np.full(x.shape, np.nan), columns, x)
    rows = np.sort(found.worst(max(_BLAMED // x.shape[1], 1)))
    some = x[rows], None if y is None else y[rows], log_prob[rows]
    found.blame[rows] = _blame(scorer, *some)
    return found


class _Scorer(NamedTuple):
    """A model whose labels are numbers, with a key, and whether to show a bar."""

    fitted: Fitted
    key: jax.Array
    progress: bool | None

    def log_prob(self, x: np.ndarray, y: Any) -> np.ndarray:
        events = x.reshape(len(x), *self.fitted.model.event_shape)
        return np.asarray(self.fitted.log_prob(events, y), np.float64)

    def sample(self, number: int, n: int, y: Any = None) -> np.ndarray:
        drawn = self.fitted.sample(jax.random.fold_in(self.key, number), n, y)
        return np.asarray(drawn, inputs.float_dtype(self.fitted.params)).reshape(n, -1)

    def complete(self, number: int, x: np.ndarray, y: Any) -> np.ndarray:
        events = x.reshape(len(x), *self.fitted.model.event_shape)
        done = self.fitted.impute(events, jax.random.fold_in(self.key, number), y)
        return np.asarray(done).reshape(x.shape)

    def chunks(self, n: int, size: int, what: str) -> Any:
        """Numbers of the chunks of n things, with a bar."""
        return bar(what, range(-(-n // size)), self.progress, leave=False)


def _percentiles(scorer, log_prob, missing, y, n_samples):
    """The percentile of each row among draws of its set, and the mean log density of these."""
    n, d = missing.shape
    keys = missing if y is None else np.concatenate([missing, y.reshape(n, -1)], 1)
    _, first, sets = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    sets, count = sets.reshape(-1), len(first)
    draws = int(np.clip(_SCORES // count, min(_LEAST_DRAWS, n_samples), n_samples))
    size = min(count, max(_NUMBERS // (draws * d), 1))
    shared = scorer.sample(0, draws) if y is None else None
    percentile, expected = np.empty(n), np.empty(n)
    order = np.argsort(sets, kind="stable")
    ends = np.searchsorted(sets[order], np.arange(count + 1))
    for chunk in scorer.chunks(count, size, "percentiles"):
        members = np.arange(chunk * size, (chunk + 1) * size).clip(max=count - 1)  # padded
        y_of_draws = None if y is None else np.repeat(y[first[members]], draws, 0)
        drawn = scorer.sample(chunk, size * draws, y_of_draws) if shared is None else shared
        drawn = np.broadcast_to(drawn.reshape(-1, draws, d), (size, draws, d))
        drawn = np.where(missing[first[members]][:, None], np.nan, drawn).reshape(-1, d)
        scores = np.sort(scorer.log_prob(drawn, y_of_draws).reshape(size, draws), 1)
        for member, found in zip(
            range(chunk * size, min(count, (chunk + 1) * size)), scores, strict=False
        ):
            rows = order[ends[member] : ends[member + 1]]
            rounding = 1e-5 * (1 + np.abs(np.where(np.isfinite(log_prob[rows]), log_prob[rows], 0)))
            less = np.searchsorted(found, log_prob[rows] - rounding, "left")
            not_more = np.searchsorted(found, log_prob[rows] + rounding, "right")
            percentile[rows] = 50 * (less + not_more + 1) / (draws + 1)
            expected[rows] = (
                found[np.isfinite(found)].mean() if np.isfinite(found).any() else np.nan
            )
    return percentile, expected


def _blame(scorer, x, y, log_prob):
    """By how many nats each value is less likely than expected given the rest, (n, d)."""
    n, d = x.shape
    blame = np.empty((n, d))
    completes = scorer.fitted.model.learning.missing is not None
    count = _COMPLETIONS if completes else _GRID
    grid = None if completes else _quantiles(scorer, y, count)
    size = min(n, max(_NUMBERS // ((count + 1) * d * d), 1))
    for chunk in scorer.chunks(n, size, "blame"):
        rows = np.arange(chunk * size, (chunk + 1) * size).clip(max=n - 1)  # padded
        events = x[rows]
        if completes:
            values, weights = _completions(scorer, chunk + 1, events, y, rows, count)
        else:
            values, weights = _on_grid(events, grid)
        each = values.shape[-1]
        replaced = np.repeat(events, d * each, 0).reshape(size, d, each, d)
        replaced[:, np.arange(d), :, np.arange(d)] = values.transpose(1, 0, 2)
        y_of_each = None if y is None else np.repeat(y[rows], d * each, 0)
        scores = scorer.log_prob(replaced.reshape(-1, d), y_of_each).reshape(size, d, each)
        blame[rows] = _mean(scores, weights) - log_prob[rows, None]
    return np.where(np.isnan(x), np.nan, blame)


def _completions(scorer, number, events, y, rows, count):
    """Draws of each value given the others of its row, (rows, d, count), and their weights."""
    size, d = events.shape
    blanked = np.repeat(events, d * count, 0).reshape(size, d, count, d)
    blanked[:, np.arange(d), :, np.arange(d)] = np.nan
    y_of_each = None if y is None else np.repeat(y[rows], d * count, 0)
    done = scorer.complete(number, blanked.reshape(-1, d), y_of_each).reshape(blanked.shape)
    return done[:, np.arange(d), :, np.arange(d)].transpose(1, 0, 2), None


def _quantiles(scorer, y, count):
    """Quantiles of each feature in draws of the model, (d, count)."""
    n = 32 * count
    drawn = scorer.sample(1, n, None if y is None else y[np.arange(n) % len(y)])
    return np.quantile(drawn, (np.arange(count) + 0.5) / count, axis=0, method="nearest").T


def _on_grid(events, grid):
    """Each value of a row beside the quantiles of its feature, and the widths of their cells."""
    size = len(events)
    values = np.broadcast_to(grid, (size, *grid.shape))
    values = np.sort(np.concatenate([values, events[:, :, None]], 2), 2)
    return values, np.gradient(values.astype(np.float64), axis=2)


def _mean(scores, weights):
    """E[log p(x_j | rest)] up to the constant log p(rest): the mean of scores (rows, d, k).

    weights are the widths of cells whose mass is width * exp(score); None for draws of that mass.
    """
    known = np.isfinite(scores)
    if weights is None:
        mass = known.astype(float)
    else:
        top = np.max(np.where(known, scores, -np.inf), 2, keepdims=True)
        mass = weights * np.exp(
            np.where(known, scores, -np.inf) - np.where(np.isfinite(top), top, 0)
        )
    with np.errstate(invalid="ignore", divide="ignore"):
        return (mass * np.where(known, scores, 0)).sum(2) / mass.sum(2)
