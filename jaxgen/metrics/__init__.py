"""Metrics of the accuracy, generation and representation of a fitted model.

>>> x = np.random.default_rng(0).normal(size=(1000, 2))
>>> found = jaxgen.metrics.neighbours(x[:500], x[500:])
>>> found.coverage > 0.9
True

Models of texts have measures of their own: see ``text_report`` and ``text_scores``.

>>> names = jaxgen.fit(jaxgen.models.NGram(), ["anna", "bob", "hannah"], key=key)
>>> print(jaxgen.metrics.text_report(names, ["hanna"]).characters)
5
"""

from jaxgen.metrics.accuracy import bits_per_dim, energy_distance, kl_divergence, neighbours
from jaxgen.metrics.generation import copying, duplicates, throughput
from jaxgen.metrics.outlier_scores import Outliers, outliers
from jaxgen.metrics.reliability import Calibration, calibration, reliability_figure
from jaxgen.metrics.report import Report, evaluate
from jaxgen.metrics.representation import largest_correlation, noise_fit, round_trip
from jaxgen.metrics.text_bits import TextScores, stream_log_probs, text_scores
from jaxgen.metrics.texts import TextReport, text_report

__all__ = [
    "Calibration",
    "Outliers",
    "Report",
    "TextReport",
    "TextScores",
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
    "stream_log_probs",
    "text_report",
    "text_scores",
    "throughput",
]
