"""A flow of handwritten digits by label: a grid of samples, and a path between two digits.

    python examples/digits.py

The pixels of scikit-learn's digits are whole numbers, 0 to 16.
"""

import jax
import numpy as np
from matplotlib.image import imsave
from sklearn.datasets import load_digits

import jaxgen

x, y = load_digits(return_X_y=True)  # (1797, 64)
flow = jaxgen.compose.Quantized(jaxgen.models.SplineCoupling(layers=6), levels=17)
model = jaxgen.compose.Labelled(flow)
fitted = jaxgen.fit(model, x[:1500], y[:1500], key=jax.random.key(0), epochs=60)
print(f"held-out log p(x|y): {fitted.log_prob(x[1500:], y[1500:]).mean():.1f} nats per image")


def save(path, images, columns):
    """Write images (n, 64) in rows, enlarged, with a border of one pixel."""
    rows = np.pad(np.reshape(images, (-1, columns, 8, 8)), [(0, 0), (0, 0), (1, 1), (1, 1)])
    imsave(
        path, np.kron(rows.swapaxes(1, 2).reshape(-1, 10 * columns), np.ones((8, 8))), cmap="gray_r"
    )


samples = fitted.sample(jax.random.key(1), 100, np.repeat(np.arange(10), 10))
save("digits.png", samples, 10)  # a row for each digit
save("digits-path.png", fitted.path(x[1500], x[1502], 12, y[1500], y[1502]), 12)
print(f"digits.png: samples; digits-path.png: from a {y[1500]} to a {y[1502]}")
