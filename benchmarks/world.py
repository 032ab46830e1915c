"""The flow of ``jaxgen world``, with longer training and as an ensemble.

    python -m benchmarks.world [--epochs N] [--members N]

It is fitted to 100,000 observations; the KL divergence is over 20,000 other ones, in nats.
"""

import argparse

import jax
import numpy as np

import jaxgen
from jaxgen.cli.world import FAMILIES, FLOW, FLOW_SETTINGS, observations
from jaxgen.metrics import kl_divergence


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.world", description=__doc__)
    parser.add_argument("--epochs", type=int, default=FLOW_SETTINGS["epochs"])
    parser.add_argument("--members", type=int, default=4)
    given = parser.parse_args()
    truth, x, x_test, keys = observations(100_000, 0)
    model, settings = FAMILIES[FLOW], FLOW_SETTINGS | {"epochs": given.epochs}
    fitted = jaxgen.fit(model, x, key=keys[0], ensemble=given.members, **settings)
    true, samples = truth.log_prob(x_test), fitted.sample(keys[1], len(x))
    average = kl_divergence(true, fitted.log_prob(x_test))
    on_land = np.isfinite(truth.log_prob(samples)).mean()
    leaves, tree = jax.tree_util.tree_flatten(fitted.params["component"])
    each = []
    for i in range(given.members):
        params = jax.tree_util.tree_unflatten(tree, [leaf[i] for leaf in leaves])
        each.append(kl_divergence(true, jaxgen.Fitted(model, params).log_prob(x_test)).value)
    print(f"{given.members} x {model}, {sum(leaf[0].size for leaf in leaves):,} parameters each")
    print(f"each: KL {', '.join(f'{kl:.3f}' for kl in each)} nats")
    print(f"their average: KL {average.value:.4f} +- {average.se:.4f} nats, {on_land:.1%} on land")
    print(f"{given.epochs} epochs in {fitted.history['seconds']:.0f} s")


if __name__ == "__main__":
    main()
