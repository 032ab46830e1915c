"""Neural networks, the domains of their inputs, and the frame that standardises raw features."""

from jaxgen.networks.mlp import MLP

__all__ = ["MLP"]
