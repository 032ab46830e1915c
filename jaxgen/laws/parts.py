"""Laws of an event's parts: marginals, conditionals, and what is missing.

The test of completions fails for a true model with probability 2e-5 or less.
"""

from __future__ import annotations

import functools
import math

import jax
import numpy as np

from jaxgen.core import batch
from jaxgen.core.families import others
from jaxgen.laws.compiled import FEW, noise_rows
from jaxgen.laws.subject import OWN, P_VALUE, NotJudged, Subject, require, require_close

_DRAWS = 8192
_LEVELS = 64  # values up to which a feature counts as discrete
_AWKWARD = (np.inf, 1e30, -np.inf, -1e30, 0.37)
_LIMITS = ((False, 1e-3), (True, 1e-8))  # of gaps, in float32 and in float64


def chain_rule(subject: Subject) -> str:
    """log p(x) = log p(a) + log p(b | a), a some features and b the others, of closed forms."""
    splits = _splits(subject)
    worst = 0.0
    for exact, limit in _LIMITS:
        worst = _in_dtype(subject, exact, lambda s: _chain_gap(s, splits, limit))  # noqa: B023
    return f"largest gap {worst:.1g} in float64, {len(splits)} splits"


def missing(subject: Subject) -> str:
    """Scores and completions from what is seen alone agree with marginals and conditionals."""
    model = subject.model
    if model.learning.missing is None:
        raise NotJudged("the model takes no missing values")
    for exact, limit in _LIMITS:
        _in_dtype(subject, exact, lambda s: _check_seen_scores(s, limit))  # noqa: B023
    x = subject.few.astype(subject.dtype)
    observed = np.random.default_rng(5).random(x.shape) < 0.5
    done = _complete(subject, x, observed)[: len(x)]
    require(done.dtype == x.dtype, f"complete gives {done.dtype} of {x.dtype}")
    _require_kept(done, x, observed)
    require(np.isfinite(subject.log_prob(done)).all(), "a completed event is impossible")
    _check_impossible(subject, subject.conditions(FEW))
    if model.classes is not None:
        _check_impossible(subject, None)
    try:
        splits = _splits(subject)
    except NotJudged:
        return "seen entries and scores hold"
    ps = list(_completion_p(subject, splits))
    p = min(ps) * len(ps)
    require(p > P_VALUE, f"completed entries do not follow `given`: p = {p:.2g}")
    return f"p {min(p, 1):.2g} of {len(ps)} completions"


def _splits(subject):
    """Two of (features, others), of models that have both in closed form.

    The first leaves several others, where there are that many; the second has all features but one,
    in an order that is not that of the event.
    """
    model = subject.model
    size = math.prod(model.event_shape)
    if size < 2:
        raise NotJudged("one feature has no parts")
    rng = np.random.default_rng(4)
    half, most = rng.permutation(size - 1)[: size // 2], np.arange(1, size)[::-1]
    splits = [(f, others(model, f)) for f in (tuple(half.tolist()), tuple(most.tolist()))]
    splits = list(dict.fromkeys(splits))

    def parts(params, flat, features):
        model.marginal(params, features)
        model.given(params, features, flat[np.array(features)])

    flat = jax.ShapeDtypeStruct((size,), subject.dtype)
    try:
        for features, _ in splits:
            jax.eval_shape(functools.partial(parts, features=features), subject.params, flat)
    except NotImplementedError as error:
        raise NotJudged(str(error)) from None
    return splits


def _in_dtype(subject, exact, judge):
    if not exact:
        return judge(subject)
    with subject.in_float64() as twin:
        return judge(twin)


def _chain_gap(subject, splits, limit):
    worst = 0.0
    whole = _score(subject, subject.few)
    for (features, rest), (one, other) in zip(splits, _parts(subject, splits), strict=True):
        what = f"log p{features} + log p({rest} given them)"
        worst = max(worst, require_close(one + other, whole, what, limit, atol=limit))
    return worst


def _check_seen_scores(subject, limit):
    x = subject.few
    masks, wanted = {}, {}
    masks["all"], wanted["all"] = np.ones(x.shape, bool), _score(subject, x)
    masks["nothing"], wanted["nothing"] = np.zeros(x.shape, bool), np.zeros(len(x))
    try:
        splits = _splits(subject)
    except NotJudged:
        splits = []
    for (features, _), (score, _) in zip(splits, _parts(subject, splits), strict=True):
        name = str(features)
        masks[name], wanted[name] = np.zeros(x.shape, bool), score
        masks[name].reshape(len(x), -1)[:, list(features)] = True
    for name, observed in masks.items():
        got = _score_observed(subject, x, observed)
        require_close(got, wanted[name], f"score with {name} seen", limit, atol=limit)


def _require_kept(done, x, observed):
    require((done == x)[observed].all(), "complete changes what is seen")


def _check_impossible(subject, y):
    """Where what is seen has no density, what is missing stays NaN; else it is drawn."""
    x = subject.few.astype(subject.dtype).reshape(FEW, -1)
    observed = np.random.default_rng(6).random(x.shape) < 0.5
    observed[:, 0], observed[:, 1:2] = True, False
    x[:, 0] = np.where(np.arange(FEW) % 2, np.resize(_AWKWARD, FEW), x[:, 0])
    x, observed = (v.reshape(FEW, *subject.model.event_shape) for v in (x, observed))
    score = subject.log_prob(np.where(observed, x, np.nan), y=y)
    done = _complete(subject, x, observed, y)[:FEW]
    _require_kept(done, x, observed)
    possible = np.isfinite(score)
    known = possible.reshape(FEW, *[1] * (x.ndim - 1)) | observed
    for row in np.flatnonzero((np.isnan(done) == known).reshape(FEW, -1).any(1)):
        what, value = x[row][observed[row]], done[row][~observed[row]]
        require(False, f"beside {what}, which scores {score[row]}, what is missing is {value}")
    whole = np.isfinite(subject.log_prob(done[possible], y=None if y is None else y[possible]))
    require(whole.all(), f"an impossible event is completed: {done[possible][~whole][:1]}")


def _score(subject, x):
    """Scores of FEW events."""
    if subject.dtype == np.float64:
        return subject.slopes(subject.chart.drop(x))[0]
    return subject.log_prob(x)


def _parts(subject, splits):
    """Of each split, scores of its features and of the others given them, each (FEW,)."""
    if not splits:
        return []
    x, y = subject.few.astype(subject.dtype), subject.conditions(FEW)
    return _scores_of_parts(subject.model, tuple(splits), subject.params, x, y)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _scores_of_parts(model, splits, params, x, y):
    def one(x, y):
        x = x.reshape(-1)
        for features, rest in splits:
            known, left = x[np.array(features)], x[np.array(rest)]
            a, at_a = model.marginal(params, features)
            b, at_b = model.given(params, features, known)
            yield a.log_prob(at_a, known, y), b.log_prob(at_b, left, y)

    return jax.vmap(lambda x, y: list(one(x, y)), (0, None if y is None else 0))(x, y)


def _score_observed(subject, x, observed):
    """Scores of rows, with zeros for what is not seen."""
    x = np.where(observed, x, 0).astype(subject.dtype)
    return _scores_observed(subject.model, subject.params, x, subject.conditions(len(x)), observed)


@functools.partial(jax.jit, static_argnums=0)
def _scores_observed(model, params, x, y, observed):
    score = lambda x, y, observed: model.log_prob(params, x, y, observed=observed)  # noqa: E731
    return jax.vmap(score, (0, None if y is None else 0, 0))(x, y, observed)


def _complete(subject, x, observed, y=OWN):
    """_DRAWS completions of rows of x; y (n, *y_shape) or None, by default the own."""
    y = subject.conditions(len(x)) if y is OWN else y
    x = np.where(observed, x, np.nan).astype(subject.dtype)
    x, y = (v if v is None else np.resize(v, (_DRAWS, *v.shape[1:])) for v in (x, y))
    key = jax.random.fold_in(subject.key, 2)  # not the noise that made x
    return np.asarray(_completed(subject.model, subject.params, key, x, y))


@functools.partial(jax.jit, static_argnums=0)
def _completed(model, params, key, x, y):
    return batch.complete_rows(model, params, key, np.zeros(2, np.uint32), x, y)


def _completion_p(subject, splits):
    """P-values, a feature each, of completions of one event against draws of ``given``."""
    event = subject.few[1:2].astype(subject.dtype)
    key, y = jax.random.fold_in(subject.key, 1), subject.conditions(_DRAWS)
    drawn = _draws_given(subject.model, tuple(splits), subject.params, event.ravel(), key, y)
    for (features, rest), theirs in zip(splits, drawn, strict=True):
        observed = np.isin(np.arange(event.size), features).reshape(event.shape)
        ours = _complete(subject, event, observed).reshape(_DRAWS, -1)[:, list(rest)]
        # their sum, too, which shows how they depend on each other
        both = [np.concatenate([v, v.sum(1, keepdims=True)], 1).T for v in (ours, theirs)]
        yield from (_same_distribution_p(*columns) for columns in zip(*both, strict=True))


def _same_distribution_p(ours, theirs):
    from scipy.stats import chi2_contingency, ks_2samp

    values, code = np.unique(np.concatenate([ours, theirs]), return_inverse=True)
    if len(values) > _LEVELS:
        return float(ks_2samp(ours, theirs).pvalue)
    counts = np.stack([np.bincount(c, minlength=len(values)) for c in np.split(code, 2)])
    rare = counts.sum(0) < 20
    table = np.append(counts[:, ~rare], counts[:, rare].sum(1, keepdims=True), 1)
    table = table[:, table.sum(0) > 0]
    return float(chi2_contingency(table).pvalue) if table.shape[1] > 1 else 1.0


@functools.partial(jax.jit, static_argnums=(0, 1))
def _draws_given(model, splits, params, event, key, y):
    """Draws of the other features of each split, given those of the event."""

    def draw(features):
        part, at = model.given(params, features, event[np.array(features)])
        noise = noise_rows(part, key, _DRAWS, event.dtype)
        return jax.vmap(part.push, (None, -1, None if y is None else 0))(at, noise, y)

    return [draw(features) for features, _ in splits]
