"""Blocks of networks run in the calling thread and in others that have its JAX settings."""

from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

import jaxgen
from jaxgen.core import block_sizes, engine
from jaxgen.models import SplineCoupling

KEY = jax.random.key(3)
MODEL = SplineCoupling(2, 2, 8, 1, 4)


def fitted(dtype):
    params = jax.jit(MODEL.init)(KEY)
    return jaxgen.Fitted(
        MODEL, jax.tree_util.tree_map(lambda v: np.asarray(v).astype(dtype), params)
    )


@pytest.fixture
def started(monkeypatch):
    """The calls that were given to a helper, which returns None for those with other settings."""
    futures, helper = [], ThreadPoolExecutor(1)
    submit = helper.submit
    monkeypatch.setattr(helper, "submit", lambda *a: futures.append(submit(*a)) or futures[-1])
    monkeypatch.setattr(engine, "_helpers", lambda: [helper])
    monkeypatch.setattr(block_sizes, "CORES", 2)
    monkeypatch.setattr(block_sizes, "RUNGS", (512,))
    yield futures
    helper.shutdown()


@pytest.mark.parametrize("x64", [False, True])
def test_blocks_of_networks_run_in_threads(x64, started):
    """Threads give the result of one block; with settings that they do not have they do not run."""
    with jax.enable_x64(x64):
        dtype = np.float64 if x64 else np.float32
        flow = fitted(dtype)
        x = flow.sample(KEY, 3000)
        assert x.dtype == dtype
        whole = jax.jit(lambda params: jaxgen.sample(MODEL, params, KEY, 3000))(flow.params)
        np.testing.assert_allclose(x, whole, rtol=1e-5, atol=1e-6)
        assert flow.log_prob(x).dtype == dtype
    # of the six blocks of a draw and of a score, every second one
    assert len(started) == 2 * 3
    assert {future.result() is None for future in started} == {x64}


def test_blocks_of_strict_callers_run_in_threads(started):
    """Every thread runs under JAX's standard promotion rules."""
    flow = fitted(np.float32)
    wanted = flow.sample(KEY, 3000)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        np.testing.assert_array_equal(flow.sample(KEY, 3000), wanted)
    assert len(started) == 2 * 3
    assert all(future.result() is not None for future in started)


def test_blocks_run_while_the_interpreter_ends(monkeypatch):
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    monkeypatch.setattr(engine, "_helpers", lambda: [pool])
    monkeypatch.setattr(block_sizes, "CORES", 2)
    monkeypatch.setattr(block_sizes, "RUNGS", (512,))
    assert fitted(np.float32).sample(KEY, 3000).shape == (3000, 2)


def test_rows_of_tiles_cross_the_low_word(monkeypatch):
    """Tiles count rows beyond 32 bits: the second half of a stream is a stream from there."""
    flow, start = fitted(np.float32), 2**32 - 300
    monkeypatch.setattr(block_sizes, "RUNGS", (2 * MODEL.traits.tile,))
    monkeypatch.setattr(block_sizes, "BLOCK_BYTES", 2**40)
    whole = np.concatenate(list(flow.stream(KEY, 2 * MODEL.traits.tile, start=start)))
    half = np.concatenate(
        list(flow.stream(KEY, MODEL.traits.tile, start=start + MODEL.traits.tile))
    )
    np.testing.assert_allclose(whole[MODEL.traits.tile :], half, rtol=1e-5, atol=1e-6)
