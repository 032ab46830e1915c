"""The same spline flows in jaxgen and in its peers."""

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
    """A flow of rational-quadratic splines with 8 bins and networks with two hidden layers.

    A method with the name of an operation returns the ``makes`` of ``Harness.compare``. All sides
    have initial params; their speed does not depend on them.

    Args:
      kind: "coupling" or "autoregressive".
      dim: number of features.
      layers: number of splines.
      width: units of a hidden layer.
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
        """Checkerboards on [-2, 2], where the splines of all sides act."""
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
        """The argument is training rows, held-out rows and epochs; anew as in ``flowjax_peer``."""

        def ours(argument):
            (x, held, epochs), model = argument, self.model()
            more = {"epochs": epochs, "batch_size": BATCH, "validation": held, "progress": False}
            # for jaxgen, a new optimizer makes no difference
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
