"""Independent parts side by side."""

from __future__ import annotations

import bisect
import functools
import itertools
import math
import operator

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from jaxgen.bijectors import Permute
from jaxgen.compose.transformed import Transformed
from jaxgen.core import places
from jaxgen.core.families import check_observed, mask_argument, modulate, namespace
from jaxgen.core.model import Model
from jaxgen.core.places import Names
from jaxgen.core.wrapper import Inner, Wrapper


class Product(Wrapper):
    """log p(x) = sum_i log p_i(x_i) with x the parts' events laid end to end in one vector.

    Args:
      parts: models; an event of any shape takes up as many entries as it has.

    Params: a tuple, one entry a part.

    >>> mixed = Product((Gaussian(2), Categorical((1,), levels=5)))
    """

    parts: tuple[Model, ...]

    def __post_init__(self):
        super().__post_init__()
        if not self.parts:
            raise ValueError("Product: parts must hold at least one model, got ()")
        if len({part.y_shape for part in self.parts}) > 1:
            shapes = [part.y_shape for part in self.parts]
            raise ValueError(f"Product: parts must share one y_shape, got {shapes}")

    @property
    def event_shape(self):
        return (self._ends[-1],)

    @property
    def inner(self):
        return tuple(Inner(part, (i,)) for i, part in enumerate(self.parts))

    @property
    def y_support(self):
        supports = [part.y_support for part in self.parts if part.y_support is not None]
        return _Every(tuple(supports)) if supports else None

    classes = None

    def _traits(self):
        reparameterized = all(part.traits.reparameterized for part in self.parts)
        return super()._traits()._replace(reparameterized=reparameterized)

    @property
    def support(self):
        return _Parts(self.parts)

    def _learning(self):
        each = [
            np.broadcast_to(part.learning.rescalable, part.event_shape).reshape(-1)
            for part in self.parts
        ]
        noise = tuple(part.learning.noise for part in self.parts)
        return super()._learning()._replace(rescalable=np.concatenate(each), noise=noise)

    def rescale(self, params, shift, scale):
        split = zip(self.parts, params, self._split(shift), self._split(scale), strict=True)
        return tuple(
            part.rescale(*own) if np.any(part.learning.rescalable) else own[0]
            for part, *own in split
        )

    def init(self, key, x=None, y=None):
        if x is None:
            return tuple(part.init(key) for part in self.parts)
        made = []
        for i, (part, own) in enumerate(zip(self.parts, self._split(x), strict=True)):
            with self._names(i):
                made.append(part.init(key, own, y))
        return tuple(made)

    def log_prob(self, params, x, y=None, observed=None):
        split = zip(self.parts, params, self._split(x), self._known(observed), strict=True)
        return sum(part.log_prob(p, v, y, **own) for part, p, v, own in split)

    def loss(self, params, noise, x, y=None):
        split = zip(self.parts, params, noise, self._split(x), strict=True)
        return sum(part.loss(p, z, v, y) for part, p, z, v in split)

    def modulate(self, params, change):
        each = zip(self.parts, params, change, strict=True)
        return tuple(modulate(part, p, c) for part, p, c in each)

    def noise(self):
        return tuple(part.noise() for part in self.parts)

    def push(self, params, noise, y=None):
        parts = zip(self.parts, params, noise, strict=True)
        events = [part.push(p, z, y).reshape(-1) for part, p, z in parts]
        return jnp.concatenate(events)

    def pull(self, params, x, y=None):
        split = zip(self.parts, params, self._split(x), strict=True)
        return tuple(part.pull(p, v, y) for part, p, v in split)

    def complete(self, params, noise, x, observed, y=None):
        split = zip(self.parts, params, noise, self._split(x), self._split(observed), strict=True)
        return jnp.concatenate([a.complete(p, z, v, s, y).reshape(-1) for a, p, z, v, s in split])

    def marginal(self, params, features):
        own = self._own(features)
        parts, ours = zip(*(self._marginal(params, i, own[i]) for i in own), strict=True)
        together = [place for i in own for place in self._places(i, own[i])]
        if together == list(features):
            return Product(parts), ours
        # parts in turns: first each part's features, then put in order
        found = {place: i for i, place in enumerate(together)}
        order = tuple(found[feature] for feature in features)
        return Transformed(Product(parts), Permute(order)), {"base": ours, "bijector": {}}

    def given(self, params, features, values):
        own, rest = self._own(features), []
        found = {place: i for i, place in enumerate(features)}
        for i, part in enumerate(self.parts):
            if i not in own:
                rest.append((part, params[i]))
            elif len(own[i]) < _size(part):
                ours = [found[place] for place in self._places(i, own[i])]
                rest.append(part.given(params[i], own[i], values[np.array(ours)]))
        parts, left = zip(*rest, strict=True)
        return Product(parts), left

    def estimate(self, x, y=None, weights=None, observed=None):
        if observed is not None and namespace(x, weights) is np:
            check_observed(observed)
        split, made = zip(self.parts, self._split(x), self._known(observed), strict=True), []
        for i, (part, v, own) in enumerate(split):
            with self._names(i):
                made.append(part.estimate(v, y, weights, **own))
        return tuple(made)

    def em_step(self, params, x, y=None, weights=None, observed=None):
        new, total = [], 0.0
        split = zip(self.parts, params, self._split(x), self._known(observed), strict=True)
        for part, p, v, own in split:
            if (part.learning.method if observed is None else part.learning.missing) == "em":
                p, score = part.em_step(p, v, y, weights, **own)
            else:
                score = _scores(part, p, v, y, **own)
                score = jnp.average(score, weights=weights)
                better = part.estimate(v, y, weights, **own)
                if _shapes(better) == _shapes(p):  # not a KDE, whose points would be the padding
                    p = better
            new.append(p)
            total = total + score
        return tuple(new), total

    def _names(self, i):
        """Errors of part i, with its features as those of the whole."""
        first = self._places(i, (0,))[0]
        return Names(feature=lambda j: places.feature(first + j))

    def _known(self, observed):
        """What each part is told of what is seen, as keywords."""
        return map(
            mask_argument, [None] * len(self.parts) if observed is None else self._split(observed)
        )

    def _own(self, features):
        """By number of the part, the places within it of those features that are its own."""
        own: dict[int, list[int]] = {}
        ends = self._ends
        for feature in features:
            i = bisect.bisect(ends, feature)
            own.setdefault(i, []).append(feature - ends[i] + _size(self.parts[i]))
        return {i: tuple(places) for i, places in own.items()}

    def _places(self, i, own):
        return [self._start(i) + place for place in own]

    def _start(self, i):
        return self._ends[i] - _size(self.parts[i])

    def _marginal(self, params, i, own):
        part = self.parts[i]
        whole = own == tuple(range(_size(part)))
        return (part, params[i]) if whole else part.marginal(params[i], own)

    @property
    def _ends(self):
        return tuple(itertools.accumulate(_size(part) for part in self.parts))

    def _split(self, x):
        """Each part's share of one event, or of a batch of them, in the part's own shape."""
        pieces = namespace(x).split(x, self._ends[:-1], axis=-1)
        shapes = (part.event_shape for part in self.parts)
        return [v.reshape((*v.shape[:-1], *s)) for v, s in zip(pieces, shapes, strict=True)]


def _size(part):
    return math.prod(part.event_shape)


def _scores(part, params, x, y, observed=None):
    """Scores of rows, of what is seen of them."""
    axes = (None, 0, None if y is None else 0, None if observed is None else 0)
    score = lambda p, v, y, s: part.log_prob(p, v, y, **mask_argument(s))  # noqa: E731
    return jax.vmap(score, axes)(params, x, y, observed)


def _shapes(params):
    return [jnp.shape(leaf) for leaf in jax.tree_util.tree_leaves(params)]


class _Every(constraints.Constraint):
    """All of some constraints on the same number."""

    def __init__(self, each):
        self.each = each
        super().__init__()

    @property
    def event_dim(self):
        return self.each[0].event_dim

    @property
    def is_discrete(self):
        return any(constraint.is_discrete for constraint in self.each)

    def __call__(self, x):
        return functools.reduce(operator.and_, (constraint(x) for constraint in self.each))

    def feasible_like(self, prototype):
        return self.each[-1].feasible_like(prototype)

    def tree_flatten(self):
        return (), ((), {"each": self.each})

    def eq(self, other, static=False):
        return isinstance(other, _Every) and self.each == other.each


class _Parts(constraints.Constraint):
    """Each part's entries satisfy the part's own support."""

    event_dim = 1

    @property
    def is_discrete(self):
        return any(part.support.is_discrete for part in self.parts)

    def __init__(self, parts):
        self.parts = parts
        super().__init__()

    def __call__(self, x):
        split = zip(self.parts, Product(self.parts)._split(x), strict=True)
        return functools.reduce(operator.and_, (part.support(v) for part, v in split))

    def feasible_like(self, prototype):
        split = zip(self.parts, Product(self.parts)._split(prototype), strict=True)
        feasible = [part.support.feasible_like(v) for part, v in split]
        batch = jnp.shape(prototype)[:-1]
        return jnp.concatenate([jnp.reshape(v, (*batch, -1)) for v in feasible], -1)

    def tree_flatten(self):
        return (), ((), {"parts": self.parts})

    def eq(self, other, static=False):
        return isinstance(other, _Parts) and self.parts == other.parts
