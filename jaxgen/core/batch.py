"""The pure layer: a model's one-event methods over a batch of rows.

These functions compose under jit, vmap, grad and scan. ``Fitted`` and the engine call them too, so
a draw or a score is the same inside a user's jit as outside it.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.core import inputs
from jaxgen.core.lanes import over_rows
from jaxgen.core.model import Model, Params
from jaxgen.core.numerics import blanked, computed_once, logsumexp
from jaxgen.core.promotion import standard_promotion
from jaxgen.core.random import Bits, draw
from jaxgen.core.random.choice import choose, words_for
from jaxgen.core.random.threefry import key_words

_WIDER = 64  # an accelerator's tiles, as multiples of those that suit the caches of one CPU core


@standard_promotion
def sample(model: Model, params: Params, key: jax.Array, n: int, y=None) -> jax.Array:
    """n events, (n, *event_shape). The first 10 of 1000 are the 10 of ``n = 10``.

    Args:
      model: the spec.
      params: its params.
      key: a typed PRNG key.
      n: number of events, static under jit.
      y: conditions (n, *y_shape), or one of y_shape for all; None for an unconditional model, and
        for one of labels, which then draws y from p(y) first.

    Returns:
      The events. A traced y cannot be checked: of one that the model cannot take, such as a label
      out of range, they are NaN, or the least integer where events are whole numbers.

    Raises:
      TypeError, ValueError: an argument of the wrong kind, shape or range, by its name.
    """
    key, n = inputs.as_key(key), inputs.as_count(n)
    y = inputs.as_conditions(model, y, (n,), inputs.float_dtype(params))
    return sample_rows(model, params, key, np.zeros(2, np.uint32), n, y)


@standard_promotion
def log_prob(model: Model, params: Params, x, y=None) -> jax.Array:
    """log p(x) or log p(x|y) in nats, of shape x.shape without the event dimensions.

    Total: -inf outside the support and at +-inf, NaN where x or y is NaN or a traced y is none that
    the model can take. But if the model learns from missing values (``model.learning.missing``),
    NaN in x is a missing value: the score is that of the observed features, 0 if there are none.

    Args:
      model: the spec.
      params: its params.
      x: events (..., *event_shape), with at least one batch dimension.
      y: conditions (..., *y_shape), or one of y_shape for all; None for an unconditional model, and
        for the marginal of one of labels, log sum_y p(y) p(x|y).

    Raises:
      TypeError, ValueError: an argument of the wrong kind or shape, by its name.
    """
    dtype = inputs.float_dtype(params)
    x = jnp.asarray(inputs.as_events(model, x, dtype))
    batch = x.shape[: x.ndim - len(model.event_shape)]
    y = inputs.as_conditions(model, y, batch, dtype)
    x = x.reshape(-1, *model.event_shape)
    if y is not None:
        y = jnp.reshape(y, (x.shape[0], *y.shape[len(batch) :]))
    score = functools.partial(log_prob_rows, model, params, x, y)
    return _with_missing(model, x, score).reshape(batch)


@standard_promotion
def classify(model: Model, params: Params, x, prior=None) -> jax.Array:
    """log p(y|x) of each label by Bayes' rule, (..., classes), in nats; NaN where x is impossible.

    Args:
      model: the spec of a model of labels, such as ``compose.PerClass``.
      params: its params.
      x: events (..., *event_shape), with at least one batch dimension; NaN is as in ``log_prob``.
      prior: p(y) (classes,), not negative, with a positive sum; None takes the learnt one.

    Raises:
      TypeError, ValueError: an argument of the wrong kind or shape, by its name.
    """
    dtype = inputs.float_dtype(params)
    prior = inputs.as_prior(model, prior, dtype)
    x = jnp.asarray(inputs.as_events(model, x, dtype))
    batch = x.shape[: x.ndim - len(model.event_shape)]
    x = x.reshape(-1, *model.event_shape)
    score = functools.partial(classify_rows, model, params, prior, x)
    return _with_missing(model, x, score).reshape(*batch, model.classes)


def _with_missing(model, x, score):
    """``score(missing)``, whether x has values missing, for a model that may be asked so."""
    if model.learning.missing is None:
        return score(False)
    found = jnp.isnan(x).any()
    if isinstance(found, jax.core.Tracer):  # under jit that of a constant is one too
        return lax.cond(found, lambda: score(True), lambda: score(False))
    return score(bool(found))


@standard_promotion
def push(model: Model, params: Params, noise, y=None) -> jax.Array:
    """Events (n, *event_shape) that noise makes: a pytree like ``model.noise()``, rows leading.

    Of a traced y that the model cannot take they are as in ``sample``.
    """
    noise, n = inputs.as_noise(model, noise)
    y = inputs.as_conditions(model, y, (n,), inputs.float_dtype(params))
    return push_rows(model, params, noise, y)


@standard_promotion
def pull(model: Model, params: Params, x, y=None):
    """The noise that makes events (n, *event_shape); the inverse of ``push``.

    It is NaN of a traced y that the model cannot take.
    """
    dtype = inputs.float_dtype(params)
    x = jnp.asarray(inputs.as_events(model, x, dtype))
    y = inputs.as_conditions(model, y, x.shape[: x.ndim - len(model.event_shape)], dtype)
    return pull_rows(model, params, x, y)


def sample_rows(model, params, key, start, n, y):
    """Events of rows start .. start + n - 1; start is (2,) uint32, high word first."""
    once = not (model.traits.elementwise and _even(model))
    draws_label = y is None and model.classes is not None
    leaves = (model.noise(), _label_noise(model)) if draws_label else model.noise()

    def rows(first, count, y):
        noise = draw(leaves, key, jnp.stack(_later(start, first)), count, dtype)
        if once:
            noise = computed_once(noise, key_words(key)[0])
        if draws_label:
            noise, words = noise
            y = jax.vmap(choose, (None, -1))(jnp.exp(model.log_prior(params)), words)
        events = over_rows(model.push, (None, -1, None if y is None else 0))(params, noise, y)
        return events if draws_label else of_known(model, y, events)

    dtype = inputs.float_dtype(params)
    return _in_tiles(model.traits.tile, rows, n, y)


def complete_rows(model, params, key, start, x, y):
    """Events (n, *event_shape) whose NaN are drawn given the rest, with the noise of their rows.

    Where the rest has no density nothing follows from it, and its NaN stay.
    """
    leaves = model.noise(), _label_noise(model)
    prior = None if model.classes is None else model.log_prior(params)

    def rows(first, count, own):
        x, y = own
        noise, words = draw(leaves, key, jnp.stack(_later(start, first)), count, x.dtype)
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
            # an event is possible if what is seen of it is, and is scored in a fraction of the time
            possible = jnp.isfinite(_scores(model, params, done, y, False))
        return jnp.where(observed, done, blanked(possible, done))

    return _in_tiles(model.traits.tile, rows, len(x), (x, y))


def log_prob_rows(model, params, x, y, missing=False):
    """Scores of checked rows (n, *event_shape); missing: NaN in x may stand for missing values."""
    if y is None and model.classes is not None:
        prior = model.log_prior(params)
        marginal = lambda _, __, x: logsumexp(_joint(model, params, prior, x, missing), 1)  # noqa: E731
        return _in_tiles(model.traits.tile, marginal, len(x), x)

    def rows(_, __, own):
        x, y = own
        return _scores(model, params, x, y, missing)

    return _in_tiles(model.traits.tile, rows, len(x), (x, y))


def log_prob_and_k_rows(model, params, x, y):
    """Scores of checked rows (n, *event_shape), and Pareto k of their importance weights."""

    def one(x, y):
        finite = jnp.isfinite(x).all()
        log_p, k = model.traits.log_prob_and_k(params, jnp.where(finite, x, 0), y)
        return _total(x, lambda _: log_p, -jnp.inf), jnp.where(finite, k, jnp.nan)

    def rows(_, __, own):
        x, y = own
        log_p, k = over_rows(one, (0, None if y is None else 0))(x, y)
        return of_known(model, y, log_p), k

    return _in_tiles(model.traits.tile, rows, len(x), (x, y))


def classify_rows(model, params, prior, x, missing=False):
    """log p(y|x) (n, classes) of checked rows; prior is log p(y), or None for the learnt one."""
    prior = model.log_prior(params) if prior is None else prior
    rows = lambda _, __, x: _normal(_joint(model, params, prior, x, missing))  # noqa: E731
    return _in_tiles(model.traits.tile, rows, len(x), x)


def _joint(model, params, prior, x, missing):
    """log p(y) + log p(x|y), (n, classes), a class at a time: few hold a network's activations."""

    def of_class(own):
        label, log_p = own
        score = _scores(model, params, x, label, missing, shared=True)
        # a class of no weight may have no sound score
        return jnp.where(log_p == -jnp.inf, -jnp.inf, log_p + score)

    return lax.map(of_class, (jnp.arange(model.classes), prior)).T


def _normal(joint):
    """Log probabilities in proportion to those joint ones (n, classes); NaN where all are 0."""
    possible = (joint.max(1) != -jnp.inf)[:, None]  # NaN stays NaN
    log_p = jax.nn.log_softmax(jnp.where(possible, joint, 0), 1)
    return jnp.where(possible, log_p, jnp.nan)


def _label_noise(model):
    return () if model.classes is None else Bits((words_for(model.classes),))


def _scores(model, params, x, y, missing, shared=False):
    """Scores of rows, each with its own y, or with one that all share."""

    def one(x, y):
        if not missing:
            return _total(x, lambda x: model.log_prob(params, x, y), -jnp.inf)
        observed = ~jnp.isnan(x)
        known = jnp.where(observed, x, 0)
        return _total(known, lambda x: model.log_prob(params, x, y, observed=observed), -jnp.inf)

    if shared:
        return over_rows(one, (0, None))(x, y)
    return of_known(model, y, over_rows(one, (0, None if y is None else 0))(x, y))


def loss_rows(model, params, key, x, y, events):
    """Losses of checked rows, with noise of their own; one event's does not depend on others.

    events: how many there are to learn from, of which these are some.
    """

    def one(noise, x, y):
        return _total(x, lambda x: model.loss(params, noise, x, y), jnp.inf)

    def rows(first, count, xy):
        start = jnp.stack(_later(np.zeros(2, np.uint32), first))
        noise = draw(model.learning.noise, key, start, count, x.dtype, events)
        if jax.tree_util.tree_leaves(noise):
            noise = computed_once(noise, key_words(key)[0])
        return over_rows(one, (-1, 0, None if y is None else 0))(noise, *xy)

    return _in_tiles(model.traits.tile, rows, len(x), (x, y))


def _total(x, score, at_infinity):
    """``score`` of a finite x; else ``at_infinity``, or NaN where x is."""
    finite = jnp.isfinite(x).all()
    # a model never sees a value that is not finite, so neither its density nor its gradient
    # has to be right there
    value = jnp.where(finite, score(jnp.where(finite, x, jnp.zeros_like(x))), at_infinity)
    return jnp.where(jnp.isnan(x).any(), jnp.nan, value)


def of_known(model, y, out):
    """``out``, rows leading, blanked in rows whose y is NaN or none that the model can take."""
    if y is None:
        return out
    each = [] if model.y_support is None else [jnp.asarray(model.y_support(y))]
    if jnp.issubdtype(y.dtype, jnp.floating):
        each.append(~jnp.isnan(y))
    rows = [known.all(tuple(range(1, known.ndim))) for known in each]
    return blanked(functools.reduce(jnp.logical_and, rows), out) if rows else out


def _in_tiles(tile, rows, n, leading):
    """``rows(first, count, leading)`` over n rows, at most ``tile`` of them at once.

    A network's matrix products then have one shape whatever n is, and activations that fit caches.
    ``leading`` is a pytree of arrays whose rows lead.
    """
    if tile is not None and jax.default_backend() != "cpu":
        tile *= _WIDER
    if tile is None or n <= tile:
        return rows(0, n, leading)
    count = -(-n // tile)

    def cut(v):
        v = jnp.asarray(v)
        padding = jnp.broadcast_to(v[:1], (count * tile - n, *v.shape[1:]))
        v = jnp.concatenate([v, padding]) if count * tile > n else v
        return v.reshape(count, tile, *v.shape[1:])

    firsts = jnp.arange(count, dtype=jnp.uint32) * np.uint32(tile)
    tiles = firsts, jax.tree_util.tree_map(cut, leading)
    out = lax.map(lambda own: rows(own[0], tile, own[1]), tiles)
    return jax.tree_util.tree_map(lambda v: v.reshape(-1, *v.shape[2:])[:n], out)


def _later(start, rows):
    """The row number ``start`` (high and low word) and so many rows more."""
    low = jnp.asarray(start)[1] + jnp.asarray(rows, jnp.uint32)
    return jnp.asarray(start)[0] + (low < jnp.asarray(start)[1]).astype(jnp.uint32), low


def _even(model):
    width = math.prod(model.event_shape)
    return width == 1 or width % 2 == 0  # an odd width would be written a number at a time


def push_rows(model, params, noise, y):
    """Events made of noise whose rows lead."""
    return of_known(model, y, _each(model, model.push, params, noise, y))


def pull_rows(model, params, x, y):
    """Noise of events, rows leading."""
    return of_known(model, y, _each(model, model.pull, params, x, y))


def _each(model, method, params, values, y):
    def rows(_, __, both):
        return over_rows(method, (None, 0, None if y is None else 0))(params, *both)

    n = len(jax.tree_util.tree_leaves(values)[0])
    return _in_tiles(model.traits.tile, rows, n, (values, y))
