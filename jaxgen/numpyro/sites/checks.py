"""Checks that a program has one density for each row; errors name the site."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from numpyro.distributions import Delta, Distribution

from jaxgen.numpyro.drawing import unwrapped
from jaxgen.numpyro.sites.records import ProgramSignature
from jaxgen.numpyro.sites.traced_sites import RowRuns, Structure, TracedSites


def is_close(one: Any, other: Any, rtol: float = 1e-4) -> bool:
    """Whether two arrays are equal up to rounding."""
    return np.allclose(one, other, rtol=rtol, atol=rtol / 10, equal_nan=True)


def check_free(signature: ProgramSignature, run: TracedSites) -> None:
    """Raise if a run without x has no observed site whose value is free."""
    observed = signature.observed
    site = run.get(observed)
    if site is None or not site.is_sample:
        samples = [name for name, s in run.items() if s.is_sample]
        signature.fail(f"it has no observed site {observed!r}; its sample sites are {samples}")
    if site.observed:
        signature.fail(
            f"site {observed!r} must be free: let the program take {observed}=None and pass "
            f"obs={observed}"
        )


def check_distributions(signature: ProgramSignature, sites: dict[str, Any]) -> None:
    """Raise if a latent of a run has no density or cannot be drawn."""
    for name, site in sites.items():
        if site["type"] != "sample" or site["is_observed"]:
            continue
        fn = site["fn"]
        fn = unwrapped(fn)
        if isinstance(fn, Delta):
            signature.fail(
                f"site {name!r} must not be a Delta, which has no density: compute the value"
            )
        if type(fn).sample is Distribution.sample:
            signature.fail(
                f"site {name!r} must have a proper distribution, which can be drawn from"
            )


def plate_over_rows(signature: ProgramSignature, two: TracedSites, three: TracedSites) -> Any:
    """The plate of the observed site that has as many entries as there are rows.

    Raises:
      ValueError: there is no such plate, or more than one.
    """
    observed = signature.observed
    others = three[observed].plates if observed in three else ()
    sizes = {plate.name: plate.size for plate in others}
    plates = two[observed].plates
    found = [plate for plate in plates if (plate.size, sizes.get(plate.name)) == (2, 3)]
    if not found:
        around = [f"{plate.name!r} of size {plate.size}" for plate in plates]
        signature.fail(
            f"the observed site {observed!r} must be in a plate over the rows, of size 2 for 2 "
            f"rows; it is in {around or 'no plate'}{signature.program.hint_of_arrays()}"
        )
    if len(found) > 1:
        names = [plate.name for plate in found]
        signature.fail(f"site {observed!r} must be in one plate over the rows, not in {names}")
    return found[0]


def check_kinds(structure: Structure) -> None:
    """Raise if a site is of a kind, or in a place, that a density of rows cannot have."""
    signature, plate = structure.signature, structure.plate
    for name, site in structure.two.items():
        in_plate = structure.in_plate(site)
        if site.type == "plate" and site.plate_sizes[1] not in (None, site.plate_sizes[0]):
            signature.fail(
                f"plate {name!r} must have no subsample_size: fit chooses the minibatches"
            )
        if site.type == "param" and in_plate:
            signature.fail(f"param {name!r} must be outside the plate {plate.name!r}")
        if not site.is_sample:
            continue
        if not in_plate:
            if site.discrete and not site.observed:
                signature.fail(
                    f"latent {name!r} is discrete and outside the plate {plate.name!r}: no "
                    "gradient can fit it"
                )
            continue
        if site.observed:
            signature.fail(
                f"site {name!r} in the plate {plate.name!r} is observed too, but the density of a "
                f"row is that of {signature.observed!r} alone"
            )
        if site.scale is not None and np.any(np.asarray(site.scale) != 1):
            signature.fail(
                f"site {name!r} must not be scaled, as its density would not integrate to 1; pass "
                "weights to fit instead"
            )
        if site.masked and name != signature.observed:
            signature.fail(
                f"latent {name!r} must not be masked, as it would have no density; mask the "
                f"observed site {signature.observed!r} only"
            )


def check_names(structure: Structure) -> None:
    """Raise if the sites of two runs differ."""
    two, three = structure.two, structure.three
    if list(two) != list(three):
        differing = sorted(set(two) ^ set(three))
        structure.signature.fail(
            f"its sites must not depend on the rows, but these are in some runs only: {differing}"
        )


def check_outside(structure: Structure, together: TracedSites) -> None:
    """Raise if a site outside the plate depends on the rows.

    ``together`` is a run for three rows at the same globals as that for two.
    """
    latents = structure.globals
    for name in (*latents, *structure.observed_outside):
        two, three = (run[name].log_p for run in (structure.two, together))
        if np.shape(two) != np.shape(three) or not is_close(two, three):
            what = "latent" if name in latents else "observed site or factor"
            structure.signature.fail(
                f"{what} {name!r} is outside the plate {structure.plate.name!r}, but its "
                "distribution depends on the rows or their number"
            )


def check_shapes(structure: Structure) -> None:
    """Raise if the shape of a site depends on the number of rows."""
    latents = structure.globals
    for name, site in structure.two.items():
        two, three = (run[name].shapes for run in (structure.two, structure.three))
        is_param = site.type == "param"
        if (name in latents or is_param) and two != three:
            structure.signature.fail(
                f"{'param' if is_param else 'latent'} {name!r} is outside the plate "
                f"{structure.plate.name!r}, but its shape depends on the number of rows: {two} "
                f"for 2, {three} for 3"
            )
        if site.is_sample and structure.in_plate(site):
            of_two = row_shape(structure, structure.two, 2, name)
            of_three = row_shape(structure, structure.three, 3, name)
            if of_two != of_three:
                structure.signature.fail(
                    f"site {name!r} must have one shape for a row, whatever the number of rows; "
                    f"got {of_two} with 2 rows, {of_three} with 3"
                )


def plate_axis(structure: Structure, run: TracedSites, n: int, name: str) -> int:
    """The axis of the plate in the value of a site in it, counted from the end."""
    site = run[name]
    (shape,) = site.shapes
    axis = structure.plate.dim - site.event_dim
    if len(shape) < -axis or shape[axis] != n:
        structure.signature.fail(
            f"site {name!r} must have a value for each row, got shape {shape} for {n}"
        )
    return axis


def row_shape(structure: Structure, run: TracedSites, n: int, name: str) -> tuple[int, ...]:
    """Shape of the value of a site in the plate, with an axis of length 1 in place of the plate."""
    (shape,) = run[name].shapes
    return one_row(shape, len(shape) + plate_axis(structure, run, n, name))


def one_row(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """The shape with length 1 along an axis >= 0."""
    return (*shape[:axis], 1, *shape[axis + 1 :])


def check_observes_x(structure: Structure, parameter: str | None) -> None:
    """Raise if the program, which is given x by a parameter, observes anything else."""
    observed = structure.signature.observed
    if parameter is None:
        return
    given, value = structure.two[observed].given_and_observed
    if np.shape(given) != np.shape(value) or not is_close(given, value):
        structure.signature.fail(
            f"site {observed!r} must be observed as {parameter} is given, but the program changes "
            f"{np.ravel(given)[:3]} into {np.ravel(value)[:3]}; change x before passing it"
        )


def check_same_without_x(structure: Structure, parameter: str | None) -> None:
    """Raise if a site has another density when the program is not given x."""
    for name, site in structure.two.items():
        if site.log_p_without_x is not None and not is_close(site.log_p_without_x, site.log_p):
            structure.signature.fail(
                f"site {name!r} must have one distribution whether {parameter} is given or not: "
                f"its log p is {np.ravel(site.log_p)[:3]} with {parameter}, "
                f"{np.ravel(site.log_p_without_x)[:3]} without"
            )


def check_row(structure: Structure, runs: RowRuns, number: int) -> None:
    """Raise if the density of a row depends on its position or on other rows."""
    for name in structure.names_in_plate:
        together = np.asarray(runs.together[name].log_p)
        alone = np.asarray(runs.alone[number][name].log_p)
        axis = structure.plate.dim
        among = np.take(together, [number], axis) if np.ndim(together) >= -axis else together
        if not is_close(among, alone, rtol=1e-3):  # a sum over another shape rounds differently
            structure.signature.fail(
                f"site {name!r} of made-up row {number!r} depends on its position or on other "
                f"rows: its log p is {np.ravel(among)[:3]} among them, {np.ravel(alone)[:3]} alone"
                f"{structure.signature.program.hint_of_arrays()}"
            )


def axis_of_rows(two: Any, three: Any) -> int | None:
    """The axis that has 2 entries for two rows and 3 for three; None if there is not one such."""
    shapes = jnp.shape(two), jnp.shape(three)
    axes = [i for i, sizes in enumerate(zip(*shapes, strict=False)) if sizes == (2, 3)]
    return axes[0] if len(shapes[0]) == len(shapes[1]) and len(axes) == 1 else None
