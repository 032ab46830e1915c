"""Parts of a fitted model: the marginals and conditionals of its features.

They are computed in closed form if the model has one, else by importance sampling, which works for
any model of real numbers that has a density and draws.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.bijectors import Permute
from jaxgen.compose.importance import GivenByImportance, MarginalByImportance, defensive
from jaxgen.compose.transformed import Transformed
from jaxgen.core import engine, inputs, verbs
from jaxgen.core.families import others
from jaxgen.core.model import Model, Params
from jaxgen.core.numerics import blanked
from jaxgen.core.tracing import is_tracing
from jaxgen.core.warn import warn
from jaxgen.models.gaussian_mixture import GaussianMixture
from jaxgen.training import em
from jaxgen.training.rows import Data, as_params

_EVENTS = 16384  # drawn from the model to fit the proposal to
_PROPOSALS = 4096  # that measure it
_NORMALS = 32  # of the proposal
_STEPS = 50  # of its EM: it need not be the best
_ROWS_EACH = 64  # events to a normal and feature
_DEPENDENT = 1e-9  # least eigenvalue of the correlations of features that fill a volume
_WANTED = 32  # effective candidates for each draw
_LEAST, _MOST = 64, 1024  # candidates
_POOR = 100  # of the effective proposals: fewer than these are too few to draw from
_MARGINALS = 256  # events that measure a marginal density


class _Weights(NamedTuple):
    """Statistics of importance weights."""

    log_mean: Any  # log of the estimated integral, nats
    error: Any  # standard error of log_mean, nats
    effective: Any  # effective sample size


class Part(NamedTuple):
    """The model of some features; ``features`` are their indices in the flattened event."""

    model: Model
    params: Params
    history: dict[str, Any]
    features: tuple[int, ...]


def marginal(fitted: Any, features: Any, key: jax.Array | None = None) -> Part:
    """The model of some features alone, in the order given; the others are integrated out.

    Without a closed form the draws are exact, as they are draws of the whole model, and the log
    density is estimated by importance sampling: ``model.traits.density`` is "estimate".

    Args:
      fitted: the model.
      features: indices in the flattened event (negative ones count from its end), or names of
        ``columns``; or one of them.
      key: key of the importance sampling; by default ``jax.random.key(0)``.

    Returns:
      A model whose events are vectors, its params and its history. The history holds "method",
      "closed form" or "importance sampling"; the latter adds "effective_sample_size", the median
      over events, "of", the number of points, and "log_prob_error", the root mean square error of
      log densities, in nats.

    Raises:
      TypeError, ValueError: no, unknown or repeated features.
      NotImplementedError: no closed form, and a model with conditions, of whole numbers or without
        an exact density.

    Warns:
      RuntimeWarning: the log densities are poor.
    """
    names = features if isinstance(features, (list, tuple, range, np.ndarray)) else [features]
    places = _places("marginal", fitted, names)
    found = _closed_form("marginal", fitted, places)
    if found is None:
        found = _marginal(fitted, places, _key_for("marginal", fitted, key))
    model, params, history = found
    return Part(model, params, history, places)


def given(fitted: Any, values: Mapping, key: jax.Array | None = None) -> Part:
    """The model of all other features, in order, given the values of some.

    Without a closed form it is an estimate by importance sampling: the log density is right up to
    the error of the constant log p(values), ``params["log_total"]``, and draws are picked from
    weighted candidates.

    Args:
      fitted: the model.
      values: {feature: value}, with features as in ``marginal`` and values in the units of x.
      key: as in ``marginal``.

    Returns:
      A model whose events are vectors, its params and its history. The history holds "method",
      "closed form" or "importance sampling"; the latter adds "effective_sample_size", "of", the
      number of proposals, and "log_prob_error", the standard error of log p(values), in nats.

    Raises:
      TypeError, ValueError: no, all, unknown or repeated features; values that are not finite
        numbers; values of zero density. Within jit, grad or vmap, where the values are not known,
        the params of the result are NaN instead.
      NotImplementedError: as ``marginal``.

    Warns:
      RuntimeWarning: the effective sample size is under 100, so draws are poor.

    Source: see ``compose.GivenByImportance``.

    >>> rest = given(fitted, {"latitude": 52.0})
    """
    if not isinstance(values, Mapping):
        raise TypeError(f"given: values must be a dict, {{feature: value}}, got {values!r:.60}")
    places = _places("given", fitted, list(values))
    if fitted.columns is not None:
        named = (fitted.columns[place] for place in places)
        values = dict(zip(named, values.values(), strict=True))
    if len(places) == math.prod(fitted.model.event_shape):
        raise ValueError(f"given: at least one feature must be left, got all of them: {values}")
    dtype = inputs.float_dtype(fitted.params)
    traced = is_tracing(fitted.params, *values.values())
    if traced:
        known: Any = jnp.stack([jnp.asarray(value, dtype) for value in values.values()])
    else:
        values = {feature: _number(feature, value) for feature, value in values.items()}
        known = jnp.asarray(list(values.values()), dtype)
        log_prob = _log_density(fitted, places, known)
        if log_prob is not None:
            _require_density(float(log_prob), values)
    found = _closed_form("given", fitted, places, known)
    if found is None:
        key = _key_for("given", fitted, key, known)
        found = _given(fitted, places, known, key, values)
    model, params, history = found
    part = Part(model, params, history, others(fitted.model, places))
    if traced:
        log_prob = _log_density(fitted, places, known)
        if log_prob is not None:
            part = part._replace(params=blanked(jnp.isfinite(log_prob), part.params))
    return part


def _places(what, fitted, features) -> tuple[int, ...]:
    """Indices of features in the flattened event, all different, at least one."""
    size, columns = math.prod(fitted.model.event_shape), fitted.columns
    named = {name: place for place, name in enumerate(columns or ())}
    places = []
    for feature in features:
        if isinstance(feature, str):
            if feature not in named:
                known = "it has no names" if columns is None else f"its names are {columns}"
                if fitted.model.y_shape is not None and feature in (fitted.y_columns or ("y",)):
                    known += f"; {feature!r} is its y, an argument of sample and log_prob"
                raise ValueError(f"{what}: the model has no feature {feature!r}; {known}")
            places.append(named[feature])
            continue
        if isinstance(feature, (bool, np.bool_)) or not isinstance(feature, (int, np.integer)):
            raise TypeError(f"{what}: a feature is a place (int) or a name, got {feature!r:.60}")
        if not -size <= feature < size:
            raise ValueError(f"{what}: the model has features 0 .. {size - 1}, got {feature}")
        places.append(int(feature) % size)
    if not places:
        raise ValueError(f"{what}: at least one feature must be named, got none")
    if len(set(places)) < len(places):
        raise ValueError(f"{what}: every feature may be named once, got {list(features)}")
    return tuple(places)


def _closed_form(kind, fitted, places, *values):
    """Model, params and history, or None if the model has no closed form."""
    try:
        spec, params = _program(kind, fitted.model, places)(fitted.params, *values)
    except NotImplementedError:
        return None
    return spec, params, {"method": "closed form"}


@functools.lru_cache(256)
def _program(kind, model, places):
    """A method of the model, compiled, because it is called with many values."""
    specs = []

    @jax.jit
    def own(params, *values):
        spec, params = getattr(model, kind)(params, places, *values)
        specs.append(spec)  # the same in every trace
        return params

    def part(params, *values):
        params = own(params, *values)
        return specs[0], params

    return part


def _number(feature, value) -> float:
    """A value as a finite number."""
    if np.ndim(value) or isinstance(value, (str, bytes)):
        raise TypeError(f"given: the value of {feature!r} must be a number, got {value!r:.60}")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(
            f"given: the value of {feature!r} must be a number, got {value!r:.60}"
        ) from None
    if not math.isfinite(number):
        raise ValueError(f"given: the value of {feature!r} must be finite, got {number}")
    return number


def _log_density(fitted, places, known):
    """log p of the values in closed form, or None if there is none."""
    found = _closed_form("marginal", fitted, places)
    if found is None or (found[0].y_shape is not None and found[0].classes is None):
        return None
    model, params, _ = found
    return _log_prob(model, params, known[None])[0]


def _require_density(log_prob, values):
    if not log_prob > -math.inf:  # NaN too
        raise ValueError(f"given: zero density at {values}")


def _key_for(what, fitted, key, *values):
    """The key for importance sampling; raises if that does not apply to the model."""
    model = fitted.model
    why = None
    if model.y_shape is not None:
        why = "the model must have no y"
    elif model.traits.density not in ("exact", "estimate"):
        why = f"log_prob must be the density, not {model.traits.density!r}"
    elif model.support.is_discrete:
        why = "features must be real numbers"
    if why is not None:
        raise NotImplementedError(
            f"{what}: {model} has none in closed form, and for importance sampling {why}"
        )
    if is_tracing(fitted.params, key, values):
        raise TypeError(
            f"{what}: {model} has none in closed form, and importance sampling runs on the host, "
            "not within jit, grad or vmap"
        )
    return jax.random.key(0) if key is None else inputs.as_key(key)


def _marginal(fitted, places, key):
    """Model, params and history of a marginal, by importance sampling."""
    model, size = fitted.model, math.prod(fitted.model.event_shape)
    if len(places) == size and len(model.event_shape) == 1:  # all of them, in another order
        params = {"base": fitted.params, "bijector": {}}
        return Transformed(model, Permute(places)), params, {"method": "closed form"}
    if len(places) == size:
        raise NotImplementedError(f"marginal: {model} is no model of vectors: leave a feature out")
    proposal = _proposal("marginal", fitted, key)
    params = {"base": fitted.params, "proposal": proposal}
    spec = MarginalByImportance(model, places, components=len(proposal["logits"]))
    few = _sample(spec, params, jax.random.fold_in(key, 2), _MARGINALS)
    found = _measure(_points(spec, params, few))
    spec = dataclasses.replace(spec, candidates=_candidates(found, spec.candidates))
    found = _measure(_points(spec, params, few))
    effective = float(np.median(found.effective))
    if effective < _WANTED / 4:
        warn(
            f"marginal: {effective:.3g} effective points of {spec.candidates} make up a log "
            "density by importance sampling: log densities are poor, draws exact"
        )
    error = float(np.sqrt(np.mean(found.error**2)))
    return spec, params, _history(effective, spec.candidates, error)


def _given(fitted, places, known, key, values):
    """Model, params and history of a conditional by importance sampling."""
    joint = _proposal("given", fitted, key)
    components = len(joint["logits"])
    whole = GaussianMixture(math.prod(fitted.model.event_shape), components)
    proposal = _conditional(whole, joint, places, known)
    spec = GivenByImportance(fitted.model, places, components=components)
    params = {"base": fitted.params, "values": known, "proposal": proposal}
    params["log_total"] = jnp.zeros((), known.dtype)
    drawn = _sample(spec.proposal, proposal, jax.random.fold_in(key, 2), _PROPOSALS)
    log_q = _log_prob(spec.proposal, proposal, drawn)
    found = _measure(np.asarray(_log_prob(spec, params, drawn)) - log_q)
    _require_density(found.log_mean, values)
    if found.effective < _POOR:
        warn(
            f"given: {found.effective:.3g} of {_PROPOSALS} draws of importance sampling are "
            f"effective at {values}: draws and log densities will be poor"
        )
    spec = dataclasses.replace(spec, candidates=_candidates(found, _PROPOSALS))
    params["log_total"] = jnp.asarray(found.log_mean, known.dtype)
    return spec, params, _history(float(found.effective), _PROPOSALS, float(found.error))


def _proposal(what, fitted, key):
    """Params of a mixture of normals near the model's density, with heavier tails."""
    size = math.prod(fitted.model.event_shape)
    events = _sample(fitted.model, fitted.params, key, _EVENTS)
    events = np.asarray(events, np.float64).reshape(_EVENTS, size)
    shift, scale = events.mean(0), events.std(0)
    spread = np.linalg.eigvalsh(np.corrcoef(events.T).reshape(size, size)) if scale.all() else 0
    if np.min(spread) < _DEPENDENT:
        raise NotImplementedError(
            f"{what}: events of {fitted.model} fill no volume, as some features follow from others"
        )
    z = (events - shift) / scale
    normals = GaussianMixture(size, int(np.clip(_EVENTS // (_ROWS_EACH * size), 1, _NORMALS)))
    start = as_params(normals.init(jax.random.fold_in(key, 1), z))
    data = Data(z, None, None, np.arange(len(z)))
    found, _ = em.run(normals, start, data, key, _STEPS, restarts=1, progress=False)
    params = defensive(jax.tree_util.tree_map(np.asarray, found), z, shift, scale)
    dtype = inputs.float_dtype(fitted.params)
    return jax.tree_util.tree_map(lambda leaf: jnp.asarray(leaf, dtype), params)


def _measure(log_weights) -> _Weights:
    """Statistics of the weights on the last axis."""
    log_weights = np.asarray(log_weights, np.float64)
    n = log_weights.shape[-1]
    largest = log_weights.max(-1, keepdims=True)
    weights = np.exp(log_weights - np.where(largest > -math.inf, largest, 0))
    mean = weights.mean(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        effective = np.nan_to_num(n * mean**2 / (weights**2).mean(-1))
        # the standard error of a mean, relative to the mean
        error = np.sqrt(np.maximum(n / effective - 1, 0) / (n - 1))
        return _Weights(largest[..., 0] + np.log(mean), error, effective)


def _candidates(found: _Weights, of: int) -> int:
    """A number of proposals, a power of two, of which enough are effective."""
    share = max(float(np.median(found.effective)) / of, _WANTED / _MOST)
    return max(_LEAST, 2 ** math.ceil(math.log2(_WANTED / share)))


@functools.partial(jax.jit, static_argnums=(0, 2))
def _conditional(model, params, features, values):
    return model.given(params, features, values)[1]


@functools.partial(jax.jit, static_argnums=0)
def _points(spec, params, x):
    """Log weights of the points of each event, (n, candidates)."""
    return lax.map(lambda x: spec.log_weights(params, x), x, batch_size=spec.traits.tile)


def _sample(model, params, key, n):
    return engine.run(verbs.to_sample(model, params, key, n, None))


def _log_prob(model, params, x):
    return engine.answer(verbs.to_log_prob(model, params, x, None))


def _history(effective, of, error):
    return {
        "method": "importance sampling",
        "effective_sample_size": effective,
        "of": of,
        "log_prob_error": error,
    }
