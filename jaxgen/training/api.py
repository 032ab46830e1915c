"""``fit``: closed forms, expectation-maximisation, gradients and draws of posteriors."""

from __future__ import annotations

import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.compose import Mixture
from jaxgen.core import dataframes, inputs, label_names
from jaxgen.core.families import mask_argument
from jaxgen.core.methods import check_own
from jaxgen.core.model import Model, Params
from jaxgen.core.places import Names
from jaxgen.core.promotion import standard_promotion
from jaxgen.core.random import fixed
from jaxgen.core.template import Template
from jaxgen.core.tracing import is_tracing
from jaxgen.core.units import standard_units
from jaxgen.core.wrapper import (
    Inner,
    inner_of,
    params_at,
    with_label_frequencies,
    with_params_at,
)
from jaxgen.data.text import Texts, holds_texts, strings_of, tokenize, tokens_of
from jaxgen.training import devices, freezing, gradient, held_out, optimizers
from jaxgen.training.checkpoint import Checkpoint, describe_data
from jaxgen.training.finite import check_params
from jaxgen.training.fitted import Fitted
from jaxgen.training.learn import How, adapted_to_data, learn
from jaxgen.training.members import alike, by_label
from jaxgen.training.rows import (
    Data,
    as_params,
    check_scores,
    has_own_loss,
    member_keys,
    pad,
    training_data,
)

_map = jax.tree_util.tree_map
_CHECKED = 1024  # rows on which a closed form is checked, fewer where one reads many params
_READ = 2**28  # params that they may read in all
_ARGUMENTS = {  # of the arguments that some methods ignore, those that apply to each
    "closed_form": (),
    "em": ("epochs", "restarts", "tolerance", "sharding", "progress"),
    "gradient": (
        "epochs",
        "batch_size",
        "optimizer",
        "validation",
        "patience",
        "freeze",
        "ensemble",
        "checkpoint",
        "sharding",
        "progress",
    ),
    "mcmc": ("progress",),
}


class Options(NamedTuple):
    """The optional arguments of ``fit``."""

    epochs: int | None = None
    batch_size: int | None = None
    optimizer: Any = None
    validation: Any = None
    patience: int | None = None
    restarts: int | None = None
    tolerance: float | None = None
    weights: Any = None
    freeze: Any = ()
    ensemble: int | None = None
    checkpoint: Any = None
    sharding: Any = None
    progress: bool | None = None


@standard_promotion
def fit(
    model: Model | Template | Fitted,
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
    tolerance: float | None = None,
    weights: Any = None,
    freeze: tuple[str, ...] = (),
    ensemble: int | None = None,
    checkpoint: Any = None,
    sharding: jax.sharding.NamedSharding | None = None,
    progress: bool | None = None,
) -> Fitted:
    """Fit a model to data by maximum likelihood: params that maximise sum_i w_i log p(x_i | y_i).

    ``model.learning.method`` is the method: "closed_form" calls ``model.estimate``; "em" repeats
    ``model.em_step`` until a step gains less than ``tolerance`` nats an event; "gradient" minimises
    ``model.loss``, by default the negative log-likelihood, over minibatches, and keeps the params
    that score best on held-out rows; "mcmc" draws from a posterior. An ``optimizer`` makes the
    method "gradient" for any model with a density.

    Args:
      model: a spec, of which ``dim``, ``shape`` and ``classes`` follow from the data if they are
        left out, as in ``Gaussian()``; or a Fitted, from whose params EM and gradients start.
      x: events (n, *event_shape), finite and within the model's support. A table, such as a
        DataFrame, gives the Fitted the names of its columns. For a model of sequences, such as
        ``models.NGram``, also a list or a column of texts, whose tokens are then characters, or the
        ``Texts`` of ``jaxgen.data.tokenize``; the Fitted gets their vocabulary, and takes and
        returns texts.
      y: conditions (n, *y_shape) for a conditional model, or labels; a Series or a table gives the
        Fitted their names. Names of labels are sorted, or in the order of a categorical column.
      key: a typed PRNG key, for starts, shuffles and the noise of losses.
      epochs: largest number of EM steps (200), or of passes over the rows (by default as many as
        make 5000 minibatches, between 20 and 1000).
      batch_size: rows in a minibatch; by default ``model.learning.batch_size``, for most models
        256. Gradient only.
      optimizer: an optax GradientTransformation, a ``jaxgen.training.Adam``, or a list of Adams for
        the members of an ensemble; by default Adam at ``model.learning.rate``. Gradient only.
      validation: share of the rows held out, or held-out data, as x or as a tuple (x, y); with 0
        the training rows decide which params are best. By default 0.1, or 0 if at most 100 numbers
        are learnt from at least 100 rows each: such a fit hardly overfits. Gradient only.
      patience: number of epochs without a better score after which training stops; by default
        training runs all epochs, as the low learning rates at the end help most. The best params
        are kept either way. Gradient only.
      restarts: number of starts of EM, the best of which is kept (1).
      tolerance: gain of a step, in nats for each event, below which EM has converged (1e-5).
      weights: (n,) non-negative weights; an integer weight counts as that many equal rows. For a
        KDE, duplicated rows and weights give different bandwidths.
      freeze: names of params to leave as they are, such as "mean", or "base/mean" within nested
        params; gradient only.
      ensemble: number of fits to train side by side, in one program; the result is the average of
        their densities. By default one for each entry of a list of optimizers, else a single fit.
        Member i is the fit of ``jax.random.fold_in(key, i)``, except that all hold out the same
        rows. Gradient only.
      checkpoint: path of a file that keeps the state of the training: after an interrupt an equal
        call resumes from it, to the same bits on the same machine, and returns at once if the
        training is complete. With ``sharding``, the first process writes the file and all read
        it; a run may resume on other devices, and then agrees up to rounding. Gradient only.
      sharding: devices among which rows are split, as in
        ``NamedSharding(mesh, PartitionSpec("rows"))``, of which each stores and works on an equal
        share; the result is that of one device up to rounding. By default one device. With several
        processes, call ``jax.distributed.initialize`` first; all of them call ``fit`` with the same
        arguments, all rows included, and get the same result. Not for closed forms and "mcmc".
      progress: show a bar; by default on a terminal, in a run over two seconds.

    Returns:
      A Fitted with params in JAX's default float dtype. The model of an ensemble is
      ``compose.Mixture(model, ensemble)``, with equal weights. ``history`` holds:

      - "method", "steps", "epochs" and "seconds".
      - "train" and "validation": mean log-likelihoods in nats, or minus the mean loss if the model
        defines a loss, for each epoch, or for the start and each step of EM.
      - "stopped": "closed form", "converged", "patience", "epochs", "draws" (of a posterior, whose
        diagnostics ``jaxgen.numpyro.NUTS`` lists) or "nan at step N", with a RuntimeWarning.
      - with EM, "restarts", the score of each start, if there are several; and "collapsed", True if
        a component of a ``GaussianMixture`` has collapsed onto equal rows.
      - with gradients, "best_epoch" and "best_score", for the params returned; for an ensemble
        instead "members", a history each, and "train" and "validation" are then means over the
        members that still train. For ``compose.PerClass``, "classes", a history each.
      - for a NumPyro program fitted by gradients, "converged", whether the score has stopped rising
        over the last two fifths of the epochs. Unless its posterior is a point, also diagnostics by
        importance ratios log p(x, globals | y) - log q(globals) of 100 to 500 draws of the fitted
        posterior q: "pareto_k", the tail index of the weights; "efficiency", the effective share of
        the draws; and for each site, at an array's worst entry, "shift", the number of deviations
        by which weighting moves the mean, and "deviation", the factor by which it changes the
        deviation (within the central 98 % of the draws). A RuntimeWarning names the program and its
        worst globals if pareto_k is above 0.7 and efficiency below 0.8, a shift is above 0.5, a
        deviation is beyond a factor of 1.5, or the score is still rising.

    Raises:
      TypeError, ValueError: an argument that has the wrong kind, shape or range, or does not apply
        to the method (the message names it); a start that gives a training row no density, or a
        loss or gradient that is not finite; params that would not be finite; a checkpoint that is
        damaged or of another run.
      OSError: no file can be written at ``checkpoint``.

    Source: Dempster, Laird and Rubin 1977 (EM).

    >>> fitted = jaxgen.fit(jaxgen.models.Gaussian(2), x, key=jax.random.key(0))
    """
    options = Options(
        epochs, batch_size, optimizer, validation, patience, restarts, tolerance, weights, freeze,
        ensemble, checkpoint, sharding, progress,
    )  # fmt: skip
    return fit_with(options, model, x, y, key)


def fit_with(
    options: Options,
    model: Model | Template | Fitted,
    x: Any,
    y: Any,
    key: Any,
    largest: int | None = None,
    avoid_collapse: bool = False,
) -> Fitted:
    """``fit`` with its optional arguments in a record.

    largest: for a mixture, the number of components of the mixture whose programs EM runs; None for
      its own.
    avoid_collapse: whether EM takes a start without a collapsed component before one of a higher
      score, and does not warn of one; see ``Components.collapsed``.
    """
    if not isinstance(model, (Model, Template, Fitted)):
        raise TypeError(
            f"model must be a Model such as Gaussian(2), or a Fitted, got {model!r:.60}"
        )
    weights, validation, restarts = options.weights, options.validation, options.restarts
    epochs, optimizer, ensemble = options.epochs, options.optimizer, options.ensemble
    if is_tracing(x, y, weights, key):
        raise TypeError("fit runs on the host and cannot be called within jit, grad or vmap")
    began = time.perf_counter()
    sharding = devices.checked(options.sharding)
    start, columns, labels, y_columns, vocabulary, pixels = None, None, None, None, None, None
    if isinstance(model, Fitted):
        spec, start = model.model, as_params(model.params)
        columns, labels, y_columns = model.columns, model.labels, model.y_columns
        vocabulary, pixels = model.vocabulary, model.pixels
    else:
        x = by_characters(x)
        spec = spec_for_data(model, x, y)
    if vocabulary is None and isinstance(x, Texts):
        vocabulary = x.vocabulary
    if columns is None and dataframes.is_table(x):
        columns = dataframes.column_names(x)
    elif columns is None and spec.event_shape == ():
        name = dataframes.name_of(x)
        columns = None if name is None else (name,)
    if y_columns is None and spec.y_shape is not None and spec.traits.covariates is None:
        y_columns = _names_of_conditions(y)
    if spec.classes is not None and not isinstance(model, Fitted):
        labels = label_names.names_of_labels(spec, y)

    def arrays(x: Any, y: Any, argument: str) -> tuple[Any, Any]:
        x = tokens_of(x, vocabulary, spec, f"{argument}x")
        x = inputs.events_of_table(spec, x, columns)
        if spec.classes is None:
            return x, inputs.conditions_of_table(spec, y, y_columns)
        column = None if y_columns is None else y_columns[0]
        return x, label_names.as_labels(y, labels, f"{argument}y", column)

    x, y = arrays(x, y, "")
    if isinstance(validation, tuple) and len(validation) == 2:
        validation = arrays(*validation, "validation: ")
    elif dataframes.is_table(validation) or holds_texts(validation):
        validation, _ = arrays(validation, None, "validation: ")
    key = inputs.as_key(key)
    may_miss = spec.learning.missing is not None and optimizer is None
    names = Names.known(columns, labels)
    with names:
        x, y, weights = training_data(spec, x, y, weights, may_miss)
        spec = adapted_to_data(spec, x, y)
    method = _method(
        spec,
        inputs.has_missing(x),
        options._replace(validation=validation, freeze=options.freeze or None),
    )
    data = Data(x, y, weights, np.arange(len(x)))
    if weights is not None and (weights == 0).any():
        # dropped here, such rows cannot affect a start, a bound or a count
        data = data.take(np.flatnonzero(weights))
    if epochs is not None:
        epochs = inputs.as_count(epochs, "epochs", 1)
    if restarts is not None:
        restarts = inputs.as_count(restarts, "restarts", 1)
        if restarts > 1 and start is not None:
            raise ValueError("restarts does not apply to a Fitted: EM starts from its params")
    optimizer = optimizers.Adam(spec.learning.rate) if optimizer is None else optimizer
    ensemble = None if ensemble is None else inputs.as_count(ensemble, "ensemble", 1)
    settings = gradient.Settings(
        epochs=epochs,
        batch_size=inputs.as_count(
            spec.learning.batch_size if options.batch_size is None else options.batch_size,
            "batch_size",
            1,
        ),
        patience=None
        if options.patience is None
        else inputs.as_count(options.patience, "patience", 1),
        optimizer=optimizer,
        freeze=options.freeze,
        members=optimizers.members(optimizer, ensemble),
        progress=options.progress,
        sharding=sharding,
    )
    with names:
        validation = held_out.checked(spec, validation)
        starts = 1 if restarts is None else restarts
        how = How(method, settings, starts, largest=largest, avoid_collapse=avoid_collapse)
        if options.tolerance is not None:
            how = how._replace(tolerance=inputs.as_not_negative(options.tolerance, "tolerance"))
        run = _Run(spec, key, data, validation, start, options.checkpoint)
        spec, params, history = _learn_in_standard_units(run, how)
    history["seconds"] = time.perf_counter() - began
    params = check_params(spec, params)
    return Fitted(spec, params, history, columns, labels, y_columns, vocabulary, pixels)


def by_characters(x: Any) -> Any:
    """A list or a column of texts as Texts whose tokens are characters; other values unchanged.

    Raises:
      TypeError: x is one str, or an entry is no str.
    """
    texts = holds_texts(x) and not isinstance(x, Texts)
    return tokenize(strings_of(x, "x")) if texts else x


def spec_for_data(model: Model | Template, x: Any, y: Any) -> Model:
    """The spec itself, or the spec that a template makes for the data.

    Raises:
      TypeError: a model that is defined outside of jaxgen breaks the contract.
    """
    spec: Any = model
    if isinstance(model, Template):
        known = x.fields if isinstance(x, Texts) else None
        x = x.tokens if isinstance(x, Texts) else inputs.numbers(dataframes.select(x, None), "x")
        y = label_names.column_of_labels(y) if model.needs_labels else y
        spec = model.for_data(x, y, known)
    check_own(spec)
    return spec


def _names_of_conditions(y: Any) -> tuple[str, ...] | None:
    """The names of the columns of a table, or of a Series; None if there are none."""
    if dataframes.is_table(y):
        return dataframes.column_names(y, "y")
    name = dataframes.name_of(y)
    return None if name is None else (name,)


class _Run(NamedTuple):
    """The checked model and data of a fit."""

    model: Any
    key: Any
    data: Data
    validation: Any
    start: Any
    checkpoint: Any


def _learn_in_standard_units(run: _Run, how: How) -> tuple[Model, Params, dict[str, Any]]:
    """The model, its params and history, learnt from rescaled features where it can rescale."""
    units = standard_units(run.model, run.data.x, run.data.weights)
    if units is None:
        return _learn(run, how)
    start = None if run.start is None else as_params(units.start(run.model, run.start))
    inside = run._replace(data=units.enter_data(run.data), start=start)
    if isinstance(run.validation, Data):
        inside = inside._replace(validation=units.enter_data(run.validation))
    spec, learnt, history = _learn(inside, how)
    params = as_params(units.leave(spec, learnt))
    if start is not None and how.settings.members is None:
        params = _map(_unless_unchanged, params, learnt, start, run.start)
    return spec, params, history


def _unless_unchanged(new: Any, learnt: Any, inside: Any, start: Any) -> Any:
    """A leaf of ``start`` that training left alone keeps its last digit."""
    return start if np.array_equal(learnt, inside) else new


def _learn(run: _Run, how: How) -> tuple[Model, Params, dict[str, Any]]:
    """The model, an ensemble's if there is one, with its learnt params and their history."""
    model, data = run.model, run.data
    if how.method == "closed_form":
        return model, *_closed_form(model, data)
    if how.method != "gradient":
        run = run._replace(validation=0.0)  # all rows are learnt from
    elif run.validation is None:
        numbers = freezing.count_learnt(model, run.start, how.settings.freeze)
        share = held_out.default_share(model, numbers, len(data.x))
        run = run._replace(validation=share)
    if devices.has_other_processes(how.settings.sharding):
        options = {"restarts": str(how.restarts), "tolerance": str(how.tolerance)}
        devices.check_same(_description(run, how.settings) | options, how.settings.sharding)
    if run.checkpoint is not None:
        how = how._replace(checkpoint=functools.partial(_checkpoint, run))
    count = how.settings.members
    each_label = [inner for inner in inner_of(model) if inner.per_label]
    if each_label:
        if count is not None:
            raise ValueError(f"ensemble does not apply to {model}: its classes train side by side")
        params, history = _learn_each_label(run, how, each_label[0])
    elif count is None:
        members = alike(run.key, data, run.validation, run.start, 1)
        params, history = learn(model, members, run.key, how)
    else:
        members = alike(run.key, data, run.validation, run.start, count)
        keys, how = member_keys(run.key, count), how._replace(noun="member")
        params, history = learn(model, members, keys, how)
        model = Mixture(model, count)
        params = {"logits": jnp.asarray(np.zeros(count)), "component": params}
    return model, with_label_frequencies(model, params, data.y, data.weights), history


def _learn_each_label(run: _Run, how: How, inner: Inner) -> tuple[Params, dict[str, Any]]:
    """Params of a model with a copy for each label, each learnt from the events with that label."""
    place = "/".join(map(str, inner.place))
    freeze = freezing.below(place, how.settings.freeze, run.model.learning.frozen)
    how = how._replace(noun="class", settings=how.settings._replace(freeze=freeze))
    keys = member_keys(run.key, run.model.classes)
    start = None if run.start is None else params_at(run.start, inner.place)
    members = by_label(list(keys), run.data, run.validation, start, run.model.classes)
    params, history = learn(inner.model, members, keys, how)
    history["classes"] = history.pop("members")
    return with_params_at(None, inner.place, params), history


def _checkpoint(run: _Run, settings: gradient.Settings) -> Checkpoint:
    """The checkpoint of a run with these settings."""
    return Checkpoint(run.checkpoint, _description(run, settings))


def _description(run: _Run, settings: gradient.Settings) -> dict[str, str]:
    """The settings and the data of a run, as strings by name."""
    x, y, weights = run.data[:3]
    validation = run.validation[:2] if isinstance(run.validation, Data) else run.validation
    description = gradient.describe(run.model, run.key, settings)
    return description | describe_data(x, y, weights, validation, run.start)


def _closed_form(spec: Model, data: Data) -> tuple[Params, dict[str, Any]]:
    x, y, weights, numbers = data[:4]
    what, observed = x, None
    if inputs.has_missing(x):
        what, observed = np.nan_to_num(x), ~np.isnan(x)
    with Names.of_rows(numbers):
        params = as_params(spec.estimate(what, y, weights, **mask_argument(observed)))
    numbers_held = sum(np.size(leaf) for leaf in jax.tree_util.tree_leaves(params))
    count = int(np.clip(_READ // max(numbers_held, 1), 64, _CHECKED))  # a KDE's grow with the rows
    some = fixed.generator().permutation(len(x))[:count]
    few = (v if v is None else v[some] for v in (x, y, weights))
    check_scores(spec, params, pad(*few), numbers[some], "x", "the fitted")
    history: dict[str, Any] = {"method": "closed_form", "steps": 0, "epochs": 0}
    return params, history | {"train": [], "validation": [], "stopped": "closed form"}


def _method(spec: Any, missing: bool, options: Options) -> str:
    """The method of a fit. Raises if an argument does not apply to it."""
    method = spec.learning.method
    always = ("weights", "progress")  # which apply to every method, or are ignored by it
    given = {k: v for k, v in options._asdict().items() if k not in always}
    if given["optimizer"] is not None and method != "mcmc":
        method = "gradient"
    if missing:
        method = spec.learning.missing
    if method not in _ARGUMENTS:
        wanted = tuple(_ARGUMENTS)
        raise ValueError(f"{spec}: learning.method must be one of {wanted}, got {method!r}")
    for name, value in given.items():
        if value is not None and name not in _ARGUMENTS[method]:
            others = [m for m, names in _ARGUMENTS.items() if name in names]
            hint = "; pass an optimizer to fit by gradient" if "gradient" in others else ""
            hint = "" if method == "mcmc" else hint
            raise ValueError(
                f"{name} does not apply: {spec} is fitted by {method}, and {name} is for "
                f"{' and '.join(others)}{hint}"
            )
    if method == "gradient" and spec.traits.density == "none" and not has_own_loss(spec):
        raise ValueError(f"{spec} cannot be fitted by gradient: it has no density and no loss")
    return method
