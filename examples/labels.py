"""Labels by Bayes' rule: a Gaussian for each digit, compared with logistic regression.

    python examples/labels.py [picture]

The discriminative model learns p(y|x) only. The generative model learns p(x|y) and p(y). It
classifies digits too, and it can also draw digits, recognise images that are not digits, and work
with missing pixels.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

import jaxgen
from jaxgen.metrics.reliability import draw_reliability

SIZES, REPEATS, STEPS = (30, 100, 300, 1000), 5, 300
RELIABILITY = 1  # index of the size whose reliability is shown: there both models err often
PENALTIES = np.array([1e-4, 1e-3, 1e-2, 1e-1])
GENERATIVE, DISCRIMINATIVE = "PerClass(Gaussian)", "logistic regression"
STYLES = {GENERATIVE: ("o-", "navy"), DISCRIMINATIVE: ("^--", "tab:orange")}
rng = np.random.default_rng(0)

x, y = load_digits(return_X_y=True)
order = rng.permutation(len(x))
x, y = x[order] / 16, y[order]
x_test, y_test, x, y = x[:500], y[:500], x[500:], y[500:]


@jax.jit
def logistic(x, y, penalty):
    """Weights (65, 10) that minimise the mean log loss plus penalty |weights|^2, by Adam."""

    def loss(weights):
        log_p = log_probabilities(weights, x)
        return -log_p[jnp.arange(len(y)), y].mean() + penalty * (weights[1:] ** 2).sum()

    def step(state, _):
        weights, memory = state
        change, memory = adam.update(jax.grad(loss)(weights), memory)
        return (weights + change, memory), None

    adam, start = optax.adam(0.1), jnp.zeros((65, 10))
    return jax.lax.scan(step, (start, adam.init(start)), length=STEPS)[0][0]


def log_probabilities(weights, x):
    return jax.nn.log_softmax(weights[0] + x @ weights[1:])


def penalised(x, y):
    """Logistic regression with the penalty that scores best on a held-out quarter of the rows."""
    validation, train = slice(len(x) // 4), slice(len(x) // 4, None)
    tried = jax.vmap(logistic, (None, None, 0))(x[train], y[train], PENALTIES)
    scores = [
        log_probabilities(w, x[validation])[np.arange(len(y[validation])), y[validation]]
        for w in tried
    ]
    return logistic(x, y, PENALTIES[np.mean(scores, 1).argmax()])


def balanced(size):
    """Indices of rows, equally many for each label."""
    return np.concatenate(
        [rng.permutation(np.flatnonzero(y == k))[: size // 10] for k in range(10)]
    )


accuracy = {name: np.zeros((len(SIZES), REPEATS)) for name in STYLES}
kept = {name: [] for name in STYLES}
for i, size in enumerate(SIZES):
    for j in range(REPEATS):
        rows = rng.permutation(balanced(size))
        model = jaxgen.compose.PerClass(jaxgen.models.Gaussian(64, jitter=0.5), 10)
        fitted = jaxgen.fit(model, x[rows], y[rows], key=jax.random.key(j))
        weights = penalised(x[rows], y[rows])
        log_p = {GENERATIVE: fitted.classify(x_test)}
        log_p[DISCRIMINATIVE] = log_probabilities(weights, x_test)
        for name, scores in log_p.items():
            accuracy[name][i, j] = jaxgen.metrics.calibration(scores, y_test).accuracy
            kept[name] += [scores] if i == RELIABILITY else []

print(f"{'accuracy after':<34}" + "".join(f"{size:>7}" for size in SIZES) + " digits")
for name, values in accuracy.items():
    print(f"{name:<34}" + "".join(f"{value:7.3f}" for value in values.mean(1)))
measured = {}
for name, parts in kept.items():
    labels = np.tile(y_test, REPEATS)
    measured[name] = jaxgen.metrics.calibration(np.concatenate(parts), labels, bins=8)
    print(f"\n{name} after {SIZES[RELIABILITY]} digits\n{measured[name]}")

# log p(x) recognises images that are not digits better than the confidence of a classifier
others = {
    "turned by 90°": np.rot90(x_test.reshape(-1, 8, 8), axes=(1, 2)).reshape(-1, 64),
    "pixels shuffled": rng.permuted(x_test, axis=1),
}
print(f"\n{'P(scored below a digit)':<34}{'log p(x)':>10}{'logistic regression, max p(y|x)':>34}")
scores = {"digits": np.asarray(fitted.log_prob(x_test))}
for name, images in others.items():
    scores[name] = np.asarray(fitted.log_prob(images))
    confidence = [np.asarray(log_probabilities(weights, v)).max(1) for v in (x_test, images)]
    truth = np.repeat([1, 0], 500)
    pairs = (scores["digits"], scores[name]), confidence
    auc = [roc_auc_score(truth, np.concatenate(pair)) for pair in pairs]
    print(f"{name:<34}{auc[0]:>10.3f}{auc[1]:>34.3f}")

# the generative model integrates missing pixels out; logistic regression needs values for them
missing = rng.random(x_test.shape) < 0.3
holes = np.where(missing, np.nan, x_test)
means = np.where(missing, x.mean(0), x_test)
drawn = fitted.impute(holes, jax.random.key(1))
print(f"\naccuracy after {SIZES[-1]} digits, 30 % of the pixels missing")
for name, log_p in {
    GENERATIVE: fitted.classify(holes),
    DISCRIMINATIVE + ", means filled in": log_probabilities(weights, means),
    DISCRIMINATIVE + ", draws filled in": log_probabilities(weights, drawn),
}.items():
    print(f"{name:<38}{jaxgen.metrics.calibration(log_p, y_test).accuracy:.3f}")

figure = Figure(figsize=(11, 9), layout="constrained")
curves, sheet, outliers, reliability = figure.subplots(2, 2).ravel()
for name, (line, colour) in STYLES.items():
    mean, spread = accuracy[name].mean(1), accuracy[name].std(1, ddof=1)
    curves.errorbar(SIZES, mean, spread, fmt=line, color=colour, capsize=3, label=name)
curves.set(xscale="log", xticks=SIZES, xticklabels=SIZES, xlabel="training digits")
curves.set(
    ylabel="accuracy on 500 test digits", title=f"mean and deviation of {REPEATS} training sets"
)
curves.minorticks_off()
curves.legend(loc="lower right")

digits = [fitted.sample(jax.random.key(2), 10, y=label) for label in range(10)]
tiles = np.pad(np.reshape(digits, (10, 10, 8, 8)), [(0, 0), (0, 0), (1, 1), (1, 1)])
sheet.imshow(tiles.transpose(0, 2, 1, 3).reshape(100, 100), cmap="gray_r", vmin=0, vmax=1)
sheet.set(xticks=[], yticks=np.arange(4.5, 100, 10), yticklabels=range(10), ylabel="label y")
sheet.set_title(f"ten draws of p(x|y) for each label, after {SIZES[-1]:,} digits")

bins = np.linspace(min(np.min(v) for v in scores.values()), max(scores["digits"]), 61)
styles = zip(scores.items(), (("navy", "-"), ("tab:orange", "--"), ("0.4", ":")), strict=True)
for (name, values), (colour, line) in styles:
    outliers.hist(values, bins, histtype="step", color=colour, linestyle=line, lw=2, label=name)
outliers.set(
    xlabel="log p(x), nats", ylabel="images", title="images that are not digits are improbable"
)
outliers.legend(loc="upper left")
draw_reliability(reliability, measured)
reliability.set_title(f"reliability after {SIZES[RELIABILITY]} digits, {REPEATS} training sets")

path = sys.argv[1] if len(sys.argv) > 1 else "labels.png"
figure.savefig(path, dpi=110)
print(f"picture written to {path}")
