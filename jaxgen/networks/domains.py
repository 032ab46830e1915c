"""Where a number lives: anywhere, above zero, on an interval or a circle, or among levels."""

from __future__ import annotations

from typing import Annotated

import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from jaxgen.bijectors.bounded import Interval, Positive
from jaxgen.core.families import namespace
from jaxgen.core.spec import AtLeast, Spec

__all__ = ["Circle", "Domain", "Interval", "Levels", "Positive", "Real", "constraint", "each"]


class Real(Spec):
    """Any number."""


class Circle(Spec):
    """Numbers from low to high whose ends meet, such as longitudes: ``Circle(-180, 180)``.

    Args:
      low: one end, in the units of x.
      high: the other, which is the same place.
    """

    low: float = -np.pi
    high: float = np.pi

    def __post_init__(self):
        super().__post_init__()
        if not -np.inf < self.low < self.high < np.inf:
            raise ValueError(
                f"Circle: low and high must be finite with low < high, got {self.low} and "
                f"{self.high}"
            )


class Levels(Spec):
    """Categories 0 .. count - 1, in no order, such as labels. For numbers in y alone.

    Args:
      count: how many there are.
    """

    count: Annotated[int, AtLeast(2)]


Domain = Real | Positive | Interval | Circle | Levels


def each(domain: tuple[Domain, ...] | None, dim: int, name="domain") -> tuple[Domain, ...]:
    """The domain of each of ``dim`` numbers, where one or none may stand for all."""
    domain = (Real(),) if domain is None else domain
    if len(domain) not in (1, dim):
        raise ValueError(f"{name} must have 1 entry or {dim}, one a number; got {len(domain)}")
    return domain * dim if len(domain) == 1 else domain


def constraint(domains: tuple[Domain, ...], shape: tuple[int, ...]):
    """NumPyro's constraint of an array of that shape with a number in each of the domains."""
    if len(set(domains)) == 1:
        return constraints.independent(_constraint(domains[0]), len(shape))
    return _Numbers(domains, shape)


def _constraint(domain):
    if isinstance(domain, (Interval, Circle)):
        return constraints.interval(domain.low, domain.high)  # a density may stop at its ends
    if isinstance(domain, Levels):
        return constraints.integer_interval(0, domain.count - 1)
    return constraints.positive if isinstance(domain, Positive) else constraints.real


class _Numbers(constraints.Constraint):
    """Each number of an array lies in its own domain."""

    def __init__(self, domains, shape):
        self.domains, self.shape = domains, shape
        super().__init__()

    @property
    def event_dim(self):
        return len(self.shape)

    def __call__(self, x):
        xp = namespace(x)
        x = x.reshape(*x.shape[: x.ndim - len(self.shape)], len(self.domains))
        each = [_constraint(d)(x[..., i]) for i, d in enumerate(self.domains)]
        return xp.stack(xp.broadcast_arrays(*each), -1).all(-1)

    def feasible_like(self, prototype):
        shape = jnp.shape(prototype)
        prototype = jnp.reshape(prototype, (*shape[: len(shape) - len(self.shape)], -1))
        each = [_constraint(d).feasible_like(prototype[..., i]) for i, d in enumerate(self.domains)]
        return jnp.stack(each, -1).reshape(shape)

    def tree_flatten(self):
        return (), ((), {"domains": self.domains, "shape": self.shape})

    def eq(self, other, static=False):
        same = isinstance(other, _Numbers) and self.domains == other.domains
        return same and self.shape == other.shape
