"""The base class of flows, which map raw data to noise and back."""

from __future__ import annotations

import functools
from typing import ClassVar

import numpy as np

from jaxgen.core.lanes import lanes
from jaxgen.core.model import Learning, Traits
from jaxgen.models.conditioned import Framed
from jaxgen.networks.domains import Domain, Levels, Real, constraint, each
from jaxgen.networks.frame import Frame
from jaxgen.networks.mlp import mlp_stack


class Flow(Framed):
    """Base of flows with the fields ``dim``, ``y_shape``, ``domain`` and ``y_domain``.

    A subclass defines ``_score``, ``_push`` and ``_to_base`` for arrays with features on the first
    axis and rows, if any, on the last (see ``jaxgen.core.lanes``). Its params have an entry
    ``frame``, which is not trained.
    """

    dim: ClassVar[int]
    width: ClassVar[int]
    depth: ClassVar[int]
    domain: ClassVar[tuple[Domain, ...] | None]

    def __post_init__(self):
        super().__post_init__()
        if any(isinstance(d, Levels) for d in each(self.domain, self.dim)):
            raise ValueError(
                f"{type(self).__name__}: domain must hold numbers, got {self.domain}; "
                "Levels are for y_domain"
            )

    @property
    def event_shape(self):
        return (self.dim,)

    @property
    def support(self):
        return constraint(each(self.domain, self.dim), self.event_shape)

    @functools.cached_property
    def learning(self):
        return self._learning()

    @functools.cached_property
    def traits(self):
        return self._traits()

    def _learning(self):
        rescalable = np.array([isinstance(d, Real) for d in each(self.domain, self.dim)])
        return Learning(rate=2e-3, frozen=("frame",), rescalable=rescalable)

    def _traits(self):
        return Traits(reparameterized=True, invertible=True, tile=self._tile)

    def log_prob(self, params, x, y=None):
        return lanes(self._score)(params, x, y)

    def noise(self):
        return self._frame.noise()

    def push(self, params, noise, y=None):
        return lanes(self._push)(params, noise, y)

    def pull(self, params, x, y=None):
        return lanes(lambda *args: self._frame.noise_of(self._to_base(*args)))(params, x, y)

    def _score(self, params, x, y):
        """log p(x | y)."""
        raise NotImplementedError

    def _push(self, params, noise, y):
        """The raw features that the noise makes."""
        raise NotImplementedError

    def _to_base(self, params, x, y):
        """Coordinates in the space of the base distribution, from raw features."""
        raise NotImplementedError

    def _init_frame(self, x, y):
        return self._frame_of(self._frame.init(x), y)

    def _init_networks(self, key, count, features, outputs):
        """Params of ``count`` networks whose inputs are features, then an encoded y."""
        y = self._conditions
        numbers = features + y.size - sum(y.levels)
        return mlp_stack(key, count, numbers, y.levels, outputs, self.width, self.depth)

    def _encode_y(self, params, y, like):
        """y encoded for a network, (numbers, ...); no numbers if y is None."""
        return self._conditions.encode(params["frame"].get("y"), y, like)

    @property
    def _tile(self):
        """Number of rows that the network takes at once on a CPU core."""
        raise NotImplementedError

    @property
    def _frame(self):
        return Frame(each(self.domain, self.dim))
