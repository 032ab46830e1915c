"""The same model fitted to many data sets of one shape, side by side in one program."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core import dataframes, inputs
from jaxgen.core.labels import entry, stack
from jaxgen.core.methods import check_own
from jaxgen.core.model import Model, Params
from jaxgen.core.places import Message
from jaxgen.core.promotion import standard_promotion
from jaxgen.core.template import Template, model_for_data
from jaxgen.core.units import standard_units
from jaxgen.training import gradient, optimizers
from jaxgen.training.finite import check_params
from jaxgen.training.fitted import Fitted
from jaxgen.training.learn import How, adapted_to_data, learn
from jaxgen.training.members import Member
from jaxgen.training.rows import Data, as_params, member_keys, training_data

_map = jax.tree_util.tree_map


@standard_promotion
def fit_each(
    model: Model | Template,
    x: Any,
    y: Any = None,
    *,
    key: jax.Array,
    epochs: int | None = None,
    batch_size: int | None = None,
    optimizer: Any = None,
    progress: bool | None = None,
) -> Fitted:
    """Fit a model to each of many data sets, such as bootstraps or simulations.

    Models fitted by gradients train side by side, in one program, as do the chains of programs
    fitted by NUTS; nothing is held out and the last params are kept.

    Args:
      model: a spec without labels, as in ``jaxgen.fit``.
      x: events (fits, n, *event_shape): as many for each fit. In a list of tables, the columns of
        the first are those of all.
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
    if not isinstance(model, (Model, Template)):
        raise TypeError(f"model must be a Model such as Gaussian(2), got {model!r:.60}")
    columns = None
    if isinstance(x, (list, tuple)) and x and dataframes.is_table(x[0]):
        columns = dataframes.column_names(x[0])
        x = [dataframes.select(one, columns, f"x of data set {i}") for i, one in enumerate(x)]
    spec: Model = model_for_data(model, np.empty(np.shape(x)[1:]))
    check_own(spec)
    if spec.classes is not None or spec.learning.method not in ("gradient", "mcmc"):
        raise ValueError(
            f"model must be fitted by gradients or mcmc, without labels of its own, got {spec}"
        )
    key = inputs.as_key(key)
    data = _data_sets(spec, x, y)
    together = [None if v[0] is None else np.concatenate(v) for v in zip(*data, strict=True)]
    spec = adapted_to_data(spec, *together[:2])
    if spec.learning.method == "mcmc" and not (optimizer is None and epochs is None):
        raise ValueError(f"optimizer and epochs do not apply: {spec} is fitted by mcmc")
    optimizer = optimizers.Adam(spec.learning.rate) if optimizer is None else optimizer
    settings = gradient.Settings(
        epochs=None if epochs is None else inputs.as_count(epochs, "epochs", 1),
        batch_size=inputs.as_count(
            spec.learning.batch_size if batch_size is None else batch_size, "batch_size", 1
        ),
        patience=None,
        optimizer=optimizer,
        freeze=(),
        members=None,
        progress=progress,
    )
    how = How(spec.learning.method, settings, noun="data set", warns=False)
    params, history = _learn_in_standard_units(spec, data, member_keys(key, len(data)), how)
    history = {"fits": history["members"], "seconds": time.perf_counter() - began}
    return Fitted(spec, check_params(spec, params), history, columns)


def _learn_in_standard_units(
    model: Model, data: list[Any], keys: Any, how: How
) -> tuple[Params, dict[str, Any]]:
    """Params and history of fits, each learnt in units of its own where the model can rescale."""
    rows = [Data(x, y, weights, np.arange(len(x))) for x, y, weights in data]
    units: list[Any] = [standard_units(model, own.x) for own in rows]
    if units[0] is not None:
        rows = [u.enter_data(own) for u, own in zip(units, rows, strict=True)]
    members = [Member(own, number=i) for i, own in enumerate(rows)]
    params, history = learn(model, members, keys, how)
    if units[0] is not None:
        host = jax.device_get(params)
        each = [u.leave(model, entry(host, i)) for i, u in enumerate(units)]
        params = stack(each)
    return as_params(params), history


def unstack(fitted: Fitted) -> list[Fitted]:
    """Single fits, from one whose params have a leading axis of fits.

    >>> flow = SplineCoupling(2, layers=2, width=8, depth=1)
    >>> fits = fit_each(flow, np.stack([x, x[::-1]]), key=key, epochs=2)
    >>> [one.log_prob(x).shape for one in unstack(fits)]
    [(200,), (200,)]
    """
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
            fitted.y_columns,
        )
        for i in range(count)
    ]


def _data_sets(model: Model, x: Any, y: Any) -> list[Any]:
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
