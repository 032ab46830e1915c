"""The values that the discrete latents of a row can take."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxgen.numpyro.sites.records import Site
from jaxgen.numpyro.sites.traced_sites import Structure, TracedSites

MOST_COMBINATIONS = 4096  # of values of discrete latents, which each row sums over


def check_count(fail: Callable[[str], Any], sizes: Mapping[str, int]) -> None:
    """Call ``fail`` if the discrete latents of a row take too many values together.

    sizes: the number of values of each latent, by name.
    """
    count = math.prod(sizes.values())
    if count > MOST_COMBINATIONS:
        fail(
            f"the discrete latents {list(sizes)} of a row take {count} values together, more than "
            f"the {MOST_COMBINATIONS} that can be summed over"
        )


def combinations(
    discrete: tuple[Site, ...], values: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """All values that discrete latents can take together, by site, each (m, *shape)."""
    singles = [list(itertools.product(values[s.name], repeat=math.prod(s.shape))) for s in discrete]
    together = list(itertools.product(*singles))
    return {
        site.name: np.array([c[i] for c in together]).reshape(-1, *site.shape)
        for i, site in enumerate(discrete)
    }


def discrete_values(
    structure: Structure,
    together: TracedSites,
    discrete: tuple[Site, ...],
    depend: Callable[..., list[bool]],
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The values of each discrete latent, by name, and the names of those that depend on y.

    Args:
      structure: the runs of the program.
      together: one more run.
      discrete: the discrete latents.
      depend: ``depend(names, part)`` returns, for each site, whether a part of it depends on y.
    """
    bounded = [site.name for site in discrete if structure.two[site.name].bounds is not None]
    depending = depend(bounded, lambda site: site.bounds)
    varying = {name for name, one in zip(bounded, depending, strict=True) if one}
    values = {}
    for site in discrete:
        runs = [run[site.name] for run in (structure.two, structure.three, together)]
        found = _range if runs[0].bounds is not None else _enumerated
        values[site.name] = found(structure, site.name, runs, site.name in varying)
    sizes = {s.name: len(values[s.name]) ** math.prod(s.shape) for s in discrete}
    check_count(structure.signature.fail, sizes)
    return values, tuple(site.name for site in discrete if site.name in varying)


def _enumerated(structure, name, runs, varies):
    values = runs[0].values
    if values is None:
        structure.signature.fail(
            f"latent {name!r} is discrete, but its values cannot be enumerated"
        )
    if any(not np.array_equal(values, run.values) for run in runs):
        _fail_of_different(structure, name)
    return np.asarray(values)


def _range(structure, name, runs, varies):
    ends = [np.stack(np.broadcast_arrays(*run.bounds)) for run in runs]
    low, high = min(np.min(e[0]) for e in ends), max(np.max(e[1]) for e in ends)
    if not varies and any(np.any(e[0] != low) or np.any(e[1] != high) for e in ends):
        _fail_of_different(structure, name)
    return np.arange(low, high + 1, dtype=jnp.result_type(int))


def _fail_of_different(structure, name):
    structure.signature.fail(f"latent {name!r} must be able to take the same values for all rows")
