"""The base classes of models with the fields ``y_shape`` and ``y_domain``."""

from __future__ import annotations

from typing import Any, ClassVar

from jaxgen.core.model import Model
from jaxgen.core.spec import Params
from jaxgen.networks.domains import Domain
from jaxgen.networks.frame import Conditions


class Conditioned(Model):
    """Base of models that encode conditions y for their networks.

    A subclass has the fields ``y_shape`` and ``y_domain``. ``_conditions`` encodes y.
    """

    y_domain: ClassVar[tuple[Domain, ...] | None]

    def __post_init__(self):
        super().__post_init__()
        _ = self._conditions  # raises ValueError if y_domain does not suit y_shape

    @property
    def y_support(self):
        return self._conditions.support

    @property
    def _conditions(self) -> Conditions:
        return Conditions(self.y_shape, self.y_domain)

    def _check_no_conditions_of(self, *names: str) -> None:
        """Raise ValueError if a network, by the name of its field, has conditions of its own."""
        for name in names:
            network = getattr(self, name)
            if network is not None and network.y_shape is not None:
                raise ValueError(
                    f"{type(self).__name__}: y_shape and y_domain are fields of the model; {name} "
                    f"must have y_shape None, got {network}"
                )


class Framed(Conditioned):
    """Base of those whose networks compute in standard coordinates of x.

    Their params have ``frame``, set from the data and not trained: ``x``, with the ``shift`` and
    ``scale`` of each feature, and with conditions ``y``.
    """

    def rescale(self, params, shift, scale):
        old = params["frame"]["x"]
        new = {"shift": shift + scale * old["shift"], "scale": scale * old["scale"]}
        return {**params, "frame": {**params["frame"], "x": new}}

    def _frame_of(self, of_x: Params, y: Any) -> Params:
        """The entry ``frame`` of params, made of that of x and a batch of y, or None."""
        return {"x": of_x} if self.y_shape is None else {"x": of_x, "y": self._conditions.init(y)}
