"""The supports of models as constraints that NumPyro can map the reals onto."""

from __future__ import annotations

import functools
import itertools
import math
import operator

import jax.numpy as jnp
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform, biject_to

from jaxgen.compose import Product
from jaxgen.models import Box, Histogram
from jaxgen.networks.domains import constraint as constraint_of


def varies(model):
    """Whether the support follows from the params."""
    return isinstance(model, Box | Histogram) or (
        isinstance(model, Product) and any(map(varies, model.parts))
    )


def support_of(model, params=None):
    """The support, narrower where params say more, of constraints that ``biject_to`` knows."""
    if params is not None and isinstance(model, Box | Histogram):
        return constraints.independent(constraints.interval(params["low"], params["high"]), 1)
    support = model.support
    if hasattr(support, "domains"):  # of each number its own
        each = tuple(constraint_of((domain,), ()) for domain in support.domains)
        return _Pieces(each, ((),) * len(each))
    if hasattr(support, "parts"):  # of a product
        own = params if isinstance(model, Product) and params else [None] * len(support.parts)
        each = tuple(map(support_of, support.parts, own))
        return _Pieces(each, tuple(part.event_shape for part in support.parts))
    return support


def entry_of(support):
    """The constraint of one number, where all have the same."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def bounds_of(support):
    """The least and the largest whole number of a constraint, or None where there is no end."""
    entry = entry_of(support)
    if isinstance(entry, Fixed):
        entry = entry_of(support_of(entry.model))
    if entry is constraints.boolean:
        return 0, 1
    ends = [getattr(entry, name, None) for name in ("lower_bound", "upper_bound")]
    return None if any(end is None for end in ends) else tuple(ends)


class Fixed(constraints.ParameterFreeConstraint):
    """The support of a model whatever its params: mixtures of NumPyro take no other."""

    def __init__(self, model):
        self.model = model
        super().__init__()

    @property
    def is_discrete(self):
        return entry_of(support_of(self.model)).is_discrete  # independent ones did not always tell

    @property
    def event_dim(self):
        return support_of(self.model).event_dim

    def __call__(self, x):
        return support_of(self.model)(x)

    def feasible_like(self, prototype):
        return support_of(self.model).feasible_like(prototype)

    def __repr__(self):
        return repr(support_of(self.model))  # by which NumPyro tells why it cannot map it

    def tree_flatten(self):
        return (), ((), {"model": self.model})

    def eq(self, other, static=False):
        return isinstance(other, Fixed) and self.model == other.model


class _Pieces(constraints.Constraint):
    """Consecutive numbers of a vector, each piece in a shape and a constraint of its own."""

    event_dim = 1

    def __init__(self, each, shapes):
        self.each, self.shapes = each, shapes
        super().__init__()

    @property
    def is_discrete(self):
        return any(entry_of(own).is_discrete for own in self.each)

    def __call__(self, x):
        pieces = zip(self.each, _cut(x, self.shapes), strict=True)
        return functools.reduce(operator.and_, (own(v) for own, v in pieces))

    def feasible_like(self, prototype):
        pieces = zip(self.each, _cut(prototype, self.shapes), strict=True)
        return _joined([own.feasible_like(v) for own, v in pieces], jnp.ndim(prototype) - 1)

    def __repr__(self):
        return f"Pieces{self.each}"

    def tree_flatten(self):
        return (self.each,), (("each",), {"shapes": self.shapes})

    def eq(self, other, static=False):
        same = isinstance(other, _Pieces) and self.shapes == other.shapes
        return same and all(a == b for a, b in zip(self.each, other.each, strict=True))


class _OfPieces(Transform):
    """The reals onto a vector in pieces: each piece by the map onto its own constraint."""

    domain = constraints.real_vector

    def __init__(self, pieces):
        self.pieces = pieces

    @property
    def codomain(self):
        return self.pieces

    @property
    def maps(self):
        return [biject_to(own) for own in self.pieces.each]

    @property
    def free(self):
        """The shapes of the pieces on the side of the reals."""
        pairs = zip(self.maps, self.pieces.shapes, strict=True)
        return tuple(own.inverse_shape(shape) for own, shape in pairs)

    def __call__(self, x):
        pieces = zip(self.maps, _cut(x, self.free), strict=True)
        return _joined([own(v) for own, v in pieces], jnp.ndim(x) - 1)

    def _inverse(self, y):
        pieces = zip(self.maps, _cut(y, self.pieces.shapes), strict=True)
        return _joined([own.inv(v) for own, v in pieces], jnp.ndim(y) - 1)

    def log_abs_det_jacobian(self, x, y, intermediates=None):
        pieces = zip(self.maps, _cut(x, self.free), _cut(y, self.pieces.shapes), strict=True)
        dets = [own.log_abs_det_jacobian(v, w) for own, v, w in pieces]
        return _joined(dets, jnp.ndim(x) - 1).sum(-1)

    def forward_shape(self, shape):
        return (*shape[:-1], sum(map(math.prod, self.pieces.shapes)))

    def inverse_shape(self, shape):
        return (*shape[:-1], sum(map(math.prod, self.free)))

    def tree_flatten(self):
        return (self.pieces,), (("pieces",), {})

    def eq(self, other, static=False):
        return isinstance(other, _OfPieces) and self.pieces == other.pieces


biject_to.register(_Pieces, _OfPieces)
biject_to.register(Fixed, lambda support: biject_to(support_of(support.model)))


def _cut(x, shapes):
    """The pieces of a vector, or of a batch of them."""
    ends = list(itertools.accumulate(map(math.prod, shapes)))
    pieces = jnp.split(x, ends[:-1], -1)
    return [v.reshape(*v.shape[:-1], *shape) for v, shape in zip(pieces, shapes, strict=True)]


def _joined(pieces, dims):
    """The vectors whose pieces have so many dimensions of a batch."""
    return jnp.concatenate([v.reshape(*v.shape[:dims], -1) for v in pieces], -1)
