"""Products of independent models of separate features."""

from __future__ import annotations

import bisect
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.bijectors import Permute
from jaxgen.compose.transformed import Transformed
from jaxgen.core import places
from jaxgen.core.constraints import Every, Pieces
from jaxgen.core.families import check_observed, mask_argument, modulate, namespace
from jaxgen.core.model import Model
from jaxgen.core.places import Names
from jaxgen.core.wrapper import Inner, Wrapper


class Product(Wrapper):
    """log p(x) = sum_i log p_i(x_i), where x concatenates the flattened events x_i of the parts.

    Args:
      parts: models of any event shapes, in the order of their features in x.

    Params: a tuple with the params of each part.

    >>> mixed = Product((Gaussian(2), Categorical((1,), levels=5)))
    """

    parts: tuple[Model, ...]

    def __post_init__(self):
        super().__post_init__()
        if not self.parts:
            raise ValueError("Product: parts must hold at least one model, got ()")
        if len({part.y_shape for part in self.parts}) > 1:
            shapes = [part.y_shape for part in self.parts]
            raise ValueError(f"Product: parts must have the same y_shape, got {shapes}")

    @property
    def event_shape(self):
        return (self._ends[-1],)

    @property
    def inner(self):
        return tuple(Inner(part, (i,)) for i, part in enumerate(self.parts))

    @property
    def y_support(self):
        supports = [part.y_support for part in self.parts if part.y_support is not None]
        return Every(tuple(supports)) if supports else None

    classes = None

    def _traits(self):
        reparameterized = all(part.traits.reparameterized for part in self.parts)
        depends = any(part.traits.support_at is not None for part in self.parts)
        support_at = self._support_at if depends else None
        return super()._traits()._replace(reparameterized=reparameterized, support_at=support_at)

    @property
    def support(self):
        return self._pieces(part.support for part in self.parts)

    def _support_at(self, params):
        """The support at some params."""
        functions = (part.traits.support_at for part in self.parts)
        each = zip(self.parts, functions, params, strict=True)
        return self._pieces(part.support if at is None else at(p) for part, at, p in each)

    def _pieces(self, supports):
        return Pieces(tuple(supports), tuple(part.event_shape for part in self.parts))

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
            part.rescale(p, a, b) if np.any(part.learning.rescalable) else p
            for part, p, a, b in split
        )

    def init(self, key, x=None, y=None):
        if x is None:
            return tuple(part.init(key) for part in self.parts)
        made = []
        for i, (part, x_part) in enumerate(zip(self.parts, self._split(x), strict=True)):
            with self._names(i):
                made.append(part.init(key, x_part, y))
        return tuple(made)

    def log_prob(self, params, x, y=None, observed=None):
        split = zip(self.parts, params, self._split(x), self._masks(observed), strict=True)
        return sum(part.log_prob(p, v, y, **mask) for part, p, v, mask in split)

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
        by_part = self._by_part(features)
        marginals = [self._marginal(params, i, within) for i, within in by_part.items()]
        parts, part_params = zip(*marginals, strict=True)
        grouped = [j for i, within in by_part.items() for j in self._features(i, within)]
        if grouped == list(features):
            return Product(parts), part_params
        # the features alternate between parts: a permutation of those grouped by part
        position = {j: i for i, j in enumerate(grouped)}
        order = tuple(position[j] for j in features)
        return Transformed(Product(parts), Permute(order)), {"base": part_params, "bijector": {}}

    def given(self, params, features, values):
        by_part, conditionals = self._by_part(features), []
        position = {j: i for i, j in enumerate(features)}
        for i, part in enumerate(self.parts):
            if i not in by_part:
                conditionals.append((part, params[i]))
            elif len(by_part[i]) < _size(part):
                which = [position[j] for j in self._features(i, by_part[i])]
                conditionals.append(part.given(params[i], by_part[i], values[np.array(which)]))
        parts, part_params = zip(*conditionals, strict=True)
        return Product(parts), part_params

    def estimate(self, x, y=None, weights=None, observed=None):
        if observed is not None and namespace(x, weights) is np:
            check_observed(observed)
        split, made = zip(self.parts, self._split(x), self._masks(observed), strict=True), []
        for i, (part, v, mask) in enumerate(split):
            with self._names(i):
                made.append(part.estimate(v, y, weights, **mask))
        return tuple(made)

    def em_step(self, params, x, y=None, weights=None, observed=None):
        new, total = [], 0.0
        split = zip(self.parts, params, self._split(x), self._masks(observed), strict=True)
        for part, p, v, mask in split:
            if (part.learning.method if observed is None else part.learning.missing) == "em":
                p, score = part.em_step(p, v, y, weights, **mask)
            else:
                score = _scores(part, p, v, y, **mask)
                score = jnp.average(score, weights=weights)
                better = part.estimate(v, y, weights, **mask)
                # not for a KDE, whose points would include the padding
                if _shapes(better) == _shapes(p):
                    p = better
            new.append(p)
            total = total + score
        return tuple(new), total

    def _names(self, i):
        """A context in which errors of part i name the features of the product."""
        first = self._start(i)
        return Names(feature=lambda j: places.feature(first + j))

    def _masks(self, observed):
        """The mask of each part, as a keyword argument."""
        return map(
            mask_argument, [None] * len(self.parts) if observed is None else self._split(observed)
        )

    def _by_part(self, features):
        """The features, grouped: {number of the part: indices within it}."""
        by_part: dict[int, list[int]] = {}
        ends = self._ends
        for j in features:
            i = bisect.bisect(ends, j)
            by_part.setdefault(i, []).append(j - ends[i] + _size(self.parts[i]))
        return {i: tuple(within) for i, within in by_part.items()}

    def _features(self, i, within):
        """Features of the product, from indices within part i."""
        return [self._start(i) + j for j in within]

    def _start(self, i):
        """The first feature of part i."""
        return self._ends[i] - _size(self.parts[i])

    def _marginal(self, params, i, within):
        part = self.parts[i]
        whole = within == tuple(range(_size(part)))
        return (part, params[i]) if whole else part.marginal(params[i], within)

    @property
    def _ends(self):
        return tuple(itertools.accumulate(_size(part) for part in self.parts))

    def _split(self, x):
        """The events of the parts, in their shapes, from one event or a batch of events."""
        pieces = namespace(x).split(x, self._ends[:-1], axis=-1)
        shapes = (part.event_shape for part in self.parts)
        return [v.reshape((*v.shape[:-1], *s)) for v, s in zip(pieces, shapes, strict=True)]


def _size(part):
    return math.prod(part.event_shape)


def _scores(part, params, x, y, observed=None):
    """Log densities of the rows of x, or of their observed features."""
    axes = (None, 0, None if y is None else 0, None if observed is None else 0)
    score = lambda p, v, y, mask: part.log_prob(p, v, y, **mask_argument(mask))  # noqa: E731
    return jax.vmap(score, axes)(params, x, y, observed)


def _shapes(params):
    return [jnp.shape(leaf) for leaf in jax.tree_util.tree_leaves(params)]
