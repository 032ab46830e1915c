"""The contract of a model. Everything else in jaxgen is written against this page.

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
            return jaxgen.random.Uniform((self.dim,))

        def push(self, params, noise, y=None):
            return -jnp.log(noise) / params["rate"]

``jaxgen.fit(Exponential(2), x, key=key)`` returns a ``Fitted`` with ``log_prob``, ``sample`` and
``save``, and ``jaxgen.check(Exponential(2))`` runs every law, and says what to do where one fails.

A model is the push-forward of its noise: ``push`` turns noise into an event, and ``pull`` turns the
event back into its noise. Those five members are required. The other groups are optional, and a
model defines a group when it needs it:

- Support and conditions: ``support`` states which events are possible, if not all real numbers are
  (flows make it of ``jaxgen.domains``), and ``fit`` refuses others; ``y_shape`` is for p(x | y).
- Inverse: a bijective map from noise to events.
- Learning: ``learning = Learning(frozen=("low", "high"))`` names params that gradients must not
  change, such as bounds that ``init`` takes from x; or another method than gradients of -log p.
- Labels: y is one of a few classes whose frequencies p(y) the model knows.
- Missing values: NaN in x stands for an unknown value, if the model takes it.
- Parts: marginals and conditionals of features in closed form.
- Traits: what a user may ask of the model, and what makes it fast.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
from numpyro.distributions import constraints

from jaxgen.core.records import Learning, Traits
from jaxgen.core.spec import Params, Spec
from jaxgen.core.template import ModelType

__all__ = ["Learning", "Model", "Params", "Traits", "is_invertible", "overrides"]


class Model(Spec, metaclass=ModelType):
    """Base of every model: give it fields, ``event_shape`` and the methods that raise below.

    >>> model = jaxgen.models.Gaussian(2)
    >>> model.event_shape, model.learning.method, model.traits.density
    ((2,), 'closed_form', 'exact')
    """

    # Required.

    event_shape: ClassVar[tuple[int, ...]]  # shape of one event

    def init(self, key: jax.Array, x: Any = None, y: Any = None) -> Params:
        """Starting params; with a batch of data, params that suit it.

        x is (n, *event_shape). It is a float64 NumPy array when ``fit`` calls.
        """
        raise NotImplementedError(f"{type(self).__name__} must define init")

    def log_prob(self, params: Params, x: Any, y: Any = None) -> Any:
        """log p(x) or log p(x|y) of one event, a scalar in nats; -inf outside the support.

        x is finite: the library scores NaN (as NaN) and infinities (as -inf) by itself.
        """
        raise NotImplementedError(f"{type(self).__name__} must define log_prob")

    def noise(self) -> Any:
        """Pytree of the noise leaves that one event takes (see ``jaxgen.random``).

        A model whose noise cannot be named beforehand takes one ``Key()``.
        """
        raise NotImplementedError(f"{type(self).__name__} must define noise")

    def push(self, params: Params, noise: Any, y: Any = None) -> Any:
        """The event that the noise makes."""
        raise NotImplementedError(f"{type(self).__name__} must define push")

    # Support and conditions.

    y_shape: ClassVar[tuple[int, ...] | None] = None  # shape of one condition; None: no conditions

    @property
    def support(self) -> Any:
        """NumPyro constraint that every event satisfies, whatever the params."""
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def y_support(self) -> Any:
        """NumPyro constraint that every condition satisfies; None if any number is allowed."""
        return None

    # Inverse.

    def pull(self, params: Params, x: Any, y: Any = None) -> Any:
        """The noise that makes the event; the inverse of ``push``."""
        raise NotImplementedError(f"{type(self).__name__} has no pull: it is not invertible")

    # Learning.

    learning: ClassVar[Learning] = Learning()

    def loss(self, params: Params, noise: Any, x: Any, y: Any = None) -> Any:
        """The scalar that gradients minimise for one event; by default -log p, in nats.

        noise is drawn anew for every event and step, as ``learning.noise`` names it.
        """
        return -self.log_prob(params, x, y)

    def estimate(self, x: Any, y: Any = None, weights: Any = None) -> Params:
        """Params of highest (smoothed) likelihood, for the method "closed_form".

        x is (n, *event_shape), weights (n,) or None. Works on NumPy arrays (float64, from ``fit``)
        and on traced JAX arrays (within EM) alike: see ``jaxgen.core.families.namespace``.
        """
        raise NotImplementedError(f"{type(self).__name__} has no closed form")

    def em_step(
        self, params: Params, x: Any, y: Any = None, weights: Any = None
    ) -> tuple[Params, Any]:
        """One step of expectation-maximisation, for the method "em".

        weights is (n,). Returns the new params and the weighted mean log-likelihood, in nats, of
        the params before the step.
        """
        raise NotImplementedError(f"{type(self).__name__} has no EM step")

    def rescale(self, params: Params, shift: Any, scale: Any) -> Params:
        """Params of ``shift + scale * x``, where x follows the params given.

        With ``learning.rescalable``, ``fit`` learns from features of median 0 and deviation 1 and
        then rescales the params to the units of the data, so that a fit does not depend on units.
        params are float64 NumPy arrays and may have more leading axes than usual; shift and scale
        (scale > 0) have the event's shape, and are 0 and 1 for a feature that is not rescalable,
        such as one whose density has edges in params: rounding would put events outside.
        """
        raise NotImplementedError(f"{type(self).__name__} has no rescale")

    # Labels. The library makes p(x) = sum_y p(y) p(x|y) and p(y|x) of these and ``log_prob``.

    classes: ClassVar[int | None] = None  # number of labels, with y_shape = ()

    def log_prior(self, params: Params) -> Any:
        """log p(y) of each label, (classes,), in nats."""
        raise NotImplementedError(f"{type(self).__name__} has no prior of labels")

    # Missing values. With ``learning.missing`` set, log_prob, estimate and em_step take one more
    # argument, ``observed``: bool of x's shape, or None if all is observed. x is 0 where it is not
    # observed, and the score is that of the observed features, the others integrated out.

    def complete(self, params: Params, noise: Any, x: Any, observed: Any, y: Any = None) -> Any:
        """x with its missing features drawn given the others, from the noise of a ``push``."""
        raise NotImplementedError(f"{type(self).__name__} cannot complete an event")

    # Parts. Features are distinct indices into the flattened event, at least one.

    def marginal(self, params: Params, features: tuple[int, ...]) -> tuple[Model, Params]:
        """The model of some features alone, in the order given: its events are vectors."""
        raise NotImplementedError(f"{type(self).__name__} has no marginals in closed form")

    def given(self, params: Params, features: tuple[int, ...], values: Any) -> tuple[Model, Params]:
        """The model of all other features, in order, given the values (len(features),) of these.

        The values are not outside the support, and at least one feature is left.
        """
        raise NotImplementedError(f"{type(self).__name__} has no conditionals in closed form")

    # Traits.

    traits: ClassVar[Traits] = Traits()


def overrides(model: Model, name: str) -> bool:
    """Whether the model's class defines a method itself."""
    return getattr(type(model), name) is not getattr(Model, name)


def is_invertible(model: Model) -> bool:
    """Whether ``pull`` works: as ``traits`` says, by default whether the class defines it."""
    stated = model.traits.invertible
    return overrides(model, "pull") if stated is None else stated
