"""The compiled part of training: epochs of minibatches, for one fit or for several side by side."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from jaxgen.core import batch
from jaxgen.training import freezing, optimizers
from jaxgen.training.devices import Split
from jaxgen.training.rows import Rows, mean_score, noise_key
from jaxgen.training.shuffle import order

RUNNING, PATIENCE, LIMIT, NAN = range(4)
START = -1  # the number of an epoch without minibatches
STARTS, _SHUFFLES, _NOISE, VALIDATION = range(4)  # streams of a fit's key


class Fixed(NamedTuple):
    """State that does not change during training. All of it is traced."""

    train: Rows
    validation: Rows  # rows that decide which params are best
    rest: list  # params that are not learnt
    key: Any
    hyperparameters: Any
    epochs: Any
    patience: Any


_BY_MEMBER = Fixed(None, None, 0, 0, 0, None, None)  # type: ignore[arg-type]
_OWN_ROWS = Rows(0, 0, 0, None, 0)  # the same number of rows for each member


class State(NamedTuple):
    """State that changes during training. Arrays of many members have a leading axis of them."""

    live: Any
    optimizer: Any
    best: Any
    best_score: Any
    best_epoch: Any
    epochs: Any  # completed with a finite loss and finite params
    step: Any  # the last one, or the first whose loss was not finite
    status: Any


class Program(NamedTuple):
    """The static arguments that a program is compiled for."""

    model: Any
    optimizer: Any
    layout: freezing.Layout
    batch: int
    room: int
    members: int | None  # None: a single fit
    own_rows: bool = False  # does each member have its own rows?
    scored: bool = True  # are epochs scored on the validation rows?
    # how the two sets of rows lie on several devices; None: on one
    train: Split | None = None
    validation: Split | None = None


def begin(program: Program, fixed: Fixed, learnt: list) -> State:
    """The state before epoch ``START``."""
    return _on_each_device(program, _begin)(fixed, learnt)


def chunk(program: Program, fixed: Fixed, state: State, first, end):
    """Run epochs ``first`` to ``end``, or until all members stop.

    Epoch ``START`` has no minibatches: it scores the params that training starts from. It takes no
    program of its own, which would compile the model again.

    Returns the state, the number of the next epoch, and the scores of each epoch on both sets.
    """
    return _on_each_device(program, _chunk)(fixed, state, first, end)


def _on_each_device(program, function):
    """``function(program, fixed, ...)``, which every device runs with its own share of the rows.

    All else is the same on every device, as gradients and scores are summed over them.
    """
    function = functools.partial(function, program)
    if program.train is None:
        return function
    mesh, own, whole = program.train.sharding.mesh, program.train.sharding.spec, PartitionSpec()
    own = PartitionSpec(None, *own) if program.own_rows else own
    rows = Rows(own, own, own, whole, whole)
    others: list[Any] = [whole] * 5
    in_fixed = Fixed(rows, rows, *others)

    def call(fixed, *others):
        specs = in_fixed, *[whole] * len(others)
        # a model's loops may start from constants, which the check of JAX refuses
        on_each = jax.shard_map(
            function, mesh=mesh, in_specs=specs, out_specs=whole, check_vma=False
        )
        return on_each(fixed, *others)

    return call


def _begin(program, fixed, learnt):
    def one(fixed, learnt):
        live = freezing.pack(learnt, program.layout)
        state = _transformation(program, fixed).init(live)
        unknown = jnp.full((), -jnp.inf, fixed.train.weights.dtype)
        zero = jnp.zeros((), jnp.int32)
        return State(live, state, live, unknown, zero, zero + START, zero, zero)

    return _each(program, one, 0)(fixed, learnt)


def _chunk(program, fixed, state, first, end):
    epoch_of_each = _each(program, functools.partial(_epoch, program), 0, None)

    def more(carry):
        state, epoch, _ = carry
        return (state.status == RUNNING).any() & (epoch < end)

    def step(carry):
        state, epoch, records = carry
        state, scores = epoch_of_each(fixed, state, epoch)
        pairs = zip(records, scores, strict=True)
        return state, epoch + 1, tuple(r.at[epoch - first].set(s, mode="drop") for r, s in pairs)

    empty = jnp.zeros((program.room, *state.best_score.shape), state.best_score.dtype)
    return lax.while_loop(more, step, (state, first, (empty, empty)))


def _each(program, one, *axes):
    """``one`` for every member, with the member's part of ``Fixed``."""
    if program.members is None:
        return one
    by_member = _BY_MEMBER
    if program.own_rows:
        by_member = by_member._replace(train=_OWN_ROWS, validation=_OWN_ROWS)
    return jax.vmap(one, in_axes=(by_member, *axes))


def _epoch(program, fixed, state, epoch):
    """Every minibatch once, none in epoch ``START``, then a score on the validation rows."""
    train, split, transformation = fixed.train, program.train, _transformation(program, fixed)
    n, batches = train.count, _batches(program, fixed)
    noises = noise_key(program.model, fixed.key, _NOISE)
    shuffles = jax.random.fold_in(jax.random.fold_in(fixed.key, _SHUFFLES), epoch)
    rows = None  # the order does not matter if there is one batch
    stored = len(train.x) if split is None else split.size
    if stored > program.batch:
        rows = order(shuffles, n, stored)
    least, more = n // batches, n % batches  # nearly equal batches, so that none is noisier
    # batch size times mean weight: the same every step
    weight = _total(split, train.weights.sum()) / batches

    def step(i, carry):
        live, memory, total, bad = carry
        size = least + (i < more)
        part, first = train[:3], None if split is None else split.first(len(train.x))
        if rows is not None:
            part, first = _minibatch(program, train, rows, i * least + jnp.minimum(i, more), size)
        key = noise_key(program.model, noises, epoch * batches + i)

        def loss(live, number=0, part=part):
            params = freezing.merge(live, fixed.rest, program.layout)
            x, y, weights = part
            number = number if first is None else first + number
            losses = batch.loss_rows(program.model, params, key, x, y, train.events, number)
            return (weights * jnp.where(weights > 0, losses, 0)).sum() / weight

        value, grads = _total(split, _value_and_gradient(program, loss, live, part))
        value_fn = loss if split is None else functools.partial(split.total_of, loss)
        updates, new = transformation.update(
            grads, memory, live, value=value, grad=grads, value_fn=value_fn
        )
        memory = jax.tree_util.tree_map(_like, new, memory)
        live = jax.tree_util.tree_map(_like, jax.tree_util.tree_map(jnp.add, live, updates), live)
        return live, memory, total - value, jnp.where(jnp.isfinite(value), bad, jnp.minimum(bad, i))

    # No early end within an epoch: under vmap its predicate would differ between members, and each
    # step would then select between the old and the new values of the whole carry.
    total = jnp.zeros((), state.best_score.dtype)
    start = state.live, state.optimizer, total, batches
    starts = epoch == START
    count = jnp.where(starts, 0, batches)
    live, memory, total, bad = lax.fori_loop(jnp.zeros_like(count), count, step, start)

    def validation_score():
        return _validation_score(program, fixed, live).astype(total.dtype)

    if program.scored:
        score = validation_score()
    else:
        score = lax.cond(starts, validation_score, lambda: total / batches)

    running = state.status == RUNNING
    # an infinite density is no score; only params that were infinite before may be infinite
    sound = (bad == batches) & (score < jnp.inf)
    for a, b in zip(*map(jax.tree_util.tree_leaves, (live, state.best)), strict=True):
        bad_params = (~jnp.isfinite(a) & (a != b)).astype(total.dtype).ravel()
        sound &= bad_params @ bad_params == 0  # a product, as all() takes long to compile
    sound |= starts  # the host checks them
    better = running & sound
    if program.model.learning.keep == "best":
        better &= score > state.best_score
    best = jax.tree_util.tree_map(lambda a, b: jnp.where(better, a, b), live, state.best)
    best_epoch = jnp.where(better, epoch + 1, state.best_epoch)
    status = jnp.where(epoch + 1 >= fixed.epochs, LIMIT, RUNNING)
    status = jnp.where(epoch + 1 - best_epoch >= fixed.patience, PATIENCE, status)
    status = jnp.where(sound, status, NAN).astype(jnp.int32)
    state = State(
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


def _minibatch(program, train, rows, start, size):
    """x, y and weights of a minibatch, and the number of the first row within it.

    With several devices they are this device's share; with one the number is None.
    """
    split, slots = program.train, jnp.arange(program.batch)
    if split is not None:
        slots = jnp.arange(-(-program.batch // split.count) * split.count)
    chosen = rows[(start + slots).clip(max=len(rows) - 1)]
    if split is None:
        y = None if train.y is None else train.y[chosen]
        weights = jnp.where(slots < size, train.weights[chosen], 0)
        return (train.x[chosen], y, weights), None
    x, y, weights = split.take(train[:3], chosen)
    first = split.first(len(x))
    slots = first.astype(slots.dtype) + jnp.arange(len(x))
    return (x, y, jnp.where(slots < size, weights, 0)), first


def _total(split, tree):
    """Sums over devices, each of which has the sum over its own rows."""
    return tree if split is None else split.total(tree)


def _value_and_gradient(program, loss, live, rows):
    """``loss(live)`` of rows (x, y, weights) and its gradient, as sums over tiles of rows.

    The gradient of a tile is taken at once, so that what it needs of the tile is still in caches.
    """
    n = len(rows[0])
    count, size = batch.tiles_of(program.model, n)
    if count == 1:
        return jax.value_and_grad(loss)(live)
    x, y, weights = rows
    more = count * size - n
    copies = lambda v: jnp.concatenate([v, jnp.broadcast_to(v[:1], (more, *v.shape[1:]))])  # noqa: E731
    padded = copies(x), None if y is None else copies(y), jnp.pad(weights, (0, more))
    tiles = jax.tree_util.tree_map(lambda v: v.reshape(count, size, *v.shape[1:]), padded)

    def add(total, tile):
        return jax.tree_util.tree_map(jnp.add, total, jax.value_and_grad(loss)(live, *tile)), None

    total = jnp.zeros((), weights.dtype), jax.tree_util.tree_map(jnp.zeros_like, live)
    return lax.scan(add, total, (jnp.arange(count, dtype=jnp.uint32) * size, tiles))[0]


def _validation_score(program, fixed, live):
    """The score of the validation rows, with the same noise each time, so that epochs compare."""
    params = freezing.merge(live, fixed.rest, program.layout)
    key = noise_key(program.model, fixed.key, VALIDATION)
    return mean_score(program.model, params, key, fixed.validation, program.validation)


def _batches(program, fixed):
    return -(-fixed.train.count // program.batch)


def _transformation(program, fixed):
    steps = fixed.epochs * _batches(program, fixed)
    decayed = program.layout.in_matrices
    return optimizers.build(program.optimizer, fixed.hyperparameters, steps, decayed)


def _like(new, old):
    """``new`` in the dtype of ``old``: a loop's carry must keep its dtypes."""
    new = jnp.asarray(new) if isinstance(new, (bool, int, float)) else new
    return new if new.dtype == old.dtype else new.astype(old.dtype)
