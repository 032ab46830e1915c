"""``fit``, ``fit_each`` and ``select``, the optimizer ``Adam``, and what they return.

>>> slow = jaxgen.training.Adam(learning_rate=1e-4)
>>> fitted = jaxgen.fit(Gaussian(2), x, key=key, optimizer=slow, epochs=2)
"""

from jaxgen.training.api import fit
from jaxgen.training.each import fit_each, unstack
from jaxgen.training.optimizers import Adam
from jaxgen.training.selection import Selection, select

__all__ = ["Adam", "Selection", "fit", "fit_each", "select", "unstack"]
