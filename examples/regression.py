"""Bayesian regression as a NumPyro program: the distance x in which a car stops, given its speed y.

    python examples/regression.py [picture] [MeanField or NUTS]

Reaction time, braking and spread are learnt from 20 stops. The figure has two bands: a credible
band for the mean distance, and a predictive band for the next stop. A mean field is fast, but it
assumes that the globals are independent. Here reaction time and braking are correlated, so the
posterior by NUTS is twice as wide in both. The predictive bands hardly differ.
"""

import sys

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from matplotlib.figure import Figure

import jaxgen


def mean_distance(y, reaction, braking):
    return y * reaction + y**2 / (2 * braking)


def stopping(y, x=None):
    reaction = numpyro.sample("reaction", dist.LogNormal(0.0, 0.5))
    braking = numpyro.sample("braking", dist.LogNormal(2.0, 0.5))
    spread = numpyro.sample("spread", dist.HalfNormal(0.3))
    with numpyro.plate("stops", len(y)):
        mean = mean_distance(y, reaction, braking)
        numpyro.sample("x", dist.Normal(mean, spread * mean), obs=x)


truth = {"reaction": 1.0, "braking": 7.0, "spread": 0.1}
units = {"reaction": "s", "braking": "m/s²", "spread": "of the mean"}
rng = np.random.default_rng(0)
y = rng.uniform(5, 35, 20)
x = mean_distance(y, 1.0, 7.0) * rng.normal(1, 0.1, 20)

by_nuts = sys.argv[2:] == ["NUTS"]
posterior = jaxgen.numpyro.NUTS() if by_nuts else jaxgen.numpyro.MeanField(draws=1000)
model = jaxgen.numpyro.from_program(stopping, y_shape=(), posterior=posterior)
fitted = jaxgen.fit(model, x, y, key=jax.random.key(0))
draws = jaxgen.numpyro.posterior(fitted)
print(f"{type(posterior).__name__} after {len(x)} stops")
for name, value in draws.items():
    summary = f"{value.mean():.3f} ± {value.std():.3f} {units[name]}"
    print(f"  {name:<10}{summary:<26}truth {truth[name]}")

grid = np.linspace(0.1, 40, 100)
means = mean_distance(grid, draws["reaction"][:, None], draws["braking"][:, None])
stops = jaxgen.numpyro.predictive(fitted, jax.random.key(1), grid)  # (draws, 100)
more = fitted.sample(jax.random.key(2), 10_000, 30.0)
print(f"at 30 m/s, one stop in {1 / np.mean(more > 100):.1f} takes more than 100 m")

figure = Figure(figsize=(7, 4.6), layout="constrained")
ax = figure.subplots()
bands = (stops, "0.85", "next stop, 90 %"), (means, "#e58a1f", "mean distance, 90 %")
for values, colour, label in bands:
    ax.fill_between(grid, *np.quantile(values, [0.05, 0.95], 0), color=colour, label=label)
ax.plot(grid, mean_distance(grid, 1.0, 7.0), "--", color="black", linewidth=1, label="true mean")
ax.plot(y, x, "o", color="#1b2f6b", markersize=5, label=f"{len(x)} measured stops")
ax.set(xlabel="speed y, m/s", ylabel="stopping distance x, m", xlim=(0, 40), ylim=(0, None))
ax.legend(loc="upper left")
path = sys.argv[1] if len(sys.argv) > 1 else "regression.png"
figure.savefig(path, dpi=130)
print(f"picture written to {path}")
