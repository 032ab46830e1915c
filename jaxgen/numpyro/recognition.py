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
from jaxgen.numpyro.program_spec import ProgramSpec


def recorded(program: ProgramSpec) -> Any:
    """The program with the facts by which a file recognises it."""
    sites = program.sites
    program.program.settle()
    log_p = tuple(v if math.isfinite(v) else None for v in sites.example_log_p.values())
    return dataclasses.replace(
        program, described=sites.description(), log_p=log_p, digest=program.program.digest()
    )


def check_recognised(program: ProgramSpec) -> None:
    """Compare the function with the recorded facts.

    Raises:
      ValueError: it has other sites, or other densities at the same values.

    Warns:
      RuntimeWarning: it has other code, or reads something else.
    """
    sites, name = program.sites, program.name
    found = sites.description()
    if found != program.described:
        differing = sorted(set(found) ^ set(program.described)) or found
        raise ValueError(
            f"program {name} is not the one in the file: they differ in {', '.join(differing)}"
        )
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
            f"program {name} has other code, or reads something else, than when it was saved; its "
            "sites and their densities at some values are the same"
        )
