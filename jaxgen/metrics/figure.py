"""The report as a figure: features and pairs that differ most, then scores, noise and metrics."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxgen.metrics import panels, sections, two_samples
from jaxgen.metrics.panels import DATA, DATA_FILL, MODEL, short
from jaxgen.metrics.representation import ks_distance

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FEATURES = 6  # most panels of features
_PAIRS = 3  # most pairs of features, of two panels each
_LEAST_IMAGE = 4  # pixels on each side of an event that is drawn as an image
_MOST_LABELS = 10  # columns of images
_GRID = 150  # pixels on each side of the density image
_FLOOR = 15  # nats below the peak at which the colours of the density end
_SHOWN = {
    "accuracy": ("log_likelihood", "zero_density", "kl", "precision", "recall", "density",
                 "coverage", "energy_distance"),
    "labels": ("accuracy", "fidelity"),
    "generation": ("nearer_train", "duplicates", "events_per_second"),
}  # fmt: skip


class Row(NamedTuple):
    """A row of panels: its height in inches, its title, and how each panel or pair is drawn.

    Attributes:
      draws: functions of as many axes as ``widths`` says.
      widths: how many axes each of the functions takes.
    """

    height: float
    title: str
    draws: Sequence[Callable[..., None]]
    widths: Sequence[int]


def draw_report(report: Any) -> Figure:
    """The Matplotlib figure of a ``Report``: at most a dozen panels of events, then three others.

    A row shows the features whose samples differ most from the test data, and a row pairs of
    features. Events that are images are drawn as images.
    """
    from matplotlib.figure import Figure

    rows = _rows(report)
    figure = Figure(figsize=(15, sum(row.height for row in rows) + 1), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.08, w_pad=0.08)  # type: ignore[union-attr,call-arg]
    areas = figure.subfigures(
        len(rows), 1, squeeze=False, height_ratios=[row.height for row in rows]
    )
    for area, row in zip(areas[:, 0], rows, strict=True):
        if row.title:
            area.suptitle(row.title, fontsize=10, x=0.01, ha="left")
        axes = iter(area.subplots(1, sum(row.widths), squeeze=False)[0])
        for draw, width in zip(row.draws, row.widths, strict=True):
            draw(*itertools.islice(axes, width))
    figure.suptitle(short(report.model, 110), fontsize=12)
    _legend(figure, report)
    figure.draw_without_rendering()  # the layout of the next drawing starts from this one's
    return figure


def _rows(report: Any) -> list[Row]:
    """The rows of panels."""
    fitted = report.evidence["fitted"]
    events = _events(report)
    count = events.test.shape[1]
    shape = fitted.model.event_shape
    worst = two_samples.worst_features(events.test, events.samples)[:_FEATURES]
    features = [
        functools.partial(panels.draw_feature, events=events, j=j, distance=distance)
        for distance, j in worst
    ]
    level = two_samples.chance_level(len(events.test), len(events.samples))
    which = ", worst first" if count > 1 else ""
    which = f", the worst {len(worst)} of {count}" if count > len(worst) else which
    title = (f"Features{which} (KS: Kolmogorov-Smirnov distance of samples from test data; "
             f"equal distributions exceed {level:.3f} in 5 % of cases)")  # fmt: skip
    others = [functools.partial(draw, report=report) for draw in _diagnostics(report)]
    if count == 1:
        each = [*features, *others]
        first = 2 if len(each) > 3 else len(each)
        pieces = [(title, each[:first]), ("", each[first:])]
        return [Row(3.6, text, part, [1] * len(part)) for text, part in pieces if part]
    rows = [Row(2.9, title, features, [1] * len(features))]
    last = Row(3.5, "", others, [1] * len(others))
    if len(shape) == 2 and min(shape) >= _LEAST_IMAGE:
        images = [
            functools.partial(_images, report=report, side=side) for side in ("test", "samples")
        ]
        return [Row(4.0, "", images, [1, 1]), *rows, last]
    pairs = two_samples.worst_pairs(events.test, events.samples)[:_PAIRS]
    draws: list[Callable[..., None]] = [
        functools.partial(panels.draw_pair, events=events, i=i, j=j, distance=distance)
        for distance, i, j in pairs
    ]
    widths = [2] * len(pairs)
    if count == 2 and _has_plane(fitted):
        draws.append(functools.partial(_density, events=events, fitted=fitted))
        widths.append(1)
    how = "sliced KS: the largest KS distance of six projections of the ranks"
    if any(events.axis(j).whole for _, *pair in pairs for j in pair):
        how += "; grey: share of events, on one scale for both"
    which = "s of features, worst first" if count > 2 else ""
    if 1 < len(two_samples.varied(events.test)) < count:
        which = "s of features that vary, worst first"
    return [*rows, Row(4.4 if count == 2 else 3.0, f"Pair{which} ({how})", draws, widths), last]


def _events(report: Any) -> panels.Events:
    evidence = report.evidence
    test, samples = (
        np.asarray(evidence[name], np.float64).reshape(len(evidence[name]), -1)
        for name in ("test", "samples")
    )
    fitted = evidence["fitted"]
    names = list(fitted.columns or [f"x{j}" for j in range(test.shape[1])])
    if len(fitted.model.event_shape) > 1 and not fitted.columns:
        places = np.ndindex(*fitted.model.event_shape)
        names = ["x[" + ", ".join(map(str, place)) + "]" for place in places]
    labels = evidence["labels"]
    few = labels is not None and len(evidence["label_names"]) <= len(panels.LABELS)
    return panels.Events(test, samples, panels.names_of(names), labels if few else None)


def _legend(figure: Figure, report: Any) -> None:
    """One legend below all panels."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Patch(color=DATA_FILL, label="test data"),
        Line2D([], [], color=MODEL["color"], lw=1.6, label="samples"),
    ]
    labels = _events(report).labels
    if labels is not None:
        names = report.evidence["label_names"]
        for name, (colour, mark) in zip(names, panels.LABELS, strict=False):
            handles.append(
                Line2D([], [], color=colour, marker=mark, ls="", label=short(str(name), 24))
            )
    if report.evidence["log_prob_train"] is not None:
        handles.append(Line2D([], [], color="black", ls=":", lw=1.6, label="training data"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)


def _images(ax: Axes, report: Any, side: str) -> None:
    """Draw a grid of test images or of samples, with a column for each of a few labels."""
    evidence = report.evidence
    test = evidence["test"]
    finite = test[np.isfinite(test)]
    low, high = np.quantile(finite, [0.005, 0.995]) if len(finite) else (0.0, 1.0)
    scale = (low, high) if high > low else (low, low + 1)
    labels, names = evidence["labels"], evidence["label_names"]
    if labels is None or len(names) > _MOST_LABELS:
        labels, names = (None, None), None
    names = None if names is None else [str(name) for name in names]
    panels.draw_images(ax, evidence[side], scale, labels[side == "samples"], names)
    ax.set_title((MODEL if side == "samples" else DATA)["label"])


def _has_plane(fitted: Any) -> bool:
    """Whether log p(x) is one function of x."""
    model = fitted.model
    return model.traits.density != "none" and (model.y_shape is None or model.classes is not None)


def _density(ax: Axes, events: panels.Events, fitted: Any) -> None:
    """Draw the log density of two features over the part of the plane that their pair shows."""
    axes = events.axis(0), events.axis(1)
    low, high = np.transpose([(axis.low, axis.high) for axis in axes])
    sides = [
        np.floor((axis.edges[1:] + axis.edges[:-1]) / 2)
        if axis.whole
        else np.linspace(axis.low, axis.high, _GRID)
        for axis in axes
    ]
    grid = np.stack(np.meshgrid(*sides), -1).reshape(-1, *fitted.model.event_shape)
    log_p = np.asarray(fitted.log_prob(grid)).reshape(len(sides[1]), len(sides[0]))
    log_p = np.ma.masked_invalid(log_p)
    top = 0.0 if log_p.mask.all() else log_p.max()
    image = ax.pcolormesh(*sides, log_p, vmin=max(log_p.filled(top).min(), top - _FLOOR), vmax=top,
                          cmap="cividis", shading="nearest", rasterized=True)  # fmt: skip
    white = "; white: zero density" if np.ma.getmaskarray(log_p).any() else ""
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xlabel=events.names[0])
    ax.set_title(f"density of the model{white}", fontsize=9)
    ax.tick_params(labelleft=False)
    ax.figure.colorbar(image, ax=ax, label="log p(x) (nats)", extend="min")


def _diagnostics(report: Any) -> list[Callable[..., None]]:
    """The panels that do not show events, without those for which the model has no numbers."""
    evidence = report.evidence
    scores = evidence["log_prob_test"]
    drawn: list[Callable[..., None]] = [_metrics]
    if evidence["noise"] is not None:
        drawn.insert(0, _noise)
    if scores is not None and np.isfinite(scores).any():
        drawn.insert(0, _scores)
    return drawn


def _scores(ax: Axes, report: Any) -> None:
    """Draw log-likelihoods, which agree between data and samples if the model is p_data."""
    evidence = report.evidence
    everything = {name: evidence[f"log_prob_{name}"] for name in ("test", "samples", "train")}
    finite = {
        name: values[np.isfinite(values)].astype(np.float64)
        for name, values in everything.items()
        if values is not None
    }
    low = min(np.quantile(v, 0.01) for v in finite.values() if len(v))
    high = max(v.max() for v in finite.values() if len(v))
    edges = np.linspace(low, high, 41) if high > low else np.array([low - 0.5, low + 0.5])
    styles = {"test": {"fill": True, "color": DATA_FILL},
              "samples": {"color": MODEL["color"], "lw": 1.6},
              "train": {"color": "black", "lw": 1.6, "ls": ":"}}  # fmt: skip
    for name, values in finite.items():
        if len(values):
            density = np.histogram(values, edges)[0] / (len(values) * (edges[1] - edges[0]))
            ax.stairs(density, edges, **styles[name])
    given = (
        "x" if evidence["fitted"].model.y_shape is None or not evidence["conditioned"] else "x | y"
    )
    ax.set(xlabel=f"log p({given}) of an event (nats)", ylabel="density (1/nat)")
    ax.set_ylim(bottom=0)
    zero = report.accuracy.zero_density
    lower = np.mean(finite["test"] < low)
    notes = [f"{zero} test events of zero density"] if zero else []
    notes += [f"{panels.percent(lower)} of test data lower"] if lower else []
    ax.set_title("Log-likelihoods" + (f"\n{', '.join(notes)}" if notes else ""), fontsize=10)


def _noise(ax: Axes, report: Any) -> None:
    """Draw the empirical distribution function of the pulled noise minus the declared one."""
    u = report.evidence["noise"]
    ks, n = ks_distance(u), len(u)
    band = 1.36 / math.sqrt(n)
    ax.axhspan(-band, band, color="0.88", zorder=0, label="95 % of correct models")
    for rank, (j, line) in enumerate(zip(np.argsort(-ks)[:3], ("-", "--", ":"), strict=False)):
        colour = (DATA["color"], MODEL["color"], "0.35")[rank]
        level = np.concatenate([[0], np.sort(u[:, j]), [1]])
        excess = np.concatenate([[0], (np.arange(n) + 0.5) / n, [1]]) - level
        ax.plot(level, excess, line, color=colour, label=f"coordinate {j}: KS {ks[j]:.3f}")
    ax.set_xlim(0, 1)
    ax.set(xlabel="declared distribution function $u$ of the noise", ylabel="$F_n(u) - u$")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=8, frameon=False)
    ax.set_title("Noise of test data against the declared noise", fontsize=10)


def _metrics(ax: Axes, report: Any) -> None:
    """Write the key metrics as a table."""
    table = [["", "value", "error", "reference"]]
    for name, wanted in _SHOWN.items():
        section = getattr(report, name)
        if section is None:
            continue
        names = [field.name for field in dataclasses.fields(section) if field.metadata]
        for field, row in zip(names, sections.lines(name, section, {}), strict=True):
            shown = field in wanted and row[1] != "-" and (field != "zero_density" or row[1] != "0")
            if shown:
                table.append(row[:4])
    width = [max(len(row[i]) for row in table) for i in range(4)]
    lines = [
        "  ".join(f"{cell:{'>' if i else '<'}{width[i]}}" for i, cell in enumerate(row)).rstrip()
        for row in table
    ]
    ax.set_axis_off()
    ax.set_title("Metrics", fontsize=10)
    ax.text(0.0, 0.98, "\n".join(lines), family="monospace", fontsize=8, va="top",
            transform=ax.transAxes)  # fmt: skip
