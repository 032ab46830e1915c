"""Distillation: a fast model fitted to draws of a program, and compared with it on new draws."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxgen.core import inputs
from jaxgen.core.model import Model
from jaxgen.training.api import fit
from jaxgen.training.fitted import Fitted


class Distilled(NamedTuple):
    """A fitted student, and its distance from the teacher.

    Attributes:
      fitted: the student.
      kl: KL(teacher || student) in nats, estimated by new draws of the teacher; inf if the student
        gives one of them zero density.
      standard_error: standard error of kl.
    """

    fitted: Fitted
    kl: float
    standard_error: float


def distil(
    teacher: Fitted,
    student: Model,
    y: ArrayLike | None = None,
    *,
    key: jax.Array,
    events: int = 20_000,
    test_events: int = 5_000,
    **settings: Any,
) -> Distilled:
    """Fit a fast model to draws of a fitted program, or of any other model, to take its place.

    Args:
      teacher: a fitted model with a density, such as a program.
      student: a model with the same event_shape, y_shape and classes.
      y: conditions (m, *y_shape) to learn for; each draw takes one, as often as the others, in
        random order.
      key: a typed PRNG key.
      events: number of draws to fit to.
      test_events: number of new draws to estimate kl by.
      settings: arguments of ``jaxgen.fit``.

    Returns:
      The fitted student and its Kullback-Leibler divergence from the teacher.

    Raises:
      TypeError, ValueError: an argument of the wrong kind, shape or range, by its name.

    Source: Papamakarios 2015, "Distilling model knowledge".

    >>> events, key = np.random.default_rng(0).normal(size=(200, 2)), jax.random.key(0)
    >>> teacher = jaxgen.fit(jaxgen.models.KDE(2), events, key=key)
    >>> found = distil(teacher, jaxgen.models.Gaussian(2), key=key, events=1000, test_events=500)
    >>> found.kl < 0.2
    True
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
    for name, spec in (("teacher", model), ("student", student)):
        if spec.traits.density not in ("exact", "estimate"):
            raise ValueError(f"{name} must have a density, not {spec.traits.density!r}: {spec}")
    events_key, order_key, fit_key = jax.random.split(inputs.as_key(key), 3)
    count = inputs.as_count(events, "events", 1)
    total = count + inputs.as_count(test_events, "test_events", 2)
    if y is not None:
        y = np.asarray(inputs.conditions_of_table(model, y))
        if model.y_shape is not None and y.ndim != len(model.y_shape) + 1:
            raise ValueError(f"y must have shape (m, *{model.y_shape}), got {y.shape}")
        seed = np.asarray(jax.random.key_data(order_key)).ravel().tolist()
        y = np.random.default_rng(seed).permutation(np.resize(y, (total, *y.shape[1:])))
    x = np.asarray(teacher.sample(events_key, total, y))
    train_y, new_y = (None, None) if y is None else (y[:count], y[count:])
    fitted = fit(student, x[:count], train_y, key=fit_key, **settings)
    new_x = x[count:]
    gap = np.asarray(teacher.log_prob(new_x, new_y)) - np.asarray(fitted.log_prob(new_x, new_y))
    gap = gap.astype(np.float64)
    if not np.isfinite(gap).all():
        return Distilled(fitted, math.inf, math.inf)
    return Distilled(fitted, float(gap.mean()), float(gap.std(ddof=1) / np.sqrt(len(gap))))
