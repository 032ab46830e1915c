"""One assembly for every fit: rows, starts, checks and the run, for any list of members."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from jaxgen.core.labels import entry, stack
from jaxgen.core.model import Model
from jaxgen.core.places import Names
from jaxgen.core.records import Hooks
from jaxgen.core.spec import Params
from jaxgen.core.warn import warn
from jaxgen.training import em, freezing, gradient, optimizers
from jaxgen.training.checkpoint import Checkpoint
from jaxgen.training.epochs import STARTS, VALIDATION
from jaxgen.training.finite import check_slopes
from jaxgen.training.members import Member, repeated, repeated_alike, rows_alike, rows_of_members
from jaxgen.training.rows import (
    Rows,
    as_params,
    check_scores,
    event_weights,
    for_init,
    has_own_loss,
    noise_key,
)

Learnt: TypeAlias = tuple[Params, dict[str, Any]]  # params and history


class How(NamedTuple):
    """The checked arguments of ``learn``.

    Attributes:
      method: "em", "gradient" or "mcmc".
      settings: of gradients; its ``epochs`` and ``progress`` serve the other methods too.
      restarts: number of starts of EM.
      tolerance: gain in nats for each event below which EM stops.
      largest: for a mixture, the number of components of the mixture whose programs EM runs; None
        for its own.
      avoid_collapse: whether EM takes a start without a collapsed component before others.
      noun: what a member is called in warnings and progress bars; None for a single fit.
      warns: whether to warn of members that cannot be trusted.
      checkpoint: makes the checkpoint of a run with these settings; None for none.
    """

    method: str
    settings: gradient.Settings
    restarts: int = 1
    tolerance: float = em.TOLERANCE
    largest: int | None = None
    avoid_collapse: bool = False
    noun: str | None = None
    warns: bool = True
    checkpoint: Callable[[gradient.Settings], Checkpoint] | None = None


def adapted_to_data(model: Model, x: Any, y: Any) -> Model:
    """The model to fit to these rows, if the model's hooks make it depend on them."""
    hooks = model.learning.hooks
    return model if hooks is None else hooks.for_data(x, y)


def learn(model: Model, members: list[Member], key: Any, how: How) -> Learnt:
    """The learnt params, and their history.

    Args:
      key: one key for a single fit; with ``how.noun``, one for each member on a leading axis, and
        then params have a leading axis of members and the history has "members".
    """
    method = {"em": _by_em, "gradient": _by_gradient, "mcmc": _by_mcmc}[how.method]
    return method(model, members, key, how)


def _by_em(model: Model, members: list[Member], key: Any, how: How) -> Learnt:
    keys = [key] if how.noun is None else list(key)
    datas = [members[0].train] if how.noun is None else repeated_alike(members)
    results = []
    for i, (member, data) in enumerate(zip(members, datas, strict=True)):
        label = "" if how.noun is None else f"{how.noun} {i + 1}/{len(members)}"
        arguments = keys[i], how.settings.epochs, how.restarts, how.settings.progress, label
        with member.errors():
            options = how.tolerance, how.largest, how.avoid_collapse, how.settings.sharding
            results.append(em.run(model, member.start, data, *arguments, *options))
    if how.noun is None:
        return results[0]
    each = [history for _, history in results]
    steps = max(history["steps"] for history in each)
    length = max(len(history["train"]) for history in each)
    scores = [np.pad(h["train"], (0, length - len(h["train"])), mode="edge") for h in each]
    weights = np.array([member.train.weight for member in members])
    history = {
        "method": "em",
        "steps": steps,
        "epochs": steps,
        "train": (weights / weights.sum() @ np.stack(scores)).tolist(),
        "validation": [],
        "stopped": ", ".join(sorted({h["stopped"] for h in each})),
        "members": each,
    }
    return as_params(stack([params for params, _ in results])), history


def _by_mcmc(model: Model, members: list[Member], key: Any, how: How) -> Learnt:
    hooks: Any = model.learning.hooks
    if how.noun is None:
        data = members[0].train
        with Names.of_rows(data.numbers):
            params, (history,) = hooks.draw_posteriors(key[None], [data[:3]], how.settings.progress)
        return entry(params, 0), history
    largest = max(len(member.train.x) for member in members)  # chains run side by side
    each = [repeated(member.train, largest)[:3] for member in members]
    params, histories = hooks.draw_posteriors(key, each, how.settings.progress)
    steps = sum(history["steps"] for history in histories)
    return params, {**histories[0], "steps": steps, "members": histories}


def _by_gradient(model: Model, members: list[Member], key: Any, how: How) -> Learnt:
    settings = how.settings
    optimizers.prepare(settings.optimizer)  # raises before anything is computed
    shared, keys = rows_alike(members), [key] if how.noun is None else list(key)
    train = rows_of_members([member.train for member in members], shared)
    held = None
    if any(member.validation is not None for member in members):
        # a class too small to spare rows is scored on those that it learns from
        each = [m.train if m.validation is None else m.validation for m in members]
        held = rows_of_members(each, shared)

    if settings.epochs is None:
        epochs = gradient.planned_epochs(int(train.rows.count), settings.batch_size)
        settings = settings._replace(epochs=epochs)
    if not has_own_loss(model):
        volumes = np.array([member.train.log_volume() for member in members])
        settings = settings._replace(log_volume=volumes[0] if how.noun is None else volumes)
    if how.noun is not None:
        settings = settings._replace(members=len(members), own_rows=not shared)
    starts = [_start(model, member, k) for member, k in zip(members, keys, strict=True)]
    hooks = model.learning.hooks
    if hooks is not None:
        starts = [_prepared(hooks, start, train.of(i)) for i, start in enumerate(starts)]
    mask = freezing.learnt(starts[0], settings.freeze, model.learning.frozen)
    checkpoint = None if how.checkpoint is None else how.checkpoint(settings)

    def check(i: int) -> None:
        """Raise where the start of a member gives a row no finite score or gradient."""
        own_key, data = noise_key(model, keys[i], VALIDATION), train.data_of(i)
        scores = functools.partial(check_scores, model, starts[i], key=own_key)
        with members[i].errors():
            scores(train.of(i), data.numbers, data.name)
            if held is not None:
                other = held.data_of(i)
                scores(held.of(i), other.numbers, other.name)
            check_slopes(model, starts[i], mask, train.of(i), data.numbers, own_key, data.units)

    validation = None if held is None else held.rows
    params, history = gradient.run(
        model, starts, check, mask, train.rows, validation, key, settings, checkpoint
    )
    if hooks is None:
        return params, history
    host = jax.device_get(params)
    histories = history.get("members", [history])
    for i, one in enumerate(histories):
        whose = "" if how.noun is None else f"{how.noun} {i}: "
        own = host if how.noun is None else entry(host, i)
        with Names.of_rows(train.data_of(i).numbers):
            one |= _diagnosis(hooks, own, train.of(i), keys[i], one, whose, how.warns)
    return params, history


def _start(model: Model, member: Member, key: Any) -> Params:
    """Params to start from."""
    if member.start is not None:
        return member.start
    x, y, weights = member.train[:3]
    with Names.of_rows(member.train.numbers), member.errors():
        key = jax.random.fold_in(key, STARTS)
        return as_params(model.init(key, *for_init(x, y, weights)))


def _prepared(hooks: Hooks, start: Params, rows: Rows) -> Params:
    """Params to start from, as the model's hooks improve them."""
    return as_params(hooks.prepare(start, rows.x, rows.y, event_weights(rows)))


def _diagnosis(
    hooks: Hooks,
    params: Params,
    rows: Rows,
    key: Any,
    history: dict[str, Any],
    whose: str,
    warns: bool,
) -> dict[str, Any]:
    """Entries that the model's hooks add to the history of a member; the hooks may warn."""
    if history["stopped"].startswith("nan"):
        return {}
    count = int(rows.count)
    if warns:
        x, y = (None if v is None else np.asarray(v)[:count] for v in rows[:2])
        hooks.check_fitted(params, x, y)
    arguments = rows.x, rows.y, event_weights(rows), key, history["train"]
    found, warning = hooks.diagnose(params, *arguments)
    if warning and warns:
        warn(whose + warning)
    return found
