"""Uniform draws: peers fill an array, then scale and shift it in place.

Peers scale by one number, which is fastest, or by one number for each feature, as a box needs.
"""

from benchmarks import twins


def run(harness):
    for name, cube in (("peers by number", True), ("peers by feature", False)):
        twin = twins.Box(2, cube)
        makes = {"jaxgen": twin.ours_sample, "NumPy": twin.numpy_sample, "torch": twin.torch_sample}
        for n in harness.pick((10**6, 10**7), (10**4,)):
            # no target for ten million, where new memory takes most of the time
            case, work = f"{n:,} x 2, {name}", ("bytes", 8 * n)
            targets = {"NumPy": 3, "torch": 2} if n < 10**7 else None
            yield from harness.compare(case, n, makes, targets, n=n, work=work)
