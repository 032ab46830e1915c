"""Checks that params, scores and gradients of a fit are finite, with errors that name the cause."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxgen.core import batch, places
from jaxgen.core.model import Model
from jaxgen.core.places import Message
from jaxgen.core.units import Units
from jaxgen.training import freezing
from jaxgen.training.rows import Rows, noise_key

_TOGETHER = 16  # rows whose gradients are held at once
_SHOWN = 6  # numbers of a row in an error


def check_params(model: Model, params: Any) -> Any:
    """The fitted params; an error if they are not finite.

    Probabilities may be 0: params whose name starts with "log" may be -inf, and log-odds, named
    "logits", also inf.
    """
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            continue
        values, names = np.asarray(leaf), freezing.path_of(path)
        bad = np.isnan(values)
        if not names[-1].startswith("log"):
            bad |= values == -np.inf
        if names[-1] != "logits":
            bad |= values == np.inf
        if bad.any():
            raise ValueError(
                f"x cannot be fitted: params {'/'.join(names)} of {model} would hold "
                f"{values[bad].ravel()[0]}"
            )
    return params


def check_slopes(
    model: Model,
    params: Any,
    mask: tuple[bool, ...],
    rows: Rows,
    numbers: Any,
    key: Any,
    units: Units | None = None,
) -> None:
    """Raise if the gradient of the loss at the starting params is not finite for some real row.

    Args:
      model, params: the model and its starting params.
      mask: which leaves are learnt.
      rows: padded rows.
      numbers: the number of each row in what the user gave.
      key: key of the losses' noise.
      units: those of x in the rows, if they are not the user's.
    """
    finite = np.asarray(_finite_slopes(model, mask, params, key, rows))
    bad = ~finite[: int(rows.count)] & (np.asarray(rows.weights)[: int(rows.count)] > 0)
    if not bad.any():
        return
    row = int(bad.argmax())
    x = np.asarray(rows.x[row])
    x = x if units is None else units.shift + units.scale * x
    y = None if rows.y is None else np.asarray(rows.y[row])
    whose = "x cannot be fitted: at the starting params the loss of "
    slope = f", {described(x, y)}, has a gradient that is not finite under {model}"
    raise ValueError(Message(whose, places.row(numbers[row]), slope))


def described(x, y) -> str:
    """A row's values, for an error."""

    def shown(v):
        few = ", ".join(f"{number:.6g}" for number in np.ravel(v)[:_SHOWN])
        return few if np.size(v) <= _SHOWN else f"{few}, ..."

    return f"x = ({shown(x)})" + ("" if y is None else f" with y = ({shown(y)})")


@functools.partial(jax.jit, static_argnums=(0, 1))
def _finite_slopes(model, mask, params, key, rows):
    """Whether the gradient of each row's loss in the learnt params is finite."""
    leaves, tree = jax.tree_util.tree_flatten(params)

    def loss(learnt, i, x, y):
        moving = iter(learnt)
        own = [next(moving) if m else leaf for leaf, m in zip(leaves, mask, strict=True)]
        own = jax.tree_util.tree_unflatten(tree, own)
        y = None if y is None else y[None]
        return batch.loss_rows(model, own, noise_key(model, key, i), x[None], y, rows.events)[0]

    def finite(row):
        learnt, _ = freezing.split(params, mask)
        slopes = jax.grad(loss)(learnt, *row)
        return jnp.array([jnp.isfinite(slope).all() for slope in slopes]).all()

    each = jnp.arange(len(rows.x)), rows.x, rows.y
    return lax.map(finite, each, batch_size=_TOGETHER)
