"""Time to one sample of each family: warm, and in a new process with compilation."""

import statistics

import numpy as np

import jaxgen
from benchmarks import twins
from benchmarks.timing import NewProcess
from jaxgen import models

FAMILIES = {
    "Box": models.Box(2),
    "Histogram": models.Histogram((64, 64)),
    "Gaussian": models.Gaussian(2),
    "GaussianMixture": models.GaussianMixture(2, components=16),
    "KDE": models.KDE(2),
    "Bernoulli": models.Bernoulli((28, 28)),
    "Categorical": models.Categorical((12,), levels=256),
}


def run(harness):
    makes = {"jaxgen": call}
    for name in harness.pick(list(FAMILIES), ["Box", "Categorical"]):
        (row,) = harness.compare(name, name, makes, n=1)
        row["first_call_seconds"] = statistics.median(
            _first_call(name) for _ in range(harness.pick(3, 1))
        )
        yield row


def call(name):
    """The call that draws one sample of a family."""
    fitted, _ = fit(name)
    return lambda: fitted.sample(twins.KEY, 1)


def fit(name):
    """A family fitted to made-up events, and the events."""
    model, rng = FAMILIES[name], np.random.default_rng(0)
    x = rng.normal(size=(1000, *model.event_shape))
    x = (x > 0 if model.support.is_discrete else x).astype(np.float32)
    return jaxgen.fit(model, x, key=twins.KEY), x


def _first_call(name):
    """Seconds of the first call in a new process."""
    code = (
        "from benchmarks.first_sample import call; from benchmarks.timing import Here; "
        f"print(Here(call({name!r})).time(1))"
    )
    return NewProcess("-c", code, prints=True).time(1)
