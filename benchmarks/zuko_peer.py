"""zuko's side, imported only in a process of its own.

Weights at 4 layers of width 32 and depth 2: coupling 7,516 at dim 2 and 17,008 at dim 8,
autoregressive 29,664 at dim 8, with those that its masks put to zero.
"""

import torch
import zuko
from zuko.transforms import MonotonicRQSTransform

from benchmarks import torch_flows

BINS = 8


def build(kind, dim, layers, width):
    torch.manual_seed(0)
    hidden = {"transforms": layers, "hidden_features": (width, width)}
    if kind == "coupling":
        # NSF(passes=2) is one too, but gives the features that a layer keeps splines as well
        shapes = [(BINS,), (BINS,), (BINS - 1,)]
        return zuko.flows.NICE(dim, univariate=MonotonicRQSTransform, shapes=shapes, **hidden)
    return zuko.flows.NSF(dim, bins=BINS, **hidden)


def log_prob(flow, x, device):
    return torch_flows.log_prob(build(*flow), _score, x, device)


def sample(flow, n, device):
    return torch_flows.sample(build(*flow), lambda flow, n: flow().sample((n,)), n, device)


def fit(flow, x, held, epochs, device):
    return torch_flows.fit(lambda: build(*flow), _score, x, held, epochs, device)


def _score(flow, x):
    return flow().log_prob(x)
