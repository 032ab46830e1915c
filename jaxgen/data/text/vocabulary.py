"""Vocabularies: rules that make a text tokens, and tokens a text."""

from __future__ import annotations

import collections
import functools
import itertools
import re
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from jaxgen.core import inputs, places
from jaxgen.core.places import Message
from jaxgen.core.spec import Spec
from jaxgen.data.text import byte_pairs

Kind = Literal["characters", "bytes", "words", "merges"]
KINDS: tuple[str, ...] = get_args(Kind)
_WORDS = re.compile(r"[^\W_]+|[\W_]")  # a run of letters and digits, or another character
_SIZES = {"words": 4096, "merges": 512}  # largest numbers of tokens by default


class Vocabulary(Spec):
    """A rule that makes a text tokens 0 .. size - 1, and the tokens a text.

    - "characters": a token is one of the characters in ``tokens``; others are an error.
    - "bytes": a token is a byte of the text in UTF-8, so that no text is unknown.
    - "words": a token is a character or a word in ``tokens``, where a word is a run of letters and
      digits. Another word is spelt by its characters; an unknown character is an error.
    - "merges": a token is a byte of the text in UTF-8, or one of the byte strings that ``merges``
      make, so that no text is unknown.

    ``decode(encode(text))`` is the text. The inverse does not hold: several sequences of tokens may
    be the same text, as "words" can spell a known word, and sequences of bytes may be no UTF-8.

    Args:
      kind: the rule.
      tokens: for "characters" the characters, in the order of their code points; for "words" the
        characters and then the words.
      merges: pairs of tokens, in order; pair i is joined to the token 256 + i.

    Raises:
      ValueError: tokens or merges do not suit the kind.

    >>> letters = Vocabulary("characters", ("a", "b", "n"))
    >>> letters.encode("anna"), letters.decode([1, 0, 2])
    (array([0, 2, 2, 0], dtype=int32), 'ban')
    """

    kind: Kind
    tokens: tuple[str, ...] = ()
    merges: tuple[tuple[int, int], ...] = ()

    def __post_init__(self):
        super().__post_init__()
        if (self.kind in ("characters", "words")) != bool(self.tokens):
            few = "at least one token" if not self.tokens else "no tokens"
            raise ValueError(f"Vocabulary: {self.kind!r} takes {few}, got {len(self.tokens)}")
        if self.merges and self.kind != "merges":
            raise ValueError(f"Vocabulary: {self.kind!r} takes no merges, got {len(self.merges)}")
        if self.kind == "characters" and any(len(token) != 1 for token in self.tokens):
            wrong = next(token for token in self.tokens if len(token) != 1)
            raise ValueError(f"Vocabulary: a token must be one character, got {wrong!r:.60}")
        if self.kind == "characters" and list(self.tokens) != sorted(set(self.tokens)):
            raise ValueError("Vocabulary: characters must be sorted and different")
        if len(set(self.tokens)) < len(self.tokens) or "" in self.tokens:
            raise ValueError("Vocabulary: tokens must be different and not empty")
        for i, pair in enumerate(self.merges):
            if not all(0 <= token < byte_pairs.BYTES + i for token in pair):
                raise ValueError(f"Vocabulary: merge {i} must join earlier tokens, got {pair}")

    def __str__(self) -> str:
        return f"Vocabulary({self.kind!r}, size {self.size})"

    @property
    def size(self) -> int:
        """The number of tokens."""
        if self.kind in ("bytes", "merges"):
            return byte_pairs.BYTES + len(self.merges)
        return len(self.tokens)

    def encode(self, text: str) -> np.ndarray:
        """The tokens of a text, (length,) int32.

        Raises:
          TypeError: the text is no str.
          ValueError: it holds an unknown character, which the message names, or half a surrogate
            pair, which UTF-8 cannot hold.
        """
        if not isinstance(text, str):
            raise TypeError(f"text must be a str, got {type(text).__name__} {text!r:.40}")
        return self.encode_all([text], "text", rows=False)[0]

    def encode_all(
        self, texts: Sequence[str], name: str = "texts", rows: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of all texts in one array, int32, and the number of tokens of each text.

        Args:
          texts: the texts.
          name: the name of the argument, for errors.
          rows: whether errors name the row of the text.

        >>> Vocabulary("bytes").encode_all(["ab", "c"])
        (array([97, 98, 99], dtype=int32), array([2, 1]))
        """
        if self.kind == "words":
            return self._encode_words(texts, name, rows)
        codes, lengths = _code_points(texts)
        if self.kind == "characters":
            found = np.searchsorted(self._points, codes).clip(max=self.size - 1)
            unknown = self._points[found] != codes
            if unknown.any():
                raise self._unknown(int(unknown.argmax()), texts, name, rows)
            return found.astype(np.int32), lengths
        half = (codes >= 0xD800) & (codes < 0xE000)
        if half.any():
            raise ValueError(
                Message(
                    f"{name} must be text that UTF-8 can hold, but ",
                    *_character(int(half.argmax()), texts, rows),
                    " is half of a surrogate pair",
                )
            )
        if self.kind == "merges":
            return byte_pairs.encode(texts, self.merges)
        encoded = [text.encode() for text in texts]
        tokens = np.frombuffer(b"".join(encoded), np.uint8).astype(np.int32)
        return tokens, np.array([len(one) for one in encoded], np.int64)

    def decode(self, tokens: Any) -> Any:
        """The text of tokens (length,), a str; of tokens (n, length), a list of str.

        The number ``size`` marks the end of a text: it and all that follows are left out. Bytes
        that are not UTF-8 become the character U+FFFD.

        Raises:
          TypeError: tokens are not whole numbers.
          ValueError: they have another shape, or are not in 0 .. size.
        """
        array = np.asarray(inputs.numbers(tokens, "tokens"))
        rows = np.asarray(array, np.int64) if array.dtype.kind in "biu" or not array.size else None
        if rows is None:
            if (array != np.floor(array)).any():  # NaN too
                raise TypeError(f"tokens must be whole numbers, got dtype {array.dtype}")
            rows = array.astype(np.int64)
        if rows.ndim not in (1, 2):
            raise ValueError(f"tokens must have shape (length,) or (n, length), got {rows.shape}")
        if rows.size and not 0 <= rows.min() <= rows.max() <= self.size:
            wrong = rows.min() if rows.min() < 0 else rows.max()
            raise ValueError(
                f"tokens must be in 0 .. {self.size}, the end, for {self}; got {wrong}"
            )
        texts = self._decode(rows if rows.ndim == 2 else rows[None])
        return texts if rows.ndim == 2 else texts[0]

    def _decode(self, rows: np.ndarray) -> list[str]:
        n, width = rows.shape
        ended = rows == self.size
        lengths = np.where(ended.any(1), ended.argmax(1), width) if width else np.zeros(n, np.int64)
        if self.kind == "characters":
            codes = np.append(self._points, 0).astype("<u4")[rows]
            whole = codes.tobytes().decode("utf-32-le", "surrogatepass")
            return [whole[i * width : i * width + k] for i, k in enumerate(lengths.tolist())]
        each = zip(rows.tolist(), lengths.tolist(), strict=True)
        if self.kind == "words":
            return ["".join([self.tokens[token] for token in row[:k]]) for row, k in each]
        strings = self._byte_strings
        joined = (b"".join([strings[token] for token in row[:k]]) for row, k in each)
        return [one.decode(errors="replace") for one in joined]

    @functools.cached_property
    def _points(self) -> np.ndarray:
        """The code points of the characters, sorted."""
        return np.array([ord(token) for token in self.tokens], np.uint32)

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.tokens)}

    @functools.cached_property
    def _byte_strings(self) -> list[bytes]:
        return byte_pairs.byte_strings(self.merges)

    def _encode_words(self, texts, name, rows):
        spelt: dict[str, list[int]] = {}  # the tokens of each piece so far
        flat: list[int] = []
        lengths = np.zeros(len(texts), np.int64)
        for i, text in enumerate(texts):
            before = len(flat)
            for piece in _WORDS.findall(text):
                if piece not in spelt:
                    parts = [piece] if piece in self._places else piece
                    if not all(part in self._places for part in parts):
                        earlier = sum(map(len, texts[:i]))
                        bad = next(j for j, c in enumerate(text) if c not in self._places)
                        raise self._unknown(earlier + bad, texts, name, rows)
                    spelt[piece] = [self._places[part] for part in parts]
                flat += spelt[piece]
            lengths[i] = len(flat) - before
        return np.array(flat, np.int32), lengths

    def _unknown(self, place: int, texts: Sequence[str], name: str, rows: bool) -> ValueError:
        """The error of an unknown character, by its place in the texts one after another."""
        return ValueError(
            Message(
                f"{name} must hold characters of the vocabulary, but ",
                *_character(place, texts, rows),
                f" is unknown to {self}; a vocabulary of bytes takes all characters",
            )
        )


def learn_vocabulary(texts: Sequence[str], by: str, size: int | None = None) -> Vocabulary:
    """The vocabulary of a kind for texts: see ``tokenize``.

    Raises:
      ValueError: an unknown kind, a size that does not suit it, or texts without characters.
    """
    if by not in KINDS:
        raise ValueError(f"by must be one of {KINDS}, got {by!r:.60}")
    if size is not None and by not in _SIZES:
        raise ValueError(f"size does not apply to by={by!r}: it is for 'words' and 'merges'")
    if by == "bytes":
        return Vocabulary("bytes")
    characters = sorted(set().union(*texts))
    if not characters:
        raise ValueError("texts must hold at least one character, got empty texts")
    if by == "characters":
        return Vocabulary("characters", tuple(characters))
    least = len(characters) if by == "words" else byte_pairs.BYTES
    size = _SIZES[by] if size is None else inputs.as_count(size, "size")
    if size < least:
        what = "the different characters of texts" if by == "words" else "the bytes"
        raise ValueError(f"size must be at least {least}, the number of {what}; got {size}")
    if by == "merges":
        Vocabulary("bytes").encode_all(texts)  # raises if UTF-8 cannot hold them
        return Vocabulary("merges", (), byte_pairs.learn(texts, size))
    counts: collections.Counter[str] = collections.Counter()
    for text in texts:
        counts.update(_WORDS.findall(text))
    words = [word for word, count in counts.items() if len(word) > 1 and count > 1]
    words.sort(key=lambda word: (-counts[word], word))
    return Vocabulary("words", (*characters, *words[: size - len(characters)]))


def _code_points(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The code points of all texts in one array, and the length of each text."""
    raw = "".join(texts).encode("utf-32-le", "surrogatepass")
    return np.frombuffer(raw, "<u4"), np.array([len(text) for text in texts], np.int64)


def _character(place: int, texts: Sequence[str], rows: bool) -> tuple[Any, ...]:
    """A character, by its place in the texts one after another, as parts of a ``Message``."""
    ends = list(itertools.accumulate(map(len, texts)))
    row = int(np.searchsorted(ends, place, side="right"))
    index = place - (ends[row] - len(texts[row]))
    character = texts[row][index]
    what = f"{character!r} (U+{ord(character):04X}) at index {index}"
    return (f"{what} of ", places.row(row)) if rows else (what,)
