"""The figure of an ``Explanation``: moved events, paths, and predictions of labels and factors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxgen.metrics import events_figure
from jaxgen.metrics.features import probes_figure
from jaxgen.metrics.panels import short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROWS = 6  # coordinates of the traversal
_PANELS = 4  # interpolations of vectors


def draw_explanation(report: Any) -> Figure:
    """The Matplotlib figure of an ``Explanation``.

    Events that are images come side by side, those that are vectors below each other. Then come the
    map and the panels of labels, and those of factors, if there are any.
    """
    from matplotlib.figure import Figure

    moved = report.traversal.table(_ROWS)
    images = events_figure.is_image(report.paths[0].shape)
    shown = report.paths[: len(moved.rows) if images else _PANELS]
    paths = np.stack([path.events for path in shown])
    paths = events_figure.in_shape(paths, report.paths[0].shape)
    between = events_figure.Table(
        paths, [f"pair {i + 1}" for i in range(len(paths))], "t", report.paths[0].t, moved.names
    )
    tables = max(moved.height, between.height) if images else moved.height + between.height
    labels = 4.6 if report.probe is not None else 0.0
    shares = 0.4 * len(report.factors.names) + 2.4 if report.factors is not None else 0.0
    heights = [height for height in (tables, labels, shares) if height]
    figure = Figure(figsize=(14, sum(heights) + 0.5), layout="constrained")
    areas = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    rows = iter(areas)
    first = next(rows)
    if images:
        sides = first.subfigures(1, 2, width_ratios=[moved.width, between.width])
    else:
        sides = first.subfigures(2, 1, height_ratios=[moved.height, between.height])
    events_figure.draw_table(sides[0], moved)
    sides[0].suptitle("A typical event, one latent coordinate moved at a time", fontsize=10)
    events_figure.draw_table(sides[1], between)
    sides[1].suptitle("Interpolations between two events", fontsize=10)
    if labels:
        axes = next(rows).subplots(1, 3, width_ratios=[1.5, 0.9, 1.5])
        probes_figure.scatter(axes[0], report.map)
        probes_figure.accuracies(axes[1], report.probe)
        probes_figure.information(axes[2], report.probe)
    if shares:
        axes = next(rows).subplots(1, 2, width_ratios=[1, 1.6])
        probes_figure.factors(axes[0], report.factors)
        probes_figure.shares_by_coordinate(axes[1], report.factors)
    figure.suptitle(short(report.model, 110), fontsize=11)
    return figure
