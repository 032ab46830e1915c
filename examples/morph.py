"""Morph a cat into a tree: paths between drawings through the latents of an autoencoder.

    python examples/morph.py [picture]

A variational autoencoder describes a drawing of 784 pixels by 32 latent coordinates. Drawings on
the way from one to another in pixels are both of them, one fainter than the other. On the way in
latent coordinates they change their shape.
"""

import sys

import jax
import numpy as np
from matplotlib.figure import Figure

import jaxgen
from jaxgen import metrics, models, networks

PAIRS = [("cat", "tree"), ("apple", "clock"), ("bird", "train"), ("frog", "rainbow")]
STEPS, EPOCHS = 9, 50

train, test = jaxgen.datasets.drawings().split()
each = networks.MLP(width=512)
model = models.VAE(latent=32, levels=2, encoder=each, decoder=each)
vae = jaxgen.fit(model, train.images > 0, key=jax.random.key(0), epochs=EPOCHS)
bits = -np.asarray(vae.log_prob(test.images > 0)).mean() / np.log(2)
print(f"at most {bits:.1f} bits a drawing of 784 pixels")

# of each kind, the drawing whose latents are nearest to the mean of its kind
z, best = metrics.latents(vae, test.images > 0), {}
for name in test.names:
    of_kind = test.labels == name
    distance = np.linalg.norm(z[of_kind] - z[of_kind].mean(0), axis=1)
    best[name] = test.images[of_kind][distance.argmin()] > 0
figure = Figure((9, 1.3 * len(PAIRS)), layout="constrained")
axes = figure.subplots(len(PAIRS), STEPS)
for row, (first, last) in zip(axes, PAIRS, strict=True):
    path = metrics.interpolation(vae, best[first], best[last], STEPS)
    for ax, image in zip(row, path.events, strict=True):
        ax.imshow(np.asarray(image), cmap="gray_r", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(first)
    row[-1].yaxis.set_label_position("right")
    row[-1].set_ylabel(last)
path = sys.argv[1] if len(sys.argv) > 1 else "morph.png"
figure.savefig(path, dpi=100)
print(f"paths between drawings: {path}")
