"""The figure of an ``ImageReport``: draws beside data, nearest training images, and the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxgen.metrics import events_figure
from jaxgen.metrics.panels import DATA, MODEL, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROWS = 6
_COLUMNS = 10
_NEAREST = 6  # draws beside their nearest training images


def draw_report(report: Any) -> Figure:
    """The Matplotlib figure of an ``ImageReport``."""
    from matplotlib.figure import Figure

    evidence = report.evidence
    labels = evidence["labels"]
    names = None if labels is None else np.unique(labels)
    if names is not None and len(names) > _COLUMNS:
        names = None
    scale = events_figure.scale_of(evidence["test"])
    figure = Figure(figsize=(14, 9.6), layout="constrained")
    areas: Any = figure.subfigures(2, 1)
    top, bottom = areas
    for ax, side in zip(top.subplots(1, 2), ("test", "samples"), strict=True):
        by_label = names is not None and (side == "test" or evidence["by_label"])
        sheet, columns = _sheet(evidence[side], labels if by_label else None, names)
        events_figure.draw_sheet(ax, sheet, scale, None, columns)
        ax.set_title((MODEL if side == "samples" else DATA)["label"], fontsize=11)
    left, right = bottom.subplots(1, 2, width_ratios=[1, 1.25])
    table = report.nearest.table(_NEAREST)
    events_figure.draw_sheet(left, table.events, scale, list(table.rows), list(table.columns))
    left.set_title("Draws nearest to training images, beside these", fontsize=11)
    right.set_axis_off()
    lines = str(report).split("\n")[1:]
    right.text(0, 0.98, "\n".join(_wrapped(lines)), family="monospace", fontsize=9, va="top",
               transform=right.transAxes)  # fmt: skip
    figure.suptitle(short(report.model, 110), fontsize=11)
    return figure


def _sheet(images: np.ndarray, labels: Any, names: Any) -> tuple[np.ndarray, list[str] | None]:
    """Images in rows and columns, with a column for each label; and the names of the columns."""
    count = len(names) if labels is not None else _COLUMNS
    sheet = np.full((_ROWS, count, *images.shape[1:]), np.nan)
    for k in range(count):
        column = images[k::count] if labels is None else images[labels == names[k]]
        sheet[: len(column[:_ROWS]), k] = column[:_ROWS]
    if labels is None:
        return sheet, None
    return sheet, [short(str(name), 8) for name in names.tolist()]


def _wrapped(lines: list[str]) -> list[str]:
    """Lines of at most 72 characters: longer ones are cut at words."""
    import textwrap

    return [
        part for line in lines for part in textwrap.wrap(line, 72, drop_whitespace=False) or [""]
    ]
