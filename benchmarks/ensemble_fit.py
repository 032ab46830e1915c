"""64 fits in one program, and the same fits one after another."""

import jax

import jaxgen
from benchmarks import twins
from benchmarks.flow_twins import Flow
from jaxgen import models
from jaxgen.training import Adam


def run(harness):
    count, epochs = harness.pick((64, 4), (2, 1))
    x = Flow("coupling", 2).events(harness.pick(1000, 100))
    small = models.SplineCoupling(2, layers=2, width=8, depth=1, bins=4)
    large = models.SplineCoupling(2, layers=4, width=32, depth=2, bins=8)
    cases = {
        "Gaussian": models.Gaussian(2),
        "coupling of 2 x 8": small,
        "coupling of 4 x 32": large,
    }
    for name, model in list(cases.items())[: harness.pick(3, 1)]:
        more = {"epochs": epochs, "optimizer": Adam(1e-3), "progress": False}

        def together(x, model=model, more=more):
            return lambda: jaxgen.fit(model, x, key=twins.KEY, ensemble=count, **more)

        def in_turn(x, model=model, more=more):
            keys = jax.random.split(twins.KEY, count)
            return lambda: [jaxgen.fit(model, x, key=key, **more) for key in keys]

        makes = {"jaxgen": together, "jaxgen, in turn": in_turn}
        case = f"{count} fits of {name}, {epochs} epochs of {len(x):,} rows"
        yield from harness.compare(case, x, makes, {"jaxgen, in turn": 1})
