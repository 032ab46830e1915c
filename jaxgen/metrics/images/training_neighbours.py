"""The training events nearest to draws, to see whether a model copies."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxgen.core import inputs
from jaxgen.metrics import events_figure
from jaxgen.metrics.distances import blocks, rows
from jaxgen.metrics.features.latent_space import check_known
from jaxgen.training.progress import Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 8  # draws in the figure


class NearestTraining(NamedTuple):
    """Draws and the training events nearest to them: see ``nearest_training``.

    Attributes:
      samples: (n, *event_shape), the draws.
      events: (n, k, *event_shape), the nearest training events, the nearest first.
      indices: (n, k) their rows in the training data.
      distances: (n, k) Euclidean distances, in units of x.
    """

    samples: np.ndarray
    events: np.ndarray
    indices: np.ndarray
    distances: np.ndarray

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """A Matplotlib figure of the draws that are nearest to training events, beside these."""
        title = "Draws beside their nearest training events, nearest first"
        return events_figure.draw(title, [self.table()], path)

    def table(self, most: int = _SHOWN) -> events_figure.Table:
        """The rows of the figure: those draws that are nearest to a training event."""
        chosen = np.argsort(self.distances[:, 0], kind="stable")[:most]
        both = np.concatenate([self.samples[chosen, None], self.events[chosen]], 1)
        names = [f"distance {self.distances[i, 0]:.3g}" for i in chosen]
        k = self.events.shape[1]
        columns = ["draw", "nearest", *(f"{place + 1}." for place in range(1, k))]
        return events_figure.Table(both, names, "", columns)


def nearest_training(
    samples: ArrayLike, train: ArrayLike, k: int = 3, *, progress: bool | None = None
) -> NearestTraining:
    """The k training events nearest to each draw, by Euclidean distance of the features.

    ``copying`` measures whether draws are nearer to training events than held-out events are.

    Args:
      samples: draws (n, *event_shape).
      train: training events (m, *event_shape).
      k: the number of neighbours, at most m.
      progress: whether to show a bar; None shows one on a terminal after two seconds.

    Raises:
      TypeError, ValueError: an argument has the wrong kind or shape, is empty or holds NaN.

    >>> found = nearest_training(fitted.sample(key, 5), x, k=2)
    >>> found.events.shape, found.distances.shape
    ((5, 2, 2), (5, 2))
    """
    drawn, known = (
        np.asarray(inputs.numbers(value, name))
        for value, name in ((samples, "samples"), (train, "train"))
    )
    if drawn.ndim < 1 or drawn.shape[1:] != known.shape[1:] or not (len(drawn) and len(known)):
        raise ValueError(
            "samples and train must hold events of one shape, at least one; got shapes "
            f"{drawn.shape} and {known.shape}"
        )
    for array, name in ((drawn, "samples"), (known, "train")):
        check_known(array, name)
    k = inputs.as_count(k, "k", 1)
    if k > len(known):
        raise ValueError(f"k must be at most the number of training events {len(known)}, got {k}")
    indices, distances = np.empty((len(drawn), k), int), np.empty((len(drawn), k))
    with Progress(progress, len(drawn), unit="draw", task="nearest_training") as bar:
        for part, squared in blocks(rows(drawn), rows(known)):
            near = np.argpartition(squared, k - 1, axis=1)[:, :k]
            found = np.take_along_axis(squared, near, 1)
            order = np.argsort(found, 1, kind="stable")
            indices[part] = np.take_along_axis(near, order, 1)
            distances[part] = np.sqrt(np.take_along_axis(found, order, 1))
            bar.advance(len(near))
    return NearestTraining(drawn, known[indices], indices, distances)
