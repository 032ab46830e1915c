"""Degrees of freedom: how many real numbers of a model are free."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.core.model import Model
from jaxgen.core.spec import Params
from jaxgen.core.wrapper import inner_of, params_at


def degrees_of_freedom(model: Model, params: Params) -> int:
    """The number of free real numbers of a model, as in AIC and BIC.

    A Cholesky factor counts its triangle, the weights of K components or levels count K - 1, and
    copies of a model count each. Numbers that come from the data without being trained count if
    they are part of the density, such as the edges of a ``Box`` or the frequencies of labels. The
    shift and scale with which a network standardises its inputs do not count. All weights of a
    network and all params of a bijector count, although some of them may be redundant.

    Args:
      model: the spec.
      params: its params; only their shapes are read.

    Raises:
      NotImplementedError: the model has no such number, as a ``KDE``, whose params are events.

    >>> mixture = jaxgen.models.GaussianMixture(3, components=4)
    >>> degrees_of_freedom(mixture, mixture.init(key))
    39
    """
    stated = model.traits.degrees_of_freedom
    return numbers_not_frozen(model, params) if stated is None else stated(params)


def numbers_not_frozen(model: Model, params: Params) -> int:
    """The degrees of freedom of the models inside, and all other numbers that are not frozen."""
    frozen = [tuple(name.split("/")) for name in model.learning.frozen]
    inner = [(tuple(map(str, one.place)), one) for one in inner_of(model)]
    count = 0
    for place, one in inner:
        if any(place[: len(path)] == path for path in frozen):
            continue
        held, copies = params_at(params, one.place), 1
        if one.copies is not None:
            held, copies = jax.tree_util.tree_map(_without_leading_axis, held), one.copies
        count += copies * degrees_of_freedom(one.model, held)
    counted = [*frozen, *(place for place, _ in inner)]
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        names = tuple(jax.tree_util.keystr(path, simple=True, separator="/").split("/"))
        is_number = jnp.issubdtype(leaf.dtype, jnp.floating)
        if is_number and not any(names[: len(prefix)] == prefix for prefix in counted):
            count += math.prod(leaf.shape)
    return count


def _without_leading_axis(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
