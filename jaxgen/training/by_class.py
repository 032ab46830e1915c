"""Fitting each class to its own events: ``compose.PerClass`` by EM or by gradients.

Classes of like size share one compiled program. EM takes them in turn, since side by side all would
step until the slowest has converged; gradients take as many steps for each, side by side.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.compose import Dequantized, Mixture, Product, Transformed
from jaxgen.compose.labelled import (
    Labelled,
    PerClass,
    log_frequencies,
    of_class,
    of_label,
    repeated,
    stack,
)
from jaxgen.core.places import Names
from jaxgen.training import em as one_em
from jaxgen.training import freezing, optimizers
from jaxgen.training import gradient as by_gradient
from jaxgen.training.checkpoint import Checkpoint, describe_data
from jaxgen.training.epochs import JUDGING, STARTS
from jaxgen.training.finite import check_slopes
from jaxgen.training.held_out import hold_out
from jaxgen.training.rows import (
    Data,
    Rows,
    as_params,
    check_scores,
    diagnosed_each,
    for_init,
    has_own_loss,
    member_keys,
    noise_key,
    pad,
    prepared,
)

_map = jax.tree_util.tree_map


def with_frequencies(spec, params, data: Data):
    """params whose labels have the frequencies of the data, wherever in the model they are."""
    if isinstance(spec, Labelled):
        counted = np.asarray(log_frequencies(spec.classes, data.y, data.weights))
        return {**params, "logits": jnp.asarray(counted, float)}
    if isinstance(spec, Transformed):
        return {**params, "base": with_frequencies(spec.base, params["base"], data)}
    if isinstance(spec, Dequantized):
        return with_frequencies(spec.base, params, data)
    if isinstance(spec, Product):
        pairs = zip(spec.parts, params, strict=True)
        return tuple(with_frequencies(part, own, data) for part, own in pairs)
    if isinstance(spec, Mixture) and spec.classes is not None:
        own = [_map(lambda v, k=k: v[k], params["component"]) for k in range(spec.count)]
        own = [with_frequencies(spec.component, part, data) for part in own]
        return {**params, "component": _map(lambda *leaves: jnp.stack(leaves), *own)}
    return params


def em(spec: PerClass, start, data: Data, key, epochs, restarts, progress):
    """Params with a leading axis of classes, and the history."""
    places = [of_class(data.y, k) for k in range(spec.classes)]
    largest = max(map(len, places))
    alike = largest * spec.classes <= 2 * len(data.y)
    results = []
    for k, own_key in enumerate(member_keys(key, spec.classes)):
        # a few sizes, each compiled once, where one for all would be mostly copies
        size = largest if alike else 1 << math.ceil(math.log2(len(places[k])))
        rows, weights = repeated(places[k], size, data.weights)
        own = Data(data.x[rows], None, weights, data.numbers[rows], data.units)
        of_start = None if start is None else _map(lambda v, k=k: v[k], start)
        label = f"class {k + 1}/{spec.classes}"
        results.append(
            of_label(
                k, one_em.run, spec.model, of_start, own, own_key, epochs, restarts, progress, label
            )
        )
    shares = np.exp(log_frequencies(spec.classes, data.y, data.weights))
    each = [history for _, history in results]
    steps = max(history["steps"] for history in each)
    length = max(len(history["train"]) for history in each)
    scores = [np.pad(h["train"], (0, length - len(h["train"])), mode="edge") for h in each]
    history = {
        "method": "em",
        "steps": steps,
        "epochs": steps,
        "train": (shares @ np.stack(scores)).tolist(),
        "validation": [],
        "stopped": ", ".join(sorted({h["stopped"] for h in each})),
        "classes": each,
    }
    return as_params(stack([params for params, _ in results])), history


def mcmc(spec: PerClass, data: Data, key, progress):
    """Params with a leading axis of classes, and the history."""
    places = [of_class(data.y, k) for k in range(spec.classes)]
    largest = max(map(len, places))
    each = []
    for own in places:  # rows of one number, with weights that leave each class its own
        rows, weights = repeated(own, largest, data.weights)
        each.append((data.x[rows], None, weights))
    keys = member_keys(key, spec.classes)
    params, histories = spec.model.draw_posteriors(keys, each, progress)
    steps = sum(history["steps"] for history in histories)
    return params, {**histories[0], "steps": steps, "classes": histories}


def gradient(
    spec: PerClass,
    start,
    data: Data,
    key,
    validation: Any,
    checkpoint: Any,
    settings: by_gradient.Settings,
):
    """Params with a leading axis of classes, and the history."""
    model, x, y, weights = spec.model, *data[:3]
    if settings.members is not None:
        raise ValueError(f"ensemble does not apply to {spec}, whose classes are trained so")
    optimizers.prepare(settings.optimizer)  # raises before anything is computed
    stacked_keys = member_keys(key, spec.classes)
    keys = list(stacked_keys)
    held_out = validation if isinstance(validation, tuple) else None
    parts, judges, numbers, judged_numbers = [], [], [], []
    for k in range(spec.classes):
        rows = of_class(y, k)
        own = validation
        if held_out is not None:
            judge = held_out[0][held_out[1] == k]
            own = (judge, None) if len(judge) else 0.0
        own_weights = None if weights is None else weights[rows]
        split, judge, places, judge_places = hold_out(keys[k], x[rows], None, own_weights, own)
        parts.append(split)
        judges.append(split if judge is None else judge)
        numbers.append(data.numbers[rows][places])
        known = places if judge is None else judge_places
        own = data.numbers[rows][known] if known is not None else np.flatnonzero(validation[1] == k)
        judged_numbers.append(own)
    train, numbers = _side_by_side(parts, numbers)
    judging, judged_numbers = _side_by_side(judges, judged_numbers)

    if settings.epochs is None:
        epochs = by_gradient.planned_epochs(int(train.count), settings.batch_size)
        settings = settings._replace(epochs=epochs)
    volume = 0.0 if has_own_loss(model) else data.log_volume()
    settings = settings._replace(members=spec.classes, own_rows=True, log_volume=volume)
    if start is None:
        starts = []
        for k, own_key in enumerate(keys):
            args = jax.random.fold_in(own_key, STARTS), *for_init(*parts[k])
            with Names.of_rows(numbers[k]):
                own = as_params(of_label(k, model.init, *args))
            starts.append(prepared(model, own, functools.partial(_row_of, train, k)))
    else:
        starts = [_map(lambda v, k=k: v[k], start) for k in range(spec.classes)]
    mask = freezing.learnt(starts[0], settings.freeze, model.frozen)
    if checkpoint is not None:
        judged_by = validation if held_out is None else held_out
        of = by_gradient.describe(spec, key, settings)
        of |= describe_data(x, y, weights, judged_by, start)
        checkpoint = Checkpoint(checkpoint, of)

    def check(k):
        """Raise where the start of a class gives one of its rows no finite score or gradient."""
        own_key = noise_key(model, keys[k], JUDGING)
        scores = functools.partial(of_label, k, check_scores, model, starts[k], key=own_key)
        scores(rows=_row_of(train, k), numbers=numbers[k], name="x")
        scores(rows=_row_of(judging, k), numbers=judged_numbers[k], name="validation")
        own = _row_of(train, k), numbers[k], own_key, data.units
        of_label(k, check_slopes, model, starts[k], mask, *own)

    held = judging if held_out is not None or validation > 0 else None
    params, history = by_gradient.run(
        model, starts, check, mask, train, held, stacked_keys, settings, checkpoint
    )
    known = model, params, functools.partial(_row_of, train), keys, history.pop("members")
    history["classes"] = diagnosed_each(*known, "class", numbers)
    return params, history


def _side_by_side(parts, numbers) -> tuple[Rows, list]:
    """Rows of all classes with a leading axis, as many of each: those of small ones repeat."""
    size = max(len(x) for x, _, _ in parts)
    each, numbered = [], []
    for (x, _, weights), own in zip(parts, numbers, strict=True):
        rows, own_weights = repeated(np.arange(len(x)), size, weights)
        share = 1.0 if own_weights is None else own_weights.mean()
        own_weights = None if own_weights is None else own_weights / share
        each.append(pad(x[rows], None, own_weights, share))
        numbered.append(own[rows])
    rows = _map(lambda *leaves: jnp.asarray(np.stack(leaves)), *map(jax.device_get, each))
    return rows._replace(count=each[0].count), numbered


def _row_of(rows: Rows, k: int) -> Rows:
    return Rows(rows.x[k], None, rows.weights[k], rows.count, rows.events[k])
