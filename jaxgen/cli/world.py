"""The command ``jaxgen world``: models fitted to points on the land of the world."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from jaxgen.core.model import Model
from jaxgen.data import output
from jaxgen.data.datasets import land
from jaxgen.metrics import kl_divergence, throughput
from jaxgen.models import KDE, Box, Gaussian, GaussianMixture, Histogram, MaskedAutoregressive
from jaxgen.networks.domains import Circle, Interval
from jaxgen.training import fit
from jaxgen.training.fitted import Fitted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEST_EVENTS = 20_000
MAP = ((-180.0, 180.0), (-90.0, 90.0))  # degrees of longitude and latitude
EM_STEPS = 60  # after which a step improves a mixture by less than .001 nats
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
    """The results of one family.

    Attributes:
      model: name of the family.
      kl: KL divergence from the land, in nats.
      kl_error: its standard error.
      on_land: share of samples on land.
      fit_seconds: time of the fit.
      events_per_second: speed of sampling.
    """

    model: str
    kl: float
    kl_error: float
    on_land: float
    fit_seconds: float
    events_per_second: float


def run(
    events: int = 100_000,
    seed: int = 0,
    json_path: str | os.PathLike[str] | None = None,
    figure_path: str | os.PathLike[str] | None = "world.png",
    quick: bool = False,
) -> list[Row]:
    """Fit every family to observations of ``datasets.land()``; print a table and draw a figure.

    Args:
      events: number of training events.
      seed: seed of the observations, the fits and the samples.
      json_path: file for the table, as a JSON list of rows; None for no file. A number that is
        infinite or NaN is null, and the "notes" of its row give its value.
      figure_path: file for the figure, whose ending, such as .png, .pdf or .svg, sets the format;
        None for no file.
      quick: leave out the mixtures of many components and the flow, which take most of the time.

    Returns:
      The rows of the table.

    Raises:
      ValueError, OSError: a file cannot be written; raised before the work begins.
    """
    if json_path is not None:
        output.writable(json_path)
    if figure_path is not None:
        output.check_figure(figure_path, others=[json_path])
    p_data, x, x_test, keys = observations(events, seed)
    families = {k: v for k, v in FAMILIES.items() if not (quick and k in SLOW)}

    print(f"{events:,} observations, uniform over the land of the world; {p_data.model}")
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
    print("the truth             0.000            1.000")
    if json_path is not None:
        plain = (output.finite(row._asdict()) for row in rows)
        output.write_json(json_path, [{**row, "notes": notes} for row, notes in plain])
        print(f"rows written to {json_path}")
    if figure_path is not None:
        output.write_figure(draw(p_data, x, fits, rows), figure_path)
        print(f"figure written to {figure_path}")
    return rows


def observations(events: int, seed: int) -> tuple[Fitted, np.ndarray, np.ndarray, jax.Array]:
    """Training events and test events that are uniform over the land of the world.

    Returns:
      The distribution, (events, 2) training events, (TEST_EVENTS, 2) test events, and two keys for
      a fit and for samples.
    """
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
    """A figure of the data and of each model's density, samples and largest errors.

    Args:
      p_data: the land.
      x: observations (n, 2), in degrees.
      fits: the fitted models by name.
      rows: their rows of the table, in the same order.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FormatStrFormatter

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
    bar.ax.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    figure.legend(*density.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


class _Grid(NamedTuple):
    """Cell centres of a regular map, (rows, columns).

    Attributes:
      longitude, latitude: of the centres, in degrees.
      land: whether a centre is on land.
      log_land: the log density of the land.
    """

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
        """The density of a model in units of the true density on land, (rows, columns)."""
        points = np.stack([self.longitude, self.latitude], -1)
        return np.exp(np.asarray(fitted.log_prob(points), np.float64) - self.log_land)

    def wrong(self, ratio, half=2):
        """Yields the square in the sea with the highest mean density, and on land with the lowest.

        Each is a tuple of label, marker, colour and (longitude, latitude).
        """
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
    from matplotlib.colors import LogNorm

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
