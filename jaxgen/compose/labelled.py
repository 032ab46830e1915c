"""Models of events and their labels: p(x, y) = p(y) p(x|y) with y one of a few classes."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from jaxgen.core import places
from jaxgen.core.by_index import by_index
from jaxgen.core.model import Model, given_of_each, known, namespace
from jaxgen.core.places import Message, Names
from jaxgen.core.spec import Count
from jaxgen.core.wrapper import Wrapper

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
        if self.model.classes is not None or self.model.y_shape != self._told:
            name, wanted = type(self).__name__, "None" if self._told is None else self._told
            raise ValueError(
                f"{name}: model must have the y_shape {wanted}, got {self.model} with y_shape "
                f"{self.model.y_shape}"
            )
        if self.model.y_support is not None and not self.model.y_support(self.classes - 1):
            raise ValueError(
                f"{type(self).__name__}: model must know {self.classes} labels, but the last does "
                f"not suit the y_domain of {self.model}"
            )

    _told: ClassVar[tuple[int, ...] | None] = ()  # y_shape of the model

    @property
    def inner(self):
        return self.model

    @property
    def y_shape(self):
        return ()

    @property
    def y_support(self):
        return constraints.integer_interval(0, self.classes - 1)

    @property
    def log_prob_and_k(self):
        score = self.model.log_prob_and_k
        return None if score is None else lambda params, x, y: score(params["model"], x, y)

    def warn_of_k(self, k):
        self.model.warn_of_k(k)

    @property
    def reparameterized(self):
        return self.model.reparameterized

    @property
    def invertible(self):
        return self.model.invertible

    @property
    def missing(self):
        return self.model.missing

    @property
    def frozen(self):
        return "logits", *(f"model/{name}" for name in self.model.frozen)

    @property
    def rescalable(self):
        return self.inner.rescalable

    def rescale(self, params, shift, scale):
        return {**params, "model": self.model.rescale(params["model"], shift, scale)}

    def log_prior(self, params):
        return jax.nn.log_softmax(params["logits"])

    def init(self, key, x=None, y=None):
        return {"logits": log_frequencies(self.classes, y), "model": self.model.init(key, x, y)}

    def log_prob(self, params, x, y=None, seen=None):
        return self.model.log_prob(params["model"], x, y, **known(seen))

    def loss(self, params, noise, x, y=None):
        return self.model.loss(params["model"], noise, x, y)

    def loss_noise(self):
        return self.model.loss_noise()

    def noise(self):
        return self.model.noise()

    def push(self, params, noise, y=None):
        return self.model.push(params["model"], noise, y)

    def pull(self, params, x, y=None):
        return self.model.pull(params["model"], x, y)

    def complete(self, params, noise, x, seen, y=None):
        return self.model.complete(params["model"], noise, x, seen, y)

    def estimate(self, x, y=None, weights=None, seen=None):
        own = self.model.estimate(x, y, weights, **known(seen))
        return {"logits": log_frequencies(self.classes, y, weights), "model": own}

    def em_step(self, params, x, y=None, weights=None, seen=None):
        own, score = self.model.em_step(params["model"], x, y, weights, **known(seen))
        return {"logits": log_frequencies(self.classes, y, weights), "model": own}, score


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

    _told = None

    @property
    def tile(self):
        return None if self.model.tile is None else _TILES * self.model.tile

    def init(self, key, x=None, y=None):
        keys = jax.random.split(key, self.classes)
        if x is None:
            return {
                "logits": log_frequencies(self.classes),
                "model": jax.vmap(self.model.init)(keys),
            }
        y = np.asarray(y)
        own_rows, each = [of_class(y, i) for i in range(self.classes)], []
        for i, rows in enumerate(own_rows):
            with Names.of_rows(rows):
                each.append(of_label(i, self.model.init, keys[i], x[rows]))
        return {"logits": log_frequencies(self.classes, y), "model": stack(each)}

    def log_prob(self, params, x, y=None, seen=None):
        def score(own, args):
            x, seen = args
            return self.model.log_prob(own, x, **known(seen))

        return self._of_class(score, params, y, (x, seen))

    def loss(self, params, noise, x, y=None):
        return self._of_class(lambda own, args: self.model.loss(own, *args), params, y, (noise, x))

    def push(self, params, noise, y=None):
        return self._of_class(self.model.push, params, y, noise)

    def pull(self, params, x, y=None):
        return self._of_class(self.model.pull, params, y, x)

    def complete(self, params, noise, x, seen, y=None):
        args = noise, x, seen
        return self._of_class(lambda own, args: self.model.complete(own, *args), params, y, args)

    def estimate(self, x, y=None, weights=None, seen=None):
        logits = log_frequencies(self.classes, y, weights)
        if namespace(x, weights) is jnp:
            weights = jnp.ones(len(x), x.dtype) if weights is None else weights
            own = jax.vmap(lambda share: self.model.estimate(x, None, share, **known(seen)))
            return {"logits": logits, "model": own(self._own_weights(y, weights))}
        own_rows = [of_class(y, k) for k in range(self.classes)]
        rows_of = [(rows, None if weights is None else weights[rows]) for rows in own_rows]

        def estimate(k):
            rows, its = rows_of[k]
            observed = known(None if seen is None else seen[rows])
            with Names.of_rows(rows):
                return of_label(k, self.model.estimate, x[rows], None, its, **observed)

        order = sorted(range(self.classes), key=lambda k: len(own_rows[k]))
        smallest, largest = order[0], order[-1]
        each = {k: estimate(k) for k in (smallest, largest)}
        if _shapes(each[smallest]) != _shapes(each[largest]):  # a KDE, which holds its events
            size, each = len(own_rows[largest]), {}
            rows_of = [_filled(rows, size, weights) for rows in own_rows]
        each |= {k: estimate(k) for k in range(self.classes) if k not in each}
        return {"logits": logits, "model": stack([each[k] for k in range(self.classes)])}

    def em_step(self, params, x, y=None, weights=None, seen=None):
        step = lambda own, share: self.model.em_step(own, x, None, share, **known(seen))  # noqa: E731
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


def log_frequencies(classes: int, y=None, weights=None):
    """The log share of each label among y (n,); equal ones where y is None."""
    if y is None:
        return jnp.zeros(classes)
    if namespace(y, weights) is jnp:
        counts = jnp.zeros(classes).at[y].add(1 if weights is None else weights)
        return jnp.log(counts / counts.sum())
    total = np.bincount(np.asarray(y, int), weights, minlength=classes)
    with np.errstate(divide="ignore"):
        return np.log(total / total.sum())


def of_class(y, label: int) -> np.ndarray:
    """Places of the events of a class, at least one."""
    rows = np.flatnonzero(np.asarray(y) == label)
    if not len(rows):
        missing = f"y must hold every label, but none of its {len(y)} rows has "
        raise ValueError(Message(missing, places.label(label)))
    return rows


def repeated(rows: np.ndarray, size: int, weights=None) -> tuple[np.ndarray, Any]:
    """``size`` places, those of rows in turn, and weights (size,) that leave each its share.

    Classes of one size share one compiled program, and their params have one shape. Weights are
    None where they are and none is repeated.
    """
    if weights is None and size == len(rows):
        return rows, None
    times = -(-(size - np.arange(len(rows))) // len(rows))
    own = np.ones(len(rows)) if weights is None else weights[rows]
    chosen = np.arange(size) % len(rows)
    return rows[chosen], (own / times)[chosen]


def _filled(rows: np.ndarray, size: int, weights=None) -> tuple[np.ndarray, np.ndarray]:
    """``size`` places, those of rows in turn, and weights (size,), of which repeats have none."""
    own = np.ones(len(rows)) if weights is None else weights[rows]
    return np.resize(rows, size), np.pad(own, (0, size - len(rows)))


def stack(trees: list):
    """One pytree of many, with a leading axis, on the host, where nothing is compiled."""

    def together(*leaves):
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
        return jnp.stack(leaves) if traced else np.stack([np.asarray(leaf) for leaf in leaves])

    return _map(together, *trees)


def of_label(label: int, fn, *args, **kwargs):
    """``fn(*args, **kwargs)``, whose ValueErrors say of which label."""
    try:
        return fn(*args, **kwargs)
    except ValueError as error:
        whose = Message("of the events of ", places.label(label), ": ", error)
        raise ValueError(whose) from error


def _shapes(params):
    return tuple(np.shape(leaf) for leaf in jax.tree_util.tree_leaves(params))
