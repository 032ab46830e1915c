"""The commands of the command line, as functions of the parsed arguments."""

from __future__ import annotations

import ast
import dataclasses
import json
import math
import os
import re
from argparse import Namespace
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from jaxgen import metrics, models, training
from jaxgen.cli.world import run as run_world
from jaxgen.compose import Labelled, PerClass
from jaxgen.core import places
from jaxgen.core.model import Model
from jaxgen.data import output, tables
from jaxgen.metrics.accuracy import bits_per_dim, mean_and_error
from jaxgen.networks.domains import Levels
from jaxgen.training.fitted import Fitted, load


def fit(args: Namespace) -> None:
    """Fit a model to a table and save it."""
    output.writable(args.out, others=[args.data])
    family, settings = _family(args.model), _settings(args.set)
    columns, x, labels = tables.read(args.data, args.label)
    classes = None if labels is None else len(set(labels.tolist()))
    if classes == 1:
        raise ValueError(f"{args.data}: {args.label!r} has the same label for all events")
    model = _build(family, settings, x, classes)
    names = ("epochs", "batch_size", "restarts", "validation", "patience")
    options = {k: getattr(args, k) for k in names if getattr(args, k) is not None}
    with _names(args.data, columns):
        x = _with_event_shape(x, model)
        fitted = training.fit(model, x, labels, key=jax.random.key(args.seed), **options)
    fitted.columns = columns
    fitted.save(args.out)
    print(f"{fitted} of {len(x):,} events, in {args.out}")


def sample(args: Namespace) -> None:
    """Draw a table of events from a model."""
    tables.check_output(args.out, others=[args.model])
    fitted = load(args.model)
    y, values = _given(fitted, args.given)
    key = jax.random.key(args.seed)
    if values:
        if fitted.columns is None:  # so that the remaining features keep their numbers
            fitted.columns = tuple(f"x{index}" for index in range(_size(fitted)))
        fitted = fitted.given(values, key=jax.random.fold_in(key, 1))
    no_events = np.empty((0, *fitted.model.event_shape))
    tables.check_output(args.out, [args.model], no_events, fitted.columns)
    tables.write(args.out, fitted.sample(key, args.n, y), fitted.columns)
    print(f"{args.n:,} events, in {args.out}")
    if fitted.history.get("method") == "importance sampling":
        share = fitted.history["effective_sample_size"] / fitted.history["of"]
        print(f"importance sampling: {share:.1%} of the proposals are effective")


def score(args: Namespace) -> None:
    """Print the mean log-likelihood of a table."""
    if args.out is not None:
        tables.check_output(args.out, others=[args.model, args.data])
    fitted = load(args.model)
    if fitted.model.traits.density == "none":
        raise ValueError(f"{type(fitted.model).__name__} has no log density to score with")
    x, y = _events(fitted, args.data, args.label)
    with _names(args.data, fitted.columns):
        log_p = np.asarray(fitted.log_prob(x, y))
    mean = mean_and_error(log_p)
    if args.out is not None:
        tables.write(args.out, log_p, ("log_prob",))
    print(f"events          {len(log_p):,}")
    print(f"log-likelihood  {mean.value:.6g} +- {mean.se:.2g} nats per event")
    print(f"bits/dim        {bits_per_dim(mean.value, _size(fitted)):.6g}")
    for name, found in (("zero density", log_p == -np.inf), ("NaN", np.isnan(log_p))):
        if found.any():
            first = tables.row_name(args.data, found.argmax())
            print(f"{name:<15} {found.sum():,} events, the first in {first}")


def classify(args: Namespace) -> None:
    """Write p(y|x) of a table, or print its accuracy and calibration, or both."""
    if args.label is None and (args.figure is not None or args.out is None):
        wanted = "--out, --label or both" if args.figure is None else "--label with --figure"
        raise ValueError(f"classify needs {wanted} (see jaxgen classify --help)")
    if args.out is not None:
        tables.check_output(args.out, others=[args.model, args.data])
    if args.figure is not None:
        output.check_figure(args.figure, others=[args.model, args.data, args.out])
    fitted = load(args.model)
    names = _labels(fitted)
    x, y = _events(fitted, args.data, args.label)
    with _names(args.data, fitted.columns):
        log_p = np.asarray(fitted.classify(x))
    if args.out is not None:
        tables.write(args.out, np.exp(log_p), tuple(f"p({name})" for name in names))
    if y is None:
        print(f"{len(log_p):,} events, in {args.out}")
        return
    with _names(args.data, fitted.columns):
        found = metrics.calibration(log_p, y, labels=fitted.labels)
    print(f"events             {found.events:,}\n{found}")
    if args.figure is not None:
        output.write_figure(metrics.reliability_figure(found), args.figure)


def evaluate(args: Namespace) -> None:
    """Print the report of ``jaxgen.evaluate``."""
    read = [args.model, args.data, args.train]
    if args.json is not None:
        output.writable(args.json, others=read)
    if args.figure is not None:
        output.check_figure(args.figure, others=[*read, args.json])
    fitted = load(args.model)
    x_test, _ = _events(fitted, args.data)
    x_train = None if args.train is None else _events(fitted, args.train)[0]
    options = {} if args.samples is None else {"n_samples": args.samples}
    key = jax.random.key(args.seed)
    report = metrics.evaluate(fitted, x_test, x_train=x_train, key=key, **options)
    print(report)
    if args.json is not None:
        output.write_json(args.json, report.to_dict())
    if args.figure is not None:
        report.plot(args.figure)


def world(args: Namespace) -> None:
    """Fit every family to the Earth's land."""
    run_world(
        events=args.events, seed=args.seed, json_path=args.json, figure_path=args.figure,
        quick=args.quick,
    )  # fmt: skip


def _family(name: str) -> type[Model]:
    """The class in jaxgen.models with a name; case, hyphens and underscores do not matter."""
    known = {n: getattr(models, n) for n in models.__all__}
    known = {n: c for n, c in known.items() if isinstance(c, type) and issubclass(c, Model)}
    plain = name.replace("-", "").replace("_", "").lower()
    for candidate, family in known.items():
        if candidate.lower() == plain:
            return family
    raise ValueError(f"there is no model {name!r}; the models are {', '.join(sorted(known))}")


def _settings(pairs: list[str]) -> dict[str, Any]:
    return {name: _literal(value) for name, value in _pairs("--set", "KEY", pairs)}


def _pairs(option: str, name: str, pairs: list[str]) -> Iterable[tuple[str, str]]:
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"{option} must be {name}=VALUE, got {pair!r}")
        yield key, value


def _literal(text: str) -> Any:
    """The value of a Python or JSON literal, else the text itself."""
    for parse in (ast.literal_eval, json.loads):
        try:
            return parse(text.strip())
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            pass
    return text


def _build(
    family: type[Model], settings: dict[str, Any], x: np.ndarray, classes: int | None
) -> Model:
    """The spec, with the fields that the data decide; with classes, a model of labels."""
    name, fields = family.__name__, dataclasses.fields(family)
    names = {f.name for f in fields}
    unknown = [key for key in settings if key not in names]
    if unknown:
        known = ", ".join(f.name for f in fields)
        raise ValueError(f"{name} has no field {unknown[0]!r}; its fields are {known}")
    shape = x.shape[1:] or (1,)
    for field in fields:
        if field.name in settings:
            continue
        if field.name == "shape":
            settings["shape"] = shape
        elif field.name == "dim":
            if len(shape) > 1:
                raise ValueError(f"{name} needs events that are vectors, got shape {shape}")
            settings["dim"] = shape[0]
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{name} needs a value: --set {field.name}=...")
    if classes is None:
        return family(**settings)
    if "y_shape" in names:
        of_labels = {"y_shape": (), "y_domain": Levels(classes)}
        return Labelled(family(**of_labels | settings), classes)
    return PerClass(family(**settings), classes)


def _events(
    fitted: Fitted, path: str | os.PathLike[str], label: str | None = None
) -> tuple[np.ndarray, list[str | int] | None]:
    """The events of a table, with the model's columns by name, and their labels."""
    _, x, labels = tables.read(path, label, fitted.columns)
    with _names(path, fitted.columns):
        y = None if labels is None else _labels_of_texts(fitted, map(str, labels))
    return _with_event_shape(x, fitted.model), y


def _names(path: str | os.PathLike[str], columns: tuple[str, ...] | None) -> places.Names:
    """A context whose errors have the names of the columns and rows of a table."""
    return places.Names.known(columns, row=lambda row: tables.row_name(path, row))


def _labels(fitted: Fitted) -> tuple[str | int, ...]:
    """The names of a model's labels, in order."""
    if fitted.model.classes is None:
        raise ValueError(f"{fitted.model} has no labels: it was fitted without --label")
    return fitted.labels or tuple(range(fitted.model.classes))


def _labels_of_texts(fitted: Fitted, texts: Iterable[str]) -> list[str | int]:
    """The model's labels from texts; numbers in one table may be text in another."""
    names = {str(name): name for name in _labels(fitted)}
    texts = list(texts)
    unknown = [text for text in texts if text not in names]
    if unknown:
        known = f"unknown label {unknown[0]!r}; the labels are {', '.join(names):.200}"
        where = () if len(texts) == 1 else (" (", places.row(texts.index(unknown[0])), ")")
        raise ValueError(places.Message(known, *where))
    return [names[text] for text in texts]


def _given(fitted: Fitted, pairs: list[str]) -> tuple[Any, dict[int | str, float]]:
    """The values of ``--given``: the label or condition or None, and features' values by index."""
    y, values = None, dict[int | str, float]()
    for name, text in _pairs("--given", "NAME", pairs):
        if name == "y" and fitted.model.y_shape is not None:
            if y is not None:
                raise ValueError("--given: y is given twice")
            y = _condition(fitted, text)
            continue
        index = _feature_index(fitted, name)
        if index in values:
            raise ValueError(f"--given: {name} is given twice")
        try:
            values[index] = float(text)
        except ValueError:
            raise ValueError(f"--given: {name} must be a number, got {text!r}") from None
    return y, values


def _condition(fitted: Fitted, text: str) -> Any:
    """The condition that a text gives, in the shape y_shape."""
    if fitted.model.classes is not None:
        return _labels_of_texts(fitted, [text.strip()])[0]
    shape = fitted.model.y_shape or ()
    y = np.asarray(_literal(text))
    if y.dtype.kind not in "iuf" or y.size != math.prod(shape):
        raise ValueError(f"--given: y must be {math.prod(shape)} numbers, got {text!r}")
    return y.reshape(shape)


def _feature_index(fitted: Fitted, name: str) -> int:
    """The index of a feature from the name of its column, or from x0, x1, ..."""
    columns, size = fitted.columns or (), _size(fitted)
    if name in columns:
        return columns.index(name)
    if re.fullmatch("x[0-9]{1,9}", name) and int(name[1:]) < size:
        return int(name[1:])
    if name == "y":
        raise ValueError(f"--given: {fitted.model} takes no label or condition y")
    known = ", ".join(columns) if columns else f"x0 to x{size - 1}"
    raise ValueError(f"--given: no feature {name!r}; the features are {known}")


def _size(fitted: Fitted) -> int:
    return math.prod(fitted.model.event_shape)


def _with_event_shape(x: np.ndarray, model: Model) -> np.ndarray:
    """x with single features as a column (n, 1) or as (n,), as the model needs."""
    if x.ndim == 1 and model.event_shape == (1,):
        return x[:, None]
    return x[:, 0] if x.shape[1:] == (1,) and model.event_shape == () else x
