"""Compound constraints, and the constraint and bounds of the single numbers in an event.

NumPyro has constraints of numbers and of arrays whose numbers share one constraint. These add
arrays whose pieces have different constraints, and ``biject_to`` maps the reals onto them.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform, biject_to

from jaxgen.core.families import namespace
from jaxgen.core.spec import Params


def innermost(constraint: constraints.Constraint) -> constraints.Constraint:
    """The constraint inside ``constraints.independent``, such as that of each number."""
    while hasattr(constraint, "base_constraint"):
        constraint = constraint.base_constraint
    return constraint


def bounds(constraint: constraints.Constraint) -> tuple[Any, Any] | None:
    """The lower and the upper bound of each number; None where either side has no bound."""
    number = innermost(constraint)
    if number is constraints.boolean:
        return 0, 1
    ends = [getattr(number, name, None) for name in ("lower_bound", "upper_bound")]
    return None if any(end is None for end in ends) else (ends[0], ends[1])


def discrete_numbers(
    constraint: constraints.Constraint | None, shape: tuple[int, ...]
) -> np.ndarray:
    """Which numbers of an array of a shape take whole values only; None is no constraint."""
    if not isinstance(constraint, Pieces):
        return np.full(shape, constraint is not None and innermost(constraint).is_discrete)
    pieces = zip(constraint.each, constraint.shapes, strict=True)
    each = [discrete_numbers(piece, size).ravel() for piece, size in pieces]
    return np.concatenate(each).reshape(shape)


def support_within(params: Params) -> constraints.Constraint:
    """The support of vectors whose numbers are in [low, high], with the bounds as params."""
    return constraints.independent(constraints.interval(params["low"], params["high"]), 1)


class _Several(constraints.Constraint):
    """Several constraints of the same value."""

    def __init__(self, each: tuple[constraints.Constraint, ...]):
        self.each = each
        super().__init__()

    @property
    def event_dim(self):
        return self.each[0].event_dim

    @property
    def is_discrete(self):
        return any(constraint.is_discrete for constraint in self.each)

    def __repr__(self):
        return f"{type(self).__name__}{self.each}"

    def feasible_like(self, prototype):
        return self.each[-1].feasible_like(prototype)

    def tree_flatten(self):
        return (), ((), {"each": self.each})

    def eq(self, other, static=False):
        return type(other) is type(self) and self.each == other.each


class Every(_Several):
    """Several constraints, all of which hold for the same value."""

    def __call__(self, x):
        return functools.reduce(operator.and_, (constraint(x) for constraint in self.each))


class Either(_Several):
    """Several constraints, at least one of which holds for the same value."""

    def __call__(self, x):
        return functools.reduce(operator.or_, (constraint(x) for constraint in self.each))


class Pieces(constraints.Constraint):
    """Consecutive pieces of an array, each with its own shape and constraint.

    Args:
      each: constraints of the pieces.
      shapes: shapes of the pieces, which together have as many numbers as the array.
      event_shape: shape of the array; None for a vector.
    """

    def __init__(
        self,
        each: tuple[constraints.Constraint, ...],
        shapes: tuple[tuple[int, ...], ...],
        event_shape: tuple[int, ...] | None = None,
    ):
        self.each, self.shapes = each, shapes
        self.event_shape = (sum(map(math.prod, shapes)),) if event_shape is None else event_shape
        super().__init__()

    @property
    def event_dim(self):
        return len(self.event_shape)

    @property
    def is_discrete(self):
        # in some versions of NumPyro, independent constraints do not have the right answer
        return any(innermost(constraint).is_discrete for constraint in self.each)

    def __call__(self, x):
        pieces = zip(self.each, self.split(x), strict=True)
        return functools.reduce(operator.and_, (constraint(v) for constraint, v in pieces))

    def __repr__(self):
        return f"Pieces{self.each}"

    def split(self, x: Any) -> list[Any]:
        """The pieces of arrays (..., *event_shape)."""
        batch = jnp.shape(x)[: jnp.ndim(x) - self.event_dim]
        return _split(x.reshape(*batch, -1), self.shapes)

    def feasible_like(self, prototype):
        pieces = zip(self.each, self.split(jnp.asarray(prototype)), strict=True)
        shape = jnp.shape(prototype)
        feasible = [constraint.feasible_like(v) for constraint, v in pieces]
        return _joined(feasible, shape[: len(shape) - self.event_dim]).reshape(shape)

    def tree_flatten(self):
        static = {"shapes": self.shapes, "event_shape": self.event_shape}
        return (self.each,), (("each",), static)

    def eq(self, other, static=False):
        if not isinstance(other, Pieces):
            return False
        mine, its = ((p.shapes, p.event_shape, p.each) for p in (self, other))
        return mine == its


class SupportOf(constraints.ParameterFreeConstraint):
    """The support of a model, as a constraint without parameters.

    NumPyro's mixtures take no other constraints. The model makes it hashable.
    """

    def __init__(self, model: Any):
        self.model = model
        super().__init__()

    @property
    def base_constraint(self):
        return self.model.support

    @property
    def is_discrete(self):
        return innermost(self.model.support).is_discrete

    @property
    def event_dim(self):
        return self.model.support.event_dim

    def __call__(self, x):
        return self.model.support(x)

    def __repr__(self):
        return repr(self.model.support)

    def feasible_like(self, prototype):
        return self.model.support.feasible_like(prototype)

    def tree_flatten(self):
        return (), ((), {"model": self.model})

    def eq(self, other, static=False):
        return isinstance(other, SupportOf) and self.model == other.model


class _ToPieces(Transform):
    """A bijection of a real vector onto ``Pieces``: each piece by the map onto its constraint."""

    domain = constraints.real_vector

    def __init__(self, pieces):
        self.pieces = pieces

    @property
    def codomain(self):
        return self.pieces

    @property
    def _maps(self):
        return [biject_to(constraint) for constraint in self.pieces.each]

    @property
    def _real_shapes(self):
        """The shapes of the pieces of the real vector."""
        pairs = zip(self._maps, self.pieces.shapes, strict=True)
        return tuple(onto.inverse_shape(shape) for onto, shape in pairs)

    def __call__(self, x):
        pieces = zip(self._maps, _split(x, self._real_shapes), strict=True)
        batch = jnp.shape(x)[:-1]
        mapped = _joined([onto(v) for onto, v in pieces], batch)
        return mapped.reshape(*batch, *self.pieces.event_shape)

    def _inverse(self, y):
        pieces = zip(self._maps, self.pieces.split(y), strict=True)
        batch = jnp.shape(y)[: jnp.ndim(y) - self.pieces.event_dim]
        return _joined([onto.inv(v) for onto, v in pieces], batch)

    def log_abs_det_jacobian(self, x, y, intermediates=None):
        pieces = zip(self._maps, _split(x, self._real_shapes), self.pieces.split(y), strict=True)
        dets = [onto.log_abs_det_jacobian(v, w) for onto, v, w in pieces]
        return _joined(dets, jnp.shape(x)[:-1]).sum(-1)

    def forward_shape(self, shape):
        return (*shape[:-1], *self.pieces.event_shape)

    def inverse_shape(self, shape):
        batch = shape[: len(shape) - self.pieces.event_dim]
        return (*batch, sum(map(math.prod, self._real_shapes)))

    def tree_flatten(self):
        return (self.pieces,), (("pieces",), {})

    def eq(self, other, static=False):
        return isinstance(other, _ToPieces) and self.pieces == other.pieces


biject_to.register(Pieces, _ToPieces)
biject_to.register(SupportOf, lambda constraint: biject_to(constraint.model.support))


def _split(x, shapes):
    """The pieces of vectors (..., n)."""
    ends = list(itertools.accumulate(map(math.prod, shapes)))
    pieces = namespace(x).split(x, ends[:-1], axis=-1)
    return [v.reshape(*v.shape[:-1], *shape) for v, shape in zip(pieces, shapes, strict=True)]


def _joined(pieces, batch):
    """The vectors (*batch, n) that pieces make."""
    return jnp.concatenate([jnp.reshape(v, (*batch, -1)) for v in pieces], -1)
