"""Hierarchical regression with named covariates: SVI, a million predictions, LOO, and a file.

    python examples/hierarchical.py

The program is in ``clinics.py``, from where another process imports it to load the fitted model.
"""

import os
import subprocess
import sys

import arviz
import jax
import numpy as np
import pandas as pd
from clinics import program

import jaxgen

rng = np.random.default_rng(0)
frame = pd.DataFrame({"dose": rng.uniform(0, 1, 400), "clinic": rng.integers(8, size=400)})
frame["effect"] = 0.8 * frame["dose"] + rng.normal(0, 0.5, 8)[frame["clinic"]]
frame["effect"] += rng.normal(0, 0.3, 400)

fitted = jaxgen.fit(program, frame["effect"], frame, key=jax.random.key(0))
new = pd.DataFrame({"clinic": rng.integers(8, size=10**6), "dose": rng.uniform(0, 1, 10**6)})
drawn = fitted.sample(jax.random.key(1), len(new), new)
print(f"predicted effects: {drawn.mean():.3f} ± {drawn.std():.3f}")
print(arviz.loo(jaxgen.numpyro.to_arviz(fitted, frame["effect"], frame)))

fitted.save("clinics.jaxgen")
row = {"dose": 0.2, "clinic": 3}
print("log p of one row:", fitted.log_prob([0.5], row))
there = f"import clinics, jaxgen; print(jaxgen.load('clinics.jaxgen').log_prob([0.5], {row}))"
subprocess.run([sys.executable, "-c", there], env={**os.environ, "PYTHONPATH": sys.path[0]})
