"""The side of zuko, imported in a separate process.

Number of weights with 4 layers of width 32 and depth 2: coupling 7,516 for dim 2 and 17,008 for dim
8, autoregressive 29,664 for dim 8, including masked weights.
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
        # not NSF(passes=2), which has splines for the features that a layer keeps too
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
