"""Paths between events, and events that are made by moving the latent coordinates of others."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxgen.core import inputs
from jaxgen.core.promotion import standard_promotion
from jaxgen.metrics import events_figure
from jaxgen.metrics.features.latent_space import (
    events_of_latents,
    latents,
    leaves_of,
    names_of_features,
    shown_shape,
    size_of,
)
from jaxgen.training.fitted import Fitted
from jaxgen.training.paths import moved_conditions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KINDS = "spherical", "linear"
_SHOWN = 8  # coordinates of a traversal that are chosen by default


class Interpolation(NamedTuple):
    """Events on a path between two events: see ``interpolation``.

    Attributes:
      events: (steps, *event_shape); the first and the last are the events given.
      t: (steps,) from 0 to 1.
      kind: "spherical" or "linear".
      names: of the features, for events that are vectors.
      shape: that in which an event is drawn.
    """

    events: np.ndarray
    t: np.ndarray
    kind: str
    names: tuple[str, ...]
    shape: tuple[int, ...]

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """A Matplotlib figure of the events in a row; ``path`` is a file to save it to."""
        title = f"Interpolation, {self.kind}"
        events = events_figure.in_shape(self.events[None], self.shape)
        table = events_figure.Table(events, [""], "t", self.t, self.names)
        return events_figure.draw(title, [table], path)


class Traversal(NamedTuple):
    """Events that differ in one latent coordinate: see ``traversal``.

    Attributes:
      events: (coordinates, values, *event_shape).
      coordinates: (c,) numbers of the coordinates that were moved.
      values: (v,) the values that each of them takes.
      changes: (c,) root mean square difference of the features between the events at the lowest and
        at the highest value, in units of x.
      names: of the features, for events that are vectors.
      shape: that in which an event is drawn.
    """

    events: np.ndarray
    coordinates: np.ndarray
    values: np.ndarray
    changes: np.ndarray
    names: tuple[str, ...]
    shape: tuple[int, ...]

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """A Matplotlib figure with a row for each coordinate; ``path`` is a file to save it to."""
        return events_figure.draw("Latent coordinates moved one by one", [self.table()], path)

    def table(self, most: int | None = None) -> events_figure.Table:
        """The first ``most`` rows of the figure."""
        rows = [f"z{j}" for j in self.coordinates[:most]]
        events = events_figure.in_shape(self.events[:most], self.shape)
        return events_figure.Table(events, rows, "value of the coordinate", self.values, self.names)


@standard_promotion
def interpolation(
    fitted: Fitted,
    x0: Any,
    x1: Any,
    steps: int = 8,
    y0: Any = None,
    y1: Any = None,
    kind: str = "spherical",
) -> Interpolation:
    """Events on a path from x0 to x1 through latent space.

        linear     z(t) = (1 - t) z0 + t z1
        spherical  z(t) = ((1 - t) z0 + t z1) / sqrt((1 - t)^2 + t^2)

    In d dimensions the latents of an event have a norm near sqrt(d). A linear path between two
    events leaves that shell, so its middle is more average than events are; a spherical path stays.
    Noise that ``latents`` leaves out is averaged over, as in ``events_of_latents``.

    Args:
      fitted: a ``Fitted`` model with ``pull``.
      x0, x1: events of event_shape, or tables of one row.
      steps: number of events, at least 2.
      y0, y1: their conditions, as in ``Fitted.path``, which makes the spherical path.
      kind: "spherical" or "linear".

    Raises:
      TypeError, ValueError, NotImplementedError: as in ``Fitted.path``; or an unknown kind.

    Source: Agustsson et al. 2019: see ``jaxgen.training.paths``.

    >>> interpolation(fitted, x[0], x[1], steps=5).events.shape
    (5, 2)
    """
    if kind not in _KINDS:
        raise ValueError(f"kind must be one of {', '.join(map(repr, _KINDS))}; got {kind!r:.40}")
    events = np.asarray(fitted.path(x0, x1, steps, y0, y1))
    t = np.linspace(0, 1, len(events))
    leaves = leaves_of(fitted, "interpolation")
    if (kind == "linear" or not all(moves for _, moves in leaves)) and len(events) > 2:
        # the ends of the path are checked events; the numbers of labels are their names here
        dtype = inputs.float_dtype(fitted.params)
        y = moved_conditions(fitted, y0, y1, t, dtype)
        numbered = Fitted(fitted.model, fitted.params, pixels=fitted.pixels)
        z = latents(numbered, events[[0, -1]], None if y is None else y[[0, -1]])
        norm = np.sqrt((1 - t) ** 2 + t**2) if kind == "spherical" else np.ones_like(t)
        moved = ((1 - t)[:, None] * z[0] + t[:, None] * z[1]) / norm[:, None]
        events = events.astype(dtype)  # a mean of levels is no whole number
        events[1:-1] = events_of_latents(numbered, moved, y)[1:-1]
    return Interpolation(events, t, kind, names_of_features(fitted), shown_shape(fitted))


@standard_promotion
def traversal(
    fitted: Fitted,
    x: Any = None,
    y: Any = None,
    *,
    coordinates: Sequence[int] | None = None,
    values: Sequence[float] = (-2, -1, 0, 1, 2),
) -> Traversal:
    """Events that differ in one latent coordinate at a time, for several coordinates.

    Args:
      fitted: a ``Fitted`` model with ``pull``.
      x: the event (*event_shape) whose other coordinates are kept; None for coordinates of 0.
      y: its condition or label, for a conditional model.
      coordinates: numbers of the coordinates to move. None takes the 8 that change the event most,
        in that order. The change is the root mean square over features of the difference between
        the events at the lowest and the highest value. Features of vectors count in units of their
        standard deviation over these events.
      values: values of the coordinate, in standard deviations of the model.

    Raises:
      TypeError, ValueError, NotImplementedError: as in ``latents``; or a coordinate or value is out
        of range.

    Source: Higgins et al. 2017, "beta-VAE: learning basic visual concepts with a constrained
    variational framework" (figures of traversals).

    >>> traversal(fitted, x[0], values=(-1, 0, 1)).events.shape
    (2, 3, 2)
    """
    d = size_of(leaves_of(fitted, "traversal"))
    values = inputs.numbers(values, "values")
    moved = np.asarray(values, np.float64)
    if moved.ndim != 1 or len(moved) < 2 or not np.isfinite(moved).all():
        raise ValueError(f"values must be at least two finite numbers, got {values!s:.60}")
    base = (
        np.zeros(d) if x is None else latents(fitted, np.asarray(fitted.events_of(x))[None], y)[0]
    )
    chosen = np.arange(d) if coordinates is None else np.asarray(coordinates)
    if chosen.ndim != 1 or not len(chosen) or chosen.dtype.kind not in "iu":
        raise TypeError(f"coordinates must be ints, at least one; got {coordinates!s:.60}")
    if chosen.min() < 0 or chosen.max() >= d:
        raise ValueError(f"coordinates must be from 0 to {d - 1}; got {coordinates!s:.60}")

    def events_at(coordinates: np.ndarray, values: np.ndarray) -> np.ndarray:
        z = np.tile(base, (len(coordinates), len(values), 1))
        z[np.arange(len(coordinates)), :, coordinates] = values
        events = events_of_latents(fitted, z.reshape(-1, d), y)
        return events.reshape(*z.shape[:2], *fitted.model.event_shape)

    ends = events_at(chosen, np.array([moved.min(), moved.max()]))
    difference = (ends[:, 1] - ends[:, 0]).reshape(len(chosen), -1).astype(np.float64)
    changes = np.sqrt((difference**2).mean(1))
    if coordinates is None:
        scale = ends.reshape(2 * len(chosen), -1).std(0)
        unit = np.where(scale > 0, scale, 1) if len(fitted.model.event_shape) < 2 else 1.0
        order = np.argsort(-((difference / unit) ** 2).mean(1), kind="stable")[:_SHOWN]
        chosen, changes = chosen[order], changes[order]
    return Traversal(
        events_at(chosen, moved),
        chosen,
        moved,
        changes,
        names_of_features(fitted),
        shown_shape(fitted),
    )
