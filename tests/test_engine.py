"""The engine compiles no program for a number of rows, and returns independent arrays."""

import jax
import numpy as np
import pytest

import jaxgen
from jaxgen.core import block_sizes
from jaxgen.laws import count_compiles
from jaxgen.models import KDE, Bernoulli, Gaussian, GaussianMixture

pytestmark = pytest.mark.optimized

KEY = jax.random.key(3)
SIZES = (1, 7, 64, 65, 400, 512, 1000, 5000, 70_000, 200_000)


def mixture(components=3, shift=0.0):
    model = GaussianMixture(2, components=components)
    mean = np.arange(2.0 * components).reshape(components, 2) + shift
    scale = np.broadcast_to(np.eye(2), (components, 2, 2))
    params = {"logits": np.zeros(components), "mean": mean, "scale_tril": scale}
    return jaxgen.Fitted(model, {k: np.float32(v) for k, v in params.items()})


@pytest.fixture(scope="module")
def fitted():
    return mixture()


def test_ten_sizes_compile_once_for_each_rung(fitted):
    fitted.sample(KEY, 10)  # compiles programs that all models share
    fitted = mixture(components=4)  # a spec that no other test compiles
    with count_compiles() as count:
        samples = [fitted.sample(KEY, n) for n in SIZES]
        for n in SIZES:
            assert sum(map(len, fitted.stream(KEY, n))) == n
    rungs = {block_sizes.block_size(fitted.model, fitted.params, n, draws=True) for n in SIZES}
    arrays = 2  # sizes of arrays into which a program writes several blocks
    assert 0 < count[0] <= len(rungs) + arrays
    assert len(rungs) <= 1 + len(block_sizes.RUNGS)
    for n, x in zip(SIZES, samples, strict=True):
        assert x.shape == (n, 2)
        np.testing.assert_allclose(x, samples[-1][:n], rtol=1e-6, atol=1e-6)
    with count_compiles() as count:
        for n in SIZES:
            fitted.sample(KEY, max(n - 1, 1))
            assert sum(map(len, fitted.stream(KEY, n, start=5))) == n
    assert count[0] == 0


def test_equal_spec_and_new_params_compile_nothing(fitted):
    x = fitted.sample(KEY, 100)
    fitted.log_prob(x)
    twin = mixture(shift=1.0)
    twin = jaxgen.Fitted(twin.model, jax.device_put(twin.params))
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
    slope = jax.jit(jax.grad(lambda f: f.log_prob(x).mean()))(fitted)
    assert slope.params["mean"].shape == (3, 2)


def test_padding_and_wide_events():
    wide = Bernoulli((50, 60))
    params = {"logits": np.zeros((50, 60), np.float32)}
    size = block_sizes.block_size(wide, params, 10**6, draws=True)
    assert size * 3000 * 4 <= block_sizes.BLOCK_BYTES
    plain, params = Gaussian(2), {"mean": np.zeros(2), "scale_tril": np.eye(2)}
    for n in (1, 64, 65, 5000, 10**6):
        size = block_sizes.block_size(plain, params, n)
        assert -(-n // size) * size <= max(2.1 * n, 512)
    slow = KDE(2)  # one row takes longer than starting a block
    params = {"points": np.zeros((10_000, 2)), "log_weights": np.zeros(10_000)}
    for n in (100, 1000, 10_000, 100_000):
        size = block_sizes.block_size(slow, params, n)
        assert -(-n // size) * size <= 1.3 * n


def test_no_events(fitted):
    assert fitted.sample(KEY, 0).shape == (0, 2)
    assert fitted.log_prob(np.zeros((0, 2))).shape == (0,)
    assert fitted.log_prob(np.zeros((0, 4, 2))).shape == (0, 4)


def test_stream_refuses_before_it_starts(fitted):
    refusals = {"key": (0, 10), "n": (KEY, 2.5), "start": (KEY, 10, None, -1)}
    for name, (key, n, *rest) in refusals.items():
        with pytest.raises((TypeError, ValueError), match=rf"\b{name}\b"):
            fitted.stream(key, n, start=rest[1] if rest else 0)
    with pytest.raises(TypeError, match="sample"):
        jax.jit(lambda key: next(fitted.stream(key, 10)))(KEY)


def test_arrays_of_two_calls_are_independent(fitted, monkeypatch):
    """Blocks are joined in memory that JAX takes over without a copy, and that is not reused."""
    monkeypatch.setattr(block_sizes, "RUNGS", (64, 512))
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
        changed = a.at[0].set(7)  # a function with the buffer donated may overwrite it
        doubled = jax.jit(lambda v: 2 * v, donate_argnums=0)(b)
        assert changed[0, 0] == 7
        np.testing.assert_array_equal(a, kept)
        assert doubled.shape == (n, 2)


def test_events_are_not_kept(fitted, monkeypatch):
    """Scoring does not write to the events, and scores do not change with them later."""
    monkeypatch.setattr(block_sizes, "RUNGS", (512,))
    x = np.array(fitted.sample(KEY, 70_000))
    before = x.copy()
    scores = fitted.log_prob(x)
    kept = np.array(scores)
    np.testing.assert_array_equal(x, before)
    x[:] = 0
    np.testing.assert_array_equal(scores, kept)


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
