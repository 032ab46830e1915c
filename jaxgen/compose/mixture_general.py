"""Mixtures of different models."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.compose.mixture import expected_shares, kmeans_input, repeated_rows_where
from jaxgen.core.constraints import Either, Every
from jaxgen.core.degrees import numbers_not_frozen
from jaxgen.core.families import mask_argument, modulate, namespace
from jaxgen.core.model import Model
from jaxgen.core.numerics import logsumexp
from jaxgen.core.random import Bits
from jaxgen.core.random.choice import choose, words_for
from jaxgen.core.records import Components
from jaxgen.core.spec import Params
from jaxgen.core.wrapper import Inner, Wrapper
from jaxgen.models import kmeans


class MixtureGeneral(Wrapper):
    """log p(x) = log sum_k w_k p_k(x; params_k), with models p_k of different kinds.

    ``params_of`` makes a mixture of models that are fitted already. ``fit`` learns weights and
    models together, by EM if all models have a closed form and by gradients otherwise. With an
    optimizer and ``freeze=("components",)`` it learns the weights alone. ``compose.Mixture`` mixes
    copies of one model.

    Args:
      components: a tuple of models of the same event shape, without labels; their ``dim`` may be
        left out, as in ``MixtureGeneral((Gaussian(), Box()))``. Some may be conditional, on a y of
        the same shape; the others do not depend on it.

    Params: ``logits`` (count,), log weights up to a constant; ``components``, a tuple with the
    params of each model.

    >>> mixture = MixtureGeneral((SplineCoupling(2), Gaussian(2)))
    >>> mixture.event_shape, mixture.learning.method
    ((2,), 'gradient')
    """

    components: tuple[Model, ...]

    same_events = True

    def __post_init__(self):
        held = self.components if isinstance(self.components, (tuple, list)) else ()
        if any(hasattr(one, "params") for one in held):
            raise TypeError(
                "MixtureGeneral: components must be models, got a Fitted. For fitted models a and "
                "b, write mixture = MixtureGeneral((a.model, b.model)) and then "
                "jaxgen.Fitted(mixture, mixture.params_of([0.5, 0.5], a, b))"
            )
        super().__post_init__()
        if not self.components:
            raise ValueError("MixtureGeneral: components must hold at least one model, got ()")
        for what, values in (
            ("event_shape", {model.event_shape for model in self.components}),
            ("y_shape", {m.y_shape for m in self.components if m.y_shape is not None}),
            ("kind of numbers", {bool(model.support.is_discrete) for model in self.components}),
        ):
            if len(values) > 1:
                raise ValueError(
                    f"MixtureGeneral: components must have the same {what}, got {self.components}"
                )
        if any(model.classes is not None for model in self.components):
            raise ValueError(f"MixtureGeneral: components must have no labels, got {self}")

    @property
    def inner(self):
        return tuple(Inner(m, ("components", k)) for k, m in enumerate(self.components))

    classes = None

    @property
    def y_shape(self):
        return next((m.y_shape for m in self.components if m.y_shape is not None), None)

    @property
    def y_support(self):
        each = tuple(m.y_support for m in self.components if m.y_support is not None)
        return Every(each) if each else None

    @property
    def support(self):
        each: list[Any] = []  # NumPyro's constraints may not be hashable
        for model in self.components:
            if model.support not in each:
                each.append(model.support)
        return each[0] if len(each) == 1 else Either(tuple(each))

    def _learning(self):
        each = [model.learning for model in self.components]
        closed = all(learning.method == "closed_form" for learning in each)
        missing = closed and all(learning.missing == "closed_form" for learning in each)
        scales = [np.broadcast_to(one.rescalable, self.event_shape).astype(int) for one in each]
        shared = np.where(np.min(scales, 0) > 0, np.max(scales, 0), 0)  # as every model allows
        return (
            super()
            ._learning()
            ._replace(
                method="em" if closed else "gradient",
                missing="em" if missing else None,
                rescalable=shared,
                noise=(),
            )
        )

    def _traits(self):
        components = Components(len(self.components), self._joint, self._which)
        counted = lambda params: numbers_not_frozen(self, params) - 1  # noqa: E731
        return super()._traits()._replace(components=components, degrees_of_freedom=counted)

    def params_of(self, weights: Any, *components: Params) -> Params:
        """Params of the mixture from the weights and the params of each model.

        Args:
          weights: (count,), not negative, with a positive sum; may be traced by a transformation.
            The gradient with respect to a weight of 0 is NaN.
          components: the params of each model in order, or a ``Fitted`` of it.

        Raises:
          ValueError: the weights or the number of params do not suit the models.

        >>> mixture = MixtureGeneral((Gaussian(2), Box(2)))
        >>> signal, background = mixture.init(key)["components"]
        >>> both = jaxgen.Fitted(mixture, mixture.params_of([0.1, 0.9], signal, background))
        """
        weights, count = jnp.asarray(weights, float), len(self.components)
        if weights.shape != (count,):
            raise ValueError(f"weights must have shape ({count},), got {weights.shape}")
        if len(components) != count:
            raise ValueError(
                f"components must be params of {count} components, got {len(components)}"
            )
        components = tuple(getattr(one, "params", one) for one in components)
        for model, params in zip(self.components, components, strict=True):
            wanted = jax.tree_util.tree_structure(jax.eval_shape(model.init, jax.random.key(0)))
            found: Any = jax.tree_util.tree_structure(params)
            if found != wanted:
                raise ValueError(f"the params of {model} must have {wanted}, got {found}")
        if not isinstance(weights, jax.core.Tracer):
            on_host = np.asarray(weights)
            if not (np.isfinite(on_host).all() and (on_host >= 0).all() and on_host.sum() > 0):
                raise ValueError(f"weights must be non-negative and not all zero, got {on_host}")
        return {"logits": jnp.log(weights / weights.sum()), "components": components}

    def weights(self, params: Params) -> jax.Array:
        """The weights of the components, (count,), which sum to 1.

        >>> mixture = MixtureGeneral((Gaussian(2), Box(2)))
        >>> mixture.weights(mixture.init(key))
        Array([0.5, 0.5], dtype=float32)
        """
        return jax.nn.softmax(jnp.asarray(params["logits"]))

    def init(self, key, x=None, y=None):
        keys, made = jax.random.split(key, len(self.components)), []
        for k, model in enumerate(self.components):
            if x is None:
                made.append(model.init(keys[k]))
                continue
            rows = self._rows_to_start(key, k, x)
            y_rows = None if model.y_shape is None or y is None else y[rows]
            made.append(model.init(keys[k], x[rows], y_rows))
        return {"logits": jnp.zeros(len(made)), "components": tuple(made)}

    def _rows_to_start(self, key, k, x):
        """The rows of x in the support of component k; equal models take different ones."""
        model, xp = self.components[k], namespace(x)
        chosen = xp.asarray(model.support(x))
        if xp is np and not chosen.any():
            raise ValueError(f"x must hold events in the support of {model}, but holds none")
        equal = [j for j, other in enumerate(self.components) if other == model]
        if len(equal) > 1:
            shares = kmeans.responsibilities(key, kmeans_input(self, x), len(equal))
            chosen = chosen & xp.asarray(shares.argmax(1) == equal.index(k))
        return repeated_rows_where(chosen, x)

    def log_prob(self, params, x, y=None, observed=None):
        return logsumexp(self._joint(params, x, y, observed))

    def noise(self):
        count = len(self.components)
        return {
            "which": Bits((words_for(count),)),
            "components": tuple(model.noise() for model in self.components),
        }

    def push(self, params, noise, y=None):
        events = [
            model.push(p, z, _condition(model, y))
            for model, p, z in zip(
                self.components, params["components"], noise["components"], strict=True
            )
        ]
        return _pick(events, self._which(params, noise))

    def complete(self, params, noise, x, observed, y=None):
        joint = self._joint(params, x, y, observed)
        events = [
            model.complete(p, z, x, observed, _condition(model, y))
            for model, p, z in zip(
                self.components, params["components"], noise["components"], strict=True
            )
        ]
        return _pick(events, choose(jax.nn.softmax(joint), noise["which"]))

    def modulate(self, params, change):
        each = zip(self.components, params["components"], change["components"], strict=True)
        components = tuple(modulate(model, p, c) for model, p, c in each)
        return {"logits": params["logits"] + change["logits"], "components": components}

    def rescale(self, params, shift, scale):
        each = zip(self.components, params["components"], strict=True)
        return {**params, "components": tuple(m.rescale(p, shift, scale) for m, p in each)}

    def marginal(self, params, features):
        each = zip(self.components, params["components"], strict=True)
        parts, part_params = zip(*(m.marginal(p, features) for m, p in each), strict=True)
        return MixtureGeneral(parts), {"logits": params["logits"], "components": part_params}

    def given(self, params, features, values):
        if self.y_shape is not None:
            raise NotImplementedError(
                f"{self} has no given: the weights of its components, given values, depend on y"
            )
        log_weights = jax.nn.log_softmax(params["logits"])
        rests, rest_params, logits = [], [], []
        for k, (model, p) in enumerate(zip(self.components, params["components"], strict=True)):
            part, part_params = model.marginal(p, features)
            rest, rest_p = model.given(p, features, values)
            logits.append(log_weights[k] + part.log_prob(part_params, values))
            rests.append(rest)
            rest_params.append(rest_p)
        params = {"logits": jnp.stack(logits), "components": tuple(rest_params)}
        return MixtureGeneral(tuple(rests)), params

    def em_step(self, params, x, y=None, weights=None, observed=None):
        axes = (None, 0, None if y is None else 0, None if observed is None else 0)
        joint = jax.vmap(self._joint, in_axes=axes)(params, x, y, observed)
        shares, score = expected_shares(joint, weights)
        total = shares.sum(0)
        shares = jnp.where(total > 0, shares, 1)  # a component without rows is fitted to all
        components = []
        for k, (model, share) in enumerate(zip(self.components, shares.T, strict=True)):
            # rows outside its support have no share, but may not be numbers to it
            rows = jnp.where(joint[:, k] > -jnp.inf, jnp.arange(len(x)), share.argmax())
            masks = mask_argument(None if observed is None else observed[rows])
            components.append(model.estimate(x[rows], _condition(model, y), share, **masks))
        new = {"logits": jnp.log(total / total.sum()), "components": tuple(components)}
        return new, score

    def _which(self, params, noise, y=None):
        return choose(jax.nn.softmax(params["logits"]), noise["which"])

    def _joint(self, params, x, y=None, observed=None):
        """log w_k + log p_k(x) of one event, (count,)."""
        log_weights = jax.nn.log_softmax(params["logits"])
        scores = [
            model.log_prob(p, x, _condition(model, y), **mask_argument(observed))
            for model, p in zip(self.components, params["components"], strict=True)
        ]
        # the score of a component without weight may be NaN
        return jnp.where(log_weights == -jnp.inf, -jnp.inf, log_weights + jnp.stack(scores))


def _condition(model, y):
    """The condition of a component, which may be unconditional."""
    return None if model.y_shape is None else y


def _pick(events, which):
    return jnp.stack(events)[which]
