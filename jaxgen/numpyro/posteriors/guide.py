"""A NumPyro guide for the globals."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from numpyro import handlers
from numpyro.distributions.transforms import Transform
from numpyro.infer.autoguide import AutoGuide, AutoLaplaceApproximation

from jaxgen.core.random import Key
from jaxgen.core.spec import Count
from jaxgen.numpyro import global_latents, param_sites
from jaxgen.numpyro.function import Function, as_function
from jaxgen.numpyro.posteriors.base import Posterior
from jaxgen.numpyro.program_spec import ProgramSpec
from jaxgen.numpyro.runs import evaluated, fixed_key, param_transform, trace

_TRIED = 100  # draws of each site that must lie in the support


class Guide(Posterior):
    """A NumPyro guide for the globals.

    Args:
      guide: a function with the arguments of the program other than x, which samples every global
        and nothing else, and may have ``numpyro.param`` sites; or a class of
        ``numpyro.infer.autoguide``, such as ``AutoMultivariateNormal``.
      draws: draws of the globals that the density is an average over, the same in every call.

    Params: those of the guide, by name, mapped to the reals.
    """

    guide: Function
    draws: Count = 100  # type: ignore[misc]

    def __post_init__(self):
        if callable(self.guide):
            object.__setattr__(self, "guide", as_function(self.guide))
        super().__post_init__()

    def check(self, program):
        _checked(self, program)

    def init(self, program, param_values, key):
        return param_sites.initial_params(_run(self, program, {}, key))

    def values(self, program, params, param_values):
        guide_values = self._param_values(program, params)

        def draw(key):
            return _globals(program, _run(self, program, guide_values, key))

        return jax.vmap(draw)(jax.random.split(fixed_key(), self.draws))

    def noise(self, program):
        return Key()

    def sample(self, program, params, param_values, noise):
        sites = _run(self, program, self._param_values(program, params), noise)
        values = _globals(program, sites)
        log_q = sum(_log_q(s) for s in sites.values() if s["type"] == "sample")
        return values, log_q - global_latents.log_prior(program, values, param_values)

    def _param_values(self, program, params):
        return param_sites.transformed(params, _checked(self, program).transforms)


class _Checked(NamedTuple):
    """A guide that suits a program, and the maps from the reals onto the values of its params."""

    call: Function
    transforms: dict[str, Transform]


def _run(guide: Guide, program, params, key):
    call = _checked(guide, program).call
    return trace(call, program.sites.example_argument, key, params)


def _globals(program, sites):
    return {site.name: sites[site.name]["value"] for site in program.sites.globals}


def _log_q(site):
    value, intermediates = site["value"], site["intermediates"]
    if intermediates:
        return site["fn"].log_prob(value, intermediates).sum()
    return site["fn"].log_prob(value).sum()


@functools.lru_cache(maxsize=256)
def _checked(guide: Guide, program: ProgramSpec) -> _Checked:
    """The guide, checked against the program."""

    def fail(what):
        raise ValueError(f"guide {guide.guide.name}: {what}")

    call = _as_call(guide, program, fail)
    with jax.core.eval_context():
        with _errors_of_guide(fail):
            # not compiled, as an autoguide keeps what it finds in its first run
            trace(call, program.sites.example_argument, np.zeros(2, np.uint32), {})
        values, others, draws, transforms = evaluated(
            functools.partial(_checked_runs, program, call, fail)
        )
    for name, value in values.items():
        if not np.array_equal(value, others[name]):
            fail(f"site {name!r} must not depend on the rows, as the guide is called with one row")
    for name, (support, tried, inside) in draws.items():
        if not np.all(inside):
            outside = np.ravel(tried)[np.argmin(np.ravel(inside))]
            fail(
                f"site {name!r} is drawn outside the support of the program's, {support}, such as "
                f"{outside}"
            )
    return _Checked(call, transforms)


def _as_call(guide, program, fail) -> Function:
    """The guide as a function; a class of guides is called with the program."""
    call = guide.guide.taking(program.program.covariates)
    if not (isinstance(call.call, type) and issubclass(call.call, AutoGuide)):
        return call
    if issubclass(call.call, AutoLaplaceApproximation):
        fail("its spread is found after a fit; take FullRank or AutoMultivariateNormal")
    names, examples = {site.name for site in program.sites.globals}, program.sites.example_values
    hidden = [name for name in examples if name not in names]
    rows = {name: examples[name] for name in hidden}
    globals_alone = handlers.block(handlers.substitute(program.program.call, rows), hide=hidden)
    found = as_function(call.call(globals_alone), named=False)  # files know the name of the class
    return found.taking(program.program.covariates)


def _checked_runs(program, call, fail):
    """Values of the globals in two runs with different arguments, draws, and maps of params.

    The draws of each global come with the support in the program, and whether each is inside.
    """
    expected = {site.name: site for site in program.sites.globals}
    key = np.zeros(2, np.uint32)
    with _errors_of_guide(fail):
        run, other = (
            trace(call, argument, key, {})
            for argument in (program.sites.example_argument, program.sites.other_argument)
        )
    samples = {n: s for n, s in run.items() if s["type"] == "sample"}
    found = {n for n, s in samples.items() if not s["infer"].get("is_auxiliary")}
    if found != set(expected):
        fail(
            f"it must sample the globals {sorted(expected)} of the program; it has {sorted(found)}"
        )
    for name in found:
        shape = np.shape(samples[name]["value"])
        if shape != expected[name].shape:
            fail(f"site {name!r} must have shape {expected[name].shape}, got {shape}")
        if samples[name]["is_observed"]:
            fail(f"site {name!r} must not be observed")
    values = {name: samples[name]["value"] for name in found}
    draws = {}
    for name, support in global_latents.supports(program, values).items():
        tried = samples[name]["fn"].expand_by((_TRIED,)).sample(key)
        draws[name] = support, tried, support(tried)
    others = {name: other[name]["value"] for name in found}
    transforms = {n: param_transform(s) for n, s in run.items() if s["type"] == "param"}
    return values, others, draws, transforms


@contextlib.contextmanager
def _errors_of_guide(fail: Callable[[str], Any]) -> Iterator[None]:
    """Turn errors that NumPyro raises at impossible sites into errors that name the guide."""
    try:
        yield
    except NotImplementedError:
        fail("its sites must have proper distributions, which can be drawn from")
    except AssertionError as error:
        if "unique name" not in str(error):
            raise
        fail(f"two sites have one name: {error}")
