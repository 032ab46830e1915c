"""A fitted model as a NumPyro distribution: a prior, a likelihood or a guide."""

from __future__ import annotations

import copy
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from numpyro.distributions import Distribution, constraints
from numpyro.distributions.batch_util import promote_batch_shape
from numpyro.distributions.util import validate_sample

from jaxgen.core import functions, inputs
from jaxgen.core.constraints import SupportOf, bounds, innermost
from jaxgen.core.promotion import standard_promotion
from jaxgen.training.fitted import Fitted

_map = jax.tree_util.tree_map


@standard_promotion
def as_distribution(fitted: Fitted, y: ArrayLike | None = None) -> Distribution:
    """A fitted model as a NumPyro distribution p(x) or p(x|y).

    Its density has gradients in x, in y and in the params, except for params that the model
    freezes, such as bounds. Its support is that of the model, or for a model whose support depends
    on its params, such as a ``Box``, the support at these params. NaN in x is a missing value if
    the model takes missing values, as in ``jaxgen.log_prob``.

    Draws of a model that is not reparameterized, such as a mixture, have no gradient in the params,
    and ``has_rsample`` is False. Use such a model as a guide with ``TraceGraph_ELBO``;
    ``Trace_ELBO`` would not change its params. To train a model within a program, make its params
    a site: ``numpyro.param("flow", lambda _: fitted.params)``.

    Args:
      fitted: model and params, as ``jaxgen.fit`` returns them.
      y: conditions (*batch_shape, *y_shape), or labels by name or number; None for an unconditional
        model. For a model of labels, None gives the marginal sum_y p(y) p(x|y).

    Returns:
      A distribution with the event_shape of the model, and with the batch_shape of y, or ().

    Raises:
      TypeError, ValueError: fitted is not a ``Fitted`` or has no density; y is missing, was given
        to an unconditional model, or has the wrong type or shape.

    >>> import numpyro
    >>> from numpyro.infer import MCMC, NUTS
    >>> events = np.random.default_rng(0).normal(size=(200, 2))
    >>> prior = jaxgen.fit(jaxgen.models.Gaussian(2), events, key=jax.random.key(0))
    >>> def program(y):
    ...     theta = numpyro.sample("theta", as_distribution(prior))
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
    batch_shape: tuple[int, ...] = ()
    if y is not None and model.y_shape is not None:
        y = fitted.conditions_of(y)
        dims = np.ndim(y) - len(model.y_shape)
        if dims < 0 or np.shape(y)[dims:] != model.y_shape:
            expected = _with_batch(model.y_shape)
            raise ValueError(f"y must have shape {expected} for {model}; got {np.shape(y)}")
        batch_shape = np.shape(y)[:dims]
    y = inputs.as_conditions(model, y, batch_shape, inputs.float_dtype(fitted.params))
    y = None if y is None else jnp.asarray(y)
    params = jax.tree_util.tree_map_with_path(
        functools.partial(_without_gradient, model.learning.frozen),
        _map(jnp.asarray, fitted.params),
    )
    return ModelDistribution(model, params, y, batch_shape)


class _Rows(NamedTuple):
    """Rows of a distribution: events, conditions and the key that draws them, each may be None."""

    x: jax.Array | None = None
    y: jax.Array | None = None
    key: jax.Array | None = None


class ModelDistribution(Distribution):
    """The distribution that ``as_distribution`` returns, which has checked the arguments."""

    pytree_data_fields = ("params", "y")
    pytree_aux_fields = ("model", "_param_dims", "_y_dims")

    def __init__(self, model, params, y, batch_shape):
        self.model, self.params, self.y = model, params, y
        # a later vmap adds leading dimensions to params and y, which belong to the batch
        self._param_dims = tuple(map(jnp.ndim, jax.tree_util.tree_leaves(params)))
        self._y_dims = len(batch_shape)
        super().__init__(batch_shape, model.event_shape)

    @constraints.dependent_property
    def support(self):
        if self.model.traits.support_at is not None:
            return self.model.traits.support_at(self.params)
        number = innermost(self.model.support)
        has_params = not isinstance(number, constraints.ParameterFreeConstraint)
        return SupportOf(self.model) if has_params or number.is_discrete else self.model.support

    @property
    def has_rsample(self):
        return self.model.traits.reparameterized

    @property
    def has_enumerate_support(self):
        is_bounded = bounds(self.model.support) is not None
        return self.event_shape == () and self.is_discrete and is_bounded

    def enumerate_support(self, expand=True):
        if not self.has_enumerate_support:
            raise NotImplementedError(f"{self.model} has no support that can be enumerated")
        low, high = bounds(self.model.support)  # type: ignore[misc]  # there are some
        values = jnp.arange(low, high + 1, dtype=jnp.int32)
        values = values.reshape(-1, *[1] * len(self.batch_shape))
        return jnp.broadcast_to(values, (len(values), *self.batch_shape)) if expand else values

    @standard_promotion
    @validate_sample
    def log_prob(self, value, intermediates=None):
        x = jnp.asarray(value)
        dims = x.ndim - len(self.event_shape)
        if dims < 0 or x.shape[dims:] != self.event_shape:
            expected = _with_batch(self.event_shape)
            raise ValueError(f"value must have shape {expected} for {self.model}; got {x.shape}")
        shape = jnp.broadcast_shapes(x.shape[:dims], self._current_batch())
        x = jnp.broadcast_to(x, (*shape, *self.event_shape))

        def score(n, params, rows):
            return functions.log_prob(self.model, params, rows.x, rows.y)

        return self._map_groups(score, shape, _Rows(x=x))

    @standard_promotion
    def sample(self, key, sample_shape=()):
        def draw(n, params, rows):
            return functions.sample(self.model, params, rows.key, n, rows.y)

        shape = (*sample_shape, *self._current_batch())
        x = self._map_groups(draw, shape, _Rows(key=inputs.as_key(key)))
        # draws of a mixture have gradients in some params and not in others, which would mislead
        return x if self.has_rsample else lax.stop_gradient(x)

    def _validate_sample(self, value):
        value = jnp.asarray(value)
        has_nan = jnp.isnan(value).any(tuple(range(-len(self.event_shape), 0)))
        has_nan = has_nan.reshape(*has_nan.shape, *[1] * len(self.event_shape))
        # log_prob takes NaN, although no support contains it
        return super()._validate_sample(
            jnp.where(has_nan, self.support.feasible_like(value), value)
        )

    def _groups(self):
        """The leading dimensions of the batch that the params have."""
        pairs = zip(jax.tree_util.tree_leaves(self.params), self._param_dims, strict=True)
        return jnp.broadcast_shapes(*(v.shape[: v.ndim - dims] for v, dims in pairs))

    def _current_batch(self):
        """The batch shape of params and y; ``batch_shape`` is outdated inside a vmap."""
        groups = self._groups()
        shape = (*groups, *[1] * self._y_dims) if groups else ()
        if self.y is None:
            return shape
        return jnp.broadcast_shapes(shape, self.y.shape[: self.y.ndim - len(self.model.y_shape)])

    def _map_groups(self, fn, shape, rows):
        """``fn(n, params, rows)`` for each group of params, as an array (*shape, ...).

        n is the number of rows in a group. The x of ``rows`` is (*shape, *event_shape).
        """
        y = self.y
        if y is not None:
            y = jnp.broadcast_to(y, (*shape, *self.model.y_shape))
        groups, first = self._groups(), len(shape) - len(self._current_batch())
        if not groups:
            n = math.prod(shape)
            x, y = _map(lambda v: v.reshape(n, *v.shape[len(shape) :]), (rows.x, y))
            out = fn(n, self.params, _Rows(x, y, rows.key))
            return out.reshape(*shape, *out.shape[1:])
        front, axes = range(len(groups)), range(first, first + len(groups))
        groups, rest = shape[first : axes.stop], shape[:first] + shape[axes.stop :]
        size, n = math.prod(groups), math.prod(rest)

        def split(v):
            return jnp.moveaxis(v, axes, front).reshape(size, n, *v.shape[len(shape) :])

        def repeated(v, dims):
            param_shape = v.shape[v.ndim - dims :]
            return jnp.broadcast_to(v, (*groups, *param_shape)).reshape(size, *param_shape)

        leaves, tree = jax.tree_util.tree_flatten(self.params)
        params = jax.tree_util.tree_unflatten(tree, map(repeated, leaves, self._param_dims))
        keys = None if rows.key is None else jax.random.split(rows.key, size)
        x, y = _map(split, (rows.x, y))
        out = jax.vmap(functools.partial(fn, n))(params, _Rows(x, y, keys))
        return jnp.moveaxis(out.reshape(*groups, *rest, *out.shape[2:]), front, axes)


@promote_batch_shape.register
def _promote_batch_shape(d: ModelDistribution):
    new = copy.copy(d)
    new._batch_shape = d._current_batch()
    return new


def _with_batch(shape):
    """A shape with any number of leading dimensions, for an error message."""
    return f"({', '.join(['...', *map(str, shape)])})"


def _without_gradient(frozen, path, leaf):
    """A param, without gradient if the model freezes it."""
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    is_frozen = any(name == prefix or name.startswith(f"{prefix}/") for prefix in frozen)
    return lax.stop_gradient(leaf) if is_frozen else leaf
