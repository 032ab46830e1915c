"""Labels by Bayes' rule: a normal distribution for each digit, beside logistic regression.

    python examples/labels.py [picture]

The discriminative model learns p(y|x) alone. The generative one learns p(x|y) and p(y): it says
which label is likely as well, and can draw digits, tell what is no digit, and do without pixels.
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
from jaxgen.compose import PerClass
from jaxgen.metrics import calibration
from jaxgen.metrics.calibration import draw_reliability
from jaxgen.models import Gaussian

SIZES, REPEATS, STEPS = (30, 100, 300, 1000), 5, 300
JUDGED = 1  # the size at which reliability is shown: there both err often enough
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
    """Weights (65, 10) of least mean log loss plus penalty |weights|^2, by Adam."""

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
    """Logistic regression with the penalty that does best on a quarter held out."""
    held, rest = slice(len(x) // 4), slice(len(x) // 4, None)
    tried = jax.vmap(logistic, (None, None, 0))(x[rest], y[rest], PENALTIES)
    scores = [log_probabilities(w, x[held])[np.arange(len(y[held])), y[held]] for w in tried]
    return logistic(x, y, PENALTIES[np.mean(scores, 1).argmax()])


def some(size):
    """Numbers of rows, as many of each label."""
    return np.concatenate(
        [rng.permutation(np.flatnonzero(y == k))[: size // 10] for k in range(10)]
    )


accuracy = {name: np.zeros((len(SIZES), REPEATS)) for name in STYLES}
few = {name: [] for name in STYLES}
for i, size in enumerate(SIZES):
    for j in range(REPEATS):
        rows = rng.permutation(some(size))
        fitted = jaxgen.fit(
            PerClass(Gaussian(64, jitter=0.5), 10), x[rows], y[rows], key=jax.random.key(j)
        )
        weights = penalised(x[rows], y[rows])
        log_p = {GENERATIVE: fitted.classify(x_test)}
        log_p[DISCRIMINATIVE] = log_probabilities(weights, x_test)
        for name, of_model in log_p.items():
            accuracy[name][i, j] = calibration(of_model, y_test).accuracy
            few[name] += [of_model] if i == JUDGED else []

print(f"{'accuracy after':<34}" + "".join(f"{size:>7}" for size in SIZES) + " digits")
for name, found in accuracy.items():
    print(f"{name:<34}" + "".join(f"{value:7.3f}" for value in found.mean(1)))
judged = {}
for name, of_models in few.items():
    judged[name] = calibration(np.concatenate(of_models), np.tile(y_test, REPEATS), bins=8)
    print(f"\n{name} after {SIZES[JUDGED]} digits\n{judged[name]}")

# what is no digit: log p(x) tells, and how sure a classifier is tells less
others = {
    "turned by 90°": np.rot90(x_test.reshape(-1, 8, 8), axes=(1, 2)).reshape(-1, 64),
    "pixels shuffled": rng.permuted(x_test, axis=1),
}
print(f"\n{'P(scored below a digit)':<34}{'log p(x)':>10}{'logistic regression, max p(y|x)':>34}")
scores = {"digits": np.asarray(fitted.log_prob(x_test))}
for name, images in others.items():
    scores[name] = np.asarray(fitted.log_prob(images))
    sure = [np.asarray(log_probabilities(weights, v)).max(1) for v in (x_test, images)]
    truth = np.repeat([1, 0], 500)
    pairs = (scores["digits"], scores[name]), sure
    apart = [roc_auc_score(truth, np.concatenate(pair)) for pair in pairs]
    print(f"{name:<34}{apart[0]:>10.3f}{apart[1]:>34.3f}")

# pixels that are missing are integrated out; the other needs them filled in
missing = rng.random(x_test.shape) < 0.3
holes = np.where(missing, np.nan, x_test)
means = np.where(missing, x.mean(0), x_test)
drawn = fitted.impute(holes, jax.random.key(1))
print(f"\naccuracy after {SIZES[-1]} digits, 30 % of the pixels missing")
for name, of_model in {
    GENERATIVE: fitted.classify(holes),
    DISCRIMINATIVE + ", means filled in": log_probabilities(weights, means),
    DISCRIMINATIVE + ", draws filled in": log_probabilities(weights, drawn),
}.items():
    print(f"{name:<38}{calibration(of_model, y_test).accuracy:.3f}")

figure = Figure(figsize=(11, 9), layout="constrained")
curves, sheet, outliers, reliability = figure.subplots(2, 2).ravel()
for name, (line, colour) in STYLES.items():
    mean, spread = accuracy[name].mean(1), accuracy[name].std(1, ddof=1)
    curves.errorbar(SIZES, mean, spread, fmt=line, color=colour, capsize=3, label=name)
curves.set(xscale="log", xticks=SIZES, xticklabels=SIZES, xlabel="training digits")
curves.set(ylabel="accuracy on 500 others", title=f"mean and spread of {REPEATS} training sets")
curves.minorticks_off()
curves.legend(loc="lower right")

digits = [fitted.sample(jax.random.key(2), 10, y=label) for label in range(10)]
tiles = np.pad(np.reshape(digits, (10, 10, 8, 8)), [(0, 0), (0, 0), (1, 1), (1, 1)])
sheet.imshow(tiles.transpose(0, 2, 1, 3).reshape(100, 100), cmap="gray_r", vmin=0, vmax=1)
sheet.set(xticks=[], yticks=np.arange(4.5, 100, 10), yticklabels=range(10), ylabel="label y")
sheet.set_title(f"ten draws of p(x|y) for each label, after {SIZES[-1]:,} digits")

bins = np.linspace(min(np.min(v) for v in scores.values()), max(scores["digits"]), 61)
looks = zip(scores.items(), (("navy", "-"), ("tab:orange", "--"), ("0.4", ":")), strict=True)
for (name, values), (colour, line) in looks:
    outliers.hist(values, bins, histtype="step", color=colour, linestyle=line, lw=2, label=name)
outliers.set(xlabel="log p(x), nats", ylabel="images", title="what is no digit is improbable")
outliers.legend(loc="upper left")
draw_reliability(reliability, judged)
reliability.set_title(f"reliability after {SIZES[JUDGED]} digits, {REPEATS} training sets")

path = sys.argv[1] if len(sys.argv) > 1 else "labels.png"
figure.savefig(path, dpi=110)
print(f"picture written to {path}")
