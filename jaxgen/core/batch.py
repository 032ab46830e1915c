"""A model's one-event methods over checked rows, as pure functions.

They run inside a user's transformation and inside the engine's programs alike, so that a draw or a
score is the same in both. ``start`` is a row number, (2,) uint32 with the high word first.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.core import inputs
from jaxgen.core.families import token_log_probs_of_each
from jaxgen.core.lanes import over_rows
from jaxgen.core.numerics import blanked, logsumexp
from jaxgen.core.random import Bits, draw, later
from jaxgen.core.random.choice import choose, words_for

_FEW = 64  # features up to which two sums of bools are as fast as one of numbers
_WIDER = 64  # an accelerator's tiles, as multiples of those that suit the caches of one CPU core


def sample_rows(model, params, key, start, n, y, with_labels=False):
    """Events of rows start .. start + n - 1; with_labels: and labels or components (n,) of them."""
    draws_label = y is None and model.classes is not None
    leaves = (model.noise(), _label_noise(model)) if draws_label else model.noise()
    fused = is_fused(model)
    axis = 0 if (model.traits.row_major or model.traits.elementwise) and not fused else -1

    def rows(first, count, y):
        here = jnp.stack(later(start, first))
        noise = draw(leaves, key, here, count, dtype, axis=axis, fused=fused)
        if draws_label:
            noise, words = noise
            y = jax.vmap(choose, (None, axis))(jnp.exp(model.log_prior(params)), words)
        events = over_rows(model.push, (None, axis, None if y is None else 0))(params, noise, y)
        events = events if draws_label else blank_unknown(model, y, events)
        if not with_labels:
            return events
        if model.classes is not None:
            return events, y
        which = over_rows(model.traits.components.which, (None, axis, None if y is None else 0))
        return events, which(params, noise, y)

    dtype = inputs.float_dtype(params)
    if model.traits.draw_tile is not None:
        return _in_tiles(model.traits.draw_tile, rows, n, y, whole=True)
    return _in_tiles(model.traits.tile, rows, n, y)


def complete_rows(model, params, key, start, x, y):
    """Events (n, *event_shape) whose NaN are drawn given the rest, with the noise of their rows.

    NaN stays where the other values of the event have no density.
    """
    leaves = model.noise(), _label_noise(model)
    prior = None if model.classes is None else model.log_prior(params)

    def rows(first, count, block):
        x, y = block
        noise, words = draw(leaves, key, jnp.stack(later(start, first)), count, x.dtype)
        possible = None
        if y is None and prior is not None:
            posterior = _normal(_joint(model, params, prior, x, True))
            y = jax.vmap(choose, (0, -1))(jnp.exp(posterior), words)
            possible = ~jnp.isnan(posterior[:, 0])
        observed = ~jnp.isnan(x)
        axes = None, -1, 0, 0, None if y is None else 0
        done = over_rows(model.complete, axes)(
            params, noise, jnp.where(observed, x, 0), observed, y
        )
        if possible is None:
            # a whole event is possible if its observed features are, and is scored much faster
            possible = jnp.isfinite(_scores(model, params, done, y, False))
        return jnp.where(observed, done, blanked(possible, done))

    return _in_tiles(model.traits.tile, rows, len(x), (x, y))


def log_prob_rows(model, params, x, y, missing=False):
    """Scores of rows (n, *event_shape); missing: NaN in x stands for missing values."""
    if y is None and model.classes is not None:
        prior = model.log_prior(params)
        marginal = lambda _, __, x: logsumexp(_joint(model, params, prior, x, missing), 1)  # noqa: E731
        return _in_tiles(model.traits.tile, marginal, len(x), x)

    def rows(_, __, block):
        x, y = block
        return _scores(model, params, x, y, missing)

    return _in_tiles(model.traits.tile, rows, len(x), (x, y))


def log_prob_and_k_rows(model, params, x, y):
    """Scores of rows (n, *event_shape), and Pareto k of their importance weights."""

    def one(x, y):
        finite = jnp.isfinite(x).all()
        log_p, k = model.traits.log_prob_and_k(params, jnp.where(finite, x, 0), y)
        return _total(x, lambda _: log_p, -jnp.inf), jnp.where(finite, k, jnp.nan)

    def rows(_, __, block):
        x, y = block
        log_p, k = over_rows(one, (0, None if y is None else 0))(x, y)
        return blank_unknown(model, y, log_p), k

    return _in_tiles(model.traits.tile, rows, len(x), (x, y))


def classify_rows(model, params, prior, x, missing=False):
    """log p(y|x) (n, classes) of rows; prior is log p(y), or None for the learnt one."""
    prior = model.log_prior(params) if prior is None else prior
    rows = lambda _, __, x: _normal(_joint(model, params, prior, x, missing))  # noqa: E731
    return _in_tiles(model.traits.tile, rows, len(x), x)


def joint_rows(model, params, x, y, missing=False):
    """log w_k + log p_k(x) of rows and components, (n, count), for a model with components."""
    joint = model.traits.components.joint

    def one(x, y):
        if not missing:
            return _total(x, lambda x: joint(params, x, y), -jnp.inf)
        observed = ~jnp.isnan(x)
        known = jnp.where(observed, x, 0)
        return _total(known, lambda x: joint(params, x, y, observed), -jnp.inf)

    def rows(_, __, block):
        x, y = block
        return blank_unknown(model, y, over_rows(one, (0, None if y is None else 0))(x, y))

    return _in_tiles(model.traits.tile, rows, len(x), (x, y))


def token_log_probs_rows(model, params, x, y):
    """log p of each token given those before it, (n, length); NaN in rows outside the support."""
    each = model.traits.token_log_probs

    def one(x, y):
        possible = jnp.isfinite(x).all() & model.support(x)
        log_p = each(params, jnp.where(possible, x, jnp.zeros_like(x)), y)
        return jnp.where(possible, log_p, jnp.nan)

    def rows(_, __, block):
        x, y = block
        if y is not None or model.classes is None:
            log_p = over_rows(one, (0, None if y is None else 0))(x, y)
            return blank_unknown(model, y, log_p)
        of_label = lambda label: over_rows(one, (0, None))(x, label)  # noqa: E731
        of_labels = lax.map(of_label, jnp.arange(model.classes))
        return token_log_probs_of_each(model.log_prior(params), of_labels)

    return _in_tiles(model.traits.tile, rows, len(x), (x, y))


def responsibilities_rows(model, params, x, y, missing=False):
    """Probabilities of components given rows, (n, count); NaN where the density is 0."""
    return jnp.exp(_normal(joint_rows(model, params, x, y, missing)))


def _joint(model, params, prior, x, missing):
    """log p(y) + log p(x|y), (n, classes), one class at a time to save a network's memory."""

    def score_class(label_and_prior):
        label, log_p = label_and_prior
        score = _scores(model, params, x, label, missing, shared=True)
        # a class of no weight may have no sound score
        return jnp.where(log_p == -jnp.inf, -jnp.inf, log_p + score)

    return lax.map(score_class, (jnp.arange(model.classes), prior)).T


def _normal(joint):
    """Joint log probabilities (n, k), normalised over the last axis; NaN if all are -inf."""
    possible = (joint.max(1) != -jnp.inf)[:, None]
    log_p = jax.nn.log_softmax(jnp.where(possible, joint, 0), 1)
    return jnp.where(possible, log_p, jnp.nan)


def _label_noise(model):
    return () if model.classes is None else Bits((words_for(model.classes),))


def _scores(model, params, x, y, missing, shared=False):
    """Scores of rows, with a y for each row or one shared by all."""

    def one(x, y):
        if not missing:
            score = lambda x: model.log_prob(params, x, y)  # noqa: E731
        else:
            observed = ~jnp.isnan(x)
            x = jnp.where(observed, x, 0)
            score = lambda x: model.log_prob(params, x, y, observed=observed)  # noqa: E731
        return score(x) if model.traits.guarded else _total(x, score, -jnp.inf)

    if shared:
        return over_rows(one, (0, None))(x, y)
    return blank_unknown(model, y, over_rows(one, (0, None if y is None else 0))(x, y))


def loss_rows(model, params, key, x, y, events, number=0):
    """Losses of rows (n,), each with noise of its own.

    events: number of events in the whole training set; number: that of the first row.
    """

    def one(noise, x, y):
        return _total(x, lambda x: model.loss(params, noise, x, y), jnp.inf)

    def rows(first, count, xy):
        start = jnp.stack(later(np.zeros(2, np.uint32), first + number))
        noise = draw(model.learning.noise, key, start, count, x.dtype, events)
        return over_rows(one, (-1, 0, None if y is None else 0))(noise, *xy)

    return _in_tiles(model.traits.tile, rows, len(x), (x, y))


def tiles_of(model, n):
    """The number of equal tiles in which n rows are trained on, and the rows in each."""
    tile = _on_device(model.traits.tile)
    if tile is None or n <= tile:
        return 1, n
    count = -(-n // tile)
    return count, -(-n // count)


def _total(x, score, at_infinity):
    """``score(x)`` if x is finite, NaN if x holds NaN, else ``at_infinity``."""
    if x.size <= _FEW:
        finite, unknown = jnp.isfinite(x).all(), jnp.isnan(x).any()
    else:  # one pass; a sum, as a maximum may leave out NaN on a CPU; it does not overflow
        length = (jnp.abs(lax.stop_gradient(x)) * x.dtype.type(0.5 / x.size)).sum()
        finite, unknown = length < jnp.inf, jnp.isnan(length)
    # a model gets finite values only, so its density and gradient need not be right elsewhere
    value = jnp.where(finite, score(jnp.where(finite, x, jnp.zeros_like(x))), at_infinity)
    return jnp.where(unknown, jnp.nan, value)


def blank_unknown(model, y, out):
    """``out``, rows leading, blank in rows whose y is NaN or outside the model's y_support."""
    if y is None:
        return out
    each = [] if model.y_support is None else [jnp.asarray(model.y_support(y))]
    if jnp.issubdtype(y.dtype, jnp.floating):
        each.append(~jnp.isnan(y))
    rows = [known.all(tuple(range(1, known.ndim))) for known in each]
    return blanked(functools.reduce(jnp.logical_and, rows), out) if rows else out


def _in_tiles(tile, rows, n, leading, whole=False):
    """``rows(first, count, leading)`` over n rows, at most ``tile`` at once.

    So a network's matrix products have one shape for any n, and its activations fit in caches.

    Args:
      leading: pytree of arrays whose rows lead.
      whole: whether fewer rows are padded to a tile too. Then their results have the same bits as
        among more rows, which matters where a result is a choice.
    """
    tile = _on_device(tile)
    if tile is None or (n <= tile and not whole):
        return rows(0, n, leading)
    count = -(-n // tile)

    def cut(v):
        v = jnp.asarray(v)
        padding = jnp.broadcast_to(v[:1], (count * tile - n, *v.shape[1:]))
        v = jnp.concatenate([v, padding]) if count * tile > n else v
        return v.reshape(count, tile, *v.shape[1:])

    firsts = jnp.arange(count, dtype=jnp.uint32) * np.uint32(tile)
    tiles = firsts, jax.tree_util.tree_map(cut, leading)
    out = lax.map(lambda one: rows(one[0], tile, one[1]), tiles)
    return jax.tree_util.tree_map(lambda v: v.reshape(-1, *v.shape[2:])[:n], out)


def _on_device(tile):
    return tile if tile is None or jax.default_backend() == "cpu" else tile * _WIDER


def is_fused(model):
    """Whether a draw's noise is made where it is read, so that no block holds it in memory."""
    # loops over more numbers of a row would hash each of them alone
    return model.traits.elementwise and math.prod(model.event_shape) <= 2


def push_rows(model, params, noise, y):
    """Events that noise makes, a pytree whose rows lead."""
    return blank_unknown(model, y, _each(model, model.push, params, noise, y))


def pull_rows(model, params, x, y):
    """Noise that makes events, a pytree whose rows lead."""
    return blank_unknown(model, y, _each(model, model.pull, params, x, y))


def _each(model, method, params, values, y):
    def rows(_, __, both):
        return over_rows(method, (None, 0, None if y is None else 0))(params, *both)

    n = len(jax.tree_util.tree_leaves(values)[0])
    return _in_tiles(model.traits.tile, rows, n, (values, y))
