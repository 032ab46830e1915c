"""fit: one function for closed forms, expectation-maximisation and gradients."""

from __future__ import annotations

import numbers
import time
from typing import Any

import jax
import numpy as np

from jaxgen import inputs
from jaxgen.fit import em, gradient, optimizers
from jaxgen.fit.rows import as_params, check_range, check_scores, for_init, has_own_loss, pad
from jaxgen.fitted import Fitted
from jaxgen.model import Model

_BATCH_SIZE = 256
_VALIDATION = 0.1
_CHECKED = 1024  # rows on which a closed form is checked
_ARGUMENTS = {  # those that apply to each method, of those that not all take
    "closed_form": (),
    "em": ("epochs", "restarts", "progress"),
    "gradient": (
        "epochs",
        "batch_size",
        "optimizer",
        "validation",
        "patience",
        "freeze",
        "progress",
    ),
}


def fit(
    model: Model | Fitted,
    x: Any,
    y: Any = None,
    *,
    key: jax.Array,
    epochs: int | None = None,
    batch_size: int | None = None,
    optimizer: Any = None,
    validation: Any = None,
    patience: int | None = None,
    restarts: int | None = None,
    weights: Any = None,
    freeze: tuple[str, ...] = (),
    progress: bool | None = None,
) -> Fitted:
    """Fit a model to data by maximum likelihood: params that maximise sum_i w_i log p(x_i | y_i).

    The way is ``model.fit_method``: "closed_form" calls ``model.estimate``; "em" steps from
    ``model.init`` until a step gains less than 1e-5 nats an event; "gradient" minimises
    ``model.loss``, the negative log-likelihood unless the model says otherwise, over minibatches
    and keeps the params that score best on held-out rows. An ``optimizer`` makes it "gradient" for
    any model with a density.

    Args:
      model: a spec, or a Fitted, whose params EM and gradients then start from.
      x: events (n, *event_shape), finite and within the model's support.
      y: conditions (n, *y_shape), for a conditional model.
      key: a typed PRNG key, for starts, shuffles and the noise of losses.
      epochs: at most so many EM steps (200) or passes over the rows (as many as make 5000
        minibatches, between 20 and 1000).
      batch_size: rows in a minibatch (256); gradient only.
      optimizer: an optax GradientTransformation, or ``jaxgen.fit``'s Adam; gradient only.
      validation: share of the rows held out (0.1), or held-out data, as x or as a tuple (x, y);
        with 0 the training rows judge. Gradient only.
      patience: stop after so many epochs without a better score; by default no epoch is spared, as
        the low learning rates at the end help most. The best params are kept all the same;
        gradient only.
      restarts: number of starts of EM, the best of which is kept (1).
      weights: (n,) non-negative weights; an integer weight counts as so many equal rows
        (but a KDE tells copies of an event from weight in its bandwidth).
      freeze: names of params to leave as they are, such as "mean", or "base/mean" within nested
        params; gradient only.
      progress: show a bar; by default on a terminal, in a run over two seconds.

    Returns:
      A Fitted with params in JAX's default float dtype. Its ``history`` holds "method", "steps",
      "epochs", "train" and "validation" (mean log-likelihoods in nats, or minus the mean loss where
      a model has its own: of each epoch, or of the start and each step of EM), "seconds" and
      "stopped" ("closed form", "converged", "patience", "epochs" or "nan at step N", with a
      RuntimeWarning; an epoch that meets NaN is finished first).

    Raises:
      TypeError, ValueError: an argument of the wrong kind, shape or range, or one that does not
        apply to the method, by its name; a start that gives a training row no density, or a
        loss that is not finite.

    Source: Dempster, Laird and Rubin 1977 (EM).

    >>> fitted = jaxgen.fit(jaxgen.models.Gaussian(2), x, key=jax.random.key(0))
    """
    if not isinstance(model, (Model, Fitted)):
        raise TypeError(
            f"model must be a Model such as Gaussian(2), or a Fitted, got {model!r:.60}"
        )
    if inputs.is_tracing(x, y, weights, key):
        raise TypeError("fit runs on the host and cannot be called within jit, grad or vmap")
    began = time.perf_counter()
    spec: Model = model.model if isinstance(model, Fitted) else model
    start, columns = None, None
    if isinstance(model, Fitted):
        start, columns = as_params(model.params), model.columns
    method = _method(
        spec,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        validation=validation,
        patience=patience,
        restarts=restarts,
        freeze=freeze or None,
    )
    key = inputs.as_key(key)
    x, y, weights = _training_data(spec, x, y, weights)
    numbers_kept = np.arange(len(x))
    if weights is not None and (weights == 0).any():
        # dropped here, they cannot matter to a start, a bound or a count either
        numbers_kept = np.flatnonzero(weights)
        x, weights = x[numbers_kept], weights[numbers_kept]
        y = None if y is None else y[numbers_kept]
    if epochs is not None:
        epochs = inputs.as_count(epochs, "epochs", 1)
    if method == "closed_form":
        params = as_params(spec.estimate(x, y, weights))
        some = np.random.default_rng(0).permutation(len(x))[:_CHECKED]
        few = (v if v is None else v[some] for v in (x, y, weights))
        check_scores(spec, params, pad(*few), numbers_kept[some], "x", "the fitted")
        history: dict[str, Any] = {"method": method, "steps": 0, "epochs": 0}
        history |= {"train": [], "validation": [], "stopped": "closed form"}
    elif method == "em":
        count = 1 if restarts is None else inputs.as_count(restarts, "restarts", 1)
        if count > 1 and start is not None:
            raise ValueError("restarts does not apply to a Fitted: EM starts from its params")
        params, history = em.run(
            spec,
            start,
            x,
            y,
            weights,
            numbers_kept,
            key=key,
            epochs=epochs,
            restarts=count,
            progress=progress,
        )
    else:
        if batch_size is not None:
            batch_size = inputs.as_count(batch_size, "batch_size", 1)
        if patience is not None:
            patience = inputs.as_count(patience, "patience", 1)
        optimizers.prepare(optimizer)  # raises before anything is computed
        if weights is not None:
            weights = weights / weights.mean()  # their ratios matter; tiny ones would underflow
        split, held, places, held_places = _hold_out(spec, key, x, y, weights, validation)
        if start is None:
            start = as_params(spec.init(jax.random.fold_in(key, 0), *for_init(*split)))
        train, judge = pad(*split), None
        judging = jax.random.fold_in(key, gradient.JUDGING)
        check_scores(spec, start, train, numbers_kept[places], "x", key=judging)
        if held is not None:
            judge = pad(*held)
            if held_places is None:
                check_scores(spec, start, judge, np.arange(len(held[0])), "validation", key=judging)
            else:
                check_scores(spec, start, judge, numbers_kept[held_places], "x", key=judging)
        params, history = gradient.run(
            spec,
            start,
            train,
            judge,
            freeze=freeze,
            key=key,
            epochs=epochs,
            batch_size=batch_size or _BATCH_SIZE,
            patience=patience,
            optimizer=optimizer,
            progress=progress,
        )
    history["seconds"] = time.perf_counter() - began
    return Fitted(spec, params, history, columns)


def _method(spec, **given) -> str:
    """How to fit, after checking that every argument given applies."""
    method = "gradient" if given["optimizer"] is not None else spec.fit_method
    if method not in _ARGUMENTS:
        raise ValueError(f"{spec}: fit_method must be one of {tuple(_ARGUMENTS)}, got {method!r}")
    for name, value in given.items():
        if value is not None and name not in _ARGUMENTS[method]:
            others = [m for m, names in _ARGUMENTS.items() if name in names]
            hint = "; pass an optimizer to fit by gradient" if "gradient" in others else ""
            raise ValueError(
                f"{name} does not apply: {spec} is fitted by {method}, and {name} is for "
                f"{' and '.join(others)}{hint}"
            )
    if method == "gradient" and spec.density == "none" and not has_own_loss(spec):
        raise ValueError(f"{spec} cannot be fitted by gradient: it has no density and no loss")
    return method


def _training_data(spec, x, y, weights):
    x, y, weights = inputs.training_data(spec, x, y, weights)
    check_range(x, "x")
    check_range(y, "y")
    check_range(weights, "weights")
    return x, y, weights


def _hold_out(spec, key, x, y, weights, validation):
    """Training data, held-out data or None, and in x the places of both (None: not of x)."""
    everything = np.arange(len(x))
    validation = _VALIDATION if validation is None else validation
    if not isinstance(validation, numbers.Real) or isinstance(validation, bool):
        data = validation if isinstance(validation, tuple) else (validation,)
        try:
            if len(data) not in (1, 2):
                raise ValueError(f"a tuple must be (x, y), got {len(data)} entries")
            held = _training_data(spec, data[0], data[1] if len(data) == 2 else None, None)
        except (TypeError, ValueError) as error:
            raise type(error)(f"validation: {error}") from None
        return (x, y, weights), held, everything, None
    share = float(validation)
    if not 0 <= share < 1:
        raise ValueError(f"validation must be a share in [0, 1) or data, got {validation}")
    count = int(share * len(x))
    if count == 0:
        return (x, y, weights), None, everything, None
    # on the host, since a compiled permutation would be compiled for every n
    seed = np.asarray(jax.random.key_data(key)).ravel().tolist()
    shuffled = np.random.default_rng(seed).permutation(len(x))
    held_rows, rows = np.sort(shuffled[:count]), np.sort(shuffled[count:])

    def take(rows):
        return x[rows], None if y is None else y[rows], None if weights is None else weights[rows]

    return take(rows), take(held_rows), rows, held_rows
