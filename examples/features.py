"""What latent coordinates mean: an autoencoder of sprites finds where and how large they are.

    python examples/features.py [picture]

A sprite is drawn from five factors: shape, scale, orientation, x and y. The model sees the images
alone. A weight of the KL divergence above 1 (beta) makes single coordinates stand for single
factors. The table compares the best coordinate of each factor with the best principal component.
"""

import sys

import jax
import numpy as np

import jaxgen
from jaxgen import metrics, models

images, factors, names = jaxgen.datasets.sprites()
order = np.random.default_rng(0).permutation(len(images))
images, factors = images[order], factors[order]

model = models.VAE((32, 32), latent=5, levels=2, beta=8.0)
vae = jaxgen.fit(model, images, key=jax.random.key(0), epochs=60, batch_size=64)

shape = np.array(["square", "ellipse", "heart"])[factors[:, names.index("shape")]]
known = {name: factors[:, k] for k, name in enumerate(names) if name != "shape"}
print(metrics.factor_shares(vae, images, known))
report = metrics.explain(vae, images, shape, factors=known)
print(report)
path = sys.argv[1] if len(sys.argv) > 1 else "features.png"
report.plot(path)
print(f"what each coordinate changes and explains: {path}")
