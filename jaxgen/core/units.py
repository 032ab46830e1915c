"""Standard units: models that can rescale learn from features of median 0 and deviation 1.

Float32 represents such features with all its digits, whatever the units of the data, and learning
rates, floors and k-means treat all features alike. ``Model.rescale`` converts the params back.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgen.core.records import TOGETHER

_ROWS = 16384  # rows that are enough to estimate a median and a deviation


class Units(NamedTuple):
    """The shift and scale of each feature, in the units of the data; arrays of the event's shape.

    Attributes:
      shift: the median; 0 where the model cannot rescale the feature.
      scale: the standard deviation, or the size of a constant feature; 1 where the model cannot
        rescale the feature. Features that have to share one scale have the root mean square of
        their deviations.
    """

    shift: Any
    scale: Any

    def enter(self, x):
        """Events (n, *event_shape) in standard units."""
        return (x - self.shift) / self.scale

    def enter_data(self, data):
        """Rows of training data in standard units."""
        return data._replace(x=self.enter(data.x), units=self)

    def start(self, model, params):
        """Params in standard units, from params in the units of the data."""
        return model.rescale(_in_float64(params), -self.shift / self.scale, 1 / self.scale)

    def leave(self, model, params):
        """Params in the units of the data, in float64, from params in standard units."""
        return model.rescale(_in_float64(params), self.shift, self.scale)

    def log_volume(self, x, weights=None) -> float:
        """Mean log density of x in standard units minus that in the units of the data, in nats.

        A missing value (NaN) in x adds nothing.
        """
        log_scale = np.log(self.scale)
        if not np.isnan(x).any():
            return float(log_scale.sum())
        each = np.where(np.isnan(x), 0, log_scale).reshape(len(x), -1).sum(1)
        return float(np.average(each, weights=weights))


def standard_units(model, x, weights=None) -> Units | None:
    """Units in which x (n, *event_shape) is standard; None for a model that cannot rescale.

    x may hold NaN, but not in all rows of a feature.
    """
    rescalable = np.broadcast_to(model.learning.rescalable, model.event_shape)
    if not rescalable.any():
        return None
    few = slice(None, None, -(-len(x) // _ROWS))
    if not (np.fmax.reduce(x[few]) > np.fmin.reduce(x[few])).all():
        few = slice(None)  # a feature that is constant or missing in these rows may vary in all
    shift, scale, varies = _median_and_deviation(x[few], None if weights is None else weights[few])
    together = rescalable == TOGETHER
    if together.any():
        counted = together & varies if (together & varies).any() else together
        largest = scale[counted].max()  # by which squares neither overflow nor underflow
        share = np.where(counted, scale / largest, 0)[together]
        scale = np.where(together, largest * np.sqrt((share**2).mean()), scale)
    return Units(np.where(rescalable, shift, 0.0), np.where(rescalable, scale, 1.0))


def _median_and_deviation(x, weights):
    """The median and deviation of each feature, and whether it varies.

    The deviation of a constant is its size, or 1 for the constant 0.
    """
    missing, low, high = np.isnan(x).any(), np.fmin.reduce(x), np.fmax.reduce(x)
    size = np.where(high > low, high - low, 1.0)
    z = (x - low) / size  # whose squares neither overflow nor underflow
    if weights is None:
        deviation = np.nanstd(z, 0) if missing else z.std(0)
    else:
        share = weights.reshape(-1, *[1] * (z.ndim - 1)) * ~np.isnan(z)
        share = share / share.sum(0)
        deviation = np.sqrt(np.nansum(share * (z - np.nansum(share * z, 0)) ** 2, 0))
    median = np.nanmedian(x, 0) if missing else np.median(x, 0)
    of_constant = np.where(low == 0, 1.0, np.abs(low))
    return median, np.where(high > low, size * deviation, of_constant), high > low


def _in_float64(params):
    def one(leaf):
        leaf = np.asarray(leaf)
        return leaf.astype(np.float64) if leaf.dtype.kind == "f" else leaf

    return jax.tree_util.tree_map(one, params)
