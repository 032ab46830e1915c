"""Places in the data that error messages refer to, and their names.

A model knows features, rows and labels only as numbers. Its errors hold each of them as a
``Place``, which prints as "feature 2". Callers that know names replace places by names as the error
propagates: ``fit`` knows labels and columns, the command line knows columns and lines of a file.

>>> with Names.known(columns=("latitude", "longitude")):
...     raise ValueError(Message("x is constant in ", feature(1)))
Traceback (most recent call last):
ValueError: x is constant in column 'longitude'
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Place(NamedTuple):
    """A feature, a row or a label.

    Attributes:
      axis: "feature", "row" or "label".
      number: the index; that of a feature is in the flattened event.
      array: the argument that it belongs to; only places in x have names.
    """

    axis: str
    number: int
    array: str = "x"

    def __str__(self) -> str:
        return f"{self.axis} {self.number}"


def feature(number: Any, array: str = "x") -> Place:
    """A feature of x, or of another argument."""
    return Place("feature", int(number), array)


def row(number: Any) -> Place:
    """A row of x."""
    return Place("row", int(number))


def label(number: Any) -> Place:
    """A label, by its index."""
    return Place("label", int(number))


class Message(str):
    """The text of an error, made of strings and places, which ``Names`` can replace by names.

    A part may also be a message, or an exception with a message: its places are kept.
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
    """A context that replaces the places in the message of an exception by names.

    Attributes:
      feature: function from a feature's number to its name or to another place; None keeps it.
      row: the same for rows.
      label: the same for labels.
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
        """Names from those of columns and labels and from a function that names rows, if given."""
        return cls(
            feature=None if columns is None else lambda j: f"column {columns[j]!r}",
            row=row,
            label=None if labels is None else lambda k: f"label {labels[k]!r}",
        )

    @classmethod
    def of_rows(cls, numbers: Any) -> Names:
        """Row numbers in the data, for rows that were selected from it; numbers is (n,)."""
        return cls(row=lambda i: row(numbers[i]))

    def __enter__(self) -> None:
        pass

    def __exit__(self, error_type: Any, error: BaseException | None, traceback: Any) -> None:
        if error is not None and len(error.args) == 1 and isinstance(error.args[0], Message):
            error.args = (Message(*map(self._renamed, error.args[0].parts)),)

    def _renamed(self, part: str | Place) -> str | Place:
        if not isinstance(part, Place) or part.array != "x":
            return part
        rename = getattr(self, part.axis)
        return part if rename is None else rename(part.number)
