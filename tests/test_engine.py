"""Blocks change no value, and no program is compiled for n."""

import os
import pathlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, subject

import jaxgen
from jaxgen import engine
from jaxgen.check import count_compiles
from jaxgen.models import (
    KDE,
    Bernoulli,
    Box,
    Categorical,
    Gaussian,
    GaussianMixture,
    Histogram,
    SplineCoupling,
)

KEY = jax.random.key(3)
SIZES = (1, 7, 64, 65, 400, 512, 1000, 5000, 70_000, 200_000)


def mixture():
    return GaussianMixture(2, components=3)


@pytest.fixture
def fitted():
    jax.clear_caches()
    return jaxgen.Fitted(mixture(), mixture().init(jax.random.key(0)))


def test_ten_sizes_compile_once_for_each_rung(fitted):
    with count_compiles() as count:
        samples = [fitted.sample(KEY, n) for n in SIZES]
    rungs = {engine.block_size(fitted.model, fitted.params, n, fitted.model.noise()) for n in SIZES}
    assert count[0] <= len(rungs) <= len(engine.RUNGS)
    for n, x in zip(SIZES, samples, strict=True):
        assert x.shape == (n, 2)
        np.testing.assert_allclose(x, samples[-1][:n], rtol=1e-6, atol=1e-6)


def test_equal_spec_and_new_params_compile_nothing(fitted):
    x = fitted.sample(KEY, 100)
    fitted.log_prob(x)
    twin = jaxgen.Fitted(mixture(), jax.device_put(mixture().init(jax.random.key(9))))
    with count_compiles() as count:
        twin.sample(KEY, 90)
        twin.log_prob(np.asarray(x)[:80])
        twin.log_prob(x)
        twin.log_prob(np.asarray(x, np.float64).reshape(4, 25, 2))
    assert count[0] == 0


def test_ten_is_a_prefix_of_a_thousand(fitted):
    np.testing.assert_array_equal(fitted.sample(KEY, 10), fitted.sample(KEY, 1000)[:10])


def test_jitted_sample_is_fitted_sample(fitted):
    draw = jax.jit(lambda params: jaxgen.sample(fitted.model, params, KEY, 1000))
    np.testing.assert_allclose(draw(fitted.params), fitted.sample(KEY, 1000), rtol=1e-6)


def test_fitted_passes_through_transformations(fitted):
    x = fitted.sample(KEY, 50)
    inside = jax.jit(lambda f, x: f.log_prob(x))(fitted, x)
    np.testing.assert_allclose(inside, fitted.log_prob(x), rtol=1e-5)
    slope = jax.grad(lambda f: f.log_prob(x).mean())(fitted)
    assert slope.params["mean"].shape == (3, 2)


def test_padding_and_wide_events():
    wide = Bernoulli((50, 60))
    params = wide.init(None)
    assert engine.block_size(wide, params, 10**6, wide.noise()) * 3000 * 4 <= engine.BLOCK_BYTES
    plain = Gaussian(2)
    for n in (1, 64, 65, 5000, 10**6):
        size = engine.block_size(plain, plain.init(None), n)
        assert -(-n // size) * size <= max(2.1 * n, 512)
    dear = KDE(2)  # a row of which takes longer than a block's start
    params = {"points": np.zeros((10_000, 2)), "log_weights": np.zeros(10_000)}
    for n in (100, 1000, 10_000, 100_000):
        assert -(-n // engine.block_size(dear, params, n)) * engine.block_size(dear, params, n) <= (
            1.3 * n
        )


def test_no_events(fitted):
    assert fitted.sample(KEY, 0).shape == (0, 2)
    assert fitted.log_prob(np.zeros((0, 2))).shape == (0,)
    assert fitted.log_prob(np.zeros((0, 4, 2))).shape == (0, 4)


# blocks, streams and devices change no value

RNG = np.random.default_rng(0)
_MEANS = 3 * RNG.normal(size=(20, 2))
_TRIL = np.tril(RNG.normal(size=(20, 2, 2))) + 2 * np.eye(2)
_LOGITS = RNG.normal(size=20)
_WIDE_TRIL = np.tril(RNG.normal(size=(12, 12))) / 4 + np.eye(12)
FAMILIES = {
    "box": (Box(2), {"low": [-3, 10], "high": [-2.5, 14]}),
    "histogram": (
        Histogram((5, 7)),
        {"log_probs": RNG.normal(size=(5, 7)), "low": [-1, 0], "high": [1, 0.1]},
    ),
    "diagonal": (Gaussian(3, "diagonal"), {"mean": [1, 2, -9], "scale": [0.1, 3, 1]}),
    "full": (Gaussian(12), {"mean": np.arange(12), "scale_tril": _WIDE_TRIL}),
    "mixture": (
        GaussianMixture(2, components=20),
        {"logits": _LOGITS, "mean": _MEANS, "scale_tril": _TRIL},
    ),
    "diagonal_mixture": (
        GaussianMixture(2, components=3, covariance="diagonal"),
        {"logits": _LOGITS[:3], "mean": _MEANS[:3], "scale": np.abs(_TRIL[:3, :, 0])},
    ),
    "kde": (
        KDE(2),
        {"points": _MEANS[:8], "log_weights": _LOGITS[:8], "bandwidth": [0.3, 2]},
    ),
    "bits": (Bernoulli((3, 2)), {"logits": RNG.normal(size=(3, 2))}),
    "levels": (Categorical((2,), levels=40), {"logits": RNG.normal(size=(2, 40))}),
}
INEXACT = {"full"}  # a matrix product sums in an order that depends on its size


def family(name):
    model, params = FAMILIES[name]
    is_leaf = lambda v: isinstance(v, list)  # noqa: E731
    as_leaf = lambda v: np.asarray(v, np.float32)  # noqa: E731
    return jaxgen.Fitted(model, jax.tree_util.tree_map(as_leaf, params, is_leaf=is_leaf))


def same_bytes(name, got, wanted):
    got, wanted = np.asarray(got), np.asarray(wanted)
    assert got.shape == wanted.shape
    assert got.dtype == wanted.dtype
    if name in INEXACT:
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    else:
        assert got.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("name", FAMILIES)
def test_blocks_of_any_size_give_the_same_events(name, monkeypatch):
    """Each rung alone, on a number of rows that leaves padding; scores agree to rounding."""
    fitted, n = family(name), 10_300
    x = fitted.sample(KEY, n)
    score = fitted.log_prob(x)
    assert np.isfinite(score).all()
    for rung in (64, 512, 2048, 10240):
        monkeypatch.setattr(engine, "RUNGS", (rung,))
        rows = min(n, 40 * rung)  # enough blocks
        same_bytes(name, fitted.sample(KEY, rows), x[:rows])
        np.testing.assert_allclose(fitted.log_prob(x[:rows]), score[:rows], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_blocks_in_any_order_give_the_same_bytes(name):
    fitted = family(name)
    x = np.asarray(fitted.sample(KEY, 5000))
    for start in (4500, 64, 0, 4999, 1000):
        (block,) = fitted.stream(KEY, min(500, 5000 - start), start=start)
        same_bytes(name, block, x[start : start + len(block)])


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 700, 5000, 100_001])
def test_stream_is_sample(n):
    fitted = family("mixture")
    blocks = list(fitted.stream(KEY, n))
    assert all(isinstance(block, jax.Array) for block in blocks)
    assert {block.shape[1:] for block in blocks} == {(2,)}
    same_bytes("mixture", np.concatenate(blocks), fitted.sample(KEY, n))


def test_a_stream_of_many_blocks(monkeypatch):
    monkeypatch.setattr(engine, "RUNGS", (64,))
    fitted = family("mixture")
    blocks = list(fitted.stream(KEY, 1000, start=77))
    assert [len(block) for block in blocks] == 15 * [64] + [40]
    same_bytes("mixture", np.concatenate(blocks), fitted.sample(KEY, 1077)[77:])


@pytest.mark.parametrize("start", [2**32 - 100, 2**40 + 3, 2**64 - 300])
def test_a_stream_starts_at_any_row(start):
    """Beyond 32 bits too: a unit box shows the uniforms that it is made of."""
    box = jaxgen.Fitted(Box(2), Box(2).init(KEY))
    x = np.concatenate(list(box.stream(KEY, 300, start=start)))
    np.testing.assert_array_equal(x, jaxgen.random.uniform(KEY, (300, 2), start=start))


def test_a_stream_given_y(monkeypatch):
    """y holds the rows of the stream, or one condition for all of them."""
    (case,) = (case for case in CASES if case.name == "linear_gaussian")
    fitted = jaxgen.Fitted(case.model, subject(case).params)
    y = np.random.default_rng(0).normal(size=(5000, 2)).astype(np.float32)
    x = np.asarray(fitted.sample(KEY, 5000, y))
    assert abs(np.corrcoef(x[:, 0], y @ np.asarray(fitted.params["w"]))[0, 1]) > 0.1
    monkeypatch.setattr(engine, "RUNGS", (512,))
    for start in (0, 100, 4000):
        blocks = list(fitted.stream(KEY, 5000 - start, y[start:], start=start))
        np.testing.assert_array_equal(np.concatenate(blocks), x[start:])
    one = np.concatenate(list(fitted.stream(KEY, 1000, y[3])))
    np.testing.assert_array_equal(one, fitted.sample(KEY, 1000, y[3]))
    with pytest.raises(ValueError, match=r"\by\b"):
        fitted.stream(KEY, 10, y)


def test_streams_compile_once_for_each_rung(fitted):
    model, params = fitted.model, fitted.params
    with count_compiles() as count:
        for n in SIZES:
            for start in (0, 5):
                assert sum(map(len, fitted.stream(KEY, n, start=start))) == n
    rungs = {engine.block_size(model, params, n, model.noise()) for n in SIZES}
    assert 0 < count[0] <= len(rungs)


def test_stream_refuses_before_it_starts(fitted):
    refusals = {"key": (0, 10), "n": (KEY, 2.5), "start": (KEY, 10, None, -1)}
    for name, (key, n, *rest) in refusals.items():
        with pytest.raises((TypeError, ValueError), match=rf"\b{name}\b"):
            fitted.stream(key, n, start=rest[1] if rest else 0)
    with pytest.raises(TypeError, match="sample"):
        jax.jit(lambda key: next(fitted.stream(key, 10)))(KEY)


def test_arrays_of_two_calls_are_independent():
    """Blocks are joined in memory that JAX takes over without a copy: never twice the same."""
    fitted = family("mixture")
    for n in (10, 64, 5000, 100_001):
        a = fitted.sample(KEY, n)
        kept = np.array(a)
        score = fitted.log_prob(a)
        kept_score = np.array(score)
        b = fitted.sample(jax.random.key(4), n)
        fitted.log_prob(b)
        assert a.unsafe_buffer_pointer() != b.unsafe_buffer_pointer()
        assert not np.asarray(a).flags.writeable
        np.testing.assert_array_equal(a, kept)
        np.testing.assert_array_equal(score, kept_score)
        changed = a.at[0].set(7)  # and a function that is given the buffer may write to it
        doubled = jax.jit(lambda v: 2 * v, donate_argnums=0)(b)
        assert changed[0, 0] == 7
        np.testing.assert_array_equal(a, kept)
        assert doubled.shape == (n, 2)


def test_events_are_not_kept():
    """Scores do not change when the events that were scored do, nor are those written to."""
    fitted = family("mixture")
    x = np.array(fitted.sample(KEY, 70_000))
    before = x.copy()
    scores = fitted.log_prob(x)
    kept = np.array(scores)
    np.testing.assert_array_equal(x, before)
    x[:] = 0
    np.testing.assert_array_equal(scores, kept)


# devices


def test_device_of_the_wrong_type(fitted):
    x = np.zeros((3, 2))
    for wrong in ("cpu", 0, jax.devices()):
        for call in (
            lambda wrong=wrong: fitted.sample(KEY, 3, device=wrong),
            lambda wrong=wrong: fitted.stream(KEY, 3, device=wrong),
            lambda wrong=wrong: fitted.log_prob(x, device=wrong),
        ):
            with pytest.raises(TypeError, match=r"\bdevice\b"):
                call()


def write_samples(path):
    """Draw and score all families on this process's devices, and draw one in every other way."""
    found = {}
    for name in FAMILIES:
        fitted = family(name)
        x = fitted.sample(KEY, 70_000)
        found |= {f"{name} x": x, f"{name} score": fitted.log_prob(x)}
    fitted, n = family("mixture"), 70_000
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
    np.savez(path, devices=len(jax.devices()), **found)


def in_subprocess(code, **environment):
    here = pathlib.Path(__file__).parent
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        timeout=600,
        cwd=here,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
    )


def test_devices_change_no_value(tmp_path):
    """1, 2 and 8 devices, asked for in any way, give the same bytes."""
    found = {}
    for count in (1, 2, 8):
        path = tmp_path / f"{count}.npz"
        code = f"import test_engine; test_engine.write_samples({str(path)!r})"
        in_subprocess(code, JAX_NUM_CPU_DEVICES=str(count))
        with np.load(path) as file:
            found[count] = dict(file)
        assert found[count].pop("devices") == count
    for values in found.values():
        assert values.keys() == found[1].keys()
        for name, value in values.items():
            same_bytes(name.split()[0], value, found[1][name])
            plain = name.split(",")[0]
            same_bytes(name.split()[0], value, found[1][plain])


def write_growth(path):
    """Stream 2e7 events; write by how many bytes resident memory grew after the first block."""

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


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is read from /proc")
def test_a_stream_takes_constant_memory(tmp_path):
    path = tmp_path / "growth"
    in_subprocess(f"import test_engine; test_engine.write_growth({str(path)!r})")
    assert int(path.read_text()) < 64 * 2**20


@pytest.mark.parametrize("x64", [False, True])
def test_blocks_of_networks_run_in_threads(x64, monkeypatch):
    """As one block would: and with the settings of the thread that asks, which others lack."""
    model = SplineCoupling(2, 2, 8, 1, 4)
    started, pool = [], engine._thread_pool()
    submit = pool.submit
    monkeypatch.setattr(pool, "submit", lambda *a: started.append(a) or submit(*a))
    monkeypatch.setattr(engine, "RUNGS", (512,))
    with jax.enable_x64(x64):
        params = model.init(KEY)
        dtype = np.float64 if x64 else np.float32
        params = jax.tree_util.tree_map(lambda v: jnp.asarray(v, dtype), params)
        fitted = jaxgen.Fitted(model, params)
        x = fitted.sample(KEY, 3000)
        assert x.dtype == dtype
        np.testing.assert_allclose(x, jaxgen.sample(model, params, KEY, 3000), rtol=1e-5, atol=1e-6)
        assert fitted.log_prob(x).dtype == dtype
    # the question for settings, and all blocks but the first, of a draw and of a score
    assert len(started) == 2 * (1 if x64 else 6)


def test_blocks_run_while_the_interpreter_ends(monkeypatch):
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    monkeypatch.setattr(engine, "_thread_pool", lambda: pool)
    monkeypatch.setattr(engine, "RUNGS", (512,))
    model = SplineCoupling(2, 2, 8, 1, 4)
    assert jaxgen.Fitted(model, model.init(KEY)).sample(KEY, 3000).shape == (3000, 2)
