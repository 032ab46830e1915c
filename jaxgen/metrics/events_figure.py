"""Figures of events in rows and columns: images as images, vectors as lines of their features."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxgen.data import output
from jaxgen.metrics.panels import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST_IMAGE = 4  # pixels on each side of an event that is drawn as an image
_LINES = 4  # features of a vector that are drawn, those that change most
_CELL = 0.8  # inches of an image
_GAP = 0.88  # the grey between images
# of Okabe and Ito 2008, "Color universal design", each with a marker for grey print
STYLES = (("#0072b2", "o"), ("#d55e00", "^"), ("#009e73", "s"), ("#cc79a7", "D"), ("#56b4e9", "v"),
          ("#e69f00", "P"), ("#000000", "X"), ("#8c6d1f", "*"))  # fmt: skip


class Table(NamedTuple):
    """Events in rows and columns, with names.

    Attributes:
      events: (rows, columns, *event_shape).
      rows: a name of each row.
      label: what the columns are.
      columns: (columns,) a number or a name of each column.
      names: of the features, for events that are vectors.
    """

    events: np.ndarray
    rows: Sequence[str]
    label: str
    columns: Any
    names: Sequence[str] = ()

    @property
    def height(self) -> float:
        """Inches that the table takes in a figure."""
        rows = len(self.events)
        if is_image(self.events.shape[2:]):
            return _CELL * rows * self.events.shape[2] / max(self.events.shape[2:4]) + 0.9
        return 2.8 * -(-rows // 4) + 0.4

    @property
    def width(self) -> float:
        """Inches that the table takes in a figure."""
        if is_image(self.events.shape[2:]):
            return _CELL * self.events.shape[1] + 1.2
        return 2.8 * min(len(self.events), 4) + 0.6


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether events of a shape are images: (height, width), or with 1 or 3 channels behind."""
    return len(shape) in (2, 3) and min(shape[:2]) >= LEAST_IMAGE and shape[2:] in ((), (1,), (3,))


def in_shape(events: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Events (rows, columns, *event_shape) in the shape (rows, columns, *shape)."""
    return events.reshape(*events.shape[:2], *shape)


def draw(title: str, tables: Sequence[Table], path: str | os.PathLike[str] | None = None) -> Figure:
    """The Matplotlib figure of tables below each other; ``path`` is a file to save it to.

    Raises:
      ValueError, OSError: the file cannot be written; raised before the figure is drawn.
    """
    from matplotlib.figure import Figure

    if path is not None:
        output.check_figure(path)
    widest = max(table.width for table in tables)
    size = max(6.0, widest), sum(table.height for table in tables) + 0.4
    figure = Figure(figsize=size, layout="constrained")
    areas = figure.subfigures(
        len(tables), 1, squeeze=False, height_ratios=[table.height for table in tables]
    )
    for area, table in zip(areas[:, 0], tables, strict=True):
        draw_table(area, table)
    figure.suptitle(title, fontsize=11)
    if path is not None:
        output.write_figure(figure, path)
    return figure


def draw_table(area: Any, table: Table) -> None:
    """Draw a table on a figure or subfigure."""
    if is_image(table.events.shape[2:]):
        columns = [_number(value) for value in table.columns]
        ax = area.subplots()
        draw_sheet(ax, table.events, scale_of(table.events), list(table.rows), columns)
        ax.set_xlabel(table.label, fontsize=9)
        return
    _draw_lines(area, table)


def draw_sheet(
    ax: Axes,
    images: np.ndarray,
    scale: tuple[float, float],
    rows: list[str] | None = None,
    columns: list[str] | None = None,
) -> None:
    """Draw images (rows, columns, height, width[, channels]) as one sheet with gaps.

    scale holds the values that are white and black; of colours, those that are 0 and full.
    """
    count, width_count, height, width = images.shape[:4]
    colour = images.shape[4:] == (3,)
    gap = max(1, round(0.08 * max(height, width)))
    shape = count * (height + gap) + gap, width_count * (width + gap) + gap
    sheet = np.full((*shape, 3), _GAP) if colour else np.full(shape, np.nan)
    low, high = scale
    for i in range(count):
        for j in range(width_count):
            image = images[i, j].astype(np.float64)
            image = np.clip((image - low) / (high - low), 0, 1) if colour else image
            image = image if colour else image.reshape(height, width)
            top, left = gap + i * (height + gap), gap + j * (width + gap)
            sheet[top : top + height, left : left + width] = image
    ax.set_facecolor(str(_GAP))  # which shows where the sheet is NaN
    ax.imshow(sheet, cmap="gray_r", vmin=low, vmax=high, interpolation="nearest")
    ax.set_anchor("N")
    places = gap + np.arange(count) * (height + gap) + (height - 1) / 2
    ax.set_yticks(places if rows else [], rows)
    places = gap + np.arange(width_count) * (width + gap) + (width - 1) / 2
    ax.set_xticks(places if columns else [], columns)
    ax.tick_params(length=0, labelsize=8)
    for spine in ax.spines.values():
        spine.set_color("0.7")


def scale_of(images: np.ndarray) -> tuple[float, float]:
    """The values at the ends of the grey scale: nearly the extremes of the finite pixels."""
    finite = images[np.isfinite(images)]
    low, high = np.quantile(finite, [0.005, 0.995]) if len(finite) else (0.0, 1.0)
    if not high > low and len(finite):
        low, high = finite.min(), finite.max()
    return (float(low), float(high)) if high > low else (float(low), float(low) + 1)


def _draw_lines(area: Any, table: Table) -> None:
    """Draw the features of vectors over the columns, a panel for each row of the table."""
    count, steps = table.events.shape[:2]
    events = table.events.reshape(count, steps, -1).astype(np.float64)
    spread = events.reshape(-1, events.shape[-1]).std(0)
    unit = np.where(spread > 0, spread, 1)
    wide = min(count, 4)
    axes = area.subplots(-(-count // wide), wide, squeeze=False, sharey=True).ravel()
    numeric = np.asarray(table.columns).dtype.kind in "iuf"
    at = np.asarray(table.columns, float) if numeric else np.arange(steps)
    first = int(np.abs(at).argmin())  # the event that was not moved, or the first
    for ax, row, name in zip(axes, events, table.rows, strict=False):
        moved = (row - row[first]) / unit
        most = np.argsort(-np.abs(moved).max(0), kind="stable")[:_LINES]
        for k, j in enumerate(most):
            colour, marker = STYLES[k]
            label = short(str(table.names[j]) if len(table.names) else f"x{j}", 16)
            ax.plot(at, moved[:, j], color=colour, marker=marker, ms=4, lw=1.2, label=label)
        ax.axhline(0, color="0.8", lw=0.8, zorder=0)
        ax.set_title(name, fontsize=9)
        ax.tick_params(labelsize=8)
        if not numeric:
            ax.set_xticks(at, [_number(value) for value in table.columns])
        ax.legend(
            fontsize=7, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.12)
        )
    for ax in axes[count:]:
        ax.set_axis_off()
    area.supxlabel(table.label, fontsize=9)
    area.supylabel("change of the feature (standard deviations)", fontsize=8)


def _number(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, (float, np.floating)) else str(value)
