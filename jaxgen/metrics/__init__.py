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
from jaxgen.metrics.features.disentanglement import FactorShares, factor_shares
from jaxgen.metrics.features.explanation import Explanation, explain
from jaxgen.metrics.features.latent_directions import (
    Direction,
    Moves,
    attribute_direction,
    move_along,
)
from jaxgen.metrics.features.latent_moves import Interpolation, Traversal, interpolation, traversal
from jaxgen.metrics.features.latent_space import events_of_latents, latents
from jaxgen.metrics.features.maps import LatentMap, latent_map
from jaxgen.metrics.features.probes import Probe, mutual_information, probe
from jaxgen.metrics.generation import copying, duplicates, throughput
from jaxgen.metrics.images.classifier import ImageClassifier, fit_image_classifier
from jaxgen.metrics.images.frechet import frechet_distance
from jaxgen.metrics.images.report import image_report
from jaxgen.metrics.images.results import ImageReport
from jaxgen.metrics.images.training_neighbours import NearestTraining, nearest_training
from jaxgen.metrics.importance import ImportanceWeights, importance_weights
from jaxgen.metrics.outlier_scores import Outliers, outliers
from jaxgen.metrics.reliability import Calibration, calibration, reliability_figure
from jaxgen.metrics.report import Report, evaluate
from jaxgen.metrics.representation import largest_correlation, noise_fit, round_trip
from jaxgen.metrics.text_bits import TextScores, stream_log_probs, text_scores
from jaxgen.metrics.texts import TextReport, text_report

__all__ = [
    "Calibration",
    "Direction",
    "Explanation",
    "FactorShares",
    "ImageClassifier",
    "ImageReport",
    "ImportanceWeights",
    "Interpolation",
    "LatentMap",
    "Moves",
    "NearestTraining",
    "Outliers",
    "Probe",
    "Report",
    "TextReport",
    "TextScores",
    "Traversal",
    "attribute_direction",
    "bits_per_dim",
    "calibration",
    "copying",
    "duplicates",
    "energy_distance",
    "evaluate",
    "events_of_latents",
    "explain",
    "factor_shares",
    "fit_image_classifier",
    "frechet_distance",
    "image_report",
    "importance_weights",
    "interpolation",
    "kl_divergence",
    "largest_correlation",
    "latent_map",
    "latents",
    "move_along",
    "mutual_information",
    "nearest_training",
    "neighbours",
    "noise_fit",
    "outliers",
    "probe",
    "reliability_figure",
    "round_trip",
    "stream_log_probs",
    "text_report",
    "text_scores",
    "throughput",
    "traversal",
]
