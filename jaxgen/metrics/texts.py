"""The report of a model of texts: bits per character beside baselines, and what draws are like."""

from __future__ import annotations

import dataclasses
import gzip
import math
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from jaxgen.core import inputs
from jaxgen.core.promotion import standard_promotion
from jaxgen.data import output
from jaxgen.data.text import Texts, Vocabulary, sequence_in
from jaxgen.metrics.accuracy import Mean, mean_and_error
from jaxgen.metrics.panels import percent
from jaxgen.metrics.text_bits import (
    TextScores,
    rows_of,
    text_scores,
    tokens_for,
    vocabulary_for,
)
from jaxgen.models import NGram
from jaxgen.training import fit
from jaxgen.training.fitted import Fitted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ORDER = 6  # of the n-grams to compare with
_EXCERPT = 50  # characters of a stream that are searched for in the training text


class Lengths(NamedTuple):
    """The distribution of numbers of characters: its mean, and its quantiles at 5, 50 and 95 %."""

    mean: float
    low: float
    median: float
    high: float


@dataclasses.dataclass(frozen=True)
class TextReport:
    """The results of ``text_report``. ``print(report)`` is a table, ``report.plot()`` a figure.

    A field ``name_se`` is the standard error of ``name``, over texts, and ``name_ref`` the same
    metric with the texts instead of draws. None is a metric that was not asked for, or that does
    not apply.

    The ends of texts cost bits, which are part of all bits per character, and are tokens, but no
    characters. For gzip, texts end in a line feed.

    Attributes:
      model: the spec, as source code.
      texts: number of texts.
      characters: number of their characters.
      tokens: number of their tokens, with a mark of the end for each text that has one.
      bits_per_character: -log2 p(texts) / characters.
      bits_per_token: -log2 p(texts) / tokens; ``2 ** bits_per_token`` is the perplexity.
      gzip: bits per character of the texts compressed by gzip, with its header of 18 bytes.
      gzip_after_train: the same by how much longer the compressed training texts become if the
        texts follow them. gzip remembers the last 32 KiB alone.
      ngram: bits per character of an ``NGram`` of order 6 without conditions, with the vocabulary
        of the model, fitted to the training texts.
      draws: number of draws.
      excerpt: characters in an excerpt of a stream, 50 or fewer; None for texts that end.
      copies: share of draws that are equal to a training text; of a stream, share of excerpts that
        are part of the training text.
      distinct: number of different draws as a share of all, or of as many draws as there are texts,
        if these are fewer. Its reference is that of as many texts. Of a stream, that of excerpts.
      lengths: the distribution of numbers of characters of draws; None for a stream.
      accuracy: share of texts whose likeliest label by Bayes' rule is their label. Its reference is
        the share of the most frequent label.
      scores: the bits of each token, and the most surprising places, as a ``TextScores``.

    >>> names = jaxgen.fit(jaxgen.models.NGram(), ["anna", "bob", "hannah"], key=key)
    >>> report = jaxgen.metrics.text_report(names, ["ann"])
    >>> report.texts, report.characters, report.tokens
    (1, 3, 4)
    """

    model: str
    texts: int
    characters: int
    tokens: int
    bits_per_character: float
    bits_per_character_se: float
    bits_per_token: float
    bits_per_token_se: float
    gzip: float
    scores: TextScores = dataclasses.field(repr=False, compare=False)
    gzip_after_train: float | None = None
    ngram: float | None = None
    ngram_se: float | None = None
    draws: int | None = None
    excerpt: int | None = None
    copies: float | None = None
    copies_ref: float | None = None
    distinct: float | None = None
    distinct_ref: float | None = None
    lengths: Lengths | None = None
    lengths_ref: Lengths | None = None
    accuracy: float | None = None
    accuracy_se: float | None = None
    accuracy_ref: float | None = None

    @property
    def nats_per_character(self) -> float:
        """-log p(texts) / characters."""
        return self.bits_per_character * math.log(2)

    @property
    def perplexity(self) -> float:
        """exp(-log p(texts) / tokens), from 1 for texts that are certain."""
        return float(np.exp2(self.bits_per_token))

    def to_dict(self) -> dict[str, Any]:
        """The report as a dict of numbers and strings, without the scores, for JSON.

        JSON has no NaN and no infinity: such a metric is None, and ``notes`` has its value.
        """
        fields = [field.name for field in dataclasses.fields(self) if field.name != "scores"]
        record = {name: getattr(self, name) for name in fields}
        record |= {name: getattr(self, name) for name in ("nats_per_character", "perplexity")}
        for name in ("lengths", "lengths_ref"):
            if record[name] is not None:
                record[name] = record[name]._asdict()
        plain, notes = output.finite(record)
        return plain | {"notes": notes}

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """The first texts as a figure that shows the bits of each token: see ``TextScores.plot``.

        >>> names = jaxgen.fit(jaxgen.models.NGram(), ["anna", "bob", "hannah"], key=key)
        >>> figure = text_report(names, ["ann", "bo"]).plot("texts.png")
        """
        return self.scores.plot(path)

    def __str__(self) -> str:
        model = self.model if len(self.model) <= 100 else self.model[:97] + "..."
        ends = int(sum(pieces[-1:] == [""] for pieces in self.scores.pieces))
        tokens = f"{self.tokens:,} tokens" + (f" ({ends:,} of them ends of texts)" if ends else "")
        texts = f"{self.texts:,} text{'s' if self.texts > 1 else ''}"
        lines = [model, f"{texts}, {self.characters:,} characters, {tokens}", ""]
        unit = f"bits per character{', ends included' if ends else ''}"
        table = [["", unit]]
        nats = f"  ({self.nats_per_character:.4g} nats)"
        table.append(["model", _number(self.bits_per_character, self.bits_per_character_se) + nats])
        if self.ngram is not None:
            table.append([f"n-gram of order {_ORDER}", _number(self.ngram, self.ngram_se)])
        if self.gzip_after_train is not None:
            table.append(["gzip after training texts", _number(self.gzip_after_train)])
        table.append(["gzip", _number(self.gzip)])
        table.append(["", ""])
        table.append(["bits per token", _number(self.bits_per_token, self.bits_per_token_se)])
        table.append(["perplexity per token", _number(self.perplexity)])
        if self.accuracy is not None:
            share = percent(self.accuracy)
            if self.accuracy_se is not None and not math.isnan(self.accuracy_se):
                share += f" ± {percent(self.accuracy_se)}"
            share += f"  (most frequent label: {percent(self.accuracy_ref or 0.0)})"
            table.append(["accuracy of labels", share])
        lines += _aligned(table)
        if self.draws is not None:
            lines += ["", *_aligned(self._table_of_draws())]
        return "\n".join(lines)

    __repr__ = __str__

    def _table_of_draws(self) -> list[list[str]]:
        table = [[f"{self.draws:,} draws", "draws", "texts"]]
        labels = {"copies": "copies of training texts", "distinct": "different from each other"}
        for name, label in labels.items():
            share, reference = getattr(self, name), getattr(self, f"{name}_ref")
            if share is not None:
                table.append([label, percent(share), percent(reference)])
        if self.excerpt is not None:
            table[0][0] += f", in excerpts of {self.excerpt} characters"
            table[1:] = [[row[0].replace("copies", "parts"), *row[1:]] for row in table[1:]]
        elif self.lengths_ref is not None:
            names = "characters, mean", *(f"  {q} % have at most" for q in (5, 50, 95))
            for label, *pair in zip(names, self.lengths or (), self.lengths_ref, strict=True):
                table.append([label, *(f"{value:.4g}" for value in pair)])
        return table


@standard_promotion
def text_report(
    fitted: Fitted,
    texts: Any,
    y: Any = None,
    *,
    train: Any = None,
    key: jax.Array | None = None,
    n: int = 1000,
) -> TextReport:
    """Measure a model of texts: bits per character beside baselines, and draws beside the texts.

    The standard error of a ratio of sums over texts, such as bits per character, is that of the
    linearised ratio; it is NaN for one text.

    Args:
      fitted: a ``Fitted`` model of sequences.
      texts: held-out texts, as in ``text_scores``: a list or a column, Texts, or one str for a
        model of a stream.
      y: conditions (n, *y_shape), or labels, as in ``text_scores``. Draws have the conditions of
        the texts in turn; without labels, they are from p(x).
      train: the texts that the model was fitted to, for the baselines that learn from them and for
        the share of copies. Several training texts of a stream count as one.
      key: a typed PRNG key, for the draws; None draws nothing.
      n: number of draws. A draw of a stream has the length of a window that is scored at once.

    Returns:
      A ``TextReport``.

    Raises:
      TypeError, ValueError: as in ``text_scores``; or train, key or n has the wrong type or range.

    Sources: Cover and Thomas 2006, "Elements of information theory", section 13 (universal codes as
    baselines); Cochran 1977, "Sampling techniques", section 6.4 (ratios).

    >>> names = jaxgen.datasets.first_names()
    >>> train, test = names[::20], names[1::50]
    >>> names = jaxgen.fit(jaxgen.models.NGram(), train, key=key)
    >>> report = text_report(names, test, train=train, key=key, n=100)
    >>> report.bits_per_character < report.gzip
    True
    """
    n = inputs.as_count(n, "n", 2)
    key = None if key is None else inputs.as_key(key)
    vocabulary = vocabulary_for(fitted, texts)
    if sequence_in(fitted.model).prompt:
        raise ValueError(f"fitted must have no prompt for a report, got {fitted.model}")
    scores = text_scores(fitted, texts, y)
    ends = sequence_in(fitted.model).stop
    bits, characters = scores.total_bits, scores.characters
    per_character, per_token = _ratio(bits, characters), _ratio(bits, scores.tokens)
    found: dict[str, Any] = {}
    lines = None
    if train is not None:
        lines, tokens, sizes = tokens_for(fitted, train, vocabulary, "train")
        length = fitted.model.event_shape[0]
        # training texts of a stream are one event
        rows = rows_of(tokens, sizes, length, vocabulary.size) if ends else tokens[None]
        known = Texts(rows, vocabulary, ends)
        ngram = fit(
            NGram(known.length, vocabulary.size, _ORDER, ends), known, key=jax.random.key(0)
        )
        compared = text_scores(ngram, texts)
        found |= dict(
            zip(("ngram", "ngram_se"), _ratio(compared.total_bits, characters), strict=True)
        )
        both = _compressed(lines + scores.texts, ends) - _compressed(lines, ends)
        found["gzip_after_train"] = both / characters.sum()
    conditions = fitted.conditions_of(y)
    if conditions is not None:
        shape = len(scores.texts), *(fitted.model.y_shape or ())
        conditions = np.broadcast_to(np.asarray(conditions), shape)
    if ends and conditions is not None and fitted.model.classes is not None:
        found |= _accuracy(fitted, texts, conditions)
    if key is not None:
        found |= _draws(fitted, vocabulary, scores.texts, conditions, lines, key, n)
    return TextReport(
        scores.model, len(scores.texts), int(characters.sum()), int(scores.tokens.sum()),
        *per_character, *per_token, _compressed(scores.texts, ends) / int(characters.sum()),
        scores, **found,
    )  # fmt: skip


def _ratio(values: np.ndarray, sizes: np.ndarray) -> Mean:
    """The sum of values (n,) over the sum of sizes (n,), and its standard error."""
    n, ratio = len(values), float(values.sum() / sizes.sum())
    if n == 1 or not math.isfinite(ratio):
        return Mean(ratio, math.nan)
    squares = float(((values - ratio * sizes) ** 2).sum())
    return Mean(ratio, math.sqrt(n / (n - 1) * squares) / float(sizes.sum()))


def _compressed(strings: list[str], ends: bool) -> int:
    """Bits of texts by gzip, each with a line feed if it has an end."""
    end = "\n" if ends else ""
    raw = "".join(text + end for text in strings).encode("utf-8", "surrogatepass")
    return 8 * len(gzip.compress(raw, mtime=0))


def _accuracy(fitted: Fitted, texts: Any, labels: np.ndarray) -> dict[str, float]:
    log_p = np.asarray(fitted.classify(texts))
    # where p(x) is 0 no label has a probability
    right = (log_p.argmax(1) == labels) & ~np.isnan(log_p).any(1)
    found = mean_and_error(right)
    most = float(np.bincount(labels.astype(int)).max() / len(labels))
    return {"accuracy": found.value, "accuracy_se": found.se, "accuracy_ref": most}


def _draws(
    fitted: Fitted,
    vocabulary: Vocabulary,
    texts: list[str],
    y: Any,
    train: list[str] | None,
    key: jax.Array,
    n: int,
) -> dict[str, Any]:
    """The metrics of n draws, with conditions y (texts, *y_shape) in turn, or None."""
    sequence = sequence_in(fitted.model)
    fitted = Fitted(fitted.model, fitted.params, vocabulary=vocabulary)  # labels are numbers
    sample_key, choice_key = jax.random.split(key)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(choice_key)))
    if not sequence.stop:
        fitted = fitted.replace(length=sequence.stream_windows[0])
    y = None if y is None else y[rng.permutation(len(y))[np.arange(n) % len(y)]]
    drawn = fitted.sample(sample_key, n, y)
    found: dict[str, Any] = {"draws": n}
    if sequence.stop:
        known: Any = None if train is None else set(train)
        found |= {"lengths": _lengths(drawn), "lengths_ref": _lengths(texts)}
    else:
        known = None if train is None else "".join(train)
        size = min(_EXCERPT, *map(len, drawn), max(map(len, texts)))
        drawn, texts = _excerpts(drawn, size), _excerpts(texts, size)
        drawn, texts = (
            [side[i] for i in rng.permutation(len(side))[:n]] for side in (drawn, texts)
        )
        found["excerpt"] = size
    if known is not None:
        for name, side in (("copies", drawn), ("copies_ref", texts)):
            found[name] = float(np.mean([text in known for text in side]))
    count = min(len(drawn), len(texts))
    some = [texts[i] for i in rng.permutation(len(texts))[:count]]
    found["distinct"] = len(set(drawn[:count])) / count
    found["distinct_ref"] = len(set(some)) / count
    return found


def _excerpts(texts: list[str], size: int) -> list[str]:
    """The texts in parts of ``size`` characters, without what is left of each."""
    return [text[i : i + size] for text in texts for i in range(0, len(text) - size + 1, size)]


def _lengths(texts: list[str]) -> Lengths:
    counts = [len(text) for text in texts]
    return Lengths(
        float(np.mean(counts)),
        *np.quantile(counts, (0.05, 0.5, 0.95), method="inverted_cdf").tolist(),
    )


def _number(value: float, error: float | None = None) -> str:
    shown = f"{value:.4g}"
    return shown if error is None or math.isnan(error) else f"{shown} ± {error:.2g}"


def _aligned(table: list[list[str]]) -> list[str]:
    """The lines of a table whose first column is on the left."""
    width = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    if len(width) == 2:
        return [f"{label:<{width[0]}}  {value}".rstrip() for label, value in table]
    return [
        "  ".join(
            [
                f"{row[0]:<{width[0]}}",
                *(f"{cell:>{w}}" for cell, w in zip(row[1:], width[1:], strict=True)),
            ]
        )
        for row in table
    ]
