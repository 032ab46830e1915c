"""Rows of mixed labels and of one label, with a flow for each class; fits of all classes."""

import jax
import numpy as np

import jaxgen
from benchmarks import twins
from benchmarks.flow_twins import Flow
from jaxgen import Fitted, compose, models
from jaxgen.training import Adam

CLASSES = 10


def run(harness):
    n = harness.pick(100_000, 1000)
    flow = Flow("coupling", 8)
    y = np.random.default_rng(0).integers(0, CLASSES, n).astype(np.int32)
    model = compose.PerClass(flow.model(), CLASSES)
    fitted = Fitted(model, model.init(jax.random.key(0)))
    alone = Fitted(model.model, jax.tree_util.tree_map(lambda v: v[0], fitted.params["model"]))

    def log_prob(labels):
        return lambda x: lambda: fitted.log_prob(x, labels)

    def sample(labels):
        return lambda n: lambda: fitted.sample(twins.KEY, n, labels)

    targets = {"jaxgen, mixed labels": "ratio_to_ours <= 2"}
    for name, argument, unlabelled, of_labels in (
        ("log_prob", flow.events(n), lambda x: lambda: alone.log_prob(x), log_prob),
        ("sample", n, lambda n: lambda: alone.sample(twins.KEY, n), sample),
    ):
        makes = {
            "jaxgen": of_labels(np.zeros(n, np.int32)),
            "jaxgen, mixed labels": of_labels(y),
            "jaxgen, one flow alone": unlabelled,
        }
        case = f"{name} of a coupling flow a class, {CLASSES} classes, n = {n:,}"
        yield from harness.compare(case, argument, makes, targets, n=n)

    rows = harness.pick(1000, 50)
    small = models.SplineCoupling(2, layers=4, width=32, depth=2, bins=8)
    for name, family, more in (
        ("Gaussian, d = 2", models.Gaussian(2), {}),
        ("GaussianMixture of 8, d = 2", models.GaussianMixture(2, 8), {"progress": False}),
        (
            "coupling of 4 x 32, d = 2, 4 epochs",
            small,
            {"epochs": 4, "optimizer": Adam(1e-3), "progress": False},
        ),
    ):
        x = Flow("coupling", 2).events(CLASSES * rows)
        labels = np.repeat(np.arange(CLASSES), rows)

        def together(x, family=family, more=more, labels=labels):
            per_class = compose.PerClass(family, CLASSES)
            return lambda: jaxgen.fit(per_class, x, labels, key=twins.KEY, **more)

        def in_turn(x, family=family, more=more, labels=labels):
            keys = jax.random.split(twins.KEY, CLASSES)
            by_class = [x[labels == k] for k in range(CLASSES)]
            pairs = list(zip(by_class, keys, strict=True))
            return lambda: [jaxgen.fit(family, x, key=key, **more) for x, key in pairs]

        makes = {"jaxgen": together, "jaxgen, in turn": in_turn}
        case = f"fit of {name}, {CLASSES} classes of {rows:,} rows"
        yield from harness.compare(case, x, makes)
