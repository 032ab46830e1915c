"""Tests in separate processes: several devices, and the memory of a stream."""

import os
import pathlib

import jax
import numpy as np
import pytest
from compilation import Compilation
from families import FAMILIES, KEY, family, same_bytes
from subprocesses import run_python

import jaxgen
from jaxgen.core import engine

ROWS = 30_000


def drawn():
    """Events and scores of all families by default, and of one family on every placement."""
    found = {}
    for name in FAMILIES:
        fitted = family(name)
        x = fitted.sample(KEY, ROWS)
        found |= {f"{name} x": x, f"{name} score": fitted.log_prob(x)}
    fitted, n = family("mixture"), ROWS
    first, last = jax.devices()[0], jax.devices()[-1]
    assert fitted.sample(KEY, n).devices() == {first}

    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("rows",))
    by_rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("rows"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    for name, place in (("last", last), ("by rows", by_rows), ("whole", whole)):
        x = fitted.sample(KEY, n, device=place)
        score = fitted.log_prob(x, device=place)
        for value in (x, score):
            wanted = jax.sharding.SingleDeviceSharding(last) if place is last else place
            assert value.sharding.is_equivalent_to(wanted, value.ndim)
        found |= {f"mixture x, {name}": x, f"mixture score, {name}": score}
        blocks = list(fitted.stream(KEY, n, device=place))
        assert all(block.devices() <= set(jax.devices()) for block in blocks)
        found[f"mixture x, stream {name}"] = np.concatenate(blocks)

    with jax.default_device(last):
        x = fitted.sample(KEY, n)
        assert x.devices() == {last}
        assert engine.devices_of(fitted.params) == (last,)
        found["mixture x, by default last"] = x
    with jax.default_device("cpu"):
        assert engine.devices_of(fitted.params) == (first,)
    bound = jaxgen.Fitted(fitted.model, jax.device_put(fitted.params, last))
    assert engine.devices_of(bound.params) == (last,)
    found["mixture x, params last"] = bound.sample(KEY, n)
    found["mixture x, blocks"] = np.concatenate(list(fitted.stream(KEY, n)))
    return {name: np.asarray(value) for name, value in found.items()}


def write_drawn(path, cache=None):
    if cache is not None:
        Compilation(pathlib.Path(cache))
    np.savez(path, devices=len(jax.devices()), **drawn())


def in_subprocess(code, **environment):
    run_python(f"import test_engine_devices; test_engine_devices.{code}", **environment)


def drawn_on(count, path, cache=None):
    """The results of ``drawn`` in a process with ``count`` devices.

    With a cache, programs are compiled with the quick options of the tests.
    """
    in_subprocess(f"write_drawn({str(path)!r}, {cache!r})", JAX_NUM_CPU_DEVICES=str(count))
    with np.load(path) as file:
        found = dict(file)
    assert found.pop("devices") == count
    return found


def assert_same(found, on_one):
    assert found.keys() == on_one.keys()
    for name, value in found.items():
        same_bytes(name.split()[0], value, on_one[name])
        same_bytes(name.split()[0], value, on_one[name.split(",")[0]])


def test_two_devices_change_no_value(tmp_path):
    """Two devices give the same bytes as one, for every placement."""
    cache = os.path.dirname(jax.config.jax_compilation_cache_dir)
    one = jax.default_backend() == "cpu" and jax.local_device_count() == 1
    on_one = drawn() if one else drawn_on(1, tmp_path / "1.npz", cache)
    assert_same(on_one, on_one)
    assert_same(drawn_on(2, tmp_path / "2.npz", cache), on_one)


@pytest.mark.slow
def test_devices_change_no_value(tmp_path):
    """1, 2 and 8 devices give the same bytes for every placement, also in optimized code."""
    found = {count: drawn_on(count, tmp_path / f"{count}.npz") for count in (1, 2, 8)}
    for values in found.values():
        assert_same(values, found[1])


def write_growth(path):
    """Stream 2e7 events and write the growth of resident memory after the first block, in bytes."""

    def resident():
        status = pathlib.Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmRSS:")[1].split()[0])

    rows, first, most = 0, None, 0
    for block in family("mixture").stream(KEY, 20_000_000):
        rows += len(block)
        first = resident() if first is None else first
        most = max(most, resident())
    assert rows == 20_000_000
    pathlib.Path(path).write_text(str(most - first))


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is read from /proc")
def test_a_stream_takes_constant_memory(tmp_path):
    path = tmp_path / "growth"
    in_subprocess(f"write_growth({str(path)!r})")
    assert int(path.read_text()) < 64 * 2**20
