"""Calibration of p(y|x): whether labels of probability 80 % are right for 80 % of the events."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxgen.core import places
from jaxgen.core.inputs import as_count, numbers
from jaxgen.core.label_names import as_labels
from jaxgen.core.places import Message
from jaxgen.metrics.accuracy import mean_and_error

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROUNDING = 1e-3  # by how much the sum of probabilities in 16 or 32 bits may differ from 1
# distinguishable in grey print too
_STYLES: tuple[dict[str, Any], ...] = (
    {"color": "#1b2f6b", "marker": "o", "linestyle": "-"},
    {"color": "#e58a1f", "marker": "^", "linestyle": "--"},
    {"color": "0.45", "marker": "s", "linestyle": ":"},
    {"color": "#7a1f5c", "marker": "D", "linestyle": "-."},
)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The results of ``calibration``, which print as a table.

    A field ``name_se`` is the standard error of ``name``.

    Attributes:
      events: number of events.
      accuracy: share of events whose likeliest label is the true one.
      log_loss: mean of -log p(true label | x), in nats; inf if one of these p is zero.
      brier: mean over events of the sum over labels of (p - [label is true])^2, from 0 to 2.
      expected_calibration_error: mean over events of |accuracy - confidence| of their bin, where
        confidence is the probability of the likeliest label.
      expected_calibration_error_ref: about the value that chance gives if p(y|x) is right.
      bin_count: events in each bin of confidence; bins are of equal width, from 0 to 1.
      bin_confidence: mean confidence in each bin, NaN in an empty one.
      bin_accuracy: accuracy in each bin, NaN in an empty one.
    """

    events: int
    accuracy: float
    accuracy_se: float
    log_loss: float
    log_loss_se: float
    brier: float
    brier_se: float
    expected_calibration_error: float
    expected_calibration_error_ref: float
    bin_count: tuple[int, ...]
    bin_confidence: tuple[float, ...]
    bin_accuracy: tuple[float, ...]

    def __str__(self) -> str:
        by_chance = f"{self.expected_calibration_error_ref:.2g} by chance"
        return "\n".join([
            f"accuracy           {self.accuracy:.4g} ± {self.accuracy_se:.2g}",
            f"log loss           {self.log_loss:.4g} ± {self.log_loss_se:.2g} nats per event",
            f"Brier score        {self.brier:.4g} ± {self.brier_se:.2g}",
            f"calibration error  {self.expected_calibration_error:.4g} ({by_chance})",
        ])  # fmt: skip


def calibration(
    log_p: Any, y: Any, bins: int = 15, *, labels: Sequence[Any] | None = None
) -> Calibration:
    """Accuracy, log loss, Brier score and calibration error of the probabilities of labels.

    With c_i the probability of the likeliest label of event i, and bins of c of equal width,

        expected calibration error = sum_bins |sum_(i in bin) ([likeliest is true] - c_i)| / n

    Chance keeps it above 0 even if p(y|x) is right. Its mean then, by the central limit theorem, is
    the reference 1/n sum_bins (2/pi sum_(i in bin) c_i (1 - c_i))^1/2.

    Args:
      log_p: (n, classes) log p(y|x), as ``Fitted.classify`` gives them; -inf is a probability of 0.
      y: (n,) the true labels: 0 .. classes - 1, or names.
      bins: number of bins of confidence.
      labels: the names of the labels in the order of the columns of log_p, if y holds names.

    Returns:
      A ``Calibration``.

    Raises:
      TypeError, ValueError: an argument has the wrong type, shape or range; a row of log_p has NaN
        or is not the logarithm of a distribution; y holds an unknown label.

    Sources: Brier 1950, "Verification of forecasts expressed in terms of probability", eq. 2;
    Guo et al. 2017, "On calibration of modern neural networks", eq. 3.

    >>> log_p = np.log([[0.8, 0.2], [0.4, 0.6], [0.3, 0.7]])
    >>> found = calibration(log_p, ["dog", "dog", "cat"], labels=("dog", "cat"))
    >>> round(found.accuracy, 2), round(found.brier, 2)
    (0.67, 0.33)
    """
    bins = as_count(bins, "bins", 1)
    log_p = _log_probabilities(log_p)
    n, classes = log_p.shape
    true = _label_places(y, n, classes, labels)

    p, events = np.exp(log_p), np.arange(n)
    likeliest = p.argmax(1)
    confidence, right = p[events, likeliest], (likeliest == true).astype(np.float64)
    accuracy = mean_and_error(right)
    log_loss = mean_and_error(-log_p[events, true])
    brier = mean_and_error(((p - np.eye(classes)[true]) ** 2).sum(1))

    place = np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True)

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(place, values, bins)

    count = np.bincount(place, minlength=bins)
    error = np.abs(total(right - confidence)).sum() / n
    variance = total(np.maximum(confidence * (1 - confidence), 0))  # rounding may exceed 1
    filled = np.where(count > 0, count, np.nan)
    return Calibration(
        n, *accuracy, *log_loss, *brier,
        expected_calibration_error=float(error),
        expected_calibration_error_ref=float(np.sqrt(2 / math.pi * variance).sum() / n),
        bin_count=tuple(count.tolist()),
        bin_confidence=tuple((total(confidence) / filled).tolist()),
        bin_accuracy=tuple((total(right) / filled).tolist()),
    )  # fmt: skip


def reliability_figure(found: Calibration | Mapping[str, Calibration]) -> Figure:
    """A reliability diagram: accuracy against confidence in each bin, and the events of each bin.

    Args:
      found: a ``Calibration``, or up to four by name, to compare.

    Returns:
      A Matplotlib ``Figure``. Bars are standard errors; points below the diagonal are
      overconfident.

    Raises:
      ValueError: found holds no calibrations, or more than four.

    >>> log_p = np.log([[0.8, 0.2], [0.4, 0.6], [0.3, 0.7]])
    >>> reliability_figure(calibration(log_p, [0, 0, 1])).savefig("reliability.png")
    """
    from matplotlib.figure import Figure

    by_name = {"model": found} if isinstance(found, Calibration) else dict(found)
    if not 1 <= len(by_name) <= len(_STYLES):
        raise ValueError(f"found must hold 1 to {len(_STYLES)} calibrations, got {len(by_name)}")
    figure = Figure(figsize=(5.4, 6.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    draw_reliability(upper, by_name)
    for one, style in zip(by_name.values(), _STYLES, strict=False):
        edges = np.linspace(0, 1, len(one.bin_count) + 1)
        line = {k: style[k] for k in ("color", "linestyle")}
        lower.stairs(one.bin_count, edges, baseline=0.5, linewidth=1.6, **line)
    lower.set_yscale("log")
    lower.set_ylim(bottom=0.5)
    lower.set(xlabel="confidence: p(y|x) of the likeliest label", ylabel="events in bin")
    upper.set_xlabel("")
    return figure


def draw_reliability(ax: Axes, by_name: Mapping[str, Calibration]) -> None:
    """Draw the reliability diagram of up to four calibrations, by name, on Matplotlib axes."""
    ax.plot([0, 1], [0, 1], color="0.7", linewidth=1, label="calibrated", zorder=0)
    for (name, one), style in zip(by_name.items(), _STYLES, strict=False):
        count, share = np.array(one.bin_count), np.array(one.bin_accuracy)
        # with one more event that is half right, the error of a bin without errors is not zero
        spread = (share * count + 0.5) / (count + 1)
        error = np.sqrt(spread * (1 - spread) / np.maximum(count, 1))
        filled = count > 0
        label = f"{name}: error {one.expected_calibration_error:.3f}"
        ax.errorbar(
            np.array(one.bin_confidence)[filled], share[filled], error[filled], markersize=6,
            linewidth=1.6, elinewidth=0.9, capsize=2.5, label=label, **style,
        )  # fmt: skip
    ax.set(xlim=(0, 1.02), ylim=(-0.02, 1.02), ylabel="accuracy: share that is right")
    ax.set_xlabel("confidence: p(y|x) of the likeliest label")
    ax.legend(loc="best", fontsize=9)


def _log_probabilities(log_p: Any) -> np.ndarray:
    """log_p on the host in float64; raises unless each row is a distribution."""
    log_p = np.asarray(numbers(log_p, "log_p"))
    if log_p.ndim != 2 or 0 in log_p.shape:
        raise ValueError(f"log_p must have shape (n, classes), both positive; got {log_p.shape}")
    log_p = log_p.astype(np.float64)
    bad = np.isnan(log_p).any(1)
    if bad.any():
        raise ValueError(Message("log_p holds NaN, first in ", places.row(bad.argmax())))
    with np.errstate(over="ignore"):
        total = np.exp(log_p).sum(1)
    off = ~(np.abs(total - 1) < _ROUNDING)
    if off.any():
        row = off.argmax()
        wanted = "log_p must hold the logarithms of probabilities, which sum to 1 in every row; in "
        raise ValueError(Message(wanted, places.row(row), f" they sum to {total[row]:.4g}"))
    return log_p


def _label_places(y: Any, n: int, classes: int, labels: Sequence[Any] | None) -> np.ndarray:
    """The true labels as column numbers of log_p."""
    if np.ma.is_masked(y):
        raise ValueError("y must hold the true labels, but some are masked")
    y = np.asarray(y)
    if y.shape != (n,):
        raise ValueError(f"y must have shape ({n},), one label for each event; got {y.shape}")
    if labels is not None:
        if not len(set(labels)) == len(labels) == classes:
            raise ValueError(
                f"labels must be {classes} different names, one for each column; got {labels!r:.80}"
            )
        y = as_labels(y, tuple(labels))
    if y.dtype.kind not in "biu":
        raise ValueError(
            f"y must hold whole numbers, 0 to {classes - 1}, or names that labels= lists; got "
            f"dtype {y.dtype}"
        )
    y = y.astype(np.int64)
    bad = (y < 0) | (y >= classes)
    if bad.any():
        row = bad.argmax()
        wanted = f"y must be 0 to {classes - 1}; "
        raise ValueError(Message(wanted, places.row(row), f" is {y[row]}"))
    return y
