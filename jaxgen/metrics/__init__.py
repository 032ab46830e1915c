"""Metrics of the accuracy, generation and representation of a fitted model.

>>> x = np.random.default_rng(0).normal(size=(1000, 2))
>>> found = jaxgen.metrics.neighbours(x[:500], x[500:])
>>> found.coverage > 0.9
True
"""

from jaxgen.metrics.accuracy import bits_per_dim, energy_distance, kl_divergence, neighbours
from jaxgen.metrics.generation import copying, duplicates, throughput
from jaxgen.metrics.outlier_scores import Outliers, outliers
from jaxgen.metrics.reliability import Calibration, calibration, reliability_figure
from jaxgen.metrics.report import Report, evaluate
from jaxgen.metrics.representation import largest_correlation, noise_fit, round_trip

__all__ = [
    "Calibration",
    "Outliers",
    "Report",
    "bits_per_dim",
    "calibration",
    "copying",
    "duplicates",
    "energy_distance",
    "evaluate",
    "kl_divergence",
    "largest_correlation",
    "neighbours",
    "noise_fit",
    "outliers",
    "reliability_figure",
    "round_trip",
    "throughput",
]
