"""The contract. Everything else in jaxgen is written against this page.

A model is a frozen, hashable spec; its methods are pure functions of a ``params`` pytree, written
for ONE event. The library adds the batch with ``vmap``, so an author never writes a batch axis:

    class Exponential(jaxgen.Model):
        dim: int

        @property
        def event_shape(self):
            return (self.dim,)

        def init(self, key, x=None, y=None):
            return {"rate": jnp.ones(self.dim) if x is None else 1 / x.mean(0)}

        def log_prob(self, params, x, y=None):
            rate = params["rate"]
            inside = (x >= 0).all()
            return jnp.where(inside, jnp.sum(jnp.log(rate) - rate * x), -jnp.inf)

        def noise(self):
            return Uniform((self.dim,))

        def push(self, params, noise, y=None):
            return -jnp.log(noise) / params["rate"]

``jaxgen.fit(Exponential(2), x, key=key)`` then gives a ``Fitted`` with ``log_prob``, ``sample`` and
``save``, and ``jaxgen.check(Exponential(2))`` runs every law against it.

Randomness is explicit: an event is ``push`` of noise whose kind the model names beforehand
(``jaxgen.random``), or of one ``Key()`` where it cannot be named. ``pull`` is the way back, where
there is one: the noise that makes an event is its representation.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from jaxgen.core.places import Message, feature
from jaxgen.core.spec import Spec

Params = Any  # a pytree of arrays


class Model(Spec):
    """Base of every model. Give it fields, ``event_shape`` and the methods that raise below."""

    event_shape: ClassVar[tuple[int, ...]]  # shape of one observation
    y_shape: ClassVar[tuple[int, ...] | None] = None  # of one condition; None: unconditional
    density: ClassVar[Literal["exact", "estimate", "bound", "none"]] = "exact"  # of log_prob
    reparameterized: ClassVar[bool] = False  # do gradients pass through samples?
    invertible: ClassVar[bool] = False  # is there a pull?
    elementwise: ClassVar[bool] = False  # does push read each noise scalar once? Only for speed
    tile: ClassVar[int | None] = None  # rows a network takes at once on a CPU core; None: all
    scratch: ClassVar[int] = 0  # scalars that scoring one event holds in memory, beside it
    fit_method: ClassVar[Literal["closed_form", "em", "gradient", "mcmc"]] = "gradient"
    keep: ClassVar[Literal["best", "last"]] = "best"  # params of the best epoch, or of the last
    learning_rate: ClassVar[float] = 5e-3  # peak, of the optimizer that fit takes by default
    frozen: ClassVar[tuple[str, ...]] = ()  # params that gradients must not move, such as bounds
    classes: ClassVar[int | None] = None  # y is one of so many labels, and p(y) is known
    missing: ClassVar[Literal["closed_form", "em"] | None] = None  # how `fit` takes NaN; None: not
    rescalable: ClassVar[bool | np.ndarray] = False  # of each feature: may `rescale` change it?

    @property
    def support(self):
        """NumPyro constraint that every event satisfies, whatever the params."""
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def y_support(self):
        """NumPyro constraint that every condition satisfies; None: any number will do."""
        return None

    def init(self, key, x=None, y=None) -> Params:
        """Starting params; with a batch of data, params that suit it.

        x is (n, *event_shape). It is a float64 NumPy array when ``fit`` calls.
        """
        raise NotImplementedError(f"{type(self).__name__} must define init")

    def prepare(self, params, x, y, weights) -> Params:
        """Params to start training from, of those of ``init``: by default as they are.

        ``fit`` calls it on the host, outside of every trace, before it trains by gradients. x and y
        are JAX arrays of all rows; weights (n,) sum to the number of events, and rows without
        weight are padding.
        """
        return params

    def diagnose(self, params, x, y, weights, key, scores) -> tuple[dict[str, Any], str]:
        """What to record of fitted params, and a warning: by default nothing, and "".

        ``fit`` calls it on the host after it trained by gradients. x, y and weights are those of
        ``prepare``; scores (epochs,) are the mean scores of the training rows, in nats.
        """
        return {}, ""

    def log_prob(self, params, x, y=None):
        """log p(x) or log p(x|y) of one event, a scalar in nats; -inf outside the support.

        Only finite x arrive here: the library answers for NaN (NaN) and +-inf (-inf).
        """
        raise NotImplementedError(f"{type(self).__name__} must define log_prob")

    # Of a density that is an estimate by importance sampling: a function like ``log_prob`` that
    # returns log p and Pareto k of the weights, and what is made of k (n,) on the host.

    log_prob_and_k: ClassVar[Any] = None

    def warn_of_k(self, k) -> None:
        """Warn of events whose estimate cannot be trusted."""

    def noise(self) -> Any:
        """Pytree of noise leaves that one event takes (see ``jaxgen.random``)."""
        raise NotImplementedError(f"{type(self).__name__} must define noise")

    def push(self, params, noise, y=None):
        """The event that the noise makes."""
        raise NotImplementedError(f"{type(self).__name__} must define push")

    def pull(self, params, x, y=None):
        """The noise that makes the event, with ``invertible = True``."""
        raise NotImplementedError(f"{type(self).__name__} has no pull: it is not invertible")

    # How `fit` may learn it.

    def loss(self, params, noise, x, y=None):
        """What gradients minimise for one event, a scalar: the negative log-likelihood, in nats.

        noise is drawn anew for every event and step, as ``loss_noise`` names it.
        """
        return -self.log_prob(params, x, y)

    def loss_noise(self) -> Any:
        """Pytree of noise leaves that one event's loss takes; () for a loss without noise.

        An ``Events`` leaf among them is the number of events that are learnt from: the more they
        are, the less a prior of params weighs in the loss of one.
        """
        return ()

    def for_data(self, x, y=None, params=None) -> Model:
        """The model to fit to these rows, if they say more of it than its fields do.

        x is (n, *event_shape), or None where only y is known. ``fit`` calls it with checked NumPy
        arrays before anything is computed, and again with the params that it has learnt by
        gradients, so that a model can check itself where it has ended.

        Raises:
          ValueError: the model cannot be fitted to them.
        """
        return self

    def estimate(self, x, y=None, weights=None) -> Params:
        """Params of highest (smoothed) likelihood, with ``fit_method = "closed_form"``.

        x is (n, *event_shape), weights (n,) or None. Works on NumPy arrays (float64, from ``fit``)
        and on traced JAX arrays (inside EM) alike: see ``namespace``.
        """
        raise NotImplementedError(f"{type(self).__name__} has no closed form")

    def em_step(self, params, x, y=None, weights=None) -> tuple[Params, Any]:
        """One step of expectation-maximisation, with ``fit_method = "em"``.

        weights is (n,). Returns the new params and the weighted mean log-likelihood, in nats, of
        the params that came in.
        """
        raise NotImplementedError(f"{type(self).__name__} has no EM step")

    def draw_posteriors(self, keys, data, progress=None) -> tuple[Params, list[dict]]:
        """Params that hold draws of posteriors, with ``fit_method = "mcmc"``, and what to record.

        keys are (fits,); data a list of (x, y, weights), as many rows in each; progress as in
        ``fit``. Params have a leading axis of fits.
        """
        raise NotImplementedError(f"{type(self).__name__} has no posterior to draw from")

    def rescale(self, params, shift, scale) -> Params:
        """Params of ``shift + scale * x``, where x follows the params given.

        With ``rescalable = True`` (or an array that says so of each feature) ``fit`` learns
        from features of median 0 and deviation 1, and then puts the params in the units of the
        data: so a fit does not depend on units. params are float64 NumPy arrays and
        may have more leading axes than usual; shift and scale (scale > 0) have the event's shape,
        and are 0 and 1 for a feature that is not rescalable, such as one whose density has edges
        in params: rounding would put events outside.
        """
        raise NotImplementedError(f"{type(self).__name__} has no rescale")

    # What more it may answer. A model that declares `missing` takes one more argument, `seen`, in
    # log_prob, estimate and em_step: bool of x's shape or None, what is known of x. The rest of x
    # then is zeros that mean nothing, and the score is that of what is known, the rest integrated
    # out. Of the log_prior and log_prob of a model with `classes`, whose y_shape is (), the library
    # makes p(x) = sum_y p(y) p(x|y) and p(y|x).

    def complete(self, params, noise, x, seen, y=None):
        """x with what is not seen drawn given what is, from the noise of a ``push``."""
        raise NotImplementedError(f"{type(self).__name__} cannot complete an event")

    def log_prior(self, params):
        """log p(y) of each label, (classes,), in nats."""
        raise NotImplementedError(f"{type(self).__name__} has no prior of labels")

    def marginal(self, params, features: tuple[int, ...]) -> tuple[Model, Params]:
        """The model of some features alone, in the order given, in closed form.

        features are places in the flattened event, all different, at least one; the events of the
        result are vectors.
        """
        raise NotImplementedError(f"{type(self).__name__} has no marginals in closed form")

    def given(self, params, features: tuple[int, ...], values) -> tuple[Model, Params]:
        """The model of all other features, in order, given these, in closed form.

        values is (len(features),), not outside the support; at least one feature is left.
        """
        raise NotImplementedError(f"{type(self).__name__} has no conditionals in closed form")

    def modulate(self, params, change) -> Params:
        """Params moved by numbers without bounds, a pytree like params: those of a network.

        Zeros change nothing, and what gradients must not move stays.
        """
        raise NotImplementedError(f"{type(self).__name__}: no network can give its params")


def namespace(*arrays) -> Any:
    """The module whose functions suit the arrays: jax.numpy for JAX arrays, else numpy.

    It lets one ``estimate`` serve ``fit`` (float64 on the host) and EM (traced) alike.
    """
    return jnp if any(isinstance(a, jax.Array) for a in arrays) else np


def known(seen) -> dict[str, Any]:
    """``seen`` as a keyword for models that take it; others are never asked."""
    return {} if seen is None else {"seen": seen}


def others(model: Model, features: tuple[int, ...]) -> tuple[int, ...]:
    """Places in the flattened event that are not among the features, in order."""
    known = set(features)
    return tuple(j for j in range(math.prod(model.event_shape)) if j not in known)


def given_of_each(model: Model, params, log_weights, features, values):
    """The model of all other features given these, of many that differ in params and weight.

    params have a leading axis. Returns the model, its params with that axis, and the log weights
    with what the values say of each: its log density of them is added.
    """
    part, at = jax.vmap(lambda own: model.marginal(own, features))(params)
    scores = jax.vmap(lambda own: part.log_prob(own, values))(at)
    rest, own = jax.vmap(lambda own: model.given(own, features, values))(params)
    return rest, own, log_weights + scores


def check_seen(seen) -> None:
    """Raise where no row has a value of some feature; seen is (n, *event_shape), on the host."""
    never = ~seen.any(0).reshape(-1)
    if never.any():
        raise ValueError(Message("x has no value of ", feature(never.argmax())))
