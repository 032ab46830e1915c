"""The Frechet distance between normal distributions that are fitted to two sets of features."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from jaxgen.core import inputs
from jaxgen.metrics.features.latent_space import check_known


def frechet_distance(a: ArrayLike, b: ArrayLike) -> float:
    """The squared Frechet distance between normals fitted to two sets of features.

        D = |mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))

    with covariances C. The trace of the root is the sum of the singular values of R_a R_b^T, where
    C = R^T R by a QR decomposition of the centred features. So no root of a matrix is computed, and
    sets with fewer rows than features are allowed. Its bias falls with the number of rows: compare
    distances of sets of equal sizes only.

    Args:
      a: (n, d) features, such as those of ``ImageClassifier``.
      b: (m, d) features.

    Returns:
      D in squared units of the features, computed in float64.

    Raises:
      TypeError, ValueError: a set has the wrong shape, fewer than two rows, or NaN.

    Source: Heusel et al. 2017, "GANs trained by a two time-scale update rule converge to a local
    Nash equilibrium"; Dowson and Landau 1982, "The Frechet distance between multivariate normal
    distributions".

    >>> round(frechet_distance(x, x + 1), 6)
    2.0
    """
    sets = [np.asarray(inputs.numbers(v, name), np.float64) for v, name in ((a, "a"), (b, "b"))]
    shapes = [side.shape for side in sets]
    wrong = any(len(shape) != 2 or shape[0] < 2 or not shape[1] for shape in shapes)
    if wrong or shapes[0][1] != shapes[1][1]:
        raise ValueError(
            "a and b must have shapes (n, d) and (m, d), n and m at least 2 and d at least 1; got "
            f"{shapes[0]} and {shapes[1]}"
        )
    for side, name in zip(sets, "ab", strict=True):
        check_known(side, name)
    means = [side.mean(0) for side in sets]
    roots = [
        np.linalg.qr(side - mean, mode="r") / np.sqrt(len(side) - 1)
        for side, mean in zip(sets, means, strict=True)
    ]
    shared = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    spread = sum((root**2).sum() for root in roots)
    return float(max(0.0, ((means[0] - means[1]) ** 2).sum() + spread - 2 * shared))
