"""Functions that families of models share."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.model import Model
from jaxgen.core.numerics import logsumexp
from jaxgen.core.places import Message, feature
from jaxgen.core.spec import Params


def namespace(*arrays: Any) -> Any:
    """The module whose functions suit the arrays: jax.numpy for JAX arrays, else numpy.

    It lets one ``estimate`` serve ``fit`` (float64 on the host) and EM (traced) alike.
    """
    return jnp if any(isinstance(a, jax.Array) for a in arrays) else np


def mask_argument(observed: Any) -> dict[str, Any]:
    """``observed`` as a keyword argument, or no argument where it is None.

    Models without missing values do not take the argument, and are never given it.
    """
    return {} if observed is None else {"observed": observed}


def others(model: Model, features: tuple[int, ...]) -> tuple[int, ...]:
    """Indices in the flattened event that are not among the features, in order."""
    named = set(features)
    return tuple(j for j in range(math.prod(model.event_shape)) if j not in named)


def given_of_each(
    model: Model, params: Params, log_weights: Any, features: tuple[int, ...], values: Any
) -> tuple[Model, Params, Any]:
    """The conditional of each of many models that share a spec, as in a mixture.

    params have a leading axis. Returns the model of all other features given these, its params
    with that axis, and the log weights plus the log density of the values under each model.
    """
    part, part_params = jax.vmap(lambda one: model.marginal(one, features))(params)
    scores = jax.vmap(lambda one: part.log_prob(one, values))(part_params)
    rest, rest_params = jax.vmap(lambda one: model.given(one, features, values))(params)
    return rest, rest_params, log_weights + scores


def token_log_probs_of_each(log_weights: jax.Array, each: jax.Array) -> jax.Array:
    """log p of each token, (..., length), in a mixture of models of sequences.

    Args:
      log_weights: (components,).
      each: (components, ..., length), log p of each token in each of the models.
    """
    weights = log_weights.reshape(-1, *[1] * (each.ndim - 1))
    # of the first tokens, p is a sum over models; it changes with each token by a factor
    upto = logsumexp(jnp.cumsum(each, -1) + weights, 0)
    possible = upto > -jnp.inf
    log_p = jnp.diff(jnp.where(possible, upto, 0), prepend=0, axis=-1)
    return jnp.where(possible | jnp.isnan(upto), log_p, -jnp.inf)


def without_weight(params: Params, weightless: Any) -> Params:
    """Params of a mixture in which some components, (components,) bool, have no weight."""
    logits = namespace(params["logits"]).where(weightless, -jnp.inf, params["logits"])
    return {**params, "logits": logits}


def resized(params: Params, count: int, shared: tuple[str, ...] = ()) -> Params:
    """Params of the first ``count`` components of a mixture, or with copies without weight added.

    It runs on the host, where no program is compiled for each number of components.

    Args:
      params: a dict whose leaves have a leading axis of components.
      count: number of components wanted.
      shared: names of the entries that all components share.
    """
    rows = np.arange(count)
    known = len(params["logits"])

    def cut(name: str, value: Any) -> Any:
        take = lambda leaf: np.asarray(leaf)[np.minimum(rows, known - 1)]  # noqa: E731
        return value if name in shared else jax.tree_util.tree_map(take, value)

    new = {name: cut(name, value) for name, value in params.items()}
    new = new if count <= known else without_weight(new, rows >= known)
    return jax.tree_util.tree_map(jnp.asarray, new)


def check_observed(observed: np.ndarray) -> None:
    """Raise if no row has a value of some feature; observed is (n, *event_shape), on the host."""
    never = ~observed.any(0).reshape(-1)
    if never.any():
        raise ValueError(Message("x has no value of ", feature(never.argmax())))


def modulate(model: Model, params: Params, change: Params) -> Params:
    """Params changed by real numbers, such as the outputs of a network.

    It calls the method ``modulate(params, change)`` of the model, whose result is valid for any
    numbers. If all numbers are 0, the params do not change; params in ``learning.frozen`` never do.

    Args:
      model: the spec.
      params: its params.
      change: the numbers, a pytree like params.

    Raises:
      NotImplementedError: the model does not define ``modulate``.
    """
    method = getattr(model, "modulate", None)
    if method is None:
        raise NotImplementedError(f"{type(model).__name__} does not define modulate")
    return method(params, change)
