"""Texts on the command line: how they are read, and the commands on models of texts."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgen import metrics, training
from jaxgen.cli import events, families
from jaxgen.core import dataframes, places
from jaxgen.core.model import Model
from jaxgen.data import output, tables
from jaxgen.data.tables.records import check_known
from jaxgen.data.text import (
    KINDS,
    Texts,
    Vocabulary,
    read_texts,
    sequence_in,
    text_places,
    tokenize,
)
from jaxgen.data.text.vocabulary import learn_vocabulary
from jaxgen.training.fitted import Fitted

_COLUMN = "text"  # the column of texts in a table, by default
_HELD_OUT = 0.1  # share of texts that are held out, by default
_WINDOW, _DRAWN = 64, 1000  # tokens of a window, and of a text of a model without windows
_LONGEST = 10_000  # most tokens of a line without --length
_CHANGES = ("temperature", "top_k", "top_p")  # options that change the distribution of draws
# the options of texts that the commands have; those of models of numbers are other ones
_FOR_TEXTS = ("text", "encoding", "stream", "by", "size", "length", "step", "prompt", *_CHANGES)
_FOR_NUMBERS = ("columns", "ignore", "domain")


@dataclasses.dataclass(frozen=True)
class Source:
    """The texts of a file, a folder, or a column of a table, without those that are missing.

    Attributes:
      path: the file or folder.
      args: the options of the command.
      whole: whether a text is a whole file, and not a line.
      texts: the texts.
      labels: their labels, or None.
      rows: the number of each text in the source, where those that are missing count too.
      count: the number of all of them.
    """

    path: str
    args: Namespace
    whole: bool
    texts: list[str]
    labels: list[Any] | None
    rows: np.ndarray
    count: int

    @property
    def left_out(self) -> list[str]:
        """Sentences about rows that were left out."""
        what = "a text" if self.labels is None else "a text and a label"
        missing = self.count - len(self.texts)
        return [f"{missing:,} rows without {what} were left out"] if missing else []

    def names(self) -> places.Names:
        """A context whose errors have the names of lines, files or rows, for numbers of texts."""
        return places.Names(row=lambda i: self._name(int(self.rows[i])))

    def ids(self) -> dict[str, Any]:
        """The columns that identify all texts of the source in an output."""
        if tables.is_table(self.path):
            return events.ids(self.args, self.count)
        files, lines = zip(*self._places, strict=True)
        columns: dict[str, Any] = {}
        if os.path.isdir(self.path):
            columns["file"] = [os.path.relpath(file, self.path) for file in files]
        if not self.whole:
            columns["line"] = np.array(lines)
        return columns or {"row": np.arange(self.count)}

    def spread(self, values: Any, missing: Any) -> np.ndarray:
        """Values (n, ...) of the texts as those of all rows, with another value where missing."""
        values = np.asarray(values)
        found = np.full((self.count, *values.shape[1:]), missing, values.dtype)
        found[self.rows] = values
        return found

    @functools.cached_property
    def _places(self) -> list[tuple[Path, int]]:
        return text_places(self.path, lines=not self.whole, encoding=_encoding(self.args))

    def _name(self, row: int) -> str:
        if tables.is_table(self.path):
            return tables.row_name(self.path, row, events.reading(self.args))
        file, line = self._places[row]
        name = f"{file}" if self.whole else f"line {line:,}"
        return f"{name} of {file}" if os.path.isdir(self.path) and not self.whole else name


def are_texts(args: Namespace, cls: type[Model], fields: dict[str, Any]) -> bool:
    """Whether the data of ``fit`` are texts: a column of a table, a folder, or no table.

    Raises:
      ValueError: they are a table, and the model is one of texts.
    """
    if args.text is not None or not tables.is_table(args.data):
        return True
    if _takes_texts(cls) and "vocabulary" not in fields:
        raise ValueError(
            f"{cls.__name__} learns from texts: use --text COLUMN for those in {args.data}, or "
            "--set vocabulary=N if it holds tokens 0 .. N - 1"
        )
    return False


def check_numbers(args: Namespace, what: str, *more: str) -> None:
    """Raise if an option of texts, or one of more, is given for data or a model of numbers."""
    for name in (*_FOR_TEXTS, *more):
        if getattr(args, name, None) is not None:
            raise ValueError(f"{_option(name)} is for texts, but {what}")


def check_output(path: str | None, others: list[str | None]) -> None:
    """Raise if draws cannot be written to a path: None and "-" are the standard output."""
    if path is None or path == "-":
        return
    if Path(path).suffix.lower() == ".txt":
        output.writable(path, others)
    else:
        tables.check_output(path, others)


def read(
    args: Namespace, path: str, label: str | None, whole: bool, missing_labels: bool = False
) -> Source:
    """The texts of a file, a folder or a column of a table, and their labels.

    Args:
      args: the options --text, --encoding, --na and --delimiter.
      path: the file or folder.
      label: a column of labels, or any name for the labels of a folder; None for no labels.
      whole: whether a text is a whole file, and not a line.
      missing_labels: whether labels may be missing in a table, which are then None.

    Raises:
      ValueError, TypeError, OSError: the source does not suit, or no row has a text and a label.
    """
    if tables.is_table(path):
        return _read_table(args, path, label, whole, missing_labels)
    if args.text is not None:
        raise ValueError(f"{path}: --text is for a column of a table, and this holds texts")
    if getattr(args, "id", None) is not None:
        raise ValueError(f"{path}: --id is for a column of a table, and this holds texts")
    if label is not None and not os.path.isdir(path):
        raise ValueError(
            f"{path}: --label needs a folder, whose subfolders or files are the labels, or a table "
            "with --text COLUMN"
        )
    found = read_texts(path, lines=not whole, labels=label is not None, encoding=_encoding(args))
    texts, labels = found if label is not None else (found, None)
    texts = [texts] if isinstance(texts, str) else texts
    return Source(path, args, whole, texts, labels, np.arange(len(texts)), len(texts))


def _read_table(
    args: Namespace, path: str, label: str | None, whole: bool, missing_labels: bool
) -> Source:
    reading = events.reading(args)
    held, column = tables.cells(path, reading), args.text or _COLUMN
    if held is None:
        raise ValueError(f"{path}: its columns have no names, so none holds texts")
    if args.text is None and column not in held:
        listed = ", ".join(map(repr, held))
        raise ValueError(f"{path}: no column {column!r}; use --text with one of {listed}")
    check_known(Path(path), list(held), [column, label])
    texts = [_cell(cell, reading.na) for cell in held[column].tolist()]
    known = [text is not None for text in texts]
    labels = None
    if label is not None:
        labels = [_cell(cell, reading.na) for cell in held[label].tolist()]
        if not missing_labels:
            known = [k and name is not None for k, name in zip(known, labels, strict=True)]
    rows = np.flatnonzero(known)
    if not len(rows):
        also = "" if label is None or missing_labels else f" and a label in {label!r}"
        raise ValueError(f"{path}: no row has a text in {column!r}{also}")
    for row in rows:
        if not isinstance(texts[row], str):
            where = tables.row_name(path, int(row), reading)
            raise TypeError(
                f"{path}: column {column!r} must hold texts, but {where} holds {texts[row]!r}"
            )
    labels = None if labels is None else [labels[row] for row in rows]
    return Source(path, args, whole, [texts[row] for row in rows], labels, rows, len(texts))


def _cell(cell: Any, missing: tuple[str, ...]) -> Any:
    """A text or a label; None if it is missing."""
    if isinstance(cell, str):
        return None if not cell.strip() or cell in missing else cell
    if dataframes.is_missing(cell):
        return None
    return int(cell) if isinstance(cell, float) and cell.is_integer() else cell


def fit(args: Namespace, cls: type[Model], fields: dict[str, Any]) -> None:
    """Fit a model to texts and save it."""
    _check_fit(args, cls, fields)
    source = read(args, args.data, args.label, bool(args.stream))
    if source.labels is not None and len(set(source.labels)) == 1:
        raise ValueError(f"{args.data}: {args.label!r} has the same label for all texts")
    share = _HELD_OUT if args.validation is None else args.validation
    with source.names():
        vocabulary = learn_vocabulary(source.texts, args.by or KINDS[0], args.size)
    build = functools.partial(_model, args, cls, fields)
    if args.stream:
        whole, train, held_out = _streams(args, source, vocabulary, share, build)
        names = places.Names(row=lambda window: f"window {window}")
    else:
        with source.names():
            whole, train, held_out = _lines(args, source, vocabulary, share)
        names = source.names()
    with names:
        fitted, bits = _fitted(args, build, whole, train, held_out)
    if args.stream and fitted.model.learning.method != "gradient":
        fitted = fitted.replace(length=args.length or _DRAWN)
    fitted.y_columns = None if args.label is None else (args.label,)
    fitted.save(args.out)
    _, lengths = vocabulary.encode_all(source.texts)
    kind = f"{lengths.sum():,} {vocabulary.kind}, {vocabulary.size:,} different ones"
    count = len(source.texts)
    print(f"{fitted} of {count:,} text{'s' if count > 1 else ''}, in {args.out}")
    print(f"tokens          {kind}")
    if held_out is not None:
        count = sum(map(len, held_out.texts))
        print(f"bits/character  {bits:.4g} of {count:,} held-out characters")
    for sentence in source.left_out:
        print(sentence)


def sample(args: Namespace, fitted: Fitted) -> None:
    """Draw texts from a model, and print or write them."""
    y, _ = events.given(fitted, args.given)
    part, prompt = changed(args, fitted), args.prompt or ""
    if prompt:
        _check_prompt(part, prompt)
        part = part.given(prompt)
    printed = args.out in (None, "-")
    is_table = not printed and tables.is_table(args.out)
    if is_table:
        tables.check_output(args.out, [args.model], {_COLUMN: np.empty(0, object)})
    labelled = part.model.classes is not None
    drawn = part.sample(jax.random.key(args.seed), args.n, y, with_labels=labelled)
    drawn, y = drawn if labelled else (drawn, y)
    texts = [prompt + text for text in drawn]
    if is_table:
        if y is not None:
            y = np.broadcast_to(y, (args.n, *np.shape(y)[1 if labelled else 0 :]))
        tables.write(args.out, fitted.named_columns(texts, y))
    else:
        joined = _as_text(texts, is_stream(fitted))
        if printed:
            print(joined, end="")
        else:
            with output.write_atomically(args.out) as file:
                file.write(joined.encode())
    if not printed:
        print(f"{args.n:,} texts, in {args.out}")
    print_changes(args)


def score(args: Namespace, fitted: Fitted) -> None:
    """Print bits per character of texts beside baselines, and write those of each text or token."""
    if args.per is not None and args.out is None:
        raise ValueError("--per needs --out, the file whose rows it sets")
    source, report = _report(args, fitted, None)
    scores = report.scores
    if args.out is not None and args.per == "token":
        columns = scores.columns()
        rows = source.rows[columns.pop("text")]
        ids = {name: np.asarray(column)[rows] for name, column in source.ids().items()}
        bits = columns["bits"] = columns["bits"].astype(np.float32)
        events.write_columns(args.out, ids, columns, bits)
    elif args.out is not None:
        text = {}
        if not is_stream(fitted):
            text = {_COLUMN: source.spread(np.array(scores.texts, object), None)}
        measures = {
            "log_prob": -np.log(2) * scores.total_bits,
            "bits_per_character": scores.bits_per_character,
        }
        found = {name: np.ma.masked_all(source.count, np.float32) for name in measures}
        for name, values in measures.items():
            found[name][source.rows] = values
        numbers = np.ma.stack(list(found.values()), 1)
        events.write_columns(args.out, source.ids(), {**text, **found}, numbers)
    if args.figure is not None:
        scores.plot(args.figure, rows=None if is_stream(fitted) else scores.worst())


def evaluate(args: Namespace, fitted: Fitted) -> None:
    """Print the report of texts and of draws, and write it as JSON or a figure."""
    _, report = _report(args, fitted, jax.random.key(args.seed))
    if args.json is not None:
        output.write_json(args.json, report.to_dict())
    if args.figure is not None:
        report.plot(args.figure)


def classify(
    args: Namespace, fitted: Fitted
) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any], places.Names]:
    """log p(y|x) of all texts of the data, (n, classes), NaN where a text is missing.

    Returns:
      The array; labels (n,), where one may be None, or None without --label; the columns that
      identify the texts; and a context whose errors have their names.
    """
    source = read_for(args, fitted, args.data, args.label, missing_labels=True)
    with source.names():
        if is_stream(fitted):
            each = [
                metrics.text_scores(fitted, source.texts, label).total_bits
                for label in events.label_names(fitted)
            ]
            log_p = -np.log(2) * np.stack(each, 1)
            log_p = log_p + np.asarray(fitted.model.log_prior(fitted.params), np.float64)
            log_p = log_p - np.logaddexp.reduce(log_p, axis=1, keepdims=True)
        else:
            log_p = events.in_chunks(
                len(source.texts), "classify", lambda _, rows: fitted.classify(source.texts[rows])
            )
    y = None
    if source.labels is not None:
        y = np.full(source.count, None)
        y[source.rows] = source.labels
    names = dataclasses.replace(source, rows=np.arange(source.count)).names()
    return source.spread(np.asarray(log_p, np.float32), np.nan), y, source.ids(), names


def _report(args: Namespace, fitted: Fitted, key: jax.Array | None) -> tuple[Source, Any]:
    """The texts of the data and their report, which is printed; with a key also of draws."""
    source = read_for(args, fitted, args.data, args.label)
    sources = [source]
    if args.train is not None:
        sources.append(read_for(args, fitted, args.train, None))
    options = {"n": args.samples} if getattr(args, "samples", None) is not None else {}
    with source.names():
        report = metrics.text_report(
            fitted, source.texts, source.labels, key=key, **options,
            train=None if args.train is None else sources[1].texts,
        )  # fmt: skip
    print(report)
    for one in sources:
        for sentence in one.left_out:
            print(f"{one.path}: {sentence}")
    return source, report


def is_stream(fitted: Fitted) -> bool:
    """Whether texts of a model of texts are streams, and not lines."""
    return not sequence_in(fitted.model).stop


def read_for(
    args: Namespace, fitted: Fitted, path: str, label: str | None, missing_labels: bool = False
) -> Source:
    """The texts of a file for a model, lines or whole files, and the model's labels of them.

    missing_labels: whether labels may be missing in a table, which are then None.

    Raises:
      ValueError, TypeError, OSError: as in ``read``, or a character or a label is unknown.
    """
    source = read(args, path, label, is_stream(fitted), missing_labels)
    assert fitted.vocabulary is not None
    with source.names():
        fitted.vocabulary.encode_all(source.texts, path)  # raises if a character is unknown
        if source.labels is None:
            return source
        labels = events.labels_of_texts(fitted, source.labels).tolist()
    return dataclasses.replace(source, labels=labels)


class _Part(NamedTuple):
    """Texts to learn from, or to measure with.

    Attributes:
      texts, labels: the texts, and their labels or None.
      events, y: the events of a model: each text, or windows of it; and their labels or None.
      rows: the number of each event among those of all texts.
    """

    texts: list[str]
    labels: list[Any] | None
    events: Texts
    y: list[Any] | None
    rows: np.ndarray


_Parts = tuple[_Part, _Part, _Part | None]  # all, those to learn from, those held out if any


def _lines(args: Namespace, source: Source, vocabulary: Vocabulary, share: float) -> _Parts:
    """Texts each of which is an event."""
    texts, labels = source.texts, source.labels
    longest = max(range(len(texts)), key=lambda i: len(texts[i]))
    if args.length is None and len(texts[longest]) > _LONGEST:
        raise ValueError(
            places.Message(
                places.row(longest), f" has {len(texts[longest]):,} characters, and a line is an "
                "event: use --stream if this is prose, else --length to allow such long lines",
            )
        )  # fmt: skip
    made = tokenize(texts, vocabulary=vocabulary, length=args.length)

    def part(rows: np.ndarray) -> _Part:
        y = None if labels is None else [labels[i] for i in rows]
        return _Part([texts[i] for i in rows], y, made[rows], y, rows)

    order = np.random.default_rng(args.seed).permutation(len(texts))
    count = round(share * len(texts))
    held_out = part(np.sort(order[:count])) if count else None
    return part(np.arange(len(texts))), part(np.sort(order[count:])), held_out


def _streams(
    args: Namespace, source: Source, vocabulary: Vocabulary, share: float, build: Any
) -> _Parts:
    """Windows of one long text, or of one for each label; the ends of the texts are held out.

    Texts without labels are one event for a model that is not fitted by gradients.
    """
    joined = _joined(source)
    labels = None if source.labels is None else list(joined)
    texts = list(joined.values())
    counts = vocabulary.encode_all(texts)[1].tolist()
    nothing = Texts(np.zeros((len(texts), 2), int), vocabulary, stop=False)
    by_gradients = build(nothing, labels).learning.method == "gradient"
    as_one = not by_gradients and labels is None
    most = sys.maxsize if as_one else min(counts)
    if args.length is not None and args.length > most:
        of_label = "" if labels is None else f" of {labels[counts.index(most)]!r}"
        raise ValueError(
            f"--length must be at most {most:,}, the tokens{of_label}; got {args.length}"
        )
    length = args.length or min(_WINDOW if by_gradients else _DRAWN, most)

    def part(texts: list[str]) -> _Part | None:
        """None if a text has no window of the length."""
        if not all(texts):
            return None
        made = [
            tokenize(
                text, vocabulary=vocabulary, length=4 * len(text) if as_one else length,
                step=args.step,
            )
            for text in texts
        ]  # fmt: skip
        if not as_one and min(one.length for one in made) < length:
            return None
        y = None
        if labels is not None:
            y = [label for label, one in zip(labels, made, strict=True) for _ in range(len(one))]
        tokens = np.concatenate([one.tokens for one in made])
        events = dataclasses.replace(made[0], tokens=tokens)
        return _Part(texts, labels, events, y, np.arange(len(tokens)))

    cuts = [round((1 - share) * len(text)) for text in texts]
    whole = part(texts)
    train = part([text[:cut] for text, cut in zip(texts, cuts, strict=True)])
    ends = [text[cut:] for text, cut in zip(texts, cuts, strict=True)]
    held_out = part(ends)
    if held_out is None and all(ends) and not by_gradients:  # which are measured as they are
        held_out = _Part(ends, labels, nothing, labels, np.arange(len(ends)))
    assert whole is not None
    if train is None or held_out is None:
        return whole, whole, None
    return whole, train, held_out


def _joined(source: Source) -> dict[Any, str]:
    """The texts of each label, or all texts for None, one after another with ends of lines."""
    parts: dict[Any, list[str]] = {}
    for i, text in enumerate(source.texts):
        parts.setdefault(None if source.labels is None else source.labels[i], []).append(text)
    joined = {}
    for label, texts in parts.items():
        ended = [text if text.endswith("\n") else f"{text}\n" for text in texts[:-1]]
        joined[label] = "".join([*ended, texts[-1]])
    return joined


def _model(
    args: Namespace, cls: type[Model], fields: dict[str, Any], events: Texts, y: list[Any] | None
) -> Model:
    labels = None if y is None else np.array(y, object)
    return families.build(
        cls, {**fields, **events.fields}, events.tokens, labels, None, args.domain
    )


def _fitted(
    args: Namespace, build: Any, whole: _Part, train: _Part, held_out: _Part | None
) -> tuple[Fitted, float]:
    """The fitted model, and the bits per character of the held-out texts, NaN if there are none.

    A model that is not fitted by gradients learns from all texts, once it has been measured by a
    fit without those that are held out.
    """
    names = ("epochs", "batch_size", "restarts", "patience")
    options = {k: getattr(args, k) for k in names if getattr(args, k) is not None}

    def learn(part: _Part, **more: Any) -> Fitted:
        model = build(part.events, part.y)
        key = jax.random.key(args.seed)
        with places.Names.of_rows(part.rows):
            return training.fit(model, part.events, part.y, key=key, **options, **more)

    def bits(fitted: Fitted) -> float:
        if held_out is None:
            return math.nan
        scores = metrics.text_scores(fitted, held_out.texts, held_out.labels)
        return float(scores.total_bits.sum() / scores.characters.sum())

    if build(train.events, train.y).learning.method == "gradient":
        kept: Any = 0
        if held_out is not None:
            kept = held_out.events if held_out.y is None else (held_out.events, held_out.y)
        fitted = learn(train, validation=kept)
        return fitted, bits(fitted)
    found = math.nan if held_out is None else bits(learn(train))
    return learn(whole), found


def _check_fit(args: Namespace, cls: type[Model], fields: dict[str, Any]) -> None:
    """Raise if the class or an option does not suit texts."""
    if not _takes_texts(cls):
        what = "--text needs a model of texts"
        if args.text is None:
            what = f"{args.data} must be a table, whose ending must be one of {tables.endings()}"
            what += ", or the model must be one of texts"
        others = families.models_with("vocabulary")
        raise ValueError(f"{what}, such as {others}; {cls.__name__} learns from numbers")
    for name in _FOR_NUMBERS:
        if getattr(args, name):
            raise ValueError(f"{_option(name)} is for tables of numbers, not for texts")
    instead = {"length": "use --length", "stop": "use --stream", "prompt": "use sample --prompt"}
    instead["vocabulary"] = "it follows from the texts"
    for name in fields:
        if name in instead:
            raise ValueError(f"--set {name} is not for texts: {instead[name]}")
    if args.step is not None and not args.stream:
        raise ValueError("--step needs --stream: it is for windows of one long text")
    if args.validation is not None and not 0 <= args.validation < 1:
        raise ValueError(f"--validation must be at least 0 and less than 1, got {args.validation}")


def _takes_texts(cls: type[Model]) -> bool:
    """Whether models of the class have the fields that follow from texts."""
    return {"length", "vocabulary", "stop"} <= {field.name for field in dataclasses.fields(cls)}


def _changes(args: Namespace) -> dict[str, Any]:
    """The options that change the distribution of draws."""
    return {name: getattr(args, name) for name in _CHANGES if getattr(args, name) is not None}


def print_changes(args: Namespace) -> None:
    """Print on standard error the given options that change the distribution of draws."""
    changes = [f"{_option(name)} {value}" for name, value in _changes(args).items()]
    if changes:
        what = "the draws follow another distribution than the one that score measures"
        print(f"jaxgen: {what}: {', '.join(changes)}", file=sys.stderr)


def changed(args: Namespace, fitted: Fitted) -> Fitted:
    """The model with the options that change the draws of texts."""
    sequence = sequence_in(fitted.model)
    known = {field.name for field in dataclasses.fields(sequence)}
    changes = _changes(args)
    for name in changes:
        if name not in known:
            raise ValueError(
                f"{_option(name)} does not apply to {type(sequence).__name__}; models that take "
                f"it: {families.models_with(name)}"
            )
    if args.length is not None:
        changes["length"] = args.length
        if "window" in known and args.length > sequence.length:
            changes["window"] = sequence.window or sequence.length
    return fitted.replace(**changes) if changes else fitted


def _check_prompt(fitted: Fitted, prompt: str) -> None:
    """Raise if texts of the model cannot begin with a prompt."""
    assert fitted.vocabulary is not None
    tokens, _ = fitted.vocabulary.encode_all([prompt], "--prompt", rows=False)
    (length,) = fitted.model.event_shape
    if len(tokens) >= length:
        raise ValueError(
            f"--prompt must have at most {length - 1:,} tokens, as a text has at most {length:,}; "
            f"got {len(tokens):,}: use --length N for longer texts"
        )


def _as_text(texts: list[str], stream: bool) -> str:
    """Texts as a text file: one in each line, or with blank lines between streams.

    Ends of lines within a line, which bytes may be, are written as a backslash and a letter.
    """
    if stream:
        return "\n\n".join(texts) + "\n"
    return "".join(text.replace("\r", "\\r").replace("\n", "\\n") + "\n" for text in texts)


def _encoding(args: Namespace) -> str:
    return args.encoding or "utf-8"


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
