"""The side of nflows, imported in a separate process.

Number of weights with 4 layers of width 32 and depth 2: coupling 7,516 for dim 2 and 17,008 for dim
8, autoregressive 29,664 for dim 8, including masked weights.
"""

import torch
from nflows import transforms
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from nflows.nn.nets import MLP

from benchmarks import torch_flows

SPLINE = {"num_bins": 8, "tails": "linear", "tail_bound": 4.0}


def build(kind, dim, layers, width):
    torch.manual_seed(0)

    def network(inputs, outputs):
        return _Network([inputs], [outputs], [width, width])

    steps = []
    for layer in range(layers):
        if kind == "coupling":
            mask = torch.arange(dim) % 2 == layer % 2
            steps.append(
                transforms.PiecewiseRationalQuadraticCouplingTransform(mask, network, **SPLINE)
            )
        else:
            masked = transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform
            plain = {"num_blocks": 1, "use_residual_blocks": False}
            steps += [masked(dim, width, **plain, **SPLINE), transforms.ReversePermutation(dim)]
    return Flow(transforms.CompositeTransform(steps), StandardNormal([dim]))


class _Network(MLP):
    """The MLP of nflows, with the interface of a coupling's network."""

    @property
    def hidden_features(self):
        return self._hidden_sizes[-1]  # the splines divide logits by its square root

    def forward(self, inputs, context=None):
        return super().forward(inputs)


def log_prob(flow, x, device):
    return torch_flows.log_prob(build(*flow), _score, x, device)


def sample(flow, n, device):
    return torch_flows.sample(build(*flow), lambda flow, n: flow.sample(n), n, device)


def fit(flow, x, held, epochs, device):
    return torch_flows.fit(lambda: build(*flow), _score, x, held, epochs, device)


def _score(flow, x):
    return flow.log_prob(x)
