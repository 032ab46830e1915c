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


def share_of(model: Model) -> float:
    """The default validation share; 0 if the model keeps its last params."""
    return SHARE if model.learning.keep == "best" else 0.0


def checked(model: Model, validation: Any) -> float | Data:
    """The share of rows to hold out, or checked validation data."""
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
