"""Kernel density of n events under n points, far from the origin, and its error."""

import numpy as np

from benchmarks.twins import LOG_2PI, Twin
from jaxgen import models

OFFSET = 1000  # bandwidths from the origin: float32 loses digits there
CHECKED = 500  # events whose error is measured


def run(harness):
    n = harness.pick(10_000, 500)
    for dim, least in ((2, 30), (8, 20)):
        twin = _Kernels(n, dim)
        makes = {
            "jaxgen": twin.ours_log_prob,
            "SciPy": twin.scipy_density,
            "scikit-learn": twin.scikit_log_prob,
            # with a tolerance of 1 %, a tree does not visit all points
            "scikit-learn, rtol=0.01": lambda x, twin=twin: twin.scikit_log_prob(x, 0.01),
        }
        case, work = f"{n:,} x {n:,} points, d={dim}", ("flops", n * n * (3 * dim + 2))
        targets = {"jaxgen": "error_nats <= 2e-4"}
        rows = harness.compare(case, twin.x, makes, targets, n=n, work=work)
        if rows[0]["seconds_median"]:
            rows[0]["error_nats"] = twin.error()
        faster = min(rows[1:3], key=lambda row: row["seconds_median"] or np.inf)
        faster["target"] = f"ratio_to_ours >= {least}"
        yield from rows


class _Kernels(Twin):
    """Points and events of unit covariance, for which all sides define the bandwidth alike."""

    def __init__(self, n, dim):
        rng = np.random.default_rng(0)
        self.bandwidth = float(np.float32(n ** (-1 / (dim + 4))))  # Scott's rule
        self.points, self.x = (
            (_whiten(rng.normal(size=(n, dim))) + OFFSET * self.bandwidth).astype(np.float32)
            for _ in range(2)
        )
        params = {"log_weights": np.zeros(n), "bandwidth": np.full(dim, self.bandwidth)}
        super().__init__(models.KDE(dim), points=self.points, **params)

    def scipy_density(self, x):
        from scipy.stats import gaussian_kde

        # the kernel's covariance is the squared factor times that of the points, the identity
        kernel, x = gaussian_kde(self.points.T.astype(float), self.bandwidth), x.T.astype(float)
        return lambda: kernel.pdf(x)

    def scikit_log_prob(self, x, rtol=0):
        from sklearn.neighbors import KernelDensity

        kernel = KernelDensity(bandwidth=self.bandwidth, rtol=rtol).fit(self.points)
        return lambda: kernel.score_samples(x)

    def error(self):
        """The largest difference from a float64 sum over the same float32 values, in nats."""
        points, x = self.points.astype(float), self.x[:CHECKED].astype(float)
        dim = points.shape[1]
        squares = sum((x[:, None, j] - points[None, :, j]) ** 2 for j in range(dim))
        density = np.exp(-0.5 * squares / self.bandwidth**2).mean(1)
        expected = np.log(density) - dim * (np.log(self.bandwidth) + 0.5 * LOG_2PI)
        return float(np.abs(np.asarray(self.fitted.log_prob(self.x[:CHECKED])) - expected).max())


def _whiten(x):
    """An affine function of x with mean zero and unit covariance."""
    x = x - x.mean(0)
    return np.linalg.solve(np.linalg.cholesky(np.cov(x.T)), x.T).T
