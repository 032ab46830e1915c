"""Laws that every model must satisfy; ``jaxgen.check(model)`` tests them.

A law is a function of a ``Subject``, a model at one setting of its params. It returns a text for
the report, or raises AssertionError with what it found and what an author can do.

>>> sorted(jaxgen.check(jaxgen.models.Gaussian(1), laws=["spec", "support"]).figures)
['spec', 'support']
"""

from __future__ import annotations

import functools
import os
import traceback
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from jaxgen.core import inputs
from jaxgen.core.bars import bar
from jaxgen.core.methods import hint
from jaxgen.core.model import Model, Params
from jaxgen.core.promotion import standard_promotion
from jaxgen.core.template import Template
from jaxgen.laws import calculus, contract, density, labels, parts
from jaxgen.laws.contract import count_compiles
from jaxgen.laws.subject import NotApplicable, Subject
from jaxgen.training.fitted import Fitted

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
    "methods": contract.methods,
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
    "log_determinants": calculus.log_determinants,
    "chain_rule": parts.chain_rule,
    "tokens": parts.tokens,
    "missing": parts.missing,
    "units": density.units,
    "learning": density.learning,
    "refits": contract.refits,
    "files": contract.files,
}
_NEED_EXACT_DENSITY = {"normalisation", "goodness_of_fit", "score_identity", "bijection"}
_NEED_EXACT_DENSITY |= {"chain_rule", "tokens", "missing"}
_NEED_NO_DENSITY = {
    "methods",
    "spec",
    "start",
    "support",
    "determinism",
    "prefix",
    "key_reuse",
    "files",
}
_NEED_NO_DENSITY |= {"refits", "log_determinants"}
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


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
      failures: by name, a text for each law that fails: what was found, then on lines of their own
        which method to look at and the likely cause.
    """

    def __init__(self, model: Model):
        self.model = model
        self.figures: dict[str, str] = {}
        self.failures: dict[str, str] = {}

    def __str__(self) -> str:
        names = [name for name in LAWS if name in self.figures or name in self.failures]
        lines = [f"{self.model}: all hold"]
        if self.failures:
            failing = ", ".join(name for name in names if name in self.failures)
            cause = " (the first may cause the others)" if len(self.failures) > 1 else ""
            count = f"{len(self.failures)} of {len(names)}"
            lines = [f"{count} laws fail: {failing}{cause}; the model is {self.model}"]
        for name in names:
            if name not in self.failures:
                lines.append(f"  {name:<16} {self.figures[name]}")
                continue
            found, *advice = self.failures[name].split("\n")
            lines.append(f"  {name:<16} FAILS  {found}")
            lines += [f"  {'':<16}        -> {line}" for line in advice]
        return "\n".join(lines)

    __repr__ = __str__


@standard_promotion
def check(
    model: Model | Fitted,
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
    correct model with probability 2e-5. A run over two seconds shows a bar on a terminal.

    Args:
      model: a spec; or a Fitted, which is tested at its params and with its names of labels.
      params: the params at which to test a spec; by default ``model.init(key)``, jittered.
      key: a typed PRNG key; by default ``jax.random.key(0)``, so that a check is repeatable.
      y: a condition of shape ``y_shape``, for a conditional model, or a label.
      laws: names in ``LAWS``; by default all.

    Returns:
      A ``Report``, which prints as a table of laws and figures.

    Raises:
      LawError: a law fails; the error's text is the table, with an example and the likely cause.
      TypeError: ``model`` is no model; or ``params`` are given beside a Fitted.
      ValueError: ``laws`` holds a name that is not in ``LAWS``; or y is no condition of the model,
        or no label of the Fitted.

    >>> print(check(Gaussian(1), laws=["spec", "bijection"]))
    Gaussian(dim=1, covariance='full', jitter=0.0): all hold
      spec             Gaussian(dim=1, covariance='full', jitter=0.0)
      bijection        ...
    """
    wanted = list(LAWS) if laws is None else list(laws)
    unknown = [name for name in wanted if name not in LAWS]
    if unknown:
        raise ValueError(f"laws must be among {', '.join(LAWS)}; got {', '.join(unknown)}")
    named = None
    if isinstance(model, Fitted):
        if params is not None:
            raise TypeError("params must be left out where model is a Fitted, which has its own")
        named, model = model, model.model
        params, y = named.params, named.conditions_of(y)
    if isinstance(model, Template) or not isinstance(model, Model):
        raise TypeError(
            f"model must be a Model with all its fields, such as Gaussian(2), or a Fitted; got "
            f"{model!r:.60}"
        )
    y = _one_condition(model, y)
    report = Report(model)
    # without these two no other law can be tested
    subject = _result(report, "methods", lambda: contract.check_methods(model, params))
    if not report.failures:
        make = lambda: Subject(model, params, key=key, y=y, named=named)  # noqa: E731
        subject = _result(report, "start", make)
    for law in report.failures:
        report.failures[law] += "\nthe other laws need this and were not run"
        raise LawError(report)
    shown = bar("check", wanted, unit="law", leave=False)
    for name in shown:
        shown.set_postfix_str(name)
        if not applies(name, model):
            report.figures[name] = f"not applicable: density is {model.traits.density!r}"
            continue
        figure = _result(report, name, functools.partial(LAWS[name], subject))
        if name not in report.failures:
            report.figures[name] = figure
    if report.failures:
        raise LawError(report)
    return report


def _one_condition(model: Model, y: Any) -> Any:
    """The condition of a check; None where it is left out."""
    if y is None:
        return None
    y = inputs.as_conditions(model, y, (), np.float64)
    if not np.isfinite(np.asarray(y)).all():
        raise ValueError(f"y must be finite, got {y}")
    return y


def _result(report: Report, name: str, run: Callable[[], Any]) -> Any:
    """The result of ``run``; the report notes its failure as one of the law."""
    try:
        return run()
    except NotApplicable as reason:
        return f"not applicable: {reason}"
    except AssertionError as error:
        report.failures[name] = str(error) or "AssertionError"
    except Exception as error:  # any error of the model is a failure of this law
        report.failures[name] = _explained(error)
    return None


def _explained(error: Exception) -> str:
    """An error of a model's method: its text, the author's line that raised it, and advice."""
    lines = [f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"]
    raised = error if error.__cause__ is None else error.__cause__
    for frame in reversed(traceback.extract_tb(raised.__traceback__)):
        file = frame.filename
        if not (file.startswith((_PACKAGE, "<string>")) or "site-packages" in file):
            line = f": {frame.line}" if frame.line else ""
            lines.append(f"{os.path.basename(file)}, line {frame.lineno}{line}")
            break
    notes = [n for n in getattr(error, "__notes__", ()) if not n.startswith("----")]
    if not notes and hint(error):
        notes = [hint(error)]
    if "zero density" in str(error):  # from ``fit``
        notes.append(density.LEFT_SUPPORT)
    return "\n".join([*lines, *notes])


def applies(law: str, model: Model) -> bool:
    """Whether a law applies to the model: some need a density, and some an exact one."""
    if model.traits.density == "none":
        return law in _NEED_NO_DENSITY
    return model.traits.density == "exact" or law not in _NEED_EXACT_DENSITY
