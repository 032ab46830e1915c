"""The command line: fit, sample, score and evaluate on files. Imports wait until needed."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import json
import math
import sys
from typing import Any, NoReturn

# what a user can cause: anything else is a bug, and keeps its traceback
_REFUSED = (
    ValueError,
    TypeError,
    OSError,
    ImportError,
    NotImplementedError,
    MemoryError,
    OverflowError,
)
_TABLES = ".csv, .npy, .npz or .parquet"
_EXAMPLES = """\
examples:
  jaxgen fit events.csv --model GaussianMixture --set components=16 --out land.jaxgen
  jaxgen sample land.jaxgen -n 1000000 --seed 1 --out samples.parquet
  jaxgen score land.jaxgen test.csv --out log_probs.csv
  jaxgen evaluate land.jaxgen test.csv --train events.csv --figure report.png
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Args:
      argv: the arguments after the command's name; None takes the process's own.

    Returns:
      The exit status: 0, or 2 after one line on stderr that says what was wrong.

    Raises:
      SystemExit: with status 0, after ``--help``.

    >>> main(["score", "gaussian.jaxgen", "events.csv"])
    events          200
    log-likelihood  ... nats an event
    bits/dim        ...
    0
    """
    try:
        args = _parser().parse_args(argv)
        args.run(args)
    except _REFUSED as error:
        what = str(error) or type(error).__name__
        if isinstance(error, OSError) and error.filename is not None:
            what = f"{error.strerror}: {error.filename}"
        print("jaxgen: error:", " ".join(what.split()), file=sys.stderr)
        return 2
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="jaxgen",
        description="Fit a probability model to data, then draw from it and score with it.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(run, name, text):
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(run=run)
        return sub

    sub = command(_fit, "fit", "Fit a model to a table of events and save it.")
    sub.add_argument("data", metavar="DATA", help=f"events, one a row: {_TABLES}")
    sub.add_argument("--model", required=True, metavar="NAME", help="a class of jaxgen.models")
    sub.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="fields of the model, such as components=16 or bins=36,72; dim and shape come from "
        "the data",
    )  # fmt: skip
    sub.add_argument("--out", required=True, metavar="MODEL", help="the model file to write")
    sub.add_argument("--epochs", type=_count, metavar="N", help="passes over the data, at most")
    sub.add_argument("--batch-size", type=_count, metavar="N", help="events a gradient step")
    sub.add_argument("--restarts", type=_count, metavar="N", help="starts, of which the best stays")
    sub.add_argument("--validation", type=float, metavar="SHARE", help="share of events held out")
    sub.add_argument("--patience", type=_count, metavar="N", help="epochs without progress allowed")
    _add_seed(sub)

    sub = command(_sample, "sample", "Draw events from a fitted model.")
    _add_model(sub)
    sub.add_argument("-n", type=_count, required=True, metavar="N", help="number of events")
    sub.add_argument("--out", required=True, metavar="FILE", help=f"the table to write: {_TABLES}")
    _add_seed(sub)

    sub = command(_score, "score", "Mean log-likelihood and bits per dimension of events.")
    _add_model(sub, "DATA")
    sub.add_argument("--out", metavar="FILE", help=f"write each row's log density: {_TABLES}")

    sub = command(_evaluate, "evaluate", "Measure accuracy, generation and representation.")
    _add_model(sub, "DATA")
    sub.add_argument("--train", metavar="DATA", help="the events it was fitted to")
    sub.add_argument("--samples", type=_count, metavar="N", help="events to draw")
    sub.add_argument("--json", metavar="FILE", help="write the report as JSON")
    sub.add_argument("--figure", metavar="FILE", help="write the report as a figure")
    _add_seed(sub)

    sub = command(_world, "world", "Fit every family to the Earth's land: a table and a figure.")
    sub.add_argument("--events", type=_count, default=100_000, metavar="N", help="training events")
    sub.add_argument(
        "--quick", action="store_true", help="leave out the largest mixtures and the flow"
    )
    sub.add_argument("--json", metavar="FILE", help="write the results as JSON")
    sub.add_argument("--figure", default="world.png", metavar="FILE", help="default: world.png")
    _add_seed(sub)
    return parser


def _add_model(sub, data=None):
    sub.add_argument("model", metavar="MODEL", help="a model file")
    if data:
        text = f"events: {_TABLES}; named columns are matched by name, others are ignored"
        sub.add_argument("data", metavar=data, help=text)


def _add_seed(sub):
    sub.add_argument("--seed", type=_seed, default=0, metavar="S", help="default: 0")


def _fit(args):
    from jaxgen import files, tables
    from jaxgen.fitted import Fitted

    files.writable(args.out)
    family, settings = _family(args.model), _settings(args.set)
    columns, x = tables.read(args.data)
    model = _build(family, settings, x)

    import jax

    from jaxgen.fit import fit

    names = ("epochs", "batch_size", "restarts", "validation", "patience")
    options = {k: getattr(args, k) for k in names if getattr(args, k) is not None}
    fitted = fit(model, _shaped(x, model), key=jax.random.key(args.seed), **options)
    fitted = Fitted(fitted.model, fitted.params, fitted.history, columns)
    files.save(fitted, args.out)
    print(f"{fitted} of {len(x):,} events, in {args.out}")


def _sample(args):
    import jax

    from jaxgen import files, tables

    tables.check_output(args.out)
    fitted = files.load(args.model)
    tables.write(args.out, fitted.sample(jax.random.key(args.seed), args.n), fitted.columns)
    print(f"{args.n:,} events, in {args.out}")


def _score(args):
    import numpy as np

    from jaxgen import files, tables
    from jaxgen.evaluate.accuracy import bits_per_dim, mean_and_error

    if args.out is not None:
        tables.check_output(args.out)
    fitted = files.load(args.model)
    if fitted.model.density == "none":
        raise ValueError(f"{type(fitted.model).__name__} has no log density to score with")
    log_p = np.asarray(fitted.log_prob(_events(fitted, args.data)))
    mean = mean_and_error(log_p)
    dim = math.prod(fitted.model.event_shape)
    if args.out is not None:
        tables.write(args.out, log_p, ("log_prob",))
    bound = " (a lower bound)" if fitted.model.density == "bound" else ""
    print(f"events          {len(log_p):,}")
    print(f"log-likelihood  {mean.value:.6g} +- {mean.se:.2g} nats an event{bound}")
    print(f"bits/dim        {bits_per_dim(mean.value, dim):.6g}")
    for what, found in (("zero density", log_p == -np.inf), ("NaN", np.isnan(log_p))):
        if found.any():
            print(f"{what:<15} {found.sum():,} events, the first in row {found.argmax()}")


def _evaluate(args):
    import jax

    from jaxgen import files
    from jaxgen.evaluate import evaluate

    for path in filter(None, (args.json, args.figure)):
        files.writable(path)
    fitted = files.load(args.model)
    x_test = _events(fitted, args.data)
    x_train = None if args.train is None else _events(fitted, args.train)
    options = {} if args.samples is None else {"n_samples": args.samples}
    key = jax.random.key(args.seed)
    report = evaluate(fitted, x_test, x_train=x_train, key=key, **options)
    print(report)
    if args.json is not None:
        with files.write_atomically(args.json) as file:
            file.write(json.dumps(report.to_dict(), indent=2).encode() + b"\n")
    if args.figure is not None:
        report.plot(args.figure)


def _world(args):
    from jaxgen import files

    for path in filter(None, (args.json, args.figure)):
        files.writable(path)

    from jaxgen.world import run

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
    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"--set takes KEY=VALUE, got {pair!r}")
        settings[key] = _literal(value)
    return settings


def _literal(text: str) -> Any:
    """The value that text writes in Python or in JSON, else the text itself."""
    for parse in (ast.literal_eval, json.loads):
        try:
            return parse(text.strip())
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            pass
    return text


def _build(family: type, settings: dict[str, Any], x):
    """The spec, with the fields that the data decide."""
    name, fields = family.__name__, dataclasses.fields(family)
    unknown = [key for key in settings if key not in {f.name for f in fields}]
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
    return family(**settings)


def _events(fitted, path):
    """The events of a table as the model takes them, its columns found by name."""
    from jaxgen import tables

    columns, x = tables.read(path)
    if columns is not None and fitted.columns is not None:
        missing = [repr(name) for name in fitted.columns if name not in columns]
        if missing:
            has = ", ".join(map(repr, columns))
            raise ValueError(f"{path}: no column {', '.join(missing)}; its columns are {has}")
        x = x[:, [columns.index(name) for name in fitted.columns]]
    return _shaped(x, fitted.model)


def _shaped(x, model):
    """One feature may be a column or no column: whichever the model takes."""
    if x.ndim == 1 and model.event_shape == (1,):
        return x[:, None]
    return x[:, 0] if x.shape[1:] == (1,) and model.event_shape == () else x


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:  # larger ones would repeat smaller ones
        raise argparse.ArgumentTypeError(f"must be a whole number below 2**32, got {text!r}")
    return int(text)
