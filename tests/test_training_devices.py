"""Fits whose rows are split over several devices, and over two processes.

Subprocesses fit each model on one device and on several, and write how much the results differ.
"""

import contextlib
import json
import os
import pathlib
import pickle
import socket
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from compilation import Compilation
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from learners import KEY, Network, Noisy, Regression, waves

import jaxgen
from jaxgen.compose import Mixture, PerClass
from jaxgen.core.precision import enable_x64
from jaxgen.models import Gaussian, GaussianMixture, SplineCoupling
from jaxgen.training import Adam, fit, gradient
from jaxgen.training.progress import Progress

HERE = pathlib.Path(__file__).parent
FLOW = SplineCoupling(2, layers=2, width=8, depth=1)
ROWS = waves(700)
LABELS = np.arange(700) % 3
WEIGHTS = np.linspace(0.5, 2, 700)
MISSING = np.where(np.arange(1400).reshape(700, 2) % 9 == 0, np.nan, ROWS)
TIGHT = 1e-8  # in float64, after as many as 100 steps
SINGLE = 1e-5  # of one gradient in float32
EM = 1e-6


class Tiled(Noisy):
    """A loss with noise, whose gradient is taken in tiles."""

    traits = Noisy.traits._replace(tile=32)


class Last(SplineCoupling):
    """A flow that keeps its last params, so that a fit of one step shows the gradient."""

    @property
    def learning(self):
        return super().learning._replace(keep="last")


LAST = Last(2, layers=2, width=8, depth=1)


def by_rows(count, axes=("rows",), shape=None, spec=None):
    """The sharding of rows over the first devices."""
    devices = np.array(jax.devices()[:count]).reshape(shape or (count,))
    return NamedSharding(Mesh(devices, axes), PartitionSpec(spec or axes))


def difference(a, b):
    """The largest difference between params of two fits, and between their scores of epochs."""
    pairs = zip(*map(jax.tree_util.tree_leaves, (a.params, b.params)), strict=True)
    params = [np.abs(np.asarray(u) - np.asarray(v)).max(initial=0) for u, v in pairs]
    scores = np.subtract(a.history["train"], b.history["train"])
    assert a.history["stopped"] == b.history["stopped"]
    assert a.history["steps"] == b.history["steps"]
    return float(max(*params, np.abs(scores).max(initial=0)))


def compared(sharding, model, *data, **options):
    """How much a fit on several devices differs from one on a single device."""
    return on_one_and(sharding, model, *data, **options)[0]


def on_one_and(sharding, model, *data, **options):
    """That difference, and the fit on several devices."""
    one = fit(model, *data, key=KEY, **options)
    many = fit(model, *data, key=KEY, sharding=sharding, **options)
    for leaf in jax.tree_util.tree_leaves(many.params):
        assert not leaf.committed
        assert len(leaf.sharding.device_set) == 1
    assert one.history.get("best_epoch", 1) > 0  # else the params are those of the start
    return difference(one, many), many


def gradients(sharding, model, x):
    """The largest difference of the gradients of one step over all rows."""
    one_step = {"epochs": 1, "batch_size": len(x), "optimizer": optax.sgd(1.0), "validation": 0}
    fits = [fit(model, x, key=KEY, sharding=s, **one_step) for s in (None, sharding)]
    return difference(*fits)


class Interrupt(Exception):
    """Raised in place of KeyboardInterrupt."""


@contextlib.contextmanager
def interrupted():
    """A context in which a run stops after its first chunk."""
    advance = Progress.advance

    def stop(self, *args):
        raise Interrupt

    Progress.advance = stop
    try:
        with contextlib.suppress(Interrupt):
            yield
            raise AssertionError("the run was not interrupted")
    finally:
        Progress.advance = advance


def resumed(path, first, later):
    """The difference of a run, interrupted on some devices and resumed on others, from one without
    interrupt."""
    options = {"key": KEY, "epochs": 40}
    whole = fit(Network(), ROWS, sharding=later, **options)
    with interrupted():
        fit(Network(), ROWS, sharding=first, checkpoint=path, **options)
    assert jax.process_index() > 0 or pathlib.Path(path).exists()  # the first process writes it
    return difference(whole, fit(Network(), ROWS, sharding=later, checkpoint=path, **options))


def differences(folder):
    """How much fits on several devices differ from fits on one, with the tolerance of each."""
    eight, three = by_rows(8), by_rows(3)
    two_axes = by_rows(8, ("a", "b"), (4, 2), ("a",))
    found = {"one gradient in float32": (gradients(eight, LAST, ROWS), SINGLE)}
    with enable_x64(True):
        fits = {
            "a flow, 100 steps": compared(eight, FLOW, ROWS, epochs=34),
            "uneven batches": compared(three, Network(), ROWS, epochs=5, batch_size=100),
            "weights": compared(eight, Network(), ROWS, epochs=5, weights=WEIGHTS),
            "conditions": compared(eight, Regression(), ROWS[:, 1], ROWS[:, 0], epochs=5),
            "noise": compared(eight, Noisy(), ROWS[:, 0], epochs=5, validation=0.5),
            "noise, many rows": compared(three, Noisy(), np.resize(ROWS, 2500), epochs=2),
            "noise, one batch": compared(eight, Noisy(), ROWS[:200, 0], epochs=5),
            "noise, tiles": compared(three, Tiled(), ROWS[:, 0], epochs=3, batch_size=500),
            "an ensemble": compared(eight, Network(), ROWS, epochs=3, ensemble=2),
            "classes": compared(eight, PerClass(Network(), 3), ROWS, LABELS, epochs=3),
            "a line search": compared(
                three, Gaussian(2), ROWS[:200], epochs=5, optimizer=optax.lbfgs()
            ),
            "fewer rows than devices": compared(eight, Network(), ROWS[:3], epochs=9),
            "two axes": compared(two_axes, Network(), ROWS, epochs=5),
            "resumed": resumed(f"{folder}/8.ckpt", eight, eight),
            "resumed on other devices": resumed(f"{folder}/3.ckpt", three, eight),
        }
        found |= {name: (value, TIGHT) for name, value in fits.items()}
        steps = {
            "normals": compared(eight, GaussianMixture(2, components=3), ROWS),
            "missing values": compared(three, GaussianMixture(2, components=2), MISSING),
            "a mixture of any family": compared(two_axes, Mixture(Gaussian(2), 2), ROWS),
            "three rows": compared(eight, GaussianMixture(2, components=1), ROWS[:3]),
        }
        found |= {f"EM, {name}": (value, EM) for name, value in steps.items()}
    return found


def write_differences(folder, cache):
    Compilation(pathlib.Path(cache))
    assert len(jax.devices()) == 8
    pathlib.Path(folder, "found.json").write_text(json.dumps(differences(folder)))


def write_of_process(folder, number):
    """Differences of fits on two processes of two devices each, and the bits of their params."""
    assert jax.process_index() == number
    assert len(jax.local_devices()) == 2
    four, found, bits = by_rows(4), {}, []
    with enable_x64(True):
        for name, model, options, most in (
            ("flow", FLOW, {"epochs": 34}, TIGHT),
            ("lbfgs", Gaussian(2), {"epochs": 5, "optimizer": optax.lbfgs()}, TIGHT),
            ("ensemble", Gaussian(2), {"epochs": 5, "ensemble": 2, "optimizer": Adam()}, TIGHT),
            ("normals", GaussianMixture(2, components=3), {}, EM),
        ):
            value, many = on_one_and(four, model, ROWS, **options)
            found[name], many = (value, most), pickle.loads(pickle.dumps(many))
            bits += [np.asarray(v).tobytes().hex() for v in jax.tree_util.tree_leaves(many.params)]
            bits.append(np.asarray(many.sample(KEY, 8)).tobytes().hex())
        found["resumed"] = resumed(f"{folder}/run.ckpt", four, four), TIGHT
        for name, data, others in (
            ("x", ROWS + number, {"checkpoint": None}),
            ("checkpoint", ROWS, {"checkpoint": f"{folder}/{number}.ckpt"}),
        ):
            if name == "checkpoint" and number == 0:
                with interrupted():
                    fit(Network(), ROWS, key=KEY, epochs=9, checkpoint=f"{folder}/0.ckpt")
            with pytest.raises(ValueError, match=f"every process.*these differ: {name}"):
                fit(Network(), data, key=KEY, epochs=9, sharding=four, **others)
        alone = NamedSharding(Mesh(np.array(jax.devices()[2:]), "r"), PartitionSpec("r"))
        if number == 0:
            with pytest.raises(ValueError, match="sharding must have a device of every process"):
                fit(Network(), ROWS, key=KEY, sharding=alone)
    result = {"found": found, "bits": bits}
    pathlib.Path(folder, f"{number}.json").write_text(json.dumps(result))


def started(code, devices, first="pass"):
    """A process with a number of devices that runs a function of this module.

    first: code that runs before the module is imported, which computes a key.
    """
    environment = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    environment["JAX_CPU_COLLECTIVES_IMPLEMENTATION"] = "gloo"
    code = f"{first}; import test_training_devices; test_training_devices.{code}"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=HERE,
        env={**os.environ, **environment},
    )


def assert_within(found):
    off = {name: (value, most) for name, (value, most) in found.items() if not value <= most}
    assert not off


def test_several_devices_give_the_result_of_one(tmp_path):
    cache = os.path.dirname(jax.config.jax_compilation_cache_dir)
    process = started(f"write_differences({str(tmp_path)!r}, {cache!r})", 8)
    assert process.wait(600) == 0
    assert_within(json.loads((tmp_path / "found.json").read_text()))


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(tmp_path):
    """Both also get the same bits, and refuse arguments or checkpoints that differ."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    both = [
        started(
            f"write_of_process({str(tmp_path)!r}, {i})",
            2,
            f"import jax; jax.distributed.initialize('localhost:{port}', 2, {i})",
        )
        for i in range(2)
    ]
    try:
        assert [process.wait(600) for process in both] == [0, 0]
    finally:
        for process in both:
            process.kill()
    results = [json.loads((tmp_path / f"{i}.json").read_text()) for i in range(2)]
    for result in results:
        assert_within(result["found"])
        assert result["bits"] == results[0]["bits"]


ROWS_OF_ONE = by_rows(1)
BAD = {
    "a mesh": (ROWS_OF_ONE.mesh, TypeError, "NamedSharding of rows over a Mesh"),
    "a spec": (PartitionSpec("rows"), TypeError, "NamedSharding of rows over a Mesh"),
    "a device": (jax.devices()[0], TypeError, "NamedSharding of rows over a Mesh"),
    "no devices": (
        NamedSharding(ROWS_OF_ONE.mesh.abstract_mesh, PartitionSpec("rows")),
        TypeError,
        "over a Mesh of devices, such as .*; got NamedSharding",
    ),
    "no axis": (
        NamedSharding(ROWS_OF_ONE.mesh, PartitionSpec()),
        ValueError,
        "split the first axis, that of rows, and no other",
    ),
    "the axis of features": (
        NamedSharding(ROWS_OF_ONE.mesh, PartitionSpec(None, "rows")),
        ValueError,
        "split the first axis, that of rows, and no other",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_sharding_of_something_else_is_refused(name):
    sharding, error, text = BAD[name]
    with pytest.raises(error, match=f"sharding must .*{text}"):
        fit(Network(), ROWS, key=KEY, sharding=sharding)


def test_a_closed_form_has_no_sharding():
    with pytest.raises(ValueError, match=r"sharding does not apply: .* for em and gradient"):
        fit(Gaussian(2), ROWS, key=KEY, sharding=ROWS_OF_ONE)
    with pytest.raises(TypeError, match="sharding"):
        jaxgen.select([Gaussian(2)], ROWS, key=KEY, sharding=3)


def test_settings_of_processes():
    """One device of one process shows progress, and its chunks may grow."""
    for sharding in (None, ROWS_OF_ONE):
        assert gradient.leads(sharding)
        assert not gradient.has_other_processes(sharding)
