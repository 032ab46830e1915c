"""Hello world: fit three models to 40 points, and draw new points from each.

    python examples/hello.py [picture]

The figure shows the observations and the new points of each model.
"""

import sys

import jax
import numpy as np
from matplotlib.figure import Figure

import jaxgen

# the true distribution, unknown to the models: uniform on a parallelogram
rng = np.random.default_rng(0)
x = rng.uniform(-1, 1, (40, 2)) @ np.array([[2.0, 1.0], [0.0, 0.5]]) + 3.0

figure = Figure(figsize=(11, 3.8), layout="constrained")
axes = figure.subplots(1, 3, sharex=True, sharey=True)
models = [jaxgen.models.Box(2), jaxgen.models.Gaussian(2), jaxgen.models.KDE(2)]
for ax, model in zip(axes, models, strict=True):
    fitted = jaxgen.fit(model, x, key=jax.random.key(0))
    new = fitted.sample(jax.random.key(1), 200)
    score = float(fitted.log_prob(x).mean())
    print(f"{type(model).__name__:<10} mean log p of the observations {score:6.3f} nats")
    ax.plot(*new.T, "x", color="tab:orange", markersize=4, label="200 new points")
    ax.plot(*x.T, "o", color="navy", markersize=5, label="40 observations")
    ax.set_title(f"{type(model).__name__}: {score:.2f} nats per point")
    ax.set_xlabel("first feature")
axes[0].set_ylabel("second feature")
axes[1].legend(loc="lower right")

path = sys.argv[1] if len(sys.argv) > 1 else "hello.png"
figure.savefig(path, dpi=130)
print(f"picture written to {path}")
