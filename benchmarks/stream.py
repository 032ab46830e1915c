"""Streams of 100 million events in blocks; peers fill one buffer repeatedly."""

from benchmarks import timing, twins

ROWS = 2**18  # rows of the buffer that peers fill


def run(harness):
    n = harness.pick(10**8, 10**6)
    for name, twin, least in (
        ("uniform, peers by number", twins.Box(2, cube=True), 3),
        ("normal, peers by number", twins.Gaussian(2, "diagonal", ball=True), 5),
    ):
        makes = {
            "jaxgen": lambda n, f=twin.fitted: lambda: _read(f.stream(twins.KEY, n)),
            "NumPy": lambda n, twin=twin: twin.numpy_sample(n, ROWS),
            "torch": lambda n, twin=twin: twin.torch_sample(n, ROWS),
        }
        targets = {"jaxgen": "growth_mib <= 64", "NumPy": least, "torch": 2}
        work = ("bytes", 8 * n)
        rows = harness.compare(f"{n:,} x 2, {name}", n, makes, targets, n=n, work=work)
        for row in rows:
            if row["seconds_median"]:
                row["gigabytes_per_second"] = 8e-9 * row["events_per_second"]
        if rows[0]["seconds_median"]:
            rows[0]["growth_mib"] = _growth_mib(twin.fitted.stream(twins.KEY, n))
        yield from rows


def _read(blocks):
    for block in blocks:
        timing.block(block)


def _growth_mib(blocks):
    """MiB by which peak memory exceeds the memory after the first block."""
    blocks = iter(blocks)
    timing.block(next(blocks))
    before = timing.reset_peak()
    _read(blocks)
    return timing.since(before)
