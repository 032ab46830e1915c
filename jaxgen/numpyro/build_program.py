"""``from_program``, which makes a model of a NumPyro program, and checks of its arguments."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxgen.compose import Labelled
from jaxgen.core import inputs
from jaxgen.core.model import Model
from jaxgen.core.promotion import standard_promotion
from jaxgen.networks.domains import Domain, Real, each
from jaxgen.numpyro import global_latents
from jaxgen.numpyro.covariates import (
    Covariates,
    covariates_of,
    parameters_of,
    required_of,
    size_of,
)
from jaxgen.numpyro.function import as_function, name_of
from jaxgen.numpyro.posteriors.base import Posterior
from jaxgen.numpyro.posteriors.full_rank import FullRank
from jaxgen.numpyro.posteriors.mean_field import MeanField
from jaxgen.numpyro.program import Program
from jaxgen.numpyro.recognition import recorded
from jaxgen.numpyro.sites.inspection import observed_site

_FULL_RANK = 64  # most numbers for which the default posterior has all correlations


@standard_promotion
def from_program(
    program: Callable[..., Any],
    observed: str | None = None,
    *,
    covariates: Any = None,
    y_shape: tuple[int, ...] | None = None,
    classes: int | None = None,
    y_domain: tuple[Domain, ...] | Mapping[str, Domain] | None = None,
    posterior: Posterior | None = None,
    samples: int = 100,
    proposal: Model | None = None,
) -> Model:
    """A NumPyro program as a model of single rows: p(x) or p(x|y), with x the observed site.

    Sample sites in the program's plate over the rows are local, all others are global:

        def model(dose, clinic, effect=None):
            slope = numpyro.sample("slope", dist.Normal(0, 1))                    # global
            with numpyro.plate("clinics", 8):
                level = numpyro.sample("level", dist.Normal(0, 1))                # global
            with numpyro.plate("patients", len(dose)):
                mean = level[clinic] + slope * dose
                numpyro.sample("obs", dist.Normal(mean, 0.5), obs=effect)         # observed

        program = from_program(model, covariates=frame[["dose", "clinic"]])
        fitted = jaxgen.fit(program, frame["effect"], frame, key=key)

    With ``covariates``, the program takes these by name, and a table of them is y wherever jaxgen
    takes conditions y: a DataFrame, or a dict of arrays (n, ...), or of single values for all rows.
    As an array, y is (n, k), with their numbers side by side. Without ``covariates`` the program is
    called with one argument: conditions y (n, *y_shape), or the number of rows n if ``y_shape`` is
    None.

    The density of a row is the mean of p(x | y, globals) over the draws of the globals that
    ``posterior`` holds. Given the globals, the density is summed over discrete locals, and
    integrated over continuous locals by importance sampling. ``numpyro.param`` sites are learnt by
    maximum likelihood. Masked entries of x count as not observed.

    Every row is scored by a run of the program for that row alone. So a site must not depend on
    other rows or on the position of a row, such as by ``arange(n)`` or the indices of the plate:
    pass these as part of y. ``fit`` compares runs for single rows with a run for all rows, and
    raises an error if they differ. The values that the function reads, such as global variables,
    are part of the model: call ``from_program`` again after they change.

    Args:
      program: the function. A saved model holds its name; to load it, call ``from_program`` first
        with a function of that name that has the same sites and densities, and reads the same data.
      observed: name of the site that is x. By default it is the site that observes a parameter
        whose default is None, such as ``obs=effect``; or else the site "x". The program must not
        fix its value. When x is scored, its value is passed to that parameter.
      covariates: example rows of the covariates, as a table, of which the names, the dtypes and the
        shapes of single rows count. Floats, ints and bools reach the program as such. Of a
        categorical column it gets codes: category i, in the order of the categories, is i; of a
        column of strings likewise, with the different strings of these rows in sorted order. Of a
        DataFrame, the columns count that the program has as parameters without the default None.
      y_shape: shape of one condition; None for p(x).
      classes: number of labels, if y is a label. The result is then ``compose.Labelled``, which
        classifies.
      y_domain: domain of each number in y, or one for all, from ``jaxgen.domains``; ``Levels(8)``
        for the index of one of 8 groups. A y outside raises an error. By default, y may be any
        number that indexes no array out of bounds. For named covariates, a dict of domains by name.
      posterior: how the globals are held and learnt, by gradients or by ``NUTS()``: ``FullRank()``,
        the default for globals that map to up to 64 real numbers; ``MeanField()``, the default for
        more; ``Point()`` or ``Guide(guide)``.
      samples: number of samples K of the continuous locals for each draw of the globals. With
        fewer than 25 there is no Pareto k, which says how far the density can be trusted.
      proposal: conditional model q(z|x, y) of the continuous locals z, mapped to the reals and
        flattened in the order of their sites, given x and y, flattened: such as
        ``SplineCoupling(dim_z, y_shape=(dim_x + dim_y,))``. It is learnt with the globals. By
        default the proposal adapts to each row and each draw of the globals: Student t
        distributions around up to two modes of the locals given x, which Newton's method finds,
        and one sample in eight from the prior; or samples from the prior only, if the density of
        the locals is not differentiable. Further modes may be missed without a warning.

    Returns:
      The model, for ``jaxgen.fit``.

    Raises:
      TypeError, ValueError: an argument of the wrong kind, or a program without a density of single
        rows; the message names the site.

    Source: Burda et al. 2016, "Importance weighted autoencoders", for a bound by K samples.

    >>> model = jaxgen.numpyro.from_program(regression, y_shape=())
    >>> fitted = jaxgen.fit(model, x, y, key=jax.random.key(0))
    """
    if not callable(program):
        raise TypeError(f"program must be a function with NumPyro sites, got {program!r:.60}")
    if classes is not None:
        if y_shape not in (None, ()):
            raise ValueError(f"y_shape must be () or None if classes is given, got {y_shape}")
        y_shape, classes = (), inputs.as_count(classes, "classes", 1)
    named = _covariates(program, covariates, y_shape, classes)
    domains = _domains_by_number(y_domain, named)
    spec = Program(
        program=as_function(program, covariates=named),
        observed="x" if observed is None else observed,
        y_shape=y_shape if named is None else (size_of(named),),
        levels=classes,
        y_domain=domains,
        posterior=MeanField() if posterior is None else posterior,
        samples=samples,
        proposal=proposal,
    )
    if observed is None:
        spec = dataclasses.replace(spec, observed=observed_site(spec.signature))
    if posterior is None and 0 < global_latents.size(spec) <= _FULL_RANK:
        spec = dataclasses.replace(spec, posterior=FullRank())
    _check_y_domain(spec)
    _check_proposal(spec)
    spec.posterior.check(spec)
    spec = recorded(spec)
    return spec if classes is None else Labelled(spec, classes)


def _covariates(program, table, y_shape, classes) -> Covariates | None:
    """The named covariates of a program; None if it has none."""
    if table is None:
        required = required_of(parameters_of(program))
        if len(required) > 1:
            argument = "y" if y_shape is not None or classes is not None else "the number of rows"
            raise ValueError(
                f"program {name_of(program)}: it must run when called with {argument} alone, but "
                f"takes {required}: "
                "give the observed value the default None, and pass covariates, example rows as a "
                "DataFrame or a dict of arrays, for a program that takes covariates by name"
            )
        return None
    if y_shape is not None or classes is not None:
        raise ValueError("y_shape and classes must be None if covariates are given")
    return covariates_of(table, program)


def _domains_by_number(y_domain, covariates) -> Any:
    """The domain of each number of y, where ``y_domain`` has them by the names of covariates."""
    if not isinstance(y_domain, Mapping):
        return y_domain
    if covariates is None:
        raise TypeError("y_domain must be a tuple of domains, as there are no named covariates")
    names = [one.name for one in covariates]
    unknown = [name for name in y_domain if name not in names]
    if unknown:
        raise ValueError(f"y_domain has {unknown}, but the covariates are {names}")
    each_covariate = [(y_domain.get(one.name, Real()),) * one.size for one in covariates]
    return tuple(domain for domains in each_covariate for domain in domains)


def _check_y_domain(program):
    if program.y_domain is None:
        return
    if program.y_shape is None or program.levels is not None:
        reason = "has no y" if program.y_shape is None else "takes labels as y"
        raise ValueError(f"y_domain must be None, as program {program.name} {reason}")
    each(program.y_domain, int(np.prod(program.y_shape)), "y_domain")


def _check_proposal(program):
    """Raise unless the proposal has the shapes of the locals and of x and y."""
    if program.proposal is None:
        return
    dim = sum(site.real_size for site in program.sites.locals)
    if not dim:
        raise ValueError(f"proposal: program {program.name} has no continuous local latents")
    shapes = [program.event_shape] + ([] if program.y_shape is None else [program.y_shape])
    expected = (dim,), (sum(int(np.prod(shape)) for shape in shapes),)
    found = program.proposal.event_shape, program.proposal.y_shape
    if found != expected:
        raise ValueError(
            f"proposal must have event_shape {expected[0]} and y_shape {expected[1]} for program "
            f"{program.name}, got {found[0]} and {found[1]}"
        )
