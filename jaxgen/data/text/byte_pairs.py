"""Byte-pair merges: tokens of several bytes, learnt from the pairs that are frequent in texts."""

from __future__ import annotations

import collections
import re
from collections.abc import Sequence

import numpy as np

BYTES = 256  # the tokens 0 .. 255 are the bytes
# merges stay within a word with the space before it, or within a run of other characters
_PIECES = re.compile(r" ?[^\W_]+| ?(?:[^\w\s]|_)+|\s+(?!\S)|\s")
_GAP = -1  # stands between pieces
_DENSE = 2**22  # numbers of pairs that are counted in an array


def learn(texts: Sequence[str], size: int) -> tuple[tuple[int, int], ...]:
    """The merges that make ``size`` tokens, or fewer if no other pair occurs twice.

    Merge i joins two tokens to the token 256 + i: the pair that is most frequent after the merges
    before it. Pairs are counted on the different pieces of the texts, each as often as it occurs.

    Args:
      texts: the texts, as UTF-8.
      size: largest number of tokens, at least 256.

    Source: Sennrich, Haddow and Birch 2016, "Neural machine translation of rare words with subword
    units".

    >>> learn(["low lower lowest"], 258)
    ((108, 111), (256, 119))
    """
    pieces: collections.Counter[str] = collections.Counter()
    for text in texts:
        pieces.update(_PIECES.findall(text))
    flat, sizes = _joined(pieces)
    weights = np.repeat(np.array(list(pieces.values()), np.float64), sizes)
    merges: list[tuple[int, int]] = []
    while BYTES + len(merges) < size and len(flat) > 1:
        pair = _most_frequent(flat, weights, size)
        if pair is None:
            break
        found = _places(flat, *pair)
        flat[found] = BYTES + len(merges)
        flat, weights = np.delete(flat, found + 1), np.delete(weights, found + 1)
        merges.append(pair)
    return tuple(merges)


def encode(
    texts: Sequence[str], merges: Sequence[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of all texts in one array, int32, and the number of tokens of each text.

    >>> encode(["low", "owl"], ((108, 111), (256, 119)))
    (array([257, 111, 119, 108], dtype=int32), array([1, 3]))
    """
    split = [_PIECES.findall(text) for text in texts]
    numbers = {piece: i for i, piece in enumerate(dict.fromkeys(p for s in split for p in s))}
    flat, _ = _joined(numbers)
    for i, pair in enumerate(merges):
        found = _places(flat, *pair)
        if len(found):
            flat[found] = BYTES + i
            flat = np.delete(flat, found + 1)
    ends = np.flatnonzero(flat == _GAP)
    starts = np.append(0, ends[:-1] + 1)[: len(ends)]
    which = np.array([numbers[piece] for s in split for piece in s], np.int64)
    counts = (ends - starts)[which]
    after = np.append(0, counts.cumsum())  # the number of tokens before each piece, and of all
    tokens = flat[np.repeat(starts[which] - after[:-1], counts) + np.arange(after[-1])]
    edges = np.append(0, np.cumsum([len(s) for s in split], dtype=np.int64))
    return tokens, np.diff(after[edges])


def byte_strings(merges: Sequence[tuple[int, int]]) -> list[bytes]:
    """The bytes that each token stands for."""
    strings = [bytes([i]) for i in range(BYTES)]
    for first, second in merges:
        strings.append(strings[first] + strings[second])
    return strings


def _joined(pieces):
    """The bytes of the pieces in one array, int32, with a gap after each; the size of each."""
    encoded = [piece.encode() for piece in pieces]
    sizes = np.array([len(one) + 1 for one in encoded], np.int64)
    flat = np.frombuffer(b"\0".join([*encoded, b""]), np.uint8).astype(np.int32)
    flat[sizes.cumsum() - 1] = _GAP
    return flat, sizes


def _places(flat, first, second):
    """Where the pair is, without those that overlap an earlier one, as in "aaa"."""
    found = np.flatnonzero((flat[:-1] == first) & (flat[1:] == second))
    if first != second or not len(found):
        return found
    starts = np.append(True, np.diff(found) != 1)  # of runs of places
    begin = np.maximum.accumulate(np.where(starts, found, 0))
    return found[(found - begin) % 2 == 0]


def _most_frequent(flat, weights, size):
    """The pair of the largest count, the least of several; None if no pair occurs twice."""
    inside = (flat[:-1] != _GAP) & (flat[1:] != _GAP)
    codes = flat[:-1][inside].astype(np.int64) * size + flat[1:][inside]
    if not len(codes):
        return None
    if size * size <= _DENSE:
        counts = np.bincount(codes, weights[:-1][inside])
        best, count = int(counts.argmax()), counts.max()
    else:
        different, which = np.unique(codes, return_inverse=True)
        counts = np.bincount(which, weights[:-1][inside])
        best, count = int(different[counts.argmax()]), counts.max()
    return divmod(best, size) if count >= 2 else None
