"""What the command line does with its arguments. Imports wait until needed."""

from __future__ import annotations

import ast
import dataclasses
import json
import math
import re
from collections.abc import Iterable
from typing import Any


def fit(args):
    """Fit a model to a table and save it."""
    from jaxgen.data import model_file as files
    from jaxgen.data import output, tables

    output.writable(args.out, others=[args.data])
    family, settings = _family(args.model), _settings(args.set)
    columns, x, labels = tables.read(args.data, args.label)
    classes = None if labels is None else len(set(labels.tolist()))
    if classes == 1:
        raise ValueError(f"{args.data}: {args.label!r} holds one label for all events")
    model = _build(family, settings, x, classes)

    import jax

    from jaxgen.training import fit

    names = ("epochs", "batch_size", "restarts", "validation", "patience")
    options = {k: getattr(args, k) for k in names if getattr(args, k) is not None}
    with _names(args.data, columns):
        fitted = fit(model, _shaped(x, model), labels, key=jax.random.key(args.seed), **options)
    fitted.columns = columns
    files.save(fitted, args.out)
    print(f"{fitted} of {len(x):,} events, in {args.out}")


def sample(args):
    """Draw a table from a model."""
    import jax
    import numpy as np

    from jaxgen.data import model_file as files
    from jaxgen.data import tables

    tables.check_output(args.out, others=[args.model])
    fitted = files.load(args.model)
    y, values = _known(fitted, args.given)
    key = jax.random.key(args.seed)
    if values:
        if fitted.columns is None:  # the features that are left keep their numbers
            fitted.columns = tuple(f"x{place}" for place in range(_size(fitted)))
        fitted = fitted.given(values, key=jax.random.fold_in(key, 1))
    like = np.empty((0, *fitted.model.event_shape))
    tables.check_output(args.out, [args.model], like, fitted.columns)
    tables.write(args.out, fitted.sample(key, args.n, y), fitted.columns)
    print(f"{args.n:,} events, in {args.out}")
    if fitted.history.get("method") == "importance sampling":
        share = fitted.history["effective_sample_size"] / fitted.history["of"]
        print(f"importance sampling: {share:.1%} of the proposals are effective")


def score(args):
    """Print the mean log-likelihood of a table."""
    import numpy as np

    from jaxgen.data import model_file as files
    from jaxgen.data import tables
    from jaxgen.metrics.accuracy import bits_per_dim, mean_and_error

    if args.out is not None:
        tables.check_output(args.out, others=[args.model, args.data])
    fitted = files.load(args.model)
    if fitted.model.traits.density == "none":
        raise ValueError(f"{type(fitted.model).__name__} has no log density to score with")
    x, y = _events(fitted, args.data, args.label)
    with _names(args.data, fitted.columns):
        log_p = np.asarray(fitted.log_prob(x, y))
    mean = mean_and_error(log_p)
    if args.out is not None:
        tables.write(args.out, log_p, ("log_prob",))
    print(f"events          {len(log_p):,}")
    print(f"log-likelihood  {mean.value:.6g} +- {mean.se:.2g} nats an event")
    print(f"bits/dim        {bits_per_dim(mean.value, _size(fitted)):.6g}")
    for what, found in (("zero density", log_p == -np.inf), ("NaN", np.isnan(log_p))):
        if found.any():
            first = tables.row_name(args.data, found.argmax())
            print(f"{what:<15} {found.sum():,} events, the first in {first}")


def classify(args):
    """Write p(y|x) of a table, or print how good it is, or both."""
    import numpy as np

    from jaxgen.data import model_file as files
    from jaxgen.data import output, tables
    from jaxgen.metrics import calibration, reliability_figure

    if args.label is None and (args.figure is not None or args.out is None):
        wanted = "--out, --label or both" if args.figure is None else "--label beside --figure"
        raise ValueError(f"classify needs {wanted} (see jaxgen classify --help)")
    if args.out is not None:
        tables.check_output(args.out, others=[args.model, args.data])
    if args.figure is not None:
        output.check_figure(args.figure, others=[args.model, args.data, args.out])
    fitted = files.load(args.model)
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
        found = calibration(log_p, y, labels=fitted.labels)
    print(f"events             {found.events:,}\n{found}")
    if args.figure is not None:
        output.write_figure(reliability_figure(found), args.figure)


def evaluate(args):
    """Print the report."""
    import jax

    from jaxgen.data import model_file as files
    from jaxgen.data import output
    from jaxgen.metrics import evaluate

    read = [args.model, args.data, args.train]
    if args.json is not None:
        output.writable(args.json, others=read)
    if args.figure is not None:
        output.check_figure(args.figure, others=[*read, args.json])
    fitted = files.load(args.model)
    x_test, _ = _events(fitted, args.data)
    x_train = None if args.train is None else _events(fitted, args.train)[0]
    options = {} if args.samples is None else {"n_samples": args.samples}
    key = jax.random.key(args.seed)
    report = evaluate(fitted, x_test, x_train=x_train, key=key, **options)
    print(report)
    if args.json is not None:
        output.write_json(args.json, report.to_dict())
    if args.figure is not None:
        report.plot(args.figure)


def world(args):
    """Fit every family to the Earth's land."""
    from jaxgen.cli.world import run

    run(
        events=args.events, seed=args.seed, json_path=args.json, figure_path=args.figure,
        quick=args.quick,
    )  # fmt: skip


def _family(name: str) -> type:
    """The class of jaxgen.models of that name; case, hyphens and underscores do not matter."""
    from jaxgen import Model, models

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
            raise ValueError(f"{option} takes {name}=VALUE, got {pair!r}")
        yield key, value


def _literal(text: str) -> Any:
    """The value that text writes in Python or in JSON, else the text itself."""
    for parse in (ast.literal_eval, json.loads):
        try:
            return parse(text.strip())
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            pass
    return text


def _build(family: type, settings: dict[str, Any], x, classes: int | None):
    """The spec, with the fields that the data decide; of labelled events if there are classes."""
    from jaxgen.compose import Labelled, PerClass
    from jaxgen.networks.domains import Levels

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
                raise ValueError(f"{name} takes rows of features, but events have shape {shape}")
            settings["dim"] = shape[0]
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{name} needs a value: --set {field.name}=...")
    if classes is None:
        return family(**settings)
    if "y_shape" in names:
        told = {"y_shape": (), "y_domain": Levels(classes)}
        return Labelled(family(**told | settings), classes)
    return PerClass(family(**settings), classes)


def _events(fitted, path, label=None):
    """Events of a table as the model takes them, its columns found by name, and their labels."""
    from jaxgen.data import tables

    _, x, labels = tables.read(path, label, fitted.columns)
    with _names(path, fitted.columns):
        y = None if labels is None else _named(fitted, map(str, labels))
    return _shaped(x, fitted.model), y


def _names(path, columns):
    """Errors about the events of a table, with the names of its columns and rows."""
    from jaxgen.core.places import Names
    from jaxgen.data import tables

    return Names.known(columns, row=lambda row: tables.row_name(path, row))


def _labels(fitted):
    """The names of a model's labels, in order."""
    if fitted.model.classes is None:
        raise ValueError(f"{fitted.model} knows no labels: it was fitted without --label")
    return fitted.labels or tuple(range(fitted.model.classes))


def _named(fitted, texts: Iterable[str]) -> list[str | int]:
    """The labels that texts name: a table may write as text what another has as numbers."""
    from jaxgen.core.places import Message, row

    names = {str(name): name for name in _labels(fitted)}
    texts = list(texts)
    unknown = [text for text in texts if text not in names]
    if unknown:
        known = f"unknown label {unknown[0]!r}; the labels are {', '.join(names):.200}"
        where = () if len(texts) == 1 else (" (", row(texts.index(unknown[0])), ")")
        raise ValueError(Message(known, *where))
    return [names[text] for text in texts]


def _known(fitted, pairs: list[str]) -> tuple[Any, dict[int, float]]:
    """What ``--given`` says: the label or condition, or None, and values of features by place."""
    y, values = None, {}
    for name, text in _pairs("--given", "NAME", pairs):
        if name == "y" and fitted.model.y_shape is not None:
            if y is not None:
                raise ValueError("--given: y is given twice")
            y = _condition(fitted, text)
            continue
        place = _place(fitted, name)
        if place in values:
            raise ValueError(f"--given: {name} is given twice")
        try:
            values[place] = float(text)
        except ValueError:
            raise ValueError(f"--given: {name} must be a number, got {text!r}") from None
    return y, values


def _condition(fitted, text):
    """One condition, in the shape that the model takes."""
    import numpy as np

    if fitted.model.classes is not None:
        return _named(fitted, [text.strip()])[0]
    shape = fitted.model.y_shape
    y = np.asarray(_literal(text))
    if y.dtype.kind not in "iuf" or y.size != math.prod(shape):
        raise ValueError(f"--given: y must be {math.prod(shape)} numbers, got {text!r}")
    return y.reshape(shape)


def _place(fitted, name: str) -> int:
    """The place of a feature that is named by its column, or as x0, x1, ..."""
    columns, size = fitted.columns or (), _size(fitted)
    if name in columns:
        return columns.index(name)
    if re.fullmatch("x[0-9]{1,9}", name) and int(name[1:]) < size:
        return int(name[1:])
    if name == "y":
        raise ValueError(f"--given: {fitted.model} takes no label or condition y")
    known = ", ".join(columns) if columns else f"x0 to x{size - 1}"
    raise ValueError(f"--given: no feature {name!r}; the features are {known}")


def _size(fitted) -> int:
    return math.prod(fitted.model.event_shape)


def _shaped(x, model):
    """One feature may be a column or no column: whichever the model takes."""
    if x.ndim == 1 and model.event_shape == (1,):
        return x[:, None]
    return x[:, 0] if x.shape[1:] == (1,) and model.event_shape == () else x
