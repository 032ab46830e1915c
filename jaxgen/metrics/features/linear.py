"""Linear models of rows that are fitted to one part of them: components, and a classifier."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jaxgen.training.progress import Progress

_ITERATIONS = 300  # most steps of L-BFGS
_HELD_OUT = 0.2  # share of the events on which a classifier is measured


def split(n: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows to learn from and the rows held out, the same at each call.

    Raises:
      ValueError: there are fewer than 10 rows.
    """
    if n < 10:
        raise ValueError(f"x must hold at least 10 events to hold some out; got {n}")
    order = np.random.default_rng(20).permutation(n)
    held = max(2, round(_HELD_OUT * n))
    return np.sort(order[held:]), np.sort(order[:held])


def principal_components(x: np.ndarray, k: int) -> Callable[[np.ndarray], np.ndarray]:
    """A function from rows (m, d) to their k principal components (m, k), fitted to x (n, d).

    Source: Pearson 1901, "On lines and planes of closest fit to systems of points in space".
    """
    from scipy.linalg import eigh

    centre, d = x.mean(0), x.shape[1]
    covariance = np.cov(x.T).reshape(d, d)
    vectors = eigh(covariance, subset_by_index=[d - k, d - 1])[1][:, ::-1]
    return lambda rows: (rows - centre) @ vectors


def bins_of(column: np.ndarray, bins: int) -> np.ndarray:
    """The inner edges of at most so many bins that hold equally many values of a column (n,)."""
    return np.unique(np.quantile(column, np.linspace(0, 1, bins + 1)[1:-1]))


def logistic_regression(
    x: np.ndarray, labels: np.ndarray, kinds: int, progress: bool | None = None
) -> np.ndarray:
    """Weights (d + 1, kinds) of a multinomial logistic regression; the last row is the intercept.

    Args:
      x: (n, d) standardised rows.
      labels: (n,) whole numbers below ``kinds``.
      kinds: the number of labels.
      progress: whether to show a bar; None shows one on a terminal after two seconds.
    """
    from scipy.optimize import minimize

    n, d = x.shape
    chosen = np.arange(n), labels

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(d + 1, kinds)
        scores = x @ weights[:-1] + weights[-1]
        scores -= scores.max(1, keepdims=True)
        p = np.exp(scores)
        total = p.sum(1, keepdims=True)
        loss = np.log(total).mean() - scores[chosen].mean()
        p /= total
        p[chosen] -= 1
        gradient = np.concatenate([x.T @ p, p.sum(0, keepdims=True)]) / n
        gradient[:-1] += weights[:-1] / n
        return loss + (weights[:-1] ** 2).sum() / (2 * n), gradient.ravel()

    options = {"maxiter": _ITERATIONS, "gtol": 1e-5}
    start = np.zeros((d + 1) * kinds)
    with Progress(progress, _ITERATIONS, unit="step", task="probe") as bar:
        found = minimize(
            objective, start, jac=True, method="L-BFGS-B", options=options,
            callback=lambda _: bar.advance(1),
        )  # fmt: skip
    return found.x.reshape(d + 1, kinds)
