"""Normal draws: peers fill an array, then scale and shift it in place.

Peers scale by one number, which is fastest, by one number for each feature, or by a matrix.
"""

from benchmarks import twins


def run(harness):
    for name, twin in (
        ("peers by number", twins.Gaussian(2, "diagonal", ball=True)),
        ("peers by feature", twins.Gaussian(2, "diagonal")),
        ("full covariance", twins.Gaussian(2)),
    ):
        makes = {"jaxgen": twin.ours_sample, "NumPy": twin.numpy_sample, "torch": twin.torch_sample}
        for n in harness.pick((10**6, 10**7), (10**4,)):
            case, work = f"{n:,} x 2, {name}", ("bytes", 8 * n)
            aimed = n < 10**7 and name != "full covariance"
            targets = {"NumPy": 5, "torch": 2} if aimed else None
            yield from harness.compare(case, n, makes, targets, n=n, work=work)
