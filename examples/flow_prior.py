"""A flow as a learnt prior in a NumPyro program, whose posterior NumPyro's NUTS draws.

    python examples/flow_prior.py [picture]

The flow learns p(theta) from 20,000 points of the two moons. Then theta_1 - theta_2 of a new point
is measured, with an error of 0.4. By itself this measurement allows any point within a strip.
Expect the posterior to follow the moon that the strip crosses, and two estimates of its mean to
agree: the mean of the draws by NUTS, and the mean of prior draws weighted by the likelihood.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from matplotlib.figure import Figure
from numpyro.infer import MCMC, NUTS

import jaxgen

toy = jaxgen.datasets.two_moons()
x = jaxgen.sample(toy, toy.init(None), jax.random.key(0), 20_000)
flow = jaxgen.models.SplineCoupling(2, layers=2, width=32, bins=16)
fitted = jaxgen.fit(flow, x, key=jax.random.key(1), epochs=40, batch_size=512)

direction, error, measured = jnp.array([1.0, -1.0]), 0.4, 2.5


def program(y):
    theta = numpyro.sample("theta", jaxgen.numpyro.as_distribution(fitted))
    numpyro.sample("y", dist.Normal(theta @ direction, error), obs=y)


mcmc = MCMC(NUTS(program), num_warmup=200, num_samples=500, progress_bar=False)
mcmc.run(jax.random.key(2), measured)
posterior = np.asarray(mcmc.get_samples()["theta"])

prior = np.asarray(fitted.sample(jax.random.key(3), 100_000))
weights = np.exp(-0.5 * ((prior @ direction - measured) / error) ** 2)
weights = weights / weights.sum()
mean = weights @ prior
for name, centre, spread in (
    ("500 draws by NUTS", posterior.mean(0), posterior.std(0)),
    ("100,000 prior draws, weighted", mean, np.sqrt(weights @ (prior - mean) ** 2)),
):
    text = ", ".join(f"{a:5.2f} ± {b:.2f}" for a, b in zip(centre, spread, strict=True))
    print(f"{name:<32}theta = {text}")

figure = Figure(figsize=(7.2, 4.8), layout="constrained")
ax = figure.subplots()
ends = np.array([-4.0, 5.0])
strip = ends - measured - error, ends - measured + error
ax.fill_between(ends, *strip, color="0.85", label="measured, ± one error")
ax.plot(*prior[:2000].T, ".", color="#1b2f6b", markersize=2, label="prior: the flow")
ax.plot(*posterior.T, ".", color="#e58a1f", markersize=4, label="posterior: NUTS")
ax.set(xlim=(-3.9, 4.1), ylim=(-2.6, 2.6), xlabel=r"$\theta_1$", ylabel=r"$\theta_2$")
ax.set_aspect("equal")
ax.legend(loc="lower left", markerscale=3)
path = sys.argv[1] if len(sys.argv) > 1 else "flow_prior.png"
figure.savefig(path, dpi=130)
print(f"picture written to {path}")
