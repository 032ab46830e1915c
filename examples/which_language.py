"""The language of a line of source code by Bayes' rule: n-grams, compared with a classifier.

    python examples/which_language.py [picture]

The lines are from files that are installed with Python and jaxgen's requirements; a third of the
files of each language is for tests. The generative model has an n-gram for each language. It needs
fewer lines than the classifier, a network of counts of characters, and it also scores and draws
lines. Its p(y|x) is too confident. A power of p(y|x), normalised, corrects that: the one that is
best on 50 more lines of each language.
"""

import sys
import sysconfig
from pathlib import Path

import jax
import numpy as np
from matplotlib.figure import Figure

import jaxgen

SIZES, REPEATS = (10, 30, 100, 250), 5  # training lines of each language, and training sets
PYTHON, PACKAGES = (Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib"))
FILES = {
    "C": [*(PACKAGES / "numpy").rglob("*.c"), *(PACKAGES / "numpy").rglob("*.h")],
    "Cython": [*(PACKAGES / "scipy").rglob("*.pyx"), *(PACKAGES / "scipy").rglob("*.pxd")],
    "Fortran": [*(PACKAGES / "numpy").rglob("*.f90")],
    "JavaScript": [*(PACKAGES / "matplotlib").rglob("*.js")],
    "Python": [*PYTHON.glob("*.py")],
}
LABELS, rng = list(FILES), np.random.default_rng(0)
CHARACTERS = jaxgen.data.Vocabulary("characters", tuple(map(chr, range(32, 127))))


def lines(paths, n):
    """At most n lines of 10 to 80 characters, at most 2/3 n of a file, in random order."""
    found = []
    for path in paths:
        text = path.read_text("ascii", "ignore").expandtabs().splitlines()
        long = [
            line.strip()[:80] for line in text if len(line.strip()) >= 10 and line.isprintable()
        ]
        found.extend(rng.permutation(long)[: 2 * n // 3])
    return rng.permutation(found)[:n]


def n_gram(x, y):
    texts = jaxgen.data.tokenize(x, vocabulary=CHARACTERS, length=80)
    return jaxgen.fit(jaxgen.compose.Labelled(jaxgen.models.NGram()), texts, y, key=KEY)


def counts(x):
    """log(1 + count) of each character, and of pairs of characters in 512 hashed groups."""
    rows = np.zeros((len(x), 640))
    for row, line in zip(rows, x, strict=True):
        code = np.frombuffer(line.encode(), np.uint8).astype(int)
        np.add.at(row, np.append(code, 128 + (31 * code[1:] + code[:-1]) % 512), 1)
    return np.log1p(rows)


def classifier_log_p(x, y, x_new):
    """log p(y|x) of new lines, (n, labels), by a network whose inputs are the counts."""
    network, family = jaxgen.networks.MLP((640,)), jaxgen.models.Categorical((), len(LABELS))
    model, label = jaxgen.compose.Conditional(network, family), np.searchsorted(LABELS, y)
    fitted = jaxgen.fit(model, label, counts(x), key=KEY, epochs=100, batch_size=32)
    each = [fitted.log_prob(np.full(len(x_new), k), counts(x_new)) for k in range(len(LABELS))]
    return np.stack(each, 1)


def measured(log_p, y):
    return jaxgen.metrics.calibration(log_p, y, labels=LABELS)


def normalised_power(log_p, b):
    return jax.nn.log_softmax(b * log_p)


KEY = jax.random.key(0)
files = {label: sorted(paths) for label, paths in FILES.items()}
test = [lines(paths[2::3], 150) for paths in files.values()]
pool = [lines(paths[::3] + paths[1::3], 1500) for paths in files.values()]
x_test, y_test = np.concatenate(test), np.repeat(LABELS, [len(found) for found in test])

results = {name: [] for name in ("n-gram", "power of the n-gram", "classifier")}
for _ in range(REPEATS):
    shuffled = [rng.permutation(found) for found in pool]
    x_other = np.concatenate([found[max(SIZES) :][:50] for found in shuffled])
    for size in SIZES:
        x, y = np.concatenate([found[:size] for found in shuffled]), np.repeat(LABELS, size)
        fitted = n_gram(x, y)
        p_other, p_test = fitted.classify(x_other), fitted.classify(x_test)
        y_other = np.repeat(LABELS, 50)
        losses = {
            b: measured(normalised_power(p_other, b), y_other).log_loss
            for b in np.linspace(0.05, 1, 20)
        }
        p_power = normalised_power(p_test, min(losses, key=losses.get))
        each = p_test, p_power, classifier_log_p(x, y, x_test)
        for name, log_p in zip(results, each, strict=True):
            results[name].append(measured(log_p, y_test))

figure = Figure(figsize=(9, 4), layout="constrained")
panels = dict(zip(("accuracy", "log_loss"), figure.subplots(1, 2), strict=True))
for what in ("accuracy", "log_loss", "expected_calibration_error"):
    print(f"\n{what.replace('_', ' '):<27}" + "".join(f"{size:7}" for size in SIZES) + " lines")
    for (name, found), style in zip(results.items(), ("o-", "s:", "^--"), strict=True):
        values = np.reshape([getattr(one, what) for one in found], (REPEATS, -1))
        print(f"{name:<27}" + "".join(f"{value:7.3f}" for value in values.mean(0)))
        if what in panels:
            bars = values.mean(0), values.std(0, ddof=1)
            panels[what].errorbar(SIZES, *bars, fmt=style, capsize=3, label=name)
figure.suptitle(
    f"mean and deviation of {REPEATS} training sets, on {len(x_test)} lines of other files"
)
for what, ax in panels.items():
    ax.set(xscale="log", xticks=SIZES, xticklabels=SIZES, xlabel="training lines per language")
    ax.set_ylabel({"log_loss": "log loss, nats"}.get(what, what))
    ax.minorticks_off()
panels["accuracy"].legend(loc="lower right")
panels["log_loss"].set_ylim(0)
path = sys.argv[1] if len(sys.argv) > 1 else "which-language.png"
figure.savefig(path, dpi=110)

fitted = n_gram(np.concatenate(pool), np.repeat(LABELS, [len(found) for found in pool]))
print(f"\nafter {sum(map(len, pool)):,} lines, two draws of each language:")
for label in LABELS:
    print(f"{label:>10}: " + f"\n{'':>12}".join(fitted.sample(KEY, 2, label)))
scores = jaxgen.metrics.text_scores(fitted, x_test)
print("\ntest lines of most bits per character, by the sum over languages:")
for row in scores.worst(6):
    print(f"{scores.bits_per_character[row]:12.1f}: {x_test[row]} ({y_test[row]})")
print(f"\npicture written to {path}")
