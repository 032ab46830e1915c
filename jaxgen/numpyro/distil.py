"""A fast density in a program's place: fitted to its draws, and judged by new ones."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgen.core import inputs
from jaxgen.core.model import Model
from jaxgen.training.api import fit
from jaxgen.training.fitted import Fitted


class Distilled(NamedTuple):
    """A student and how far it is from its teacher.

    Attributes:
      fitted: the student.
      kl: KL(teacher || student) in nats an event, a mean over new draws of the teacher.
      standard_error: of kl.
    """

    fitted: Fitted
    kl: float
    standard_error: float


def distil(
    teacher: Fitted,
    student: Model,
    y: Any = None,
    *,
    key: jax.Array,
    events: int = 20_000,
    judged: int = 5_000,
    **settings: Any,
) -> Distilled:
    """Fit a fast model to draws of a fitted program, or of any model, to use in its place.

    Args:
      teacher: a fitted model with a density, such as a program's.
      student: a spec with the same event_shape and y_shape.
      y: conditions (m, *y_shape) that the student shall know; draws take them in turn, shuffled.
      key: a typed PRNG key.
      events: draws to fit to.
      judged: more draws, to judge by.
      settings: as in ``jaxgen.fit``.

    Raises:
      TypeError, ValueError: an argument of the wrong kind, shape or range, by its name.

    Source: Papamakarios 2015, "Distilling model knowledge".

    >>> found = distil(fitted, GaussianMixture(2, 3), key=key, events=1000, judged=500)
    >>> fast, kl = found.fitted, found.kl
    """
    if not isinstance(teacher, Fitted):
        raise TypeError(f"teacher must be a Fitted, got {type(teacher).__name__}")
    model = teacher.model
    if not isinstance(student, Model):
        raise TypeError(f"student must be a Model such as Gaussian(2), got {student!r:.60}")
    for name in ("event_shape", "y_shape", "classes"):
        if getattr(student, name) != getattr(model, name):
            raise ValueError(
                f"student must have the teacher's {name} {getattr(model, name)}, got "
                f"{getattr(student, name)}"
            )
    for who, which in (("teacher", model), ("student", student)):
        if which.traits.density not in ("exact", "estimate"):
            raise ValueError(f"{who} must have a density, not {which.traits.density!r}: {which}")
    of_events, of_order, of_fit = jax.random.split(inputs.as_key(key), 3)
    count = inputs.as_count(events, "events", 1)
    total = count + inputs.as_count(judged, "judged", 2)
    if y is not None:
        y = np.asarray(y)
        if model.y_shape is not None and y.ndim != len(model.y_shape) + 1:
            raise ValueError(f"y must have shape (m, *{model.y_shape}), got {y.shape}")
        seed = np.asarray(jax.random.key_data(of_order)).ravel().tolist()
        y = np.random.default_rng(seed).permutation(np.resize(y, (total, *y.shape[1:])))
    x = np.asarray(teacher.sample(of_events, total, y))
    known, new = (None, None) if y is None else (y[:count], y[count:])
    fitted = fit(student, x[:count], known, key=of_fit, **settings)
    gap = np.asarray(teacher.log_prob(x[count:], new)) - np.asarray(fitted.log_prob(x[count:], new))
    gap = gap.astype(np.float64)
    if not np.isfinite(gap).all():  # the student rules out what the teacher draws
        return Distilled(fitted, math.inf, math.inf)
    return Distilled(fitted, float(gap.mean()), float(gap.std(ddof=1) / np.sqrt(len(gap))))
