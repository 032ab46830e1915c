"""Rows grouped by label, and params side by side."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core import places
from jaxgen.core.families import namespace
from jaxgen.core.places import Message
from jaxgen.core.spec import Params


def log_frequencies(classes: int, y: Any = None, weights: Any = None) -> Any:
    """The log share of each label among y (n,), (classes,); equal shares where y is None."""
    if y is None:
        return jnp.zeros(classes)
    if namespace(y, weights) is jnp:
        counts = jnp.zeros(classes).at[y].add(1 if weights is None else weights)
        return jnp.log(counts / counts.sum())
    total = np.bincount(np.asarray(y, int), weights, minlength=classes)
    with np.errstate(divide="ignore"):
        return np.log(total / total.sum())


def rows_of_label(y: Any, label: int) -> np.ndarray:
    """Indices of the rows with a label.

    Raises:
      ValueError: there are none.
    """
    rows = np.flatnonzero(np.asarray(y) == label)
    if not len(rows):
        missing = f"y must hold every label, but none of its {len(y)} rows has "
        raise ValueError(Message(missing, places.label(label)))
    return rows


def repeated_rows(rows: np.ndarray, size: int, weights: Any = None) -> tuple[np.ndarray, Any]:
    """``size`` indices, those of rows in turn, and weights (size,) that leave each row its share.

    Classes of one size share one compiled program, and their params have one shape. The weights
    are None if none are given and no row is repeated.
    """
    if weights is None and size == len(rows):
        return rows, None
    times = -(-(size - np.arange(len(rows))) // len(rows))
    weights = np.ones(len(rows)) if weights is None else weights[rows]
    chosen = np.arange(size) % len(rows)
    return rows[chosen], (weights / times)[chosen]


def stack(trees: list[Any]) -> Params:
    """One pytree of many, with a leading axis, on the host, where nothing is compiled."""

    def together(*leaves: Any) -> Any:
        shapes = sorted({np.shape(leaf) for leaf in leaves})
        if len(shapes) > 1:
            raise ValueError(
                "models fitted side by side must have params of equal shapes, got "
                f"{shapes[0]} and {shapes[-1]}: their sizes depend on the data of each"
            )
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
        return jnp.stack(leaves) if traced else np.stack([np.asarray(leaf) for leaf in leaves])

    return jax.tree_util.tree_map(together, *trees)


def entry(tree: Any, k: int) -> Any:
    """Entry k of the leading axis of every leaf, as ``stack`` makes it."""
    return jax.tree_util.tree_map(lambda leaf: leaf[k], tree)


@contextlib.contextmanager
def errors_begin_with(*prefix: Any) -> Iterator[None]:
    """A context whose ValueErrors begin with a prefix, of strings and places."""
    try:
        yield
    except ValueError as error:
        raise ValueError(Message(*prefix, error)) from error


def errors_of_label(label: int) -> contextlib.AbstractContextManager[None]:
    """A context whose ValueErrors say which label's events they are about."""
    return errors_begin_with("in the events of ", places.label(label), ": ")
