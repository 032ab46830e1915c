"""How far an importance-weighted density can be trusted."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxgen.core import batch, engine, verbs
from jaxgen.core.bars import bar
from jaxgen.core.lanes import over_rows
from jaxgen.core.numerics import logsumexp
from jaxgen.core.promotion import standard_promotion
from jaxgen.core.verbs import Verb
from jaxgen.numpyro.pareto import pareto_k
from jaxgen.training.fitted import Fitted


class ImportanceWeights(NamedTuple):
    """The density of events by importance sampling, and how many draws it rests on.

    Attributes:
      log_prob: log p(x) of each event, (n,), in nats, as ``Fitted.log_prob`` returns it.
      effective_samples: the effective sample size of its weights, (sum w)^2 / sum w^2, (n,), from 1
        to the number of draws; 0 where the density is 0.
      pareto_k: the Pareto k of its weights, (n,). Above 0.7 the estimate cannot be trusted. inf for
        fewer than 25 draws, and NaN where the density is 0.
    """

    log_prob: np.ndarray
    effective_samples: np.ndarray
    pareto_k: np.ndarray


@standard_promotion
def importance_weights(
    fitted: Fitted, x: Any, y: Any = None, *, progress: bool | None = None
) -> ImportanceWeights:
    """The density of events by importance sampling, with effective sample sizes and Pareto k.

    Args:
      fitted: a ``Fitted`` model whose density is a mean of importance weights, as that of a
        ``models.VAE``. ``fitted.replace(samples=1000)`` has more weights.
      x: events (..., *event_shape).
      y: conditions or labels, for a conditional model.
      progress: show a bar; by default on a terminal, after two seconds.

    Returns:
      An ``ImportanceWeights``.

    Raises:
      TypeError, ValueError: the density of the model is no mean of importance weights, or an
        argument has the wrong kind or shape.

    Source: Kong 1992, "A note on importance sampling using standardized weights"; Vehtari et al.
    2024, "Pareto smoothed importance sampling".

    >>> vae = jaxgen.fit(jaxgen.models.VAE((2,), latent=1), x, key=key, epochs=2)
    >>> found = importance_weights(vae.replace(samples=100), x)
    >>> bool((found.effective_samples <= 100).all())
    True
    """
    if not isinstance(fitted, Fitted):
        raise TypeError(f"fitted must be a Fitted model, got {type(fitted).__name__}")
    model = fitted.model
    if model.traits.log_weights is None:
        raise TypeError(
            f"fitted must be a model whose density is a mean of importance weights, such as a "
            f"models.VAE; got {model}"
        )
    request = verbs.to_log_prob(model, fitted.params, fitted.events_of(x), fitted.conditions_of(y))
    if request.y is None and model.y_shape is not None:
        name = type(model).__name__
        raise ValueError(f"y is missing: the importance weights of a {name} are those of one label")
    blocks = []
    with bar("weights", show=progress, total=request.n, unit="row") as shown:
        for block in engine.stream(request._replace(verb=_WEIGHTS)):
            blocks.append(np.asarray(block))
            shown.update(len(block))
    columns = np.concatenate(blocks).T.reshape(3, *request.shape)
    return ImportanceWeights(*columns)


def _rows(
    model: Any, params: Any, _: Any, start: Any, n: int, x: Any, y: Any, missing: bool = False
) -> Any:
    """log p, the effective sample size and Pareto k of rows, (n, 3)."""

    def one(x: Any, y: Any) -> Any:
        finite = jnp.isfinite(x).all()
        weights = model.traits.log_weights(params, jnp.where(finite, x, 0), y)
        total = logsumexp(weights)
        possible = finite & (total > -jnp.inf)
        safe = jnp.where(possible, weights, 0)
        size = jnp.exp(2 * logsumexp(safe) - logsumexp(2 * safe))
        log_p = jnp.where(finite, total - math.log(len(weights)), -jnp.inf)
        numbers = [
            jnp.where(jnp.isnan(x).any(), jnp.nan, log_p),
            jnp.where(possible, size, 0),
            jnp.where(possible, pareto_k(safe), jnp.nan),
        ]
        return jnp.stack(numbers)

    return batch.blank_unknown(model, y, over_rows(one, (0, None if y is None else 0))(x, y))


_WEIGHTS = Verb(_rows, scores=True)
