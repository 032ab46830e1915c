"""Values removed at random, and how well models fitted to the rest predict them.

    python -m benchmarks.missing [wine] [digits] [--seeds N]

The data are scikit-learn's wine and digits, standardised, with a fifth of all values removed. Three
Gaussian mixtures of one size are compared: jaxgen's EM with missing values, and scikit-learn's
mixture after IterativeImputer and after filling in means. The figure is the log density of the
removed values given the others, in nats per value; means are over --seeds choices of removed
values. EM takes at most 40 steps.
"""

import argparse
import warnings

import jax
import numpy as np

import jaxgen
from jaxgen import Fitted, models

SETS = {"wine": (1, 0.1), "digits": (3, 0.05)}  # components, added to the diagonal of covariances
SHARE = 0.2


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.missing", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *SETS], metavar="SET")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    seeds = arguments.seeds
    for name in arguments.names or SETS:
        found = [_compare(name, seed) for seed in range(seeds)]
        print(f"{name}: nats a removed value (mean of {seeds}, +- standard error)", flush=True)
        for side in found[0]:
            values = np.array([each[side] for each in found])
            error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
            gaps = values - np.array([each["jaxgen, EM"] for each in found])
            print(f"  {side:<36} {values.mean():7.4f} +- {error:.4f}   {gaps.mean():+.4f}")


def _fit(model, x, seed):
    return jaxgen.fit(model, x, key=jax.random.key(seed), epochs=40, progress=False)


def _compare(name, seed):
    from sklearn import datasets
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer
    from sklearn.mixture import GaussianMixture

    x = getattr(datasets, f"load_{name}")().data
    x = x[:, x.std(0) > 0]
    x = (x - x.mean(0)) / x.std(0)
    rng = np.random.default_rng(seed)
    removed = rng.random(x.shape) < SHARE
    left = np.where(removed, np.nan, x)
    left[np.isnan(left).all(1), 0] = 0.0  # so that no row is empty
    components, jitter = SETS[name]
    model = models.GaussianMixture(x.shape[1], components, jitter=jitter)
    sides = {"jaxgen, EM": _fit(model, left, seed)}
    means = np.where(np.isnan(left), np.nanmean(left, 0), left)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a stop before convergence
        filled = IterativeImputer(random_state=seed).fit_transform(left)
    for side, data in (("means", means), ("IterativeImputer", filled)):
        peer = GaussianMixture(components, reg_covar=jitter, n_init=3, random_state=seed).fit(data)
        params = {
            "logits": np.log(peer.weights_).astype(np.float32),
            "mean": peer.means_.astype(np.float32),
            "scale_tril": np.linalg.cholesky(peer.covariances_).astype(np.float32),
        }
        sides[f"{side}, scikit-learn's mixture"] = Fitted(model, params)
    scores = {}
    for side, fitted in sides.items():
        gained = np.asarray(fitted.log_prob(x), np.float64) - np.asarray(fitted.log_prob(left))
        scores[side] = gained.sum() / removed.sum()
    return scores


if __name__ == "__main__":
    main()
