"""What families of flows share: raw data at one end, noise at the other."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from jaxgen.core.lanes import lanes
from jaxgen.core.model import Learning, Model, Traits
from jaxgen.networks.domains import Domain, Levels, Real, constraint, each
from jaxgen.networks.frame import Conditions, Frame


class Flow(Model):
    """Base of flows, which have the fields ``dim``, ``y_shape``, ``domain`` and ``y_domain``.

    A subclass defines ``_score``, ``_push`` and ``_back``, for arrays of features first and, if
    any, rows last (see ``jaxgen.core.lanes``). Its params have a ``frame``, which is not learnt.
    """

    dim: ClassVar[int]
    domain: ClassVar[tuple[Domain, ...] | None]
    y_domain: ClassVar[tuple[Domain, ...] | None]

    def __post_init__(self):
        super().__post_init__()
        if any(isinstance(d, Levels) for d in each(self.domain, self.dim)):
            raise ValueError(
                f"{type(self).__name__}: domain must be of numbers, got {self.domain}: Levels are "
                "for y_domain"
            )
        _ = self._conditions  # raises

    @property
    def event_shape(self):
        return (self.dim,)

    @property
    def support(self):
        return constraint(each(self.domain, self.dim), self.event_shape)

    @property
    def y_support(self):
        return self._conditions.support

    @property
    def learning(self):
        rescalable = np.array([isinstance(d, Real) for d in each(self.domain, self.dim)])
        return Learning(rate=2e-3, frozen=("frame",), rescalable=rescalable)

    @property
    def traits(self):
        return Traits(reparameterized=True, invertible=True, tile=self._tile)

    def rescale(self, params, shift, scale):
        old = params["frame"]["x"]
        new = {"shift": shift + scale * old["shift"], "scale": scale * old["scale"]}
        return {**params, "frame": {**params["frame"], "x": new}}

    def log_prob(self, params, x, y=None):
        return lanes(self._score)(params, x, y)

    def noise(self):
        return self._frame.noise()

    def push(self, params, noise, y=None):
        return lanes(self._push)(params, noise, y)

    def pull(self, params, x, y=None):
        return lanes(lambda *args: self._frame.noise_of(self._back(*args)))(params, x, y)

    def _score(self, params, x, y):
        """log p(x | y)."""
        raise NotImplementedError

    def _push(self, params, noise, y):
        """Raw features of noise."""
        raise NotImplementedError

    def _back(self, params, x, y):
        """Coordinates, at the far end of the flow, of raw features."""
        raise NotImplementedError

    def _init_frame(self, x, y):
        frame = {"x": self._frame.init(x)}
        if self.y_shape is not None:
            frame["y"] = self._conditions.init(y)
        return frame

    def _given(self, params, y, like):
        """What a network is told of y, (numbers, ...); none where y is None."""
        return self._conditions.tell(params["frame"].get("y"), y, like)

    @property
    def _tile(self):
        """Rows that the network takes at once on a CPU core."""
        raise NotImplementedError

    @property
    def _conditions(self):
        return Conditions(self.y_shape, self.y_domain)

    @property
    def _frame(self):
        return Frame(each(self.domain, self.dim))
