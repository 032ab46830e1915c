"""A fitted program as data for ArviZ, which plots and compares posteriors."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxgen.core import inputs
from jaxgen.numpyro.program import find_program
from jaxgen.numpyro.queries import log_likelihood, posterior, predictive
from jaxgen.training.fitted import Fitted


def to_arviz(
    fitted: Fitted,
    x: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    key: jax.Array | None = None,
) -> Any:
    """The posterior of a fitted program as ArviZ's InferenceData (a DataTree since ArviZ 1).

    Its groups are "posterior"; with x also "log_likelihood", for ``arviz.loo``, and
    "observed_data"; and with a key "posterior_predictive", for the same rows. All but
    "observed_data" have leading axes of chains and draws.

    Args:
      fitted: a fitted program, or ``Labelled`` program.
      x: events (n, *event_shape).
      y: conditions (n, *y_shape).
      key: a typed PRNG key.

    Raises:
      ImportError: ArviZ is not installed; ``pip install jaxgen[arviz]`` installs it.
      TypeError, ValueError: an argument of the wrong kind, shape or range, by its name.

    >>> import arviz
    >>> table = arviz.summary(to_arviz(fitted, x, y))
    """
    try:
        import arviz
    except ImportError as error:
        raise ImportError("to_arviz needs ArviZ: install jaxgen[arviz]") from error
    draws_by_site = posterior(fitted)
    program, _ = find_program(fitted.model)  # type: ignore[misc]  # there is one
    if key is not None and x is None:
        raise ValueError("x is missing: with a key, rows like those of x are drawn")

    def by_chain(draws):
        draws = np.asarray(draws)
        return draws.reshape(program.posterior.chains, -1, *draws.shape[1:])

    name = program.observed
    groups: dict[str, Any] = {"posterior": {site: by_chain(v) for site, v in draws_by_site.items()}}
    if x is not None:
        groups["log_likelihood"] = {name: by_chain(log_likelihood(fitted, x, y))}
        groups["observed_data"] = {name: np.asarray(x)}
    if key is not None:
        n = len(np.asarray(x)) if program.y_shape is None else None
        drawn = predictive(fitted, inputs.as_key(key), y, n)
        groups["posterior_predictive"] = {name: by_chain(drawn)}
    if int(arviz.__version__.split(".")[0]) >= 1:
        return arviz.from_dict(groups)
    return arviz.from_dict(**groups)
