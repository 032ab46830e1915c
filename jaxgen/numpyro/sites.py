"""What a NumPyro program is made of: records of its sites."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxgen.networks.domains import Domain
from jaxgen.numpyro.function import Function


class ProgramSignature(NamedTuple):
    """What the sites depend on, of a program's spec."""

    program: Function
    observed: str
    y_shape: tuple[int, ...] | None
    classes: int | None
    y_domain: tuple[Domain, ...] | None


class Site(NamedTuple):
    """A site of a program that is run for one row."""

    name: str
    shape: tuple[int, ...]  # of a value, the plate's axis of one row included
    axis: int | None  # of the plate in it, from the end; None: outside of the plate
    free: tuple[int, ...]  # shape of a value without constraints; of a discrete one ()
    discrete: bool
    rsample: bool


class Sites(NamedTuple):
    """All that matter, by what they are."""

    globals: tuple[Site, ...]  # latent, outside of the plate
    locals: tuple[Site, ...]  # latent and continuous, within
    discrete: tuple[Site, ...]  # latent and discrete, within
    given: tuple[str, ...]  # observed outside of the plate, factors among them
    computed: tuple[str, ...]  # deterministic, of the globals alone
    deterministic: tuple[Site, ...]  # computed for each row
    levels: dict[str, np.ndarray]  # of each discrete latent, the values that it can take
    varying: tuple[str, ...]  # discrete latents whose values depend on y; levels are of made-up y
    observed: Site
    bounded: bool  # can every event be held in 32 bits? False: counts without an end
    parameter: str | None  # through which the program is given the value of the observed site
    params: dict[str, Any]  # of numpyro.param, the transforms to their constraints
    support: Any  # of one event
    argument: Any  # what the program is called with, where nothing but the globals is asked for
    other: Any  # another
    example: dict[str, np.ndarray]  # values of one row
    log_p: dict[str, float]  # of every site at those values, by which a program is recognised

    @property
    def event_shape(self) -> tuple[int, ...]:
        return np.empty(self.observed.shape).squeeze(self.observed.axis).shape

    @property
    def row_names(self):
        """Names of the sites that have a value for each row."""
        return {site.name for site in (*self.locals, *self.discrete, self.observed)}

    def description(self) -> tuple[str, ...]:
        """The sites and their shapes, one in a line, as files hold them."""
        kinds = {
            "global": self.globals,
            "local": self.locals,
            "discrete": self.discrete,
            "observed": (self.observed,),
        }
        own = [f"{kind} {s.name} {s.shape}" for kind, sites in kinds.items() for s in sites]
        given = (f"given {name}" for name in self.given)
        return (*own, *given, *(f"param {name}" for name in self.params))
