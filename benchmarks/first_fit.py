"""The first fit of a process, with its compilation; the command ``jaxgen fit`` with a warm cache.

The fits are of one epoch, or of EM until it converges, and their time is that of the call of
``jaxgen.fit`` without the imports. That of the command is the time of the whole process. Its cache
of compiled programs is in a folder of its own, which the first run fills.
"""

import tempfile
from pathlib import Path

import jax
import numpy as np

import jaxgen
from benchmarks.timing import Here, NewProcess
from jaxgen import models

FITS = {  # by name: the model, further arguments, and the most seconds
    "coupling": (models.SplineCoupling(2), {"epochs": 1}, 5),
    "masked": (models.MaskedAutoregressive(2), {"epochs": 1}, 2.5),
    "mixture": (models.GaussianMixture(2, components=8), {}, 0.9),
}
ROWS = 10_000


def run(harness):
    least, harness.least = harness.least, min(harness.least, 3)
    for name in harness.pick(list(FITS), ["mixture"]):
        target = {"jaxgen": f"seconds_median <= {FITS[name][2]}"}
        case = f"{name} of 2 features, {ROWS:,} rows, cold"
        for row in harness.compare(case, name, {"jaxgen": _in_new_process}, target):
            row["compile_seconds"] = None  # each run compiles
            yield row
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder, "x.npy"), events())
        target, model = (
            {"jaxgen": "seconds_median <= 3"},
            harness.pick("SplineCoupling", "Gaussian"),
        )
        case = f"jaxgen fit --model {model}, the second process"
        makes = {"jaxgen": lambda folder: _command(folder, model)}
        yield from harness.compare(case, Path(folder), makes, target)
    harness.least = least


def events():
    return np.random.default_rng(0).normal(size=(ROWS, 2)).astype(np.float32)


def seconds(name):
    """Seconds of a fit, to be called in a new process."""
    model, more, _ = FITS[name]
    x, key = events(), jax.random.key(0)
    return Here(lambda: jaxgen.fit(model, x, key=key, progress=False, **more).params).time(1)


def _in_new_process(name):
    code = f"from benchmarks.first_fit import seconds; print(seconds({name!r}))"
    return NewProcess("-c", code, prints=True, environment={"JAX_COMPILATION_CACHE_DIR": None})


def _command(folder, model):
    more = ["--model", model, "--out", str(folder / "x.jaxgen")]
    more += ["--epochs", "1"] if model == "SplineCoupling" else []
    variables = {"XDG_CACHE_HOME": str(folder), "JAX_COMPILATION_CACHE_DIR": None}
    return NewProcess("-m", "jaxgen", "fit", str(folder / "x.npy"), *more, environment=variables)
