"""Throughput against the number of events, features and components, for the chart.

For few events the cost of a call dominates, and NumPy is faster; the chart shows that too.
"""

from benchmarks import twins

COMPONENTS = 10  # unless their number varies
PEERS = {  # by family: for sample and for log_prob
    twins.Box: (("NumPy", "numpy_sample"), ("NumPy", "numpy_log_prob")),
    twins.Gaussian: (("NumPy", "numpy_sample"), ("SciPy", "scipy_log_prob")),
    twins.Mixture: (("scikit-learn", "scikit_sample"), ("scikit-learn", "scikit_log_prob")),
}


def run(harness):
    dims = harness.pick([1, 2, 4, 8, 16, 32, 64], [1, 8])
    n, normal = harness.pick(10**5, 10**3), harness.seconds
    harness.seconds = normal / 3  # there are many cases
    for family in PEERS:
        more = {twins.Box: (True,), twins.Mixture: (COMPONENTS,)}.get(family, ())
        most = 6 if family is twins.Mixture else 7  # scikit-learn takes ten seconds for 10^7
        for count in harness.pick([10**k for k in range(2, most + 1)], [10**2, 10**4]):
            yield from _both(harness, family(2, *more), count, "n", count)
        for dim in dims:
            yield from _both(harness, family(dim, *more), n, "dimension", dim)
    for count in harness.pick([1, 4, 16, 64, 256], [1, 16]):
        yield from _both(harness, twins.Mixture(2, count), n, "components", count)
    harness.seconds = normal


def _both(harness, twin, n, axis, value):
    family = type(twin.fitted.model).__name__
    operations = {"sample": n, "log_prob": twin.events(n)}
    for (operation, argument), peer in zip(operations.items(), PEERS[type(twin)], strict=True):
        name, method = peer
        makes = {"jaxgen": getattr(twin, f"ours_{operation}"), name: getattr(twin, method)}
        case = f"{family}, {operation}, {axis} = {value:,}"
        more = {"family": family, "operation": operation, "axis": axis, "value": value}
        yield from harness.compare(case, argument, makes, n=n, **more)
