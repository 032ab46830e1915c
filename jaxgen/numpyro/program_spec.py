"""The fields of a program, and facts that follow from its sites."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NoReturn

import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from jaxgen.core import records
from jaxgen.core.model import Model
from jaxgen.core.spec import Count
from jaxgen.networks.domains import Domain
from jaxgen.numpyro import covariates
from jaxgen.numpyro.function import Function
from jaxgen.numpyro.posteriors.base import Posterior
from jaxgen.numpyro.sites.inspection import sites_of
from jaxgen.numpyro.sites.latent_values import check_count, combinations
from jaxgen.numpyro.sites.records import ProgramSignature, Sites

Ranges = tuple[tuple[str, int, int], ...]  # (name, least value, largest value) of latents


class ProgramSpec(Model):
    """Base of ``Program``: its fields, explained at ``from_program``, and its sites.

    Args:
      program: the function.
      observed: name of the observed site, whose value is x.
      y_shape: shape of one condition; None for p(x).
      levels: number of labels if y is a label, else None.
      y_domain: domains of the numbers in y.
      posterior: how the globals are held and learnt.
      samples: samples of the continuous locals for each draw of the globals.
      proposal: model that the samples are drawn from; None for the default.
      ranges: least and largest value of each discrete latent whose values depend on y, from a fit.
      large_counts: whether a fit has had counts that exceed JAX's integers.
      described: the sites, by which a file recognises the program.
      digest: hash of what the function reads, likewise.
      log_p: log p of the sites at some values, likewise; None where it is not finite.
      families: the distributions of the sites, likewise; empty in files of version 0.3.0.
      data_read: the arrays and numbers that the function reads, likewise.
    """

    program: Function
    observed: str = "x"
    y_shape: tuple[int, ...] | None = None  # type: ignore[misc]
    levels: Count | None = None
    y_domain: tuple[Domain, ...] | None = None
    posterior: Posterior = dataclasses.field(kw_only=True)
    samples: Count = 100
    proposal: Model | None = None
    ranges: Ranges | None = None
    large_counts: bool = False
    described: tuple[str, ...] = dataclasses.field(default=(), repr=False, compare=False)
    digest: str = dataclasses.field(default="", repr=False, compare=False)
    log_p: tuple[float | None, ...] = dataclasses.field(default=(), repr=False, compare=False)
    families: tuple[str, ...] = dataclasses.field(default=(), repr=False, compare=False)
    data_read: tuple[tuple[str, str], ...] = dataclasses.field(
        default=(), repr=False, compare=False
    )

    def __str__(self) -> str:
        return f"program {self.name}"

    @property
    def name(self) -> str:
        """Name of the program."""
        return self.program.name

    @property
    def sites(self) -> Sites:
        """The sites of the program."""
        return sites_of(self.signature)

    @property
    def signature(self) -> ProgramSignature:
        """The fields that the sites depend on."""
        fields = self.program, self.observed, self.y_shape, self.levels, self.y_domain
        return ProgramSignature(*fields)

    @property
    def named_covariates(self) -> records.Covariates | None:
        """The names of the numbers in y; None for a program without named covariates."""
        named = self.program.covariates
        if named is None:
            return None
        roles = f"x is the observed site {self.observed!r}, y {covariates.described(named)}"
        names, from_table = covariates.columns_of(named), functools.partial(covariates.pack, named)
        return records.Covariates(names, from_table, roles)

    @property
    def combinations(self) -> dict[str, np.ndarray]:
        """All values that the discrete latents of a row can take together, by site, (m, *shape)."""
        if self.sites.varying and self.ranges is None:
            raise ValueError(
                f"program {self.name}: the values of latent {self.sites.varying[0]!r} depend on y, "
                "so they are known after a fit, or if y_domain is bounded"
            )
        return _combinations(self, jnp.result_type(int))

    @property
    def event_shape(self) -> tuple[int, ...]:
        self.check_unchanged()  # here, as every use of a model asks for the event shape
        return self.sites.event_shape

    @property
    def support(self) -> constraints.Constraint:
        return self.sites.support

    @property
    def draws(self) -> int:
        """Number of draws of the globals that the density is an average over."""
        return self.posterior.count if self.sites.globals else 1

    @property
    def in_integers(self) -> bool:
        """Whether JAX's integers hold every event, if the events are integers."""
        return self.sites.bounded or not self.large_counts

    def row_argument(self, y: Any) -> Any:
        """The argument of the function for one row: its condition y, or the number 1."""
        return 1 if self.y_shape is None else y[None]

    def observed_keyword(self, value: Any) -> dict[str, Any]:
        """The keyword argument that gives the function the value of the observed site, if any."""
        parameter = self.sites.observed_parameter
        return {} if parameter is None else {parameter: value}

    def check_unchanged(self) -> None:
        """Raise if something that the function reads has changed since ``from_program``."""
        changed = self.program.changed()
        if changed is not None:
            self.fail(
                f"it reads {changed!r}, which has changed since from_program was called: call it "
                "again, and fit again"
            )

    def with_ranges(self, ranges: Ranges) -> ProgramSpec:
        """The program with known ranges of the latents whose values depend on y.

        Raises:
          ValueError: the latents take too many values.
        """
        found = dataclasses.replace(self, ranges=ranges)
        sizes = {name: high - low + 1 for name, low, high in ranges}
        counts = {
            site.name: sizes.get(site.name, len(self.sites.discrete_values[site.name]))
            for site in self.sites.discrete
        }
        powers = {s.name: counts[s.name] ** math.prod(s.shape) for s in self.sites.discrete}
        check_count(found.fail, powers)
        return found

    def fail(self, what: str) -> NoReturn:
        """Raise a ValueError that names the program."""
        raise ValueError(f"program {self.name}: {what}")


@functools.lru_cache(maxsize=256)
def _combinations(program, dtype):
    values = dict(program.sites.discrete_values)
    for name, low, high in program.ranges or ():
        values[name] = np.arange(low, high + 1, dtype=dtype)
    return combinations(program.sites.discrete, values)
