"""The sites of a NumPyro program, found by running it for a few rows of made-up data.

The runs show the shapes, the plates and the distributions of the sites. ``data_check`` runs the
program again with the real data before a fit.
"""

from __future__ import annotations

import contextlib
import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from jaxgen.core.promotion import standard_promotion
from jaxgen.numpyro.indices import depends
from jaxgen.numpyro.runs import evaluated
from jaxgen.numpyro.sites import checks
from jaxgen.numpyro.sites.latent_values import discrete_values
from jaxgen.numpyro.sites.made_up_runs import MadeUpRuns, RunInputs, shifted_params
from jaxgen.numpyro.sites.records import ProgramSignature, Site, Sites
from jaxgen.numpyro.sites.traced_sites import RowRuns, Structure, TracedSite

_ROWS = (2, 0)  # numbers of the rows that also run alone


@standard_promotion
def sites_of(signature: ProgramSignature) -> Sites:
    """The sites of a program.

    Raises:
      ValueError: the program has no density of single rows; the message names the site.
    """
    # the dtype is part of the key of the cache, as with x64 the example values have other types
    return _sites_of(signature, jnp.result_type(float))


@functools.lru_cache(maxsize=256)
def _sites_of(signature, dtype):
    with jax.core.eval_context():
        try:
            return _inspect(MadeUpRuns(signature))
        except ValueError as error:
            if not _may_be_index(signature, error):
                raise
            with contextlib.suppress(ValueError):
                return _inspect(MadeUpRuns(signature, integers=True))
            raise


def observed_site(signature: ProgramSignature) -> str:
    """The name of the observed site of a program; ``signature.observed`` has no effect.

    It is the site that observes an optional parameter of the program, or else "x".

    Raises:
      ValueError: no site or several sites do, and none is called "x"; or the program does not run.
    """
    with jax.core.eval_context():
        try:
            return MadeUpRuns(signature._replace(observed="")).find_observed()
        except ValueError as error:
            if not _may_be_index(signature, error):
                raise
            with contextlib.suppress(ValueError):
                return MadeUpRuns(signature._replace(observed=""), integers=True).find_observed()
            raise


def _may_be_index(signature, error) -> bool:
    """Whether a program may have failed because y is the index of a group."""
    known = signature.classes is not None or signature.y_domain is not None
    known = known or signature.program.covariates is not None
    return signature.y_shape is not None and not known and error.__cause__ is not None


def _inspect(runs: MadeUpRuns) -> Sites:
    """The sites of a program, which must pass all checks."""
    inputs_of_three = runs.inputs(3, 1)
    different = functools.partial(_different_runs, runs)
    structure = Structure(runs.signature, *evaluated(different, runs.inputs(2, 0), inputs_of_three))
    checks.check_kinds(structure)
    checks.check_names(structure)
    checks.check_shapes(structure)
    in_plate = {name: _site(structure, name) for name in structure.names_in_plate}
    # with the same globals, what differs between the runs depends on other rows
    kept = {name: structure.two[name].value for name in structure.globals}
    row_runs = evaluated(functools.partial(_row_runs, runs, in_plate), inputs_of_three, kept)
    checks.check_outside(structure, row_runs.together)
    sites = _sites(runs, structure, row_runs, in_plate)
    checks.check_observes_x(structure, runs.observed_parameter)
    for number in _ROWS:
        checks.check_row(structure, row_runs, number)
    checks.check_same_without_x(structure, runs.observed_parameter)
    return sites


def _different_runs(runs, inputs_of_two, inputs_of_three):
    """Runs for two rows and for three, with other globals and params, and the plate over rows."""
    two = runs.run_with_x(2, inputs_of_two)
    three = runs.run_with_x(3, inputs_of_three, shifted_params(two))
    plate = checks.plate_over_rows(runs.signature, two, three)
    # the values of the second run are not needed, and so need not be compiled
    three = OrderedDict((name, site._replace(value=None)) for name, site in three.items())
    return two, three, plate


def _row_runs(runs, in_plate, inputs, kept) -> RowRuns:
    """A run for three rows, and for some of them alone."""
    together = runs.run_with_x(3, inputs, kept)
    alone = {}
    for number in _ROWS:
        values = {n: s.value for n, s in together.items() if s.is_sample}
        for name, site in in_plate.items():
            values[name] = jnp.take(values[name], np.array([number]), axis=site.axis)
        row = inputs if inputs.y is None else inputs._replace(y=inputs.y[number : number + 1])
        alone[number] = runs.run(1, row, values, values[runs.signature.observed])
    return RowRuns(together, alone)


def _sites(runs, structure, row_runs, in_plate) -> Sites:
    signature = structure.signature
    observed = in_plate[signature.observed]
    latents = [site for site in in_plate.values() if site is not observed]
    discrete = tuple(site for site in latents if site.discrete)
    continuous = tuple(site for site in latents if not site.discrete)
    unread = _unread(runs, structure, continuous)
    depend = functools.partial(_depend_on_y, runs)
    values, varying = discrete_values(structure, row_runs.together, discrete, depend)
    y = runs.inputs(3, 1).y
    arguments = (1, 1) if y is None else (y[:1], y[1:2])
    examples = {n: s for n, s in row_runs.alone[0].items() if s.is_sample}
    x = structure.two[signature.observed]
    return Sites(
        globals=tuple(_site(structure, name) for name in structure.globals),
        locals=tuple(site for site in continuous if site not in unread),
        unread=unread,
        discrete=discrete,
        observed_outside=tuple(structure.observed_outside),
        global_deterministic=_global_deterministic(structure, row_runs),
        row_deterministic=_row_deterministic(structure, row_runs),
        discrete_values=values,
        varying=varying,
        observed=observed,
        bounded=not x.discrete or x.bounds is not None,
        observed_parameter=runs.observed_parameter,
        param_transforms={n: s.transform for n, s in structure.two.items() if s.type == "param"},
        support=_support(runs, structure),
        example_argument=arguments[0],
        other_argument=arguments[1],
        example_values={n: np.asarray(s.value) for n, s in examples.items()},
        example_log_p={n: float(np.sum(s.log_p)) for n, s in examples.items()},
        families={n: s.family for n, s in examples.items()},
    )


def _site(structure: Structure, name: str) -> Site:
    """The record of a sample site."""
    site, axis = structure.two[name], None
    (shape,), real_shape = site.shapes, site.real_shape
    if structure.in_plate(site):
        axis = checks.plate_axis(structure, structure.two, 2, name)
        real_shape = real_shape and checks.one_row(real_shape, len(shape) + axis)
        shape = checks.row_shape(structure, structure.two, 2, name)
    if site.discrete or name == structure.signature.observed:
        real_shape = ()
    return Site(name, shape, axis, real_shape, site.discrete, site.reparameterized)


def _global_deterministic(structure, row_runs):
    """Names of deterministic sites that are the same for all rows."""
    together = row_runs.together
    return tuple(
        name
        for name, site in structure.two.items()
        if site.type == "deterministic"
        and name in together
        and jnp.shape(site.value) == jnp.shape(together[name].value)
        and checks.is_close(site.value, together[name].value)
    )


def _row_deterministic(structure, row_runs):
    """Deterministic sites with a value for each row: their shape grows with the rows."""
    found = []
    for name, site in structure.two.items():
        if site.type != "deterministic":
            continue
        axis = checks.axis_of_rows(site.value, row_runs.together[name].value)
        if axis is not None:
            shape = jnp.shape(site.value)
            one_row = checks.one_row(shape, axis)
            found.append(Site(name, one_row, axis - len(shape), (), False, False))
    return tuple(found)


def _depend_on_y(
    runs: MadeUpRuns, names: list[str], part: Callable[[TracedSite], Any]
) -> list[bool]:
    """For each of the sites of those names, whether a part of it depends on y."""
    inputs: RunInputs = runs.inputs(2, 0)
    if inputs.y is None or not names:
        return [False] * len(names)

    def leaves(name):
        run = lambda y: runs.run(2, inputs._replace(y=y), {})[name]  # noqa: E731
        return lambda y: jax.tree_util.tree_leaves(part(run(y)))

    return [any(depends(leaves(name), inputs.y)) for name in names]


def _unread(runs: MadeUpRuns, structure: Structure, latents: tuple[Site, ...]) -> tuple[Site, ...]:
    """The continuous latents that no other site depends on, or only sites of this kind."""
    inputs = runs.inputs(2, 0)
    found: list[Site] = []
    values = {name: site.value for name, site in structure.two.items() if site.is_sample}
    x = values[structure.signature.observed]

    def others(name, value):
        run = runs.run(2, inputs, {**values, name: value}, x)
        ignored = {name, *(site.name for site in found)}
        kept = [site for n, site in run.items() if n not in ignored and site.type != "plate"]
        return jax.tree_util.tree_leaves([s.log_p if s.is_sample else s.value for s in kept])

    for site in reversed(latents):
        if not any(depends(functools.partial(others, site.name), values[site.name])):
            found.append(site)
    return tuple(reversed(found))


def _support(runs: MadeUpRuns, structure: Structure) -> constraints.Constraint:
    """The support of one event whatever the globals and y: that of its numbers, if it is fixed."""
    observed = structure.signature.observed
    x, other = structure.two[observed], structure.three[observed]
    pairs = [jax.tree_util.tree_leaves(site.support) for site in (x, other)]
    fixed = len(pairs[0]) == len(pairs[1]) and all(
        np.array_equal(a, b) and np.ndim(a) == 0 for a, b in zip(*pairs, strict=True)
    )
    if fixed and any(isinstance(bound, jax.Array) for bound in pairs[0]):  # it may be computed
        fixed = not any(_depend_on_y(runs, [observed], lambda site: site.support))
    base = x.support if fixed else constraints.real
    if x.discrete and not fixed:
        base = constraints.integer_greater_than(-(2**31))
    return constraints.independent(base, len(x.shapes[0]) - 1 - base.event_dim)
