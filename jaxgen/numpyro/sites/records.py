"""Records of a program and of its sites."""

from __future__ import annotations

from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform

from jaxgen.networks.domains import Domain
from jaxgen.numpyro.function import Function


class ProgramSignature(NamedTuple):
    """The fields of a program that its sites depend on.

    Attributes:
      program: the function.
      observed: name of the observed site.
      y_shape: shape of one condition; None for a program without conditions.
      classes: number of labels if y is a label, else None.
      y_domain: domains of the numbers in y; None if unknown.
    """

    program: Function
    observed: str
    y_shape: tuple[int, ...] | None
    classes: int | None
    y_domain: tuple[Domain, ...] | None

    def fail(self, what: str, cause: Exception | None = None) -> NoReturn:
        """Raise a ValueError that names the program."""
        raise ValueError(f"program {self.program.name}: {what}") from cause


class Site(NamedTuple):
    """A site of a program that is run for one row.

    Attributes:
      name: its name.
      shape: shape of its value, with an axis of length 1 for the plate over the rows.
      axis: that axis, counted from the end; None outside the plate.
      real_shape: shape of its value mapped to the reals; () for a discrete or observed site.
      discrete: whether its values are integers.
      reparameterized: whether gradients pass through its draws.
    """

    name: str
    shape: tuple[int, ...]
    axis: int | None
    real_shape: tuple[int, ...]
    discrete: bool
    reparameterized: bool

    @property
    def real_size(self) -> int:
        """How many real numbers its value is mapped to."""
        return int(np.prod(self.real_shape))


class Sites(NamedTuple):
    """The sites of a program, and examples of their values.

    Attributes:
      globals: latents outside the plate over the rows.
      locals: continuous latents in the plate that another site depends on.
      unread: continuous latents in the plate that no other site depends on, which the density of a
        row leaves out.
      discrete: discrete latents in the plate.
      observed_outside: names of sites observed outside the plate, such as factors.
      global_deterministic: names of deterministic sites that depend on globals only.
      row_deterministic: deterministic sites with a value for each row.
      discrete_values: the values that each discrete latent can take, by name.
      varying: names of discrete latents whose values depend on y. Their ``discrete_values`` are
        those for made-up y.
      observed: the observed site.
      bounded: whether 32-bit integers hold every event; False for counts without an upper bound.
      observed_parameter: name of the parameter of the program that takes the value of the observed
        site; None if there is none.
      param_transforms: maps from the reals onto the values of ``numpyro.param`` sites, by name.
      support: support of one event.
      example_argument: an argument to call the program with, for one row.
      other_argument: a different one.
      example_values: values of the sample sites for one row, by name.
      example_log_p: log p of those values, by which a file recognises the program.
      families: names of the distributions of the sample sites, by name, likewise.
    """

    globals: tuple[Site, ...]
    locals: tuple[Site, ...]
    unread: tuple[Site, ...]
    discrete: tuple[Site, ...]
    observed_outside: tuple[str, ...]
    global_deterministic: tuple[str, ...]
    row_deterministic: tuple[Site, ...]
    discrete_values: dict[str, np.ndarray]
    varying: tuple[str, ...]
    observed: Site
    bounded: bool
    observed_parameter: str | None
    param_transforms: dict[str, Transform]
    support: constraints.Constraint
    example_argument: Any
    other_argument: Any
    example_values: dict[str, np.ndarray]
    example_log_p: dict[str, float]
    families: dict[str, str]

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one event."""
        return np.empty(self.observed.shape).squeeze(self.observed.axis).shape

    @property
    def latents(self) -> tuple[Site, ...]:
        """The latents in the plate that the density of a row depends on."""
        return (*self.locals, *self.discrete)

    @property
    def in_plate(self) -> tuple[Site, ...]:
        """All sample sites in the plate."""
        return (*self.latents, *self.unread, self.observed)

    @property
    def names_in_plate(self) -> set[str]:
        """Names of all sample sites in the plate."""
        return {site.name for site in self.in_plate}

    def description(self) -> tuple[str, ...]:
        """One line for each site, with its shape, as a file holds them."""
        order = list(self.example_values)
        continuous = sorted((*self.locals, *self.unread), key=lambda site: order.index(site.name))
        groups = {
            "global": self.globals,
            "local": continuous,
            "discrete": self.discrete,
            "observed": (self.observed,),
        }
        lines = [f"{group} {s.name} {s.shape}" for group, sites in groups.items() for s in sites]
        lines += [f"given {name}" for name in self.observed_outside]
        return (*lines, *(f"param {name}" for name in self.param_transforms))
