"""Figures of latents: accuracies, information by label, shares of factors, and a map."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxgen.data import output
from jaxgen.metrics.events_figure import STYLES
from jaxgen.metrics.panels import DATA, DATA_FILL, MODEL, percent, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COORDINATES = 12  # rows of a panel of coordinates
_LABELS = 16  # columns of it
_POINTS = 2000  # of a map
_NAME = 0.16, 0.05  # width and height of a name in a map of side 1
_LEAST = 0.05  # nats, or share, at the end of a scale of colours


def draw_probe(probe: Any, path: str | os.PathLike[str] | None) -> Figure:
    """The Matplotlib figure of a ``Probe``."""
    figure, axes = _figure((11, 4.2), 2, path, widths=(1, 1.6))
    accuracies(axes[0], probe)
    information(axes[1], probe)
    return _written(figure, path)


def draw_factors(shares: Any, path: str | os.PathLike[str] | None) -> Figure:
    """The Matplotlib figure of ``FactorShares``."""
    figure, axes = _figure((11, 0.32 * len(shares.names) + 2.6), 2, path, widths=(1, 1.6))
    factors(axes[0], shares)
    shares_by_coordinate(axes[1], shares)
    return _written(figure, path)


def draw_map(found: Any, path: str | os.PathLike[str] | None) -> Figure:
    """The Matplotlib figure of a ``LatentMap``."""
    figure, axes = _figure((7, 6), 1, path)
    scatter(axes[0], found)
    return _written(figure, path)


def accuracies(ax: Axes, probe: Any) -> None:
    """Draw the accuracies of a ``Probe`` as bars."""
    names = ["latents", "PCA, as many", "most frequent label"]
    values = [probe.accuracy, probe.pca, probe.baseline]
    colours = [MODEL["color"], DATA["color"], "0.6"]
    errors = [1.96 * probe.accuracy_se, 1.96 * probe.pca_se, 0.0]
    ax.barh(names, values, color=colours, xerr=errors, ecolor="0.3", height=0.6)
    for row, value in enumerate(values):
        inside = value > 0.2
        ax.text(0.02 if inside else value + 0.02, row, percent(value), va="center", fontsize=9,
                color="white" if inside else "black", weight="bold")  # fmt: skip
    ax.invert_yaxis()
    ax.set_xlim(0, 1)
    ax.set_xlabel("share of held-out events (bars: 95 %)", fontsize=9)
    ax.set_title("Linear classifier of the label from", fontsize=10)


def information(ax: Axes, probe: Any) -> None:
    """Draw the information of the best coordinates about each label."""
    best = np.argsort(-probe.information, kind="stable")[:_COORDINATES]
    names = [short(str(name), 10) for name in probe.labels]
    table = np.concatenate([probe.information[best, None], probe.by_label[best, :_LABELS]], 1)
    rows = [f"z{j}" for j in best]
    _heat(ax, table, rows, ["any", *names[:_LABELS]], "mutual information (nats)")
    ax.axvline(0.5, color="white", lw=4)
    ax.set_title("Which coordinate predicts which label", fontsize=10)


def factors(ax: Axes, shares: Any) -> None:
    """Draw the best share of each factor beside that of PCA, as bars."""
    at = np.arange(len(shares.names))
    ax.barh(at - 0.2, shares.explained, 0.38, color=MODEL["color"], label="best coordinate")
    ax.barh(at + 0.2, shares.pca, 0.38, color=DATA_FILL, edgecolor=DATA["color"], hatch="///",
            label="best principal component")  # fmt: skip
    names = zip(shares.names, shares.best, strict=True)
    ax.set_yticks(at, [f"{short(str(name), 16)} (z{j})" for name, j in names])
    ax.invert_yaxis()
    ax.set_xlim(0, 1)
    ax.set_xlabel("share of variance explained", fontsize=9)
    ax.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.4, -0.25), ncols=2)
    ax.set_title("Factors and their best coordinate", fontsize=10)


def shares_by_coordinate(ax: Axes, shares: Any) -> None:
    """Draw the share of each factor that each of the best coordinates explains."""
    best = _chosen(shares.best, shares.shares.max(0))
    labels = [f"z{j}" for j in best]
    _heat(ax, shares.shares[:, best], list(map(str, shares.names)), labels, "share of variance")
    ax.set_title("Share of variance that a coordinate explains alone", fontsize=10)


def scatter(ax: Axes, found: Any) -> None:
    """Draw a ``LatentMap``, with the name of each label at the median of its points."""
    import matplotlib.patheffects as effects

    points, numbers = found.points[:_POINTS], found.numbers[:_POINTS]
    size = float(np.clip(4000 / max(len(points), 1), 5, 25))
    for k in range(len(found.labels)):
        colour, marker = STYLES[k % len(STYLES)]
        face = colour if k < len(STYLES) else "none"
        own = points[numbers == k]
        ax.scatter(
            own[:, 0],
            own[:, 1],
            s=size,
            marker=marker,
            facecolor=face,
            edgecolor=colour,
            lw=0.5,
            alpha=0.6,
        )
    low, high = np.quantile(points, [0.005, 0.995], axis=0)
    size_of_map = np.where(high > low, high - low, 1.0)
    for side, k in (("x", 0), ("y", 1)):
        margin = 0.08 * size_of_map[k]
        getattr(ax, f"set_{side}lim")(low[k] - margin, high[k] + margin)
    shown = [k for k in range(len(found.labels)) if (numbers == k).any()]
    if len(found.labels) <= 2 * len(STYLES):
        places = [(np.median(points[numbers == k], 0) - low) / size_of_map for k in shown]
        for k, place in zip(shown, _apart(places), strict=True):
            at_x, at_y = (low + place * size_of_map).tolist()
            name, colour = short(str(found.labels[k]), 14), STYLES[k % len(STYLES)][0]
            text = ax.text(at_x, at_y, name, ha="center", va="center", fontsize=11,
                           weight="bold", color=colour)  # fmt: skip
            text.set_path_effects([effects.withStroke(linewidth=3, foreground="white")])
    ax.set_xlabel(found.axes[0], fontsize=9)
    ax.set_ylabel(found.axes[1], fontsize=9)
    share = f"{percent(found.accuracy)} of labels found by 5 neighbours"
    ax.set_title(f"Latent map by {found.kind}: {share}", fontsize=10)


def _apart(places: list[np.ndarray]) -> list[np.ndarray]:
    """Places in a map of side 1, those of names that would overlap moved up, from the lowest on."""
    found = [place.copy() for place in places]
    order = sorted(range(len(found)), key=lambda k: float(found[k][1]))
    for rank, k in enumerate(order):
        for j in order[:rank]:
            if (np.abs(found[k] - found[j]) < _NAME).all():
                found[k][1] = found[j][1] + _NAME[1]
    return found


def _chosen(first: np.ndarray, values: np.ndarray) -> list[int]:
    """Coordinates to show: those given, then those of the largest values, without repeats."""
    order = [*first.tolist(), *np.argsort(-values, kind="stable").tolist()]
    return list(dict.fromkeys(order))[:_COORDINATES]


def _heat(ax: Axes, table: np.ndarray, rows: list[str], columns: list[str], label: str) -> None:
    """Draw a table of numbers from 0 as greys of blue, with the larger numbers written."""
    top = max(float(table.max()), _LEAST)
    image = ax.imshow(table, cmap="Blues", vmin=0, vmax=top, aspect="auto")
    for (i, j), value in np.ndenumerate(table):
        if value >= max(0.1 * top, 0.01):
            colour = "white" if value > 0.6 * top else "black"
            ax.text(j, i, f"{value:.2f}".lstrip("0"), ha="center", va="center", fontsize=7,
                    color=colour)  # fmt: skip
    ax.set_yticks(np.arange(len(rows)), rows)
    turned = 45 if max(map(len, columns)) > 4 else 0
    ax.set_xticks(
        np.arange(len(columns)), columns, rotation=turned, ha="right" if turned else "center"
    )
    ax.tick_params(length=0, labelsize=8)
    ax.figure.colorbar(image, ax=ax, label=label)


def _figure(
    size: tuple[float, float], panels: int, path: Any, widths: tuple[float, ...] | None = None
) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    if path is not None:
        output.check_figure(path)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False, width_ratios=widths)[0]
    return figure, axes


def _written(figure: Figure, path: Any) -> Figure:
    if path is not None:
        output.write_figure(figure, path)
    return figure
