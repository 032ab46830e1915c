"""A mixture of models with independent pixels, fitted by EM to scikit-learn's images of digits.

    python examples/digits.py [picture]

The figure shows images of the data, and samples of one such model and of a mixture of 30.
"""

import sys

import jax
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import jaxgen

images = load_digits().images > 7  # (1797, 8, 8), on or off
train, test = images[:1500], images[1500:]
figure = Figure(figsize=(10, 2.9), layout="constrained")
axes = figure.subplots(3, 12)
for ax, image in zip(axes[0], test, strict=False):
    ax.imshow(image, cmap="gray_r")
for line, model in zip(
    axes[1:],
    [
        jaxgen.models.Bernoulli((8, 8)),
        jaxgen.compose.Mixture(jaxgen.models.Bernoulli((8, 8)), count=30),
    ],
    strict=True,
):
    fitted = jaxgen.fit(model, train, key=jax.random.key(0))
    score = float(fitted.log_prob(test).mean())
    print(f"{type(model).__name__:<10} held-out log-likelihood {score:7.2f} nats per image")
    for ax, image in zip(line, np.asarray(fitted.sample(jax.random.key(1), 12)), strict=True):
        ax.imshow(image, cmap="gray_r")
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
for ax, label in zip(axes[:, 0], ["data", "independent pixels", "mixture of 30"], strict=True):
    ax.set_ylabel(label)

path = sys.argv[1] if len(sys.argv) > 1 else "digits.png"
figure.savefig(path, dpi=130)
print(f"picture written to {path}")
