"""Labels from latent coordinates: a linear classifier, and mutual information."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxgen.core import inputs, label_names
from jaxgen.core.promotion import standard_promotion
from jaxgen.metrics.accuracy import Mean, mean_and_error
from jaxgen.metrics.distances import rows
from jaxgen.metrics.features import probes_figure
from jaxgen.metrics.features.latent_space import check_known, latents
from jaxgen.metrics.features.linear import (
    bins_of,
    logistic_regression,
    principal_components,
    split,
)
from jaxgen.training.fitted import Fitted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BINS = 20  # of a coordinate; fewer for a few events


class Probe(NamedTuple):
    """How well latents predict labels: see ``probe``. Shares are of held-out events.

    Attributes:
      accuracy: share of events whose label a linear classifier of the latents finds.
      accuracy_se: its standard error.
      pca: the same share for a classifier of as many principal components of the events.
      pca_se: its standard error.
      baseline: share of the most frequent label.
      information: (d,) mutual information of each coordinate and the label, in nats.
      by_label: (d, labels) mutual information of each coordinate and whether the event has the
        label, in nats.
      labels: the names of the labels.
    """

    accuracy: float
    accuracy_se: float
    pca: float
    pca_se: float
    baseline: float
    information: np.ndarray
    by_label: np.ndarray
    labels: tuple[Any, ...]

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """A Matplotlib figure: accuracies, and the information of the best coordinates."""
        return probes_figure.draw_probe(self, path)


@standard_promotion
def probe(
    source: Fitted | ArrayLike,
    x: Any,
    labels: Any,
    y: Any = None,
    *,
    x_test: Any = None,
    labels_test: Any = None,
    y_test: Any = None,
    progress: bool | None = None,
) -> Probe:
    """How well a linear classifier predicts labels from latents, and which coordinate does.

    The classifier is a multinomial logistic regression on standardised coordinates, with the
    penalty |W|^2 / (2 n) on the mean negative log-likelihood. The classifier beside it takes as
    many principal components of the events, or as many as events have features if these are fewer.

    Args:
      source: a ``Fitted`` model with ``pull``, or the latents (n, d) of the events.
      x: events (n, *event_shape).
      labels: (n,) labels, strings or ints, at least two kinds, with two events of each.
      y: conditions or labels, for a conditional model. Latents given the label need not depend
        on it.
      x_test: held-out events; None holds out a fifth of x, the same at each call.
      labels_test, y_test: their labels and conditions.
      progress: whether to show a bar; None shows one on a terminal after two seconds.

    Returns:
      A ``Probe``. The information is that of ``mutual_information``, over all events.

    Raises:
      TypeError, ValueError, NotImplementedError: as in ``latents``; or labels do not suit x.

    Source: Alain and Bengio 2017, "Understanding intermediate layers using linear classifier
    probes".

    >>> probe(fitted, x, x[:, 0] > 0).accuracy > 0.9
    True
    """
    z, events = latents_and_rows(source, x, y)
    numbers, names = numbers_of_labels(labels, len(z), "labels")
    if x_test is None:
        if labels_test is not None:
            raise ValueError("labels_test needs x_test, the events that it labels")
        train, test = split(len(z))
        pairs = [(z[train], z[test]), (events[train], events[test])]
        known, wanted = numbers[train], numbers[test]
    else:
        if not isinstance(source, Fitted):
            raise TypeError("x_test needs a Fitted model as source, not latents")
        more_z, more = latents_and_rows(source, x_test, y_test)
        pairs, known = [(z, more_z), (events, more)], numbers
        if labels_test is None:
            raise ValueError("x_test needs labels_test, the labels of its events")
        wanted = numbers_among(names, labels_test, len(more), "labels_test")
    size = min(z.shape[1], events.shape[1])
    components = principal_components(pairs[1][0], size)
    pairs[1] = (components(pairs[1][0]), components(pairs[1][1]))
    right = [_accuracy(*pair, known, wanted, len(names), progress) for pair in pairs]
    baseline = float((wanted == np.bincount(known).argmax()).mean())
    counts = _counts(z, numbers, len(names))
    information = np.array([_information(table) for table in counts])
    by_label = [[_information(_against(table, k)) for k in range(len(names))] for table in counts]
    return Probe(*right[0], *right[1], baseline, information, np.array(by_label), names)


def mutual_information(values: ArrayLike, labels: Any) -> np.ndarray:
    """The mutual information of each column and the label, (d,), in nats.

        I = sum_bl p(b, l) log(p(b, l) / (p(b) p(l)))  -  (B - 1) (L - 1) / (2 n)

    over B bins that hold equally many events and L labels, with n events. The last term is the
    leading bias of the first, by which independent values seem informative. A result below 0
    is set to 0. At most it is the entropy of the label.

    Args:
      values: (n, d), such as latents.
      labels: (n,) labels, strings or ints, at least two kinds, with two events of each.

    Raises:
      TypeError, ValueError: an argument has the wrong kind or shape.

    Source: Miller 1955, "Note on the bias of information estimates".

    >>> informative, noise = mutual_information(x, x[:, 0] > 0)
    >>> bool(informative > 0.6), bool(noise < 0.1)
    (True, True)
    """
    z = _columns(values, "values")
    numbers, names = numbers_of_labels(labels, len(z), "labels")
    return np.array([_information(table) for table in _counts(z, numbers, len(names))])


def latents_and_rows(source: Any, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Latents (n, d) of events, and the events as rows (n, features), both float64.

    Raises:
      TypeError, ValueError: the source is neither a Fitted model nor latents of as many events.
    """
    if isinstance(source, Fitted):
        z = latents(source, x, y)
        return z, rows(source.events_of(x))
    z = _columns(source, "source")
    events = np.asarray(inputs.numbers(x, "x"))
    if events.ndim < 1 or len(events) != len(z):
        raise ValueError(
            f"x must hold one event for each of the {len(z)} latents; got {events.shape}"
        )
    events = rows(events)
    check_known(events, "x")
    return z, events


def numbers_of_labels(labels: Any, n: int, name: str) -> tuple[np.ndarray, tuple[Any, ...]]:
    """Labels as numbers 0, 1, ... (n,), and their names in order.

    Raises:
      TypeError, ValueError: they are no labels of n events, or not two events of each of at least
        two kinds.
    """
    names, numbers, counts = np.unique(
        _labels(labels, n, name), return_inverse=True, return_counts=True
    )
    if len(names) < 2:
        raise ValueError(f"{name} must be of at least two kinds; all are {names.tolist()[0]!r}")
    if counts.min() < 2:
        rare = names[counts.argmin()]
        raise ValueError(
            f"{name} must hold each label at least twice; {rare.item()!r} is there once"
        )
    return numbers, tuple(names.tolist())


def numbers_among(names: tuple[Any, ...], labels: Any, n: int, name: str) -> np.ndarray:
    """Labels (n,) as numbers of the known names.

    Raises:
      TypeError, ValueError: they are no labels of n events, or one is not among the names.
    """
    _labels(labels, n, name)
    return np.asarray(label_names.as_labels(labels, names, name))


def _labels(labels: Any, n: int, name: str) -> np.ndarray:
    found = np.asarray(label_names.as_labels(labels, None, name))
    if found.shape != (n,):
        raise ValueError(f"{name} must have shape ({n},), one for each event; got {found.shape}")
    if found.dtype.kind not in "biuU":
        raise TypeError(
            f"{name} must hold labels, strings or ints; got dtype {found.dtype}. For numbers see "
            "jaxgen.metrics.factor_shares"
        )
    return found


def _columns(values: Any, name: str) -> np.ndarray:
    array = np.asarray(inputs.numbers(values, name), np.float64)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{name} must have shape (n, d), not empty; got {array.shape}")
    check_known(array, name)
    return array


def _accuracy(
    train: np.ndarray,
    test: np.ndarray,
    known: np.ndarray,
    wanted: np.ndarray,
    kinds: int,
    progress: bool | None,
) -> Mean:
    """The share of test rows that a logistic regression on the training rows classifies rightly."""
    centre, scale = train.mean(0), train.std(0)
    scale = np.where(scale > 0, scale, 1)
    train, test = ((side - centre) / scale for side in (train, test))
    weights = logistic_regression(train, known, kinds, progress)
    found = (test @ weights[:-1] + weights[-1]).argmax(1)
    return mean_and_error(found == wanted)


def _counts(z: np.ndarray, labels: np.ndarray, kinds: int) -> list[np.ndarray]:
    """For each column the number of events (bins, kinds) in each bin with each label."""
    bins = int(np.clip(len(z) // (5 * kinds), 2, _BINS))
    tables = []
    for column in z.T:
        edges = bins_of(column, bins)
        place = np.searchsorted(edges, column, "right") * kinds + labels
        table = np.bincount(place, minlength=(len(edges) + 1) * kinds).reshape(-1, kinds)
        tables.append(table[table.sum(1) > 0])
    return tables


def _against(table: np.ndarray, k: int) -> np.ndarray:
    """The counts (bins, 2) of a label and of all others."""
    return np.stack([table[:, k], table.sum(1) - table[:, k]], 1)


def _information(table: np.ndarray) -> float:
    """The corrected mutual information of counts (bins, kinds), in nats."""
    n = table.sum()
    p = table / n
    independent = p.sum(1, keepdims=True) * p.sum(0)
    some = p > 0
    found = (p[some] * np.log(p[some] / independent[some])).sum()
    return max(0.0, float(found - (len(table) - 1) * (table.shape[1] - 1) / (2 * n)))
