"""Texts as events of models of sequences: vectors of tokens."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from jaxgen.core import dataframes, inputs, places
from jaxgen.core.places import Message
from jaxgen.core.wrapper import inner_of
from jaxgen.data.text.vocabulary import Vocabulary, learn_vocabulary

_WINDOW = 64  # tokens in a window of one long text, by default
_LONGER = "; take a larger length, in tokenize or by fitted.replace(length=...)"


@dataclasses.dataclass(frozen=True, eq=False)
class Texts:
    """Texts as tokens, with the vocabulary that made them: see ``tokenize``.

    ``len(texts)`` is the number of texts, ``texts[3]`` is one of them, a str, and ``texts[:100]``
    or ``texts[rows]`` are Texts again, as for a split.

    Attributes:
      tokens: (n, length) int32. With ``stop`` the number ``vocabulary.size`` fills the places after
        the end of a text.
      vocabulary: the vocabulary.
      stop: whether texts end; otherwise each row is a window of ``length`` tokens.

    Raises:
      TypeError: tokens are not whole numbers.
      ValueError: tokens do not have two dimensions, or are not in 0 .. vocabulary.size - 1, but for
        the end, which comes after all other tokens of a row and only with ``stop``.

    >>> texts = tokenize(["anna", "bob"])
    >>> texts.tokens
    array([[0, 2, 2, 0, 4],
           [1, 3, 1, 4, 4]], dtype=int32)
    >>> len(texts), texts[1], texts[:1].decode()
    (2, 'bob', ['anna'])
    """

    tokens: np.ndarray
    vocabulary: Vocabulary
    stop: bool = True

    def __post_init__(self) -> None:
        tokens = np.asarray(inputs.numbers(self.tokens, "tokens"))
        if tokens.ndim != 2:
            raise ValueError(f"tokens must have shape (n, length), got {tokens.shape}")
        if tokens.dtype.kind not in "biu" and (tokens != np.floor(tokens)).any():  # NaN too
            raise TypeError(f"tokens must be whole numbers, got dtype {tokens.dtype}")
        end = self.vocabulary.size
        bad = (tokens < 0) | (tokens > (end if self.stop else end - 1))
        bad[:, 1:] |= (tokens[:, :-1] == end) & (tokens[:, 1:] != end)
        if bad.any():
            most = f"{end - 1}, and {end} after the last token" if self.stop else f"{end - 1}"
            row, place = np.argwhere(bad)[0]
            has = f" has {tokens[row, place]} at index {place}"
            wanted = f"tokens must be 0 .. {most}, for {self.vocabulary}; "
            raise ValueError(Message(wanted, places.row(row), has))
        object.__setattr__(self, "tokens", tokens.astype(np.int32, copy=False))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: Any) -> Any:
        if np.ndim(rows) == 0 and not isinstance(rows, slice):
            return self.vocabulary.decode(self.tokens[rows])
        return dataclasses.replace(self, tokens=self.tokens[rows])

    def __repr__(self) -> str:
        kind = "texts" if self.stop else "windows"
        return f"Texts({len(self)} {kind} of length {self.length}, {self.vocabulary})"

    @property
    def length(self) -> int:
        """The number of tokens in a row."""
        return self.tokens.shape[1]

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of a model of the texts that follow from them."""
        return {"length": self.length, "vocabulary": self.vocabulary.size, "stop": self.stop}

    def decode(self) -> list[str]:
        """The texts.

        >>> tokenize(["anna", "bob"]).decode()
        ['anna', 'bob']
        """
        return self.vocabulary.decode(self.tokens)

    def of_length(self, length: int, name: str = "texts") -> Texts:
        """The same texts in rows of another length; with ``stop`` alone, where rows may be longer.

        Raises:
          ValueError: a text is longer, or has another length where texts do not end; the message
            has the argument ``name``.
        """
        if length == self.length:
            return self
        lengths = (self.tokens != self.vocabulary.size).sum(1) if self.stop else self.length
        flat = self.tokens[self.tokens != self.vocabulary.size] if self.stop else self.tokens
        lengths = np.broadcast_to(lengths, len(self))
        rows = _rows(flat.ravel(), lengths, length, self.vocabulary, self.stop, name)
        return dataclasses.replace(self, tokens=rows)


def tokenize(
    texts: Any,
    by: str = "characters",
    *,
    vocabulary: Vocabulary | Texts | None = None,
    length: int | None = None,
    step: int | None = None,
    size: int | None = None,
) -> Texts:
    """Texts as events of a model of sequences: a list of texts, or windows of one long text.

    In a list each text is an event, with ``stop=True``. An empty text is one without tokens.
    One str is cut into windows of ``length`` tokens, with ``stop=False``. The last window is moved
    back to end with the text, so no token is lost, and some are in two windows. A text of at most
    ``length`` tokens is one window, as long as the text; so ``length=len(text)`` makes one event of
    a text, as ``models.NGram`` takes it.

    Args:
      texts: a list, a tuple, a NumPy array or a column of pandas, polars or pyarrow, of str; or one
        str.
      by: what a token is: "characters", "bytes" (of UTF-8), "words" (runs of letters and digits,
        and all characters) or "merges" (byte pairs that are joined as they are frequent); see
        ``Vocabulary``.
      vocabulary: a vocabulary to use instead of a new one; or Texts, whose vocabulary and length
        are used, as for held-out texts.
      length: number of tokens of an event. By default a quarter more than that of the longest text,
        so that new texts may be longer, and 64 for windows.
      step: number of tokens from one window to the next; by default ``length``. Tokens that are
        in two windows count twice in the likelihood.
      size: largest number of tokens of a vocabulary of "words" (4096, the most frequent words) or
        "merges" (512). Words and pairs that occur once are left out.

    Raises:
      TypeError: a text is no str, or is missing; the message names its row.
      ValueError: no texts, a text of more tokens than ``length``, an unknown character, or an
        argument of the wrong range.

    >>> tokenize(["low", "lower"], by="merges", size=257).tokens.shape
    (2, 5)
    >>> windows = tokenize("to be or not to be", length=8)
    >>> windows.decode()
    ['to be or', ' not to ', 'ot to be']
    """
    if isinstance(vocabulary, Texts):
        length = vocabulary.length if length is None else length
        vocabulary = vocabulary.vocabulary
    length = None if length is None else inputs.as_count(length, "length", 1)
    step = None if step is None else inputs.as_count(step, "step", 1)
    one = isinstance(texts, str)
    if step is not None and not one:
        raise ValueError("step does not apply to a list of texts: it is for windows of one str")
    strings = [texts] if one else strings_of(texts, "texts")
    if not strings or (one and not texts):
        raise ValueError(f"texts must hold at least one {'character' if one else 'text'}")
    if vocabulary is None:
        vocabulary = learn_vocabulary(strings, by, size)
    elif not isinstance(vocabulary, Vocabulary):
        raise TypeError(f"vocabulary must be a Vocabulary or Texts, got {vocabulary!r:.60}")
    elif size is not None or by not in ("characters", vocabulary.kind):
        what = "size" if size is not None else f"by={by!r}"
        raise ValueError(f"{what} does not apply: the tokens are those of {vocabulary}")
    tokens, lengths = vocabulary.encode_all(strings, "texts", rows=not one)
    if one:
        return Texts(_windows(tokens, length or _WINDOW, step), vocabulary, stop=False)
    longest = int(lengths.max())
    default = longest + max(longest // 4, 1)
    rows = _rows(tokens, lengths, length or default, vocabulary, True, "texts")
    return Texts(rows, vocabulary)


def holds_texts(value: Any) -> bool:
    """Whether a value is Texts, a str, or a list, an array or a column in which some are str."""
    if isinstance(value, (str, Texts)):
        return True
    if isinstance(value, (list, tuple)):
        return any(isinstance(entry, str) for entry in value)
    array = _array_of_objects(value)
    return array is not None and any(isinstance(entry, str) for entry in array.tolist())


def strings_of(value: Any, name: str) -> list[str]:
    """Texts, or a list, an array or a column of texts, as a list.

    Raises:
      TypeError: it is none of these, or an entry is no str; the message has the argument ``name``.
    """
    if isinstance(value, str):
        raise TypeError(
            f"{name} must be a list of texts, got one str: [text] is a list of one text, and "
            "jaxgen.data.tokenize(text, length=...) cuts it into windows"
        )
    if isinstance(value, Texts):
        return value.decode()
    entries = value if isinstance(value, (list, tuple)) else _array_of_objects(value)
    if entries is None:
        got = f"{type(value).__name__} {value!r:.40}"
        raise TypeError(f"{name} must be a list or a column of texts (str), got {got}")
    entries = list(entries) if isinstance(entries, (list, tuple)) else entries.tolist()
    for row, entry in enumerate(entries):
        if not isinstance(entry, str):
            missing = " is missing" if dataframes.is_missing(entry) else ""
            got = missing or f" holds {type(entry).__name__} {entry!r:.40}"
            raise TypeError(Message(f"{name} must hold texts (str), but ", places.row(row), got))
    return entries


def sequence_in(model: Any) -> Any:
    """The model of sequences that a model is, or that is inside it with the same events; or None.

    >>> sequence_in(jaxgen.models.Gaussian(2)) is None
    True
    """
    while not hasattr(model, "vocabulary"):
        inner = inner_of(model)
        if not inner or inner[0].model.event_shape != model.event_shape:
            return None
        model = inner[0].model
    return model


def tokens_of(x: Any, vocabulary: Vocabulary | None, model: Any, name: str = "x") -> Any:
    """Texts as events (n, *event_shape) of a model of sequences; other values unchanged.

    Args:
      x: Texts, a list or a column of texts, or anything else.
      vocabulary: the vocabulary of the model; None if the model has none.
      model: the model.
      name: the name of the argument, for errors.

    Raises:
      TypeError: the model is no model of sequences or has no vocabulary, x is one str, or an entry
        is no str.
      ValueError: a text is too long for the model, or has another length where texts do not end; an
        unknown character; Texts with another vocabulary than the model.
    """
    if not holds_texts(x):
        return x
    sequence = sequence_in(model)
    if sequence is None:
        raise TypeError(
            f"{name} must be an array of numbers for {model}, got texts: texts need models.NGram "
            "or models.Autoregressive"
        )
    if isinstance(x, str):
        return strings_of(x, name)  # raises
    if vocabulary is None and not isinstance(x, Texts):
        raise TypeError(
            f"{name} holds texts, but {model} was fitted to numbers: jaxgen.data.Vocabulary makes "
            "tokens of texts"
        )
    length = model.event_shape[0]
    if not isinstance(x, Texts):
        assert vocabulary is not None
        strings = strings_of(x, name)
        tokens, lengths = vocabulary.encode_all(strings, name)
        return _rows(tokens, lengths, length, vocabulary, sequence.stop, name)
    if vocabulary is not None and x.vocabulary != vocabulary:
        raise ValueError(
            f"{name} must have the vocabulary of the model, {vocabulary}; got another one, "
            f"{x.vocabulary}: encode the texts by tokenize(texts, vocabulary=...)"
        )
    for field in ("vocabulary", "stop"):
        wanted, got = getattr(sequence, field), x.fields[field]
        if wanted != got:
            raise ValueError(f"{name} has {field}={got}, but {model} has {field}={wanted}")
    return x.of_length(length, name).tokens


def _array_of_objects(value: Any) -> np.ndarray | None:
    """An array or a column (n,) that may hold str, as an array; None for other values.

    Entries that are masked are None.
    """
    if isinstance(value, jax.Array) or not hasattr(value, "dtype") | hasattr(value, "to_numpy"):
        return None
    if getattr(value.dtype if hasattr(value, "dtype") else None, "kind", "O") not in "OUT":
        return None
    if dataframes.is_table(value):
        return None
    array = value if isinstance(value, np.ndarray) else np.asarray(value)
    if array.ndim != 1 or array.dtype.kind not in "OUT":
        return None
    return np.array(array.tolist(), object) if np.ma.isMaskedArray(array) else array


def _rows(
    tokens: np.ndarray,
    lengths: np.ndarray,
    length: int,
    vocabulary: Vocabulary,
    stop: bool,
    name: str,
) -> np.ndarray:
    """Tokens of texts one after another as rows (n, length), filled with the end."""
    wrong = (lengths > length) if stop else (lengths != length)
    if wrong.any():
        row = int(wrong.argmax())
        start = int(lengths[:row].sum())
        text = vocabulary.decode(tokens[start : start + min(int(lengths[row]), 40)])
        most = "at most " if stop else ""
        raise ValueError(
            Message(
                f"{name} must have {most}{length} tokens in each text, but ",
                places.row(row),
                f" has {lengths[row]:,}: {text!r:.40}"
                + (_LONGER if stop else "; the model has stop=False, for windows of one length"),
            )
        )
    rows = np.full((len(lengths), length), vocabulary.size, np.int32)
    rows[np.arange(length) < np.asarray(lengths)[:, None]] = tokens
    return rows


def _windows(tokens: np.ndarray, length: int, step: int | None) -> np.ndarray:
    """Windows (n, length) of the tokens of a text; one window of a text that is shorter."""
    if len(tokens) <= length:
        return tokens[None]
    last = len(tokens) - length
    starts = np.append(np.arange(0, last, step or length), last)
    return np.lib.stride_tricks.sliding_window_view(tokens, length)[starts]
