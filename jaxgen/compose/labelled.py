"""Models of events and their labels: p(x, y) = p(y) p(x|y) with y one of a few classes."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from jaxgen.core.by_index import by_index
from jaxgen.core.degrees import numbers_not_frozen
from jaxgen.core.families import given_of_each, mask_argument, namespace
from jaxgen.core.labels import errors_of_label, log_frequencies, rows_of_label, stack
from jaxgen.core.model import Model
from jaxgen.core.places import Names
from jaxgen.core.spec import Count
from jaxgen.core.wrapper import Inner, Wrapper, inner_of, replace_inner
from jaxgen.networks.domains import Levels

_TILES = 64  # tiles of the model in one tile of a PerClass, in which rows are sorted by class
_map = jax.tree_util.tree_map


class Labelled(Wrapper):
    """p(x, y) = p(y) p(x|y), where p(x|y) is a conditional model of the label y.

    All classes share one set of params, such as those of a network; in a ``PerClass`` each class
    has its own. p(y) is the frequency of a label in the data, and ``fitted.classify`` returns
    p(y|x) by Bayes' rule.

    Args:
      model: conditional model with ``y_shape`` (), whose y is the label. A model with the fields
        ``y_shape`` and ``y_domain``, such as a flow, gets them if it has no ``y_shape`` yet, also
        inside a wrapper.
      classes: number of labels; y is one of 0 .. classes - 1.

    Params: ``logits`` (classes,), log p(y) up to a constant, and ``model``, the model's params.

    >>> flow = SplineCoupling(2, layers=2)
    >>> fitted = jaxgen.fit(Labelled(flow, 3), x, y, key=jax.random.key(0), epochs=1)
    >>> apples = fitted.sample(jax.random.key(1), 10, "apple")
    """

    model: Model
    classes: Count = None  # type: ignore  # required; else the default is Wrapper's property

    same_events = True
    _from_data = ("classes",)

    def __post_init__(self):
        super().__post_init__()
        expected = self._model_y_shape
        if expected == ():
            object.__setattr__(self, "model", _of_labels(self.model, self.classes))
        if self.model.classes is not None or self.model.y_shape != expected:
            raise ValueError(
                f"{type(self).__name__}: model must have y_shape {expected}, got {self.model} "
                f"with y_shape {self.model.y_shape}"
            )
        if self.model.y_support is not None and not self.model.y_support(self.classes - 1):
            raise ValueError(
                f"{type(self).__name__}: the y_domain of model must hold {self.classes} labels, "
                f"got {self.model}"
            )

    _model_y_shape: ClassVar[tuple[int, ...] | None] = ()  # y_shape that ``model`` must have

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

    def _traits(self):
        return super()._traits()._replace(degrees_of_freedom=self._degrees_of_freedom)

    def _degrees_of_freedom(self, params):
        # the frequencies of the labels are frozen for gradients, but learnt from the data
        return numbers_not_frozen(self, params) + self.classes - 1

    def count_labels(self, params, y, weights=None):
        counted = np.asarray(log_frequencies(self.classes, y, weights))
        return {**params, "logits": jnp.asarray(counted, float)}

    def log_prior(self, params):
        return jax.nn.log_softmax(params["logits"])

    def init(self, key, x=None, y=None):
        return {"logits": log_frequencies(self.classes, y), "model": self.model.init(key, x, y)}

    def given(self, params, features, values):
        part, part_params = self.model.marginal(params["model"], features)
        score = lambda label: part.log_prob(part_params, values, label)  # noqa: E731
        logits = self.log_prior(params) + jax.vmap(score)(jnp.arange(self.classes))
        rest, rest_params = self.model.given(params["model"], features, values)
        return dataclasses.replace(self, model=rest), {"logits": logits, "model": rest_params}

    def estimate(self, x, y=None, weights=None, observed=None):
        params = super().estimate(x, y, weights, observed)
        return {"logits": log_frequencies(self.classes, y, weights), **params}

    def em_step(self, params, x, y=None, weights=None, observed=None):
        new, score = super().em_step(params, x, y, weights, observed)
        return {**new, "logits": log_frequencies(self.classes, y, weights)}, score


class PerClass(Labelled):
    """p(x, y) = p(y) p(x; params_y): one model with separate params for each label.

    The params of a class are fitted to the events with that label. p(y) is the frequency of a
    label in the data, and ``fitted.classify`` returns p(y|x) by Bayes' rule. The rows of a batch
    are sorted by class, so that params are not copied per row.

    Args:
      model: unconditional model of one class.
      classes: number of labels; y is one of 0 .. classes - 1.

    Params: ``logits`` (classes,), log p(y) up to a constant, and ``model``, the model's params with
    a leading axis of classes.

    >>> fitted = jaxgen.fit(PerClass(Gaussian(2), 3), x, y, key=jax.random.key(0))
    >>> log_p = fitted.classify(x)
    """

    _model_y_shape = None

    @property
    def inner(self):
        return (Inner(self.model, ("model",), self.classes, per_label=True),)

    def _traits(self):
        inner = self.model.traits
        tile = None if inner.tile is None else _TILES * inner.tile
        return (
            super()
            ._traits()
            ._replace(
                tile=tile,
                reparameterized=inner.reparameterized,
                components=self._components(),
                token_log_probs=None if inner.token_log_probs is None else self._token_log_probs,
            )
        )

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
        each = []
        for k, rows in enumerate([rows_of_label(y, k) for k in range(self.classes)]):
            with Names.of_rows(rows), errors_of_label(k):
                each.append(self.model.init(keys[k], x[rows]))
        return {"logits": log_frequencies(self.classes, y), "model": stack(each)}

    def log_prob(self, params, x, y=None, observed=None):
        def score(class_params, args):
            x, observed = args
            return self.model.log_prob(class_params, x, **mask_argument(observed))

        return self._with_class_params(score, params, y, (x, observed))

    def _joint(self, params, x, y=None, observed=None):
        def joint(class_params, args):
            x, observed = args
            return self.model.traits.components.joint(class_params, x, None, observed)

        return self._with_class_params(joint, params, y, (x, observed))

    def _token_log_probs(self, params, x, y=None):
        return self._with_class_params(self.model.traits.token_log_probs, params, y, x)

    def _which(self, params, noise, y=None):
        return self._with_class_params(self.model.traits.components.which, params, y, noise)

    def loss(self, params, noise, x, y=None):
        def loss(class_params, args):
            return self.model.loss(class_params, *args)

        return self._with_class_params(loss, params, y, (noise, x))

    def push(self, params, noise, y=None):
        return self._with_class_params(self.model.push, params, y, noise)

    def pull(self, params, x, y=None):
        return self._with_class_params(self.model.pull, params, y, x)

    def complete(self, params, noise, x, observed, y=None):
        def complete(class_params, args):
            return self.model.complete(class_params, *args)

        return self._with_class_params(complete, params, y, (noise, x, observed))

    def estimate(self, x, y=None, weights=None, observed=None):
        logits = log_frequencies(self.classes, y, weights)
        if namespace(x, weights) is jnp:
            weights = jnp.ones(len(x), x.dtype) if weights is None else weights
            estimate_all = jax.vmap(
                lambda share: self.model.estimate(x, None, share, **mask_argument(observed))
            )
            model_params = estimate_all(self._class_weights(y, weights))
            return {"logits": logits, "model": model_params}
        class_rows = [rows_of_label(y, k) for k in range(self.classes)]
        classes = [(rows, None if weights is None else weights[rows]) for rows in class_rows]

        def estimate(k):
            rows, row_weights = classes[k]
            mask = mask_argument(None if observed is None else observed[rows])
            with Names.of_rows(rows), errors_of_label(k):
                return self.model.estimate(x[rows], None, row_weights, **mask)

        order = sorted(range(self.classes), key=lambda k: len(class_rows[k]))
        smallest, largest = order[0], order[-1]
        each = {k: estimate(k) for k in (smallest, largest)}
        if _shapes(each[smallest]) != _shapes(each[largest]):  # params hold events, as in a KDE
            size, each = len(class_rows[largest]), {}
            classes = [_filled(rows, size, weights) for rows in class_rows]
        each |= {k: estimate(k) for k in range(self.classes) if k not in each}
        return {"logits": logits, "model": stack([each[k] for k in range(self.classes)])}

    def em_step(self, params, x, y=None, weights=None, observed=None):
        def step(class_params, share):
            return self.model.em_step(class_params, x, None, share, **mask_argument(observed))

        new, scores = jax.vmap(step)(params["model"], self._class_weights(y, weights))
        shares = jnp.zeros(self.classes, weights.dtype).at[y].add(weights)
        score = (scores * shares).sum() / weights.sum()
        return {"logits": log_frequencies(self.classes, y, weights), "model": new}, score

    def marginal(self, params, features):
        marginal = jax.vmap(lambda class_params: self.model.marginal(class_params, features))
        part, part_params = marginal(params["model"])
        return PerClass(part, self.classes), {"logits": params["logits"], "model": part_params}

    def given(self, params, features, values):
        prior = self.log_prior(params)
        part, part_params, logits = given_of_each(
            self.model, params["model"], prior, features, values
        )
        return PerClass(part, self.classes), {"logits": logits, "model": part_params}

    def _with_class_params(self, fn, params, y, args):
        """``fn(params, args)`` with the params of class y."""
        index = jnp.asarray(y, jnp.int32).clip(0, self.classes - 1)
        return by_index(fn, params["model"], index, args)

    def _class_weights(self, y, weights):
        """The rows' weights in each class, (classes, n): zero for rows with other labels.

        A class in which no row has weight gets the weights of all rows.
        """
        in_class = jnp.where(y == jnp.arange(self.classes)[:, None], weights, 0)
        return jnp.where(in_class.sum(1, keepdims=True) > 0, in_class, weights)


def _of_labels(model, classes):
    """The model with the label as its condition, where it has fields for a condition."""
    if model.y_shape is not None or model.classes is not None:
        return model
    if hasattr(model, "y_domain"):
        return dataclasses.replace(model, y_shape=(), y_domain=Levels(classes))
    if len(inner_of(model)) == 1:
        return replace_inner(model, lambda inner: _of_labels(inner, classes))
    return model


def _filled(rows, size, weights=None):
    """``size`` row indices, with rows repeated in turn, and weights that are 0 for repeats."""
    row_weights = np.ones(len(rows)) if weights is None else weights[rows]
    return np.resize(rows, size), np.pad(row_weights, (0, size - len(rows)))


def _shapes(params):
    return tuple(np.shape(leaf) for leaf in jax.tree_util.tree_leaves(params))
