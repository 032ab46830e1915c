"""Blocks of any size, in any order and in streams, hold the same events."""

import jax
import numpy as np
import pytest
from cases import CASES
from families import FAMILIES, KEY, family, same_bytes

import jaxgen
from jaxgen.core import block_sizes
from jaxgen.models import Box

BLOCKS = (64, 512, 2048, 10240)


@pytest.mark.optimized
@pytest.mark.parametrize("name", FAMILIES)
def test_blocks_of_any_size_give_the_same_events(name, monkeypatch):
    """Every block size gives the same bytes, for a number of rows that needs padding."""
    fitted, n = family(name), 10_300
    x = fitted.sample(KEY, n)
    for rung in BLOCKS:
        monkeypatch.setattr(block_sizes, "RUNGS", (rung,))
        rows = min(n, 40 * rung)  # enough blocks
        same_bytes(name, fitted.sample(KEY, rows), x[:rows])


@pytest.mark.parametrize("name", FAMILIES)
def test_blocks_of_any_size_give_the_same_scores(name, monkeypatch):
    """Scores agree up to rounding."""
    fitted, n = family(name), 10_300
    x = fitted.sample(KEY, n)
    score = fitted.log_prob(x)
    assert np.isfinite(score).all()
    for rung in BLOCKS:
        monkeypatch.setattr(block_sizes, "RUNGS", (rung,))
        rows = min(n, 40 * rung)
        np.testing.assert_allclose(fitted.log_prob(x[:rows]), score[:rows], rtol=1e-6, atol=1e-6)


@pytest.mark.optimized
@pytest.mark.parametrize("name", FAMILIES)
def test_blocks_in_any_order_give_the_same_bytes(name):
    fitted = family(name)
    x = np.asarray(fitted.sample(KEY, 5000))
    for start in (4500, 64, 0, 4999, 1000):
        (block,) = fitted.stream(KEY, min(500, 5000 - start), start=start)
        same_bytes(name, block, x[start : start + len(block)])


@pytest.mark.optimized
@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 700, 5000, 30_001])
def test_stream_is_sample(n):
    fitted = family("mixture")
    blocks = list(fitted.stream(KEY, n))
    assert all(isinstance(block, jax.Array) for block in blocks)
    assert {block.shape[1:] for block in blocks} == {(2,)}
    same_bytes("mixture", np.concatenate(blocks), fitted.sample(KEY, n))


@pytest.mark.optimized
def test_a_stream_of_many_blocks(monkeypatch):
    monkeypatch.setattr(block_sizes, "RUNGS", (64,))
    fitted = family("mixture")
    blocks = list(fitted.stream(KEY, 1000, start=77))
    assert [len(block) for block in blocks] == 15 * [64] + [40]
    same_bytes("mixture", np.concatenate(blocks), fitted.sample(KEY, 1077)[77:])


@pytest.mark.optimized
@pytest.mark.parametrize("start", [2**32 - 100, 2**40 + 3, 2**64 - 300])
def test_a_stream_starts_at_any_row(start):
    """Starts may exceed 32 bits; events of a unit box are the uniform numbers themselves."""
    box = jaxgen.Fitted(Box(2), {"low": np.zeros(2, np.float32), "high": np.ones(2, np.float32)})
    x = np.concatenate(list(box.stream(KEY, 300, start=start)))
    draw = jax.jit(lambda key: jaxgen.random.uniform(key, (300, 2), start=start))
    np.testing.assert_array_equal(x, draw(KEY))


@pytest.mark.parametrize("start", [2**64, 2**64 - 299, 2**70, np.uint64(2**64 - 1), -1])
def test_a_stream_beyond_the_last_row_is_refused(start):
    """Row numbers are below 2**64; the next would be row 0 again."""
    with pytest.raises(ValueError, match="start must be at "):
        family("mixture").stream(KEY, 300, start=start)


@pytest.mark.optimized
def test_a_stream_given_y(monkeypatch):
    """y holds one condition per row of the stream, or one for all rows."""
    (case,) = (case for case in CASES if case.name == "linear_gaussian")
    params = {"w": [0.7, -0.4], "b": [0.3], "log_scale": [-0.2]}
    fitted = jaxgen.Fitted(case.model, {k: np.float32(v) for k, v in params.items()})
    y = np.random.default_rng(0).normal(size=(5000, 2)).astype(np.float32)
    x = np.asarray(fitted.sample(KEY, 5000, y))
    assert abs(np.corrcoef(x[:, 0], y @ fitted.params["w"])[0, 1]) > 0.1
    monkeypatch.setattr(block_sizes, "RUNGS", (512,))
    for start in (0, 100, 4000):
        blocks = list(fitted.stream(KEY, 5000 - start, y[start:], start=start))
        np.testing.assert_array_equal(np.concatenate(blocks), x[start:])
    one = np.concatenate(list(fitted.stream(KEY, 1000, y[3])))
    np.testing.assert_array_equal(one, fitted.sample(KEY, 1000, y[3]))
    with pytest.raises(ValueError, match=r"\by\b"):
        fitted.stream(KEY, 10, y)


def test_a_stream_holds_few_blocks(monkeypatch):
    """Blocks that were yielded and released are freed, however long the stream is."""
    monkeypatch.setattr(block_sizes, "RUNGS", (64,))
    fitted, held, before = family("mixture"), [], {id(array) for array in jax.live_arrays()}
    for block in fitted.stream(KEY, 100 * 64):
        new = (array for array in jax.live_arrays() if id(array) not in before)
        held.append(sum(array.shape == block.shape for array in new))
    assert len(held) == 100
    assert max(held) <= 6
