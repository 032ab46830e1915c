"""Events in bulk: drawn to folders of blocks, read back, compared, planned, and scored in files.

>>> events = jaxgen.data.bulk.generate(fitted, 100, "few-events", key=jax.random.key(0))
>>> jaxgen.data.bulk.verify("few-events").rows
100
"""

from jaxgen.data.bulk.cost import Plan, plan
from jaxgen.data.bulk.dataset import Dataset
from jaxgen.data.bulk.generation import generate
from jaxgen.data.bulk.scoring import Scores, score_files
from jaxgen.data.bulk.verification import Verified, verify

__all__ = ["Dataset", "Plan", "Scores", "Verified", "generate", "plan", "score_files", "verify"]
