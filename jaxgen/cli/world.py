"""`jaxgen world`: models of growing quality, fitted to points spread over the land of the world."""

from __future__ import annotations

import os
import time
from typing import Any, NamedTuple

import jax
import matplotlib
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from tqdm import tqdm

from jaxgen.core.model import Model
from jaxgen.data import output
from jaxgen.data.datasets import land
from jaxgen.metrics import kl_divergence, throughput
from jaxgen.models import KDE, Box, Gaussian, GaussianMixture, Histogram, MaskedAutoregressive
from jaxgen.networks.domains import Circle, Interval
from jaxgen.training import fit
from jaxgen.training.fitted import Fitted

TEST_EVENTS = 20_000
MAP = ((-180.0, 180.0), (-90.0, 90.0))  # degrees of longitude and latitude
EM_STEPS = 60  # by then a mixture gains less than .001 nats a step
FLOW, FLOW_SETTINGS = "MaskedAutoregressive", {"epochs": 20, "batch_size": 512}
GLOBE = Circle(*MAP[0]), Interval(*MAP[1])
SLOW = "GaussianMixture 64", "GaussianMixture 256", FLOW

FAMILIES: dict[str, Model] = {
    "Gaussian": Gaussian(2),
    "Box": Box(2, margin=0.001),
    "GaussianMixture 16": GaussianMixture(2, 16),
    "GaussianMixture 64": GaussianMixture(2, 64),
    "GaussianMixture 256": GaussianMixture(2, 256),
    "Histogram 180x90": Histogram((180, 90), MAP),
    "KDE": KDE(2),
    FLOW: MaskedAutoregressive(2, layers=2, width=128, depth=3, bins=32, domain=GLOBE),
}


class Row(NamedTuple):
    """How one family did: KL in nats with its standard error, share of samples on land, speed."""

    model: str
    kl: float
    kl_error: float
    on_land: float
    fit_seconds: float
    events_per_second: float


def run(
    events: int = 100_000,
    seed: int = 0,
    json_path: str | os.PathLike | None = None,
    figure_path: str | os.PathLike | None = "world.png",
    quick: bool = False,
) -> list[Row]:
    """Fit every family to observations of ``datasets.land()``; print a table and draw a figure.

    Args:
      events: number of observations to learn from.
      seed: of the observations, the fits and the samples.
      json_path: where to write the table as a JSON list of rows; None: nowhere. A number that is
        infinite or NaN is null, and "notes" of its row says so.
      figure_path: where to write the figure, PNG, PDF or SVG by its ending; None: nowhere.
      quick: leave out the mixtures of many components and the flow, which take most of the time.

    Returns:
      The rows of the table.

    Raises:
      ValueError, OSError: the table or the figure cannot be written there; asked before the work.
    """
    if json_path is not None:
        output.writable(json_path)
    if figure_path is not None:
        output.check_figure(figure_path, others=[json_path])
    p_data, x, x_test, keys = observations(events, seed)
    families = {k: v for k, v in FAMILIES.items() if not (quick and k in SLOW)}

    print(f"{events:,} observations spread evenly over the land of the world; {p_data.model}")
    print(f"{'model':<20} {'KL, nats':>15} {'on land':>8} {'fit, s':>7} {'events/s':>11}")
    rows, fits = [], {}
    for name in tqdm(families, disable=None, leave=False, unit="model"):
        fitted, row = _measure(name, families[name], x, x_test, p_data, keys)
        fits[name] = fitted
        rows.append(row)
        tqdm.write(
            f"{name:<20} {row.kl:>7.3f} +- {row.kl_error:.3f} {row.on_land:>8.3f} "
            f"{row.fit_seconds:>7.2f} {row.events_per_second:>11,.0f}"
        )
    print("the truth itself      0.000            1.000")
    if json_path is not None:
        plain = (output.finite(row._asdict()) for row in rows)
        output.write_json(json_path, [{**row, "notes": notes} for row, notes in plain])
        print(f"rows written to {json_path}")
    if figure_path is not None:
        output.write_figure(draw(p_data, x, fits, rows), figure_path)
        print(f"figure written to {figure_path}")
    return rows


def observations(events: int, seed: int) -> tuple[Fitted, np.ndarray, np.ndarray, jax.Array]:
    """The land, points spread over it to learn from, and others to judge by; two keys more."""
    truth = land()
    p_data = Fitted(truth, truth.init(None))
    keys = jax.random.split(jax.random.key(seed), 4)
    x, x_test = p_data.sample(keys[0], events), p_data.sample(keys[1], TEST_EVENTS)
    return p_data, np.asarray(x), np.asarray(x_test), keys[2:]


def _measure(name, model, x, x_test, p_data, keys):
    began = time.perf_counter()
    limits: dict[str, Any] = {"em": {"epochs": EM_STEPS}, "gradient": FLOW_SETTINGS}
    settings = limits.get(model.learning.method, {})
    fitted = jax.block_until_ready(fit(model, x, key=keys[0], progress=False, **settings))
    seconds = time.perf_counter() - began
    kl = kl_divergence(p_data.log_prob(x_test), fitted.log_prob(x_test))
    samples = fitted.sample(keys[1], len(x))
    on_land = float(np.isfinite(p_data.log_prob(samples)).mean())
    speed = throughput(fitted, keys[1], len(x)).events_per_second
    return fitted, Row(name, kl.value, kl.se, on_land, seconds, speed)


def draw(p_data: Fitted, x: np.ndarray, fits: dict[str, Fitted], rows: list[Row]) -> Figure:
    """The data, then each model's density and samples, with the places where it is most wrong.

    Args:
      p_data: the land.
      x: observations (n, 2), degrees.
      fits: the fitted models by name.
      rows: their figures, in the same order.
    """
    grid = _Grid.of(p_data)
    pairs = 1 + len(fits)
    lines = -(-pairs // 2)
    figure = Figure(figsize=(19, 2.75 * lines), layout="constrained")
    axes = figure.subplots(lines, 4, squeeze=False)
    cells = axes.reshape(-1, 2)

    truth, data = cells[0]
    image = _density(truth, grid.land.astype(float), grid)
    truth.set_title("the truth: density")
    _points(data, x[:5000], grid)
    data.set_title(f"the data: {min(5000, len(x)):,} of {len(x):,}")
    for (density, samples), (name, fitted), row in zip(cells[1:], fits.items(), rows, strict=False):
        ratio = grid.ratio(fitted)
        _density(density, ratio, grid)
        for label, marker, colour, place in grid.wrong(ratio):
            style = {"c": colour, "edgecolors": "black", "s": 110, "linewidths": 1.2, "zorder": 5}
            density.scatter(*place, marker=marker, label=label, clip_on=False, **style)
        density.set_title(f"{name}: density, KL {row.kl:.3f} nats")
        _points(samples, np.asarray(fitted.sample(jax.random.key(1), 5000)), grid)
        samples.set_title(f"{name}: samples, {100 * row.on_land:.1f} % on land")
    for ax in cells[pairs:].flat:
        ax.set_visible(False)
    for ax in axes[-1]:
        ax.set_xlabel("longitude, degrees")
    for ax in axes[:, 0]:
        ax.set_ylabel("latitude, degrees")
    label = "density, in units of the true density on land"
    bar = figure.colorbar(image, ax=axes, location="right", shrink=0.6, aspect=40, label=label)
    bar.ax.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    figure.legend(*density.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


class _Grid(NamedTuple):
    """Cell centres of a regular map, (rows, columns), and which of them are land."""

    longitude: np.ndarray
    latitude: np.ndarray
    land: np.ndarray
    log_land: float

    @classmethod
    def of(cls, p_data, step=1.0):
        longitude, latitude = np.meshgrid(
            np.arange(-180 + step / 2, 180, step), np.arange(-90 + step / 2, 90, step)
        )
        points = np.stack([longitude, latitude], -1)
        density = np.asarray(p_data.log_prob(points))
        return cls(longitude, latitude, np.isfinite(density), float(density.max()))

    def ratio(self, fitted):
        """Density in units of the true density on land."""
        points = np.stack([self.longitude, self.latitude], -1)
        return np.exp(np.asarray(fitted.log_prob(points), np.float64) - self.log_land)

    def wrong(self, ratio, half=2):
        """Where most density lies in the sea, and where least lies on land: means over squares."""
        width = 2 * half + 1
        mean = _sliding(ratio, width).mean((-2, -1))
        land = _sliding(self.land, width)
        worst = {
            "wrong: most density in the sea": (
                "X",
                "white",
                np.where(land.any((-2, -1)), -np.inf, mean).argmax(),
            ),
            "wrong: least density on land": (
                "o",
                "tab:orange",
                np.where(land.all((-2, -1)), mean, np.inf).argmin(),
            ),
        }
        for label, (marker, colour, flat) in worst.items():
            row, column = np.unravel_index(flat, mean.shape)
            cell = row + half, column + half
            yield label, marker, colour, (self.longitude[cell], self.latitude[cell])


def _sliding(image, width):
    return np.lib.stride_tricks.sliding_window_view(image, (width, width))


def _density(ax, ratio, grid):
    extent = (-180, 180, -90, 90)
    norm = LogNorm(0.03, 3, clip=True)
    image = ax.imshow(
        np.maximum(ratio, 1e-9), extent=extent, origin="lower", norm=norm, cmap="cividis"
    )
    _map(ax, grid)
    return image


def _points(ax, points, grid):
    ax.plot(*points.T, ".", color="tab:blue", markersize=1.2, alpha=0.6, rasterized=True)
    _map(ax, grid)


def _map(ax, grid):
    ax.contour(
        grid.longitude, grid.latitude, grid.land, levels=[0.5], colors="black", linewidths=0.4
    )
    ax.set(xlim=(-180, 180), ylim=(-90, 90), aspect="equal")
