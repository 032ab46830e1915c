"""Spline flows of one architecture in jaxgen's terms and in those of its peers."""

import jax
import numpy as np
import optax

import jaxgen
from benchmarks import twins
from benchmarks.machine import torch_device
from benchmarks.peer_process import Apart
from jaxgen import Fitted, datasets, models

BATCH, RATE = 256, 1e-3


class Flow:
    """Rational-quadratic splines of 8 bins, whose parameters a network of two hidden layers gives.

    A method named for an operation returns the ``makes`` of ``Harness.compare``. Peers have the
    params they start with, on which no side's speed depends.

    Args:
      kind: "coupling" or "autoregressive".
      dim, layers, width: of events, splines and hidden layers.
    """

    def __init__(self, kind, dim, layers=4, width=32):
        self.shape = kind, dim, layers, width
        self.name = f"{kind}, d = {dim}"

    def model(self):
        kind, dim, *size = self.shape
        if kind == "coupling":
            return models.SplineCoupling(dim, *size, depth=2, bins=8)
        return models.MaskedAutoregressive(dim, *size, depth=2, head="spline", bins=8)

    def fitted(self):
        model = self.model()
        return Fitted(model, model.init(jax.random.key(0)))

    def events(self, n):
        """Checkerboards between -2 and 2, where every side has its splines."""
        board, count = datasets.checkerboard(), -(-n * self.shape[1] // 2)
        x = Fitted(board, board.init(None)).sample(jax.random.key(2), count)
        return np.asarray(x, np.float32).ravel()[: n * self.shape[1]].reshape(n, -1) / 2

    def log_prob(self, *peers):
        def ours(x):
            fitted, x = self.fitted(), jax.device_put(x)
            return lambda: fitted.log_prob(x)

        return {"jaxgen": ours} | self._apart("log_prob", peers)

    def sample(self, *peers):
        def ours(n):
            fitted = self.fitted()
            return lambda: fitted.sample(twins.KEY, n)

        return {"jaxgen": ours} | self._apart("sample", peers)

    def fit(self, *peers, anew):
        """Of training and held-out rows and the number of epochs; anew: see ``flowjax_peer``."""

        def ours(argument):
            (x, held, epochs), model = argument, self.model()
            more = {"epochs": epochs, "batch_size": BATCH, "validation": held, "progress": False}
            # an optimizer made anew is all the same to jaxgen
            return lambda: jaxgen.fit(model, x, key=twins.KEY, optimizer=optax.adam(RATE), **more)

        def theirs(name):
            last = anew if name == "flowjax" else torch_device()
            return lambda argument: Apart(f"{name}_peer", "fit", self.shape, *argument, last)

        return {"jaxgen": ours} | {name: theirs(name) for name in peers}

    def _apart(self, operation, peers):
        def theirs(name):
            device = () if name == "flowjax" else (torch_device(),)
            return lambda value: Apart(f"{name}_peer", operation, self.shape, value, *device)

        return {name: theirs(name) for name in peers}
