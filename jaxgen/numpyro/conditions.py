"""Which conditions y a program can take: its ``y_domain``, its indices and its discrete latents."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core import inputs
from jaxgen.core.constraints import bounds
from jaxgen.core.sizes import repeated
from jaxgen.networks import domains
from jaxgen.numpyro import covariates
from jaxgen.numpyro.indices import in_bounds
from jaxgen.numpyro.program_spec import ProgramSpec, Ranges
from jaxgen.numpyro.runs import example_value, trace

_CORNERS = 64  # most corners of a y_domain that are tried


class Conditions:
    """The constraint of the conditions of a program: maps y (..., *y_shape) to bools (...).

    A condition is valid if it is in the ``y_domain``, if it indexes arrays within their bounds, and
    if discrete latents take no values but those that a density sums over.
    """

    def __init__(self, program: ProgramSpec):
        self.program = program

    def __call__(self, y: Any) -> Any:
        shape = self.program.y_shape or ()
        batch = np.shape(y)[: np.ndim(y) - len(shape)]
        if isinstance(y, jax.Array):
            return jax.vmap(_validity(self.program))(y.reshape(-1, *shape)).reshape(batch)
        y = np.asarray(y).reshape(-1, *shape)
        y = inputs.narrowed(y, jnp.result_type(float), "y")
        padded = y[repeated(len(y))]
        try:
            found = _are_valid(self.program, padded)
        except (TypeError, ValueError) as error:  # such as a float as an index
            what = str(error).strip().split("\n")[0]
            raise TypeError(
                f"y must suit program {self.program.name}, which raises {type(error).__name__} "
                f"with y of dtype {y.dtype}: {what}"
            ) from error
        return np.asarray(found)[: len(y)].reshape(batch)

    @property
    def wanted(self) -> str:
        """The requirement on a condition, for messages."""
        program = self.program
        wanted = [] if program.y_domain is None else ["suit its y_domain"]
        named = program.program.covariates
        if named is not None and covariates.wanted(named):
            wanted.append(covariates.wanted(named))
        if _has_indices(program):
            wanted.append("index arrays within their bounds")
        for name, low, high in program.ranges or ():
            wanted.append(f"give latent {name!r} values within {low} .. {high}, as in the fit")
        return " and ".join(wanted)


def conditions_of(program: ProgramSpec) -> Conditions | None:
    """The constraint of the conditions of a program; None if any number is valid."""
    is_checked = program.y_domain is not None or program.ranges or not _are_floats(program)
    return Conditions(program) if is_checked or _has_indices(program) else None


def ranges_of(program: ProgramSpec, y: np.ndarray) -> Ranges:
    """The least and the largest value of each discrete latent whose values depend on y.

    They include the values for the rows y (n, *y_shape), those that the program has in ``ranges``,
    and those at the corners of its ``y_domain``.
    """
    y = np.concatenate([y, *_corners(program, y.dtype)])
    y = inputs.narrowed(y, jnp.result_type(float), "y")
    padded = y[repeated(len(y))]
    low, high = (np.asarray(v) for v in _bounds_of_rows(program, padded))
    found = zip(program.sites.varying, low.min(0).tolist(), high.max(0).tolist(), strict=True)
    earlier = {name: (low, high) for name, low, high in program.ranges or ()}
    ranges = []
    for name, least, largest in found:
        low_before, high_before = earlier.get(name, (least, largest))
        ranges.append((name, min(least, low_before), max(largest, high_before)))
    return tuple(ranges)


def _are_floats(program):
    """Whether y has no named covariates but floats."""
    named = program.program.covariates
    return named is None or not covariates.wanted(named)


@functools.lru_cache(maxsize=256)
def _has_indices(program):
    """Whether y indexes an array."""
    if program.y_shape is None:
        return False
    found: list[Any] = []
    with jax.core.eval_context():
        y = jnp.asarray(program.sites.example_argument)[0]
        jax.eval_shape(lambda y: found.append(_in_bounds(program, y)), y)
    return found[0] is not None


def _run(program, y, end=None):
    """The sites of a run for one condition, with made-up values: see ``example_value``."""
    observed = jnp.asarray(program.sites.example_values[program.observed])
    make, key = functools.partial(example_value, end=end), np.zeros(2, np.uint32)
    values, keywords = {program.observed: observed}, program.observed_keyword(observed)
    return trace(program.program, y[None], key, values, make, keywords=keywords)


def _in_bounds(program, y):
    """Whether one condition indexes within bounds; None if it indexes nothing."""

    def run(y):
        samples = [site for site in _run(program, y).values() if site["type"] == "sample"]
        return [site["fn"].log_prob(site["value"]) for site in samples]

    return in_bounds(run, y)


def _validity(program):
    """A function that returns whether one condition is valid."""
    checks: list[Any] = []
    if program.y_domain is not None:
        each = domains.each(program.y_domain, int(np.prod(program.y_shape)), "y_domain")
        checks.append(domains.constraint(each, program.y_shape))
    if not _are_floats(program):
        checks.append(functools.partial(covariates.are_valid, program.program.covariates))
    if _has_indices(program):
        checks.append(functools.partial(_in_bounds, program))
    if program.ranges:
        checks.append(functools.partial(_in_ranges, program))
    return lambda y: jnp.stack([jnp.all(check(y)) for check in checks]).all()


@functools.partial(jax.jit, static_argnums=0)
def _are_valid(program, y):
    return jax.vmap(_validity(program))(y)


def _in_ranges(program, y):
    low, high = _bounds(program, y)
    least, largest = np.array([(low, high) for _, low, high in program.ranges]).T
    return (low >= least) & (high <= largest)


def _bounds(program, y):
    """The least and the largest value of each varying latent, for one condition."""
    runs = []
    for end in ("low", "high"):  # the value of one latent may be a bound of another
        sites = _run(program, y, end)
        runs.append([bounds(sites[name]["fn"].support) for name in program.sites.varying])
    low, high = (
        jnp.stack(
            [
                pick(jnp.asarray([pick(ends[i]) for ends in latent]))
                for latent in zip(*runs, strict=True)
            ]
        )
        for i, pick in enumerate((jnp.min, jnp.max))
    )
    return low.astype(jnp.result_type(int)), high.astype(jnp.result_type(int))


@functools.partial(jax.jit, static_argnums=0)
def _bounds_of_rows(program, y):
    return jax.vmap(functools.partial(_bounds, program))(y)


def _corners(program, dtype):
    """Rows of y in which every number is at an end of its domain; none if a domain has no ends."""
    if program.y_domain is None:
        return []
    each = domains.each(program.y_domain, int(np.prod(program.y_shape)), "y_domain")
    ends: list[Any] = [bounds(domains.constraint((domain,), ())) for domain in each]
    if None in ends:
        return []
    return [
        np.array(corner, dtype).reshape(1, *program.y_shape)
        for corner in itertools.islice(itertools.product(*ends), _CORNERS)
    ]
