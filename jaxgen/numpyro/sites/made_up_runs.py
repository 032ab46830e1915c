"""Runs of a program for a few rows of made-up data."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.constraints import bounds, innermost
from jaxgen.networks.domains import Real, constraint, each
from jaxgen.numpyro import covariates
from jaxgen.numpyro.runs import example_value, trace
from jaxgen.numpyro.sites.checks import check_distributions, check_free
from jaxgen.numpyro.sites.records import ProgramSignature
from jaxgen.numpyro.sites.traced_sites import TracedSites, traced_sites


class RunInputs(NamedTuple):
    """The inputs of a run.

    Attributes:
      shift: changes the made-up values of sites.
      y: conditions; None for a program that takes the number of rows.
    """

    shift: float
    y: Any


class MadeUpRuns:
    """Runs of one program, which find out how the program is given the value of x.

    Attributes:
      signature: the program.
      integers: whether made-up conditions are integers, as if they were indices.
      observed_parameter: name of the parameter that takes x; None if there is none.
    """

    def __init__(self, signature: ProgramSignature, integers: bool = False):
        self.signature, self.integers = signature, integers
        self.observed_parameter: str | None = None
        self._candidates = signature.program.observed_parameters(signature.observed)

    def inputs(self, n: int, seed: int) -> RunInputs:
        """The inputs of a run for n rows; another seed changes all of them."""
        signature, shift = self.signature, seed / 3
        if signature.y_shape is None:
            return RunInputs(shift, None)
        if signature.classes is not None:
            return RunInputs(shift, (np.arange(n) % signature.classes).astype(np.int32))
        shape = (n, *signature.y_shape)
        y = uniform = np.random.default_rng(seed).uniform(0.1, 0.9, shape)
        if self.integers:
            return RunInputs(shift, np.zeros(shape, np.int32))
        if signature.y_domain is not None:
            y = _in_domain(signature.y_domain, uniform)
        named = signature.program.covariates
        if named is not None:
            free = [d == Real() for d in each(signature.y_domain, shape[1], "y_domain")]
            y = np.where(free, covariates.made_up(named, uniform), y).astype(float)
        return RunInputs(shift, y if y.dtype == np.int32 else y.astype(jnp.result_type(float)))

    def run(
        self, n: int, inputs: RunInputs, values: Mapping[str, Any], x: Any = None
    ) -> TracedSites:
        """A run for n rows.

        Args:
          n: number of rows.
          inputs: those of ``inputs(n, seed)``.
          values: values of sites, by name; the others are made up.
          x: value of the observed site, for a program with a parameter for it.
        """
        argument = n if inputs.y is None else inputs.y
        parameter = self.observed_parameter
        keywords = {} if x is None or parameter is None else {parameter: x}
        with_x = bool(keywords)
        if with_x:
            values = {n: v for n, v in values.items() if n != self.signature.observed}
        key = np.zeros(2, np.uint32)
        make = functools.partial(example_value, shift=inputs.shift)
        with self._errors_of_program(with_x):
            sites = trace(self.signature.program, argument, key, values, make, keywords=keywords)
        check_distributions(self.signature, sites)
        with self._errors_of_program(with_x):
            return traced_sites(self.signature, sites)

    def run_with_x(
        self, n: int, inputs: RunInputs, values: Mapping[str, Any] | None = None
    ) -> TracedSites:
        """A run for n rows in which the program is given x, as it is when a row is scored."""
        values, observed = values or {}, self.signature.observed
        without = self.run(n, inputs, values)
        check_free(self.signature, without)
        known = {name: site.value for name, site in without.items() if site.is_sample}
        run = self._run_given(n, inputs, {**values, **known}, without[observed].value)
        if run is None:
            return without
        pair = without[observed].value, run[observed].value
        run[observed] = run[observed]._replace(observed=False, given_and_observed=pair)
        for name, site in without.items():
            if site.is_sample and name not in run:
                self.signature.fail(
                    f"site {name!r} must exist whether {self.observed_parameter} is given or not"
                )
            if site.is_sample and not site.observed:
                run[name] = run[name]._replace(log_p_without_x=site.log_p)
        return run

    def _run_given(self, n, inputs, values, x):
        """A run in which a parameter gives the program x; None if no parameter does."""
        observed, error = self.signature.observed, None
        for name in self._candidates:
            self.observed_parameter = name
            try:
                run = self.run(n, inputs, values, x)
            except ValueError as raised:  # the parameter may mean something else
                error = raised if name == observed else error
                continue
            if observed in run and run[observed].observed:
                self._candidates = [name]
                return run
        self.observed_parameter, self._candidates = None, []
        if error is not None and self.signature.program.has_parameter(observed):
            raise error
        return None

    def find_observed(self) -> str:
        """The name of the site that observes an optional parameter, or else "x".

        Raises:
          ValueError: no site or several sites do, and none is called "x".
        """
        found: list[list[str]] = []
        jax.eval_shape(lambda: found.extend(self._sites_and_observed()))
        sites, observed = found
        if len(observed) == 1:
            return observed[0]
        if "x" in sites:
            return "x"
        what = f"several sites may be observed, {observed}"
        if not observed:
            what = (
                "it has no observed site 'x', and no site with obs=y for a parameter y=None; its "
                f"sample sites are {sites}"
            )
        self.signature.fail(f"{what}: name the observed site by observed=...")

    def _sites_and_observed(self):
        """All sample sites, and the free ones that are observed if a parameter is given a value."""
        inputs = self.inputs(2, 0)
        plain = self.run(2, inputs, {})
        sites = [name for name, site in plain.items() if site.is_sample]
        free = [name for name in sites if not plain[name].observed]
        observed: dict[str, None] = {}
        for parameter in self.signature.program.observed_parameters(""):
            self.observed_parameter = parameter
            for name in sorted(free, key=lambda name: name != parameter):
                try:
                    run = self.run(2, inputs, {}, plain[name].value)
                except ValueError:  # the value may have another shape than the parameter
                    continue
                new = [name for name in free if name in run and run[name].observed]
                if new:
                    observed.update(dict.fromkeys(new))
                    break
        return sites, list(observed)

    @contextlib.contextmanager
    def _errors_of_program(self, with_x: bool) -> Iterator[None]:
        """Turn errors that the program raises into errors that name it."""
        signature = self.signature
        try:
            yield
        except Exception as error:
            text = str(error).strip().split("\n")[0]
            if isinstance(error, AssertionError) and "unique name" in text:
                signature.fail(f"two sites have one name: {text}", error)
            hint = ""
            if signature.program.covariates is not None:
                kinds = [f"{one.name!r} ({one.kind})" for one in signature.program.covariates]
                hint = (
                    f"; made-up values took the place of {', '.join(kinds)}: pass example rows of "
                    "other dtypes, or y_domain, if they do not suit"
                )
            elif signature.y_shape is not None and signature.y_domain is None:
                hint = "; made-up numbers between 0 and 1 took the place of y: pass y_domain"
                hint += ", or classes where y is a label" if signature.y_shape == () else ""
            elif signature.y_shape is None and isinstance(error, TypeError | AttributeError):
                hint = "; if its first argument holds data, pass y_shape or covariates"
            if signature.classes is not None:
                hint = ""
            if isinstance(error, jax.errors.JAXTypeError):
                hint = _advice(error)
            signature.fail(
                f"it must run when called with {self._arguments(with_x)}, but raises "
                f"{type(error).__name__}: {text}{hint}{signature.program.hint_of_arrays()}",
                error,
            )

    def _arguments(self, with_x):
        """A description of the program's argument, for messages."""
        y_shape, named = self.signature.y_shape, self.signature.program.covariates
        argument = "the number of rows"
        if named is not None:
            argument = covariates.described(named)
        elif y_shape is not None:
            argument = (
                f"y of shape ({', '.join(['n', *map(str, y_shape)])}{'' if y_shape else ','})"
            )
        return f"{argument} and {self.observed_parameter}" if with_x else f"{argument} alone"


def _advice(error):
    """The end of an error about a program that needs the value of a traced array."""
    if isinstance(error, jax.errors.TracerBoolConversionError):
        return (
            "; a Python `if`, `and`, `or` or `while` cannot depend on a latent, a param or a "
            "covariate: use jnp.where"
        )
    return (
        "; latents, params and covariates are traced arrays: use jax.numpy in place of NumPy, "
        "int() and float()"
    )


def _in_domain(domains, y):
    """Numbers between 0 and 1 moved into their domains."""
    shape = y.shape
    y = y.reshape(len(y), -1)
    domains = each(domains, y.shape[1], "y_domain")
    numbers = [innermost(constraint((domain,), ())) for domain in domains]
    columns = [_satisfying(number, column) for number, column in zip(numbers, y.T, strict=True)]
    y = np.stack(columns, 1).reshape(shape)
    return y.astype(np.int32) if all(number.is_discrete for number in numbers) else y


def _satisfying(number, column):
    """Numbers between 0 and 1 moved such that they satisfy the constraint of a domain."""
    ends = bounds(number)
    if ends is None:
        return column if hasattr(number, "lower_bound") else column - 0.5
    low, high = ends
    if number.is_discrete:
        return np.floor(low + (high + 1 - low) * column)
    return low + (high - low) * column


def shifted_params(sites: TracedSites) -> dict[str, Any]:
    """Other values of the ``numpyro.param`` sites of a run, by name."""
    return {
        name: jax.tree_util.tree_map(
            lambda v, onto=site.transform: onto(onto.inv(jnp.asarray(v)) + 0.5), site.value
        )
        for name, site in sites.items()
        if site.type == "param"
    }
