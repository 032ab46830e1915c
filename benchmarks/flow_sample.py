"""Draws from spline flows: flowjax, zuko and nflows with networks of the same sizes."""

from benchmarks.flow_twins import Flow


def run(harness):
    cases = (
        (Flow("coupling", 2), 2**17, {"flowjax": 3, "zuko": 5, "nflows": 5}),
        (Flow("coupling", 8), 2**17, {"flowjax": 3, "zuko": 5, "nflows": 5}),
        (Flow("autoregressive", 8), 2**14, {"flowjax": 20, "zuko": 5, "nflows": 5}),
        # two hidden units for each feature; few events, as nflows takes seconds
        (Flow("autoregressive", 64, width=128), 2**8, {"zuko": 5, "nflows": 5}),
    )
    for flow, n, targets in harness.pick(cases, cases[:1]):
        n = harness.pick(n, 2**10)
        makes = flow.sample("flowjax", "zuko", "nflows")
        yield from harness.compare(f"{flow.name}, n = {n:,}", n, makes, targets, n=n)
