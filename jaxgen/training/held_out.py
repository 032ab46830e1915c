"""The rows that are held out of training and judge it."""

from __future__ import annotations

import numbers

import jax
import numpy as np

from jaxgen.core.places import Message
from jaxgen.training.rows import training_data

SHARE = 0.1


def share_of(model) -> float:
    """The default share of rows to hold out; 0 if the model keeps its last params."""
    return SHARE if model.keep == "best" else 0.0


def checked(model, validation):
    """The share of rows to hold out, a number, or checked validation data (x, y)."""
    if validation is None:
        return share_of(model)
    if isinstance(validation, numbers.Real) and not isinstance(validation, bool):
        share = float(validation)
        if not 0 <= share < 1:
            raise ValueError(f"validation must be a share in [0, 1) or data, got {validation}")
        return share
    data = validation if isinstance(validation, tuple) else (validation,)
    try:
        if len(data) not in (1, 2):
            raise ValueError(f"a tuple must be (x, y), got {len(data)} entries")
        if len(data) == 1 and model.classes is not None:
            raise ValueError("labelled data is held out as a tuple (x, y)")
        return training_data(model, data[0], data[1] if len(data) == 2 else None, None)[:2]
    except (TypeError, ValueError) as error:
        raise type(error)(Message("validation: ", error)) from None


def hold_out(key, x, y, weights, validation):
    """Training data, held-out data or None, and in x the places of both (None: not of x).

    validation is what ``checked`` returns.
    """
    everything = np.arange(len(x))
    if isinstance(validation, tuple):
        return (x, y, weights), (*validation, None), everything, None
    count = int(validation * len(x))
    if count == 0:
        return (x, y, weights), None, everything, None
    # on the host, since a compiled permutation would be compiled for every n
    seed = np.asarray(jax.random.key_data(key)).ravel().tolist()
    shuffled = np.random.default_rng(seed).permutation(len(x))
    held_rows, rows = np.sort(shuffled[:count]), np.sort(shuffled[count:])

    def take(rows):
        return x[rows], None if y is None else y[rows], None if weights is None else weights[rows]

    return take(rows), take(held_rows), rows, held_rows
