"""Domains of numbers: real, positive, on an interval or a circle, or levels.

>>> domains = jaxgen.domains.Circle(-180, 180), jaxgen.domains.Interval(-90, 90)
>>> jaxgen.models.SplineCoupling(2, domain=domains).event_shape
(2,)
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpyro.distributions import constraints

from jaxgen.bijectors.bounded import Interval, Positive
from jaxgen.core.constraints import Pieces
from jaxgen.core.spec import AtLeast, Spec

__all__ = ["Circle", "Domain", "Interval", "Levels", "Positive", "Real", "constraint", "each"]


class Real(Spec):
    """All real numbers."""


class Circle(Spec):
    """Numbers on a circle, such as longitudes: ``Circle(-180, 180)``.

    Args:
      low: the start of the circle, in the units of x.
      high: its end, which is the same point.
    """

    low: float = -np.pi
    high: float = np.pi

    def __post_init__(self) -> None:
        super().__post_init__()
        if not -np.inf < self.low < self.high < np.inf:
            raise ValueError(
                f"Circle: low and high must be finite with low < high, got {self.low} and "
                f"{self.high}"
            )


class Levels(Spec):
    """Categories 0 .. count - 1 without an order, such as labels; for numbers in y only.

    Args:
      count: number of categories.
    """

    count: Annotated[int, AtLeast(2)]


Domain = Real | Positive | Interval | Circle | Levels


def each(domain: tuple[Domain, ...] | None, dim: int, name: str = "domain") -> tuple[Domain, ...]:
    """The domain of each of ``dim`` numbers; a single domain is that of all, None is ``Real()``.

    Raises:
      ValueError: the number of domains is neither 1 nor ``dim``; ``name`` is that of the argument.
    """
    domain = (Real(),) if domain is None else domain
    if len(domain) not in (1, dim):
        raise ValueError(f"{name} must have 1 entry or {dim} entries; got {len(domain)}")
    return domain * dim if len(domain) == 1 else domain


def constraint(domains: tuple[Domain, ...], shape: tuple[int, ...]) -> constraints.Constraint:
    """The NumPyro constraint of an array of the given shape, with a domain for each number."""
    if len(set(domains)) == 1:
        return constraints.independent(_constraint(domains[0]), len(shape))
    return Pieces(tuple(map(_constraint, domains)), ((),) * len(domains), shape)


def _constraint(domain: Domain) -> constraints.Constraint:
    if isinstance(domain, (Interval, Circle)):
        # closed, since a density may include the ends
        return constraints.interval(domain.low, domain.high)
    if isinstance(domain, Levels):
        return constraints.integer_interval(0, domain.count - 1)
    return constraints.positive if isinstance(domain, Positive) else constraints.real
