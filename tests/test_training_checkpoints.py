"""Checkpoints of training: a run resumes where it stopped, and other runs cannot use its file."""

import contextlib
import errno
import os
import re
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from learners import KEY, SMALL, Leaves, Network, Regression, Steep, waves

from jaxgen.core.precision import enable_x64
from jaxgen.data.output import write_atomically
from jaxgen.laws import count_compiles
from jaxgen.training import Adam, checkpoint, fit, gradient, optimizers
from jaxgen.training.fitted import Fitted
from jaxgen.training.progress import Progress

OF_MEMBERS = [Adam(), Adam(1e-3), Adam(weight_decay=1.0)]
MOMENTUM = optax.sgd(0.3, momentum=0.5)
# Its state has a key, and numbers in a dtype that NumPy lacks.
NOISY = optax.chain(optax.add_noise(0.1, 0.5, 3), optax.adam(1e-3, mu_dtype=jnp.bfloat16))


class Interrupt(Exception):
    """Raised by tests in place of KeyboardInterrupt."""


@contextlib.contextmanager
def interrupted(monkeypatch, after):
    """A context in which a run stops after a number of chunks."""
    advance, calls = Progress.advance, []

    def count(self, *args):
        calls.append(args)
        if len(calls) == after:
            raise Interrupt
        advance(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "advance", count)
        patch.setattr(gradient, "SOON", 0.0)  # chunks stay short
        with pytest.raises(Interrupt):
            yield


def assert_same_bits(a, b):
    pairs = zip(*map(jax.tree_util.tree_leaves, (a.params, b.params)), strict=True)
    for one, other in pairs:
        assert one.dtype == other.dtype
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
    assert {**a.history, "seconds": 0} == {**b.history, "seconds": 0}


@pytest.mark.parametrize("after", [1, 3])
@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (Network(), {"validation": 0.2}),
        (Network(), {"ensemble": 3, "optimizer": OF_MEMBERS, "freeze": ("0/bias",)}),
        (Network(), {"optimizer": MOMENTUM, "freeze": ("0/bias",)}),
        (Network(), {"optimizer": MOMENTUM, "freeze": ("0/bias",), "ensemble": 6, "patience": 2}),
        (Leaves(), {"optimizer": NOISY, "freeze": ("cube",)}),
    ],
    ids=["adam", "ensemble", "optax", "patience", "leaves"],
)
def test_a_run_goes_on_where_it_stopped(model, settings, after, tmp_path, monkeypatch):
    x = waves(60) if model.event_shape else waves(60)[:, 1]
    settings = {**SMALL, "key": KEY, "epochs": 6, **settings}
    whole = fit(model, x, **settings)
    path = tmp_path / "run"
    with interrupted(monkeypatch, after):
        fit(model, x, checkpoint=path, **settings)
    counted, compiled = [], gradient._chunk
    monkeypatch.setattr(gradient, "_chunk", lambda *a: counted.append(a) or compiled(*a))
    resumed = fit(model, x, checkpoint=str(path), **settings)
    assert 0 < len(counted) <= 6 - after
    assert_same_bits(resumed, whole)

    counted.clear()
    written = path.stat().st_mtime_ns
    with count_compiles() as count:
        again = fit(model, x, checkpoint=path, **settings)
    assert_same_bits(again, whole)
    assert counted == []
    assert count == [0]
    assert path.stat().st_mtime_ns == written
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_within_a_chunk_keeps_the_last_complete_one(tmp_path, monkeypatch):
    settings = {**SMALL, "key": KEY, "epochs": 6, "checkpoint": tmp_path / "run"}
    counted = []

    def chunk(*args):
        counted.append(args)
        if len(counted) == 5:  # the first one scores the start
            raise KeyboardInterrupt
        return compiled(*args)

    compiled = gradient._chunk
    monkeypatch.setattr(gradient, "_chunk", chunk)
    monkeypatch.setattr(gradient, "SOON", 0.0)  # chunks stay short
    with pytest.raises(KeyboardInterrupt):
        fit(Network(), waves(60), **settings)
    resumed = fit(Network(), waves(60), **settings)
    assert len(counted) == 5 + 3
    del settings["checkpoint"]
    assert_same_bits(resumed, fit(Network(), waves(60), **settings))


def test_a_run_that_turned_nan_is_done(tmp_path):
    settings = {"key": KEY, "validation": 0, "optimizer": optax.sgd(0.125), "epochs": 30}
    settings["checkpoint"] = tmp_path / "run"
    fitted = []
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match="not finite at step"):
            fitted.append(fit(Steep(), np.zeros(5), **settings))
    assert_same_bits(*fitted)


def test_short_runs_write_once_and_long_ones_by_the_chunk(tmp_path, monkeypatch):
    written = []

    @contextlib.contextmanager
    def counted(path):
        written.append(path)
        with write_atomically(path) as file:
            yield file

    monkeypatch.setattr(checkpoint, "write_atomically", counted)
    monkeypatch.setattr(gradient, "SOON", 0.0)  # chunks stay short
    settings = {**SMALL, "key": KEY, "epochs": 6}
    fit(Network(), waves(60), checkpoint=tmp_path / "a", **settings)
    assert written == [tmp_path / "a"]
    monkeypatch.setattr(checkpoint, "PAUSE", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", 1e9)
    fit(Network(), waves(60), checkpoint=tmp_path / "b", **settings)
    assert written[1:] == [tmp_path / "b"] * 6


@pytest.mark.parametrize("name", ["ENOSPC", "EIO", "EDQUOT", "EACCES", "EROFS", "memory", "gone"])
def test_a_disk_that_fails_loses_no_training(name, tmp_path, monkeypatch):
    """Writes 3 and 4 fail: the last good checkpoint stays, and later writes may succeed."""
    calls = []
    path = tmp_path / "runs" / "run"
    path.parent.mkdir()

    @contextlib.contextmanager
    def failing(target):
        calls.append(target)
        if len(calls) == 3 and name == "gone":
            path.rename(tmp_path / "run")
            path.parent.rmdir()
        if 3 <= len(calls) <= 4 and name != "gone":
            number = getattr(errno, name, None)
            raise MemoryError if number is None else OSError(number, os.strerror(number), target)
        with write_atomically(target) as file:
            yield file

    monkeypatch.setattr(checkpoint, "write_atomically", failing)
    monkeypatch.setattr(checkpoint, "PAUSE", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", 1e9)
    monkeypatch.setattr(gradient, "SOON", 0.0)  # chunks stay short
    settings = {**SMALL, "key": KEY, "epochs": 6}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted = fit(Network(), waves(60), checkpoint=path, **settings)
    (warning,) = caught  # once, with the location of the call in this file
    assert re.match(
        f"checkpoint {path} could not be written: .*; training goes", str(warning.message)
    )
    assert warning.filename == __file__
    assert_same_bits(fitted, fit(Network(), waves(60), **settings))
    if name == "gone":
        path = tmp_path / "run"
    assert list(tmp_path.rglob("*run")) == [path]
    counted, compiled = [], gradient._chunk
    monkeypatch.setattr(gradient, "_chunk", lambda *a: counted.append(a) or compiled(*a))
    assert_same_bits(fit(Network(), waves(60), checkpoint=path, **settings), fitted)
    assert len(counted) == (4 if name == "gone" else 0)


def test_a_checkpoint_is_a_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/null"):
        with pytest.raises(OSError, match=f"checkpoint {path} must be a regular file"):
            fit(Network(), waves(60), checkpoint=path, **SMALL, key=KEY)


RUN = {
    "model": Network(), "x": waves(60), "key": KEY, "epochs": 2, "batch_size": 16, "patience": 9,
    "validation": 0.2, "optimizer": Adam(), "freeze": ("0/bias",), "weights": np.ones(60),
    "ensemble": 3,
}  # fmt: skip
OTHER = {
    "model": [(Network(3), "model"), (Fitted(Network(), Network().init(KEY)), "start")],
    "x": [(waves(60, seed=1), "x")],
    "key": [(jax.random.key(1), "key"), (jax.random.key(0, impl="rbg"), "key")],
    "epochs": [(3, r"epochs \(2 there, 3 here\)")],
    "batch_size": [(17, r"batch_size \(16 there, 17 here\)")],
    "patience": [(8, "patience"), (None, "patience")],
    "validation": [(0.1, r"validation \(0.2 there, 0.1 here\)"), (waves(9), "validation")],
    "optimizer": [
        (Adam(1e-4), r"optimizer"), (Adam(clip=1.0), "optimizer"), (optax.sgd(1), "optimizer"),
        (Adam(weight_decay=0.1), "optimizer"), ([Adam(), Adam(), Adam(1e-4)], "optimizer"),
    ],
    "freeze": [((), "freeze"), (("1.bias",), "freeze")],
    "weights": [(np.r_[2.0, np.ones(59)], "weights")],
    "ensemble": [(2, r"ensemble \(3 there, 2 here\)"), (None, "ensemble")],
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "run"
    fit(**RUN, checkpoint=path)
    return path


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [(name, value, said) for name, others in OTHER.items() for value, said in others],
)
def test_a_checkpoint_of_another_run_is_refused(name, value, said, finished):
    before = finished.read_bytes()
    with pytest.raises(ValueError, match=f"of another run, with other {said}.*: remove") as error:
        fit(**{**RUN, name: value}, checkpoint=finished)
    differences = str(error.value).split("with other ")[1]
    assert not [
        one for one in OTHER if one != name and re.search(rf"(^|, ){one}[ ,:]", differences)
    ]
    assert finished.read_bytes() == before


def test_other_conditions_are_another_run(tmp_path):
    settings = {"key": KEY, **SMALL, "checkpoint": tmp_path / "run"}
    fit(Regression(), np.ones(9), np.ones(9), **settings)
    with pytest.raises(ValueError, match="with other y:"):
        fit(Regression(), np.ones(9), np.zeros(9), **settings)


def test_arguments_that_say_the_same_are_the_same_run(finished):
    same = {"freeze": "0.bias", "optimizer": [Adam(), Adam(5e-3), Adam()], "x": RUN["x"].tolist()}
    fit(**{**RUN, **same}, checkpoint=finished)


def test_a_checkpoint_in_another_precision_or_version_is_refused(finished, monkeypatch):
    with enable_x64(True), pytest.raises(ValueError, match=r"with other .*dtype"):
        fit(**RUN, checkpoint=finished)
    monkeypatch.setattr(gradient, "versions", lambda *_: "jax 0.1")
    with pytest.raises(ValueError, match="with other versions"):
        fit(**RUN, checkpoint=finished)


def spoiled(raw):
    yield b""
    yield b"notes"
    yield raw[:-1]
    yield raw[:100]
    yield raw + b"\0"
    yield raw + bytes(10**6)
    for place in np.random.default_rng(0).integers(0, len(raw), 20):
        yield raw[:place] + bytes([raw[place] ^ 4]) + raw[place + 1 :]


def test_a_damaged_checkpoint_is_refused(finished, tmp_path):
    path = tmp_path / "run"
    for raw in spoiled(finished.read_bytes()):
        path.write_bytes(raw)
        with pytest.raises(ValueError, match=r"run is (damaged|of another run)"):
            fit(**RUN, checkpoint=path)
    Fitted(Network(), Network().init(KEY)).save(path)
    with pytest.raises(ValueError, match="run is damaged, or no checkpoint"):
        fit(**RUN, checkpoint=path)


DESCRIBE = """
import optax
from jaxgen.training.optimizers import Adam, describe
rate = optax.cosine_decay_schedule(1e-3, 100)
def own(step):
    return 1e-3 if step in {1, 2, 3} else {"a": 2.0, "b": 3.0}["a"]
for made in (optax.adam(1e-3), optax.adamw(rate), optax.sgd(own), optax.lbfgs(), Adam(1e-3)):
    print(describe(made, None))
"""


def test_descriptions_of_optimizers_outlive_the_process(capsys):
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"  # different from this process
    other = subprocess.run(
        [sys.executable, "-c", DESCRIBE],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    exec(DESCRIBE, {"__name__": "__main__"})
    assert capsys.readouterr().out == other
    assert len(set(other.split("\n"))) == 6
    assert optimizers.describe(optax.adam(1e-3), 2) != optimizers.describe(optax.adam(2e-3), 2)
