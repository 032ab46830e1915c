"""Distances between test data and samples, by feature and by pair of features.

A figure shows the features and pairs that differ most. Distances are between ranks, so that units
and heavy tails do not matter. They are computed on the host.
"""

from __future__ import annotations

import itertools

import numpy as np

_CONSTANT = 0.8  # share of rows with one value, above which a feature hardly varies
_PAIRS = 120  # most pairs whose sliced distance is computed
_DIRECTIONS = np.pi * (np.arange(6) + 0.5) / 6  # angles in the plane of a pair, none along an axis


def ks_between(a: np.ndarray, b: np.ndarray) -> float:
    """The Kolmogorov-Smirnov distance between two samples, sup_v |F_a(v) - F_b(v)|.

    Args:
      a: (n,) numbers; NaN are left out.
      b: (m,) likewise.

    Returns:
      The distance in [0, 1]; 0 if either sample is empty.

    >>> ks_between(np.arange(4.0), np.arange(4.0) + 1)
    0.25
    """
    a, b = np.sort(a[~np.isnan(a)]), np.sort(b[~np.isnan(b)])
    if not (len(a) and len(b)):
        return 0.0
    values = np.concatenate([a, b])
    f_a, f_b = (np.searchsorted(v, values, "right") / len(v) for v in (a, b))
    return float(np.abs(f_a - f_b).max())


def chance_level(n: int, m: int) -> float:
    """The distance that two samples of one continuous distribution exceed with probability .05."""
    return 1.36 * float(np.sqrt(1 / n + 1 / m))


def worst_features(test: np.ndarray, samples: np.ndarray) -> list[tuple[float, int]]:
    """The KS distance and the index of each feature, largest distance first.

    Args:
      test, samples: (n, d) and (m, d).
    """
    found = [(ks_between(test[:, j], samples[:, j]), j) for j in range(test.shape[1])]
    return sorted(found, key=lambda one: -one[0])


def worst_pairs(test: np.ndarray, samples: np.ndarray) -> list[tuple[float, int, int]]:
    """The sliced KS distance and the two indices of pairs of features, largest distance first.

    It is the largest KS distance of the projections of the pair's ranks onto six directions, none
    of them along a feature. Pairs are those of ``varied`` features, or of all if fewer than two
    are. With more than 120 pairs, it is computed for those whose rank correlation differs most.

    Args:
      test, samples: (n, d) and (m, d).
    """
    features = varied(test)
    features = features if len(features) > 1 else np.arange(test.shape[1])
    ranks = _ranks(np.concatenate([test, samples]))
    test, samples = ranks[: len(test)], ranks[len(test) :]
    pairs = np.array(list(itertools.combinations(features.tolist(), 2)))
    if len(pairs) > _PAIRS:
        difference = np.abs(_correlation(test) - _correlation(samples))[tuple(pairs.T)]
        pairs = pairs[np.argsort(-difference, kind="stable")[:_PAIRS]]
    found = []
    for i, j in pairs.tolist():
        lines = [np.array([np.cos(angle), np.sin(angle)]) for angle in _DIRECTIONS]
        distance = max(ks_between(test[:, [i, j]] @ v, samples[:, [i, j]] @ v) for v in lines)
        found.append((distance, i, j))
    return sorted(found, key=lambda one: -one[0])


def varied(x: np.ndarray) -> np.ndarray:
    """The features of x (n, d) of which no value is that of over 80 % of the rows, as indices.

    A panel of two features shows little of the others: most events are at one value of them.

    >>> varied(np.stack([np.zeros(10), np.arange(10.0)], 1))
    array([1])
    """
    shares = []
    for column in x.T:
        _, counts = np.unique(column[~np.isnan(column)], return_counts=True)
        shares.append(counts.max() / counts.sum() if len(counts) else 1.0)
    return np.flatnonzero(np.array(shares) <= _CONSTANT)


def _ranks(x: np.ndarray) -> np.ndarray:
    """Ranks by column in [0, 1], the mean of equal values; NaN stays."""
    out = np.empty(x.shape)
    for j, column in enumerate(x.T):
        _, place, count = np.unique(column, return_inverse=True, return_counts=True)
        out[:, j] = (np.cumsum(count) - (count - 1) / 2)[place] / len(column)
    return np.where(np.isnan(x), np.nan, out)


def _correlation(ranks: np.ndarray) -> np.ndarray:
    """Correlations of columns (d, d); NaN counts as the middle rank, a constant column as 0."""
    centred = np.where(np.isnan(ranks), 0, ranks - np.nanmean(ranks, 0))
    scale = np.sqrt((centred**2).sum(0))
    unit = centred / np.where(scale > 0, scale, 1)
    return unit.T @ unit
