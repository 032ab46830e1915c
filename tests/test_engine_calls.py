"""Calls outside of transformations: their programs, and draws by one call of a program."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import KEY, family, same_bytes

import jaxgen
from jaxgen.core import block_sizes, engine, host_arrays, verbs
from jaxgen.core.tracing import is_tracing
from jaxgen.laws import count_compiles
from jaxgen.models import Gaussian


def test_public_functions_run_the_programs_of_fitted():
    fitted = family("mixture")
    x = fitted.sample(KEY, 300)
    scores = fitted.log_prob(x)
    with count_compiles() as count:
        again = jaxgen.sample(fitted.model, fitted.params, KEY, 300)
        same = jaxgen.log_prob(fitted.model, fitted.params, x)
    assert count[0] == 0
    np.testing.assert_array_equal(again, x)
    np.testing.assert_array_equal(same, scores)


@pytest.mark.parametrize(
    "function",
    [
        lambda key, start: jaxgen.random.uniform(key, (300, 3), start=start),
        lambda key, start: jaxgen.random.normal(key, (300, 2), start=start),
        lambda key, start: jaxgen.random.exponential(key, (300,), start=start),
        lambda key, start: jaxgen.random.gumbel(key, (300,), start=start),
        lambda key, start: jaxgen.random.categorical(key, jnp.zeros(3), (300,), start=start),
        lambda key, start: jaxgen.random.permute(key, np.arange(300), 1000 + start),
    ],
)
def test_random_functions_are_compiled_once_for_a_shape(function):
    first, other = function(KEY, 0), jax.random.key(4)
    with count_compiles() as count:
        function(other, 7)
    assert count[0] == 0
    np.testing.assert_allclose(first, jax.jit(lambda key: function(key, 0))(KEY), rtol=1e-6)


@pytest.mark.parametrize("name", ["histogram", "mixture", "levels"])
def test_one_row_is_the_first_of_many(name):
    fitted = family(name)
    x = fitted.sample(KEY, 64)
    one = fitted.sample(KEY, 1)
    np.testing.assert_allclose(one, x[:1], rtol=1e-6, atol=1e-6)
    scores = fitted.log_prob(one), fitted.log_prob(x)[:1]
    np.testing.assert_allclose(*scores, rtol=1e-5, atol=1e-5)


@pytest.mark.optimized
@pytest.mark.parametrize("name", ["box", "full", "kde", "bits"])
def test_a_draw_by_one_call_is_the_stream(name, monkeypatch):
    monkeypatch.setattr(block_sizes, "CACHE_BYTES", 4096)
    fitted, calls = family(name), []
    run = engine._whole_program()
    monkeypatch.setattr(engine, "_whole_program", lambda: lambda *a: calls.append(a) or run(*a))
    x = fitted.sample(KEY, 3000)
    tiled, stored = fitted.model.traits.tile is not None, name != "box"
    assert len(calls) == (stored and not tiled)
    same_bytes(name, x, np.concatenate(list(fitted.stream(KEY, 3000))))


def test_few_programs_draw_any_number_by_one_call(monkeypatch):
    monkeypatch.setattr(block_sizes, "CACHE_BYTES", 4096)
    fitted = family("kde")
    fitted.sample(KEY, 1100)
    with count_compiles() as count:
        for n in (1101, 1500, 1800, 2047):
            assert fitted.sample(KEY, n).shape == (n, 2)
    assert count[0] == 0


@pytest.mark.optimized
def test_a_draw_is_one_kernel():
    """No second pass over memory, and no transfer."""
    fitted = family("box")
    program = engine._program(engine.devices_of(fitted.params)[:1])
    shared = jax.device_put(fitted.params), KEY
    rows = np.zeros((1, 2), np.uint32), (None, None)
    arguments = verbs.SAMPLE.rows, fitted.model, 2048, shared, rows
    text = program.lower(*arguments).compile().as_text()
    entry = re.split(r"\n(?=ENTRY|%|\w)", text)[-1]
    operations = re.findall(r"= \S+ ([a-z-]+)\(", entry)
    assert operations.count("fusion") + operations.count("call") == 1, operations
    assert not {"infeed", "outfeed", "send", "recv", "custom-call", "while"} & set(operations)


@pytest.mark.parametrize("missing", [False, True])
def test_arrays_of_an_accelerator_stay_there(missing, monkeypatch):
    """Programs cut and join arrays that NumPy cannot read, and look for missing values in them."""
    fitted = jaxgen.Fitted(Gaussian(2), {"mean": np.float32([1, 2]), "scale_tril": np.eye(2)})
    x = jnp.asarray(fitted.sample(KEY, 700))
    x = x.at[3, 0].set(jnp.nan) if missing else x
    scores, events = fitted.log_prob(x), fitted.sample(KEY, 700)
    for module in (host_arrays, verbs):
        monkeypatch.setattr(module, "on_host", lambda tree: False)
    np.testing.assert_allclose(fitted.log_prob(x), scores, rtol=1e-5)
    np.testing.assert_allclose(fitted.sample(KEY, 700), events, rtol=1e-5)


@pytest.mark.skipif(jax.default_backend() == "cpu", reason="needs an accelerator")
def test_warm_calls_transfer_nothing():
    fitted = jaxgen.Fitted(
        *map(jax.device_put, (family("mixture").model, family("mixture").params))
    )
    x = fitted.sample(KEY, 3000)
    fitted.log_prob(x)
    with jax.transfer_guard("disallow"):
        fitted.log_prob(fitted.sample(KEY, 3000))


def test_tracing_is_seen_without_arguments():
    seen = []
    jax.jit(lambda x: seen.append(is_tracing()) or x)(1.0)
    jax.vmap(lambda x: seen.append(is_tracing(x)) or x)(jnp.zeros(2))
    jax.grad(lambda x: seen.append(is_tracing(x)) or x)(1.0)
    jax.make_jaxpr(lambda: seen.append(is_tracing()))()
    assert seen == [True] * 4
    assert not is_tracing()
    assert not is_tracing({"mean": jnp.zeros(2)}, KEY, None)


@pytest.mark.parametrize("verb", ["log_prob", "classify", "responsibilities"])
def test_missing_values_beyond_the_rows_looked_at(verb, monkeypatch):
    """They are seen by the NaN among the results of a run that expects none."""
    normal = Gaussian(2)
    model = {
        "log_prob": normal,
        "classify": jaxgen.compose.PerClass(normal, 2),
        "responsibilities": jaxgen.models.GaussianMixture(2, components=2),
    }[verb]
    fitted = jaxgen.Fitted(model, jax.jit(model.init)(KEY))
    x = np.asarray(jaxgen.random.normal(KEY, (700, 2))).copy()
    x[600, 1] = np.nan
    wanted = getattr(fitted, verb)(x)
    monkeypatch.setattr(engine, "_LOOKED_AT", 100)
    monkeypatch.setattr(block_sizes, "RUNGS", (64, 512))
    np.testing.assert_allclose(getattr(fitted, verb)(x), wanted, rtol=1e-4, atol=1e-5)
    assert np.isfinite(wanted).all()
    x[600] = np.inf
    assert not np.isnan(fitted.log_prob(x)).any()


@pytest.mark.parametrize("n", [513, 1000, 1500])
def test_the_last_block_begins_with_rows_of_the_one_before(n, monkeypatch):
    """So no rows are copied, and scores are those of one block."""
    monkeypatch.setattr(block_sizes, "RUNGS", (512,))
    fitted, x = family("mixture"), family("mixture").sample(KEY, n)
    copied = []
    cut = host_arrays.cut
    monkeypatch.setattr(
        host_arrays,
        "cut",
        lambda a, first, size: copied.append(n - first < size) or cut(a, first, size),
    )
    scores = fitted.log_prob(x)
    assert not any(copied)
    monkeypatch.setattr(block_sizes, "RUNGS", (2048,))
    np.testing.assert_allclose(scores, fitted.log_prob(x), rtol=1e-6)


@pytest.mark.parametrize("width", [2, 100])
def test_nan_and_infinity_in_many_rows(width):
    """Also in blocks so large that XLA uses kernels whose maxima leave out NaN."""
    normal = jaxgen.compose.Transformed(Gaussian(width, "diagonal"), jaxgen.bijectors.Affine())
    model = jaxgen.compose.PerClass(normal, 2)
    fitted = jaxgen.Fitted(model, jax.jit(model.init)(KEY))
    x = np.zeros((5000, width), np.float32)
    x[7, 1], x[4000, 0], x[4001, 1] = np.nan, np.inf, -np.inf
    x[4002] = np.finfo(np.float32).max
    x[4003, 0], x[4003, 1] = np.nan, np.inf
    scores, labels = fitted.log_prob(x), np.zeros(len(x), int)
    for got in (scores, fitted.log_prob(x, labels), fitted.classify(x)[:, 0]):
        assert np.flatnonzero(np.isnan(got[:4000])).tolist() == [7]
        assert np.isnan(got[4003])
    assert np.flatnonzero(scores == -np.inf).tolist() == [4000, 4001, 4002]
