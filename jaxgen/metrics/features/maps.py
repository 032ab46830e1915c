"""A map of events in two dimensions of latent space, coloured by label."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxgen.core.promotion import standard_promotion
from jaxgen.metrics.accuracy import vote_of_neighbours
from jaxgen.metrics.features import probes_figure
from jaxgen.metrics.features.linear import principal_components
from jaxgen.metrics.features.probes import (
    latents_and_rows,
    mutual_information,
    numbers_of_labels,
)
from jaxgen.training.fitted import Fitted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST = 4000  # events that the plane is chosen on, and that are shown
_LEAST = 20  # events of a map
_RIDGE = 0.01  # of the variance within labels, added to its covariance


class LatentMap(NamedTuple):
    """Events in a plane of latent space: see ``latent_map``.

    Attributes:
      points: (n, 2) places of the events shown, which the plane was not computed from.
      numbers: (n,) their labels, as places in ``labels``.
      labels: the names of the labels.
      kind: "two coordinates", "principal components" or "discriminants".
      axes: the names of the two axes.
      accuracy: share of events whose label is that of most of their 5 nearest neighbours in the
        map, of half of the events shown among the other half.
    """

    points: np.ndarray
    numbers: np.ndarray
    labels: tuple[Any, ...]
    kind: str
    axes: tuple[str, str]
    accuracy: float

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """A Matplotlib figure of the map; ``path`` is a file to save it to."""
        return probes_figure.draw_map(self, path)


@standard_promotion
def latent_map(source: Fitted | ArrayLike, x: Any, labels: Any, y: Any = None) -> LatentMap:
    """A map of events in the plane of latent space in which labels are best apart.

    Three planes are computed from one half of the events, and the other half is shown in the one
    of highest accuracy: that of the two coordinates with the highest mutual information with the
    label; that of two principal components of the latents; and that of two linear discriminants,
    the directions in which the means of labels differ most, relative to the spread within labels.

    Args:
      source: a ``Fitted`` model with ``pull``, or the latents (n, d) of the events, d at least 2.
      x: events (n, *event_shape), at least 20. At most 4000 of each half are used.
      labels: (n,) labels, strings or ints, at least two kinds.
      y: conditions or labels, for a conditional model.

    Raises:
      TypeError, ValueError, NotImplementedError: as in ``probe``; or there are too few latents or
        events.

    Source: Fisher 1936, "The use of multiple measurements in taxonomic problems" (discriminants).

    >>> latent_map(fitted, x, x[:, 0] > 0).accuracy > 0.9
    True
    """
    z, _ = latents_and_rows(source, x, y)
    numbers, names = numbers_of_labels(labels, len(z), "labels")
    if z.shape[1] < 2 or len(z) < _LEAST:
        raise ValueError(
            f"a map needs at least 2 latents and {_LEAST} events; got {z.shape[1]} and {len(z)}"
        )
    order = np.random.default_rng(21).permutation(len(z))
    half = len(z) // 2
    known, shown = order[:half][:_MOST], order[half:][:_MOST]
    best: LatentMap | None = None
    for kind, axes, plane in _planes(z[known], numbers[known], len(names)):
        points, at = plane(z[shown]), len(shown) // 2
        votes = vote_of_neighbours(points[:at], points[at:], numbers[shown[at:]])
        accuracy = float((votes == numbers[shown[:at]]).mean())
        if best is None or accuracy > best.accuracy:
            best = LatentMap(points, numbers[shown], names, kind, axes, accuracy)
    assert best is not None
    return best


def _planes(z: np.ndarray, numbers: np.ndarray, kinds: int) -> list[tuple[Any, ...]]:
    """The planes as (kind, names of the axes, function from latents to points)."""
    found: list[tuple[Any, ...]] = []
    if min(np.bincount(numbers, minlength=kinds)) > 1:
        i, j = np.sort(np.argsort(-mutual_information(z, numbers), kind="stable")[:2]).tolist()
        found.append(("two coordinates", (f"z{i}", f"z{j}"), lambda z: z[:, [i, j]]))
    names = tuple(f"principal component {k} of the latents" for k in (1, 2))
    found.append(("principal components", names, principal_components(z, 2)))
    names = tuple(f"discriminant {k} of the latents" for k in (1, 2))
    found.append(("discriminants", names, _discriminants(z, numbers, kinds)))
    return found


def _discriminants(z: np.ndarray, numbers: np.ndarray, kinds: int) -> Any:
    """A function from latents (m, d) to the two linear discriminants (m, 2)."""
    from scipy.linalg import eigh

    d, count = z.shape[1], np.bincount(numbers, minlength=kinds)
    total = np.zeros((kinds, d))
    np.add.at(total, numbers, z)
    means = total / np.maximum(count, 1)[:, None]
    inner, apart = z - means[numbers], (means - z.mean(0))[count > 0]
    within = inner.T @ inner / len(z)
    within += np.eye(d) * (_RIDGE * np.trace(within) / d + 1e-12)
    between = (apart * count[count > 0, None]).T @ apart / len(z)
    # two labels have one discriminant; the spread makes the second that of most variance
    between += 1e-6 * np.cov(z.T)
    vectors = eigh(between, within, subset_by_index=[d - 2, d - 1])[1][:, ::-1]
    return lambda rows: (rows - z.mean(0)) @ vectors
