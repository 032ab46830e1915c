"""The side of flowjax, imported in a separate process.

Number of weights with 4 layers of width 32 and depth 2: coupling 7,784 for dim 2 and 18,080 for dim
8, autoregressive 31,792 for dim 8, including masked weights. Its splines have two more params than
those of other sides, the slopes at the ends.
"""

import os

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # jaxgen uses the GPU too

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from flowjax.bijections import RationalQuadraticSpline
from flowjax.distributions import Normal
from flowjax.flows import coupling_flow, masked_autoregressive_flow
from flowjax.train import fit_to_data
from flowjax.train.losses import MaximumLikelihoodLoss

BATCH, RATE = 256, 1e-3


def build(kind, dim, layers, width):
    make = coupling_flow if kind == "coupling" else masked_autoregressive_flow
    return make(
        jax.random.key(0),
        base_dist=Normal(jnp.zeros(dim)),
        transformer=RationalQuadraticSpline(knots=7, interval=4),  # inner knots: 8 bins
        flow_layers=layers,
        nn_width=width,
        nn_depth=2,
    )


def log_prob(flow, x):
    flow, x = build(*flow), jax.device_put(x)
    score = eqx.filter_jit(lambda flow, x: flow.log_prob(x))
    return lambda: score(flow, x)


def sample(flow, n):
    flow, key = build(*flow), jax.random.key(1)
    draw = eqx.filter_jit(lambda flow, key: flow.sample(key, (n,)))
    return lambda: draw(flow, key)


def fit(flow, x, held, epochs, anew):
    """The call that trains the flow from its initial params.

    Args:
      anew: create the optimizer and the loss in each call, like two fits in one script and like
        ``fit_to_data`` by default; otherwise they are reused, and nothing is compiled again.
    """
    flow, rows = build(*flow), jnp.concatenate([x, held])
    kept = {"optimizer": optax.adam(RATE), "loss_fn": MaximumLikelihoodLoss()}

    def call():
        return fit_to_data(
            jax.random.key(2),
            flow,
            rows,
            **({"optimizer": optax.adam(RATE)} if anew else kept),
            max_epochs=epochs,
            max_patience=epochs,
            batch_size=BATCH,
            val_prop=len(held) / len(rows),
            show_progress=False,
        )

    return call
