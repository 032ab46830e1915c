"""The laws that every model keeps, as one call: ``jaxgen.check(MyModel(2))``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from jaxgen.core.model import Model
from jaxgen.core.promotion import standard_promotion
from jaxgen.laws import calculus, contract, density, labels, parts
from jaxgen.laws.contract import count_compiles
from jaxgen.laws.subject import NotJudged, Subject

__all__ = [
    "LAWS",
    "LawError",
    "NotJudged",
    "Report",
    "Subject",
    "applies",
    "check",
    "count_compiles",
]

Law = Callable[[Subject], str]

# the order is that of reading: the first failure is the likeliest cause of the others
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
_OF_EXACT_DENSITY = {"normalisation", "goodness_of_fit", "score_identity", "bijection"}
_OF_EXACT_DENSITY |= {"chain_rule", "missing"}
_WITHOUT_DENSITY = {"spec", "start", "support", "determinism", "prefix", "key_reuse", "files"}
_WITHOUT_DENSITY |= {"refits"}


class LawError(AssertionError):
    """Some laws failed.

    Attributes:
      report: the Report, with the figures of the others.
    """

    def __init__(self, report: Report):
        self.report = report
        super().__init__(str(report))


class Report:
    """What each law found. Prints as a table.

    Attributes:
      model: the spec.
      figures: text a law, for those that hold or judge nothing.
      failures: text a law, for those that do not hold.
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
    params: Any = None,
    *,
    key: Any = None,
    y: Any = None,
    laws: Iterable[str] | None = None,
) -> Report:
    """Run every law against a model: one call to learn whether your own family is right.

    The laws compare the density with its integral, with samples, with derivatives and with an
    inverse, and hold batches, dtypes, keys, files and errors to the contract: see ``LAWS``, whose
    functions say in one line what each demands. A statistical law fails for a true model with
    probability 2e-5.

    Args:
      model: the spec.
      params: where to check it; by default ``model.init(key)``, jittered.
      key: a typed PRNG key; by default ``jax.random.key(0)``, so that a check repeats.
      y: a condition of shape ``y_shape``, for a conditional model.
      laws: names out of ``LAWS``, to run some only.

    Returns:
      A Report, which prints as a table of laws and figures.

    Raises:
      LawError: a law fails; its text is the table.
      ValueError: ``laws`` names none of the laws.

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
            report.figures[name] = f"not judged: density is {model.traits.density!r}"
            continue
        try:
            report.figures[name] = LAWS[name](subject)
        except NotJudged as reason:
            report.figures[name] = f"not judged: {reason}"
        except Exception as error:  # a model may fail in any way: each law is one row of the table
            kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            report.failures[name] = kind + str(error).split("\n")[0]
    if report.failures:
        raise LawError(report)
    return report


def applies(law: str, model: Model) -> bool:
    """Whether a law speaks of such a model: some need a density, or an exact one."""
    if model.traits.density == "none":
        return law in _WITHOUT_DENSITY
    return model.traits.density == "exact" or law not in _OF_EXACT_DENSITY
