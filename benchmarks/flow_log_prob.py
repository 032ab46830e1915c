"""Density of spline flows: flowjax, zuko and nflows with networks of the same sizes."""

from benchmarks.flow_twins import Flow


def run(harness):
    flows = [Flow("coupling", 2), Flow("coupling", 8), Flow("autoregressive", 8)]
    for flow in harness.pick(flows, flows[:1]):
        coupling = flow.shape[0] == "coupling"
        n = harness.pick(2**17 if coupling else 2**15, 2**10)
        yield from harness.compare(
            f"{flow.name}, n = {n:,}",
            flow.events(n),
            flow.log_prob("flowjax", "zuko", "nflows"),
            {"flowjax": 3, "zuko": 5, "nflows": 5} if coupling else None,
            n=n,
        )
