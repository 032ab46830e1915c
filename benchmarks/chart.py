"""A chart of the results: throughput, time to the first sample, and ratios with their targets."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.table import where

BLUE, ORANGE = "#1b2f6b", "#e58a1f"
STYLES = [(BLUE, "o"), (ORANGE, "^"), ("#2a8c6a", "s")]  # with markers, for grey print
AXES = {"n": "events in a call", "dimension": "features", "components": "components"}


def draw(data) -> Figure:
    """The figure of the data in a results file; panels without rows are empty."""
    rows = [row for row in data["rows"] if row["seconds_median"]]
    with_target = [row for row in rows if _compared(row)]
    figure = Figure(figsize=(22, max(12, 0.3 * len(with_target))), layout="constrained")
    mosaic = [["ns", "nl", "ratio"], ["ds", "dl", "ratio"], ["c", "first", "ratio"]]
    panels = figure.subplot_mosaic(mosaic, width_ratios=[1, 1, 1.15])
    scaling = [row for row in rows if row["question"] == "scaling"]
    for panel, axis, fixed in (
        ("ns", "n", {"operation": "sample"}),
        ("nl", "n", {"operation": "log_prob"}),
        ("ds", "dimension", {"operation": "sample"}),
        ("dl", "dimension", {"operation": "log_prob"}),
        ("c", "components", {"family": "GaussianMixture"}),
    ):
        here = [r for r in scaling if r["axis"] == axis and fixed.items() <= r.items()]
        varied = "operation" if "family" in fixed else "family"
        _throughput(panels[panel], here, axis, varied, *fixed.values())
    _first_samples(panels["first"], [row for row in rows if row["question"] == "first_sample"])
    _ratios(panels["ratio"], with_target)
    jax = max(data["runs"].items())[1]["versions"]["jax"]
    figure.suptitle(f"jaxgen on {where(data)}, jax {jax}", fontsize=14)
    return figure


def _throughput(ax, rows, axis, varied, title):
    """Draw a line for jaxgen and a line for the peer, for each family or operation."""
    if not rows:
        return _absent(ax, "no rows of scaling")
    for name, (colour, marker) in zip(dict.fromkeys(r[varied] for r in rows), STYLES, strict=False):
        here = [r for r in rows if r[varied] == name]
        for side in dict.fromkeys(r["side"] for r in here):
            points = [(r["value"], r["events_per_second"] / 1e6) for r in here if r["side"] == side]
            style, face = ("-", colour) if side == "jaxgen" else ("--", "white")
            ax.plot(*zip(*points, strict=True), style, color=colour, marker=marker,
                    markerfacecolor=face, label=f"{name}: {side}")  # fmt: skip
    ax.set(xscale="log", yscale="log", xlabel=AXES[axis], ylabel="million events/s")
    ax.set_title(title if axis == "n" else f"{title}, {rows[0]['n']:,} events in a call")
    if axis != "n":
        values = sorted({row["value"] for row in rows})
        ax.set_xticks(values, map(str, values))
        ax.xaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_major_locator(LogLocator(numticks=12))
    ax.grid(alpha=0.3)
    _legend(ax, 0.16)


def _first_samples(ax, rows):
    """Draw the time to one sample of each family, warm and in a new process."""
    if not rows:
        return _absent(ax, "no rows of first_sample")
    place = np.arange(len(rows))[::-1]
    for field, style, colour, label in (
        ("seconds_median", "o", BLUE, "warm"),
        ("first_call_seconds", "^", ORANGE, "first call of a process"),
    ):
        ax.plot([1e3 * row[field] for row in rows], place, style, color=colour, label=label)
    ax.axvline(0.06, color="0.3", ls=":", label="target, warm")
    ax.set_yticks(place, [row["case"] for row in rows])
    ax.set(xscale="log", xlabel="time (ms)", ylim=(-0.7, len(rows) - 0.3), title="one sample")
    ax.grid(alpha=0.3, axis="x")
    _legend(ax, 0.16)


def _ratios(ax, rows):
    """Draw the ratio of times of each peer that has a target, and the target."""
    if not rows:
        return _absent(ax, "no ratios with a target")
    place = np.arange(len(rows))[::-1]
    ratios = np.array([row[_compared(row)] for row in rows])
    targets = np.array([float(row["target"].split()[2]) for row in rows])
    met = ratios >= targets
    # bars start at 1, where both take the same time
    style = {"left": 1, "height": 0.6, "edgecolor": BLUE, "linewidth": 0.6}
    for which, colour, hatch, label in (
        (met, "#a9bbe3", None, "target met"),
        (~met, "#f2c48d", "///", "target missed"),
    ):
        if which.any():
            ax.barh(
                place[which], ratios[which] - 1, color=colour, hatch=hatch, label=label, **style
            )
    ax.plot(targets, place, "|", color="black", markersize=16, markeredgewidth=3, label="target")
    ax.axvline(1, color="0.3", lw=1)
    names = [f"{r['question']}, {r['case']}: {r['side']}, " for r in rows]
    names = [f"{name}{ratio:.3g}" for name, ratio in zip(names, ratios, strict=True)]
    ax.set_yticks(place, names, fontsize=7.5)
    ax.set(xscale="log", xlabel="peer's time / jaxgen's time", title="speed against peers")
    ax.set_xlim(min(0.5, 0.6 * ratios.min()), 2 * max(ratios.max(), targets.max()))
    ax.set_ylim(-0.7, len(rows) - 0.3)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.grid(alpha=0.3, axis="x")
    _legend(ax, 0.045)


def _compared(row):
    """The name of the ratio that the target of a row sets a lower limit for; else None."""
    field, sign, _ = (row["target"] or "none is 0").split()
    return field if "ratio" in field and sign == ">=" and row.get(field) else None


def _legend(ax, below):
    """Draw the legend under the panel."""
    columns = 2 if len(ax.lines) == 4 else 3
    ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -below), ncols=columns)


def _absent(ax, why):
    ax.text(0.5, 0.5, why, ha="center", transform=ax.transAxes)
    ax.set_axis_off()
