"""The contract of an invertible map, like ``jaxgen.Model`` for models."""

from __future__ import annotations

import functools
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from numpyro.distributions import constraints

from jaxgen.core.spec import Params, Spec, is_builtin


class Bijector(Spec):
    """A smooth invertible map from a base event z to an event x, written for ONE event.

    A subclass defines ``forward`` and ``inverse``. The other members have defaults for a map
    without params that keeps the shape and whose range is all real x. ``jaxgen.check`` tests the
    map by the model ``compose.Transformed(base, bijector)``.

    >>> class Cube(jaxgen.bijectors.Bijector):
    ...     def forward(self, params, z):
    ...         return z**3, jnp.log(3 * z**2).sum()
    ...     def inverse(self, params, x):
    ...         z = jnp.cbrt(x)
    ...         return z, -jnp.log(3 * z**2).sum()
    >>> jaxgen.compose.Transformed(jaxgen.models.Gaussian(2), Cube()).event_shape
    (2,)
    """

    rescalable: ClassVar[bool] = False  # whether the class defines ``rescale``

    @property
    def permutation(self) -> tuple[int, ...] | None:
        """The order of the features, for a map that only reorders them: x[i] = z[permutation[i]].

        None for any other map. With a permutation, a ``Transformed`` may have a discrete base, and
        it takes units, marginals and conditionals from the base, without ``part`` and ``rescale``.
        """
        return None

    @property
    def elementwise(self) -> bool:
        """Whether x[i] depends on z[i] alone: by default, whether the class defines ``part``."""
        return type(self).part is not Bijector.part

    def event_shape(self, base_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of x, given that of z."""
        return base_shape

    def support(self, event_shape: tuple[int, ...]) -> constraints.Constraint:
        """NumPyro constraint of x if z is any real number."""
        return constraints.independent(constraints.real, len(event_shape))

    def init(self, event_shape: tuple[int, ...], x: Any = None) -> Params:
        """Params, from a batch of data x (n, *event_shape) if given."""
        return {}

    def contains(self, params: Params, x: jax.Array) -> jax.Array:
        """Whether ``inverse`` is defined at x, a scalar bool."""
        return jnp.asarray(True)

    def rescale(self, params: Params, shift: Any, scale: Any) -> Params:
        """Params of the map to ``shift + scale * x``: see ``Model.rescale``."""
        raise NotImplementedError(f"{type(self).__name__} has no rescale")

    def degrees_of_freedom(self, params: Params) -> int:
        """The number of free numbers in the params; by default all of them are free."""
        return sum(math.prod(leaf.shape) for leaf in jax.tree_util.tree_leaves(params))

    def part(self, params: Params, features: tuple[int, ...]) -> Params:
        """Params of the same map of a vector of some features, for a map that is elementwise."""
        raise NotImplementedError(f"{self} is not elementwise")

    def forward(self, params: Params, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x and the scalar log|det dx/dz|."""
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def inverse(self, params: Params, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """z and the scalar log|det dz/dx|."""
        raise NotImplementedError(f"{type(self).__name__} must define inverse")


@functools.lru_cache(maxsize=256)
def check_methods(bijector: Bijector, base_shape: tuple[int, ...]) -> None:
    """Raise if ``forward`` or ``inverse`` does not return what the contract states.

    The methods are traced, and nothing is compiled. Bijectors of jaxgen are not checked, nor those
    whose ``init`` fails without data.

    Raises:
      TypeError: the result of a method has another form; the message names it. And any error of the
        methods.
    """
    if is_builtin(type(bijector)):
        return
    shape = bijector.event_shape(base_shape)
    try:
        params = jax.eval_shape(lambda: bijector.init(shape))
    except Exception:
        return
    dtype = jnp.result_type(float)
    z, x = (jax.ShapeDtypeStruct(s, dtype) for s in (base_shape, shape))
    for name, event, wanted, what in (
        ("forward", z, shape, "x and log|det dx/dz|"),
        ("inverse", x, base_shape, "z and log|det dz/dx|"),
    ):
        found = jax.eval_shape(getattr(bijector, name), params, event)
        shapes = jax.tree_util.tree_map(lambda leaf: str(leaf.shape), found)
        if not isinstance(found, tuple) or shapes != (str(wanted), "()"):
            got = f"shapes {' and '.join(shapes)}" if isinstance(found, tuple) else shapes
            raise TypeError(
                f"{type(bijector).__name__}.{name} must return a tuple, {what}, of shapes {wanted} "
                f"and (); got {got}"
            )
