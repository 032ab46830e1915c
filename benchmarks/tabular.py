"""Held-out log-likelihood on small tables of scikit-learn: flowjax, zuko and GaussianMixture.

    python -m benchmarks.tabular [TABLE ...] [--sides SIDE ...] [--seeds N] [--steps N]

The tables are wine (178 x 13), breast_cancer (569 x 30) and digits (1797 x 64, pixels with uniform
noise). Each is split at random into 60 % for training, 20 % for validation and 20 % for the test.
Features have mean 0 and standard deviation 1 in the training rows, and log p is in nats in these
units. The flows are autoregressive with splines, have equal numbers of weights and are trained by
Adam for the same number of steps; all sides keep the params that are best on the validation rows.
These rows also choose among Gaussian mixtures of 1 to 8 components, full or diagonal, with several
jitters.
"""

import argparse
import json
from pathlib import Path

import jax
import numpy as np
import optax

import jaxgen
from jaxgen import bijectors, compose, models

LAYERS, WIDTH, BATCH, RATE, CHECKS = 2, 32, 256, 1e-3, 40
SIDES = ("jaxgen", "jaxgen, Linear", "flowjax", "zuko", "GaussianMixture")


def tables():
    """The rows (n, features) of each table by name, digits with uniform noise."""
    from sklearn import datasets

    digits = datasets.load_digits().data
    noise = np.random.default_rng(0).random(digits.shape)
    wine, cancer = datasets.load_wine().data, datasets.load_breast_cancer().data
    return {"wine": wine, "breast_cancer": cancer, "digits": digits + noise}


def split(x, seed):
    """Standardised rows for training, validation and test."""
    x = x[np.random.default_rng(seed).permutation(len(x))]
    train, held, test = np.split(x, [int(0.6 * len(x)), int(0.8 * len(x))])
    mean, scale = train.mean(0), np.where(train.std(0) > 0, train.std(0), 1)
    return [((part - mean) / scale).astype(np.float32) for part in (train, held, test)]


def ours(parts, seed, steps, linear=False):
    train, held, test = parts
    dim = train.shape[1]
    model = models.MaskedAutoregressive(dim, LAYERS, WIDTH, depth=2, bins=8)
    if linear:
        model = compose.Transformed(model, bijectors.Linear())
    epochs = max(steps // -(-len(train) // BATCH), 1)
    optimizer = optax.chain(
        optax.clip_by_global_norm(10.0), optax.adam(RATE)
    )  # as on the other sides
    fitted = jaxgen.fit(
        model, train, key=jax.random.key(seed), validation=held, epochs=epochs, batch_size=BATCH,
        optimizer=optimizer, progress=False,
    )  # fmt: skip
    return np.asarray(fitted.log_prob(test)).mean()


def flowjax(parts, seed, steps):
    import equinox as eqx
    import jax.numpy as jnp
    from flowjax.bijections import RationalQuadraticSpline
    from flowjax.distributions import Normal
    from flowjax.flows import masked_autoregressive_flow

    train, held, test = (jnp.asarray(part) for part in parts)
    flow = masked_autoregressive_flow(
        jax.random.key(seed),
        base_dist=Normal(jnp.zeros(train.shape[1])),
        transformer=RationalQuadraticSpline(knots=7, interval=4),
        flow_layers=LAYERS,
        nn_width=WIDTH,
        nn_depth=2,
    )
    learnt, rest = eqx.partition(flow, eqx.is_inexact_array)
    optimizer = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(RATE))

    def score(learnt, x):
        return eqx.combine(learnt, rest).log_prob(x).mean()

    @jax.jit
    def some(learnt, memory, key):
        def step(carry, key):
            learnt, memory = carry
            rows = jax.random.choice(key, len(train), (min(BATCH, len(train)),), replace=False)
            grads = jax.grad(lambda p: -score(p, train[rows]))(learnt)
            updates, memory = optimizer.update(grads, memory)
            return (eqx.apply_updates(learnt, updates), memory), None

        carry, _ = jax.lax.scan(step, (learnt, memory), jax.random.split(key, steps // CHECKS))
        return *carry, score(carry[0], held)

    memory, best = optimizer.init(learnt), (-np.inf, learnt)
    for check in range(CHECKS):
        key = jax.random.fold_in(jax.random.key(seed), check)
        learnt, memory, value = some(learnt, memory, key)
        best = max(best, (float(value), learnt), key=lambda pair: pair[0])
    return float(score(best[1], test))


def zuko(parts, seed, steps):
    import copy

    import torch
    from zuko.flows import NSF

    train, held, test = (torch.from_numpy(part) for part in parts)
    torch.manual_seed(seed)
    flow = NSF(train.shape[1], transforms=LAYERS, bins=8, hidden_features=(WIDTH, WIDTH))
    optimizer = torch.optim.Adam(flow.parameters(), lr=RATE)
    best, kept = -np.inf, None
    for step in range(1, steps + 1):
        rows = torch.randperm(len(train))[:BATCH]
        optimizer.zero_grad()
        (-flow().log_prob(train[rows]).mean()).backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 10.0)
        optimizer.step()
        if step % (steps // CHECKS) == 0:
            with torch.no_grad():
                value = flow().log_prob(held).mean().item()
            if value > best:
                best, kept = value, copy.deepcopy(flow.state_dict())
    flow.load_state_dict(kept)
    with torch.no_grad():
        return flow().log_prob(test).mean().item()


def mixture(parts, seed, steps):
    from sklearn.mixture import GaussianMixture

    train, held, test = parts
    choices = [
        GaussianMixture(count, covariance_type=kind, reg_covar=jitter, random_state=seed).fit(train)
        for kind in ("full", "diag")
        for count in (1, 2, 3, 5, 8)
        for jitter in (1e-3, 1e-2, 1e-1)
    ]
    return max(choices, key=lambda m: m.score(held)).score(test)


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tabular", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="TABLE", help="by default all")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    fits = (ours, lambda *a: ours(*a, linear=True), flowjax, zuko, mixture)
    rows = []
    known = tables()
    if unknown := set(arguments.names) - set(known):
        parser.error(f"no table {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    for name, x in known.items():
        for side, fit in zip(SIDES, fits, strict=True):
            if side not in arguments.sides or name not in (arguments.names or known):
                continue
            seeds = range(arguments.seeds)
            scores = [float(fit(split(x, seed), seed, arguments.steps)) for seed in seeds]
            error = np.std(scores) / len(scores) ** 0.5
            rows.append({"table": name, "side": side, "scores": scores})
            print(f"{name:<14} {side:<16} {np.mean(scores):8.3f} +- {error:.3f} nats", flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
