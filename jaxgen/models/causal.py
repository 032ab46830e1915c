"""The base class of models whose conditionals follow from a causal network."""

from __future__ import annotations

from typing import ClassVar

import jax

from jaxgen.core.spec import Params
from jaxgen.models.conditioned import Conditioned
from jaxgen.networks.network import Network, check_causal, init_checked, shape_of_features

_RATE = 4e-3  # learning rate of networks of width 64; wider ones have smaller rates


class Causal(Conditioned):
    """Base of models with the field ``network``, a causal network of sequences.

    Their params have ``network``; and with conditions ``frame``, which is set from y and not
    trained, and ``context`` (numbers, network.width).
    """

    network: ClassVar[Network]

    def __post_init__(self):
        super().__post_init__()
        if not hasattr(self.network, "width"):
            raise TypeError(
                f"{type(self).__name__}: network {type(self.network).__name__} must have the field "
                "width, the size of the input of a position"
            )
        self._check_no_conditions_of("network")

    @property
    def _rate(self) -> float:
        """The learning rate by default."""
        return min(_RATE, _RATE * 64 / self.network.width)

    def _check_causal(self, positions: int) -> None:
        """Raise ValueError if the network is not causal; those of the library are."""
        if not self.network.takes_rows:
            check_causal(self.network, positions)

    def _init_network(
        self, key: jax.Array, key_of_context: jax.Array, positions: int
    ) -> tuple[Params, int]:
        """The params ``network`` and ``context``, and the number of features of a position."""
        shape = positions, self.network.width
        network = init_checked(self.network, key, shape)
        params = {"network": network}
        if self.y_shape is not None:
            size = self._conditions.size, self.network.width
            params["context"] = jax.random.normal(key_of_context, size)
        return params, shape_of_features(self.network, network, shape)[-1]

    def _context(self, params, y, dtype):
        """y as numbers (*rows, width) that are added to the input of each position, or None."""
        if self.y_shape is None:
            return None
        return self._conditions.encode_rows(params["frame"], y, dtype) @ params["context"]
