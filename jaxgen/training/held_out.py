"""Rows that are held out of training, to decide which params are best."""

from __future__ import annotations

import numbers
from typing import Any

import jax
import numpy as np

from jaxgen.core.model import Model
from jaxgen.core.places import Message
from jaxgen.training.rows import Data, training_data

SHARE = 0.1
# A small model that has many rows for each of its numbers hardly overfits, while few held-out rows
# decide by chance which params are best.
FEW_NUMBERS = 100
ROWS_EACH = 100


def default_share(model: Model, numbers: int | None, n: int) -> float:
    """The default validation share.

    It is 0 if the model keeps its last params, or if training has at most ``FEW_NUMBERS`` numbers
    to learn and ``ROWS_EACH`` rows for each of them.

    Args:
      model: the spec.
      numbers: how many numbers are learnt; None if that is not known.
      n: number of training rows.
    """
    small = numbers is not None and numbers <= min(FEW_NUMBERS, n / ROWS_EACH)
    return 0.0 if small or model.learning.keep != "best" else SHARE


def checked(model: Model, validation: Any) -> float | Data | None:
    """The share of rows to hold out, checked validation data, or None for the default share."""
    if validation is None:
        return None
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
        x, y, _ = training_data(model, data[0], data[1] if len(data) == 2 else None, None)
        return Data(x, y, None, np.arange(len(x)), name="validation")
    except (TypeError, ValueError) as error:
        raise type(error)(Message("validation: ", error)) from None


def hold_out(key: jax.Array, data: Data, validation: float | Data) -> tuple[Data, Data | None]:
    """Rows to train with, and those held out or None; validation is what ``checked`` returns."""
    if isinstance(validation, Data):
        return data, validation
    count = int(validation * len(data.x))
    if count == 0:
        return data, None
    # on the host, since a compiled permutation would be compiled for every n
    seed = np.asarray(jax.random.key_data(key)).ravel().tolist()
    shuffled = np.random.default_rng(seed).permutation(len(data.x))
    return data.take(np.sort(shuffled[count:])), data.take(np.sort(shuffled[:count]))
