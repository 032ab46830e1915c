"""Expectation-maximisation in compiled chunks, from one start or several."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from jaxgen.core import inputs
from jaxgen.core.families import check_observed, mask_argument
from jaxgen.core.places import Names
from jaxgen.core.random import fixed
from jaxgen.core.shards import rows_on
from jaxgen.core.sizes import size_class
from jaxgen.core.warn import warn
from jaxgen.training.devices import leads, local, replicated
from jaxgen.training.progress import Progress, chunk_length
from jaxgen.training.rows import (
    Data,
    Rows,
    as_params,
    check_scores,
    for_init,
    pad,
    split_rows,
)

TOLERANCE = 1e-5  # by default EM has converged if a step gains less, in nats for each event
EPOCHS = 200

# EM ends at the local optimum nearest to its start, so each start is the best of a few short runs:
# Biernacki, Celeux and Govaert 2003, "Choosing starting values for the EM algorithm".
SHORT_RUNS = 8
SHORT_STEPS = 10
SHORT_ROWS = 4096, 16384  # least and most rows of a short run
ROWS_EACH = 32  # rows for each number in the params
# Rows times numbers in the params up to which short runs are padded to the rows of the whole run:
# its program then serves both, which saves more time than the padding takes.
ALIKE = 2**20

_RUNNING, _CONVERGED, _LIMIT, _NAN = range(4)


class _State(NamedTuple):
    previous: Any  # params one step back, whose score is known
    params: Any
    score: Any  # that of previous while running, that of params once stopped
    step: Any
    status: Any


def run(
    model,
    start,
    data: Data,
    key,
    epochs,
    restarts,
    progress,
    label="",
    tolerance=TOLERANCE,
    largest=None,
    avoid_collapse=False,
    sharding=None,
):
    """Params of highest likelihood over the restarts, and the history of that run.

    The params returned are those of the best score in their run.

    largest: for a mixture, the number of components of the mixture whose programs to run: the
      components in excess have no weight. None for its own programs.
    avoid_collapse: whether a start without a collapsed component comes before others, instead of a
      warning of such a component.
    sharding: of rows on several devices, as ``devices.checked`` returns it. The short runs that
      choose a start take one.
    """
    epochs = EPOCHS if epochs is None else epochs
    components = model.traits.components
    starts, runs = restarts, SHORT_RUNS
    if components is not None and components.count == 1:
        starts = runs = 1  # all starts of a single component are the same
    wanted, init = model, model.init
    rank = functools.partial(_rank, avoid_collapse=avoid_collapse)
    if largest is not None:
        sizes = wanted.traits.components.sizes
        model = sizes.model(largest)
        init = functools.partial(model.traits.components.sizes.init, wanted.traits.components.count)
    x, y, weights, numbers = data[:4]
    missing = inputs.has_missing(x)
    if missing:
        check_observed(~np.isnan(x))
    rows, volume = pad(x, y, weights), data.log_volume()
    placed = rows if sharding is None else split_rows(rows, sharding)[0]
    options = missing, volume, tolerance, sharding
    alike = not missing and sharding is None
    results, failure = [], None
    with Progress(progress if leads(sharding) else False, epochs * starts) as bar:
        for i in range(starts):
            bar.label(f"{label} start {i + 1}/{starts}".strip() if starts > 1 else label)
            here = start
            if start is None:
                with Names.of_rows(numbers):
                    start_key = jax.random.fold_in(key, i)
                    here = _start(model, init, start_key, x, y, weights, runs, rank, alike)
            params, history = _one(model, here, placed, epochs, bar, *options)
            if params is None:
                failure = here
            else:
                results.append((params, history))
    if not results:
        check_scores(model, failure, rows, numbers, "x")
        raise ValueError(
            f"x cannot be fitted: EM of {wanted} starts from params that are not finite"
        )

    params, history = max(results, key=lambda result: rank(model, x, *result))
    if history["stopped"].startswith("nan"):
        warn(
            f"EM of {wanted} stopped: the log-likelihood was not finite at step "
            f"{history['steps']}; the last finite params are returned"
        )
    elif _is_collapsed(model, x, params):
        history["collapsed"] = True
        if not avoid_collapse:
            warn(
                f"EM of {wanted}: a component has collapsed onto equal rows, so jitter sets its "
                "variance and the likelihood means little; take fewer components or a larger jitter"
            )
    if restarts > 1:
        history["restarts"] = [other["train"][-1] for _, other in results]
    if largest is not None:
        params = sizes.resize(params, wanted.traits.components.count)
    return params, history


def _start(model, init, key, x, y, weights, runs, rank, alike):
    """The starting params from which one of ``runs`` short runs on some of the rows scores best.

    alike: whether the program of the whole run serves short runs on as many rows.
    """
    if model.learning.method == "closed_form":  # EM serves missing values only
        return as_params(init(key, *for_init(x, y, weights)))
    n, numbers = len(x), _count_numbers(model)
    most = int(np.clip(ROWS_EACH * numbers, *SHORT_ROWS))
    size = size_class(n) if alike and size_class(n) * numbers <= ALIKE else None
    if n > most:
        some = np.sort(fixed.generator().choice(n, most, replace=False))
        x, y, weights = (None if v is None else v[some] for v in (x, y, weights))
    else:
        some = np.arange(n)
    x = inputs.filled(x, np.nanmean)  # a step with missing values is many times slower
    rows, data = pad(x, y, weights, size=size), for_init(x, y, weights)

    def rank_after(start):
        params, history = _one(model, start, rows, SHORT_STEPS, None)
        return (False, False, -math.inf) if params is None else rank(model, x, params, history)

    keys = [jax.random.fold_in(key, i) for i in range(runs)]
    with Names.of_rows(some):
        starts = [as_params(init(k, *data)) for k in keys]
    if runs == 1:
        return starts[0]
    return max(starts, key=rank_after)


@functools.lru_cache(maxsize=256)
def _count_numbers(model):
    """How many numbers the params hold; infinite if ``model.init`` needs data to tell."""
    try:
        params = jax.eval_shape(model.init, jax.random.key(0))
    except Exception:  # an init that needs data
        return math.inf
    return sum(math.prod(leaf.shape) for leaf in jax.tree_util.tree_leaves(params))


def _rank(model, x, params, history, avoid_collapse):
    """A key that sorts runs by score, after those that ended in NaN.

    With ``avoid_collapse``, those with a collapsed component come before the others, too.
    """
    is_finite = not history["stopped"].startswith("nan")
    return is_finite, not (avoid_collapse and _is_collapsed(model, x, params)), history["train"][-1]


def _is_collapsed(model, x, params):
    """Whether a component has collapsed onto equal rows, as far as the model can tell."""
    components = model.traits.components
    tells = components is not None and components.collapsed is not None
    return tells and components.collapsed(params, x)


def _one(
    model,
    start,
    rows: Rows,
    epochs,
    bar,
    missing=False,
    volume=0.0,
    tolerance=TOLERANCE,
    sharding=None,
):
    length, room = chunk_length(epochs + 1)
    length = room if bar is None else length  # nothing to show between chunks
    dtype = rows.weights.dtype
    state = _State(start, start, np.asarray(-np.inf, dtype), np.int32(0), np.int32(_RUNNING))
    limits = np.int32(epochs), np.asarray(tolerance, dtype)
    state, limits = replicated((state, limits), sharding)
    train: list[float] = []
    # one class may have no missing values; a closed form has an EM step for masked rows alone
    done, missing = 0, missing or model.learning.method != "em"
    while True:
        end = replicated(np.int32(min(done + length, epochs + 1)), sharding)
        state, scores = _chunk(model, room, missing, sharding, rows, state, end, *limits)
        status, step = int(state.status), int(state.step)
        scored = step - done + (status in (_CONVERGED, _LIMIT))
        train += (np.asarray(scores, np.float64)[:scored] - volume).tolist()
        if train and bar is not None:
            bar.advance(step - done, train[-1])
        done = step
        if status != _RUNNING:
            break
    if status == _NAN and step == 0:
        return None, {}
    if len(train) > 1 and train[-1] < train[-2]:
        train.pop()  # the step that lost likelihood is undone
    reason = {_CONVERGED: "converged", _LIMIT: "epochs", _NAN: f"nan at step {step}"}[status]
    history = {"method": "em", "steps": step, "epochs": step, "train": train}
    return local(state.params, sharding), {**history, "validation": [], "stopped": reason}


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _chunk(model, room, missing, sharding, rows: Rows, state: _State, end, limit, tolerance):
    """The state after steps up to ``end``, or until EM stops, and the score before each step."""
    first = state.step
    x, observed = rows.x, None
    if missing:
        observed = ~jnp.isnan(x)
        x = jnp.where(observed, x, 0)

    def constrained(tree):
        """The tree, which each of several devices has whole."""
        if sharding is None:
            return tree
        return lax.with_sharding_constraint(tree, NamedSharding(sharding.mesh, PartitionSpec()))

    def more(carry):
        state, _ = carry
        return (state.status == _RUNNING) & (state.step < end)

    def step(carry):
        state, scores = carry
        with rows_on(sharding):
            data = x, rows.y, rows.weights
            new, score = model.em_step(state.params, *data, **mask_argument(observed))
        new, score = constrained((new, score))
        new = jax.tree_util.tree_map(lambda n, o: jnp.asarray(n, o.dtype), new, state.params)
        score = score.astype(state.score.dtype)
        finite, gain = jnp.isfinite(score), score - state.score
        stopped = jnp.where(gain < tolerance, _CONVERGED, _LIMIT)
        status = jnp.where((gain < tolerance) | (state.step >= limit), stopped, _RUNNING)
        status = jnp.where(finite, status, _NAN).astype(jnp.int32)
        going, worse = status == _RUNNING, ~finite | (gain < 0)

        def choose(new, here, previous):
            return jnp.where(going, new, jnp.where(worse, previous, here))

        params = jax.tree_util.tree_map(choose, new, state.params, state.previous)
        scores = scores.at[state.step - first].set(score)
        reached = jnp.where(worse, state.score, score)
        count = state.step + going.astype(state.step.dtype)
        return _State(state.params, params, reached, count, status), scores

    scores = jnp.zeros(room, state.score.dtype)
    return constrained(lax.while_loop(more, step, (state, scores)))
