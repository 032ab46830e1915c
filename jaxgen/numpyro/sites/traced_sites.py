"""Records of the sites of runs, as the inspection compares them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from numpyro.distributions import biject_to

from jaxgen.core.constraints import bounds, innermost
from jaxgen.numpyro.drawing import unwrapped
from jaxgen.numpyro.likelihood import is_masked
from jaxgen.numpyro.runs import param_transform
from jaxgen.numpyro.sites.records import ProgramSignature


class TracedSite(NamedTuple):
    """A site of one run, and facts about its distribution.

    Attributes:
      type: as NumPyro names it: "sample", "param", "plate" or "deterministic".
      value: its value.
      shapes: shapes of the leaves of its value.
      plates: the plates around it.
      plate_sizes: of a plate, its size and the size of a subsample.
      transform: of a param, the map from the reals onto its values.
      observed: whether it is observed.
      scale: factor of its log density; None for 1.
      masked: whether its distribution has a mask.
      discrete: whether its values are integers.
      reparameterized: whether gradients pass through its draws.
      event_dim: number of dimensions of one value of its distribution.
      family: name of its distribution, without what only changes shapes.
      real_shape: of a continuous latent, the shape of its value mapped to the reals.
      bounds: of a discrete site, the least and the largest value; None without bounds.
      values: of a discrete latent without bounds, all its values; None if unknown.
      support: of the observed site, the constraint of each number.
      log_p: log density of the value.
      log_p_without_x: the same, in a run in which the program is not given x.
      given_and_observed: of the observed site, the value that the program is given and the value
        that it observes.
    """

    type: str
    value: Any
    shapes: list[tuple[int, ...]]
    plates: Any
    plate_sizes: Any = None
    transform: Any = None
    observed: bool = False
    scale: Any = None
    masked: bool = False
    discrete: bool = False
    reparameterized: bool = False
    event_dim: int = 0
    family: str = ""
    real_shape: tuple[int, ...] = ()
    bounds: Any = None
    values: Any = None
    support: Any = None
    log_p: Any = None
    log_p_without_x: Any = None
    given_and_observed: Any = None

    @property
    def is_sample(self) -> bool:
        """Whether it is a sample site."""
        return self.type == "sample"


# an ordered dictionary, as JAX sorts the keys of other dictionaries
TracedSites = OrderedDict[str, TracedSite]


def traced_sites(signature: ProgramSignature, sites: dict[str, Any]) -> TracedSites:
    """Records of the sites of one run, in order."""
    return OrderedDict((name, _traced(signature, name, site)) for name, site in sites.items())


def _traced(signature, name, site) -> TracedSite:
    value, plates = site["value"], site.get("cond_indep_stack", ())
    shapes = [jnp.shape(leaf) for leaf in jax.tree_util.tree_leaves(value)]
    traced = TracedSite(site["type"], value, shapes, plates)
    if traced.type == "plate":
        return traced._replace(plate_sizes=site["args"])
    if traced.type == "param":
        return traced._replace(transform=param_transform(site))
    if not traced.is_sample:
        return traced
    fn, is_x = site["fn"], name == signature.observed
    traced = traced._replace(
        observed=site["is_observed"],
        scale=site["scale"],
        masked=is_masked(fn),
        discrete=fn.is_discrete,
        reparameterized=bool(fn.has_rsample),
        event_dim=fn.event_dim,
        family=type(unwrapped(fn)).__name__,
        support=innermost(fn.support) if is_x else None,
        log_p=fn.log_prob(value),
    )
    if is_x or traced.observed:
        return traced._replace(bounds=bounds(fn.support) if traced.discrete else None)
    if not traced.discrete:
        real_shape = biject_to(fn.support).inverse_shape(jnp.shape(value))
        return traced._replace(real_shape=tuple(real_shape))
    found = bounds(fn.support)
    if fn.event_dim or found is not None:
        return traced._replace(bounds=None if fn.event_dim else found)
    if fn.has_enumerate_support:
        return traced._replace(values=jnp.ravel(fn.enumerate_support(expand=False)))
    return traced


class Structure(NamedTuple):
    """Two runs that differ in the number of rows, in y and in the values of all sites.

    Attributes:
      signature: the program.
      two: a run for two rows.
      three: a run for three rows.
      plate: the plate over the rows.
    """

    signature: ProgramSignature
    two: TracedSites
    three: TracedSites
    plate: Any

    def in_plate(self, site: TracedSite) -> bool:
        """Whether a site is in the plate over the rows."""
        return any(plate.name == self.plate.name for plate in site.plates)

    @property
    def names_in_plate(self) -> list[str]:
        """Names of the sample sites in the plate."""
        return [n for n, s in self.two.items() if s.is_sample and self.in_plate(s)]

    @property
    def globals(self) -> list[str]:
        """Names of the latents outside the plate."""
        return [n for n in self._outside() if not self.two[n].observed]

    @property
    def observed_outside(self) -> list[str]:
        """Names of sites that are observed outside the plate, such as factors."""
        return [n for n in self._outside() if self.two[n].observed]

    def _outside(self):
        return [n for n, s in self.two.items() if s.is_sample and not self.in_plate(s)]


class RowRuns(NamedTuple):
    """Runs with the same globals, to see whether a row depends on others.

    Attributes:
      together: a run for three rows.
      alone: for the numbers of some of these rows, a run for that row alone.
    """

    together: TracedSites
    alone: dict[int, TracedSites]
