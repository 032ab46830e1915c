"""The same model fitted to many data sets of one shape, side by side in one program."""

from __future__ import annotations

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.compose.labelled import stack
from jaxgen.core import inputs
from jaxgen.core.model import Model
from jaxgen.core.places import Message
from jaxgen.core.promotion import standard_promotion
from jaxgen.training import freezing, gradient, optimizers
from jaxgen.training.epochs import JUDGING, STARTS
from jaxgen.training.finite import check_params, check_slopes
from jaxgen.training.fitted import Fitted
from jaxgen.training.rows import (
    as_params,
    check_scores,
    diagnosed_each,
    for_init,
    has_own_loss,
    member_keys,
    noise_key,
    pad,
    prepared,
    training_data,
)
from jaxgen.training.units import standard_units

_map = jax.tree_util.tree_map


@standard_promotion
def fit_each(
    model: Model,
    x: Any,
    y: Any = None,
    *,
    key: jax.Array,
    epochs: int | None = None,
    batch_size: int = 256,
    optimizer: Any = None,
    progress: bool | None = None,
) -> Fitted:
    """Fit a model to each of many data sets, such as bootstraps or simulations.

    Models fitted by gradients train side by side, in one program, as do the chains of programs
    fitted by NUTS; nothing is held out and the last params are kept.

    Args:
      model: a spec without labels.
      x: events (fits, n, *event_shape): as many for each fit.
      y: conditions (fits, n, *y_shape), or (n, *y_shape) for all fits alike.
      key: a typed PRNG key; fit i has ``jax.random.fold_in(key, i)``.
      epochs, batch_size, optimizer, progress: as in ``jaxgen.fit``.

    Returns:
      A Fitted whose params have a leading axis of fits, for use under ``jax.vmap``; ``history``
      holds "seconds" and "fits", the history of each. ``unstack`` gives a list of single ones.
      Divergences and r_hat of NUTS are in there, and pareto_k of the posteriors of programs: of
      many fits nothing warns.

    Raises:
      TypeError, ValueError: an argument of the wrong kind, shape or range, by its name.

    >>> rows = np.random.default_rng(0).integers(len(x), size=(64, len(x)))
    >>> flow = SplineCoupling(2, layers=2, width=8, depth=1)
    >>> bootstraps = fit_each(flow, x[rows], key=key, epochs=2)
    >>> scores = jax.jit(jax.vmap(lambda one: one.log_prob(x)))(bootstraps)  # (64, 200)
    """
    began = time.perf_counter()
    if not isinstance(model, Model):
        raise TypeError(f"model must be a Model such as Gaussian(2), got {model!r:.60}")
    if model.classes is not None or model.fit_method not in ("gradient", "mcmc"):
        raise ValueError(
            f"model must be fitted by gradients or mcmc, without labels of its own, got {model}"
        )
    key = inputs.as_key(key)
    data = _data_sets(model, x, y)
    together = [None if v[0] is None else np.concatenate(v) for v in zip(*data, strict=True)]
    model = model.for_data(*together[:2])
    keys = member_keys(key, len(data))
    if model.fit_method == "mcmc":
        if optimizer is not None or epochs is not None:
            raise ValueError(f"optimizer and epochs do not apply: {model} is fitted by mcmc")
        params, histories = model.draw_posteriors(keys, data, progress)
    else:
        optimizer = optimizers.Adam(model.learning_rate) if optimizer is None else optimizer
        batch_size = inputs.as_count(batch_size, "batch_size", 1)
        if epochs is None:
            epochs = gradient.planned_epochs(len(data[0][0]), batch_size)
        epochs = inputs.as_count(epochs, "epochs", 1)
        settings = gradient.Settings(
            epochs, batch_size, None, optimizer, (), len(data), progress, own_rows=True
        )
        params, histories = _by_gradient(model, data, keys, settings)
    history = {"fits": histories, "seconds": time.perf_counter() - began}
    return Fitted(model, check_params(model, params), history)


def unstack(fitted: Fitted) -> list[Fitted]:
    """Single fits out of one whose params have a leading axis of them."""
    params = jax.device_get(fitted.params)
    histories = fitted.history.get("fits")
    count = len(jax.tree_util.tree_leaves(params)[0])
    return [
        Fitted(
            fitted.model,
            _map(lambda v, i=i: jnp.asarray(v[i]), params),
            histories[i] if histories else None,
            fitted.columns,
            fitted.labels,
        )
        for i in range(count)
    ]


def _data_sets(model, x, y):
    """Checked data of each fit: (x, y, None)."""
    x = np.asarray(inputs.numbers(x, "x"))
    least = len(model.event_shape) + 2
    if x.ndim != least or not x.shape[0]:
        shape = ", ".join(["fits", "n", *map(str, model.event_shape)])
        raise ValueError(f"x must have shape ({shape}) for {model}; got {x.shape}")
    own = model.y_shape is not None and y is not None and np.ndim(y) == len(model.y_shape) + 2
    if own and len(y) != len(x):
        raise ValueError(f"y must hold conditions for the {len(x)} data sets in x; got {len(y)}")
    data = []
    for i, rows in enumerate(x):
        try:
            data.append(training_data(model, rows, y[i] if own else y, None))
        except (TypeError, ValueError) as error:
            raise type(error)(Message(f"of data set {i}: ", error)) from None
    return data


def _by_gradient(model, data, keys, settings):
    each, units = list(keys), list[Any](standard_units(model, x) for x, _, _ in data)
    if units[0] is not None:
        data = [(u.enter(x), y, weights) for u, (x, y, weights) in zip(units, data, strict=True)]
        if not has_own_loss(model):
            volumes = [u.log_volume(x) for u, (x, _, _) in zip(units, data, strict=True)]
            settings = settings._replace(log_volume=np.array(volumes))
    padded = [pad(*rows) for rows in data]
    starts = [
        as_params(model.init(jax.random.fold_in(own, STARTS), *for_init(*rows)))
        for own, rows in zip(each, data, strict=True)
    ]
    get = padded.__getitem__
    starts = [prepared(model, own, functools.partial(get, i)) for i, own in enumerate(starts)]
    mask = freezing.learnt(starts[0], settings.freeze, model.frozen)
    train = stack(padded)
    train = _map(jnp.asarray, train)._replace(count=padded[0].count)

    def check(i):
        own = noise_key(model, each[i], JUDGING)
        numbers = np.arange(len(data[i][0]))
        check_scores(model, starts[i], padded[i], numbers, "x", key=own)
        check_slopes(model, starts[i], mask, padded[i], numbers, own, units[i])

    params, history = gradient.run(model, starts, check, mask, train, None, keys, settings, None)
    known = model, params, get, each, history["members"]
    histories = diagnosed_each(*known, None)
    if units[0] is not None:
        host = jax.device_get(params)
        own = [_map(lambda v, i=i: v[i], host) for i in range(len(data))]
        params = stack([u.leave(model, p) for u, p in zip(units, own, strict=True)])
    return as_params(params), histories
