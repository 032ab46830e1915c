"""Training by gradients: a run of compiled chunks, with progress, checkpoints and its history."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core import compiler
from jaxgen.core.labels import entry, stack
from jaxgen.core.sizes import size_class
from jaxgen.core.warn import warn
from jaxgen.data.model_file import versions
from jaxgen.training import freezing, optimizers
from jaxgen.training.checkpoint import Checkpoint
from jaxgen.training.devices import (
    check_same,
    has_other_processes,
    leads,
    local,
    replicated,
)
from jaxgen.training.epochs import (
    LIMIT,
    NAN,
    PATIENCE,
    RUNNING,
    START,
    Fixed,
    Program,
    State,
    begin,
    chunk,
)
from jaxgen.training.progress import SOON, Progress, chunk_length
from jaxgen.training.rows import Rows, split_rows

STEPS = 5000  # minibatches planned for when epochs are not given
EPOCHS = (20, 1000)  # fewest and most of them

_map = jax.tree_util.tree_map
_begin = compiler.jit(begin, quick=True, static_argnums=0)
_chunk = compiler.jit(chunk, static_argnums=0)


class Settings(NamedTuple):
    """Arguments of ``fit`` that say how to train."""

    epochs: Any
    batch_size: int
    patience: int | None
    optimizer: Any
    freeze: Any
    members: int | None  # number of fits side by side; None for a single fit
    progress: bool | None
    own_rows: bool = False  # does each member have its own rows?
    log_volume: Any = 0.0  # score in standard units minus score in the units of x, in nats
    sharding: Any = None  # of rows on several devices, as ``devices.checked`` returns it


class RunState(NamedTuple):
    """The progress of a run: the content of a checkpoint."""

    state: State
    rest: list
    epoch: Any
    train: Any  # scores, (epochs,) or (epochs, members)
    validation: Any


def planned_epochs(n: int, batch_size: int) -> int:
    return min(max(-(-STEPS // -(-n // batch_size)), EPOCHS[0]), EPOCHS[1])


def describe(model, key, settings: Settings) -> dict[str, str]:
    """The settings that a checkpoint shares with the run that resumes from it, but for the data."""
    names = (settings.freeze,) if isinstance(settings.freeze, str) else settings.freeze
    return {
        "model": f"{model!r} of {type(model).__module__}",
        "key": f"{jax.random.key_impl(key)} {np.asarray(jax.random.key_data(key)).tolist()}",
        "epochs": repr(settings.epochs),
        "batch_size": repr(settings.batch_size),
        "patience": repr(settings.patience),
        "optimizer": optimizers.describe(settings.optimizer, settings.members),
        "freeze": repr(sorted(name.replace(".", "/") for name in names)),
        "ensemble": repr(settings.members),
        "dtype": str(jnp.result_type(float)),
        "versions": versions("jaxgen", "jax", "jaxlib", "optax"),
    }


def run(
    model,
    starts: list,
    check: Callable[[int], None],
    mask: tuple[bool, ...],
    train: Rows,
    validation: Rows | None,
    key,
    settings: Settings,
    checkpoint: Checkpoint | None,
):
    """The params that score best on ``validation``, or on the training rows if it is None.

    Args:
      starts: params to start from, one for each member.
      check: raises if the start of a member gives a row no finite score or gradient. It takes as
        long as an epoch and is compiled apart, so it is called only if training fails at once.
      mask: which leaves of the params are learnt.
      key: a key, or one for each member on a leading axis.

    Returns the params and the history.
    """
    epochs, members, sharding = settings.epochs, settings.members, settings.sharding
    static, hyperparameters = optimizers.prepare(settings.optimizer, members)
    layout = freezing.layout(starts[0], mask, flat=static is optimizers.Adam)
    length, room = chunk_length(epochs)
    size = min(settings.batch_size, size_class(int(train.count)))
    scored = validation is not None or model.learning.keep == "best"
    own_rows, splits = settings.own_rows, (None, None)
    if sharding is not None:
        train, validation, splits = _split(train, validation, sharding, own_rows)
    program = Program(model, static, layout, size, room, members, own_rows, scored, *splits)
    start = starts[0] if members is None else jax.device_put(stack(starts))
    learnt, rest = freezing.split(start, mask)
    # by default no early end, as the low learning rates at the end settle the params
    patience = np.int32(epochs + 1 if settings.patience is None else settings.patience)
    scored_rows = train if validation is None else validation
    others = rest, key, hyperparameters, np.int32(epochs), patience
    fixed = Fixed(train, scored_rows, *replicated(others, sharding))
    learnt = replicated(learnt, sharding)
    run_state = _resumed(checkpoint, program, fixed, learnt)
    epoch = "" if run_state is None else str(run_state.epoch)
    check_same({"checkpoint (one file that all processes share)": epoch}, sharding)
    if run_state is None:
        state, _, _ = _run_chunk(program, fixed, _begin(program, fixed, learnt), START, 1)
        _check_each(check, ~np.isfinite(state.best_score))
        none = np.zeros((0, *state.best_score.shape))
        run_state = RunState(state, rest, np.int32(0), none, none)
    fixed = fixed._replace(rest=replicated(run_state.rest, sharding))
    progress = settings.progress if leads(sharding) else False
    checkpoint = checkpoint if leads(sharding) else None
    try:
        with Progress(progress, epochs) as bar:
            if run_state.epoch:
                bar.advance(*_news(run_state, 0))
            while (np.asarray(run_state.state.status) == RUNNING).any():
                done, began = int(run_state.epoch), time.perf_counter()
                later = _further(program, fixed, run_state, length, settings.log_volume)
                if not done:
                    status, whole_epochs = jax.device_get((later.state.status, later.state.epochs))
                    _check_each(check, (status == NAN) & (whole_epochs == 0))
                run_state = later
                if checkpoint is not None:
                    checkpoint.offer(run_state)
                bar.advance(*_news(run_state, done))
                soon = time.perf_counter() - began < SOON
                if soon and not has_other_processes(sharding):  # whose chunks must be the same
                    length = min(2 * length, room)
    finally:  # after an interrupt too, the file holds the last complete chunk
        if checkpoint is not None and run_state.epoch:
            checkpoint.write(run_state)
    best = local(run_state.state.best, sharding)
    params = freezing.collect(best, run_state.rest, layout)
    history = _history(run_state, members, validation is not None, settings.log_volume)
    _warn_of_nan(model, history)
    return params, history


def _split(train, validation, sharding, own_rows):
    """Rows on several devices: those of training and of validation, and how both lie."""
    train, how = split_rows(train, sharding, own_rows)
    if validation is None:
        return train, None, (how, how)
    validation, other = split_rows(validation, sharding, own_rows)
    return train, validation, (how, other)


def _check_each(check, failed):
    for member in np.flatnonzero(failed):
        check(member)


def _run_chunk(program, fixed, state, first, length):
    arguments = state, np.int32(first), np.int32(first + length)
    if program.train is not None:
        arguments = replicated(arguments, program.train.sharding)
    return _chunk(program, fixed, *arguments)


def _further(program, fixed, run_state, length, log_volume):
    state, epoch, records = _run_chunk(program, fixed, run_state.state, run_state.epoch, length)
    epoch, records = jax.device_get((epoch, records))
    train, validation = (np.asarray(r[: epoch - run_state.epoch], np.float64) for r in records)
    return RunState(
        state,
        run_state.rest,
        epoch,
        np.concatenate([run_state.train, train - log_volume]),
        np.concatenate([run_state.validation, validation - log_volume]),
    )


def _resumed(checkpoint, program, fixed, learnt):
    if checkpoint is None or not checkpoint.exists():
        return None
    state = jax.eval_shape(functools.partial(begin, program), fixed, learnt)
    return checkpoint.read(RunState(state, fixed.rest, None, None, None))


def _news(run_state, done):
    """For the progress bar: the number of new epochs, and the score that they reached."""
    last = run_state.validation[-1]
    known = last[np.isfinite(last)]
    return int(run_state.epoch) - done, float(known.mean()) if known.size else math.nan


def _history(run_state, members, held_out, log_volume):
    scores = run_state.train if held_out else run_state.validation, run_state.validation
    state = jax.device_get(run_state.state._replace(live=None, optimizer=None, best=None))
    state = state._replace(best_score=state.best_score - log_volume)
    if members is None:
        return _history_of_one(state, *scores, held_out)
    each = []
    for i in range(members):
        own = entry(state, i)
        train, validation = (s[:, i] for s in scores)
        each.append(_history_of_one(own, train, validation, held_out))
    epochs = max(state.epochs)
    training = np.arange(epochs)[:, None] < state.epochs  # a mean over members that still train
    means = [np.mean(s[:epochs], 1, where=training).tolist() for s in scores]
    return {
        "method": "gradient",
        "epochs": int(epochs),
        "steps": int(max(state.step)),
        "train": means[0],
        "validation": means[1] if held_out else [],
        "stopped": ", ".join(sorted({own["stopped"] for own in each})),
        "members": each,
    }


def _history_of_one(state, train, validation, held_out):
    status, step, epochs = int(state.status), int(state.step), int(state.epochs)
    return {
        "method": "gradient",
        "epochs": epochs,
        "steps": step,
        "train": train[:epochs].tolist(),
        "validation": validation[:epochs].tolist() if held_out else [],
        "best_epoch": int(state.best_epoch),
        "best_score": float(state.best_score),
        "stopped": {PATIENCE: "patience", LIMIT: "epochs", NAN: f"nan at step {step}"}[status],
    }


def _warn_of_nan(model, history):
    for i, own in enumerate(history.get("members", [history])):
        if own["stopped"].startswith("nan"):
            whose = f"member {i} of {model}" if "members" in history else model
            warn(
                f"training {whose} stopped: its loss or params were not finite at step "
                f"{own['steps']} (epoch {own['epochs'] + 1}); the best params before it, of epoch "
                f"{own['best_epoch']}, are returned"
            )
