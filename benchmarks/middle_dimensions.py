"""Mixtures of normals of 16 to 64 features: density, draws and EM of scikit-learn in float32."""

import numpy as np

from benchmarks import mixture_fit, twins
from benchmarks.harness import agreement

COMPONENTS, STEPS = 10, 20
TARGETS = {16: (9, 3, 8), 32: (6, 3, 6), 64: (3, 3, 4)}  # of log_prob, sample and EM


def run(harness):
    n = harness.pick(20_000, 1_000)
    for dim in harness.pick(tuple(TARGETS), (16,)):
        mixture = twins.Mixture(dim, COMPONENTS)
        x, name = mixture.events(n), f"{n:,} x {dim}, {COMPONENTS} components"
        log_prob, sample, steps = ({"scikit-learn, float32": least} for least in TARGETS[dim])
        yield from harness.compare(
            f"{name}, log_prob",
            x,
            {"jaxgen": mixture.ours_log_prob, "scikit-learn, float32": mixture.scikit_log_prob},
            log_prob,
            n=n,
            work=("flops", n * mixture.flops),
            examine=agreement(1e-2),
        )
        # scikit-learn draws in float64 only
        makes = {"jaxgen": mixture.ours_sample, "scikit-learn": mixture.scikit_sample}
        least = {"scikit-learn": sample["scikit-learn, float32"]}
        work = "bytes", 4 * dim * n
        yield from harness.compare(f"{name}, sample", n, makes, least, n=n, work=work)
        yield from harness.compare(
            f"{name}, EM of {STEPS} steps",
            (x, mixture_fit.start_of(mixture), STEPS),
            {"jaxgen": mixture_fit.ours, "scikit-learn, float32": mixture_fit.scikit},
            steps,
            n=n,
            examine=_scores(x),
        )


def _scores(x):
    """An ``examine`` for which a side fails if its fit scores x far from the first side's."""
    means = []

    def examine(row, result):
        score = result.score if hasattr(result, "score") else result.log_prob
        means.append(float(np.mean(np.asarray(score(x)))))
        row["log_likelihood"] = means[-1]
        if not abs(means[-1] - means[0]) <= 0.05:
            row["note"] = f"failed: the fits differ by {abs(means[-1] - means[0]):.2g} nats"

    return examine
