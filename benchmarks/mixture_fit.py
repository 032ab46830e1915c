"""EM for a mixture of normals, with the same data, start, jitter and number of steps on all sides.

The number of steps is that which brings jaxgen within 1e-3 nats per event of the best of 200 steps.
Each row has the mean log-likelihood that the side reports.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np

import jaxgen
from benchmarks import twins
from jaxgen import Fitted, models

DIM, COMPONENTS, JITTER = 8, 10, 1e-6


def run(harness):
    n = harness.pick(100_000, 1_000)
    truth = twins.Mixture(DIM, COMPONENTS)
    x, start = truth.events(n), start_of(truth)
    scores = ours((x, start, 200))().history["train"]
    best = max(scores)
    steps = next(i for i, score in enumerate(scores) if score >= best - 1e-3)

    def examine(row, result):
        fitted = getattr(result, "gmm", result)
        mean = float(fitted.score(x) if hasattr(fitted, "score") else fitted.log_prob(x).mean())
        row["log_likelihood"] = mean
        if mean < best - 2e-3:
            row["note"] = f"stops {best - mean:.2g} nats below the best"

    yield from harness.compare(
        f"{n:,} x {DIM}, {COMPONENTS} components, {steps} steps",
        (x, start, steps),
        {"jaxgen": ours, "scikit-learn": scikit, "gmmx": _gmmx},
        {"scikit-learn": 10, "gmmx": 1},
        n=n,
        examine=examine,
    )


def start_of(truth):
    """Wrong means and wide components, from which EM needs many steps to a single maximum."""
    count, dim = truth.mean.shape
    far = 3 * np.random.default_rng(0).normal(size=truth.mean.shape)
    return {
        "weights": np.full(count, 1 / count, np.float32),
        "means": (truth.mean + far).astype(np.float32),
        "covariances": np.tile(4 * np.eye(dim, dtype=np.float32), (count, 1, 1)),
    }


def ours(argument):
    """The call that fits jaxgen's mixture to x from the start, by a number of steps."""
    x, start, steps = argument
    count, dim = start["means"].shape
    params = {
        "logits": jnp.log(start["weights"]),
        "mean": jnp.asarray(start["means"]),
        "scale_tril": jnp.linalg.cholesky(start["covariances"]),
    }
    begin = Fitted(models.GaussianMixture(dim, count, jitter=JITTER), params)
    return lambda: jaxgen.fit(begin, x, key=twins.KEY, epochs=steps, progress=False)


def scikit(argument):
    """The same fit by scikit-learn."""
    from sklearn.mixture import GaussianMixture

    x, start, steps = argument
    inverses = np.linalg.inv(start["covariances"])
    mixture = GaussianMixture(len(start["means"]), tol=0, max_iter=steps, reg_covar=JITTER,
                              weights_init=start["weights"], means_init=start["means"],
                              precisions_init=inverses)  # fmt: skip

    warnings.filterwarnings(
        "ignore", module="sklearn"
    )  # of a stop before convergence, which is intended
    return lambda: mixture.fit(x)


def _gmmx(argument):
    import gmmx

    x, start, steps = argument
    x, start = jax.device_put((x, start))
    mixture = gmmx.GaussianMixtureModelJax.from_squeezed(**start)
    fitter = gmmx.EMFitter(max_iter=steps, tol=0, reg_covar=JITTER)
    return lambda: fitter.fit(x, mixture)
