"""Members: the fits that are learnt together, each from rows of its own or all from the same.

A single fit, an ensemble, the classes of a ``compose.PerClass`` and the data sets of ``fit_each``
are lists of members; ``learn`` fits any of them.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgen.core.labels import (
    entry,
    errors_begin_with,
    errors_of_label,
    repeated_rows,
    rows_of_label,
    stack,
)
from jaxgen.core.spec import Params
from jaxgen.training.held_out import hold_out
from jaxgen.training.rows import Data, Rows, pad


class Member(NamedTuple):
    """One of the fits that are learnt together.

    Attributes:
      train: the rows to learn from.
      validation: rows that decide which params are best; None: the training rows do.
      start: params to start from; None: those of ``init``.
      number: which of the classes or data sets it is; None if its errors need no such word.
      of_label: whether ``number`` is a label.
    """

    train: Data
    validation: Data | None = None
    start: Params = None
    number: int | None = None
    of_label: bool = False

    def errors(self) -> contextlib.AbstractContextManager[None]:
        """A context whose errors name the member."""
        if self.number is None:
            return contextlib.nullcontext()
        if self.of_label:
            return errors_of_label(self.number)
        return errors_begin_with(f"in data set {self.number}: ")


def alike(key: Any, data: Data, validation: Any, start: Params, count: int) -> list[Member]:
    """Members that learn from the same rows: a single fit or an ensemble."""
    train, held = hold_out(key, data, validation)
    return [Member(train, held, start)] * count


def by_label(
    keys: list[Any], data: Data, validation: Any, start: Params, classes: int
) -> list[Member]:
    """A member for each label, which learns from the rows with that label, without y.

    start has a leading axis of classes. validation is a share, or rows with labels.
    """
    members = []
    for k in range(classes):
        rows, held = data.take(rows_of_label(data.y, k))._replace(y=None), validation
        if isinstance(validation, Data):
            chosen = np.flatnonzero(validation.y == k)
            held = validation.take(chosen)._replace(y=None) if len(chosen) else 0.0
        own_start = None if start is None else entry(start, k)
        train, held = hold_out(keys[k], rows, held)
        members.append(Member(train, held, own_start, k, of_label=True))
    return members


def rows_alike(members: list[Member]) -> bool:
    """Whether the members learn from the same rows."""
    return all(member.train is members[0].train for member in members)


class MemberRows(NamedTuple):
    """Padded rows of members, as compiled programs take them.

    Attributes:
      rows: with a leading axis of members unless they share them.
      data: the rows of each member, or those of all if they share them, for the words of errors.
      shared: whether the members share the rows.
    """

    rows: Rows
    data: list[Data]
    shared: bool

    def of(self, i: int) -> Rows:
        """The rows of a member."""
        if self.shared:
            return self.rows
        x, y, weights, count, events = self.rows
        return Rows(x[i], None if y is None else y[i], weights[i], count, events[i])

    def data_of(self, i: int) -> Data:
        return self.data[0 if self.shared else i]


def rows_of_members(each: list[Data], shared: bool) -> MemberRows:
    """Padded rows of members; if each has its own, those of small members repeat."""
    if shared:
        return MemberRows(pad_alike(each[0]), each[:1], shared)
    size = max(len(data.x) for data in each)
    each = [repeated(data, size) for data in each]
    padded = [pad_alike(data) for data in each]
    rows = jax.device_put(stack(jax.device_get(padded)))
    return MemberRows(rows._replace(count=padded[0].count), each, shared)


def pad_alike(data: Data) -> Rows:
    """Padded rows whose weights are scaled to a mean of 1: their ratios matter, and tiny ones would
    underflow."""
    if data.weights is None:
        return pad(data.x, data.y, None)
    mean = data.weights.mean()
    return pad(data.x, data.y, data.weights / mean, mean)


def repeated(data: Data, size: int) -> Data:
    """``size`` rows, those of the data in turn, with weights that leave each its share."""
    if size == len(data.x):
        return data
    rows, weights = repeated_rows(np.arange(len(data.x)), size, data.weights)
    return data.take(rows)._replace(weights=weights)


def repeated_alike(members: list[Member]) -> list[Data]:
    """The rows of each member, repeated so that they have few sizes, each compiled once."""
    counts = [len(member.train.x) for member in members]
    largest = max(counts)
    # one size for all would be mostly copies where the members differ much
    alike = largest * len(members) <= 2 * sum(counts)
    sizes = [largest if alike else 1 << math.ceil(math.log2(count)) for count in counts]
    pairs = zip(members, sizes, strict=True)
    return [repeated(member.train, size) for member, size in pairs]
