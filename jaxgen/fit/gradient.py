"""Maximum likelihood by gradients: epochs of minibatches in compiled chunks."""

from __future__ import annotations

import functools
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen import batch
from jaxgen.fit import freezing, optimizers
from jaxgen.fit.progress import Progress, chunk_length
from jaxgen.fit.rows import Rows, mean_score, size_class
from jaxgen.fit.shuffle import order

STEPS = 5000  # minibatches planned for when epochs are not given
EPOCHS = (20, 1000)  # fewest and most of them

_RUNNING, _PATIENCE, _LIMIT, _NAN = range(4)


class _Fixed(NamedTuple):
    """What does not change in a run. All of it is traced."""

    train: Rows
    judge: Rows  # rows that decide which params are best
    rest: list  # params that are not learnt
    key: Any
    hyperparameters: Any
    epochs: Any
    patience: Any


class _State(NamedTuple):
    live: Any
    optimizer: Any
    best: Any
    best_score: Any
    best_epoch: Any
    epoch: Any
    step: Any
    status: Any


class _Program(NamedTuple):
    """What a program is compiled for."""

    model: Any
    optimizer: Any
    mask: tuple[bool, ...]
    tree: Any
    batch: int
    room: int


def run(
    model,
    start,
    train: Rows,
    judge: Rows | None,
    *,
    freeze,
    key,
    epochs,
    batch_size,
    patience,
    optimizer,
    progress,
):
    """The params that score best on ``judge``, or on the training rows where it is None."""
    mask = freezing.learnt(start, freeze, model.frozen)
    static, traced = optimizers.prepare(optimizer)
    n = int(train.count)
    batches = -(-n // batch_size)
    if epochs is None:
        epochs = min(max(-(-STEPS // batches), EPOCHS[0]), EPOCHS[1])
    # unless asked to, no early end: the low learning rates at the end settle the params
    patience = epochs + 1 if patience is None else patience
    held_out = judge is not None
    judge = train if judge is None else judge

    length, room = chunk_length(epochs)
    tree = jax.tree_util.tree_structure(start)
    program = _Program(model, static, mask, tree, min(batch_size, size_class(n)), room)
    live, rest = freezing.split(start, mask)
    fixed = _Fixed(train, judge, rest, key, traced, np.int32(epochs), np.int32(patience))
    state = _begin(program, fixed, live)
    histories: tuple[list[float], list[float]] = [], []
    done = 0
    with Progress(progress, epochs) as bar:
        while int(state.status) == _RUNNING:
            state, records = _chunk(program, fixed, state, np.int32(done + length))
            here = int(state.epoch) - done
            for history, record in zip(histories, records, strict=True):
                history += np.asarray(record)[:here].tolist()
            if here:
                bar.advance(here, histories[held_out][-1])
            done += here
    return _result(program, fixed, state, histories, held_out)


def _result(program, fixed, state, histories, held_out):
    status, step = int(state.status), int(state.step)
    reason = {_PATIENCE: "patience", _LIMIT: "epochs", _NAN: f"nan at step {step}"}[status]
    if status == _NAN:
        warnings.warn(
            f"training {program.model} stopped: the loss was not finite at step {step} (epoch "
            f"{int(state.epoch) + 1}); the best params before it, of epoch "
            f"{int(state.best_epoch)}, are returned",
            RuntimeWarning,
            stacklevel=4,
        )
    train, judged = histories
    history = {
        "method": "gradient",
        "epochs": len(train),
        "steps": step,
        "train": train if held_out else judged,
        "validation": judged if held_out else [],
        "best_epoch": int(state.best_epoch),
        "stopped": reason,
    }
    return freezing.merge(state.best, fixed.rest, program.tree, program.mask), history


def _batches(program, fixed):
    return -(-fixed.train.count // program.batch)


def _transformation(program, fixed):
    steps = fixed.epochs * _batches(program, fixed)
    return optimizers.build(program.optimizer, fixed.hyperparameters, steps)


@functools.partial(jax.jit, static_argnums=0)
def _begin(program: _Program, fixed: _Fixed, live) -> _State:
    state = _transformation(program, fixed).init(live)
    params = freezing.merge(live, fixed.rest, program.tree, program.mask)
    score = mean_score(program.model, params, fixed.judge)
    zero = jnp.zeros((), jnp.int32)
    return _State(live, state, live, score, zero, zero, zero, zero)


@functools.partial(jax.jit, static_argnums=0)
def _chunk(program: _Program, fixed: _Fixed, state: _State, end):
    """Epochs up to ``end``, fewer when training stops; and what each scored on both sets."""
    first = state.epoch

    def more(carry):
        return (carry[0].status == _RUNNING) & (carry[0].epoch < end)

    def step(carry):
        state, (train, judged) = carry
        state, seen, score = _epoch(program, fixed, state)
        place = jnp.where(state.status == _NAN, program.room, state.epoch - 1 - first)
        return state, (
            train.at[place].set(seen, mode="drop"),
            judged.at[place].set(score, mode="drop"),
        )

    empty = jnp.zeros(program.room, state.best_score.dtype)
    return lax.while_loop(more, step, (state, (empty, empty)))


def _epoch(program, fixed, state):
    """Every minibatch once, then a score on the rows that judge."""
    train, transformation = fixed.train, _transformation(program, fixed)
    n, batches = train.count, _batches(program, fixed)
    rows = order(jax.random.fold_in(fixed.key, state.epoch), n, len(train.x))
    least, more = n // batches, n % batches  # batches of nearly equal size: no noisy last one
    weight = train.weights.sum() / batches  # batch size times mean weight: the same every step
    slots = jnp.arange(program.batch)

    def step(carry):
        live, memory, total, i, _ = carry
        size = least + (i < more)
        chosen = rows[(i * least + jnp.minimum(i, more) + slots).clip(max=len(rows) - 1)]
        x = train.x[chosen]
        y = None if train.y is None else train.y[chosen]
        weights = jnp.where(slots < size, train.weights[chosen], 0)

        def loss(live):
            params = freezing.merge(live, fixed.rest, program.tree, program.mask)
            scores = batch.log_prob_rows(program.model, params, x, y)
            return -(weights * jnp.where(weights > 0, scores, 0)).sum() / weight

        value, grads = jax.value_and_grad(loss)(live)
        updates, new = transformation.update(
            grads, memory, live, value=value, grad=grads, value_fn=loss
        )
        memory = jax.tree_util.tree_map(_like, new, memory)
        live = jax.tree_util.tree_map(_like, jax.tree_util.tree_map(jnp.add, live, updates), live)
        return live, memory, total - value, i + 1, jnp.isfinite(value)

    def more_batches(carry):
        return (carry[3] < batches) & carry[4]

    total = jnp.zeros((), state.best_score.dtype)
    start = state.live, state.optimizer, total, jnp.zeros((), jnp.int32), jnp.asarray(True)
    live, memory, total, done, finite = lax.while_loop(more_batches, step, start)
    params = freezing.merge(live, fixed.rest, program.tree, program.mask)
    score = mean_score(program.model, params, fixed.judge).astype(total.dtype)

    sound = finite & ~jnp.isnan(score)
    better = sound & (score > state.best_score)
    best = jax.tree_util.tree_map(lambda a, b: jnp.where(better, a, b), live, state.best)
    epoch = state.epoch + sound.astype(jnp.int32)
    best_epoch = jnp.where(better, epoch, state.best_epoch)
    status = jnp.where(epoch >= fixed.epochs, _LIMIT, _RUNNING)
    status = jnp.where(epoch - best_epoch >= fixed.patience, _PATIENCE, status)
    status = jnp.where(sound, status, _NAN).astype(jnp.int32)
    best_score = jnp.where(better, score, state.best_score)
    state = _State(live, memory, best, best_score, best_epoch, epoch, state.step + done, status)
    return state, total / batches, score


def _like(new, old):
    """A loop's carry keeps its dtypes, whatever an optimizer promotes."""
    new = jnp.asarray(new) if isinstance(new, (bool, int, float)) else new
    return new if new.dtype == old.dtype else new.astype(old.dtype)
