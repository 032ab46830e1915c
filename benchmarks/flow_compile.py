"""Compilation time of flows with 4 and 16 layers, for log_prob and for training."""

from benchmarks.flow_twins import BATCH, Flow


def run(harness):
    for layers in harness.pick((4, 16), (2,)):
        flow = Flow("coupling", 8, layers)
        n = harness.pick(2**12, 2**8)
        case, x = f"{flow.name}, {layers} layers", flow.events(n)
        yield from harness.compare(f"{case}, log_prob", x, flow.log_prob("flowjax"), n=n)
        makes = flow.fit("flowjax", anew=False)
        argument = x[: 4 * BATCH], x[-BATCH:], 1
        yield from harness.compare(f"{case}, fit of a few steps", argument, makes)
