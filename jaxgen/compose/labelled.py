"""Models of events and their labels: p(x, y) = p(y) p(x|y) with y one of a few classes."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from jaxgen.core.by_index import by_index
from jaxgen.core.families import given_of_each, mask_argument, namespace
from jaxgen.core.labels import errors_of_label, log_frequencies, rows_of_label, stack
from jaxgen.core.model import Model
from jaxgen.core.places import Names
from jaxgen.core.spec import Count
from jaxgen.core.wrapper import Inner, Wrapper

_TILES = 64  # of the model's own, within which rows are sorted by class
_map = jax.tree_util.tree_map


class Labelled(Wrapper):
    """p(x, y) = p(y) p(x|y) of a conditional model that is told the label, y = 0 .. classes - 1.

    One set of params serves all classes, as in a network; ``PerClass`` gives each its own. The
    frequencies of the classes are counted, so p(y|x) follows by Bayes' rule: ``fitted.classify``.

    Args:
      model: conditional model of ``y_shape`` (), a label.
      classes: number of labels.

    Params: ``logits`` (classes,), log p(y) up to a constant; ``model``, the model's.

    >>> flow = SplineCoupling(2, layers=2, y_shape=(), y_domain=Levels(3))
    >>> fitted = jaxgen.fit(Labelled(flow, 3), x, y, key=jax.random.key(0), epochs=1)
    >>> apples = fitted.sample(jax.random.key(1), 10, "apple")
    """

    model: Model
    classes: Count = None  # type: ignore  # needed; it takes the place of Wrapper's property

    same_events = True

    def __post_init__(self):
        super().__post_init__()
        if self.model.classes is not None or self.model.y_shape != self._wanted_y_shape:
            name, wanted = (
                type(self).__name__,
                "None" if self._wanted_y_shape is None else self._wanted_y_shape,
            )
            raise ValueError(
                f"{name}: model must have the y_shape {wanted}, got {self.model} with y_shape "
                f"{self.model.y_shape}"
            )
        if self.model.y_support is not None and not self.model.y_support(self.classes - 1):
            raise ValueError(
                f"{type(self).__name__}: model must know {self.classes} labels, but the last does "
                f"not suit the y_domain of {self.model}"
            )

    _wanted_y_shape: ClassVar[tuple[int, ...] | None] = ()  # of the model

    @property
    def inner(self):
        return (Inner(self.model, ("model",)),)

    @property
    def y_shape(self):
        return ()

    @property
    def y_support(self):
        return constraints.integer_interval(0, self.classes - 1)

    def _learning(self):
        learning = super()._learning()
        return learning._replace(frozen=("logits", *learning.frozen))

    def count_labels(self, params, y, weights=None):
        counted = np.asarray(log_frequencies(self.classes, y, weights))
        return {**params, "logits": jnp.asarray(counted, float)}

    def log_prior(self, params):
        return jax.nn.log_softmax(params["logits"])

    def init(self, key, x=None, y=None):
        return {"logits": log_frequencies(self.classes, y), "model": self.model.init(key, x, y)}

    def estimate(self, x, y=None, weights=None, observed=None):
        params = super().estimate(x, y, weights, observed)
        return {"logits": log_frequencies(self.classes, y, weights), **params}

    def em_step(self, params, x, y=None, weights=None, observed=None):
        new, score = super().em_step(params, x, y, weights, observed)
        return {**new, "logits": log_frequencies(self.classes, y, weights)}, score


class PerClass(Labelled):
    """p(x, y) = p(y) p(x; params_y): a model with params of its own for each label.

    Each class is fitted to its own events and the classes' frequencies are counted, so p(y|x)
    follows by Bayes' rule: ``fitted.classify``. Rows of many labels are sorted by class, lest
    each needed a copy of its params.

    Args:
      model: unconditional model of one class.
      classes: number of labels.

    Params: ``logits`` (classes,), log p(y) up to a constant; ``model``, the model's with a leading
    axis of classes.

    >>> fitted = jaxgen.fit(PerClass(Gaussian(2), 3), x, y, key=jax.random.key(0))
    >>> log_p = fitted.classify(x)
    """

    _wanted_y_shape = None

    @property
    def inner(self):
        return (Inner(self.model, ("model",), self.classes, per_label=True),)

    def _traits(self):
        inner = self.model.traits
        tile = None if inner.tile is None else _TILES * inner.tile
        return super()._traits()._replace(tile=tile, reparameterized=inner.reparameterized)

    def rescale(self, params, shift, scale):
        return {**params, "model": self.model.rescale(params["model"], shift, scale)}

    def noise(self):
        return self.model.noise()

    def init(self, key, x=None, y=None):
        keys = jax.random.split(key, self.classes)
        if x is None:
            return {
                "logits": log_frequencies(self.classes),
                "model": jax.vmap(self.model.init)(keys),
            }
        y = np.asarray(y)
        class_rows, each = [rows_of_label(y, k) for k in range(self.classes)], []
        for k, rows in enumerate(class_rows):
            with Names.of_rows(rows), errors_of_label(k):
                each.append(self.model.init(keys[k], x[rows]))
        return {"logits": log_frequencies(self.classes, y), "model": stack(each)}

    def log_prob(self, params, x, y=None, observed=None):
        def score(own, args):
            x, observed = args
            return self.model.log_prob(own, x, **mask_argument(observed))

        return self._of_class(score, params, y, (x, observed))

    def loss(self, params, noise, x, y=None):
        return self._of_class(lambda own, args: self.model.loss(own, *args), params, y, (noise, x))

    def push(self, params, noise, y=None):
        return self._of_class(self.model.push, params, y, noise)

    def pull(self, params, x, y=None):
        return self._of_class(self.model.pull, params, y, x)

    def complete(self, params, noise, x, observed, y=None):
        args = noise, x, observed
        return self._of_class(lambda own, args: self.model.complete(own, *args), params, y, args)

    def estimate(self, x, y=None, weights=None, observed=None):
        logits = log_frequencies(self.classes, y, weights)
        if namespace(x, weights) is jnp:
            weights = jnp.ones(len(x), x.dtype) if weights is None else weights
            own = jax.vmap(
                lambda share: self.model.estimate(x, None, share, **mask_argument(observed))
            )
            return {"logits": logits, "model": own(self._own_weights(y, weights))}
        own_rows = [rows_of_label(y, k) for k in range(self.classes)]
        rows_of = [(rows, None if weights is None else weights[rows]) for rows in own_rows]

        def estimate(k):
            rows, its = rows_of[k]
            mask = mask_argument(None if observed is None else observed[rows])
            with Names.of_rows(rows), errors_of_label(k):
                return self.model.estimate(x[rows], None, its, **mask)

        order = sorted(range(self.classes), key=lambda k: len(own_rows[k]))
        smallest, largest = order[0], order[-1]
        each = {k: estimate(k) for k in (smallest, largest)}
        if _shapes(each[smallest]) != _shapes(each[largest]):  # a KDE, which holds its events
            size, each = len(own_rows[largest]), {}
            rows_of = [_filled(rows, size, weights) for rows in own_rows]
        each |= {k: estimate(k) for k in range(self.classes) if k not in each}
        return {"logits": logits, "model": stack([each[k] for k in range(self.classes)])}

    def em_step(self, params, x, y=None, weights=None, observed=None):
        step = lambda own, share: self.model.em_step(own, x, None, share, **mask_argument(observed))  # noqa: E731
        own, scores = jax.vmap(step)(params["model"], self._own_weights(y, weights))
        shares = jnp.zeros(self.classes, weights.dtype).at[y].add(weights)
        score = (scores * shares).sum() / weights.sum()
        return {"logits": log_frequencies(self.classes, y, weights), "model": own}, score

    def marginal(self, params, features):
        model, own = jax.vmap(lambda own: self.model.marginal(own, features))(params["model"])
        return PerClass(model, self.classes), {"logits": params["logits"], "model": own}

    def given(self, params, features, values):
        prior = self.log_prior(params)
        rest, own, logits = given_of_each(self.model, params["model"], prior, features, values)
        return PerClass(rest, self.classes), {"logits": logits, "model": own}

    def _of_class(self, fn, params, y, args):
        """``fn(params, args)`` with the params of class y."""
        index = jnp.asarray(y, jnp.int32).clip(0, self.classes - 1)
        return by_index(fn, params["model"], index, args)

    def _own_weights(self, y, weights):
        """Of the rows in each class, (classes, n); of all in one that none has weight in."""
        own = jnp.where(y == jnp.arange(self.classes)[:, None], weights, 0)
        return jnp.where(own.sum(1, keepdims=True) > 0, own, weights)


def _filled(rows: np.ndarray, size: int, weights=None) -> tuple[np.ndarray, np.ndarray]:
    """``size`` places, those of rows in turn, and weights (size,), of which repeats have none."""
    own = np.ones(len(rows)) if weights is None else weights[rows]
    return np.resize(rows, size), np.pad(own, (0, size - len(rows)))


def _shapes(params):
    return tuple(np.shape(leaf) for leaf in jax.tree_util.tree_leaves(params))
