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

EPOCHS, SHOWN = 4, 5
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

figure = Figure((9, 9), layout="constrained")
axes = figure.subplots(len(train.names), 2 * SHOWN)
for row, name in zip(axes, train.names, strict=True):
    real, new = test.images[test.labels == name][:SHOWN], draws[labels == name][:SHOWN]
    for ax, image in zip(row, [*real, *new], strict=True):
        ax.imshow(image > 0, cmap="gray_r")
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(name)
axes[0, SHOWN // 2].set_title("people's drawings")
axes[0, SHOWN + SHOWN // 2].set_title("the model's drawings")
path = sys.argv[1] if len(sys.argv) > 1 else "draw_an_apple.png"
figure.savefig(path, dpi=100)
print(f"drawings of each kind: {path}")
