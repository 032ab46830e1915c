"""Texts as a figure: the background of each piece of a text shows how many bits it costs."""

from __future__ import annotations

import functools
import itertools
import unicodedata
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH = 80  # most characters in a line
_LEAST_WIDTH = 56  # characters for which the figure has room at least, as its title needs them
_LINES = 40  # most lines
_MOST = 500  # most texts
_GAP = 2  # characters between columns of short texts
_FONT = "DejaVu Sans Mono"  # which comes with Matplotlib
_SIZE = 9.0  # of the font, in points
_CELL = 0.602 * _SIZE / 72, 1.7 * _SIZE / 72  # width and height of a character, in inches
_COLOURS = "YlOrBr"  # from light to dark, in grey print too
_DARK = 0.65  # share of the scale from which on letters are white
_SIGNS = {" ": "·", "\n": "↵", "\t": "⇥", "": "⊣"}  # "" is the end of a text


class Segment(NamedTuple):
    """A piece of a text, or a part of one, on a line.

    Attributes:
      line, column: its place, counted in characters.
      shown: the characters to draw.
      bits: those of the whole piece.
    """

    line: int
    column: int
    shown: str
    bits: float


def draw_texts(scores: Any, rows: Iterable[int]) -> Figure:
    """The Matplotlib figure of a ``TextScores``: see its method ``plot``.

    Raises:
      ValueError: no rows.
    """
    from matplotlib.collections import PatchCollection
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties
    from matplotlib.patches import Rectangle

    some = [int(row) for row in itertools.islice(rows, _MOST)]
    segments, shown = lay_out(zip(scores.pieces[i], scores.bits[i], strict=True) for i in some)
    if not segments:
        raise ValueError("rows must hold at least one text to show")
    bits = np.array([segment.bits for segment in segments])
    known = bits[np.isfinite(bits)]
    top = max(float(np.quantile(known, 0.99)), 1.0) if len(known) else 1.0
    lines = max(segment.line for segment in segments) + 1
    columns = max(max(s.column + len(s.shown) for s in segments), _LEAST_WIDTH)

    # margins, and the height of the bar, in inches
    below, above, side, bar = 0.75, 0.55, 0.15, 0.14
    width, height = columns * _CELL[0] + 2 * side, lines * _CELL[1] + below + above
    figure = Figure(figsize=(width, height))
    left, bottom = side / width, below / height
    ax = figure.add_axes((left, bottom, 1 - 2 * left, lines * _CELL[1] / height))
    ax.set(xlim=(0, columns), ylim=(lines, 0))
    ax.set_axis_off()
    boxes = [Rectangle((s.column, s.line + 0.06), len(s.shown), 0.88) for s in segments]
    drawn = PatchCollection(boxes, cmap=_COLOURS, edgecolor="white", linewidth=0.6)
    drawn.set_array(np.minimum(bits, top))
    drawn.set_clim(0, top)
    ax.add_collection(drawn)
    font = FontProperties(family=_FONT, size=_SIZE)
    for s in segments:
        colour = "white" if s.bits > _DARK * top else "black"
        ax.text(
            s.column, s.line + 0.68, s.shown, color=colour, fontproperties=font, parse_math=False
        )
    length = min(width - 2 * side, 4.0)
    place = (1 - length / width) / 2, (below - 0.25) / height, length / width, bar / height
    figure.colorbar(
        drawn,
        cax=figure.add_axes(place),
        orientation="horizontal",
        extend="max" if bits.max() > top else "neither",
        label="bits: $-\\log_2 p$(token | tokens before)",
    )
    figure.suptitle(_title(scores, shown, columns), fontsize=9, y=1 - 0.12 / height, va="top")
    return figure


def lay_out(texts: Iterable[Iterable[tuple[str, float]]]) -> tuple[list[Segment], int]:
    """The segments of texts, given as pieces and bits, and the number of texts that they show.

    A text begins on a new line. Lines end after a line feed and after at most 80 characters. If all
    texts are short, they stand in columns. What is beyond 40 lines is left out.

    >>> lay_out([[("a", 1.0), ("b", 2.0)]])[0][1]
    Segment(line=0, column=1, shown='b', bits=2.0)
    """
    blocks = [_wrapped(text) for text in texts]
    longest = max((s.column + len(s.shown) for block in blocks for s in block), default=1)
    heights = [block[-1].line + 1 if block else 0 for block in blocks]
    across = (_WIDTH + _GAP) // (longest + _GAP) if max(heights, default=1) == 1 else 1
    down = min(-(-len(blocks) // across), _LINES) if across > 1 else len(blocks)
    segments: list[Segment] = []
    line = 0
    for number, (block, height) in enumerate(zip(blocks, heights, strict=True)):
        column = number // down
        line = number % down if across > 1 else line
        if column >= across or line >= _LINES:
            return segments, number
        right = column * (longest + _GAP)
        moved = [s._replace(line=s.line + line, column=s.column + right) for s in block]
        segments += [s for s in moved if s.line < _LINES]
        line += height
    return segments, len(blocks)


def _wrapped(text: Iterable[tuple[str, float]]) -> list[Segment]:
    """The segments of one text, for about as many lines as a figure has."""
    segments: list[Segment] = []
    line = column = 0
    for piece, bits in text:
        if line >= _LINES:
            break
        for part in piece.splitlines(keepends=True) or [piece]:
            shown = "".join(map(_sign, part)) or _SIGNS[""]
            if len(shown) > _WIDTH - column and len(shown) <= _WIDTH:
                line, column = line + 1, 0
            while shown:
                if column == _WIDTH:
                    line, column = line + 1, 0
                here, shown = shown[: _WIDTH - column], shown[_WIDTH - column :]
                segments.append(Segment(line, column, here, bits))
                column += len(here)
            if part.endswith("\n"):
                line, column = line + 1, 0
    return segments


@functools.cache
def _sign(character: str) -> str:
    """How a character is shown: a sign for white space, else itself, else its code point."""
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font

    if character in _SIGNS:
        return _SIGNS[character]
    has_glyph = FT2Font(findfont(_FONT)).get_char_index(ord(character))
    if has_glyph and character.isprintable() and unicodedata.category(character)[0] != "M":
        return character
    return f"U+{ord(character):04X}"


def _title(scores: Any, shown: int, columns: int) -> str:
    """The model and the mean bits of all texts, and how many texts are shown."""
    count, characters = len(scores.texts), int(scores.characters.sum())
    mean = f"{scores.total_bits.sum() / characters:.4g} bits per character"
    each = f"{count:,} texts" if count > 1 else f"{characters:,} characters"
    part = f", {shown:,} of them shown" if shown < count else ""
    model = scores.model if len(scores.model) < columns else scores.model[: columns - 2] + "…"
    return f"{model}\n{mean} in {each}{part}"
