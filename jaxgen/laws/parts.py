"""Laws of an event's parts: marginals, conditionals and missing values.

The test of completions fails for a correct model with probability 2e-5 or less.
"""

from __future__ import annotations

import contextlib
import functools
import math

import jax
import numpy as np

from jaxgen.core import batch, functions
from jaxgen.core.families import others
from jaxgen.laws.compiled import FEW, noise_rows
from jaxgen.laws.subject import (
    DEFAULT_Y,
    P_VALUE,
    NotApplicable,
    Subject,
    require,
    require_close,
    require_each,
    shown,
)
from jaxgen.training.fitted import Fitted

_PARTS = (
    "marginal or given: features are indices into the flattened event, in the order given; given "
    "returns the other features in their order, and its values are those of features"
)
_OBSERVED = (
    "log_prob: with `observed`, return the log density of the observed features alone, the others "
    "integrated out; x is 0 where it is not observed"
)
_COMPLETED = (
    "complete: return jnp.where(observed, x, drawn), with drawn from the conditional given the "
    "observed features"
)
_DRAWS = 8192  # completions of an event
_LEVELS = 64  # a feature with at most so many values counts as discrete
_AWKWARD = (np.inf, 1e30, -np.inf, -1e30, 0.37)
_TOLERANCES = ((False, 1e-3), (True, 1e-8))  # whether in float64, and the largest gap then


def chain_rule(subject: Subject) -> str:
    """log p(x) = log p(a) + log p(b | a), with a some of the features and b the others."""
    splits = _splits(subject)
    worst = 0.0
    for double, tolerance in _TOLERANCES:
        with _in_dtype(subject, double) as in_dtype:
            worst = _chain_gap(in_dtype, splits, tolerance)
    return f"largest gap {worst:.1g} in float64, {len(splits)} splits"


def tokens(subject: Subject) -> str:
    """log p(x) of a sequence is the sum of log p of each token given those before it.

    The first of them is the marginal of the first token, and none is positive.
    """
    model = subject.model
    if model.traits.token_log_probs is None:
        raise NotApplicable("the model is not one of sequences")
    x, y = subject.few_samples, subject.conditions(FEW)
    fitted = Fitted(model, subject.params)
    each = np.asarray(fitted.token_log_probs(x, y), np.float64)
    advice = "traits.token_log_probs: return log p of each entry of x given those before it"
    what = "log p(x) as the sum over tokens"
    gap = require_close(each.sum(1), subject.log_prob(x), what, 1e-4, 1e-4, advice=advice, events=x)
    positive = (each > 1e-5).any(1)
    require_each(~positive, x, "a token has a probability above 1", advice)
    with contextlib.suppress(NotImplementedError):
        part, params = model.marginal(subject.params, (0,))
        first = functions.log_prob(part, params, x[:, :1], y)
        what = "log p of the first token as its marginal"
        require_close(each[:, 0], first, what, 1e-4, 1e-4, advice=advice, events=x)
    return f"largest gap {gap:.1g}"


def missing(subject: Subject) -> str:
    """Scores and completions of incomplete events agree with marginals and conditionals."""
    model = subject.model
    if model.learning.missing is None:
        raise NotApplicable("the model takes no missing values")
    for double, tolerance in _TOLERANCES:
        with _in_dtype(subject, double) as in_dtype:
            _check_observed_scores(in_dtype, tolerance)
    x = subject.few_samples.astype(subject.dtype)
    observed = np.random.default_rng(5).random(x.shape) < 0.5
    completed = _complete(subject, x, observed)[: len(x)]
    what = f"complete turns {x.dtype} into {completed.dtype}"
    require(completed.dtype == x.dtype, what, _COMPLETED)
    _require_kept(completed, x, observed)
    possible = np.isfinite(subject.log_prob(completed))
    require_each(possible, completed, "a completed event has zero density", _COMPLETED)
    _check_impossible(subject, subject.conditions(FEW))
    if model.classes is not None:
        _check_impossible(subject, None)
    try:
        splits = _splits(subject)
    except NotApplicable:
        return "observed values and scores hold; no closed form to compare completions with"
    ps = list(_completion_p(subject, splits))
    p = min(ps) * len(ps)
    require(
        p > P_VALUE,
        f"completions of {shown(subject.few_samples[1])} do not follow `given`: p = {p:.2g}",
        f"{_COMPLETED}; or given: it returns another conditional",
    )
    return f"p {min(p, 1):.2g} of {len(ps)} completions"


def _splits(subject):
    """Two ways to split the features: pairs (features, the other features).

    The first pair has about half of the features on each side, the second all features but one, in
    another order than that of the event. For a model that has only marginals of its first features,
    such as one of sequences, there is one pair, of the first half and the others.

    Raises:
      NotApplicable: the model has no marginals or no conditionals in closed form.
    """
    model = subject.model
    size = math.prod(model.event_shape)
    if size < 2:
        raise NotApplicable("an event has fewer than two features")
    rng = np.random.default_rng(4)
    half, most = rng.permutation(size - 1)[: size // 2], np.arange(1, size)[::-1]
    first = np.arange(size // 2)
    wanted = [(half, most), (first,)]

    def parts(params, flat, features):
        model.marginal(params, features)
        model.given(params, features, flat[np.array(features)])

    flat, refused = jax.ShapeDtypeStruct((size,), subject.dtype), ""
    for candidates in wanted:
        splits = dict.fromkeys(tuple(features.tolist()) for features in candidates)
        try:
            for features in splits:
                jax.eval_shape(functools.partial(parts, features=features), subject.params, flat)
        except NotImplementedError as error:
            refused = refused or str(error)
        else:
            return [(features, others(model, features)) for features in splits]
    raise NotApplicable(refused)


def _in_dtype(subject, double):
    """A context that yields the subject, in float64 if wanted."""
    return subject.in_float64() if double else contextlib.nullcontext(subject)


def _chain_gap(subject, splits, tolerance):
    worst = 0.0
    whole = _score(subject, subject.few_samples)
    for (features, rest), (one, other) in zip(splits, _parts(subject, splits), strict=True):
        what = f"log p of features {features} + log p of {rest} given them"
        x = subject.few_samples
        gap = require_close(one + other, whole, what, tolerance, tolerance, advice=_PARTS, events=x)
        worst = max(worst, gap)
    return worst


def _check_observed_scores(subject, tolerance):
    x = subject.few_samples
    masks, wanted = {}, {}
    masks["all"], wanted["all"] = np.ones(x.shape, bool), _score(subject, x)
    masks["nothing"], wanted["nothing"] = np.zeros(x.shape, bool), np.zeros(len(x))
    try:
        splits = _splits(subject)
    except NotApplicable:
        splits = []
    for (features, _), (score, _) in zip(splits, _parts(subject, splits), strict=True):
        name = str(features)
        masks[name], wanted[name] = np.zeros(x.shape, bool), score
        masks[name].reshape(len(x), -1)[:, list(features)] = True
    for name, observed in masks.items():
        got = _score_observed(subject, x, observed)
        what = f"log_prob with features {name} observed"
        require_close(got, wanted[name], what, tolerance, tolerance, advice=_OBSERVED, events=x)


def _require_kept(completed, x, observed):
    kept = ((completed == x) | ~observed).reshape(len(x), -1).all(1)
    require_each(
        kept, np.where(observed, x, np.nan), "complete changes observed values", _COMPLETED
    )


def _check_impossible(subject, y):
    """Missing values are drawn, except where the observed ones have zero density: they stay NaN."""
    x = subject.few_samples.astype(subject.dtype).reshape(FEW, -1)
    observed = np.random.default_rng(6).random(x.shape) < 0.5
    observed[:, 0], observed[:, 1:2] = True, False
    x[:, 0] = np.where(np.arange(FEW) % 2, np.resize(_AWKWARD, FEW), x[:, 0])
    x, observed = (v.reshape(FEW, *subject.model.event_shape) for v in (x, observed))
    score = subject.log_prob(np.where(observed, x, np.nan), y=y)
    completed = _complete(subject, x, observed, y)[:FEW]
    _require_kept(completed, x, observed)
    possible = np.isfinite(score)
    known = possible.reshape(FEW, *[1] * (x.ndim - 1)) | observed
    for row in np.flatnonzero((np.isnan(completed) == known).reshape(FEW, -1).any(1)):
        values, drawn = x[row][observed[row]], completed[row][~observed[row]]
        require(
            False,
            f"for observed {values}, of log_prob {score[row]}, complete draws {drawn}",
            "log_prob: with `observed`, -inf means that an observed value is outside the support",
        )
    y = None if y is None else y[possible]
    finite = np.isfinite(subject.log_prob(completed[possible], y=y))
    what = "a completed event has zero density"
    require_each(finite, completed[possible], what, _COMPLETED)


def _score(subject, x):
    """Scores of FEW events."""
    if subject.dtype == np.float64:
        return subject.directional_derivatives(subject.coordinates.from_events(x))[0]
    return subject.log_prob(x)


def _parts(subject, splits):
    """For each split, scores of its features and of the others given these, each (FEW,)."""
    if not splits:
        return []
    x, y = subject.few_samples.astype(subject.dtype), subject.conditions(FEW)
    return _scores_of_parts(subject.model, tuple(splits), subject.params, x, y)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _scores_of_parts(model, splits, params, x, y):
    def one(x, y):
        x = x.reshape(-1)
        for features, rest in splits:
            known, left = x[np.array(features)], x[np.array(rest)]
            marginal, marginal_params = model.marginal(params, features)
            given, given_params = model.given(params, features, known)
            score = marginal.log_prob(marginal_params, known, y)
            yield score, given.log_prob(given_params, left, y)

    return jax.vmap(lambda x, y: list(one(x, y)), (0, None if y is None else 0))(x, y)


def _score_observed(subject, x, observed):
    """Scores of rows x of which only the observed values are given."""
    x = np.where(observed, x, 0).astype(subject.dtype)
    return _scores_observed(subject.model, subject.params, x, subject.conditions(len(x)), observed)


@functools.partial(jax.jit, static_argnums=0)
def _scores_observed(model, params, x, y, observed):
    score = lambda x, y, observed: model.log_prob(params, x, y, observed=observed)  # noqa: E731
    return jax.vmap(score, (0, None if y is None else 0, 0))(x, y, observed)


def _complete(subject, x, observed, y=DEFAULT_Y):
    """_DRAWS completions of the rows of x in turn; y as in ``Subject.draw``."""
    y = subject.conditions(len(x)) if y is DEFAULT_Y else y
    x = np.where(observed, x, np.nan).astype(subject.dtype)
    x, y = (v if v is None else np.resize(v, (_DRAWS, *v.shape[1:])) for v in (x, y))
    key = jax.random.fold_in(subject.key, 2)  # other noise than that of x
    return np.asarray(_completed(subject.model, subject.params, key, x, y))


@functools.partial(jax.jit, static_argnums=0)
def _completed(model, params, key, x, y):
    return batch.complete_rows(model, params, key, np.zeros(2, np.uint32), x, y)


def _completion_p(subject, splits):
    """P-values, one for each feature, of completions of one event against draws of ``given``."""
    event = subject.few_samples[1:2].astype(subject.dtype)
    key, y = jax.random.fold_in(subject.key, 1), subject.conditions(_DRAWS)
    drawn = _draws_given(subject.model, tuple(splits), subject.params, event.ravel(), key, y)
    for (features, rest), of_given in zip(splits, drawn, strict=True):
        observed = np.isin(np.arange(event.size), features).reshape(event.shape)
        completed = _complete(subject, event, observed).reshape(_DRAWS, -1)[:, list(rest)]
        # the sum of the features is tested too: it depends on their correlations
        both = [np.concatenate([v, v.sum(1, keepdims=True)], 1).T for v in (completed, of_given)]
        yield from (_same_distribution_p(*columns) for columns in zip(*both, strict=True))


def _same_distribution_p(a, b):
    """The p-value of a test that a and b, each (n,), come from one distribution."""
    from scipy.stats import chi2_contingency, ks_2samp

    values, code = np.unique(np.concatenate([a, b]), return_inverse=True)
    if len(values) > _LEVELS:
        return float(ks_2samp(a, b).pvalue)
    counts = np.stack([np.bincount(c, minlength=len(values)) for c in np.split(code, 2)])
    rare = counts.sum(0) < 20
    table = np.append(counts[:, ~rare], counts[:, rare].sum(1, keepdims=True), 1)
    table = table[:, table.sum(0) > 0]
    return float(chi2_contingency(table).pvalue) if table.shape[1] > 1 else 1.0


@functools.partial(jax.jit, static_argnums=(0, 1))
def _draws_given(model, splits, params, event, key, y):
    """Draws of the other features of each split, given those of the event."""

    def draw(features):
        given, given_params = model.given(params, features, event[np.array(features)])
        noise = noise_rows(given, key, _DRAWS, event.dtype)
        return jax.vmap(given.push, (None, -1, None if y is None else 0))(given_params, noise, y)

    return [draw(features) for features, _ in splits]
