"""Every law on every row of tests/cases.py.

A statistical law (normalisation by importance sampling, goodness of fit, score identity) fails for
a true model with probability 2e-5; keys are fixed, so a pass stays a pass.
"""

import pytest
from cases import CASES, subject

from jaxgen.check import LAWS, NotJudged, applies
from jaxgen.check.density import learning

OF_PARAMS = ("support", "normalisation", "goodness_of_fit", "score_identity", "totality")
OF_CLASSES = ("spec", "key_reuse", "eager", "pure", "compiles", "files")  # not of each row again
ALWAYS_JUDGED = ("normalisation", "goodness_of_fit")  # a row must be small enough for these


def checks():
    seen = set()
    for case in CASES:
        kind = type(case.model), getattr(case.model, "bijector", None)
        known, _ = kind in seen, seen.add(kind)
        for setting in range(case.count):
            for law in LAWS if setting == 0 else OF_PARAMS:
                if known and law in OF_CLASSES:
                    continue
                if applies(law, case.model) and law not in case.skip:
                    yield pytest.param(case, setting, law, id=f"{case.name}-{setting}-{law}")


@pytest.mark.parametrize(("case", "setting", "law"), list(checks()))
def test_law(case, setting, law):
    judged = subject(case, setting)
    try:
        if law == "learning":
            learning(judged, case.gap)
        else:
            LAWS[law](judged)
    except NotJudged:
        assert law not in ALWAYS_JUDGED
