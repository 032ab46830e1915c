"""A mixture in place of scikit-learn's: its size by BIC, hard labels, and a threshold for outliers.

python examples/mixture.py
"""

import jax
import numpy as np
from sklearn.datasets import load_wine

import jaxgen

x = load_wine(as_frame=True).data[["alcohol", "flavanoids", "proline"]]  # raw units
sizes = [jaxgen.models.GaussianMixture(components=k, covariance="diag") for k in range(1, 7)]
found = jaxgen.select(sizes, x, key=jax.random.key(0), by="bic", restarts=3)
print(found)
best = found.best
labels = best.responsibilities(x).argmax(1)
print("rows in each component", np.bincount(labels))
print("means", *best.model.means(best.params), sep="\n")
threshold = np.quantile(best.log_prob(x), 0.02)
print(x[np.asarray(best.log_prob(x)) < threshold])
