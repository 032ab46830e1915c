"""The public functions, called outside jit, beside ``Fitted``, which runs compiled blocks."""

import jax
import numpy as np

import jaxgen
from benchmarks import twins
from benchmarks.flow_twins import Flow
from benchmarks.harness import agreement
from jaxgen import Fitted, compose, models

SIDE = "jaxgen, public function"
TARGET = {SIDE: "ratio_to_ours <= 1.5"}  # of its time to that of Fitted


def run(harness):
    n = harness.pick(10**6, 10**4)
    for name, twin in (("uniform", twins.Box(2)), ("normal", twins.Gaussian(2, "diagonal"))):
        draw = getattr(jaxgen.random, name)
        makes = {"jaxgen": twin.ours_sample, SIDE: lambda n, d=draw: lambda: d(twins.KEY, (n, 2))}
        case, work = f"random.{name}, {n:,} x 2", ("bytes", 8 * n)
        yield from harness.compare(case, n, makes, TARGET, n=n, work=work)

    n, dim = harness.pick(10**5, 10**3), 8
    mixture, flow = twins.Mixture(dim, 10), Flow("coupling", dim)
    classes = compose.PerClass(models.Gaussian(dim), 10)
    per_class = Fitted(classes, classes.init(jax.random.key(0)))
    for name, fitted, x in (
        ("mixture", mixture.fitted, mixture.events(n)),
        ("coupling flow", flow.fitted(), flow.events(n)),
    ):
        yield from _scores(harness, f"log_prob of a {name}", "log_prob", fitted, x)
    x = np.random.default_rng(0).normal(size=(n, dim)).astype(np.float32)
    yield from _scores(harness, "classify by 10 Gaussians", "classify", per_class, x)

    model, params = mixture.fitted.model, mixture.fitted.params
    makes = {
        "jaxgen": mixture.ours_sample,
        SIDE: lambda n: lambda: jaxgen.sample(model, params, twins.KEY, n),
    }
    case, work = f"sample of a mixture, {n:,} x {dim}", ("bytes", 4 * dim * n)
    yield from harness.compare(case, n, makes, TARGET, n=n, work=work)


def _scores(harness, name, verb, fitted, x):
    x, engine, public = jax.device_put(x), getattr(fitted, verb), getattr(jaxgen, verb)
    model, params = fitted.model, fitted.params
    makes = {
        "jaxgen": lambda x: lambda: engine(x),
        SIDE: lambda x: lambda: public(model, params, x),
    }
    case, examine = f"{name}, {len(x):,} x {x.shape[1]}", agreement(1e-3)
    yield from harness.compare(case, x, makes, TARGET, n=len(x), examine=examine)
