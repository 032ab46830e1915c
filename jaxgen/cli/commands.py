"""The commands of the command line, as functions of the parsed arguments."""

from __future__ import annotations

import collections
import shlex
from argparse import Namespace
from typing import Any

import jax
import numpy as np

from jaxgen import metrics, training
from jaxgen.cli import events, families, image_checks, images, texts
from jaxgen.cli.world import run as run_world
from jaxgen.core import places
from jaxgen.data import output, tables
from jaxgen.metrics.accuracy import bits_per_dim, mean_and_error
from jaxgen.training.fitted import Fitted, load


def fit(args: Namespace) -> None:
    """Fit a model to a table, to images or to texts, and save it."""
    output.writable(args.out, others=images.files_of(args.data))
    own = families.import_modules(args.modules)
    family, fields = families.family(args.model, own), families.settings(args.set, args.modules)
    found: images.Training | None = None
    if images.are_images(args, family):
        _check_no_texts(args, f"{args.data} holds images")
        found = images.read_training(args, family)
        columns, x, labels = None, found.x, found.labels
    elif texts.are_texts(args, family, fields):
        if args.levels is not None or isinstance(args.size, tuple):
            raise ValueError(f"--levels and --size HxW are for images, and {args.data} holds texts")
        texts.fit(args, family, fields)
        return
    else:
        what = f"{args.data} is a table of numbers: use --text COLUMN for texts"
        _check_no_texts(args, what)
        columns, x, labels = events.read_training(args)
        x = x[:, None] if x.ndim == 1 else x
        found = images.of_table(args, family, x, fields)
        x = x if found is None else found.x
    some, left_out = events.known_rows(args.data, x, labels)
    if found is not None:
        fields, left_out = {**found.fields, **fields}, [*found.notes, *left_out]
    x, labels = x[some], None if labels is None else np.array(labels[some].tolist())
    if labels is not None and len(set(labels.tolist())) == 1:
        raise ValueError(f"{args.data}: {args.label!r} has the same label for all events")
    with image_checks.hints(found):
        model = families.build(family, fields, x, labels, columns, args.domain)
    if found is not None:
        image_checks.check_levels(model, found)
    names = ("epochs", "batch_size", "restarts", "validation", "patience")
    options = {k: getattr(args, k) for k in names if getattr(args, k) is not None}
    with events.names(args, args.data, columns), places.Names.of_rows(some):
        events.check_missing(args, x, model)
        x = events.with_event_shape(x, model)
        fitted = training.fit(model, x, labels, key=jax.random.key(args.seed), **options)
    fitted.columns = columns
    fitted.y_columns = None if args.label is None else (args.label,)
    fitted.pixels = None if found is None else found.pixels
    fitted.save(args.out)
    if found is None:
        print(f"{fitted} of {len(x):,} events, in {args.out}")
    else:
        print(f"{fitted} of {len(x):,} images, in {args.out}")
        print(f"images          {images.description(fitted)}")
    missing = np.isnan(x).sum()
    if missing:
        print(f"{missing:,} of {x.size:,} values were missing")
    for sentence in left_out:
        print(sentence)


def sample(args: Namespace) -> None:
    """Draw events from a model into a table, with their label or conditions; images; or texts."""
    as_images = images.is_output(args.out)
    if as_images:
        images.check_output(args.out, others=[args.model])
    else:
        try:
            texts.check_output(args.out, others=[args.model])
        except ValueError as error:
            to_images = "images go to a .png, or to a folder without an ending"
            raise ValueError(f"{error}; {to_images}") from None
    fitted = load_for(args)
    if as_images and fitted.pixels is None:
        raise ValueError(f"{args.out} is for images, and {args.model} was not fitted to images: "
                         f"use a table, {tables.endings()}, or .txt for texts")  # fmt: skip
    if fitted.vocabulary is not None:
        texts.sample(args, fitted)
        return
    if args.out in (None, "-"):
        draws = "numbers" if fitted.pixels is None else "images: a .png or a folder"
        raise ValueError(f"sample needs --out FILE, as the model draws {draws}")
    if not as_images:
        if fitted.pixels is not None:
            image_checks.check_table(fitted, args.out)
        tables.check_output(args.out, others=[args.model])
    y, values = events.given(fitted, args.given)
    if as_images:
        image_checks.check_labels(fitted, args.out, y)
    key = jax.random.key(args.seed)
    part = fitted.given(values, key=jax.random.fold_in(key, 1)) if values else fitted
    if not as_images:
        none = np.empty((0, *fitted.model.event_shape))
        tables.check_output(args.out, [args.model], *_table(fitted, args.out, none, None))
    labelled = fitted.model.classes is not None
    drawn = part.sample(key, args.n, y, with_labels=labelled)
    x, y = drawn if labelled else (drawn, y)
    x = np.asarray(x)
    if values:
        x = _with_values(x, events.size(fitted), values)
        x = x.reshape(-1, *fitted.model.event_shape)
    if y is not None:
        y = np.broadcast_to(y, (args.n, *np.shape(y)[1 if labelled else 0 :]))
    if as_images:
        images.write(fitted, x, y, args.out)
    else:
        tables.write(args.out, *_table(fitted, args.out, x, y))
    print(f"{args.n:,} {'images' if as_images else 'events'}, in {args.out}")
    if part.history.get("method") == "importance sampling":
        share = part.history["effective_sample_size"] / part.history["of"]
        print(f"importance sampling: {share:.1%} of the proposals are effective")


def score(args: Namespace) -> None:
    """Print the mean log-likelihood of a table or of images, or bits per character of texts."""
    read = [args.model, *images.files_of(args.data), *images.files_of(args.train)]
    if args.out is not None:
        tables.check_output(args.out, others=read)
    if args.figure is not None:
        output.check_figure(args.figure, others=[*read, args.out])
    fitted = load_for(args, "train", "per", "figure")
    if fitted.vocabulary is not None:
        texts.score(args, fitted)
        return
    if fitted.model.traits.density == "none":
        raise ValueError(f"{type(fitted.model).__name__} has no log density to score with")
    x, y, some, left_out, n = events.known_events(args, fitted, args.data)
    with events.names(args, args.data, fitted.columns), places.Names.of_rows(some):
        log_p = events.in_chunks(
            len(x), "score", lambda _, rows: fitted.log_prob(x[rows], _cut(y, rows))
        )
    mean = mean_and_error(log_p)
    if args.out is not None:
        scores = np.ma.masked_all(n, log_p.dtype)
        scores[some] = log_p
        identity = events.ids(args, n, numbered=False)
        events.write_columns(args.out, identity, {"log_prob": scores}, scores)
    what = "event" if fitted.pixels is None else "image"
    is_bound = fitted.model.traits.density == "bound"
    least, most = (", a lower bound", ", an upper bound") if is_bound else ("", "")
    print(f"{what + 's':<15} {len(log_p):,}")
    print(f"log-likelihood  {mean.value:.6g} +- {mean.se:.2g} nats per {what}{least}")
    print(f"bits/dim        {bits_per_dim(mean.value, events.size(fitted)):.6g}{most}")
    if fitted.pixels is not None:
        print(f"constant        {images.constant(fitted)}")
    for name, found in (("zero density", log_p == -np.inf), ("NaN", np.isnan(log_p))):
        if found.any():
            first = events.row_name(args, args.data, some[found.argmax()])
            print(f"{name:<15} {found.sum():,} {what}s, the first in {first}")
    for sentence in left_out:
        print(sentence)


def classify(args: Namespace) -> None:
    """Write p(y|x) of a table, or print its accuracy and calibration, or both."""
    if args.label is None and (args.figure is not None or args.out is None):
        wanted = "--out, --label or both" if args.figure is None else "--label with --figure"
        raise ValueError(f"classify needs {wanted} (see jaxgen classify --help)")
    if args.out is not None:
        tables.check_output(args.out, others=[args.model, args.data])
    if args.figure is not None:
        others = [args.model, *images.files_of(args.data), args.out]
        output.check_figure(args.figure, others)
    fitted = load_for(args)
    names = events.label_names(fitted)
    notes: tuple[str, ...] = ()
    if fitted.vocabulary is not None:
        log_p, y, identity, names_of_rows = texts.classify(args, fitted)
    else:
        x, y, notes = events.read_events(args, fitted, args.data, args.label, missing_labels=True)
        names_of_rows = events.names(args, args.data, fitted.columns)
        with names_of_rows:
            log_p = events.in_chunks(len(x), "classify", lambda _, rows: fitted.classify(x[rows]))
        identity = {} if args.out is None else events.ids(args, len(x))
    p = np.exp(log_p)
    if args.out is not None:
        label = fitted.y_columns[0] if fitted.y_columns else "y"
        columns = {f"predicted_{label}": _likeliest(p, names)}
        columns |= {f"p({name})": p[:, k] for k, name in enumerate(names)}
        events.write_columns(args.out, identity, columns, p)
    for sentence in notes:
        print(sentence)
    if y is None:
        print(f"{len(log_p):,} events, in {args.out}")
        return
    some = np.flatnonzero(events.has_label(y))
    if not len(some):
        raise ValueError(f"{args.data}: no row has a label")
    with names_of_rows, places.Names.of_rows(some):
        found = metrics.calibration(log_p[some], y[some].tolist(), labels=fitted.labels)
    print(f"events             {found.events:,}\n{found}")
    if len(some) < len(y):
        print(f"{len(y) - len(some):,} rows without a label were left out of the measures")
    if args.figure is not None:
        output.write_figure(metrics.reliability_figure(found), args.figure)


def impute(args: Namespace) -> None:
    """Write a table whose missing values are drawn given the rest of their rows."""
    tables.check_output(args.out, others=[args.model, args.data])
    fitted = load_for(args)
    if fitted.model.learning.missing is None:
        raise ValueError(
            f"{fitted.model} does not draw missing values; models that do: "
            f"{families.models_with_missing_values()}"
        )
    if events.are_images(fitted, args.data):
        raise ValueError(f"impute is for tables, and {args.data} holds images, without blanks")
    x, _, _ = events.read_events(args, fitted, args.data)
    done = np.empty(x.shape, np.float32)
    with events.names(args, args.data, fitted.columns):
        # rows with a label, then those without
        for number, (rows, y) in enumerate(events.labels_of_rows(args, fitted, len(x))):
            key = jax.random.fold_in(jax.random.key(args.seed), number)
            done[rows] = _complete(fitted, x[rows], y, key)
    missing, left = np.isnan(x), np.isnan(done)
    tables.write(args.out, *events.completed(args, fitted, x, done))
    filled = (missing & ~left).reshape(len(x), -1)
    print(
        f"{filled.sum():,} values filled, in {filled.any(1).sum():,} of {len(x):,} rows and "
        f"{filled.any(0).sum():,} columns, in {args.out}"
    )
    if left.any():
        row = int(left.reshape(len(x), -1).any(1).argmax())
        first = events.row_name(args, args.data, row)
        print(f"{left.sum():,} values stay missing, the first in {first}: the model gives the rest "
              "of their rows no density")  # fmt: skip


def outliers(args: Namespace) -> None:
    """Print the most unlikely rows of a table, and write how unlikely every row is."""
    if args.out is not None:
        tables.check_output(args.out, others=[args.model, args.data])
    fitted = load_for(args)
    if fitted.vocabulary is not None:
        raise ValueError(
            "outliers is for tables of numbers; for texts use jaxgen score with --out or --figure"
        )
    x, y, notes = events.read_events(args, fitted, args.data, args.label)
    options = {} if args.samples is None else {"n_samples": args.samples}
    with events.names(args, args.data, fitted.columns):
        labels = None if y is None else y.tolist()
        found = metrics.outliers(fitted, x, labels, key=jax.random.key(args.seed), **options)
    identity = events.ids(args, len(x))
    if args.out is not None:
        most = found.most_blamed()
        blame = np.where(most < 0, np.nan, found.blame[np.arange(len(x)), most])
        blamed = [None if j < 0 else found.columns[j] for j in most]
        numbers = np.array([found.percentile, found.log_prob, blame], np.float32)
        percentile, log_p, blame = numbers
        scores = {"percentile": percentile, "log_prob": log_p}
        columns = {**scores, "column": np.array(blamed, object), "blame": blame}
        events.write_columns(args.out, identity, columns, numbers.T)

    shown = None if args.id is None else identity[args.id].tolist()

    def name(row: int) -> Any:
        if shown is not None:
            return shown[row]
        return events.row_name(args, args.data, row)

    print(found.table(args.n, name))
    for sentence in notes:
        print(sentence)
    if args.out is not None:
        print(f"{len(x):,} events, in {args.out}")


def evaluate(args: Namespace) -> None:
    """Print the report of ``jaxgen.evaluate``."""
    read = [args.model, *images.files_of(args.data), *images.files_of(args.train)]
    if args.json is not None:
        output.writable(args.json, others=read)
    if args.figure is not None:
        output.check_figure(args.figure, others=[*read, args.json])
    fitted = load_for(args)
    if fitted.vocabulary is not None:
        texts.evaluate(args, fitted)
        return
    x_test, y_test, some, left_out, _ = events.known_events(args, fitted, args.data)
    left_out = [f"{args.data}: {sentence}" for sentence in left_out]
    x_train, y_train = None, None
    if args.train is not None:
        x_train, y_train, _, more, _ = events.known_events(args, fitted, args.train)
        left_out += [f"{args.train}: {sentence}" for sentence in more]
    options = {} if args.samples is None else {"n_samples": args.samples}
    key = jax.random.key(args.seed)
    with events.names(args, args.data, fitted.columns), places.Names.of_rows(some):
        report = metrics.evaluate(
            fitted, x_test, y_test, x_train=x_train, y_train=y_train, key=key, **options
        )
    print(report)
    for sentence in left_out:
        print(sentence)
    if args.json is not None:
        output.write_json(args.json, report.to_dict())
    if args.figure is not None:
        report.plot(args.figure)


def explain(args: Namespace) -> None:
    """Print the report of ``jaxgen.metrics.explain``: what the latent coordinates mean."""
    if args.figure is not None:
        output.check_figure(args.figure, others=[args.model, *images.files_of(args.data)])
    fitted = load_for(args)
    model = fitted.model
    if fitted.vocabulary is not None:
        raise ValueError("explain is for models of numbers and images; for texts use jaxgen score")
    if model.y_shape is not None and model.classes is None:
        raise ValueError(f"explain has no option for the conditions y of {model}: call "
                         "jaxgen.metrics.explain")  # fmt: skip
    if model.classes is not None and args.label is None:
        name = fitted.y_columns[0] if fitted.y_columns else "NAME"
        option = "--label " + shlex.quote(name)
        raise ValueError(f"explain needs {option}, as {args.model} is a model of labels")
    x, y, some, left_out, _ = events.known_events(args, fitted, args.data, any_labels=True)
    with events.names(args, args.data, fitted.columns), places.Names.of_rows(some):
        report = metrics.explain(fitted, x, y, key=jax.random.key(args.seed))
    print(report)
    for sentence in [*left_out, *_without_labels(fitted, y)]:
        print(sentence)
    if args.figure is not None:
        report.plot(args.figure)


def _without_labels(fitted: Fitted, y: list[str | int] | None) -> list[str]:
    """Why the report of a model of labels has no section about them, if it has none."""
    if fitted.model.classes is None or y is None:
        return []
    counts = collections.Counter(y)
    rarest = min(counts, key=counts.__getitem__)
    if len(counts) == 1:
        return [f"no section LABELS: all events have the label {rarest!r}"]
    return [f"no section LABELS: {rarest!r} has one event"] if counts[rarest] == 1 else []


def world(args: Namespace) -> None:
    """Fit every family to the Earth's land."""
    run_world(
        events=args.events, seed=args.seed, json_path=args.json, figure_path=args.figure,
        quick=args.quick,
    )  # fmt: skip


def load_for(args: Namespace, *options_of_texts: str) -> Fitted:
    """The model; raises if it was fitted to numbers and an option of texts is given."""
    families.import_modules(args.modules)
    fitted = load(args.model)
    if fitted.vocabulary is None:
        texts.check_numbers(args, f"{args.model} was fitted to numbers", *options_of_texts)
    return fitted


def _check_no_texts(args: Namespace, what: str) -> None:
    """Raise if an option of texts is given for other data; --size is also one of images."""
    texts.check_numbers(Namespace(**{**vars(args), "size": None}), what)


def _complete(fitted: Fitted, x: np.ndarray, y: Any, key: jax.Array) -> np.ndarray:
    def complete(chunk: int, rows: slice) -> jax.Array:
        return fitted.impute(x[rows], jax.random.fold_in(key, chunk), _cut(y, rows))

    return events.in_chunks(len(x), "impute", complete)


def _cut(y: Any, rows: slice) -> Any:
    return None if y is None else y[rows]


def _likeliest(p: np.ndarray, names: tuple[str | int, ...]) -> Any:
    """The names of the likeliest labels, (n,); None where the probabilities are NaN."""
    found = np.array(names)[p.argmax(1)]
    unknown = np.isnan(p).any(1)
    return np.where(unknown, None, found.astype(object)) if unknown.any() else found


def _with_values(x: np.ndarray, size: int, values: dict[Any, float]) -> np.ndarray:
    """Events (n, size) whose features by number are values, and whose others are x, in order."""
    whole = np.empty((len(x), size), x.dtype)
    for j, value in values.items():
        whole[:, j] = value
    whole[:, [j for j in range(size) if j not in values]] = x
    return whole


def _table(fitted: Fitted, path: str, x: np.ndarray, y: Any) -> tuple[Any, Any]:
    """Events, and their labels or conditions, as ``tables.write`` takes them."""
    if y is None or not tables.holds_names(path):
        return x, fitted.columns
    if len(fitted.model.event_shape) < 2:
        return fitted.named_columns(x, y), None
    conditions = list(fitted.named_columns(x, y).items())[events.size(fitted) :]
    return {"x": x, **dict(conditions)}, None
