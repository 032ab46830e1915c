"""Sums over log densities, which are added up file by file."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


class Sums(NamedTuple):
    """Sums over log densities.

    Attributes:
      finite: number of those that are finite.
      mean: of the finite ones.
      squares: sum of their squared differences from the mean.
      zero_density: number of those that are -inf.
      infinite: number of those that are inf.
      nan: number of those that are NaN.
    """

    finite: int = 0
    mean: float = 0.0
    squares: float = 0.0
    zero_density: int = 0
    infinite: int = 0
    nan: int = 0

    @property
    def events(self) -> int:
        """The number of all log densities."""
        return self.finite + self.zero_density + self.infinite + self.nan

    def mean_and_error(self) -> tuple[float, float]:
        """The mean of all log densities and its standard error; NaN if there are none."""
        if self.nan or (self.zero_density and self.infinite) or not self.events:
            return math.nan, math.nan
        if self.zero_density or self.infinite:
            return (-math.inf if self.zero_density else math.inf), math.nan
        if self.events == 1:
            return self.mean, math.nan
        return self.mean, math.sqrt(self.squares / (self.events - 1) / self.events)


def sums_of(log_p: np.ndarray) -> Sums:
    """The sums over log densities (n,)."""
    log_p = log_p.astype(np.float64)
    finite = log_p[np.isfinite(log_p)]
    mean = float(finite.mean()) if len(finite) else 0.0
    squares = float(((finite - mean) ** 2).sum())
    others = [int(found.sum()) for found in (log_p == -np.inf, log_p == np.inf, np.isnan(log_p))]
    return Sums(len(finite), mean, squares, *others)


def merged(a: Sums, b: Sums) -> Sums:
    """The sums over both.

    Source: Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing
    sample variances".
    """
    n = max(a.finite + b.finite, 1)
    step = b.mean - a.mean
    mean = a.mean + step * b.finite / n
    squares = a.squares + b.squares + step**2 * a.finite * b.finite / n
    others = [i + j for i, j in zip(a[3:], b[3:], strict=True)]
    return Sums(a.finite + b.finite, mean, squares, *others)
