"""Draw an apple: drawings by their label, and the label of a drawing by Bayes' rule.

    python examples/draw_an_apple.py [picture]

The model learns p(drawing|label) from 6,400 drawings that people made in twenty seconds each, of
eight kinds. It draws new ones of each label, and Bayes' rule gives p(label|drawing). A classifier
that is fitted to p(label|drawing) directly is better at that and can do nothing else. It also says
how well the draws show their label.
"""

import sys

import jax
import numpy as np
from matplotlib.figure import Figure

import jaxgen
from jaxgen import compose, metrics, models, networks

EPOCHS, SHOWN = 6, 5
keys = jax.random.split(jax.random.key(0), 4)

train, test = jaxgen.datasets.drawings().split()
network = networks.Transformer(width=64, layers=3)
model = compose.Labelled(models.PixelAutoregressive(levels=2, network=network))
fitted = jaxgen.fit(model, train.images > 0, train.labels, key=keys[0], epochs=EPOCHS)
bits = -np.asarray(fitted.log_prob(test.images > 0)).mean() / np.log(2)
print(f"{bits:.1f} bits a drawing of 784 pixels")

by_bayes = metrics.calibration(fitted.classify(test.images > 0), test.labels, labels=fitted.labels)
classifier = metrics.fit_image_classifier(train.images, train.labels, key=keys[1])
direct = classifier.accuracy(test.images, test.labels)
print(f"accuracy: {by_bayes.accuracy:.1%} by Bayes' rule, {direct:.1%} by a direct classifier")

labels = np.repeat(train.names, 100)
draws = np.asarray(fitted.sample(keys[2], len(labels), labels))
drawn = classifier.accuracy(draws, labels)
print(f"the classifier finds the label of {drawn:.1%} of the draws, {drawn / direct:.2f} of that")

figure = Figure((9, 7), layout="constrained")
halves = {"people's drawings": (test.images, test.labels), "the model's drawings": (draws, labels)}
parts = figure.subfigures(1, 2, wspace=0.05)
for part, (title, (images, kinds)) in zip(parts, halves.items(), strict=True):
    part.suptitle(title)
    for row, name in zip(part.subplots(len(train.names), SHOWN), train.names, strict=True):
        for ax, image in zip(row, images[kinds == name][:SHOWN], strict=True):
            ax.imshow(image > 0, cmap="gray_r")
            ax.set(xticks=[], yticks=[])
        row[0].set_ylabel(name)
path = sys.argv[1] if len(sys.argv) > 1 else "draw_an_apple.png"
figure.savefig(path, dpi=100)
print(f"drawings of each kind: {path}")
