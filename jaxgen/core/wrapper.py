"""Wrappers: models made of other models. A wrapper declares once what it holds.

From ``inner``, the models inside and the place of their params, follow the frozen params, the loss,
the memory, the labels and the rest of ``learning`` and ``traits``, for any wrapper:

    class Renamed(Wrapper):
        base: Model
        names: tuple[str, ...]
        same_events = True

        @property
        def inner(self):
            return (Inner(self.base, ("base",)),)

A wrapper around one model whose events and conditions are those of that model sets ``same_events``:
then every method is that of the model inside. Any other wrapper defines the methods that it
supports, and what it does not define counts as not supported.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.core.families import mask_argument
from jaxgen.core.labels import entry
from jaxgen.core.model import Model, is_invertible
from jaxgen.core.records import Components, Hooks, Learning, Traits
from jaxgen.core.spec import Params


class Inner(NamedTuple):
    """A model inside a wrapper.

    Attributes:
      model: its spec.
      place: keys or indices that lead to its params within the wrapper's params; () if the
        wrapper's params are those of the model.
      copies: number of copies with params of their own, on a leading axis; None for a single one.
      per_label: whether copy k learns from the events with label k, without y.

    >>> jaxgen.compose.PerClass(jaxgen.models.Gaussian(2), 3).inner[0].place
    ('model',)
    """

    model: Model
    place: tuple[str | int, ...] = ()
    copies: int | None = None
    per_label: bool = False


class Wrapper(Model):
    """Base of models made of other models: subclasses define ``inner``.

    >>> class Renamed(jaxgen.Wrapper):
    ...     base: Model
    ...     same_events = True
    ...     @property
    ...     def inner(self):
    ...         return (jaxgen.Inner(self.base, ("base",)),)
    >>> jaxgen.fit(Renamed(jaxgen.models.Gaussian(2)), x, key=key).params["base"]["mean"].shape
    (2,)
    """

    same_events: ClassVar[bool] = False  # do the models inside have the wrapper's events and y?

    def __str__(self) -> str:
        text = repr(self)
        for inner in self.inner:
            text = text.replace(repr(inner.model), str(inner.model))
        return text

    @property
    def inner(self) -> tuple[Inner, ...]:
        """The models inside, at least one."""
        raise NotImplementedError(f"{type(self).__name__} must define inner")

    # Facts that follow from those of the models inside.

    @property
    def event_shape(self):
        return self.inner[0].model.event_shape

    @property
    def y_shape(self):
        return self.inner[0].model.y_shape

    @property
    def y_support(self):
        return self.inner[0].model.y_support

    @property
    def classes(self):
        return self.inner[0].model.classes

    @property
    def support(self):
        return self.inner[0].model.support

    @functools.cached_property
    def learning(self) -> Learning:
        return self._learning()

    @functools.cached_property
    def traits(self) -> Traits:
        return self._traits()

    def _learning(self) -> Learning:
        """``learning`` as it follows from the models inside; a subclass may replace some of it."""
        each = [inner.model.learning for inner in self.inner]
        missing = {learning.missing for learning in each}
        noises = [learning.noise for learning in each]
        return Learning(
            method=self._method(),
            keep="last" if any(learning.keep == "last" for learning in each) else "best",
            rate=min(learning.rate for learning in each),
            batch_size=min(learning.batch_size for learning in each),
            frozen=tuple(
                "/".join(map(str, (*inner.place, name)))
                for inner in self.inner
                for name in inner.model.learning.frozen
            ),
            missing=None
            if None in missing or not self.provides("complete")
            else ("em" if "em" in missing else "closed_form"),
            rescalable=each[0].rescalable if self.provides("rescale") else False,
            noise=(noises[0] if len(each) == 1 else tuple(noises)) if self.provides("loss") else (),
            hooks=_InnerHooks(self) if any(learning.hooks for learning in each) else None,
        )

    def _method(self):
        methods = {inner.model.learning.method for inner in self.inner}
        order = {"mcmc": "log_prob", "gradient": "log_prob", "em": "em_step"}
        for method, needed in (*order.items(), ("closed_form", "estimate")):
            if method in methods:
                return method if self.provides(needed) else "gradient"

    def _traits(self) -> Traits:
        """``traits`` as they follow from the models inside; a subclass may replace some of them."""
        each = [inner.model.traits for inner in self.inner]
        densities = {traits.density for traits in each}
        forwards = self.forwards
        return Traits(
            density=next(d for d in ("none", "bound", "estimate", "exact") if d in densities),
            reparameterized=forwards and each[0].reparameterized,
            invertible=self.provides("pull") and all(is_invertible(i.model) for i in self.inner),
            tile=min((traits.tile for traits in each if traits.tile), default=None),
            draw_tile=min((traits.draw_tile for traits in each if traits.draw_tile), default=None),
            scratch=sum(traits.scratch for traits in each),
            log_prob_and_k=self._log_prob_and_k
            if forwards and each[0].log_prob_and_k is not None
            else None,
            log_weights=self._log_weights if forwards and each[0].log_weights is not None else None,
            support_at=self._support_at if forwards and each[0].support_at is not None else None,
            components=self._components() if forwards else None,
            token_log_probs=self._token_log_probs
            if forwards and each[0].token_log_probs is not None
            else None,
            covariates=each[0].covariates if self.same_events and self.classes is None else None,
        )

    @property
    def forwards(self) -> bool:
        """Whether the methods are those of the one model inside."""
        return self.same_events and len(self.inner) == 1 and self.inner[0].copies is None

    def provides(self, name: str) -> bool:
        """Whether the wrapper has a method, its own or that of the model inside."""
        return self.forwards or getattr(type(self), name) is not getattr(Wrapper, name)

    def count_labels(self, params: Params, y: Any, weights: Any = None) -> Params:
        """Params whose p(y), if they hold it, are the frequencies of the labels y (n,)."""
        return params

    # Methods of a wrapper that forwards.

    def _inside(self, name: str, params: Params = None) -> tuple[Any, Any]:
        """A method of the model inside, and its params."""
        if not self.forwards:
            return functools.partial(getattr(Model, name), self), params
        model, place, *_ = self.inner[0]
        return getattr(model, name), params if params is None else params_at(params, place)

    def _wrapped(self, params: Params, inner_params: Params) -> Params:
        return with_params_at(params, self.inner[0].place, inner_params)

    def init(self, key, x=None, y=None):
        method, _ = self._inside("init")
        return with_params_at(None, self.inner[0].place, method(key, x, y))

    def log_prob(self, params, x, y=None, observed=None):
        method, inner_params = self._inside("log_prob", params)
        return method(inner_params, x, y, **mask_argument(observed))

    def _log_prob_and_k(self, params, x, y=None):
        model, place, *_ = self.inner[0]
        return model.traits.log_prob_and_k(params_at(params, place), x, y)

    def _log_weights(self, params, x, y=None):
        model, place, *_ = self.inner[0]
        return model.traits.log_weights(params_at(params, place), x, y)

    def _token_log_probs(self, params, x, y=None):
        model, place, *_ = self.inner[0]
        return model.traits.token_log_probs(params_at(params, place), x, y)

    def _support_at(self, params):
        model, place, *_ = self.inner[0]
        return model.traits.support_at(params_at(params, place))

    def _components(self) -> Components | None:
        """The components of the model inside, whose functions take the wrapper's params."""
        components = self.inner[0].model.traits.components
        if components is None:
            return None
        collapsed = None if components.collapsed is None else self._collapsed
        return components._replace(
            joint=self._joint, which=self._which, sizes=None, collapsed=collapsed
        )

    def _joint(self, params, x, y=None, observed=None):
        model, place, *_ = self.inner[0]
        return model.traits.components.joint(params_at(params, place), x, y, observed)

    def _which(self, params, noise, y=None):
        model, place, *_ = self.inner[0]
        return model.traits.components.which(params_at(params, place), noise, y)

    def _collapsed(self, params, x):
        model, place, *_ = self.inner[0]
        return model.traits.components.collapsed(params_at(params, place), x)

    def noise(self):
        return self._inside("noise")[0]()

    def push(self, params, noise, y=None):
        method, inner_params = self._inside("push", params)
        return method(inner_params, noise, y)

    def pull(self, params, x, y=None):
        method, inner_params = self._inside("pull", params)
        return method(inner_params, x, y)

    def loss(self, params, noise, x, y=None):
        method, inner_params = self._inside("loss", params)
        return method(inner_params, noise, x, y)

    def estimate(self, x, y=None, weights=None, observed=None):
        method, _ = self._inside("estimate")
        found = method(x, y, weights, **mask_argument(observed))
        return with_params_at(None, self.inner[0].place, found)

    def em_step(self, params, x, y=None, weights=None, observed=None):
        method, inner_params = self._inside("em_step", params)
        new, score = method(inner_params, x, y, weights, **mask_argument(observed))
        return self._wrapped(params, new), score

    def rescale(self, params, shift, scale):
        method, inner_params = self._inside("rescale", params)
        return self._wrapped(params, method(inner_params, shift, scale))

    def log_prior(self, params):
        method, inner_params = self._inside("log_prior", params)
        return method(inner_params)

    def complete(self, params, noise, x, observed, y=None):
        method, inner_params = self._inside("complete", params)
        return method(inner_params, noise, x, observed, y)

    def marginal(self, params, features):
        method, inner_params = self._inside("marginal", params)
        part, part_params = method(inner_params, features)
        return replace_inner(self, lambda _: part), self._wrapped(params, part_params)

    def given(self, params, features, values):
        method, inner_params = self._inside("given", params)
        if self.forwards and self.classes != self.inner[0].model.classes:
            # the values say something about the label, which p(y) of the result would have to hold
            return super().given(params, features, values)
        part, part_params = method(inner_params, features, values)
        return replace_inner(self, lambda _: part), self._wrapped(params, part_params)


def inner_of(model: Any) -> tuple[Inner, ...]:
    """The models inside a wrapper; none if the model is no wrapper."""
    return getattr(model, "inner", ())


def params_at(params: Params, place: tuple[str | int, ...]) -> Params:
    """The part of the params that keys or indices lead to."""
    for key in place:
        params = params[key]
    return params


def with_params_at(params: Params, place: tuple[str | int, ...], value: Params) -> Params:
    """Params with another value at the place; where params are None they hold that value alone."""
    if not place:
        return value
    key, *rest = place
    if isinstance(params, (tuple, list)):
        changed = with_params_at(params[key], tuple(rest), value)  # type: ignore[index]
        return type(params)(changed if i == key else v for i, v in enumerate(params))
    held = {} if params is None else params
    return {**held, key: with_params_at(held.get(key), tuple(rest), value)}


def replace_inner(wrapper: Any, change: Callable[[Model], Model]) -> Any:
    """The wrapper with changed models inside; the same object if none changes."""
    inner = {id(one.model): one.model for one in wrapper.inner}

    def changed(value):
        if isinstance(value, tuple):
            new = tuple(map(changed, value))
            return value if all(a is b for a, b in zip(new, value, strict=True)) else new
        return change(value) if id(value) in inner else value

    fields = {f.name: getattr(wrapper, f.name) for f in dataclasses.fields(wrapper)}
    new = {name: changed(value) for name, value in fields.items()}
    new = {name: value for name, value in new.items() if value is not fields[name]}
    return dataclasses.replace(wrapper, **new) if new else wrapper


def with_label_frequencies(model: Any, params: Params, y: Any, weights: Any = None) -> Params:
    """Params whose p(y), wherever in the model it is, are the frequencies of the labels y (n,)."""
    for inner in inner_of(model):
        held = params_at(params, inner.place)
        if inner.copies is None:
            held = with_label_frequencies(inner.model, held, y, weights)
        elif inner.model.classes is not None:
            copies = [entry(held, k) for k in range(inner.copies)]
            counted = [with_label_frequencies(inner.model, one, y, weights) for one in copies]
            held = jax.tree_util.tree_map(lambda *leaves: jnp.stack(leaves), *counted)
        params = with_params_at(params, inner.place, held)
    return model.count_labels(params, y, weights) if inner_of(model) else params


class _InnerHooks(Hooks):
    """The hooks of a wrapper: those of the models inside.

    A wrapper that does not forward passes on ``for_data`` alone, with x where the events are those
    of the models inside.
    """

    def __init__(self, wrapper):
        self.wrapper = wrapper

    def for_data(self, x, y=None):
        x = x if self.wrapper.same_events else None

        def change(model):
            hooks = model.learning.hooks
            if hooks is None:
                return model
            return hooks.for_data(x, y if model.y_shape is not None else None)

        return replace_inner(self.wrapper, change)

    def prepare(self, params, x, y, weights):
        hooks, place = self._forwarded()
        if hooks is None:
            return params
        prepared = hooks.prepare(params_at(params, place), x, y, weights)
        return with_params_at(params, place, prepared)

    def check_fitted(self, params, x, y=None):
        hooks, place = self._forwarded()
        if hooks is not None:
            hooks.check_fitted(params_at(params, place), x, y)

    def diagnose(self, params, x, y, weights, key, scores):
        hooks, place = self._forwarded()
        if hooks is None:
            return {}, ""
        return hooks.diagnose(params_at(params, place), x, y, weights, key, scores)

    def warn_of_tails(self, k):
        hooks, _ = self._forwarded()
        if hooks is not None:
            hooks.warn_of_tails(k)

    def draw_posteriors(self, keys, data, progress=None):
        hooks, place = self._forwarded()
        if hooks is None:
            raise NotImplementedError(
                f"{self.wrapper} cannot be fitted by mcmc: only the model inside it can"
            )
        params, histories = hooks.draw_posteriors(keys, data, progress)
        return with_params_at(None, place, params), histories

    def _forwarded(self):
        inner = self.wrapper.inner[0]
        return (inner.model.learning.hooks, inner.place) if self.wrapper.forwards else (None, ())
