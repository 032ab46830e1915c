"""Models and runs of ``jaxgen.generate`` for the tests of bulk generation.

Processes are forked from a server that has imported jaxgen, so that each starts fast. The server
must not start a backend of JAX, whose threads do not survive a fork: nothing here may make an array
of JAX on import.
"""

from __future__ import annotations

import functools
import hashlib
import multiprocessing
import os
import pathlib
import signal
import sys
import time
from multiprocessing import forkserver
from unittest import mock

import jax
import numpy as np
from compilation import Compilation
from jax._src import xla_bridge

import jaxgen
from jaxgen.data import output

# the points of writing, in the order in which a run reaches them
POINTS = (
    "before the temporary file",
    "in the middle of a block",
    "before fsync",
    "after fsync",
    "after rename",
    "after fsync of the directory",
    "before the record of blocks",
    "after the record of blocks",
    "before the manifest",
    "after the manifest",
    "between the records to remove",
)
ROWS, BLOCK = 10_000, 500


@functools.cache
def context():
    """How processes are started."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["bulk_jobs"])
    # the server of Python 3.11 ignores sys.path
    with mock.patch.dict(os.environ, PYTHONPATH=str(pathlib.Path(__file__).parent)):
        forkserver.ensure_running()
    return found


def key():
    return jax.random.key(1)


def box():
    """A model that compiles fast."""
    low, high = np.array([-1, 5], np.float32), np.array([1, 6], np.float32)
    return jaxgen.Fitted(jaxgen.models.Box(2), {"low": low, "high": high})


def mixture():
    mean = np.array([[0, 0], [5, 0], [0, 5]], np.float32)
    tril = np.tril(np.ones((3, 2, 2), np.float32))
    params = {"logits": np.zeros(3, np.float32), "mean": mean, "scale_tril": tril}
    return jaxgen.Fitted(jaxgen.models.GaussianMixture(2, components=3), params)


def labelled():
    """Two features given one of three labels."""
    model = jaxgen.compose.PerClass(jaxgen.models.Gaussian(2), classes=3)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(90, 2)), np.repeat(["apple", "fig", "pear"], 30)
    return jaxgen.fit(model, x + 4 * np.repeat(np.arange(3), 30)[:, None], y, key=key())


def flow():
    model = jaxgen.models.SplineCoupling(3, layers=2, width=16)
    return jaxgen.Fitted(model, model.init(key()))


def images():
    network = jaxgen.networks.Transformer(16, layers=1)
    model = jaxgen.models.PixelAutoregressive((6, 5), levels=4, network=network, width=16)
    pixels = jaxgen.data.PixelFormat("L", 4)
    return jaxgen.Fitted(model, model.init(key()), pixels=pixels)


def texts():
    words = jaxgen.data.tokenize(["anna", "bob", "carola"])
    model = jaxgen.models.Autoregressive(
        8, words.vocabulary.size, network=jaxgen.networks.Transformer(16, layers=1)
    )
    return jaxgen.Fitted(model, model.init(key()), vocabulary=words.vocabulary)


def program():
    """A NumPyro program of one number given two."""
    import programs

    model = jaxgen.numpyro.from_program(
        programs.regression, y_shape=(2,), posterior=jaxgen.numpyro.Point()
    )
    return jaxgen.fit(model, programs.X, programs.Y, key=key(), epochs=2)


MODELS = {
    "mixture": (mixture, 7000, 1000),
    "labelled": (labelled, 700, 100),
    "flow": (flow, 7000, 1000),
    "images": (images, 70, 10),
    "texts": (texts, 700, 100),
    "program": (program, 700, 100),
}  # each with numbers of rows, and of rows of a block


def compile_quickly():
    """Compile without LLVM's optimizations, and keep programs in a folder for other processes.

    Processes whose bytes are compared must all do so: other options give other bits.
    """
    Compilation(pathlib.Path(__file__).parent.parent / ".cache")


def generate_all(directory, **arguments):
    """A folder for each of ``MODELS``."""
    for name, (make, rows, block) in MODELS.items():
        y = np.array([0.3, -1.0]) if name == "program" else None
        jaxgen.generate(
            make(), rows, pathlib.Path(directory) / name, key=key(), y=y, block_rows=block,
            log_prob=True, **arguments,
        )  # fmt: skip


def generate(directory, **arguments):
    """The job that runs to be stopped share."""
    jaxgen.generate(box(), ROWS, directory, **{"key": key(), "block_rows": BLOCK, **arguments})


def run(directory, point=None, visit=1, pause=0.0, hangup=signal.SIG_DFL, **arguments):
    """Generate in this process; be killed at the given visit of a point.

    Args:
      pause: seconds to wait in the middle of each block.
      hangup: the handler of SIGHUP, whatever the tests were started with.
    """
    signal.signal(signal.SIGHUP, hangup)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have switched it off
    left = [visit]

    def fault(reached):
        if reached == "in the middle of a block":
            time.sleep(pause)
        if reached == point:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    assert not xla_bridge.backends_are_initialized(), "the server has started a backend"
    compile_quickly()
    output.fault = fault
    try:
        generate(directory, **arguments)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def start(directory, *arguments, **keywords):
    """A process that runs ``run``."""
    process = context().Process(target=run, args=(directory, *arguments), kwargs=keywords)
    process.start()
    return process


def run_slow_model(directory):
    """Generate from a model whose first draw takes minutes of compiled code."""
    model = jaxgen.models.Autoregressive(512, 64, network=jaxgen.networks.Transformer(64, layers=2))
    jaxgen.generate(jaxgen.Fitted(model, model.init(key())), 4096, directory, key=key())


def content(directory):
    """The SHA-256 of each file in a folder and its subfolders, by name."""
    directory = pathlib.Path(directory)
    files = (path for path in directory.rglob("*") if path.is_file())
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def pause_in_blocks(seconds):
    """Wait in the middle of each block that this process writes."""
    output.fault = lambda point: time.sleep(seconds if point == "in the middle of a block" else 0)
