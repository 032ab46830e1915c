"""Where a feature lives: any number, positive ones, an interval or a circle."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from jaxgen.bijectors.domains import Interval, Positive
from jaxgen.model import namespace
from jaxgen.spec import Spec

__all__ = ["Circle", "Domain", "Interval", "Positive", "Real", "constraint", "each"]


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


Domain = Real | Positive | Interval | Circle


def each(domain: tuple[Domain, ...] | None, dim: int) -> tuple[Domain, ...]:
    """The domain of each of ``dim`` features, where one or none may stand for all."""
    domain = (Real(),) if domain is None else domain
    if len(domain) not in (1, dim):
        raise ValueError(f"domain must have 1 entry or {dim}, one a feature; got {len(domain)}")
    return domain * dim if len(domain) == 1 else domain


def constraint(domains: tuple[Domain, ...]):
    """NumPyro's constraint of a vector with a feature in each of the domains."""
    if len(set(domains)) == 1:
        return constraints.independent(_constraint(domains[0]), 1)
    return _Features(domains)


def _constraint(domain):
    if isinstance(domain, (Interval, Circle)):
        return constraints.interval(domain.low, domain.high)  # a density may stop at its ends
    return constraints.positive if isinstance(domain, Positive) else constraints.real


class _Features(constraints.Constraint):
    """Each feature lies in its own domain."""

    event_dim = 1

    def __init__(self, domains):
        self.domains = domains
        super().__init__()

    def __call__(self, x):
        xp = namespace(x)
        each = [_constraint(d)(x[..., i]) for i, d in enumerate(self.domains)]
        return xp.stack(xp.broadcast_arrays(*each), -1).all(-1)

    def feasible_like(self, prototype):
        each = [_constraint(d).feasible_like(prototype[..., i]) for i, d in enumerate(self.domains)]
        return jnp.stack(each, -1)

    def tree_flatten(self):
        return (), ((), {"domains": self.domains})

    def eq(self, other, static=False):
        return isinstance(other, _Features) and self.domains == other.domains
