"""The base of posteriors: the contract between a kind of posterior and a program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import jax

from jaxgen.core.model import Params
from jaxgen.core.spec import Spec

Values = Mapping[str, Any]


class Posterior(Spec):
    """How the globals of a program are held and learnt.

    A kind of posterior is a subclass. All kinds define ``init`` and ``values``. A kind that
    gradients learn also defines ``noise`` and ``sample``; one that a sampler draws sets ``method``
    to "mcmc" and defines ``draw_posteriors``. The class of ``program`` is ``ProgramSpec``, and
    ``jaxgen.numpyro.global_latents`` has its prior. ``params`` are those of the posterior, and
    ``param_values`` the values of the ``numpyro.param`` sites. Values are dictionaries by site.

    Attributes:
      method: how ``fit`` learns it.
      is_random: whether its draws differ from each other.
      draws: draws of the globals that it holds, in each chain.
      chains: number of chains.
      alternatives: posteriors that a warning recommends if this one cannot be trusted.
    """

    method: ClassVar[Literal["gradient", "mcmc"]] = "gradient"
    is_random: ClassVar[bool] = True
    draws: ClassVar[int] = 1
    chains: ClassVar[int] = 1
    alternatives: ClassVar[tuple[str, ...]] = ("FullRank()", "NUTS()")

    @property
    def count(self) -> int:
        """Draws of the globals that the density is an average over."""
        return self.chains * self.draws

    def check(self, program: Any) -> None:
        """Raise ValueError if the program cannot have this posterior."""

    def init(self, program: Any, param_values: Values, key: jax.Array) -> Params:
        """Params to start from."""
        raise NotImplementedError(f"{type(self).__name__} must define init")

    def values(self, program: Any, params: Params, param_values: Values) -> dict[str, jax.Array]:
        """All draws of the globals, each (count, *shape); the same in every call."""
        raise NotImplementedError(f"{type(self).__name__} must define values")

    def draw_function(
        self, program: Any, params: Params, param_values: Values
    ) -> Callable[[Any], dict[str, jax.Array]] | None:
        """A function from the number of a draw to the globals of that draw of ``values``.

        It saves the memory of all draws. None if they can only be computed together.
        """
        return None

    # Learning by gradients.

    def prepare(self, program: Any, params: Params, x: Any, y: Any, weights: Any) -> Params:
        """Params of the posterior to start from, given params of the program and all rows.

        x is (n, *event_shape), y (n, *y_shape) or None, and weights (n,) sum to the number of
        events.
        """
        return params["posterior"]

    def noise(self, program: Any) -> Any:
        """Pytree of the noise leaves that ``sample`` takes."""
        return ()

    def sample(
        self, program: Any, params: Params, param_values: Values, noise: Any
    ) -> tuple[dict[str, jax.Array], Any]:
        """A draw of the globals, and an estimate of the mean of log q - log p in nats.

        The mean of the second over the noise is the KL divergence from the prior p, which enters
        the evidence lower bound.
        """
        raise NotImplementedError(f"{type(self).__name__} must define sample")

    def sample_with_ratio(
        self, program: Any, params: Params, param_values: Values, noise: Any
    ) -> tuple[dict[str, jax.Array], Any]:
        """A draw of the globals, and log q - log p of that draw in nats."""
        return self.sample(program, params, param_values, noise)

    # Learning by a sampler.

    def draw_posteriors(
        self, program: Any, keys: Any, data: list[Any], progress: bool | None = None
    ) -> tuple[Params, list[dict[str, Any]]]:
        """Params of the program that hold draws of several posteriors, and their histories.

        Args:
          program: the program.
          keys: typed PRNG keys (fits,).
          data: (x, y, weights) of each fit, all with the same number of rows.
          progress: whether to show a bar; None to show it on a terminal.

        Returns:
          The params, with a leading axis of fits, and the history of each fit.
        """
        raise NotImplementedError(f"{type(self).__name__} must define draw_posteriors")
