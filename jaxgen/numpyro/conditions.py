"""Which conditions y a program can take: its ``y_domain``, indices and values of its latents."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core import inputs
from jaxgen.core.sizes import repeated
from jaxgen.networks import domains
from jaxgen.numpyro.indices import in_bounds
from jaxgen.numpyro.runs import example_value, trace
from jaxgen.numpyro.support import bounds_of

Ranges = tuple[tuple[str, int, int], ...]


class Conditions:
    """The constraint of a program's y: a function of conditions (..., *y_shape) to bools (...).

    A condition suits if it lies in the program's ``y_domain``, indexes arrays within their bounds,
    and lets discrete latents take none but the values that are summed over.
    """

    def __init__(self, program):
        self.program = program

    def __call__(self, y):
        shape = self.program.y_shape
        batch = np.shape(y)[: np.ndim(y) - len(shape)]
        if isinstance(y, jax.Array):
            return jax.vmap(_of_row(self.program))(y.reshape(-1, *shape)).reshape(batch)
        y = np.asarray(y).reshape(-1, *shape)
        y = inputs.narrowed(y, jnp.result_type(float), "y")
        padded = y[repeated(len(y))]
        try:
            found = _of_rows(self.program, padded)
        except (TypeError, ValueError) as error:  # such as a float that is an index
            what = str(error).strip().split("\n")[0]
            raise TypeError(
                f"y must suit program {self.program.program.name}, which raises "
                f"{type(error).__name__} with y of dtype {y.dtype}: {what}"
            ) from error
        return np.asarray(found)[: len(y)].reshape(batch)

    @property
    def wanted(self) -> str:
        """What a condition must do, for messages."""
        own = self.program
        wanted = [] if own.y_domain is None else ["suit its y_domain"]
        if _has_indices(own):
            wanted.append("index arrays within their bounds")
        for name, low, high in own.ranges or ():
            wanted.append(f"give latent {name!r} values within {low} .. {high}, as in the fit")
        return " and ".join(wanted)


def conditions_of(program) -> Conditions | None:
    """The constraint of a program's y, or None where any number will do."""
    checked = program.y_domain is not None or program.ranges or _has_indices(program)
    return Conditions(program) if checked else None


def ranges_of(program, y) -> Ranges:
    """The least and the largest value of each discrete latent whose values depend on y.

    They are those of the rows y (n, *y_shape), of what the program knows already and of the
    corners of its ``y_domain``.
    """
    y = inputs.narrowed(
        np.concatenate([y, *_corners(program, y.dtype)]), jnp.result_type(float), "y"
    )
    padded = y[repeated(len(y))]
    low, high = (np.asarray(v) for v in _bounds_of_rows(program, padded))
    found = zip(program.sites.varying, low.min(0).tolist(), high.max(0).tolist(), strict=True)
    known = {name: ends for name, *ends in program.ranges or ()}
    return tuple(
        (name, min(low, *known.get(name, [low])[:1]), max(high, *known.get(name, [high])[-1:]))
        for name, low, high in found
    )


@functools.lru_cache(maxsize=256)
def _has_indices(program):
    if program.y_shape is None:
        return False
    found: list[Any] = []
    with jax.core.eval_context():
        y = jnp.asarray(program.sites.argument)[0]
        jax.eval_shape(lambda y: found.append(_in_bounds(program, y)), y)
    return found[0] is not None


def _run(program, y, end=None):
    """The sites of a run for one condition, with made-up values: see ``example_value``."""
    observed = jnp.asarray(program.sites.example[program.observed])
    make = functools.partial(example_value, end=end)
    values, given = {program.observed: observed}, program.given(observed)
    return trace(program.program, y[None], np.zeros(2, np.uint32), values, make, given=given)


def _in_bounds(program, y):
    """Whether one condition indexes within bounds; None where it indexes nothing."""

    def run(y):
        samples = [site for site in _run(program, y).values() if site["type"] == "sample"]
        return [site["fn"].log_prob(site["value"]) for site in samples]

    return in_bounds(run, y)


def _of_row(program):
    """Whether one condition suits the program, as a function of it."""
    parts: list[Any] = []
    if program.y_domain is not None:
        each = domains.each(program.y_domain, int(np.prod(program.y_shape)), "y_domain")
        parts.append(domains.constraint(each, program.y_shape))
    if _has_indices(program):
        parts.append(functools.partial(_in_bounds, program))
    if program.ranges:
        parts.append(functools.partial(_in_ranges, program))
    return lambda y: jnp.stack([jnp.all(part(y)) for part in parts]).all()


@functools.partial(jax.jit, static_argnums=0)
def _of_rows(program, y):
    return jax.vmap(_of_row(program))(y)


def _in_ranges(program, y):
    low, high = _bounds(program, y)
    ends = np.array([own[1:] for own in program.ranges]).T
    return (low >= ends[0]) & (high <= ends[1])


def _bounds(program, y):
    """The least and the largest value of each varying latent under one condition."""
    found = []
    for end in ("low", "high"):  # the values of one latent may be a bound of another's
        sites = _run(program, y, end)
        found.append([bounds_of(sites[name]["fn"].support) for name in program.sites.varying])
    low, high = (
        jnp.stack(
            [
                pick(jnp.asarray([pick(ends[at]) for ends in of_one]))
                for of_one in zip(*found, strict=True)
            ]
        )
        for at, pick in enumerate((jnp.min, jnp.max))
    )
    return low.astype(jnp.result_type(int)), high.astype(jnp.result_type(int))


@functools.partial(jax.jit, static_argnums=0)
def _bounds_of_rows(program, y):
    return jax.vmap(functools.partial(_bounds, program))(y)


def _corners(program, dtype):
    """The rows of y where all numbers have their least or their largest value, if there are."""
    if program.y_domain is None:
        return []
    each = domains.each(program.y_domain, int(np.prod(program.y_shape)), "y_domain")
    ends: list[tuple[float, float]] = []
    for domain in each:
        if isinstance(domain, domains.Levels):
            ends.append((0, domain.count - 1))
        elif isinstance(domain, domains.Interval | domains.Circle):
            ends.append((domain.low, domain.high))
        else:
            return []
    return [
        np.array(corner, dtype).reshape(1, *program.y_shape)
        for corner in itertools.islice(itertools.product(*ends), 64)
    ]
