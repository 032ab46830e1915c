"""Panels of the report's figure that show events: features, pairs of features, and images.

Test data are filled or dark blue circles, samples are lines or orange triangles: the two differ in
grey print and for colour-blind readers too.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DATA: dict[str, Any] = {"color": "#1b2f6b", "label": "test data"}
MODEL: dict[str, Any] = {"color": "#d1600a", "label": "samples"}
DATA_FILL = "#a9b9dc"  # lighter in grey print than the line of the samples
# of Okabe and Ito 2008, "Color universal design", for at most as many labels
LABELS = (("#0072b2", "o"), ("#d55e00", "^"), ("#009e73", "s"), ("#cc79a7", "D"))
_BINS = 40  # most bins of a feature; fewer for a few events
_MOST_BARS = 40  # whole values that get a bar each
_TAIL = 0.01  # share of data, and of samples, beyond each end of an axis where tails are long
_LONG = 2.0  # tails are long if the range is this many times the range without them
_GREY = 0.35  # the power of the share of events that a grey shows
_LINE = 22  # most characters of a name on one line
_POINTS = 2000  # most points in a scatter panel


class Axis(NamedTuple):
    """The axis of one feature, for test data and samples alike.

    Attributes:
      low, high: the ends of the axis.
      whole: whether the feature takes whole values only, in the data and in the samples.
      edges: the edges of its bins; those of whole values are halfway between them.
    """

    low: float
    high: float
    whole: bool
    edges: np.ndarray


@dataclasses.dataclass(frozen=True)
class Events:
    """Test data and samples as rows, and what is known about their features.

    Attributes:
      test, samples: (n, d) and (m, d), float64; test data may hold NaN.
      names: the names of the features.
      labels: the labels of the rows of test and of samples, if the model has at most four.
    """

    test: np.ndarray
    samples: np.ndarray
    names: list[str]
    labels: tuple[np.ndarray, np.ndarray] | None = None

    def axis(self, j: int) -> Axis:
        """The axis of a feature.

        It ends at the extremes, or, if tails are long, where at most 1 % of the data and of the
        samples lie beyond either end.
        """
        sides = [side[np.isfinite(side)] for side in (self.test[:, j], self.samples[:, j])]
        sides = [side for side in sides if len(side)]
        if not sides:
            return Axis(0.0, 1.0, False, np.linspace(0, 1, _BINS + 1))
        low, high = min(map(np.min, sides)), max(map(np.max, sides))
        inner = [np.quantile(side, [_TAIL, 1 - _TAIL]) for side in sides]
        inner_low, inner_high = min(q[0] for q in inner), max(q[1] for q in inner)
        if inner_high > inner_low and high - low > _LONG * (inner_high - inner_low):
            low, high = inner_low, inner_high
        values = np.concatenate(sides)
        whole_data = bool((sides[0] == np.round(sides[0])).all())
        if whole_data and high - low < 2**24:
            low, high = np.floor(low), np.ceil(high)
            step = max(1.0, np.ceil((high - low + 1) / _MOST_BARS))
            edges = np.arange(low, high + 1 + step, step) - 0.5
            whole = bool((values == np.round(values)).all())
            return Axis(float(edges[0]), float(edges[-1]), whole, edges)
        if not high > low:
            low, high = low - 0.5 * max(1, abs(low)), high + 0.5 * max(1, abs(high))
        bins = int(np.clip(3 * min(map(len, sides)) ** (1 / 3), 8, _BINS))
        edges, margin = np.linspace(low, high, bins + 1), 0.04 * (high - low)
        return Axis(float(low - margin), float(high + margin), False, edges)

    def beyond(self, axes: dict[int, Axis]) -> tuple[float, float]:
        """The shares of test data and of samples that lie beyond the axes of some features."""
        shares = []
        for side in (self.test, self.samples):
            outside = np.zeros(len(side), bool)
            for j, axis in axes.items():
                outside |= (side[:, j] < axis.low) | (side[:, j] > axis.high)
            shares.append(float(outside.mean()))
        return shares[0], shares[1]


def draw_feature(ax: Axes, events: Events, j: int, distance: float) -> None:
    """Draw the marginal of one feature: data filled, samples as a line; whole values as bars."""
    axis = events.axis(j)
    width = axis.edges[1] - axis.edges[0]
    heights = []
    for side in (events.test[:, j], events.samples[:, j]):
        side = side[~np.isnan(side)]
        unit = 1.0 if axis.whole else width  # a share of events, or a density
        heights.append(np.histogram(side, axis.edges)[0] / (max(len(side), 1) * unit))
    if axis.whole and len(axis.edges) <= _MOST_BARS // 2:
        middle = (axis.edges[:-1] + axis.edges[1:]) / 2
        ax.bar(middle - 0.2 * width, heights[0], 0.4 * width, color=DATA_FILL)
        ax.bar(middle + 0.2 * width, heights[1], 0.4 * width, fill=False, hatch="////", lw=1.2,
               edgecolor=MODEL["color"])  # fmt: skip
    else:
        ax.stairs(heights[0], axis.edges, fill=True, color=DATA_FILL)
        ax.stairs(heights[1], axis.edges, color=MODEL["color"], lw=1.6)
    _ends(ax, "x", axis)
    ax.set_ylim(bottom=0)
    if axis.whole:
        ax.locator_params(axis="y", nbins=4)
    else:
        ax.set_yticks([])
    _name(ax, "x", events.names[j])
    ax.set_ylabel("share of events" if axis.whole else "density")
    shares = events.beyond({j: axis})
    of_data, of_samples = map(percent, shares)
    cut = f"\nnot shown: {of_data}\n(samples {of_samples})" if any(shares) else ""
    ax.set_title(f"KS {distance:.3f}{cut}", fontsize=9)


def draw_pair(left: Axes, right: Axes, events: Events, i: int, j: int, distance: float) -> None:
    """Draw two features against each other, test data on the left and samples on the right.

    Points are scattered, with a colour and marker for each label; a feature of whole values makes
    it a histogram, with one scale of grey for both sides. The scale is not linear, so that events
    beside a frequent value are seen too.
    """
    from matplotlib.colors import PowerNorm

    pair = left, right
    axes = {i: events.axis(i), j: events.axis(j)}
    binned = axes[i].whole or axes[j].whole
    sides = [side[:, [i, j]] for side in (events.test, events.samples)]
    kept = [np.isfinite(side).all(1) for side in sides]
    if binned:
        edges = [axes[i].edges, axes[j].edges]
        counts = [np.histogram2d(side[ok, 0], side[ok, 1], edges)[0].T / max(ok.sum(), 1)
                  for side, ok in zip(sides, kept, strict=True)]  # fmt: skip
        scale = PowerNorm(_GREY, 0, max(count.max() for count in counts))
    for ax, style, marker, place in zip(pair, (DATA, MODEL), "o^", (0, 1), strict=True):
        points = sides[place][kept[place]][:_POINTS]
        if binned:
            ax.pcolormesh(*edges, counts[place], cmap="Greys", norm=scale, rasterized=True)
        elif events.labels is None:
            ax.scatter(
                points[:, 0],
                points[:, 1],
                s=5,
                marker=marker,
                lw=0,
                alpha=0.5,
                color=style["color"],
            )
        else:
            label = events.labels[place][kept[place]][:_POINTS]
            for k, (colour, mark) in enumerate(LABELS):
                x, y = points[label == k].T
                ax.scatter(x, y, s=9, marker=mark, lw=0, alpha=0.6, color=colour)
        _ends(ax, "x", axes[i])
        _ends(ax, "y", axes[j])
        ax.locator_params(nbins=4)
        _name(ax, "x", events.names[i])
    _name(left, "y", events.names[j])
    right.tick_params(labelleft=False)
    titles = DATA["label"], f"{MODEL['label']}: sliced KS {distance:.3f}"
    shares = events.beyond(axes)
    for ax, title, share in zip(pair, titles, shares, strict=True):
        ax.set_title(title + (f"\nnot shown: {percent(share)}" if any(shares) else ""), fontsize=9)


def draw_images(
    ax: Axes, images: np.ndarray, scale: tuple[float, float], labels: Any, names: list[str] | None
) -> None:
    """Draw images in a grid; with names of labels, a column for each label.

    Args:
      images: (n, height, width), of which the first of each label, or the first at all, are drawn.
      scale: the values that are white and black.
      labels: (n,) whole numbers, or None.
      names: the names of the labels.
    """
    columns, rows = (10, 5) if names is None else (len(names), 5)
    height, width = images.shape[1:]
    gap = max(1, round(0.08 * max(height, width)))
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap), np.nan)
    for k in range(columns):
        column = images[k::columns] if names is None else images[labels == k]
        for row, image in enumerate(column[:rows]):
            top, left = gap + row * (height + gap), gap + k * (width + gap)
            sheet[top : top + height, left : left + width] = image
    ax.imshow(sheet, cmap="gray_r", vmin=scale[0], vmax=scale[1], interpolation="nearest")
    ax.set_yticks([])
    ax.set_xticks([])
    if names is not None:
        middles = gap + np.arange(columns) * (width + gap) + (width - 1) / 2
        ax.set_xticks(middles, [short(name, 8) for name in names])
        ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_color("0.7")


def names_of(columns: list[str]) -> list[str]:
    """Names of features that fit below a panel, on at most two lines; all of them differ.

    >>> names_of(["mass", "energy of the photon in the laboratory, before the first cut"])
    ['mass', 'energy of the photon …\\n before the first cut']
    """
    names = [name if len(name) <= _LINE else short(name, 2 * _LINE - 1) for name in columns]
    if len(set(names)) < len(names):
        names = [f"{j}: {short(name, 2 * _LINE - 6)}" for j, name in enumerate(columns)]
    return [name if len(name) <= _LINE else f"{name[:_LINE]}\n{name[_LINE:]}" for name in names]


def percent(share: float) -> str:
    """A share as a percentage.

    >>> percent(0.015)
    '1.5 %'
    """
    return f"{100 * share:.1f} %"


def short(name: str, most: int) -> str:
    """A name of at most ``most`` characters: a longer one loses its middle.

    >>> short("a very long name", 9)
    'a ve…name'
    """
    if len(name) <= most:
        return name
    return name[: most // 2] + "…" + name[len(name) - (most - most // 2 - 1) :]


def _name(ax: Axes, side: str, name: str) -> None:
    """Label an axis, below the power of ten of its ticks if they have one."""
    axis = ax.xaxis if side == "x" else ax.yaxis
    formatter: Any = axis.get_major_formatter()
    formatter.set_powerlimits((-3, 5))
    formatter.set_locs(axis.get_majorticklocs())
    axis.set_label_text(name, fontsize=9)
    axis.labelpad = 15 if side == "x" and formatter.get_offset() else 4


def _ends(ax: Axes, side: str, axis: Axis) -> None:
    if side == "x":
        ax.set_xlim(axis.low, axis.high)
    else:
        ax.set_ylim(axis.low, axis.high)
    if axis.whole:
        from matplotlib.ticker import MaxNLocator

        (ax.xaxis if side == "x" else ax.yaxis).set_major_locator(MaxNLocator(6, integer=True))
