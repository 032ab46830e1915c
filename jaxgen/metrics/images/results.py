"""The report of a model of images."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

from jaxgen.data import output
from jaxgen.metrics.images.figure import draw_report
from jaxgen.metrics.images.training_neighbours import NearestTraining
from jaxgen.metrics.panels import percent, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class ImageReport:
    """The results of ``image_report``. ``print(report)`` is a table, ``report.plot()`` a figure.

    A field ``name_se`` is the standard error of ``name``, and ``name_ref`` the same metric with
    training images, or for ``accuracy`` held-out images, instead of draws. None does not apply.

    Attributes:
      model: the spec, as source code.
      images: number of held-out images.
      draws: number of draws, and of real images in each set that they are compared with.
      density: what ``log_prob`` returns: "exact", "estimate", "bound" (from below) or "none".
      given: "p(x)", or "p(x | y)" if images are scored given their labels or conditions.
      log_likelihood: mean log density of a held-out image, in nats.
      bits_per_dim: -log2 density per number of an image, in bits.
      constant: what the bits per dimension are relative to.
      features: where the features come from, in words.
      frechet: Frechet distance of the features of draws from those of held-out images.
      precision: share of draws near held-out images, by the features: see ``neighbours``.
      recall: share of held-out images near draws.
      nearer_train: probability that a draw is nearer to the training images than a held-out image
        is, by pixels: see ``copying``. .5 is ideal.
      nearer_train_z: its difference from .5 in standard errors.
      duplicates: share of draws that are equal to a training image.
      accuracy: share of draws that the classifier assigns to the label they were drawn for.
      nearest: draws with their nearest training images.
    """

    model: str
    images: int
    draws: int
    density: str
    given: str
    constant: str
    features: str
    frechet: float
    frechet_ref: float
    precision: float
    precision_ref: float
    recall: float
    recall_ref: float
    nearer_train: float
    nearer_train_z: float
    duplicates: float
    duplicates_ref: float
    log_likelihood: float | None = None
    log_likelihood_se: float | None = None
    bits_per_dim: float | None = None
    bits_per_dim_se: float | None = None
    accuracy: float | None = None
    accuracy_ref: float | None = None
    nearest: NearestTraining | None = dataclasses.field(default=None, repr=False, compare=False)
    evidence: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    @property
    def accuracy_share(self) -> float | None:
        """``accuracy`` as a share of ``accuracy_ref``; 1 is ideal."""
        if self.accuracy is None or not self.accuracy_ref:
            return None
        return self.accuracy / self.accuracy_ref

    def to_dict(self) -> dict[str, Any]:
        """The report as a dict of numbers and strings, without images, for JSON.

        JSON has no NaN and no infinity: such a metric is None, and ``notes`` has its value.
        """
        left_out = {"nearest", "evidence"}
        names = [field.name for field in dataclasses.fields(self) if field.name not in left_out]
        plain, notes = output.finite({name: getattr(self, name) for name in names})
        return plain | {"accuracy_share": self.accuracy_share, "notes": notes}

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """A Matplotlib figure: draws beside data, the nearest training images, and the table.

        Raises:
          ValueError, OSError: the file cannot be written; raised before the figure is drawn.
        """
        return output.drawn(lambda: draw_report(self), path)

    def table(self) -> list[list[str]]:
        """The rows of the printed table: the metric, its value and its reference."""
        rows = [["", "draws", "train against test"]]
        rows.append(["Frechet distance", f"{self.frechet:.4g}", f"{self.frechet_ref:.4g}"])
        for name in ("precision", "recall"):
            value, reference = getattr(self, name), getattr(self, f"{name}_ref")
            rows.append([name, percent(value), percent(reference)])
        near = f"{self.nearer_train:.3f} (z = {self.nearer_train_z:.1f})"
        rows.append(["nearer to train than test is", near, "0.5 is ideal"])
        copies = percent(self.duplicates), f"{percent(self.duplicates_ref)} of test"
        rows.append(["copies of training images", *copies])
        if self.accuracy is not None and self.accuracy_ref is not None:
            held = f"{percent(self.accuracy_ref)} held out"
            rows.append(["classified as their label", percent(self.accuracy), held])
            share = "-" if self.accuracy_share is None else percent(self.accuracy_share)
            rows.append(["  as a share of held out", share, ""])
        return rows

    def __str__(self) -> str:
        lines = [short(self.model, 100)]
        lines.append(f"{self.images:,} held-out images, {self.draws:,} draws")
        if self.log_likelihood is not None:
            bound = {"bound": " at least", "estimate": " about"}.get(self.density, "")
            most = bound.replace("least", "most")
            nats = f"{bound} {self.log_likelihood:.2f} ± {self.log_likelihood_se:.2f} nats"
            bits = f"{most} {self.bits_per_dim:.4f} bits per dimension"
            lines.append(f"log {self.given}:{nats},{bits}")
            lines.append(f"({self.constant})")
        lines += [f"features: {self.features}", ""]
        table = self.table()
        width = [max(len(row[i]) for row in table) for i in range(3)]
        for name, value, reference in table:
            lines.append(f"{name:{width[0]}}  {value:>{width[1]}}  {reference}".rstrip())
        return "\n".join(lines)

    __repr__ = __str__
