"""The verbs: what a user can ask of a model for many rows.

A verb is a record, and a question is a ``Request``: a verb with checked arguments. ``run_traced``
answers it within the caller's trace; the engine answers it in compiled blocks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.core import batch, inputs
from jaxgen.core.host_arrays import on_host
from jaxgen.core.model import Model, Params


class Verb(NamedTuple):
    """One kind of question about rows.

    Attributes:
      rows: ``rows(model, params, shared, start, n, values, y)``, the results of n rows from row
        ``start`` on.
      missing: the same where NaN in the values stands for missing values; None if it never does.
      draws: whether rows take noise, which a block then holds in memory.
      scores: whether rows are scored, which takes memory of its own.
    """

    rows: Callable[..., Any]
    missing: Callable[..., Any] | None = None
    draws: bool = False
    scores: bool = False


def _log_prob(
    model: Model, params: Params, _: Any, start: Any, n: int, x: Any, y: Any, missing: bool = False
) -> Any:
    return batch.log_prob_rows(model, params, x, y, missing)


def _classify(
    model: Model,
    params: Params,
    prior: Any,
    start: Any,
    n: int,
    x: Any,
    _: Any,
    missing: bool = False,
) -> Any:
    return batch.classify_rows(model, params, prior, x, missing)


def _responsibilities(
    model: Model, params: Params, _: Any, start: Any, n: int, x: Any, y: Any, missing: bool = False
) -> Any:
    return batch.responsibilities_rows(model, params, x, y, missing)


SAMPLE = Verb(
    lambda m, params, key, s, n, _, y: batch.sample_rows(m, params, key, s, n, y), None, True
)
SAMPLE_WITH_LABELS = Verb(
    lambda m, params, key, s, n, _, y: batch.sample_rows(m, params, key, s, n, y, True), None, True
)
COMPLETE = Verb(
    lambda m, params, key, s, n, x, y: batch.complete_rows(m, params, key, s, x, y), None, True
)
LOG_PROB = Verb(_log_prob, functools.partial(_log_prob, missing=True), scores=True)
LOG_PROB_AND_K = Verb(
    lambda m, params, _, s, n, x, y: batch.log_prob_and_k_rows(m, params, x, y), scores=True
)
CLASSIFY = Verb(_classify, functools.partial(_classify, missing=True), scores=True)
RESPONSIBILITIES = Verb(
    _responsibilities, functools.partial(_responsibilities, missing=True), scores=True
)
TOKEN_LOG_PROBS = Verb(
    lambda m, params, _, s, n, x, y: batch.token_log_probs_rows(m, params, x, y), scores=True
)
PUSH = Verb(lambda m, params, _, s, n, noise, y: batch.push_rows(m, params, noise, y))
PULL = Verb(lambda m, params, _, s, n, x, y: batch.pull_rows(m, params, x, y))


class Request(NamedTuple):
    """A verb with checked arguments.

    Attributes:
      shared: an argument that is the same for all rows: a key, log p(y), or None.
      values: events or noise, rows leading; None for draws.
      y: conditions, rows leading, or None.
      n: number of rows.
      shape: the batch shape of the results.
      start: number of the first row.
    """

    verb: Verb
    model: Model
    params: Params
    shared: Any
    values: Any
    y: Any
    n: int
    shape: tuple[int, ...]
    start: int = 0


def to_sample(model: Model, params: Params, key: Any, n: Any, y: Any, start: int = 0) -> Request:
    key, n = inputs.as_key(key), inputs.as_count(n)
    y = inputs.as_conditions(model, _on_host(y), (n,), inputs.float_dtype(params))
    return Request(SAMPLE, model, params, key, None, y, n, (n,), start)


def with_labels(model: Model) -> Verb:
    """The verb of draws with their labels, or with the numbers of their components.

    Raises:
      TypeError: the model has neither.
    """
    if model.classes is None and model.traits.components is None:
        raise TypeError(f"with_labels does not apply: {model} has no labels and no components")
    return SAMPLE_WITH_LABELS


def to_log_prob(model: Model, params: Params, x: Any, y: Any) -> Request:
    return _with_events(LOG_PROB, model, params, None, x, y)


def to_classify(model: Model, params: Params, x: Any, prior: Any) -> Request:
    prior = inputs.as_prior(model, prior, inputs.float_dtype(params))
    return _with_events(CLASSIFY, model, params, prior, x, None)


def to_responsibilities(model: Model, params: Params, x: Any, y: Any) -> Request:
    if model.traits.components is None:
        raise TypeError(f"{model} has no components: see models.GaussianMixture, compose.Mixture")
    if y is None and model.classes is not None:
        raise ValueError(f"y is missing: the components of {model} are those of one label")
    return _with_events(RESPONSIBILITIES, model, params, None, x, y)


def to_token_log_probs(model: Model, params: Params, x: Any, y: Any) -> Request:
    if model.traits.token_log_probs is None:
        raise TypeError(
            f"{model} is no model of sequences: see models.Autoregressive and models.NGram"
        )
    return _with_events(TOKEN_LOG_PROBS, model, params, None, x, y)


def to_complete(model: Model, params: Params, key: Any, x: Any, y: Any) -> Request:
    return _with_events(COMPLETE, model, params, inputs.as_key(key), x, y)


def to_pull(model: Model, params: Params, x: Any, y: Any) -> Request:
    request = _with_events(PULL, model, params, None, x, y)
    return request._replace(shape=(request.n,))


def to_push(model: Model, params: Params, noise: Any, y: Any) -> Request:
    noise, n = inputs.as_noise(model, noise)
    y = inputs.as_conditions(model, y, (n,), inputs.float_dtype(params))
    return Request(PUSH, model, params, None, noise, y, n, (n,))


def _with_events(verb: Verb, model: Model, params: Params, shared: Any, x: Any, y: Any) -> Request:
    """A request about events (..., *event_shape), with one axis of rows."""
    dtype = inputs.float_dtype(params)
    x = inputs.as_events(model, _on_host(x), dtype)
    shape = x.shape[: x.ndim - len(model.event_shape)]
    y = None if verb is CLASSIFY else inputs.as_conditions(model, _on_host(y), shape, dtype)
    x = x.reshape(-1, *model.event_shape)
    if y is not None:
        y = y.reshape(len(x), *y.shape[len(shape) :])
    return Request(verb, model, params, shared, x, y, len(x), shape)


def _on_host(array: Any) -> Any:
    """A NumPy array of a JAX array on a CPU whose values are known: casts of it compile nothing."""
    if isinstance(array, jax.core.Tracer) or not isinstance(array, jax.Array):
        return array
    is_key = jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key)
    return np.asarray(array) if on_host(array) and not is_key else array


@functools.cache
def either(verb: Verb) -> Callable[..., Any]:
    """The function of a verb that looks for missing values itself, within a program."""
    missing: Any = verb.missing

    def rows(*arguments: Any) -> Any:
        _, _, _, _, _, values, _ = arguments
        found = jnp.isnan(values).any()
        if isinstance(found, jax.core.Tracer):  # under jit that of a constant is one too
            return lax.cond(found, lambda: missing(*arguments), lambda: verb.rows(*arguments))
        return (missing if found else verb.rows)(*arguments)

    return rows


def run_traced(request: Request) -> Any:
    """The answer, computed within the caller's trace."""
    verb, model, params, shared, given, y, n, shape, _ = request
    values: Any = jax.tree_util.tree_map(jnp.asarray, given)
    plain = verb.missing is None or model.learning.missing is None
    rows = verb.rows if plain else either(verb)
    results = rows(model, params, shared, np.zeros(2, np.uint32), n, values, y)
    return jax.tree_util.tree_map(lambda v: v.reshape(*shape, *v.shape[1:]), results)
