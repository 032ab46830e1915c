"""Errors of the command line about images, before the work that they would spoil."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.cli.images import Training
from jaxgen.core.model import Model
from jaxgen.data import tables
from jaxgen.data.images.writing import is_folder_name
from jaxgen.training.fitted import Fitted


@contextlib.contextmanager
def hints(found: Training | None) -> Iterator[None]:
    """A context whose errors about the levels of a model tell how to choose those of images."""
    try:
        yield
    except ValueError as error:
        if found is None or "levels must be" not in str(error):
            raise
        raise ValueError(
            f"{error}, those of the images; use --levels for another number, or --set levels=None "
            "for numbers without levels"
        ) from None


def check_labels(fitted: Fitted, path: str, y: Any) -> None:
    """Raise if draws go to a folder, and a label cannot be the name of a subfolder.

    Args:
      fitted: the model.
      path: where its draws go.
      y: the label to draw given; None if any label can be drawn.
    """
    if fitted.model.classes is None or Path(path).suffix:
        return
    for label in (fitted.labels or ()) if y is None else (y,):
        if not is_folder_name(str(label)):
            raise ValueError(
                f"{path}: label {label!r} cannot be the name of a folder; use a path that ends in "
                ".png, or a table"
            )


def check_table(fitted: Fitted, path: str) -> None:
    """Raise if the draws of a model of images cannot be written to a path that is no image."""
    is_vector = len(fitted.model.event_shape) == 1
    suits = tables.is_table(path) if is_vector else Path(path).suffix.lower() in (".npy", ".npz")
    if not suits:
        known = tables.endings() if is_vector else ".npy or .npz"
        raise ValueError(
            f"{path}: draws of images go to a grid, a file that ends in .png; to a folder, a path "
            f"without an ending; or, as levels, to a table that ends in {known}"
        )


def check_levels(model: Model, found: Training) -> None:
    """Raise if a model has fewer levels than the images; the error says which option helps."""
    support, most = model.support, int(found.x.max(initial=0))
    if not support.is_discrete:
        return

    def suits(level: int) -> bool:
        return bool(np.all(support(np.full(model.event_shape, level, np.float32))))

    levels = next((k + 1 for k in reversed(range(most + 1)) if suits(k)), 0)
    if 2 <= levels <= most:
        raise ValueError(
            f"{type(model).__name__} has {levels} levels, and the images have "
            f"{found.pixels.levels}: use --levels {levels}"
        )
