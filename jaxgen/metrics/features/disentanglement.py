"""How well single latent coordinates predict the factors that an event was made from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxgen.core import dataframes, inputs, places
from jaxgen.core.places import Message
from jaxgen.core.promotion import standard_promotion
from jaxgen.metrics.features import probes_figure
from jaxgen.metrics.features.latent_space import check_known
from jaxgen.metrics.features.linear import bins_of, principal_components, split
from jaxgen.metrics.features.probes import latents_and_rows
from jaxgen.training.fitted import Fitted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BINS = 20  # of a coordinate; fewer for a few events
_IN_BIN = 20  # events that a bin has at least


class FactorShares(NamedTuple):
    """The share of each factor's variance that single coordinates explain: see ``factor_shares``.

    Attributes:
      names: the names of the k factors.
      shares: (k, d) share that each latent coordinate explains, on held-out events.
      best: (k,) number of the coordinate that explains most.
      explained: (k,) the share that it explains.
      gap: (k,) by how much the next best coordinate explains less.
      pca: (k,) the share that the best of as many principal components of the events explains.
    """

    names: tuple[str, ...]
    shares: np.ndarray
    best: np.ndarray
    explained: np.ndarray
    gap: np.ndarray
    pca: np.ndarray

    def __str__(self) -> str:
        width = max(6, *map(len, self.names))
        lines = [f"{'factor':{width}}  best  explained    gap    PCA"]
        for name, *values in zip(*self[:1], *self[2:], strict=True):
            best, explained, gap, pca = values
            lines.append(
                f"{name:{width}}  {f'z{best}':>4}  {explained:9.3f}  {gap:5.3f}  {pca:5.3f}"
            )
        return "\n".join(lines)

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """A Matplotlib figure: shares by factor and coordinate, and the best beside PCA."""
        return probes_figure.draw_factors(self, path)


@standard_promotion
def factor_shares(
    source: Fitted | ArrayLike,
    x: Any,
    factors: Any,
    names: Sequence[str] | None = None,
    y: Any = None,
) -> FactorShares:
    """The share of variance of each factor that its best latent coordinate explains alone.

    A regression on one coordinate predicts the mean of the factor in each of up to 20 bins, which
    hold equally many events. On a held-out fifth of the events, f a factor,

        share = 1 - sum_i (f_i - prediction_i)^2 / sum_i (f_i - mean f)^2

    and 0 where that is negative. Bins find dependence that is not linear, such as that of an angle.
    A factor of strings is predicted as an indicator of each of its values.

    Args:
      source: a ``Fitted`` model with ``pull``, or the latents (n, d) of the events.
      x: events (n, *event_shape).
      factors: numbers (n, k), or a table or dict of k columns, which may be numbers or strings.
      names: the names of the k factors; None takes those of the columns.
      y: conditions or labels, for a conditional model.

    Returns:
      ``FactorShares``, with the same for the principal components of the events beside it.

    Raises:
      TypeError, ValueError, NotImplementedError: as in ``latents``; or factors do not suit x, or
        one of them is constant.

    Sources: Kumar, Sattigeri and Balakrishnan 2018, "Variational inference of disentangled latent
    concepts from unlabeled observations" (SAP: the gap of R^2 by linear regression); Locatello et
    al. 2019, "Challenging common assumptions in the unsupervised learning of disentangled
    representations" (which compares it with DCI and MIG).

    >>> shares = factor_shares(fitted, x, {"east": x[:, 1], "sum": x.sum(1)})
    >>> shares.names, shares.shares.shape
    (('east', 'sum'), (2, 2))
    """
    z, events = latents_and_rows(source, x, y)
    columns, found = _factors(factors, names, len(z))
    train, test = split(len(z))
    components = principal_components(events[train], min(z.shape[1], events.shape[1]))
    shares = _shares(z, columns, train, test)
    of_pca = _shares(components(events), columns, train, test)
    ordered = np.sort(shares, 1)
    second = ordered[:, -2] if shares.shape[1] > 1 else np.zeros(len(columns))
    return FactorShares(
        found, shares, shares.argmax(1), ordered[:, -1], ordered[:, -1] - second, of_pca.max(1)
    )


def _factors(
    factors: Any, names: Sequence[str] | None, n: int
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """The factors as columns (n, indicators) or (n, 1), and their names."""
    if isinstance(factors, Mapping) or dataframes.is_table(factors):
        held = dataframes.column_names(factors, "factors")
        if held is None:
            raise ValueError("factors must have columns with names")
        values = [np.asarray(factors[name]) for name in held]
    else:
        array = np.asarray(factors)
        array = array[:, None] if array.ndim == 1 else array
        if array.ndim != 2:
            raise ValueError(f"factors must have shape (n, k), got {array.shape}")
        held, values = tuple(f"factor {j}" for j in range(array.shape[1])), list(array.T)
    found = held if names is None else tuple(map(str, names))
    if len(found) != len(values) or not values:
        raise ValueError(f"names must name the {len(values)} factors, got {len(found)} names")
    columns = []
    for name, value in zip(found, values, strict=True):
        label = f"factors: {name!r}"
        if value.shape != (n,):
            raise ValueError(
                f"{label} must have one value for each of {n} events; got {value.shape}"
            )
        if value.dtype.kind in "OUT":
            missing = [i for i, v in enumerate(value.tolist()) if dataframes.is_missing(v)]
            if missing:
                raise ValueError(Message(f"{label} is missing in ", places.row(missing[0])))
            kinds = np.unique(value.astype(str))
            column = (value.astype(str)[:, None] == kinds).astype(np.float64)
        else:
            column = np.asarray(inputs.numbers(value, label), np.float64)[:, None]
        check_known(column[:, 0], label)
        if (column == column[0]).all():
            raise ValueError(f"{label} must vary; all its values are {value[0]}")
        columns.append(column)
    return columns, tuple(found)


def _shares(
    z: np.ndarray, columns: list[np.ndarray], train: np.ndarray, test: np.ndarray
) -> np.ndarray:
    """The share (k, d) of each factor's variance on the test rows that each column explains."""
    bins = int(np.clip(len(train) // _IN_BIN, 2, _BINS))
    out = np.zeros((len(columns), z.shape[1]))
    for j, coordinate in enumerate(z.T):
        edges = bins_of(coordinate[train], bins)
        place = np.searchsorted(edges, coordinate, "right")
        count = np.bincount(place[train], minlength=len(edges) + 1)
        for k, column in enumerate(columns):
            mean, error = column[train].mean(0), 0.0
            for i, target in enumerate(column.T):
                total = np.bincount(place[train], target[train], len(edges) + 1)
                predicted = np.where(count > 0, total / np.maximum(count, 1), mean[i])
                error += ((target[test] - predicted[place[test]]) ** 2).sum()
            spread = ((column[test] - column[test].mean(0)) ** 2).sum()
            out[k, j] = max(0.0, 1 - error / spread) if spread > 0 else 0.0
    return out
