"""The rows that are held out of training and judge it."""

from __future__ import annotations

import numbers

import jax
import numpy as np

from jaxgen.fit.rows import training_data

SHARE = 0.1


def share_of(model) -> float:
    """Of the rows, held out by default: none where they would decide nothing."""
    return SHARE if model.keep == "best" else 0.0


def hold_out(model, key, x, y, weights, validation):
    """Training data, held-out data or None, and in x the places of both (None: not of x)."""
    everything = np.arange(len(x))
    if not isinstance(validation, numbers.Real) or isinstance(validation, bool):
        data = validation if isinstance(validation, tuple) else (validation,)
        try:
            if len(data) not in (1, 2):
                raise ValueError(f"a tuple must be (x, y), got {len(data)} entries")
            held = training_data(model, data[0], data[1] if len(data) == 2 else None, None)
        except (TypeError, ValueError) as error:
            raise type(error)(f"validation: {error}") from None
        return (x, y, weights), held, everything, None
    share = float(validation)
    if not 0 <= share < 1:
        raise ValueError(f"validation must be a share in [0, 1) or data, got {validation}")
    count = int(share * len(x))
    if count == 0:
        return (x, y, weights), None, everything, None
    # on the host, since a compiled permutation would be compiled for every n
    seed = np.asarray(jax.random.key_data(key)).ravel().tolist()
    shuffled = np.random.default_rng(seed).permutation(len(x))
    held_rows, rows = np.sort(shuffled[:count]), np.sort(shuffled[count:])

    def take(rows):
        return x[rows], None if y is None else y[rows], None if weights is None else weights[rows]

    return take(rows), take(held_rows), rows, held_rows
