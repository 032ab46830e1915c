"""The sections of a report: each metric with its label, unit and ideal value.

A field ``name_se`` is the standard error of ``name``, and ``name_ref`` a reference to compare it
with: the same metric with real data instead of samples, or its value if the model is p_data.
"""

from __future__ import annotations

import dataclasses
from typing import Any


def _metric(label: str, unit: str, ideal: str) -> Any:
    return dataclasses.field(default=None, metadata={"label": label, "unit": unit, "ideal": ideal})


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """How close the model's density is to that of the data; None if not measured."""

    log_likelihood: float | None = _metric("log-likelihood, held out", "nats/event", "high")
    log_likelihood_se: float | None = None
    log_likelihood_ref: float | None = None  # on the training data
    bits_per_dim: float | None = _metric("code length", "bits/dim", "low")
    bits_per_dim_se: float | None = None
    bits_per_dim_ref: float | None = None  # on the training data
    zero_density: int | None = _metric("test events of zero density", "events", "0")
    kl: float | None = _metric("KL(p_data || p_model)", "nats", "0")
    kl_se: float | None = None
    inside_support: float | None = _metric("samples in p_data's support", "share", "1")
    precision: float | None = _metric("precision", "share", "as reference")
    precision_ref: float | None = None
    recall: float | None = _metric("recall", "share", "as reference")
    recall_ref: float | None = None
    density: float | None = _metric("density", "ratio", "1")
    density_ref: float | None = None
    coverage: float | None = _metric("coverage", "share", "1 - 2^-k")
    coverage_ref: float | None = None
    energy_distance: float | None = _metric("energy distance", "units of x", "0")
    energy_distance_ref: float | None = None


@dataclasses.dataclass(frozen=True)
class Labels:
    """Whether the model knows the labels of events; None if not measured."""

    accuracy: float | None = _metric("accuracy of labels by Bayes' rule", "share", "high")
    accuracy_se: float | None = None
    accuracy_ref: float | None = None  # the share of the most frequent label
    fidelity: float | None = _metric("samples classified as their label", "share", "as reference")
    fidelity_se: float | None = None
    fidelity_ref: float | None = None  # the accuracy of the same classifier on test events


@dataclasses.dataclass(frozen=True)
class Generation:
    """Whether samples are fast to draw, finite, and not copies; None if not measured."""

    events_per_second: float | None = _metric("throughput, warm", "events/s", "high")
    compile_seconds: float | None = _metric("first call above warm", "s", "low")
    finite: float | None = _metric("finite samples", "share", "1")
    nearer_train: float | None = _metric("P(nearer to train than test is)", "share", "0.5")
    nearer_train_ref: float | None = None
    nearer_train_z: float | None = _metric("  its z-score", "s.e.", "within ±3")
    near_copies: float | None = _metric("near copies of training events", "share", "0.01")
    near_copies_ref: float | None = None
    duplicates: float | None = _metric("exact copies of training events", "share", "as reference")
    duplicates_ref: float | None = (
        None  # the share of test events that are copies of training events
    )


@dataclasses.dataclass(frozen=True)
class Representation:
    """Whether ``pull`` inverts ``push`` and gives the declared noise; None if not measured."""

    round_trip_max: float | None = _metric("|push(pull(x)) - x|, largest", "units of x", "0")
    round_trip_max_ref: float | None = None  # float spacing at the largest |x|
    round_trip_median: float | None = _metric("|push(pull(x)) - x|, median", "units of x", "0")
    ks_max: float | None = _metric("KS distance to noise, worst", "share", "below reference")
    ks_max_ref: float | None = None  # exceeded with probability .05 if the model is p_data
    ks_mean: float | None = _metric("KS distance to noise, mean", "share", "as reference")
    ks_mean_ref: float | None = None
    correlation: float | None = _metric("largest |correlation|", "", "below reference")
    correlation_ref: float | None = None  # exceeded with probability .05 if the model is p_data


def lines(name: str, section: Any, notes: dict[str, str]) -> list[list[str]]:
    """The rows of a section's table: label, value, error, reference, unit, ideal, note."""
    if section is None:
        return [["", "-", "", "", "", "", notes.get(name, "")]]
    out = []
    for field in dataclasses.fields(section):
        if not field.metadata:
            continue
        value, error, reference = (
            getattr(section, field.name + suffix, None) for suffix in ("", "_se", "_ref")
        )
        note = notes.get(f"{name}.{field.name}", "")
        label, unit, ideal = (field.metadata[k] for k in ("label", "unit", "ideal"))
        out.append([label, _number(value), _number(error, "± "), _number(reference)])
        out[-1] += [unit, ideal, note] if value is not None else ["", "", note]
    return out


def _number(value: float | None, sign: str = "") -> str:
    if value is None:
        return "" if sign else "-"
    if not sign and 1e4 <= abs(value) < 1e15:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{sign}{value:.2g}" if sign else f"{value:.4g}"
