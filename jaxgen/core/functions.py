"""The public functions of a spec and its params: ``sample``, ``log_prob`` and ``classify``.

They are pure. Within a user's transformation they are part of its program; elsewhere they run in
the engine's compiled blocks, as the methods of ``Fitted`` do.
"""

from __future__ import annotations

from typing import Any

import jax
from jax.typing import ArrayLike

from jaxgen.core import engine, verbs
from jaxgen.core.model import Model, Params
from jaxgen.core.promotion import standard_promotion


@standard_promotion
def sample(model: Model, params: Params, key: jax.Array, n: int, y: Any = None) -> jax.Array:
    """n events, (n, *event_shape). Row i does not depend on n.

    Args:
      model: the spec.
      params: its params.
      key: a typed PRNG key.
      n: number of events, static under jit.
      y: conditions (n, *y_shape), or one of y_shape for all; None for an unconditional model, and
        for a model of labels, which then draws y from p(y) first.

    Returns:
      The events. A traced y cannot be checked: where the model cannot take it, such as a label out
      of range, events are NaN, or the least integer if events are whole numbers.

    Raises:
      TypeError, ValueError: an argument of the wrong kind, shape or range; the message names it.

    >>> draw = jax.jit(jaxgen.sample, static_argnums=(0, 3))
    >>> draw(fitted.model, fitted.params, jax.random.key(0), 3).shape
    (3, 2)
    """
    return engine.answer(verbs.to_sample(model, params, key, n, y))


@standard_promotion
def log_prob(model: Model, params: Params, x: ArrayLike, y: Any = None) -> jax.Array:
    """log p(x) or log p(x|y) in nats, of shape x.shape without the event dimensions.

    The score is -inf outside the support and at infinities, and NaN where x or y is NaN or a traced
    y is outside the model's y_support. For a model that learns from missing values, such as
    ``Gaussian`` (see ``model.learning.missing``), NaN in x is one: the score is that of the
    observed features, 0 if there are none.

    Args:
      model: the spec.
      params: its params.
      x: events (..., *event_shape), with at least one batch dimension.
      y: conditions (..., *y_shape), or one of y_shape for all; None for an unconditional model, and
        for the marginal log sum_y p(y) p(x|y) of a model of labels.

    Raises:
      TypeError, ValueError: an argument of the wrong kind or shape; the message names it.

    >>> score = jax.jit(jaxgen.log_prob, static_argnums=0)
    >>> score(fitted.model, fitted.params, x).shape
    (200,)
    """
    return engine.answer(verbs.to_log_prob(model, params, x, y))


@standard_promotion
def classify(model: Model, params: Params, x: ArrayLike, prior: Any = None) -> jax.Array:
    """log p(y|x) of each label by Bayes' rule, (..., classes), in nats; NaN where p(x) = 0.

    Args:
      model: the spec of a model of labels, such as ``compose.PerClass``.
      params: its params.
      x: events (..., *event_shape), with at least one batch dimension; NaN is as in ``log_prob``.
      prior: p(y) (classes,), not negative, with a positive sum, or a dict or pandas Series that
        has it by label; None takes the learnt frequencies.

    Raises:
      TypeError, ValueError: an argument of the wrong kind or shape; the message names it.

    >>> by_bayes = jax.jit(jaxgen.classify, static_argnums=0)
    >>> by_bayes(labelled.model, labelled.params, x).shape
    (200, 3)
    """
    return engine.answer(verbs.to_classify(model, params, x, prior))
