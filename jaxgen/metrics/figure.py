"""The report as a figure.

Data are dark blue circles and the model orange triangles, distinguishable in grey print too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxgen.metrics.representation import ks_distance

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DATA: dict[str, Any] = {"color": "#1b2f6b", "label": "test data"}
MODEL: dict[str, Any] = {"color": "#e58a1f", "label": "samples"}
_POINTS = 2000  # most points in a scatter panel
_GRID = 150  # pixels on each side of the density image
_FLOOR = 15  # nats below the peak at which the colours of the density end


def draw_report(report: Any) -> Figure:
    """The Matplotlib figure of a ``Report``: six panels for 2-D events, three for others."""
    from matplotlib.figure import Figure

    flat = report.evidence["test"][0].size == 2
    figure = Figure(figsize=(14, 8.4 if flat else 4.4), layout="constrained")
    axes = figure.subplots(2 if flat else 1, 3).ravel()
    if flat:
        _planes(figure, axes[:3], report)
    _scores(axes[-3], report)
    _noise(axes[-2], report)
    _metrics(axes[-1], report)
    title = report.model if len(report.model) <= 90 else report.model[:87] + "..."
    figure.suptitle(title)
    return figure


def _planes(figure: Figure, axes: Any, report: Any) -> None:
    """Draw data, samples and log density over the same part of the plane."""
    evidence = report.evidence
    fitted = evidence["fitted"]
    test, samples = (evidence[k][:_POINTS].reshape(-1, 2) for k in ("test", "samples"))
    both = np.concatenate([test, samples])
    low, high = np.nanquantile(both, [0.002, 0.998], axis=0)
    margin = 0.08 * np.where(high > low, high - low, 1)
    low, high = low - margin, high + margin
    for ax, points, style, marker in zip(axes, (test, samples), (DATA, MODEL), "o^", strict=False):
        ax.scatter(*points.T, s=7, marker=marker, linewidths=0, alpha=0.6, **style)
        ax.legend(loc="upper right", markerscale=2)
    names = getattr(fitted, "columns", None) or ("$x_1$ (units of x)", "$x_2$ (units of x)")
    for ax in axes:
        ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xlabel=names[0], ylabel=names[1])
    ax = axes[2]
    conditional = fitted.model.y_shape is not None and fitted.model.classes is None
    if fitted.model.traits.density == "none" or conditional:
        has_none = fitted.model.traits.density == "none"
        _absent(ax, "no density" if has_none else "one density for each condition")
        return
    sides = [np.linspace(low[j], high[j], _GRID) for j in (0, 1)]
    grid = np.stack(np.meshgrid(*sides), -1).reshape(-1, *fitted.model.event_shape)
    log_p = np.asarray(fitted.log_prob(grid)).reshape(_GRID, _GRID)
    log_p = np.ma.masked_invalid(log_p)
    top = log_p.max()
    image = ax.pcolormesh(*sides, log_p, vmin=max(log_p.min(), top - _FLOOR), vmax=top,
                          cmap="cividis", shading="nearest", rasterized=True)  # fmt: skip
    if log_p.mask.any():
        ax.set_title("white: zero density", fontsize=10)
    figure.colorbar(image, ax=ax, label="log p(x) (nats)", extend="min")


def _absent(ax: Axes, why: str) -> None:
    ax.text(0.5, 0.5, why, ha="center", transform=ax.transAxes)
    ax.set_axis_off()


def _scores(ax: Axes, report: Any) -> None:
    """Draw log-likelihoods of test data and samples, which agree if the model is p_data."""
    test, samples = (report.evidence[f"log_prob_{name}"] for name in ("test", "samples"))
    ax.set(xlabel="log p(x) of an event (nats)", ylabel="density (1/nat)")
    if test is None:
        _absent(ax, "no log_prob")
        return
    finite = [v[np.isfinite(v)].astype(np.float64) for v in (test, samples)]
    if not sum(map(len, finite)):
        _absent(ax, "no event of positive density")
        return
    low, high = np.quantile(np.concatenate(finite), [0.002, 1])
    bins = np.linspace(low, high if high > low else low + 1, 41)
    for values, style, line in zip(finite, (DATA, MODEL), "-:", strict=True):
        inside = values[values >= bins[0]]
        if len(inside):
            ax.hist(inside, bins.tolist(), density=True, histtype="step", lw=2, ls=line, **style)
    if report.accuracy.zero_density:
        ax.set_title(f"{report.accuracy.zero_density} test events of zero density", fontsize=10)
    ax.legend(loc="upper left")


def _noise(ax: Axes, report: Any) -> None:
    """Draw the empirical distribution function of the pulled noise minus the declared one."""
    u = report.evidence["noise"]
    ax.set(xlabel="declared distribution function $u$ of the noise", ylabel="$F_n(u) - u$")
    if u is None:
        why = report.notes.get("representation", "no noise to compare")
        _absent(ax, why)
        return
    ks, n = ks_distance(u), len(u)
    for rank, (j, line) in enumerate(zip(np.argsort(-ks)[:3], ("-", "--", ":"), strict=False)):
        colour = (DATA["color"], MODEL["color"], "0.45")[rank]
        level = np.concatenate([[0], np.sort(u[:, j]), [1]])
        excess = np.concatenate([[0], (np.arange(n) + 0.5) / n, [1]]) - level
        ax.plot(level, excess, line, color=colour, label=f"coordinate {j}: KS {ks[j]:.3f}")
    band = 1.36 / np.sqrt(n)
    ax.axhspan(-band, band, color="0.88", zorder=0, label="95 % of correct models, one coordinate")
    ax.set_xlim(0, 1)
    ax.legend(loc="best", fontsize=8)
    ax.set_title("pulled test data against the declared noise", fontsize=10)


def _metrics(ax: Axes, report: Any) -> None:
    """Draw shares as bars with their references as marks, and write other key numbers above."""
    a, g = report.accuracy, report.generation
    bars = {"precision": (a.precision, a.precision_ref), "recall": (a.recall, a.recall_ref),
            "density": (a.density, a.density_ref), "coverage": (a.coverage, a.coverage_ref),
            "nearer to train": (g.nearer_train, g.nearer_train_ref)}  # fmt: skip
    bars = {k: v for k, v in bars.items() if v[0] is not None}
    place = np.arange(len(bars))[::-1]
    ax.barh(place, [v[0] for v in bars.values()], 0.6, **MODEL)
    marked = [(v[1], i) for v, i in zip(bars.values(), place, strict=True) if v[1] is not None]
    if marked:
        ax.plot(*zip(*marked, strict=True), "D", color=DATA["color"], label="reference")
    ax.set_yticks(place, list(bars))
    ax.set_xlim(0, 1.05 * max([1.0, *(x for v in bars.values() for x in v if x is not None)]))
    ax.set_xlabel("share (density: ratio)")
    text = []
    if a.log_likelihood is not None:
        text.append(f"log-likelihood {a.log_likelihood:.4g} ± {a.log_likelihood_se:.2g} nats")
    if a.kl is not None:
        text.append(f"KL {a.kl:.3g} ± {a.kl_se:.2g} nats")
    if a.energy_distance is not None:
        reference = "" if a.energy_distance_ref is None else f" (real {a.energy_distance_ref:.2g})"
        text.append(f"energy distance {a.energy_distance:.2g}{reference}")
    text.append(f"{float(f'{g.events_per_second:.2g}'):,.0f} events/s")
    ax.set_title("\n".join(text), fontsize=9, loc="left")
    if bars:
        ax.legend(loc="lower right", fontsize=8)
