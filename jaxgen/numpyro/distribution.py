"""A fitted model as a NumPyro distribution: a prior, a likelihood or a guide."""

from __future__ import annotations

import copy
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpyro.distributions import Distribution, constraints
from numpyro.distributions.batch_util import promote_batch_shape
from numpyro.distributions.util import validate_sample

from jaxgen.core import batch, inputs
from jaxgen.core.promotion import standard_promotion
from jaxgen.numpyro.support import Fixed, bounds_of, entry_of, support_of, varies
from jaxgen.training.fitted import Fitted

_map = jax.tree_util.tree_map


@standard_promotion
def as_distribution(fitted: Fitted, y=None) -> Distribution:
    """A fitted model as a NumPyro distribution p(x) or p(x|y).

    Its density has gradients in x, in y and in the params, but for those that the model freezes,
    such as bounds. Its support is the model's: of a ``Box`` or a ``Histogram``, alone or in a
    ``Product``, the one that the params say. NaN in x is a missing value where the model takes
    such, as in ``jaxgen.log_prob``.

    Draws of a model that is not reparameterized, such as a mixture, have no gradient in the params
    and ``has_rsample`` is False: as a guide it learns by ``TraceGraph_ELBO``, whereas
    ``Trace_ELBO`` would leave it as it is. To train a model within a program, make its params a
    site: ``numpyro.param("flow", lambda _: fitted.params)``.

    Args:
      fitted: model and params, such as ``jaxgen.fit`` gives.
      y: conditions (*batch_shape, *y_shape), or labels by place or name; None for an unconditional
        model, and for the marginal of one of labels, sum_y p(y) p(x|y).

    Returns:
      A distribution with the model's event_shape and the batch_shape of y, () without one.

    Raises:
      TypeError, ValueError: fitted is no ``Fitted`` or has no density; y is missing, surplus, or of
        the wrong kind or shape.

    >>> import numpyro
    >>> from numpyro.infer import MCMC, NUTS
    >>> def program(y):
    ...     theta = numpyro.sample("theta", as_distribution(fitted))
    ...     numpyro.sample("y", numpyro.distributions.Normal(theta.sum(), 0.5), obs=y)
    >>> mcmc = MCMC(NUTS(program), num_warmup=200, num_samples=200, progress_bar=False)
    >>> mcmc.run(jax.random.key(1), 0.7)
    >>> mcmc.get_samples()["theta"].shape
    (200, 2)
    """
    if not isinstance(fitted, Fitted):
        raise TypeError(
            f"fitted must be a jaxgen.Fitted, as jaxgen.fit returns; got {type(fitted).__name__}"
        )
    model = fitted.model
    if model.traits.density == "none":
        raise ValueError(f"fitted must have a density, but {model} has none")
    batch_shape = ()
    if y is not None and model.y_shape is not None:
        y = inputs.as_labels(y, fitted.labels)
        dims = np.ndim(y) - len(model.y_shape)
        if dims < 0 or np.shape(y)[dims:] != model.y_shape:
            wanted = _named(model.y_shape)
            raise ValueError(f"y must have shape {wanted} for {model}; got {np.shape(y)}")
        batch_shape = np.shape(y)[:dims]
    y = inputs.as_conditions(model, y, batch_shape, inputs.float_dtype(fitted.params))
    y = None if y is None else jnp.asarray(y)
    params = jax.tree_util.tree_map_with_path(
        functools.partial(_held, model.learning.frozen), _map(jnp.asarray, fitted.params)
    )
    return ModelDistribution(model, params, y, batch_shape)


class ModelDistribution(Distribution):
    """What ``as_distribution`` makes; its arguments are checked there."""

    pytree_data_fields = ("params", "y")
    pytree_aux_fields = ("model", "_own_dims", "_y_dims")

    def __init__(self, model, params, y, batch_shape):
        self.model, self.params, self.y = model, params, y
        # what vmap adds to the shapes later are further dimensions of the batch
        self._own_dims = tuple(map(jnp.ndim, jax.tree_util.tree_leaves(params)))
        self._y_dims = len(batch_shape)
        super().__init__(batch_shape, model.event_shape)

    @constraints.dependent_property
    def support(self):
        if varies(self.model):
            return support_of(self.model, self.params)
        entry = entry_of(self.model.support)
        plain = isinstance(entry, constraints.ParameterFreeConstraint) and not entry.is_discrete
        return self.model.support if plain else Fixed(self.model)

    @property
    def has_rsample(self):
        return self.model.traits.reparameterized

    @property
    def has_enumerate_support(self):
        bounded = bounds_of(self.model.support) is not None
        return self.event_shape == () and self.is_discrete and bounded

    def enumerate_support(self, expand=True):
        if not self.has_enumerate_support:
            raise NotImplementedError(f"{self.model} has no support that could be enumerated")
        low, high = bounds_of(self.model.support)
        values = jnp.arange(low, high + 1, dtype=jnp.int32)
        values = values.reshape(-1, *[1] * len(self.batch_shape))
        return jnp.broadcast_to(values, (len(values), *self.batch_shape)) if expand else values

    @standard_promotion
    @validate_sample
    def log_prob(self, value, intermediates=None):
        x = jnp.asarray(value)
        dims = x.ndim - len(self.event_shape)
        if dims < 0 or x.shape[dims:] != self.event_shape:
            wanted = _named(self.event_shape)
            raise ValueError(f"value must have shape {wanted} for {self.model}; got {x.shape}")
        shape = jnp.broadcast_shapes(x.shape[:dims], self._leading())
        x = jnp.broadcast_to(x, (*shape, *self.event_shape))
        return self._in_rows(shape, self._score, x)

    @standard_promotion
    def sample(self, key, sample_shape=()):
        x = self._in_rows((*sample_shape, *self._leading()), self._draw, key=inputs.as_key(key))
        # half of a gradient, as through the draws of a mixture's parts, would mislead
        return x if self.has_rsample else lax.stop_gradient(x)

    def _score(self, _, params, own):
        x, y, _ = own
        return batch.log_prob(self.model, params, x, y)

    def _draw(self, n, params, own):
        _, y, key = own
        return batch.sample(self.model, params, key, n, y)

    def _validate_sample(self, value):
        value = jnp.asarray(value)
        unknown = jnp.isnan(value).any(tuple(range(-len(self.event_shape), 0)))
        unknown = unknown.reshape(*unknown.shape, *[1] * len(self.event_shape))
        # of NaN, which lies in no support, log_prob knows what to say
        known = jnp.where(unknown, self.support.feasible_like(value), value)
        return super()._validate_sample(known)

    def _groups(self):
        """The leading dimensions of the batch: those that the params have."""
        own = zip(jax.tree_util.tree_leaves(self.params), self._own_dims, strict=True)
        return jnp.broadcast_shapes(*(v.shape[: v.ndim - dims] for v, dims in own))

    def _leading(self):
        """The batch shape of params and y: ``batch_shape`` is of old where a vmap has been."""
        groups = self._groups()
        shape = (*groups, *[1] * self._y_dims) if groups else ()
        if self.y is None:
            return shape
        own = self.y.shape[: self.y.ndim - len(self.model.y_shape)]
        return jnp.broadcast_shapes(shape, own)

    def _in_rows(self, shape, fn, x=None, key=None):
        """``fn(n, params, (x, y, key))`` of n rows, with x (*shape, ...), as (*shape, ...)."""
        y = self.y
        if y is not None:
            y = jnp.broadcast_to(y, (*shape, *self.model.y_shape))
        groups, first = self._groups(), len(shape) - len(self._leading())
        front, there = range(len(groups)), range(first, first + len(groups))
        groups, rest = shape[first : there.stop], shape[:first] + shape[there.stop :]
        size, n = math.prod(groups), math.prod(rest)
        if not groups:
            x, y = _map(lambda v: v.reshape(n, *v.shape[len(shape) :]), (x, y))
            out = fn(n, self.params, (x, y, key))
            return out.reshape(*shape, *out.shape[1:])

        def apart(v):
            return jnp.moveaxis(v, there, front).reshape(size, n, *v.shape[len(shape) :])

        def repeated(v, dims):
            own = v.shape[v.ndim - dims :]
            return jnp.broadcast_to(v, (*groups, *own)).reshape(size, *own)

        leaves, tree = jax.tree_util.tree_flatten(self.params)
        params = jax.tree_util.tree_unflatten(tree, map(repeated, leaves, self._own_dims))
        keys = None if key is None else jax.random.split(key, size)
        own = *_map(apart, (x, y)), keys
        out = jax.vmap(functools.partial(fn, n))(params, own)
        return jnp.moveaxis(out.reshape(*groups, *rest, *out.shape[2:]), front, there)


@promote_batch_shape.register
def _promote_batch_shape(d: ModelDistribution):
    new = copy.copy(d)
    new._batch_shape = d._leading()
    return new


def _named(shape):
    """A shape with any number of leading dimensions, for an error."""
    return f"({', '.join(['...', *map(str, shape)])})"


def _held(frozen, path, leaf):
    """A param without gradient where the model freezes it, as ``fit`` does."""
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    held = any(name == own or name.startswith(f"{own}/") for own in frozen)
    return lax.stop_gradient(leaf) if held else leaf
