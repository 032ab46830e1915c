"""One row in a call: draws and densities of the explicit families; few rows of a mixture.

Beside the first draw stands the call of a compiled function that adds 1 to two numbers, which is
the least that any call takes on the machine.
"""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import first_sample, twins
from benchmarks.harness import agreement

TARGET = {"jaxgen": "seconds_median <= 60e-6"}


def run(harness):
    for name in harness.pick(list(first_sample.FAMILIES), ["Box", "Categorical"]):
        fitted, x = first_sample.fit(name)
        makes = {"jaxgen": lambda _, f=fitted: lambda: f.sample(twins.KEY, 1)}
        if name == "Box":
            makes["JAX, jitted x + 1"] = lambda _: _add_one()
        yield from harness.compare(f"{name}, sample", None, makes, TARGET, n=1)
        makes = {"jaxgen": lambda x, f=fitted: lambda: f.log_prob(x)}
        yield from harness.compare(f"{name}, log_prob", x[:1], makes, TARGET, n=1)

    mixture, least = twins.Mixture(2, 8), {"scikit-learn": 1}
    for n in (1, 100):
        case = f"mixture of 8, d = 2, n = {n}"
        makes = {"jaxgen": mixture.ours_sample, "scikit-learn": mixture.scikit_sample}
        yield from harness.compare(f"{case}, sample", n, makes, least, n=n)
        makes = {
            "jaxgen": lambda x: lambda: mixture.fitted.log_prob(x),
            "scikit-learn": lambda x: mixture.scikit_log_prob(x, np.float32),
        }
        x, examine = mixture.events(n), agreement(1e-3)
        yield from harness.compare(f"{case}, log_prob", x, makes, least, n=n, examine=examine)


def _add_one():
    add, x = jax.jit(lambda x: x + 1), jnp.zeros(2)
    return lambda: add(x)
