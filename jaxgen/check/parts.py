"""Laws of an event's parts: marginals, conditionals, and what is missing.

The test of completions fails for a true model with probability 2e-5 or less.
"""

from __future__ import annotations

import functools
import math

import jax
import numpy as np

from jaxgen.check.subject import (
    P_VALUE,
    NotJudged,
    Subject,
    noise_rows,
    require,
    require_close,
)
from jaxgen.model import others

_SPLITS = 2
_DRAWS = 8192
_LEVELS = 64  # values up to which a feature counts as discrete
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
    if model.missing is None:
        raise NotJudged("the model takes no missing values")
    for exact, limit in _LIMITS:
        _in_dtype(subject, exact, lambda s: _check_seen_scores(s, limit))  # noqa: B023
    seen = np.random.default_rng(5).random(subject.few.shape) < 0.5
    x = subject.few.astype(subject.dtype)
    done = _complete(model, subject.params, np.where(seen, x, 0), seen, subject, len(x))
    require(done.dtype == x.dtype, f"complete gives {done.dtype} of {x.dtype}")
    done = np.asarray(done)
    require((done == x)[seen].all(), "complete changes what is seen")
    require(np.isfinite(subject.log_prob(done)).all(), "a completed event is impossible")
    try:
        splits = _splits(subject)
    except NotJudged:
        return "seen entries and scores hold"
    ps = [p for split in splits for p in _completion_p(subject, split)]
    p = min(ps) * len(ps)
    require(p > P_VALUE, f"completed entries do not follow `given`: p = {p:.2g}")
    return f"p {min(p, 1):.2g} of {len(ps)} completions"


def _splits(subject):
    """Random (features, others), of models that have both in closed form."""
    model = subject.model
    size = math.prod(model.event_shape)
    if size < 2:
        raise NotJudged("one feature has no parts")
    rng = np.random.default_rng(4)
    splits = []
    for _ in range(_SPLITS):
        order = rng.permutation(size).tolist()
        features = tuple(order[: rng.integers(1, size)])
        splits.append((features, others(model, features)))
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
    x = subject.few.astype(subject.dtype)
    whole = subject.log_prob(x)
    worst = 0.0
    for features, rest in splits:
        sums = _chain(subject.model, features, subject.params, x, subject.conditions(len(x)))
        what = f"log p{features} + log p({rest} given them)"
        worst = max(worst, require_close(sums, whole, what, limit, atol=limit))
    return worst


@functools.partial(jax.jit, static_argnums=(0, 1))
def _chain(model, features, params, x, y):
    rest = others(model, features)

    def one(x, y):
        x = x.reshape(-1)
        known, left = x[np.array(features)], x[np.array(rest)]
        a, at_a = model.marginal(params, features)
        b, at_b = model.given(params, features, known)
        return a.log_prob(at_a, known, y) + b.log_prob(at_b, left, y)

    return jax.vmap(one, (0, None if y is None else 0))(x, y)


def _check_seen_scores(subject, limit):
    model, x = subject.model, subject.few.astype(subject.dtype)
    whole, nothing = np.ones(x.shape, bool), np.zeros(x.shape, bool)
    masks = {"all": whole, "nothing": nothing}
    wanted = {"all": subject.log_prob(x), "nothing": np.zeros(len(x))}
    try:
        splits = _splits(subject)
    except NotJudged:
        splits = []
    for features, _ in splits:
        name = str(features)
        masks[name] = np.zeros(x.shape, bool)
        masks[name].reshape(len(x), -1)[:, list(features)] = True
        part, params = jax.jit(model.marginal, static_argnums=1)(subject.params, features)
        alone = x.reshape(len(x), -1)[:, np.array(features)]
        wanted[name] = _score(part, params, subject, alone)
    # in one batch, for one program
    every = np.concatenate([x] * len(masks))
    scores = _score(model, subject.params, subject, every, np.concatenate(list(masks.values())))
    for name, got in zip(masks, np.split(np.asarray(scores), len(masks)), strict=True):
        require_close(got, wanted[name], f"score with {name} seen", limit, atol=limit)


def _score(model, params, subject, x, seen=None):
    """Scores of rows, with zeros for what is not seen."""
    y = subject.conditions(len(x))
    axes = (None, 0, None if y is None else 0)
    if seen is None:
        return jax.jit(jax.vmap(model.log_prob, axes))(params, x, y)
    score = jax.jit(jax.vmap(model.log_prob, (*axes, 0)))
    return score(params, np.where(seen, x, 0), y, seen)


def _complete(model, params, x, seen, subject, n):
    """n completions, of rows of x or of one event."""
    y = subject.conditions(n)
    noise = noise_rows(model, subject.key, n, subject.dtype)
    rows = 0 if x.ndim > len(model.event_shape) else None
    axes = (None, -1, rows, rows, None if y is None else 0)
    return jax.jit(jax.vmap(model.complete, axes))(params, noise, x, seen, y)


def _completion_p(subject, split):
    """P-values, a feature each, of completions of one event against draws of ``given``."""
    from scipy.stats import chi2_contingency, ks_2samp

    model, (features, rest) = subject.model, split
    event = subject.few[1].astype(subject.dtype).reshape(-1)
    seen = np.isin(np.arange(event.size), features)
    x = np.where(seen, event, 0).reshape(model.event_shape)
    done = _complete(model, subject.params, x, seen.reshape(x.shape), subject, _DRAWS)
    done = np.asarray(done).reshape(_DRAWS, -1)[:, list(rest)]
    given = jax.jit(model.given, static_argnums=1)
    part, params = given(subject.params, features, event[np.array(features)])
    key = jax.random.fold_in(subject.key, 1)
    y = subject.conditions(_DRAWS)
    noise = noise_rows(part, key, _DRAWS, subject.dtype)
    push = jax.vmap(part.push, (None, -1, None if y is None else 0))
    drawn = np.asarray(jax.jit(push)(params, noise, y))
    # their sum, too, which tells how they hang together
    done, drawn = (np.concatenate([v, v.sum(1, keepdims=True)], 1) for v in (done, drawn))
    for ours, theirs in zip(done.T, drawn.T, strict=True):
        values, code = np.unique(np.concatenate([ours, theirs]), return_inverse=True)
        if len(values) > _LEVELS:
            yield float(ks_2samp(ours, theirs).pvalue)
            continue
        counts = np.stack([np.bincount(c, minlength=len(values)) for c in np.split(code, 2)])
        rare = counts.sum(0) < 20
        table = np.append(counts[:, ~rare], counts[:, rare].sum(1, keepdims=True), 1)
        table = table[:, table.sum(0) > 0]
        yield float(chi2_contingency(table).pvalue) if table.shape[1] > 1 else 1.0
