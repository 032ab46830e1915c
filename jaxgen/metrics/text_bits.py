"""The bits that each token of texts costs under a model of sequences, and the surprising places."""

from __future__ import annotations

import codecs
import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxgen.core import inputs
from jaxgen.core.promotion import standard_promotion
from jaxgen.data import output
from jaxgen.data.text import Texts, Vocabulary, holds_texts, sequence_in, strings_of, tokens_of
from jaxgen.data.text.byte_pairs import byte_strings
from jaxgen.metrics.text_figure import draw_texts
from jaxgen.training.fitted import Fitted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BEFORE = 40  # most characters that are shown before a surprising place
_LINES = 10  # surprising places in the printed table


class Surprise(NamedTuple):
    """A place of a text and its cost.

    Attributes:
      text: the number of the text.
      place: the number of the token in the text, from 0.
      token: the token as a str; "" is the end of the text. Bytes of one character are together.
      bits: -log2 p(token | what is before it).
      before: at most 40 characters before it.
    """

    text: int
    place: int
    token: str
    bits: float
    before: str


@dataclasses.dataclass(frozen=True)
class TextScores:
    """The results of ``text_scores``; ``print(scores)`` lists the most surprising places.

    A piece of a text is a token. Where tokens are bytes, the tokens of one character are one piece,
    so that the pieces of a text, joined, are the text. The end of a text is the piece "".

    Attributes:
      model: the spec, as source code.
      texts: the n texts.
      pieces: the pieces of each text.
      bits: the bits of the pieces of each text, -log2 p(piece | the pieces before it).
      places: the number of the first token of each piece, in each text.
      tokens: (n,) number of tokens of each text, with the mark of its end if it has one.

    >>> names = jaxgen.fit(jaxgen.models.NGram(), ["anna", "bob", "hannah"], key=key)
    >>> scores = jaxgen.metrics.text_scores(names, ["hanna", "bbb"])
    >>> scores.pieces[1], scores.bits[1].shape
    (['b', 'b', 'b', ''], (4,))
    """

    model: str
    texts: list[str]
    pieces: list[list[str]]
    bits: list[np.ndarray]
    places: list[np.ndarray]
    tokens: np.ndarray

    @property
    def characters(self) -> np.ndarray:
        """(n,) number of characters of each text, without its end."""
        return np.array([len(text) for text in self.texts])

    @property
    def total_bits(self) -> np.ndarray:
        """(n,) bits of each text, with those of its end."""
        return np.array([bits.sum() for bits in self.bits])

    @property
    def bits_per_character(self) -> np.ndarray:
        """(n,) bits of each text per character; those of an empty text count as one character."""
        return self.total_bits / np.maximum(self.characters, 1)

    def worst(self, count: int | None = None) -> np.ndarray:
        """Numbers of the texts of most bits per character, (count,); None for all texts.

        >>> names = jaxgen.fit(jaxgen.models.NGram(), ["anna", "bob", "hannah"], key=key)
        >>> scores = text_scores(names, ["hanna", "bbb"])
        >>> [scores.texts[i] for i in scores.worst(1)]
        ['bbb']
        """
        return np.argsort(-self.bits_per_character, kind="stable")[:count]

    def surprising(self, most: int | None = 20) -> list[Surprise]:
        """The pieces that cost most bits, in order; None for all pieces.

        >>> names = jaxgen.fit(jaxgen.models.NGram(), ["anna", "bob", "hannah"], key=key)
        >>> scores = text_scores(names, ["hanna", "bbb"])
        >>> scores.surprising(1)[0].token
        'b'
        """
        ends = np.cumsum([len(pieces) for pieces in self.pieces])
        bits = np.concatenate(self.bits)
        found = []
        for flat in np.argsort(-bits, kind="stable")[:most].tolist():
            text = int(np.searchsorted(ends, flat, side="right"))
            i = flat - int(ends[text]) + len(self.pieces[text])
            before = "".join(self.pieces[text][max(i - _BEFORE, 0) : i])[-_BEFORE:]
            place, token = int(self.places[text][i]), self.pieces[text][i]
            found.append(Surprise(text, place, token, float(bits[flat]), before))
        return found

    def columns(self) -> dict[str, np.ndarray]:
        """All pieces as columns "text", "place", "token" and "bits", in the order of the texts.

        >>> names = jaxgen.fit(jaxgen.models.NGram(), ["anna", "bob", "hannah"], key=key)
        >>> scores = text_scores(names, ["hanna", "bbb"])
        >>> list(scores.columns())
        ['text', 'place', 'token', 'bits']
        """
        text = np.repeat(np.arange(len(self.pieces)), [len(pieces) for pieces in self.pieces])
        token = np.array([piece for pieces in self.pieces for piece in pieces], object)
        place, bits = np.concatenate(self.places), np.concatenate(self.bits)
        return {"text": text, "place": place, "token": token, "bits": bits}

    def plot(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        rows: Sequence[int] | np.ndarray | None = None,
    ) -> Figure:
        """The texts as a figure in which the background of each piece shows its bits.

        Spaces are shown as a dot, ends of lines and of texts by a sign, and characters that the
        font does not have by their code points. At most 40 lines are shown.

        Args:
          path: a file to save the figure to; its ending, such as .png, .pdf or .svg, sets the
            format. None saves nothing.
          rows: the numbers of the texts to show, in order, such as ``worst(20)``; None for the
            first ones.

        Returns:
          A Matplotlib ``Figure``.

        Raises:
          IndexError: there is no text of such a number.
          ValueError, OSError: there are no texts to show, or the file cannot be written; the latter
            is raised before the figure is drawn.

        >>> names = jaxgen.fit(jaxgen.models.NGram(), ["anna", "bob", "hannah"], key=key)
        >>> scores = text_scores(names, ["hanna", "bbb"])
        >>> scores.plot("names.png", rows=scores.worst(1)).get_suptitle()[:5]
        'NGram'
        """
        rows = range(len(self.texts)) if rows is None else rows
        return output.drawn(lambda: draw_texts(self, rows), path)

    def __str__(self) -> str:
        rows = [("text", "place", "bits", "token", "after")]
        for found in self.surprising(_LINES):
            token = repr(found.token) if found.token else "(end)"
            place = str(found.text), str(found.place), f"{found.bits:.2f}"
            rows.append((*place, token, repr(found.before)))
        width = [max(len(row[i]) for row in rows) for i in range(4)]
        return "\n".join(
            "  ".join(
                [f"{row[i]:{'>' if i < 3 else '<'}{width[i]}}" for i in range(4)] + [row[4]]
            ).rstrip()
            for row in rows
        )

    __repr__ = __str__


@standard_promotion
def text_scores(fitted: Fitted, texts: Any, y: Any = None) -> TextScores:
    """Score each token of texts given the tokens before it.

    With a model of texts that end (``stop=True``) each text is an event, and its end costs bits
    too. With a model of a stream (``stop=False``) each text is a stream of any length: see
    ``stream_log_probs``.

    Args:
      fitted: a ``Fitted`` model of sequences.
      texts: a list or a column of n texts, or ``jaxgen.data.Texts``; for a model of a stream also
        one str, which is one text.
      y: conditions (n, *y_shape), or labels, one for each text, or one for all. None for an
        unconditional model, and for p(x) of a model of labels.

    Returns:
      A ``TextScores``.

    Raises:
      TypeError: the model is no model of sequences or has no vocabulary; texts are no texts, or one
        str where texts end.
      ValueError: no texts, or empty ones only; an unknown character; a text that is too long for a
        model of texts that end; or y does not suit the model.

    >>> names = jaxgen.fit(jaxgen.models.NGram(), ["anna", "bob", "hannah"], key=key)
    >>> scores = text_scores(names, ["bobo"])
    >>> scores.bits_per_character.shape
    (1,)
    """
    vocabulary = vocabulary_for(fitted, texts)
    strings, tokens, lengths = tokens_for(fitted, texts, vocabulary)
    nats = _token_nats(fitted, tokens, lengths, y)
    ends = np.cumsum(lengths)[:-1]
    pieces, bits, places = [], [], []
    for of_text, cost in zip(
        np.split(tokens, ends), np.split(-nats / np.log(2), ends), strict=True
    ):
        joined, first = _pieces(vocabulary, of_text)
        pieces.append(joined)
        places.append(first)
        bits.append(np.add.reduceat(cost, first) if len(first) else cost)
    return TextScores(repr(fitted.model), strings, pieces, bits, places, lengths)


@standard_promotion
def stream_log_probs(fitted: Fitted, text: str | Texts, y: Any = None) -> np.ndarray:
    """log p of each token of a long text given those before it, (tokens,), in nats.

    The text is scored in overlapping windows, which are rows of one batch, so that no program is
    compiled for its length. The first tokens of a window but the first are there as context alone.
    An n-gram model gets all the tokens that it depends on. In an ``Autoregressive`` model a token
    depends on between half a window and a whole one before it, as in a model of the whole text with
    that window.

    Args:
      fitted: a ``Fitted`` model of sequences with ``stop=False``.
      text: a str that is not empty. Texts are scored one after another, each from its start.
      y: the condition or the label of the text, as in ``text_scores``.

    Raises:
      TypeError, ValueError: as in ``text_scores``, or the model has ``stop=True``.

    >>> stream = jaxgen.data.tokenize("to be or not to be", length=18)
    >>> fitted = jaxgen.fit(jaxgen.models.NGram(order=3), stream, key=key)
    >>> stream_log_probs(fitted, "not to be " * 100).shape
    (1000,)
    """
    vocabulary = vocabulary_for(fitted, text)
    if sequence_in(fitted.model).stop:
        raise ValueError(
            f"fitted must be a model of a stream, with stop=False, got {fitted.model}: "
            "token_log_probs scores texts that end"
        )
    _, tokens, lengths = tokens_for(fitted, text, vocabulary)
    return _token_nats(fitted, tokens, lengths, y)


def vocabulary_for(fitted: Fitted, texts: Any) -> Vocabulary:
    """The vocabulary of a model of sequences, or that of Texts if the model has none.

    Raises:
      TypeError: the model is no model of sequences, or there is no vocabulary.
    """
    model = fitted.model
    if model.traits.token_log_probs is None or sequence_in(model) is None:
        raise TypeError(
            f"fitted must be a model of sequences, such as models.NGram or models.Autoregressive; "
            f"got {model}"
        )
    if fitted.vocabulary is not None:
        return fitted.vocabulary
    if isinstance(texts, Texts):
        return texts.vocabulary
    raise TypeError(
        f"fitted must have been fitted to texts, but {model} was fitted to numbers: give texts "
        "with their vocabulary, as jaxgen.data.tokenize(texts, vocabulary=...)"
    )


def tokens_for(
    fitted: Fitted, texts: Any, vocabulary: Vocabulary, name: str = "texts"
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Texts that suit a model, their tokens one after another with the ends, and how many each has.

    Args:
      fitted: a model of sequences.
      texts: texts as in ``text_scores``.
      vocabulary: as of ``vocabulary_for``.
      name: the name of the argument, for errors.

    Returns:
      The n texts; the tokens, int32; and the numbers of tokens (n,).

    Raises:
      TypeError, ValueError: as in ``text_scores``.
    """
    sequence = sequence_in(fitted.model)
    one = isinstance(texts, str)
    if not one and not holds_texts(texts):
        empty = isinstance(texts, (list, tuple)) and not texts
        got = "none" if empty else f"{type(texts).__name__} {texts!r:.40}"
        error = ValueError if empty else TypeError
        raise error(f"{name} must be a list or a column of texts (str), or Texts; got {got}")
    if one and sequence.stop:
        raise TypeError(
            f"{name} must be a list of texts, as those of {fitted.model} end (stop=True); got one "
            "str: [text] is a list of one text"
        )
    if sequence.prompt and not sequence.stop:
        raise ValueError(
            f"fitted must have no prompt to score a stream, got {fitted.model}: score the text "
            "that begins with the prompt by the model itself"
        )
    strings = [texts] if one else strings_of(texts, name)
    if not any(strings):
        raise ValueError(f"{name} must hold at least one character, got {texts!r:.40}")
    if sequence.stop:
        rows = tokens_of(texts, vocabulary, fitted.model, name)
        ended = rows == vocabulary.size
        counted = np.pad(~ended[:, :-1], ((0, 0), (1, 0)), constant_values=True)
        return strings, rows[counted], counted.sum(1)
    if isinstance(texts, Texts):
        rows = tokens_of(texts, vocabulary, fitted.replace(length=texts.length).model, name)
        return strings, rows.ravel(), np.full(len(rows), texts.length)
    return strings, *vocabulary.encode_all(strings, name, rows=not one)


def rows_of(tokens: np.ndarray, lengths: np.ndarray, length: int, end: int) -> np.ndarray:
    """Tokens of texts one after another as rows (n, length), filled with ``end``.

    >>> rows_of(np.array([4, 5, 6]), np.array([2, 1]), 3, 0)
    array([[4, 5, 0],
           [6, 0, 0]], dtype=int32)
    """
    rows = np.full((len(lengths), length), end, np.int32)
    rows[np.arange(length) < lengths[:, None]] = tokens
    return rows


def _token_nats(fitted: Fitted, tokens: np.ndarray, lengths: np.ndarray, y: Any) -> np.ndarray:
    """log p of all tokens given those before them in their text, (total,), float64."""
    model, params = fitted.model, fitted.params
    y = fitted.conditions_of(y)
    y = inputs.as_conditions(model, y, (len(lengths),), inputs.float_dtype(params))
    y = None if y is None else np.asarray(y)
    fitted = Fitted(model, params)  # whose labels are numbers, and events tokens
    sequence = sequence_in(model)
    if sequence.stop:
        length = model.event_shape[0]
        rows = rows_of(tokens, lengths, length, sequence.vocabulary)
        each = np.asarray(fitted.token_log_probs(rows, y), np.float64)
        return each[np.arange(length) < lengths[:, None]]
    if y is not None or model.classes is None:
        return _stream_nats(fitted, tokens, lengths, y)
    labels = (np.full(len(lengths), k, np.int32) for k in range(model.classes))
    each = np.stack([_stream_nats(fitted, tokens, lengths, y) for y in labels])
    prior = np.asarray(model.log_prior(params), np.float64)[:, None]
    marginal = []
    for part in np.split(each, np.cumsum(lengths)[:-1], axis=1):
        # log p(x_0 .. x_t) is a sum over labels, and its differences are those of each token
        before = np.logaddexp.reduce(prior + np.cumsum(part, 1), axis=0)
        with np.errstate(invalid="ignore"):  # nothing follows what is impossible
            marginal.append(np.diff(before, prepend=0))
    return np.nan_to_num(np.concatenate(marginal), nan=-np.inf, neginf=-np.inf)


def _stream_nats(fitted: Fitted, tokens: np.ndarray, lengths: np.ndarray, y: Any) -> np.ndarray:
    """``_token_nats`` of a model of streams, with y of each text unless it is unconditional."""
    width, hop = sequence_in(fitted.model).stream_windows
    count = 1 + -(-np.maximum(lengths - width, 0) // hop)  # windows of each text
    text = np.repeat(np.arange(len(lengths)), count)
    number = np.arange(len(text)) - np.repeat(np.cumsum(count) - count, count)
    place = number[:, None] * hop + np.arange(width)  # in the text
    begins = np.cumsum(lengths) - lengths
    # later tokens fill the last window of a text: no token depends on them
    padded = np.append(tokens, np.zeros(width, tokens.dtype))
    rows = padded[begins[text][:, None] + place]
    if width != fitted.model.event_shape[0]:
        fitted = fitted.replace(length=width)
    each = np.asarray(fitted.token_log_probs(rows, None if y is None else y[text]), np.float64)
    new = (number[:, None] == 0) | (np.arange(width) >= width - hop)
    return each[new & (place < lengths[text][:, None])]


def _pieces(vocabulary: Vocabulary, tokens: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The pieces of a text, see ``TextScores``, and the number of the first token of each."""
    end = int(tokens[-1:].max(initial=0) == vocabulary.size)
    body = tokens[: len(tokens) - end].tolist()
    if vocabulary.tokens:
        return [*(vocabulary.tokens[t] for t in body), *[""] * end], np.arange(len(tokens))
    strings = byte_strings(vocabulary.merges)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pieces, first, open_ = [], [], ""
    starts = True
    for i, token in enumerate(body):
        if starts:
            first.append(i)
        open_ += decoder.decode(strings[token], i == len(body) - 1)
        starts = not decoder.getstate()[0]
        if starts:
            pieces.append(open_)
            open_ = ""
    return [*pieces, *[""] * end], np.array([*first, *[len(body)] * end], np.int64)
