"""A NumPyro program as a model of rows: p(x|y), with x the observed site and y the condition."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.model import Learning, Params, Traits
from jaxgen.core.promotion import standard_promotion
from jaxgen.core.random import Events, Key
from jaxgen.core.wrapper import inner_of, params_at
from jaxgen.numpyro import blocks, density, diagnosis, global_latents, local_latents, param_sites
from jaxgen.numpyro.conditions import Conditions, conditions_of, ranges_of
from jaxgen.numpyro.data_check import check_data
from jaxgen.numpyro.pareto import warn_of_tails
from jaxgen.numpyro.program_spec import ProgramSpec
from jaxgen.numpyro.recognition import check_recognised
from jaxgen.numpyro.row_density import Row
from jaxgen.numpyro.runs import trace

_ENGINE = 2**21  # scalars in a block of the engine

_map = jax.tree_util.tree_map


class Program(ProgramSpec):
    """A NumPyro program as p(x|y), as ``from_program`` makes it.

    Params: ``posterior``, of the globals; ``program``, the values of ``numpyro.param`` sites mapped
    to the reals; ``proposal``, of the proposal. ``posterior`` and ``proposal`` are there if the
    program has globals and a proposal.
    """

    def __post_init__(self):
        super().__post_init__()
        if self.described:
            check_recognised(self)

    @property
    def y_support(self) -> Conditions | None:
        return conditions_of(self)

    @functools.cached_property
    def learning(self) -> Learning:
        learnt = self.sites.globals, self.sites.param_transforms, self.proposal
        noise = {
            "globals": self.posterior.noise(self) if self.sites.globals else (),
            "locals": Key() if self.sites.locals else (),
            "events": Events(),
        }
        method = self.posterior.method if any(learnt) else "closed_form"
        return Learning(method, keep="last", rate=0.02, noise=noise, hooks=self)

    @functools.cached_property
    def traits(self) -> Traits:
        drawn = (*self.sites.locals, self.sites.observed)
        # such that the scalars of a block of ROWS rows are at most SCALARS
        held = density.draws_at_once(self) * density.footprint(self)
        return Traits(
            density="estimate" if self.sites.locals else "exact",
            reparameterized=not self.sites.discrete and all(s.reparameterized for s in drawn),
            scratch=math.ceil(held * _ENGINE / blocks.SCALARS),
            log_prob_and_k=self._log_prob_and_k if self.sites.locals else None,
            degrees_of_freedom=self._degrees_of_freedom,
            covariates=self.named_covariates,
        )

    @property
    def method(self) -> str:
        """How log p(x|y) is computed, given the globals."""
        if self.sites.locals:
            source = "modes and the prior" if local_latents.adapts(self) else "the prior"
            source = source if self.proposal is None else type(self.proposal).__name__
            return f"importance-weighted, K = {self.samples}, from {source}"
        return "enumerated" if self.sites.discrete else "exact"

    # The contract of a model.

    @standard_promotion
    def init(self, key, x=None, y=None):
        return _init(self, key)

    def log_prob(self, params, x, y=None):
        return density.log_prob(self, params, x, y)

    def _log_prob_and_k(self, params, x, y=None):
        return density.log_prob_and_k(self, params, x, y)

    def _degrees_of_freedom(self, params):
        raise NotImplementedError(
            f"the program {self.name} has no degrees of freedom: its params describe a posterior"
        )

    def noise(self):
        return Key()

    def push(self, params, noise, y=None):
        number_key, row_key = jax.random.split(noise)
        draws = global_latents.draws(self, params)
        number = jax.random.randint(number_key, (), 0, self.draws)
        return density.draw_row(self, params, _map(lambda v: v[number], draws), row_key, y)

    def loss(self, params, noise, x, y=None):
        param_values = param_sites.values(self, params)
        values: dict[str, Any] = {}
        cost: Any = 0.0
        if self.sites.globals:
            values, cost = self.posterior.sample(
                self, params["posterior"], param_values, noise["globals"]
            )
        row = Row(x, y, values, param_values)
        log_p = density.log_prob_of_row(self, params, row, noise["locals"])
        return (cost / noise["events"] - log_p).astype(x.dtype)

    def estimate(self, x, y=None, weights=None):
        return {"program": {}}

    # The steps that a program adds to a fit.

    def for_data(self, x: Any, y: Any = None) -> Program:
        """The program with facts about the data, after a check that it can score them one by one.

        Raises:
          ValueError: a row depends on others, or a latent takes too many values.
        """
        found: Any = self
        if self.sites.varying:
            found = found.with_ranges(ranges_of(self, y))
        if not self.sites.bounded and x is not None:
            is_large = bool((np.abs(x) > jnp.iinfo(jnp.result_type(int)).max).any())
            found = dataclasses.replace(found, large_counts=is_large or found.large_counts)
        check_data(found, x, y)
        return found

    @standard_promotion
    def prepare(self, params, x, y, weights):
        if not self.sites.globals:
            return params
        return {**params, "posterior": self.posterior.prepare(self, params, x, y, weights)}

    def check_fitted(self, params: Params, x: Any, y: Any = None) -> None:
        """Compare the rows again at the fitted globals, as a wide prior may hide a difference."""
        check_data(self, x, y, params)

    @standard_promotion
    def diagnose(self, params, x, y, weights, key, scores):
        return diagnosis.diagnose(self, params, x, y, weights, key, scores)

    def warn_of_tails(self, k: Any) -> None:
        warn_of_tails(k, self.name)

    def draw_posteriors(self, keys, data, progress=None):
        params, histories = self.posterior.draw_posteriors(self, keys, data, progress)
        x, y, _ = data[0]
        check_data(self, x, y, _map(lambda v: v[0], params))
        return params, histories


@functools.partial(jax.jit, static_argnums=0)  # one operation at a time would be slow
def _init(program, key):
    program_key, posterior_key, proposal_key = jax.random.split(key, 3)
    sites = trace(program.program, program.sites.example_argument, program_key, {})
    params = {"program": param_sites.initial_params(sites)}
    if program.sites.globals:
        param_values = param_sites.values(program, params)
        params["posterior"] = program.posterior.init(program, param_values, posterior_key)
    if program.proposal is not None:
        params["proposal"] = program.proposal.init(proposal_key)
    return params


def find_program(model: Any, params: Params = None) -> tuple[Program, Params] | None:
    """The program in a model and its params; None if there is none.

    The model may be a program, or wrappers around one that forward its methods, such as
    ``Labelled``.
    """
    while inner_of(model) and model.forwards:
        (inner,) = inner_of(model)
        model, params = inner.model, None if params is None else params_at(params, inner.place)
    return (model, params) if isinstance(model, Program) else None
