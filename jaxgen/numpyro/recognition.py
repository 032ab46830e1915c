"""How a file recognises a program: by its sites, their densities and what the function reads.

A file holds the name of a program, not its code. So a loaded model may find another function of the
same name, or the same function after a change.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from jaxgen.core.warn import warn
from jaxgen.numpyro.closure import change_of_data
from jaxgen.numpyro.covariates import is_named, parameters_of, required_of
from jaxgen.numpyro.program_spec import ProgramSpec

_MOST = 100  # arrays and numbers in a file


def recorded(program: ProgramSpec) -> Any:
    """The program with the facts by which a file recognises it."""
    sites = program.sites
    program.program.settle()
    log_p = tuple(v if math.isfinite(v) else None for v in sites.example_log_p.values())
    return dataclasses.replace(
        program,
        described=sites.description(),
        log_p=log_p,
        digest=program.program.digest(),
        families=_families(sites),
        data_read=_data_read(program),
    )


def check_recognised(program: ProgramSpec) -> None:
    """Compare the function with the recorded facts.

    Raises:
      ValueError: it has other sites, shapes or families, other densities at the same values, or
        reads data of other shapes or values, up to rounding.

    Warns:
      RuntimeWarning: it has other code, or reads something else.
    """
    name = program.name
    _check_parameters(program)
    sites = program.sites
    found = sites.description()
    if found != program.described:
        differing = sorted(set(found) ^ set(program.described)) or found
        raise ValueError(
            f"program {name} is not the one in the file: they differ in {', '.join(differing)}"
        )
    if program.families and program.families != _families(sites):
        pairs = zip(program.families, _families(sites), strict=True)
        before, now = next(pair for pair in pairs if pair[0] != pair[1])
        raise ValueError(
            f"program {name} is not the one in the file: a site is {now}, and was {before} when "
            "it was saved"
        )
    _check_data_read(program)
    for (site, log_p), saved in zip(sites.example_log_p.items(), program.log_p, strict=True):
        if saved is not None and not np.isclose(log_p, saved, rtol=1e-3, atol=1e-3):
            raise ValueError(
                f"program {name} is not the one in the file: log p of site {site!r} at some "
                f"values is {log_p:.6g}, and was {saved:.6g} when it was saved; something that it "
                "reads may have changed"
            )
    digest, python = program.program.digest(), program.digest.split(" ")[0]
    if digest != program.digest and digest.startswith(f"{python} "):
        warn(
            f"program {name} has other code, or reads something else, than when it was saved. Its "
            "sites are the same, and so are their densities for one made-up row; for other rows "
            "they may differ: compare scores with those before, or fit again"
        )


def _check_parameters(program) -> None:
    """Raise unless the function takes the covariates by name, and needs nothing else."""
    if program.program.covariates is None:
        return
    saved = [one.name for one in program.program.covariates]
    parameters = parameters_of(program.program.call)
    named = [p.name for p in parameters if is_named(p)]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters) or not parameters
    missing = [name for name in saved if name not in named and not takes_any]
    if missing or set(required_of(parameters)) - set(saved):
        raise ValueError(
            f"program {program.name} is not the one in the file: it takes {named}, and took the "
            f"covariates {saved} when it was saved"
        )


def _families(sites) -> tuple[str, ...]:
    return tuple(f"{name} {family}" for name, family in sites.families.items())


def _data_read(program) -> tuple[tuple[str, str], ...]:
    return tuple(program.program.data_read().items())[:_MOST]


def _check_data_read(program) -> None:
    """Raise if data that the program reads have another shape or other values than in the file.

    Files of version 0.3.0 hold no data that were read.
    """
    now, saved = dict(_data_read(program)), dict(program.data_read)
    for name, before in saved.items():
        what = change_of_data(before, now[name]) if name in now else ""
        if not what:
            continue
        differ = "other values" if what == "values" else "another shape"
        shapes = [text.rpartition(")")[0] + ")" for text in (before, now[name])]
        which = f": {shapes[1]}, not {shapes[0]}" if what == "shape" else ""
        raise ValueError(
            f"program {program.name} is not the one in the file: {name!r}, which it reads, has "
            f"{differ} than when it was saved{which}; restore it, or fit again"
        )
