"""Every law on every row of tests/cases.py.

A statistical law (normalisation by importance sampling, goodness of fit, score identity) fails for
a true model with probability 2e-5; keys are fixed, so a pass stays a pass.
"""

import pytest
from cases import CASES, subject

from jaxgen.laws import LAWS, NotApplicable, applies
from jaxgen.laws.density import learning

OF_PARAMS = ("support", "normalisation", "goodness_of_fit", "score_identity", "totality")
OF_CLASSES = (
    "methods",
    "batches",
    "eager",
    "pure",
    "refits",
)  # these laws concern a class: its first row is enough
# one row for each way to run a model is compiled with the default options
OPTIMIZED = ("gaussian2", "mixture_full", "kde2", "coupling2", "matching1", "matching2")
ALWAYS_APPLICABLE = ("normalisation", "goodness_of_fit")  # a row must be small enough for these


def checks():
    seen = set()
    for case in CASES:
        known, _ = case.kind in seen, seen.add(case.kind)
        for setting in range(case.count):
            for law in LAWS if setting == 0 else OF_PARAMS:
                if known and law in OF_CLASSES:
                    continue
                if law in case.skip or (case.is_built and not applies(law, case.model)):
                    continue
                marks = [pytest.mark.optimized] if case.name in OPTIMIZED else []
                name = f"{case.name}-{setting}-{law}"
                yield pytest.param(case, setting, law, id=name, marks=marks)


@pytest.mark.parametrize(("case", "setting", "law"), list(checks()))
def test_law(case, setting, law):
    if not applies(law, case.model):
        pytest.skip(f"its density is {case.model.traits.density!r}")
    checked = subject(case, setting)
    try:
        if law == "learning":
            learning(checked, case.gap)
        else:
            LAWS[law](checked)
    except NotApplicable:
        assert law not in ALWAYS_APPLICABLE
