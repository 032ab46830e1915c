"""``fit`` and ``fit_each``, the optimizer ``Adam``, and the ``Fitted`` that they return.

>>> slow = jaxgen.training.Adam(learning_rate=1e-4)
>>> fitted = jaxgen.fit(Gaussian(2), x, key=key, optimizer=slow, epochs=2)
"""

from jaxgen.training.api import fit
from jaxgen.training.each import fit_each, unstack
from jaxgen.training.optimizers import Adam

__all__ = ["Adam", "fit", "fit_each", "unstack"]
