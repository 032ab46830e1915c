"""Places in the data that an error speaks of, and their names where these are known.

A model knows features, rows and labels by number alone. So an error holds each as a ``Place``,
which prints as "feature 2", and whoever knows their names puts them in on its way up: ``fit`` knows
labels and the columns of a Fitted, the command line the columns and the lines of a file.

>>> with Names.known(columns=("latitude", "longitude")):
...     raise ValueError(Message("x is constant in ", feature(1)))
Traceback (most recent call last):
ValueError: x is constant in column 'longitude'
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Place(NamedTuple):
    """A feature by its place in the flattened event, a row, or a label by its place.

    of: whose it is; only those of x have names.
    """

    kind: str
    number: int
    of: str = "x"

    def __str__(self) -> str:
        return f"{self.kind} {self.number}"


def feature(number: Any, of: str = "x") -> Place:
    return Place("feature", int(number), of)


def row(number: Any) -> Place:
    return Place("row", int(number))


def label(number: Any) -> Place:
    return Place("label", int(number))


class Message(str):
    """The text of an error, made of strings and of places that can still be named.

    A message or an error among the parts is taken with its places.
    """

    parts: tuple[str | Place, ...]

    def __new__(cls, *parts: Any) -> Message:
        flat: list[str | Place] = []
        for part in parts:
            if isinstance(part, Exception):
                first = part.args[0] if len(part.args) == 1 else None
                part = first if isinstance(first, Message) else str(part)
            flat += part.parts if isinstance(part, Message) else (part,)
        message = super().__new__(cls, "".join(map(str, flat)))
        message.parts = tuple(flat)
        return message


class Names(NamedTuple):
    """A context in which errors speak of places by other names.

    Each field gives the name, or another place, of a number; None leaves it as it is.
    """

    feature: Callable[[int], str | Place] | None = None
    row: Callable[[int], str | Place] | None = None
    label: Callable[[int], str | Place] | None = None

    @classmethod
    def known(
        cls,
        columns: tuple[str, ...] | None = None,
        labels: tuple[str | int, ...] | None = None,
        row: Callable[[int], str] | None = None,
    ) -> Names:
        """Those that a user knows: of columns, labels and rows, where there are some."""
        return cls(
            feature=None if columns is None else lambda j: f"column {columns[j]!r}",
            row=row,
            label=None if labels is None else lambda k: f"label {labels[k]!r}",
        )

    @classmethod
    def of_rows(cls, numbers: Any) -> Names:
        """Of rows picked from the data: their numbers there, place by place."""
        return cls(row=lambda i: row(numbers[i]))

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None and len(error.args) == 1 and isinstance(error.args[0], Message):
            error.args = (Message(*map(self._renamed, error.args[0].parts)),)

    def _renamed(self, part):
        rename = getattr(self, part.kind) if isinstance(part, Place) and part.of == "x" else None
        return part if rename is None else rename(part.number)
