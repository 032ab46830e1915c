"""The command line ``jaxgen`` and its arguments; ``commands`` has the commands."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import importlib.metadata
import io
import os
import re
import sys
from collections.abc import Callable
from fractions import Fraction
from typing import NoReturn

import jax

from jaxgen.cli import commands, generation
from jaxgen.core.compiler import cache_compilations
from jaxgen.data import output, tables
from jaxgen.data.bulk.block_files import FILE_FORMATS
from jaxgen.data.text import KINDS

# errors that a user can cause; any other error is a bug and shows its traceback
_USER_ERRORS = (
    ValueError,
    TypeError,
    OSError,
    ImportError,
    NotImplementedError,
    MemoryError,
    OverflowError,
)
_TABLES = tables.endings()
_DATA = (
    f"{_TABLES}; images: a folder of them, such as .png and .jpg, one of them, or an IDX file; "
    "texts: a text file, or a folder of .txt files"
)
_EXAMPLES = """\
examples:
  jaxgen fit events.csv --model GaussianMixture --set components=16 --out land.jaxgen
  jaxgen sample land.jaxgen -n 1000000 --seed 1 --out samples.parquet
  jaxgen score land.jaxgen test.csv --out log_probs.csv
  jaxgen evaluate land.jaxgen test.csv --train events.csv --figure report.png
  jaxgen sample land.jaxgen -n 1000 --given latitude=45 --out along.csv

  jaxgen fit iris.csv --model Gaussian --label species --na '?' --out iris.jaxgen
  jaxgen sample iris.jaxgen -n 1000 --given species=setosa --out setosa.csv
  jaxgen classify iris.jaxgen test.csv --label species --figure reliability.png
  jaxgen impute iris.jaxgen iris.csv --na '?' --out filled.csv
  jaxgen outliers iris.jaxgen iris.csv --na '?' --out percentiles.csv

  jaxgen fit drawings --label kind --model Bernoulli --size 28 --levels 2 --out drawings.jaxgen
  jaxgen sample drawings.jaxgen -n 64 --given kind=apple --out apples.png
  jaxgen fit drawings --model VAE --set latent=8 --size 28 --levels 2 --out vae.jaxgen
  jaxgen explain vae.jaxgen drawings --label kind --figure features.png

  jaxgen fit names.txt --model Autoregressive --out names.jaxgen
  jaxgen sample names.jaxgen -n 20 --prompt mar
  jaxgen score names.jaxgen test.txt --train names.txt

  jaxgen generate land.jaxgen -n 1e9 --out land --plan
  jaxgen generate land.jaxgen -n 1e9 --out land --resume
  jaxgen verify land
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Args:
      argv: the arguments after ``jaxgen``; None takes those of the process.

    Returns:
      The exit status: 0, or 2 after an error, which is one line on stderr.

    Raises:
      SystemExit: with status 0, after ``--help`` and ``--version``.

    >>> main(["score", "gaussian.jaxgen", "events.csv"])
    events          200
    log-likelihood  ... nats per event
    bits/dim        ...
    0
    """
    try:
        args = _parser().parse_args(argv)
        _check_stdout()
        if not args.no_cache:
            _keep_programs()
        args.run(args)
        _flush_stdout()
    except _USER_ERRORS as error:
        with contextlib.suppress(OSError):
            _flush_stdout()
        message = str(error) or type(error).__name__
        if isinstance(error, OSError) and error.filename is not None:
            message = f"{error.strerror}: {error.filename}"
        line = " ".join(message.split())
        # a damaged file may hold half of a character
        line = line.encode(errors="backslashreplace").decode()
        print("jaxgen: error:", line, file=sys.stderr)
        return 2
    return 0


def _keep_programs() -> None:
    """Keep compiled programs for later commands, in the user's cache folder or that of JAX.

    A folder that cannot be used costs time only, so it is no error.
    """
    if getattr(jax.config, "jax_compilation_cache_dir", None) is not None:
        return
    try:
        cache_compilations()
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home directory
        reason = " ".join(str(error).split())
        print(f"jaxgen: compiled programs are not kept (--no-cache): {reason}", file=sys.stderr)


def _check_stdout() -> None:
    """Raise if standard output cannot be written to."""
    # standard output may be missing, or a file in memory
    with contextlib.suppress(AttributeError, io.UnsupportedOperation):
        output.check_descriptor(sys.stdout.fileno(), "standard output")


def _flush_stdout() -> None:
    """Flush standard output while its errors can still be reported."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        # at its end the interpreter flushes again, which must not fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OSError(error.errno, error.strerror, "standard output") from error


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
    version = importlib.metadata.version("jaxgen")
    parser.add_argument("--version", action="version", version=f"jaxgen {version}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(
        run: Callable[[argparse.Namespace], None], name: str, text: str
    ) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(run=run)
        sub.add_argument(
            "--no-cache", action="store_true",
            help="do not keep compiled programs in the user's cache folder, nor read them",
        )  # fmt: skip
        return sub

    sub = command(
        commands.fit, "fit", "Fit a model to a table of events, to images or to texts, and save it."
    )
    sub.add_argument("data", metavar="DATA", help=f"events, one in each row: {_DATA}")
    sub.add_argument(
        "--model", required=True, metavar="NAME", help="a class of jaxgen.models, or of --import"
    )
    sub.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="fields of the model, such as components=16 or bins=36,72 or "
        "'network=Transformer(width=128)'; dim and shape follow from the data",
    )  # fmt: skip
    _add_label(
        sub,
        "column of labels, text or whole numbers: learn p(x|y) and p(y); for a folder of images or "
        "texts, a name for its subfolders, such as kind or author",
    )
    sub.add_argument(
        "--columns", nargs="+", action="extend", default=[], metavar="COLUMN",
        help="features to learn, such as a,b or a b; by default all columns but the label; an "
        "argument that is the name of a column is that column, whether it holds commas or not",
    )  # fmt: skip
    sub.add_argument(
        "--ignore", nargs="+", action="extend", default=[], metavar="COLUMN",
        help="columns that are no features, such as ids and text",
    )  # fmt: skip
    sub.add_argument(
        "--domain", nargs="+", action="extend", default=[], metavar="COLUMN=DOMAIN",
        help="domains of features for a flow, such as 'latitude=Interval(-90, 90)' or "
        "'longitude=Circle(-180, 180)' or income=Positive",
    )  # fmt: skip
    sub.add_argument("--out", required=True, metavar="MODEL", help="the model file to write")
    sub.add_argument("--epochs", type=_count, metavar="N", help="most passes over the data")
    sub.add_argument("--batch-size", type=_count, metavar="N", help="events in a gradient step")
    sub.add_argument(
        "--restarts", type=_count, metavar="N", help="number of fits, of which the best is kept"
    )
    sub.add_argument("--validation", type=float, metavar="SHARE", help="share of events held out")
    sub.add_argument(
        "--patience", type=_count, metavar="N", help="epochs without progress before the fit stops"
    )
    _add_seed(sub)
    _add_reading(sub)
    _add_import(sub)
    group = sub.add_argument_group(
        "images",
        "An image is an event. With --label, those of a label are in a subfolder of its name, or "
        "the labels of an IDX file in the file beside it. --size N or HEIGHTxWIDTH scales images, "
        "such as --size 28 or --size 20x30, and must be given if they differ in size.",
    )
    group.add_argument(
        "--levels", type=_count, metavar="N",
        help="values of a pixel, or of each of its colours, from 2, as for black and white, to "
        "256; default: 2 if all pixels are black or white, else 256",
    )  # fmt: skip
    group = sub.add_argument_group(
        "texts",
        "Each line of a text file is an event, as for a list of names. Prose needs --stream.",
    )
    group.add_argument(
        "--stream", action="store_true", default=None,
        help="the files, or the cells of --text, are one long text, of which windows are events",
    )  # fmt: skip
    group.add_argument(
        "--by", choices=KINDS, metavar="KIND",
        help=f"tokens: {', '.join(KINDS)}; default: characters",
    )  # fmt: skip
    group.add_argument(
        "--size", type=_size, metavar="N",
        help="most tokens of a vocabulary of words (default: 4096) or merges (512); for images, "
        "see above",
    )  # fmt: skip
    group.add_argument(
        "--length", type=_count, metavar="N",
        help="most tokens of a text, by default a quarter more than those of the longest; with "
        "--stream the tokens of a window (64; 1000 for a model that is fitted in closed form)",
    )  # fmt: skip
    group.add_argument(
        "--step", type=_count, metavar="N",
        help="with --stream: tokens from one window to the next; default: those of a window",
    )  # fmt: skip

    sub = command(commands.sample, "sample", "Draw events from a fitted model.")
    _add_model(sub)
    sub.add_argument("-n", type=_count, required=True, metavar="N", help="number of events")
    sub.add_argument(
        "--given", nargs="+", action="extend", default=[], metavar="NAME=VALUE",
        help="draw given a label, condition or feature, by the name of its column, or as y=VALUE "
        "for a label or condition, and x0=VALUE for feature 0; the table has these columns too",
    )  # fmt: skip
    sub.add_argument(
        "--out", metavar="FILE",
        help=f"the table to write: {_TABLES}; for images a .png, which gets all of them, or a new "
        "folder, with a subfolder for each label; for texts also .txt, and by default the terminal",
    )  # fmt: skip
    _add_seed(sub)
    group = sub.add_argument_group("texts")
    group.add_argument("--prompt", metavar="TEXT", help="draw texts that begin with this one")
    _add_changes(group, "most tokens of a text with its prompt; by default as fitted")

    sub = command(
        generation.generate,
        "generate",
        "Draw any number of events into a folder of files; a run that was stopped goes on.",
    )
    _add_model(sub)
    sub.add_argument(
        "-n", type=_count, metavar="N",
        help="number of events, such as 1e9; by default, with --given-file, that of its rows",
    )  # fmt: skip
    sub.add_argument(
        "--out", type=_folder, required=True, metavar="DIR",
        help="the folder to fill, new or empty, or with a part of the same events",
    )  # fmt: skip
    _add_seed(sub)
    sub.add_argument(
        "--format", choices=FILE_FORMATS, default=FILE_FORMATS[0],
        help="of the files: parquet (default), with named columns, or npy, with plain arrays",
    )  # fmt: skip
    sub.add_argument(
        "--log-prob", action="store_true", help="write the log density of each event too, in nats"
    )
    sub.add_argument(
        "--block-rows", type=_count, metavar="N",
        help="events in a file; by default such that files have 8 MiB or more",
    )  # fmt: skip
    sub.add_argument(
        "--shard", type=_shard, metavar="I/K",
        help="draw part I of K, from 0/K to K-1/K: each process, on any machine, draws one of them "
        "into the same folder",
    )  # fmt: skip
    sub.add_argument(
        "--resume", action="store_true", help="go on with a folder that has a part of the events"
    )
    sub.add_argument(
        "--given", nargs="+", action="extend", default=[], metavar="NAME=VALUE",
        help="draw given a label or conditions, by the name of the column, or as y=VALUE",
    )  # fmt: skip
    sub.add_argument(
        "--given-file", metavar="FILE",
        help=f"draw an event for each row of a table of labels or conditions: {_TABLES}",
    )  # fmt: skip
    sub.add_argument(
        "--plan", action="store_true",
        help="draw nothing: estimate time, bytes and files on 1, 8 and 1,000 machines from a probe "
        "of a few seconds; without -n, of 1e9 and 1e12 events",
    )  # fmt: skip
    _add_changes(sub.add_argument_group("texts"), "most tokens of a text; by default as fitted")

    text = "Compare all files of a folder that generate has filled with their SHA-256."
    sub = command(generation.verify, "verify", text)
    sub.add_argument("directory", type=_folder, metavar="DIR", help="the folder")

    text = (
        "Mean log-likelihood of events or images, with bits per dimension; or bits per character."
    )
    sub = command(commands.score, "score", text)
    _add_model(sub, "DATA")
    _add_label(sub, "column of labels: score p(x|y), not p(x)")
    sub.add_argument("--out", metavar="FILE", help=f"write the log density of each row: {_TABLES}")
    _add_id(sub)
    group = sub.add_argument_group("texts")
    group.add_argument(
        "--train", metavar="DATA",
        help="texts of the fit: compare the model with an n-gram and gzip that have them",
    )  # fmt: skip
    group.add_argument(
        "--per", choices=("text", "token"), metavar="WHAT",
        help="rows of --out: text (default) or token",
    )  # fmt: skip
    group.add_argument(
        "--figure", metavar="FILE", help="draw the texts in colours by the bits of their tokens"
    )

    sub = command(commands.classify, "classify", "Probabilities of labels, p(y|x).")
    _add_model(sub, "DATA")
    _add_label(sub, "column of true labels, to measure accuracy and calibration")
    sub.add_argument(
        "--out", metavar="FILE",
        help=f"write the likeliest label of each row, and the probability of each label: {_TABLES}",
    )  # fmt: skip
    _add_id(sub)
    sub.add_argument("--figure", metavar="FILE", help="draw a reliability diagram; needs --label")

    text = "Fill missing values with draws given the other values of their rows."
    sub = command(commands.impute, "impute", text)
    _add_model(sub, "DATA")
    _add_label(sub, "column of labels, by default the label that the model learnt, if DATA has it")
    sub.add_argument(
        "--out", required=True, metavar="FILE", help=f"write all columns of DATA: {_TABLES}"
    )
    _add_seed(sub)

    text = "Find the rows that are unlikely under a model, and the values to blame."
    sub = command(commands.outliers, "outliers", text)
    _add_model(sub, "DATA")
    _add_label(sub, "column of labels: compare rows with draws from p(x|y)")
    sub.add_argument(
        "--out", metavar="FILE",
        help="write each row's percentile among draws of the model, from 0 to 100, its log "
        "density, and the "
        f"column most to blame: {_TABLES}",
    )  # fmt: skip
    sub.add_argument("-n", type=_count, default=20, metavar="N", help="rows to print; default: 20")
    _add_id(sub)
    sub.add_argument(
        "--samples", type=_count, metavar="N", help="draws to compare a row with; default: 1000"
    )
    _add_seed(sub)

    sub = command(commands.evaluate, "evaluate", "Measure accuracy, generation and representation.")
    _add_model(sub, "DATA")
    _add_label(sub, "column of labels: measure p(x|y), not p(x)")
    sub.add_argument("--train", metavar="DATA", help="the events that the model was fitted to")
    sub.add_argument("--samples", type=_count, metavar="N", help="events to draw")
    sub.add_argument("--json", metavar="FILE", help="write the report as JSON")
    sub.add_argument("--figure", metavar="FILE", help="write the report as a figure")
    _add_seed(sub)

    text = "Show what the latent coordinates of a flow, a VAE or another model with pull mean."
    sub = command(commands.explain, "explain", text)
    _add_model(sub, "DATA")
    _add_label(
        sub,
        "column of labels, or a name for the subfolders of a folder of images: how well the "
        "coordinates predict them; a model without labels takes any",
    )
    sub.add_argument("--figure", metavar="FILE", help="write the report as a figure")
    _add_seed(sub)

    text = "Fit every family to the Earth's land: a table and a figure."
    sub = command(commands.world, "world", text)
    sub.add_argument("--events", type=_count, default=100_000, metavar="N", help="training events")
    sub.add_argument(
        "--quick", action="store_true", help="without the largest mixtures and the flow"
    )
    sub.add_argument("--json", metavar="FILE", help="write the results as JSON")
    sub.add_argument("--figure", default="world.png", metavar="FILE", help="default: world.png")
    _add_seed(sub)
    return parser


def _add_model(sub: argparse.ArgumentParser, data: str | None = None) -> None:
    sub.add_argument("model", metavar="MODEL", help="a model file")
    if data:
        text = "; columns of numbers are matched by name, and others are ignored"
        sub.add_argument("data", metavar=data, help=f"events: {_DATA}{text}")
        _add_reading(sub)
    _add_import(sub)


def _add_changes(group: argparse._ArgumentGroup, length: str) -> None:
    """Add the options that change the distribution of texts."""
    group.add_argument(
        "--temperature", type=float, metavar="T", help="divide the logits of tokens by this number"
    )
    group.add_argument("--top-k", type=_count, metavar="K", help="draw from the K likeliest tokens")
    group.add_argument(
        "--top-p", type=float, metavar="P",
        help="draw from the likeliest tokens whose probabilities reach P",
    )  # fmt: skip
    group.add_argument("--length", type=_count, metavar="N", help=length)


def _add_reading(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--na", action="append", default=[], metavar="TEXTS",
        help="texts and numbers that are missing values, such as '?,999' or --na=-999,?, beside "
        "empty cells, NA, N/A, NaN, None and null",
    )  # fmt: skip
    sub.add_argument(
        "--delimiter", type=_delimiter, metavar="CHARACTER",
        help="character between the cells of a .csv, or 'tab'; by default a comma, or else a "
        "semicolon or tab, whichever is in the first line, and in a .tsv a tab",
    )  # fmt: skip
    sub.add_argument(
        "--text", metavar="COLUMN",
        help="column of texts in a table; after fit, by default the column 'text'",
    )  # fmt: skip
    sub.add_argument(
        "--encoding", type=_encoding, metavar="NAME", help="of text files; default: utf-8"
    )


def _add_import(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--import", nargs="+", action="extend", default=[], dest="modules", metavar="MODULE",
        help="Python modules that define your own models, from the working directory",
    )  # fmt: skip


def _add_id(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--id", metavar="COLUMN", help="column of DATA to copy into the output")


def _add_label(sub: argparse.ArgumentParser, text: str) -> None:
    sub.add_argument("--label", metavar="COLUMN", help=text)


def _add_seed(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--seed", type=_seed, default=0, metavar="S", help="default: 0")


def _delimiter(text: str) -> str:
    character = "\t" if text in ("tab", "\\t") else text
    if len(character) != 1 or character in '"\r\n':
        raise argparse.ArgumentTypeError(f"must be one character or 'tab', got {text!r}")
    return character


def _encoding(text: str) -> str:
    try:
        return codecs.lookup(text).name
    except LookupError:
        raise argparse.ArgumentTypeError(f"unknown encoding {text!r}") from None


def _count(text: str) -> int:
    number = re.fullmatch(r"[0-9]+(\.[0-9]*)?(e\+?[0-9]{1,2})?", text, re.IGNORECASE)
    count = Fraction(text) if number else Fraction(0)
    if count < 1 or count.denominator != 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(count)


def _folder(text: str) -> str:
    if not text:  # else the working directory
        raise argparse.ArgumentTypeError("must be the name of a folder, got ''")
    return text


def _shard(text: str) -> tuple[int, int]:
    """The numbers of a text I/K."""
    both = re.fullmatch("([0-9]{1,18})/([0-9]{1,18})", text)
    if both is None or int(both[1]) >= int(both[2]):
        raise argparse.ArgumentTypeError(
            f"must be I/K, from 0/K to K-1/K, such as 0/4, 1/4, 2/4 and 3/4; got {text!r}"
        )
    return int(both[1]), int(both[2])


def _size(text: str) -> int | tuple[int, int]:
    """A number, or the height and width of an image."""
    both = re.fullmatch("([0-9]+)[xX]([0-9]+)", text)
    try:
        return (_count(both[1]), _count(both[2])) if both else _count(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            "must be a whole number of at least 1, or two as HEIGHTxWIDTH, such as 20x30; got "
            f"{text!r}"
        ) from None


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:  # larger seeds would repeat smaller ones
        raise argparse.ArgumentTypeError(f"must be a whole number below 2**32, got {text!r}")
    return int(text)
