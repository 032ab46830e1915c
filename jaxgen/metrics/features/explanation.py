"""What the latent coordinates of a model mean, as one report."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from scipy.special import ndtr

from jaxgen.core import dataframes, inputs
from jaxgen.core.promotion import standard_promotion
from jaxgen.data import output
from jaxgen.metrics.features import explanation_figure
from jaxgen.metrics.features.disentanglement import FactorShares, factor_shares
from jaxgen.metrics.features.latent_directions import direction_of
from jaxgen.metrics.features.latent_moves import Interpolation, Traversal, interpolation, traversal
from jaxgen.metrics.features.latent_space import latents, leaves_of
from jaxgen.metrics.features.maps import LatentMap, latent_map
from jaxgen.metrics.features.probes import Probe, numbers_of_labels, probe
from jaxgen.metrics.panels import percent, short
from jaxgen.metrics.representation import chance_levels, ks_distance
from jaxgen.training.fitted import Fitted
from jaxgen.training.progress import Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST = 10_000  # events that are used
_LEAST = 20
_SEED = 23
_ACTIVE = 0.01  # variance of a coordinate above which it depends on the event
_PATHS = 6  # interpolations
_LINES = 12  # coordinates or labels in the printed tables


@dataclasses.dataclass(frozen=True)
class Explanation:
    """The results of ``explain``. ``print(explanation)`` is a table, ``plot()`` a figure.

    Attributes:
      model: the spec, as source code.
      events: number of events used.
      latents: number of latent coordinates.
      active: number of coordinates whose variance over events is above .01.
      ks: the mean Kolmogorov-Smirnov distance of a coordinate from the standard normal.
        The latents of a VAE are means of q(z|x), which vary less than that.
      ks_ref: the same on average if the model is the distribution of the events.
      traversal: the event nearest to the mean latents, with single coordinates moved.
      paths: interpolations between pairs of events, of different labels if labels are known.
      probe: accuracy of a linear classifier of the label, and information by coordinate; None
        without labels, as are the next two.
      separations: by label, the probability that an event with the label lies further in the
        direction of the label than one without: see ``attribute_direction``.
      map: the latent map coloured by label.
      factors: shares of the variance of factors; None without factors.

    >>> report = jaxgen.metrics.explain(fitted, x)
    >>> report.latents, report.active
    (2, 2)
    """

    model: str
    events: int
    latents: int
    active: int
    ks: float
    ks_ref: float
    traversal: Traversal = dataclasses.field(repr=False, compare=False)
    paths: tuple[Interpolation, ...] = dataclasses.field(repr=False, compare=False)
    probe: Probe | None = dataclasses.field(default=None, repr=False, compare=False)
    separations: dict[Any, float] | None = None
    map: LatentMap | None = dataclasses.field(default=None, repr=False, compare=False)
    factors: FactorShares | None = dataclasses.field(default=None, repr=False, compare=False)

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """The report as a Matplotlib figure; ``path`` is a file to save it to.

        Raises:
          ValueError, OSError: the file cannot be written; raised before the figure is drawn.
        """
        return output.drawn(lambda: explanation_figure.draw_explanation(self), path)

    def to_dict(self) -> dict[str, Any]:
        """The numbers of the report, without events and figures, for JSON."""
        record: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("model", "events", "latents", "active", "ks", "ks_ref")
        }
        record["coordinates"] = self.traversal.coordinates.tolist()
        record["changes"] = self.traversal.changes.tolist()
        if self.probe is not None and self.map is not None:
            names = "accuracy", "accuracy_se", "pca", "pca_se", "baseline"
            record |= {name: getattr(self.probe, name) for name in names}
            record["information"] = self.probe.information.tolist()
            record["map"], record["map_accuracy"] = self.map.kind, self.map.accuracy
            record["separations"] = {str(k): v for k, v in (self.separations or {}).items()}
        if self.factors is not None:
            columns = zip(*self.factors[2:], strict=True)
            keys = "best", "explained", "gap", "pca"
            record["factors"] = {
                name: {key: value.item() for key, value in zip(keys, values, strict=True)}
                for name, values in zip(self.factors.names, columns, strict=True)
            }
        return record

    def __str__(self) -> str:
        lines = [
            short(self.model, 100),
            f"{self.events:,} events, {self.latents} latent coordinates, {self.active} active "
            f"(variance above {_ACTIVE})",
            f"distance of a coordinate from the standard normal (KS): {self.ks:.3f} on average "
            f"(by chance {self.ks_ref:.3f})",
            "",
            "COORDINATES THAT CHANGE THE EVENT MOST",
            "coordinate  change of features, root mean square",
        ]
        moved = zip(self.traversal.coordinates, self.traversal.changes, strict=True)
        lines += [f"{f'z{j}':10}  {change:.4g}" for j, change in moved]
        if self.probe is not None and self.map is not None:
            lines += ["", *self._lines_of_labels(self.probe, self.map)]
        if self.factors is not None:
            lines += ["", "SHARE OF EACH FACTOR'S VARIANCE", str(self.factors)]
        return "\n".join(lines)

    __repr__ = __str__

    def _lines_of_labels(self, probe: Probe, found: LatentMap) -> list[str]:
        errors = (f" ± {percent(se)}" for se in (probe.accuracy_se, probe.pca_se))
        shares = [percent(value) + error for value, error in zip(probe[:4:2], errors, strict=True)]
        lines = [
            "LABELS",
            f"linear classifier of the latents       {shares[0]}",
            f"the same, as many principal components {shares[1]}",
            f"most frequent label                    {percent(probe.baseline)}",
            f"five neighbours in the latent map      {percent(found.accuracy)}  ({found.kind})",
            "",
            "label             best coordinate  nats   direction separates",
        ]
        for k, name in enumerate(probe.labels[:_LINES]):
            best = int(probe.by_label[:, k].argmax())
            separation = "" if self.separations is None else percent(self.separations[name])
            nats = probe.by_label[best, k]
            lines.append(f"{short(str(name), 16):16}  {f'z{best}':15}  {nats:.3f}  {separation}")
        if len(probe.labels) > _LINES:
            lines.append(f"... and {len(probe.labels) - _LINES} more")
        return lines


@standard_promotion
def explain(
    fitted: Fitted,
    x: Any,
    y: Any = None,
    *,
    factors: Any = None,
    key: jax.Array | None = None,
    progress: bool | None = None,
) -> Explanation:
    """What the latent coordinates of a model mean: which of them change events, and predict labels.

    Args:
      fitted: a ``Fitted`` model with ``pull``, such as a flow or a VAE.
      x: held-out events (n, *event_shape), at least 20; of more than 10,000 a part is used.
      y: (n,) labels, strings or ints, also for a model without conditions. For a conditional model
        whose y is no label they are its conditions. Latents of a model of labels are given the
        label, so they need not depend on it.
      factors: numbers (n, k) that events were made from, or a table of them: see ``factor_shares``.
      key: a typed PRNG key, for the pairs of events of the interpolations, and for the choice of
        10,000 events; None makes the same choice at each call.
      progress: whether to show a bar; None shows one on a terminal after two seconds.

    Raises:
      TypeError, ValueError, NotImplementedError: as in ``latents``, ``probe`` and
        ``factor_shares``.

    >>> print(explain(fitted, x, x[:, 0] > 0).probe.accuracy > 0.9)
    True
    """
    leaves_of(fitted, "explain")
    model = fitted.model
    key = jax.random.key(_SEED) if key is None else inputs.as_key(key)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    with Progress(progress, 4, unit="part", task="explain") as bar:
        bar.label("latents")
        z = latents(fitted, x, y if model.y_shape is not None else None)
        events, kept = np.asarray(fitted.events_of(x)), np.arange(len(z))
        if len(z) < _LEAST:
            raise ValueError(f"x must hold at least {_LEAST} events to explain; got {len(z)}")
        if len(z) > _MOST:
            kept = np.sort(rng.permutation(len(z))[:_MOST])
            z = z[kept]
        given, labels, names = _conditions_and_labels(fitted, y, len(events))
        numbered = Fitted(model, fitted.params, columns=fitted.columns, pixels=fitted.pixels)
        level = chance_levels(len(z), z.shape[1]).ks_mean
        distances = ks_distance(ndtr(z))
        typical = int(((z - z.mean(0)) ** 2).sum(1).argmin())
        bar.advance(1)
        bar.label("moved events")
        at = None if given is None else given[kept[typical]]
        moved = traversal(numbered, events[kept[typical]], at)
        found = _paths(numbered, events[kept], None if given is None else given[kept],
                       None if labels is None else labels[kept], rng)  # fmt: skip
        bar.advance(1)
        results: dict[str, Any] = {}
        if labels is not None and names is not None:
            bar.label("labels")
            named = np.array(names)[labels[kept]]
            results["probe"] = probe(z, events[kept], named, progress=False)
            results["map"] = latent_map(z, events[kept], named)
            directions = {name: direction_of(z, named == name) for name in results["probe"].labels}
            results["separations"] = {name: one.separation for name, one in directions.items()}
        bar.advance(1)
        if factors is not None:
            bar.label("factors")
            results["factors"] = factor_shares(
                z, events[kept], _rows_of(factors, kept, len(events))
            )
        bar.advance(1)
    return Explanation(
        repr(model), len(z), z.shape[1], int((z.var(0) > _ACTIVE).sum()), float(distances.mean()),
        level, moved, found, **results,
    )  # fmt: skip


def _conditions_and_labels(
    fitted: Fitted, y: Any, n: int
) -> tuple[Any, np.ndarray | None, tuple[Any, ...] | None]:
    """Conditions of the events as numbers, and their labels as numbers with names, each or None."""
    model = fitted.model
    if model.y_shape is None:
        return (None, None, None) if y is None else (None, *numbers_of_labels(y, n, "y"))
    dtype = inputs.float_dtype(fitted.params)
    given = np.asarray(inputs.as_conditions(model, fitted.conditions_of(y), (n,), dtype))
    if model.classes is None:
        return given, None, None
    kinds = fitted.labels or tuple(range(model.classes))
    # labels are explained if there are several, with two events of each at least
    several = len(np.unique(given)) > 1 and np.unique(given, return_counts=True)[1].min() > 1
    return (given, given, kinds) if several else (given, None, None)


def _paths(
    fitted: Fitted,
    events: np.ndarray,
    y: np.ndarray | None,
    labels: np.ndarray | None,
    rng: np.random.Generator,
) -> tuple[Interpolation, ...]:
    """Interpolations between pairs of events, of different labels if labels are known."""
    found = []
    for i in rng.permutation(len(events))[:_PATHS]:
        others = np.arange(len(events)) != i if labels is None else labels != labels[i]
        j = rng.choice(np.flatnonzero(others))
        ends = (None, None) if y is None else (y[i], y[j])
        found.append(interpolation(fitted, events[i], events[j], y0=ends[0], y1=ends[1]))
    return tuple(found)


def _rows_of(factors: Any, kept: np.ndarray, n: int) -> Any:
    """The factors of some of n events; those of another number of events unchanged."""
    if dataframes.is_table(factors):
        names = dataframes.column_names(factors, "factors") or ()
        columns = {name: np.asarray(factors[name]) for name in names}
        return {k: v[kept] if len(v) == n else v for k, v in columns.items()}
    factors = np.asarray(factors)
    return factors[kept] if factors.ndim and len(factors) == n else factors
