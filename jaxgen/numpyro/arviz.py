"""A fitted program for ArviZ, which draws and compares posteriors."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxgen.core import inputs
from jaxgen.numpyro.posterior import NUTS
from jaxgen.numpyro.queries import log_likelihood, posterior, predictive, program_of
from jaxgen.training.fitted import Fitted


def to_arviz(fitted: Fitted, x=None, y=None, *, key: jax.Array | None = None) -> Any:
    """The posterior of a fitted program as ArviZ's InferenceData (a DataTree since ArviZ 1).

    With data there are also "log_likelihood", of each row, for ``arviz.loo``, and "observed_data";
    with a key "posterior_predictive" of the same rows. Each has axes of chains and draws.

    Args:
      fitted: a fitted program, or ``Labelled`` one.
      x: events (n, *event_shape).
      y: conditions (n, *y_shape).
      key: a typed PRNG key.

    Raises:
      ImportError: ArviZ is not installed; the extra ``arviz`` has it.

    >>> import arviz
    >>> table = arviz.summary(to_arviz(fitted, x, y))
    """
    try:
        import arviz
    except ImportError as error:
        raise ImportError("to_arviz needs ArviZ: install jaxgen[arviz]") from error
    program, _ = program_of(fitted)
    chains = program.posterior.chains if isinstance(program.posterior, NUTS) else 1
    if key is not None and x is None:
        raise ValueError("key draws the rows of x anew, but x is missing")

    def by_chain(draws):
        draws = np.asarray(draws)
        return draws.reshape(chains, -1, *draws.shape[1:])

    name = program.observed
    groups: dict[str, Any] = {
        "posterior": {site: by_chain(v) for site, v in posterior(fitted).items()}
    }
    if x is not None:
        groups["log_likelihood"] = {name: by_chain(log_likelihood(fitted, x, y))}
        groups["observed_data"] = {name: np.asarray(x)}
    if key is not None:
        n = len(x) if program.y_shape is None else None
        drawn = predictive(fitted, inputs.as_key(key), y, n)
        groups["posterior_predictive"] = {name: by_chain(drawn)}
    if int(arviz.__version__.split(".")[0]) >= 1:
        return arviz.from_dict(groups)
    return arviz.from_dict(**groups)
