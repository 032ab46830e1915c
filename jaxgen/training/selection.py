"""``select``: the best of several models by an information criterion or by held-out events."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np

from jaxgen.core import dataframes, inputs
from jaxgen.core.model import Model
from jaxgen.core.promotion import standard_promotion
from jaxgen.core.template import Template
from jaxgen.core.warn import warn
from jaxgen.training.api import Options, by_characters, fit_with, spec_for_data
from jaxgen.training.fitted import Fitted
from jaxgen.training.progress import Progress

_CRITERIA = ("bic", "aic", "held_out")


@dataclasses.dataclass(frozen=True)
class Selection:
    """The result of ``select``. ``print(selection)`` is a table.

    Attributes:
      best: the fit of the best model.
      fits: the fit of each model, in order.
      scores: (models,) float64: the criterion of each, lower is better; or for "held_out" the mean
        log density of the held-out events in nats, higher is better. Infinite, and last, for a
        mixture of which every start ends with a component that has collapsed onto equal rows.
      by: the criterion.

    >>> models = [jaxgen.models.GaussianMixture(components=k) for k in (1, 2)]
    >>> found = jaxgen.select(models, x, key=key)
    >>> found.best.model == found.fits[found.scores.argmin()].model
    True
    """

    best: Fitted
    fits: tuple[Fitted, ...]
    scores: np.ndarray
    by: str

    def __str__(self) -> str:
        width = max(len(str(fitted.model)) for fitted in self.fits)
        lines = [f"{'model':<{width}}  {self.by}"]
        for fitted, score in zip(self.fits, self.scores, strict=True):
            mark = "  best" if fitted is self.fits[_best(self.scores, self.by)] else ""
            lines.append(f"{fitted.model!s:<{width}}  {score:.6g}{mark}")
        return "\n".join(lines)

    __repr__ = __str__


@standard_promotion
def select(
    models: Sequence[Model | Template],
    x: Any,
    y: Any = None,
    *,
    key: jax.Array,
    by: Literal["bic", "aic", "held_out"] = "bic",
    validation: float = 0.2,
    progress: bool | None = None,
    **options: Any,
) -> Selection:
    """Fit several models to the same data and choose the best.

    Mixtures of one family that differ in the number of components, such as ``GaussianMixture``,
    share the programs of the largest, so that a range of them compiles as much as one fit.

    Args:
      models: specs, whose fields that follow from data may be left out.
      x, y: events and conditions or labels, as in ``jaxgen.fit``.
      key: a typed PRNG key.
      by: "bic" or "aic", criteria of all rows (see ``Fitted.bic``); or "held_out", the mean log
        density of rows that the models are not fitted to. The best model is then fitted again, to
        all rows.
      validation: share of the rows held out, for "held_out".
      progress: show a bar; by default on a terminal, in a run over two seconds.
      options: further arguments of ``jaxgen.fit``, such as ``restarts=3``.

    Raises:
      TypeError, ValueError: an argument of the wrong kind or range, or as in ``jaxgen.fit``.
      NotImplementedError: a criterion of a model that has no degrees of freedom, such as a KDE.

    >>> models = [jaxgen.models.GaussianMixture(components=k) for k in (1, 2)]
    >>> jaxgen.select(models, x, key=key, restarts=2).best.model.components
    1
    """
    if by not in _CRITERIA:
        raise ValueError(f"by must be one of {_CRITERIA}, got {by!r}")
    models = [] if isinstance(models, (Model, Template)) else list(models)
    if not models:
        raise ValueError("models must be a list of at least one model")
    for model in models:
        if not isinstance(model, (Model, Template)):
            raise TypeError(f"models must hold models such as Gaussian(2), got {model!r:.60}")
    unknown = [name for name in options if name not in Options._fields]
    if unknown:
        known = ", ".join(Options._fields)
        raise TypeError(f"{unknown[0]} is no argument of fit, which takes {known}")
    x = by_characters(x)
    specs = [spec_for_data(model, x, y) for model in models]
    largest = _largest(specs)
    n = _length(x)
    whole, held = Options(**{"progress": False, **options}), None
    part = whole
    if by == "held_out":
        held = _held_out(key, n, validation)
        weights = np.ones(n) if whole.weights is None else inputs.numbers(whole.weights, "weights")
        if np.shape(weights) == (n,):  # fit refuses others
            part = whole._replace(weights=np.where(held, 0.0, weights))
    fits, scores = [], []
    with Progress(progress, len(specs), unit="model") as bar:
        for spec, size in zip(specs, largest, strict=True):
            fitted = fit_with(part, spec, x, y, key, size, avoid_collapse=True)
            score = _score(fitted, size, x, y, by, held, whole.weights)
            if "collapsed" in fitted.history:
                score = -np.inf if by == "held_out" else np.inf
            scores.append(score)
            fits.append(fitted)
            bar.label(f"{by} {scores[-1]:.5g}")
            bar.advance(1)
    i = _best(np.array(scores), by)
    best = fits[i]
    if held is not None:
        best = fit_with(whole, specs[i], x, y, key, largest[i], avoid_collapse=True)
    if "collapsed" in best.history:
        warn(
            f"a component of the best model, {best.model}, has collapsed onto equal rows, so its "
            "likelihood means little; take fewer components or a larger jitter"
        )
    return Selection(best, tuple(fits), np.array(scores), by)


def _largest(specs: list[Model]) -> list[int | None]:
    """For each mixture the largest number of components in its family; None if it is the only one.

    ``fit`` then runs the programs of the largest.
    """
    families: dict[Any, list[int]] = {}
    keys = []
    for spec in specs:
        components = spec.traits.components
        sizes = None if components is None or spec.learning.method != "em" else components.sizes
        keys.append(None if sizes is None else sizes.model(1))
        if sizes is not None:
            families.setdefault(keys[-1], []).append(components.count)
    return [
        max(families[key]) if key is not None and len(set(families[key])) > 1 else None
        for key in keys
    ]


def _score(
    fitted: Fitted,
    largest: int | None,
    x: Any,
    y: Any,
    by: str,
    held: np.ndarray | None,
    weights: Any,
) -> float:
    """The criterion of a fit."""
    scorer = fitted
    if largest is not None:  # one program serves the whole family
        sizes = fitted.model.traits.components.sizes
        scorer = copy.copy(fitted)
        scorer.model, scorer.params = sizes.model(largest), sizes.resize(fitted.params, largest)
    if held is None:
        degrees = fitted.degrees_of_freedom
        return scorer.information_criterion(x, y, by, degrees, weights)
    log_p = np.asarray(scorer.log_prob(x, y), np.float64)[held]
    counts = np.ones(len(log_p)) if weights is None else np.asarray(weights, np.float64)[held]
    return float(np.average(np.where(counts > 0, log_p, 0), weights=counts))


def _best(scores: np.ndarray, by: str) -> int:
    """The index of the best score; a score that is not finite is none."""
    losses = -scores if by == "held_out" else scores
    return int(np.where(np.isnan(losses), np.inf, losses).argmin())


def _length(x: Any) -> int:
    """The number of rows of an array or a table."""
    if dataframes.is_table(x):
        x = dataframes.select(x, None)
    return len(x)


def _held_out(key: jax.Array, n: int, share: Any) -> np.ndarray:
    """Which rows are held out, (n,) bool."""
    share = inputs.as_not_negative(share, "validation")
    count = round(share * n)
    if not 0 < count < n:
        raise ValueError(f"validation must hold out some of the {n} rows; got {share}")
    seed = np.asarray(jax.random.key_data(inputs.as_key(key))).ravel().tolist()
    held = np.zeros(n, bool)
    held[np.random.default_rng(seed).permutation(n)[:count]] = True
    return held
