"""Learning by gradients: epochs of minibatches in compiled chunks."""

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
_SHUFFLES, _NOISE, JUDGING = 1, 2, 3  # streams of a run's key; ``fit`` makes the start of 0


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
    epochs: Any  # completed with a finite loss
    step: Any  # the last one, or the first whose loss was not finite
    status: Any


class _Program(NamedTuple):
    """What a program is compiled for."""

    model: Any
    optimizer: Any
    layout: freezing.Layout
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
    layout = freezing.layout(start, mask, flat=static is optimizers.Adam)
    program = _Program(model, static, layout, min(batch_size, size_class(n)), room)
    learnt, rest = freezing.split(start, mask)
    fixed = _Fixed(train, judge, rest, key, traced, np.int32(epochs), np.int32(patience))
    state = _begin(program, fixed, learnt)
    histories: tuple[list[float], list[float]] = [], []
    done = 0
    with Progress(progress, epochs) as bar:
        while int(state.status) == _RUNNING:
            state, records = _chunk(program, fixed, state, np.int32(done), np.int32(done + length))
            here = int(state.epochs) - done
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
            f"{int(state.epochs) + 1}); the best params before it, of epoch "
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
    return freezing.collect(state.best, fixed.rest, program.layout), history


def _batches(program, fixed):
    return -(-fixed.train.count // program.batch)


def _transformation(program, fixed):
    steps = fixed.epochs * _batches(program, fixed)
    decayed = program.layout.in_matrices
    return optimizers.build(program.optimizer, fixed.hyperparameters, steps, decayed)


@functools.partial(jax.jit, static_argnums=0)
def _begin(program: _Program, fixed: _Fixed, learnt: list) -> _State:
    live = freezing.pack(learnt, program.layout)
    state = _transformation(program, fixed).init(live)
    zero = jnp.zeros((), jnp.int32)
    return _State(live, state, live, _judged(program, fixed, live), zero, zero, zero, zero)


@functools.partial(jax.jit, static_argnums=0)
def _chunk(program: _Program, fixed: _Fixed, state: _State, first, end):
    """Epochs ``first`` to ``end``, fewer when training stops; and what each scored on both sets."""

    def more(carry):
        return (carry[0].status == _RUNNING) & (carry[1] < end)

    def step(carry):
        state, epoch, records = carry
        state, scores = _epoch(program, fixed, state, epoch)
        pairs = zip(records, scores, strict=True)
        return state, epoch + 1, tuple(r.at[epoch - first].set(s, mode="drop") for r, s in pairs)

    empty = jnp.zeros(program.room, state.best_score.dtype)
    state, _, records = lax.while_loop(more, step, (state, first, (empty, empty)))
    return state, records


def _epoch(program, fixed, state, epoch):
    """Every minibatch once, then a score on the rows that judge."""
    train, transformation = fixed.train, _transformation(program, fixed)
    n, batches = train.count, _batches(program, fixed)
    shuffles, noises = (jax.random.fold_in(fixed.key, i) for i in (_SHUFFLES, _NOISE))
    rows = order(jax.random.fold_in(shuffles, epoch), n, len(train.x))
    least, more = n // batches, n % batches  # batches of nearly equal size: no noisy last one
    weight = train.weights.sum() / batches  # batch size times mean weight: the same every step
    slots = jnp.arange(program.batch)

    def step(i, carry):
        live, memory, total, bad = carry
        size = least + (i < more)
        chosen = rows[(i * least + jnp.minimum(i, more) + slots).clip(max=len(rows) - 1)]
        x = train.x[chosen]
        y = None if train.y is None else train.y[chosen]
        weights = jnp.where(slots < size, train.weights[chosen], 0)
        key = jax.random.fold_in(noises, epoch * batches + i)

        def loss(live):
            params = freezing.merge(live, fixed.rest, program.layout)
            losses = batch.loss_rows(program.model, params, key, x, y)
            return (weights * jnp.where(weights > 0, losses, 0)).sum() / weight

        value, grads = jax.value_and_grad(loss)(live)
        updates, new = transformation.update(
            grads, memory, live, value=value, grad=grads, value_fn=loss
        )
        memory = jax.tree_util.tree_map(_like, new, memory)
        live = jax.tree_util.tree_map(_like, jax.tree_util.tree_map(jnp.add, live, updates), live)
        return live, memory, total - value, jnp.where(jnp.isfinite(value), bad, jnp.minimum(bad, i))

    # No early end within an epoch: under vmap its predicate would differ between members, and each
    # step would then choose between the old and the new of all that it carries.
    total = jnp.zeros((), state.best_score.dtype)
    start = state.live, state.optimizer, total, batches
    live, memory, total, bad = lax.fori_loop(jnp.zeros_like(batches), batches, step, start)
    score = _judged(program, fixed, live).astype(total.dtype)

    running = state.status == _RUNNING
    sound = (bad == batches) & ~jnp.isnan(score)
    better = running & sound & (score > state.best_score)
    best = jax.tree_util.tree_map(lambda a, b: jnp.where(better, a, b), live, state.best)
    best_epoch = jnp.where(better, epoch + 1, state.best_epoch)
    status = jnp.where(epoch + 1 >= fixed.epochs, _LIMIT, _RUNNING)
    status = jnp.where(epoch + 1 - best_epoch >= fixed.patience, _PATIENCE, status)
    status = jnp.where(sound, status, _NAN).astype(jnp.int32)
    state = _State(
        live,
        memory,
        best,
        jnp.where(better, score, state.best_score),
        best_epoch,
        state.epochs + (running & sound),
        jnp.where(running, epoch * batches + jnp.minimum(bad + 1, batches), state.step),
        jnp.where(running, status, state.status),
    )
    return state, (total / batches, score)


def _judged(program, fixed, live):
    """The score of the rows that judge: with the same noise every time, so that epochs compare."""
    params = freezing.merge(live, fixed.rest, program.layout)
    return mean_score(program.model, params, jax.random.fold_in(fixed.key, JUDGING), fixed.judge)


def _like(new, old):
    """A loop's carry keeps its dtypes, whatever an optimizer promotes."""
    new = jnp.asarray(new) if isinstance(new, (bool, int, float)) else new
    return new if new.dtype == old.dtype else new.astype(old.dtype)
