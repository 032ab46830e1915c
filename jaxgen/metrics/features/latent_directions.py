"""The direction of an attribute in latent space, and events moved along it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxgen.core import inputs
from jaxgen.core.promotion import standard_promotion
from jaxgen.metrics import events_figure
from jaxgen.metrics.features.latent_space import (
    events_of_latents,
    latents,
    names_of_features,
    shown_shape,
)
from jaxgen.training.fitted import Fitted

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Direction(NamedTuple):
    """The direction of an attribute in latent space: see ``attribute_direction``.

    Attributes:
      vector: (d,) the mean latents of events with the attribute, less those of events without.
      length: the Euclidean norm of the vector. A coordinate has standard deviation 1 in the model.
      separation: probability that an event with the attribute lies further in the direction than
        one without, for events that the direction was not computed from. .5 is chance.
    """

    vector: np.ndarray
    length: float
    separation: float


class Moves(NamedTuple):
    """Events moved along a direction in latent space: see ``move_along``.

    Attributes:
      events: (n, amounts, *event_shape).
      amounts: (a,) multiples of the direction that were added to the latents.
      names: of the features, for events that are vectors.
      shape: that in which an event is drawn.
    """

    events: np.ndarray
    amounts: np.ndarray
    names: tuple[str, ...]
    shape: tuple[int, ...]

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """A Matplotlib figure with a row for each event; ``path`` is a file to save it to."""
        rows = [f"event {i}" for i in range(len(self.events))]
        label = "multiple of the direction"
        events = events_figure.in_shape(self.events, self.shape)
        table = events_figure.Table(events, rows, label, self.amounts, self.names)
        return events_figure.draw("Events moved along a direction", [table], path)


@standard_promotion
def attribute_direction(fitted: Fitted, x: Any, has: ArrayLike, y: Any = None) -> Direction:
    """The direction of an attribute in latent space: the difference of two means of latents.

        direction = mean of z(x) over events with it - mean of z(x) over events without it

    Args:
      fitted: a ``Fitted`` model with ``pull``.
      x: events (n, *event_shape).
      has: (n,) bools, or numbers 0 and 1: which events have the attribute; at least two of each.
      y: conditions or labels, for a conditional model.

    Returns:
      A ``Direction``; give its vector to ``move_along``.

    Raises:
      TypeError, ValueError, NotImplementedError: as in ``latents``; or ``has`` is not of this kind.

    Source: Larsen et al. 2016, "Autoencoding beyond pixels using a learned similarity metric"
    (visual attribute vectors).

    >>> attribute_direction(fitted, x, x[:, 0] > 0).separation > 0.9
    True
    """
    z = latents(fitted, x, y)
    marks = np.asarray(inputs.numbers(has, "has"))
    if marks.shape != (len(z),):
        raise ValueError(f"has must have shape ({len(z)},), one for each event; got {marks.shape}")
    if not np.isin(marks, (0, 1)).all():
        raise ValueError(f"has must hold bools, or 0 and 1; got {np.unique(marks)[:3]}")
    count = int((marks == 1).sum())
    if not 2 <= count <= len(z) - 2:
        raise ValueError(
            f"has must mark at least two events with the attribute and two without; it marks "
            f"{count} of {len(z)}"
        )
    return direction_of(z, marks == 1)


def direction_of(z: np.ndarray, has: np.ndarray) -> Direction:
    """The ``Direction`` of an attribute, from latents (n, d) and bools (n,), two of each."""
    having, lacking = z[has], z[~has]
    shares = []
    for half in (0, 1):
        vector = having[half::2].mean(0) - lacking[half::2].mean(0)
        above, below = having[1 - half :: 2] @ vector, np.sort(lacking[1 - half :: 2] @ vector)
        ranks = [np.searchsorted(below, above, side) for side in ("left", "right")]
        shares.append(float(np.mean(ranks) / len(below)))
    vector = having.mean(0) - lacking.mean(0)
    return Direction(vector, float(np.linalg.norm(vector)), float(np.mean(shares)))


@standard_promotion
def move_along(
    fitted: Fitted,
    x: Any,
    direction: ArrayLike,
    amounts: Sequence[float] = (-2, -1, 0, 1, 2),
    y: Any = None,
) -> Moves:
    """Events with a direction added to their latents: thicker, more slanted, ...

    Args:
      fitted: a ``Fitted`` model with ``pull``.
      x: events (n, *event_shape).
      direction: (d,), such as the vector of ``attribute_direction``. Then 1 moves an event as far
        as the means of events with and without the attribute are apart.
      amounts: multiples of the direction.
      y: conditions or labels (n, *y_shape), for a conditional model.

    Returns:
      ``Moves``, with events (n, len(amounts), *event_shape).

    Raises:
      TypeError, ValueError, NotImplementedError: as in ``latents``.

    >>> right = attribute_direction(fitted, x, x[:, 0] > 0)
    >>> moves = move_along(fitted, x[:3], right.vector, amounts=(0, 1))
    >>> bool((moves.events[:, 1, 0] > moves.events[:, 0, 0]).all())
    True
    """
    z = latents(fitted, x, y)
    vector = np.asarray(inputs.numbers(direction, "direction"), np.float64)
    if vector.shape != z.shape[1:] or not np.isfinite(vector).all():
        raise ValueError(
            f"direction must have shape {z.shape[1:]} and be finite; got {vector!s:.60} of shape "
            f"{vector.shape}"
        )
    steps = np.asarray(inputs.numbers(amounts, "amounts"), np.float64)
    if steps.ndim != 1 or not len(steps) or not np.isfinite(steps).all():
        raise ValueError(f"amounts must be finite numbers, at least one; got {amounts!s:.60}")
    moved = z[:, None] + steps[:, None] * vector
    rows = None
    if y is not None:
        rows = np.asarray(fitted.conditions_of(y))
        shape = len(z), *(fitted.model.y_shape or ())
        rows = np.repeat(np.broadcast_to(rows, shape), len(steps), 0)
    numbered = Fitted(fitted.model, fitted.params, pixels=fitted.pixels)
    events = events_of_latents(numbered, moved.reshape(-1, z.shape[1]), rows)
    events = events.reshape(len(z), len(steps), *fitted.model.event_shape)
    return Moves(events, steps, names_of_features(fitted), shown_shape(fitted))
