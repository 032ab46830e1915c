"""Events in bulk: drawn to folders of blocks, read back, and scored in many files.

>>> jaxgen.data.bulk.Dataset("events").complete  # doctest: +SKIP
True
"""

from jaxgen.data.bulk.dataset import Dataset
from jaxgen.data.bulk.generation import generate

__all__ = ["Dataset", "generate"]
