"""Neural networks, their base class, the domains of their inputs, and the encoding of inputs.

>>> net = jaxgen.networks.MLP(y_shape=(3,), width=32)
>>> jaxgen.compose.Conditional(net, jaxgen.models.Gaussian(2)).y_shape
(3,)
"""

from jaxgen.networks.convolutional import ConvDecoder, ConvEncoder, UNet
from jaxgen.networks.mlp import MLP
from jaxgen.networks.network import Network
from jaxgen.networks.transformer import Transformer

__all__ = ["MLP", "ConvDecoder", "ConvEncoder", "Network", "Transformer", "UNet"]
