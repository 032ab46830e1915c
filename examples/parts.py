"""Parts of an event given others: the lower halves of digits, and x given a condition y.

    python examples/parts.py [picture]

Upper rows of the figure: the model gets the upper half of a test digit, finds the most likely
label, and draws lower halves. Below: a mixture density network learns p(x|y), where one y may
belong to several x.
"""

import sys

import jax
import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import jaxgen

TEST, DRAWS, HALF = 500, 4, 32
rng = np.random.default_rng(0)
images, labels = load_digits(return_X_y=True)
order = rng.permutation(len(images))
images, labels = images[order] / 16, labels[order]
test = images[:TEST]
per_class = jaxgen.compose.PerClass(jaxgen.models.Gaussian(64, jitter=0.03), 10)
digits = jaxgen.fit(per_class, images[TEST:], labels[TEST:], key=jax.random.key(0))
upper, lower = digits.marginal(range(HALF)), digits.marginal(range(HALF, 64))
marginal = lower.log_prob(test[:, HALF:])
conditional = digits.log_prob(test) - upper.log_prob(test[:, :HALF])
print(f"{TEST} test digits        log p(lower half)              {marginal.mean():6.1f} nats")
print(f"                       log p(lower half | upper half) {conditional.mean():6.1f} nats")

figure = Figure(figsize=(10, 11.5), layout="constrained")
halves, network = figure.subfigures(2, 1, height_ratios=(1.5, 1))
axes = halves.subplots(DRAWS + 2, 10)
for label, column in enumerate(axes.T):
    image = test[np.argmax(labels[:TEST] == label)]
    conditioned = digits.given(dict(enumerate(image[:HALF])))
    likely = np.exp(conditioned.model.log_prior(conditioned.params))  # p(y | upper half)
    column[0].set_title(f"{likely.argmax()}: {likely.max():.0%}", fontsize=10)
    column[0].imshow(image[:HALF].reshape(4, 8), cmap="gray_r", vmin=0, vmax=1)
    column[0].set(ylim=(7.5, -0.5), facecolor="0.9")
    drawn = conditioned.sample(jax.random.key(1), DRAWS)
    for ax, half in zip(column[1:], [*drawn, image[HALF:]], strict=True):
        whole = np.concatenate([image[:HALF], half]).reshape(8, 8)
        ax.imshow(whole, cmap="gray_r", vmin=0, vmax=1)
        ax.axhline(3.5, color="tab:orange", linewidth=1)
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
for ax, name in zip(axes[:, 0], ["given", *["drawn"] * DRAWS, "truth"], strict=True):
    ax.set_ylabel(name)
halves.suptitle("lower halves of digits given the upper half, and the most likely label")

# the true distribution, unknown to the network: y depends on x, and up to three x have the same y
x = rng.uniform(0, 1, (2000, 1))
y = x + 0.3 * np.sin(2 * np.pi * x) + rng.normal(0, 0.05, x.shape)
mixture = jaxgen.models.GaussianMixture(1, components=5)
model = jaxgen.compose.Conditional(jaxgen.networks.MLP((1,)), mixture)
fitted = jaxgen.fit(model, x[:1500], y[:1500], key=jax.random.key(2), epochs=200)
plain = jaxgen.fit(mixture, x[:1500], key=jax.random.key(2))
marginal, conditional = plain.log_prob(x[1500:]), fitted.log_prob(x[1500:], y[1500:])
print(f"500 test points        log p(x) by a mixture          {marginal.mean():6.2f} nats")
print(f"                       log p(x|y) by the network      {conditional.mean():6.2f} nats")

image, lines = network.subplots(1, 2)
sides = np.linspace(-0.1, 1.1, 240), np.linspace(-0.05, 1.05, 220)
y_grid, x_grid = (v.reshape(-1, 1) for v in np.meshgrid(*sides))
density = np.exp(fitted.log_prob(x_grid, y_grid)).reshape(220, 240)
# colours follow the square root of the density, so that the part with three branches is visible
norm = PowerNorm(0.5, 0, float(np.quantile(density, 0.995)))
shown = image.pcolormesh(*sides, density, cmap="cividis", norm=norm, rasterized=True)
network.colorbar(shown, ax=image, label="density p(x|y)", extend="max")
image.plot(y[-300:], x[-300:], "o", color="white", markersize=3, markeredgecolor="black", mew=0.4)
image.set(xlim=sides[0][[0, -1]], ylim=sides[1][[0, -1]], xlabel="y, given", ylabel="x")
image.set_title("p(x|y) by the network, and test points")
for value, line, colour in (0.15, "-", "navy"), (0.5, "--", "tab:orange"), (0.85, ":", "0.3"):
    log_p = fitted.log_prob(sides[1][:, None], np.array([value]))
    lines.plot(sides[1], np.exp(log_p), line, color=colour, lw=2, label=f"y = {value}")
lines.set(xlabel="x", title="p(x|y): one mode, or three")
lines.legend()

path = sys.argv[1] if len(sys.argv) > 1 else "parts.png"
figure.savefig(path, dpi=110)
print(f"picture written to {path}")
