"""Laws that every model must satisfy; ``jaxgen.check(model)`` tests them.

>>> sorted(jaxgen.check(jaxgen.models.Gaussian(1), laws=["spec", "support"]).figures)
['spec', 'support']
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax

from jaxgen.core.model import Model, Params
from jaxgen.core.promotion import standard_promotion
from jaxgen.laws import calculus, contract, density, labels, parts
from jaxgen.laws.contract import count_compiles
from jaxgen.laws.subject import NotApplicable, Subject

__all__ = [
    "LAWS",
    "LawError",
    "NotApplicable",
    "Report",
    "Subject",
    "applies",
    "check",
    "count_compiles",
]

Law = Callable[[Subject], str]

# in reports the first failure is the likeliest cause of the others
LAWS: dict[str, Law] = {
    "spec": contract.spec,
    "start": contract.start,
    "dtypes": contract.dtypes,
    "support": density.support,
    "determinism": contract.determinism,
    "prefix": contract.prefix,
    "key_reuse": contract.key_reuse,
    "batches": contract.batches,
    "eager": contract.eager,
    "pure": contract.pure,
    "compiles": contract.compiles,
    "conditions": contract.conditions,
    "labels": labels.labels,
    "shares": labels.shares,
    "totality": calculus.totality,
    "normalisation": density.normalisation,
    "goodness_of_fit": density.goodness_of_fit,
    "score_identity": density.score_identity,
    "gradients": calculus.gradients,
    "precision": calculus.precision,
    "bijection": calculus.bijection,
    "chain_rule": parts.chain_rule,
    "missing": parts.missing,
    "learning": density.learning,
    "units": density.units,
    "refits": contract.refits,
    "files": contract.files,
}
_NEED_EXACT_DENSITY = {"normalisation", "goodness_of_fit", "score_identity", "bijection"}
_NEED_EXACT_DENSITY |= {"chain_rule", "missing"}
_NEED_NO_DENSITY = {"spec", "start", "support", "determinism", "prefix", "key_reuse", "files"}
_NEED_NO_DENSITY |= {"refits"}


class LawError(AssertionError):
    """The error of ``check``: at least one law fails.

    Attributes:
      report: the ``Report``, with the figures of the laws that hold too.
    """

    def __init__(self, report: Report):
        self.report = report
        super().__init__(str(report))


class Report:
    """The results of the laws, which print as a table.

    Attributes:
      model: the spec.
      figures: by name, a text for each law that holds or does not apply.
      failures: by name, a text for each law that fails.
    """

    def __init__(self, model: Model):
        self.model = model
        self.figures: dict[str, str] = {}
        self.failures: dict[str, str] = {}

    def __str__(self) -> str:
        names = [name for name in LAWS if name in self.figures or name in self.failures]
        count = f"{len(self.failures)} of {len(names)} laws fail" if self.failures else "all hold"
        lines = [f"{self.model}: {count}"]
        for name in names:
            text = f"FAILS  {self.failures[name]}" if name in self.failures else self.figures[name]
            lines.append(f"  {name:<16} {text}")
        return "\n".join(lines)

    __repr__ = __str__


@standard_promotion
def check(
    model: Model,
    params: Params = None,
    *,
    key: jax.Array | None = None,
    y: Any = None,
    laws: Iterable[str] | None = None,
) -> Report:
    """Test a model against the laws, such as those of a new family.

    The laws compare the density with its integral, with samples, with derivatives and with the
    inverse, and test that batches, dtypes, keys, files and errors follow the contract. ``LAWS``
    lists them; the docstring of each law states it in one line. A statistical law fails for a
    correct model with probability 2e-5.

    Args:
      model: the spec.
      params: the params at which to test it; by default ``model.init(key)``, jittered.
      key: a typed PRNG key; by default ``jax.random.key(0)``, so that a check is repeatable.
      y: a condition of shape ``y_shape``, for a conditional model.
      laws: names in ``LAWS``; by default all.

    Returns:
      A ``Report``, which prints as a table of laws and figures.

    Raises:
      LawError: a law fails; the error's text is the table.
      ValueError: ``laws`` holds a name that is not in ``LAWS``.

    >>> print(check(Gaussian(1), laws=["spec", "bijection"]))
    Gaussian(dim=1, covariance='full', jitter=0.0): all hold
      spec             Gaussian(dim=1, covariance='full', jitter=0.0)
      bijection        ...
    """
    wanted = list(LAWS) if laws is None else list(laws)
    unknown = [name for name in wanted if name not in LAWS]
    if unknown:
        raise ValueError(f"laws must be among {', '.join(LAWS)}; got {', '.join(unknown)}")
    subject = Subject(model, params, key=key, y=y)
    report = Report(model)
    for name in wanted:
        if not applies(name, model):
            report.figures[name] = f"not applicable: density is {model.traits.density!r}"
            continue
        try:
            report.figures[name] = LAWS[name](subject)
        except NotApplicable as reason:
            report.figures[name] = f"not applicable: {reason}"
        except Exception as error:  # any error of the model is a failure of this law
            prefix = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            report.failures[name] = prefix + str(error).split("\n")[0]
    if report.failures:
        raise LawError(report)
    return report


def applies(law: str, model: Model) -> bool:
    """Whether a law applies to the model: some need a density, and some an exact one."""
    if model.traits.density == "none":
        return law in _NEED_NO_DENSITY
    return model.traits.density == "exact" or law not in _NEED_EXACT_DENSITY
