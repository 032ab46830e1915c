"""Mixtures of normal distributions, fitted by expectation-maximisation."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from jaxgen.core import dataframes, inputs
from jaxgen.core.by_index import by_index
from jaxgen.core.families import given_of_each, resized, without_weight
from jaxgen.core.lanes import lanes
from jaxgen.core.model import Learning, Model, Traits
from jaxgen.core.numerics import computed_once, logsumexp, logsumexp_of_tiles
from jaxgen.core.promotion import standard_promotion
from jaxgen.core.random import Bits, Normal
from jaxgen.core.random.choice import choose, words_for
from jaxgen.core.records import Components, Sizes
from jaxgen.core.shards import sum_over_rows
from jaxgen.core.sizes import size_class
from jaxgen.core.spec import Count, NonNegative, Params
from jaxgen.core.units import standard_units
from jaxgen.models import kmeans
from jaxgen.models.gaussian import Gaussian
from jaxgen.models.normal import covariances
from jaxgen.models.normal.covariances import MixtureCovariance, collapse, expand
from jaxgen.models.normal.density import (
    WRITTEN_OUT,
    log_constant,
    squared_length,
    whitening,
)
from jaxgen.models.normal.em import (
    component_moments,
    em_step_observed,
    em_tile,
    is_collapsed,
    maximise,
    no_moments,
    row_shares,
)
from jaxgen.models.normal.matrices import SCALARS, matmul

_UNROLLED = 2  # components scored in one step of the scan
_TILE = 512  # rows taken at once with more features than SCALARS
_GATHERED = 32  # up to this many features, to gather factors is faster than to sort rows
_map = jax.tree_util.tree_map


class GaussianMixture(Model):
    """Mixture of normals, log p(x) = log sum_k w_k N(x; mean_k, covariance_k).

    ``fit`` runs EM from a k-means++ start, then gradients if it is given an optimizer.

    Args:
      dim: number of features.
      components: number of normals.
      covariance: "full"; "tied", one full covariance that all components share; "diagonal", or
        "diag" for short; or "spherical", one variance for each component, so that the fit depends
        on the units of one feature relative to another.
      jitter: added to the diagonal of each covariance, relative to each feature's mean variance
        within components; that variance is first clipped to between 0.01 and 1 times the feature's
        variance in all the data. For "spherical" these variances are means over the features.

    Params: ``logits`` (components,), the log weights up to a constant; ``mean`` (components, dim);
    and the scale of the covariance: ``scale_tril`` (components, dim, dim), lower Cholesky factors,
    or (dim, dim) for "tied"; or the standard deviations ``scale`` (components, dim), or
    (components,) for "spherical". ``weights`` and ``means`` return what scikit-learn
    calls ``weights_`` and ``means_``, and ``covariances`` the matrices (components, dim, dim) for
    every kind of covariance.

    Source: Dempster, Laird and Rubin 1977; Bishop 2006, section 9.2.

    >>> fitted = jaxgen.fit(GaussianMixture(2, components=16), x, key=jax.random.key(0), restarts=4)
    """

    dim: Count
    components: Count
    covariance: MixtureCovariance = "full"
    jitter: NonNegative = 1e-6

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "covariance", covariances.without_alias(self.covariance))

    @functools.cached_property
    def learning(self):
        return Learning("em", missing="em", rescalable=covariances.units(self.covariance))

    @functools.cached_property
    def traits(self):
        sizes = Sizes(self._of_size, self._resize, self._init_some)
        collapsed = functools.partial(is_collapsed, covariance=self.covariance, jitter=self.jitter)
        components = Components(
            self.components, self._joint_of_event, self._which, sizes, collapsed
        )
        return Traits(
            components=components,
            degrees_of_freedom=self._degrees_of_freedom,
            tile=_TILE if self.dim > SCALARS else None,
            row_major=self.dim > SCALARS,
        )

    @property
    def event_shape(self):
        return (self.dim,)

    @property
    def _normal(self):
        """The spec of a component with the params of ``_normals``."""
        return Gaussian(self.dim, self._form, self.jitter)

    @property
    def _form(self):
        return covariances.form_of(self.covariance)

    def init(self, key, x=None, y=None):
        if x is not None:
            return self._init_some(self.components, key, x)
        normal = self._normal.init(key)
        stacked = {k: jnp.broadcast_to(v, (self.components, *v.shape)) for k, v in normal.items()}
        mean = jax.random.normal(key, (self.components, self.dim))
        params = {"logits": jnp.zeros(self.components), **stacked, "mean": mean}
        return collapse(params, self.covariance)

    def _init_some(self, count, key, x, y=None):
        """Params whose first ``count`` components alone have weight."""
        return _start(self, key, kmeans.centred(x), jnp.asarray(x, float), np.int32(count))

    @standard_promotion
    def start(self, x: ArrayLike, means: ArrayLike) -> Params:
        """Params with the given means, from which ``fit`` can start.

        The weights and covariances are those of the rows nearest to each of the means, in the
        units in which ``fit`` learns.

        Args:
          x: events (n, dim); a missing value (NaN) counts as the mean of its feature.
          means: (components, dim), in the units of x.

        Raises:
          TypeError, ValueError: x or means has the wrong kind or shape or is not finite.

        >>> mixture = GaussianMixture(2, components=3)
        >>> start = mixture.start(x, means=[[0.0, 0.0], [1.0, 1.0], [-1.0, 2.0]])
        >>> fitted = jaxgen.fit(jaxgen.Fitted(mixture, start), x, key=key)
        """
        columns = dataframes.column_names(x) if dataframes.is_table(x) else None
        means = dataframes.select(means, columns, "means")
        rows, _, _ = inputs.training_data(self, x, None, None, missing=True)
        centres = np.asarray(inputs.numbers(means, "means"), np.float64)
        shape = self.components, self.dim
        if centres.shape != shape or not np.isfinite(centres).all():
            got = f"shape {centres.shape}" if centres.shape != shape else "NaN or infinity"
            raise ValueError(f"means must be finite numbers of shape {shape}; got {got}")
        units: Any = standard_units(self, rows)
        z, n = units.enter(inputs.filled(rows, np.nanmean)), len(rows)
        padding = size_class(n) - n
        padded = np.pad(z, ((0, padding), (0, 0))), np.pad(np.ones(n), (0, padding))
        arrays = (jnp.asarray(v, float) for v in (*padded, units.enter(centres)))
        params = {**units.leave(self, _from_means(self, *arrays)), "mean": centres}
        return jax.tree_util.tree_map(lambda leaf: jnp.asarray(leaf, float), params)

    @standard_promotion
    def weights(self, params: Params) -> jax.Array:
        """The weights of the components, (components,), which sum to 1.

        >>> mixture = GaussianMixture(2, components=3)
        >>> mixture.weights(mixture.init(key))
        Array([0.33333334, 0.33333334, 0.33333334], dtype=float32)
        """
        return jax.nn.softmax(jnp.asarray(params["logits"]))

    @standard_promotion
    def means(self, params: Params) -> jax.Array:
        """The means of the components, (components, dim), in the units of x.

        >>> mixture = GaussianMixture(2, components=3)
        >>> mixture.means(mixture.init(key)).shape
        (3, 2)
        """
        return jnp.asarray(params["mean"])

    @standard_promotion
    def covariances(self, params: Params) -> jax.Array:
        """The covariances of the components, (components, dim, dim), in the squared units of x.

        >>> mixture = GaussianMixture(2, components=3, covariance="tied")
        >>> mixture.covariances(mixture.init(key)).shape
        (3, 2, 2)
        """
        return covariances.matrices(params, self.covariance)

    def log_prob(self, params, x, y=None, observed=None):
        if observed is not None:
            return logsumexp(self._joint_observed(params, x, observed))
        if self.dim > SCALARS:
            return lanes(self._log_density)(params, x)

        x = list(x)  # outside the scan, inside of which rows would be read by columns

        def scores(tile):
            return [self._score(_map(lambda v: v[i], tile), x) for i in range(_UNROLLED)]  # noqa: B023

        return logsumexp_of_tiles(scores, _tiles(self._parts(params), self.components), x[0].dtype)

    def noise(self):
        return {"component": Bits((words_for(self.components),)), "z": Normal((self.dim,))}

    def push(self, params, noise, y=None):
        component, z = self._which(params, noise), noise["z"]
        pick = lambda table: table.at[component].get(mode="promise_in_bounds")  # noqa: E731
        mean = params["mean"]
        if self.covariance == "tied":
            return pick(mean) + matmul(jnp.tril(params["scale_tril"]), z)
        if self._form == "diagonal":
            return pick(mean) + pick(expand(params, self.covariance)["scale"]) * z
        scale = params["scale_tril"]
        if self.dim > _GATHERED:
            return by_index(self._normal.push, self._normals(params), component, z)
        if self.dim > SCALARS:
            columns = computed_once(jnp.swapaxes(jnp.tril(scale), 1, 2), params["logits"][0])
            return sum((pick(columns[:, j]) * z[j] for j in range(self.dim)), pick(mean))
        # one gather for each scalar is twice as fast as a gather of whole matrices
        rows = [
            sum((pick(scale[:, i, j]) * z[j] for j in range(i + 1)), pick(mean[:, i]))
            for i in range(self.dim)
        ]
        return jnp.stack(rows)

    def complete(self, params, noise, x, observed, y=None):
        weights = jax.nn.softmax(self._joint_observed(params, x, observed))
        component = choose(weights, noise["component"])

        def complete(normal, args):
            return self._normal.complete(normal, *args)

        return by_index(complete, self._normals(params), component, (noise["z"], x, observed))

    def marginal(self, params, features):
        marginal = lambda p: self._normal.marginal(p, features)  # noqa: E731
        part, normals = jax.vmap(marginal)(self._normals(params))
        return self._mixture_of(part, params["logits"], normals)

    def given(self, params, features, values):
        normals, log_weights = self._normals(params), jax.nn.log_softmax(params["logits"])
        part, rest, logits = given_of_each(self._normal, normals, log_weights, features, values)
        return self._mixture_of(part, logits, rest)

    def modulate(self, params, change):
        normals = jax.vmap(self._normal.modulate)(self._normals(params), self._normals(change))
        logits = params["logits"] + change["logits"]
        return {"logits": logits, **collapse(normals, self.covariance)}

    def rescale(self, params, shift, scale):
        return covariances.rescale(params, self.covariance, shift, scale)

    def em_step(self, params, x, y=None, weights=None, observed=None):
        """One EM step, Bishop equations 9.23 to 9.26; memory does not grow with n x components."""
        weightless = params["logits"] == -jnp.inf  # such components stay without weight
        if observed is not None:
            new, score = em_step_observed(
                params, x, weights, observed, self.covariance, self.jitter
            )
            return without_weight(new, weightless), score
        *moments, score = sum_over_rows(self._sums, (x, weights), params)
        new = without_weight(self._maximise(moments, params["mean"]), weightless)
        return new, score / weights.sum()

    def _sums(self, rows, params):
        """Moments about the means, and the total score, of rows (x, weights)."""
        x, weights = rows
        tile = em_tile(len(x))
        padding = -len(x) % tile
        # rows on the last axis, over which the moments are summed
        x = jnp.pad(x, ((0, padding), (0, 0))).reshape(-1, tile, self.dim).swapaxes(1, 2)
        weights = jnp.pad(weights, (0, padding)).reshape(-1, tile)

        def add(sums, rows):
            x, weights = rows
            shares, score = row_shares(self._joint(params, x), weights)
            moments = self._moments(x, shares, params["mean"])
            new = *moments, (weights * score).sum()
            return jax.tree_util.tree_map(jnp.add, sums, new), None

        zeros = no_moments(self.components, self.dim, self._form, x.dtype)
        return lax.scan(add, zeros, (x, weights))[0]

    def _joint_observed(self, params, x, observed):
        """log w_k + log N(observed features of x; k) of one event, (components,)."""
        score = lambda normal: self._normal.log_prob(normal, x, None, observed)  # noqa: E731
        scores = lax.map(score, self._normals(params))
        return jax.nn.log_softmax(params["logits"]) + scores

    def _joint_of_event(self, params, x, y=None, observed=None):
        if observed is None:
            return lanes(self._joint)(params, x)
        return self._joint_observed(params, x, observed)

    def _which(self, params, noise, y=None):
        return choose(jax.nn.softmax(params["logits"]), noise["component"])

    def _degrees_of_freedom(self, params):
        scale = covariances.scale_size(self.covariance, self.dim, self.components)
        return self.components - 1 + self.components * self.dim + scale

    def _normals(self, params):
        """Params of the components, stacked: those of ``_normal``."""
        return {k: v for k, v in expand(params, self.covariance).items() if k != "logits"}

    def _of_size(self, components):
        return GaussianMixture(self.dim, components, self.covariance, self.jitter)

    def _resize(self, params, count):
        """Params of the first ``count`` components, or with more components, without weight."""
        shared = ("scale_tril",) if self.covariance == "tied" else ()
        return resized(params, count, shared)

    def _mixture_of(self, normal, logits, normals):
        """A mixture of as many components with the spec ``normal``, and its params."""
        mixture = GaussianMixture(normal.dim, self.components, self.covariance, self.jitter)
        return mixture, {"logits": logits, **collapse(normals, self.covariance)}

    def _log_density(self, params, x):
        """log p(x) of one event, or of rows on the last axis of x."""
        return logsumexp(self._joint(params, x), 0)

    def _joint(self, params, x):
        """log w_k + log N(x; k), (components,) of one event, or (components, rows) of rows."""
        # split outside the loop, inside of which rows would be read by columns
        x = list(x) if self.dim <= WRITTEN_OUT else x
        score = jax.checkpoint(lambda part: self._score(part, x))  # a gradient stores no distances
        return lax.map(score, self._parts(params))

    def _parts(self, params):
        """Mean, whitening matrix and log density at the mean, with its log weight, of each part."""
        normals = self._normals(params)
        scale = normals[covariances.scale_name(self.covariance)]
        constant = jax.nn.log_softmax(params["logits"]) + log_constant(scale, self._form)
        return params["mean"], whitening(scale, self._form), constant

    def _score(self, part, x):
        """log w + log N(x) of one component."""
        mean, whiten, constant = part
        return constant - 0.5 * squared_length(x, mean, whiten)

    def _moments(self, x, shares, mean):
        """Moments about ``mean`` of each component; x is (dim, rows), shares (components, rows)."""

        def moments(component):
            share, mean = component
            return component_moments(share, x - mean[:, None], self._form)

        return lax.map(moments, (shares, mean))

    def _maximise(self, moments, mean):
        return maximise(moments, mean, self.covariance, self.jitter)


def _tiles(parts, count):
    """Components in tiles of _UNROLLED; components added as padding have log weight -inf."""
    padding = -count % _UNROLLED

    def tile(leaf):
        return jnp.concatenate([leaf, leaf[:1].repeat(padding, 0)]).reshape(
            -1, _UNROLLED, *leaf.shape[1:]
        )

    mean, whiten, constant = map(tile, parts)
    weightless = jnp.arange(count + padding).reshape(-1, _UNROLLED) >= count
    return mean, whiten, jnp.where(weightless, -jnp.inf, constant)


@functools.partial(jax.jit, static_argnums=0)
def _start(model, key, centred, x, count):
    """Params from k-means of centred rows, whose first ``count`` components alone have weight."""
    shares = kmeans.cluster(key, centred, model.components, count)
    params = _from_shares(model, x, shares.T)
    return without_weight(params, jnp.arange(model.components) >= count)


@functools.partial(jax.jit, static_argnums=0)
def _from_means(model, x, weights, means):
    """Params from the rows nearest to each of the means (components, dim)."""
    return _from_shares(model, x, kmeans.nearest(x, means).T * weights)


def _from_shares(model, x, shares):
    """Params by one maximisation step from given shares (components, rows)."""
    centre = jnp.broadcast_to(x.mean(0), (model.components, model.dim))
    total, first, _ = model._moments(x.T, shares, centre)
    # moments about each component's mean keep the digits of narrow components
    centre = centre + first / jnp.maximum(total, 1)[:, None]
    return model._maximise(model._moments(x.T, shares, centre), centre)
