"""Bayesian regression as a NumPyro program: the distance x in which a car stops, given its speed y.

    python examples/regression.py [picture] [MeanField or NUTS]

The program says how x comes of y; reaction time, braking and spread are learnt from 20 stops. Of
the two bands the credible one holds the mean distance, the predictive one the next stop. A mean
field is quick but takes the globals to be independent: reaction time and braking go together here,
and NUTS finds both only half as certain. The predictive bands hardly differ.
"""

import sys

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from matplotlib.figure import Figure

import jaxgen
from jaxgen.numpyro import NUTS, MeanField, from_program, posterior, predictive


def law(y, reaction, braking):
    return y * reaction + y**2 / (2 * braking)


def stopping(y, x=None):
    reaction = numpyro.sample("reaction", dist.LogNormal(0.0, 0.5))
    braking = numpyro.sample("braking", dist.LogNormal(2.0, 0.5))
    spread = numpyro.sample("spread", dist.HalfNormal(0.3))
    with numpyro.plate("stops", len(y)):
        mean = law(y, reaction, braking)
        numpyro.sample("x", dist.Normal(mean, spread * mean), obs=x)


truth = {"reaction": 1.0, "braking": 7.0, "spread": 0.1}
units = {"reaction": "s", "braking": "m/s²", "spread": "of the mean"}
rng = np.random.default_rng(0)
y = rng.uniform(5, 35, 20)
x = law(y, 1.0, 7.0) * rng.normal(1, 0.1, 20)

way = NUTS() if sys.argv[2:] == ["NUTS"] else MeanField(draws=1000)
model = from_program(stopping, y_shape=(), posterior=way)
fitted = jaxgen.fit(model, x, y, key=jax.random.key(0))
draws = posterior(fitted)
print(f"{type(way).__name__} after {len(x)} stops")
for name, value in draws.items():
    found = f"{value.mean():.3f} ± {value.std():.3f} {units[name]}"
    print(f"  {name:<10}{found:<26}truth {truth[name]}")

grid = np.linspace(0.1, 40, 100)
means = law(grid, draws["reaction"][:, None], draws["braking"][:, None])
stops = predictive(fitted, jax.random.key(1), grid)  # (draws, 100)
more = fitted.sample(jax.random.key(2), 10_000, 30.0)
print(f"at 30 m/s it takes over 100 m once in {1 / np.mean(more > 100):.1f} stops")

figure = Figure(figsize=(7, 4.6), layout="constrained")
ax = figure.subplots()
looks = (stops, "0.85", "next stop, 90 %"), (means, "#e58a1f", "mean distance, 90 %")
for values, colour, label in looks:
    ax.fill_between(grid, *np.quantile(values, [0.05, 0.95], 0), color=colour, label=label)
ax.plot(grid, law(grid, 1.0, 7.0), "--", color="black", linewidth=1, label="true mean")
ax.plot(y, x, "o", color="#1b2f6b", markersize=5, label=f"{len(x)} measured stops")
ax.set(xlabel="speed y, m/s", ylabel="stopping distance x, m", xlim=(0, 40), ylim=(0, None))
ax.legend(loc="upper left")
path = sys.argv[1] if len(sys.argv) > 1 else "regression.png"
figure.savefig(path, dpi=130)
print(f"picture written to {path}")
