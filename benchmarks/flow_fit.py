"""Training of spline couplings by Adam with batches of 256: a step, and a whole second fit.

All sides train on the same rows and score the same held-out rows after every epoch.
"""

from benchmarks.flow_twins import BATCH, Flow

HELD = 256


def run(harness):
    for dim in harness.pick((2, 8), (2,)):
        yield from _step(harness, Flow("coupling", dim), 8 if dim == 2 else 4)
        yield from _second_fit(harness, Flow("coupling", dim), 40 if dim == 2 else 20)


def _step(harness, flow, least):
    """The time of a step after compilation, from fits of several epochs minus fits of one."""
    steps, epochs = harness.pick((50, 5), (2, 1))
    x, held = flow.events(steps * BATCH), flow.events(HELD)
    targets = {"flowjax": least, "zuko": 5, "nflows": 5}
    targets = {name: f"step_ratio >= {least}" for name, least in targets.items()}
    makes = flow.fit("flowjax", "zuko", "nflows", anew=False)

    def fits(epochs, targets=None):
        case = f"{flow.name}, {epochs * steps} steps, warm"
        return harness.compare(case, (x, held, epochs), makes, targets)

    if epochs == 1:
        return fits(1)
    short, long = fits(1), fits(epochs, targets)
    for before, row in zip(short, long, strict=True):
        if before["seconds_median"] and row["seconds_median"]:
            more = row["seconds_median"] - before["seconds_median"]
            row["step_seconds"] = more / ((epochs - 1) * steps)
            if "step_seconds" in long[0]:
                row["step_ratio"] = row["step_seconds"] / long[0]["step_seconds"]
    return short + long


def _second_fit(harness, flow, least):
    """100 steps in a process that has fitted once before and creates its optimizer again."""
    steps = harness.pick(100, 2)
    argument = flow.events(steps * BATCH), flow.events(HELD), 1
    makes = flow.fit("flowjax", "zuko", "nflows", anew=True)
    case = f"{flow.name}, second fit of {steps} steps"
    return harness.compare(case, argument, makes, {"flowjax": least}, n=steps * BATCH)
