"""Every metric against a closed form, a small example by hand or a dense computation."""

import importlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxgen.core.random import Bits, Normal, Uniform
from jaxgen.metrics.accuracy import (
    bits_per_dim,
    energy_distance,
    kl_divergence,
    mean_and_error,
    neighbours,
    vote_of_neighbours,
)
from jaxgen.metrics.distances import blocks, nearest, squared_radii
from jaxgen.metrics.generation import copying, duplicates, throughput
from jaxgen.metrics.measure import timing
from jaxgen.metrics.representation import (
    chance_levels,
    ks_distance,
    largest_correlation,
    noise_fit,
    round_trip,
)
from jaxgen.models.gaussian import Gaussian

KEY = jax.random.key(20)


def module(name):
    """A submodule of ``jaxgen.metrics``."""
    return importlib.import_module(f"jaxgen.metrics.{name}")


def rng(seed=0):
    return np.random.default_rng(seed)


# distances


@pytest.mark.parametrize("dim", [1, 2, 6, 7, 40])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_blocks_match_dense_differences(dim, offset, monkeypatch):
    monkeypatch.setattr(module("distances"), "_BLOCK", 1000)
    a, b = rng().normal(size=(70, dim)) + offset, rng(1).normal(size=(91, dim)) + offset
    dense = ((a[:, None] - b) ** 2).sum(-1)
    parts = list(blocks(a, b))
    assert len(parts) > 1
    np.testing.assert_allclose(np.concatenate([s for _, s in parts]), dense, rtol=1e-9)
    np.testing.assert_allclose(nearest(a, b), np.sqrt(dense.min(1)), rtol=1e-9)


@pytest.mark.parametrize("dim", [2, 40])
def test_equal_rows_are_at_distance_zero(dim):
    x = rng().normal(size=(300, dim)) * 1e3 + 1e4
    assert (nearest(x, x[::-1].copy()) == 0).all()


def test_squared_radii_exclude_the_row_itself():
    x = np.array([[0.0], [1.0], [3.0], [10.0]])
    np.testing.assert_allclose(squared_radii(x, 1), [1, 1, 4, 49])
    np.testing.assert_allclose(squared_radii(x, 3), [100, 81, 49, 100])
    with pytest.raises(ValueError, match="below the number of rows 4"):
        squared_radii(x, 4)


# accuracy


def test_mean_and_error():
    mean, se = mean_and_error([1.0, 2.0, 3.0, 6.0])
    assert mean == 3
    assert se == pytest.approx(math.sqrt(14 / 3 / 4))
    mean, se = mean_and_error(np.array([0.0, -np.inf]))
    assert mean == -np.inf
    assert math.isnan(se)
    with pytest.raises(ValueError, match="empty"):
        mean_and_error([])


def test_bits_per_dim_of_a_fair_byte_is_eight():
    assert bits_per_dim(-12 * math.log(256), 12) == pytest.approx(8)


def test_kl_between_gaussians():
    p, q = scipy.stats.norm(0, 1), scipy.stats.norm(0.5, 2)
    exact = math.log(2) + (1 + 0.25) / 8 - 0.5
    x = p.rvs(20_000, random_state=0)
    kl, se = kl_divergence(p.logpdf(x), q.logpdf(x))
    assert 0.001 < se < 0.01
    assert abs(kl - exact) < 4.5 * se  # fails for 1 seed in 100,000
    assert kl_divergence([0.0, 0.0], [0.0, -np.inf]).value == np.inf
    assert kl_divergence([0.0, -np.inf], [-1.0, -np.inf]).value == 1
    with pytest.raises(ValueError, match="shape"):
        kl_divergence(np.zeros(3), np.zeros(2))


def test_neighbours_by_hand():
    real = np.array([0.0, 1.0, 3.0, 10.0])  # distances to the nearest other: 1, 1, 2, 7
    samples = np.array([0.5, 2.5, 30.0, 60.0])  # the same: 2, 2, 27.5, 30
    found = neighbours(real, samples, k=1)
    assert found.precision == 2 / 4  # 0.5 and 2.5
    assert found.recall == 4 / 4  # all; 10 is in the ball around 30
    assert found.density == 3 / 4  # 0.5 is in the balls of 0 and 1, 2.5 in that of 3
    assert found.coverage == 3 / 4  # all balls except that of 10


@pytest.mark.parametrize("dim", [2, 20])
@pytest.mark.parametrize("whole", [False, True])
def test_neighbours_match_the_dense_definition(dim, whole):
    real, samples = rng().normal(size=(150, dim)), rng(1).normal(size=(120, dim)) * 1.2
    if whole:  # many equal distances, as in discrete data
        real, samples = np.round(real), np.round(samples)
    k = 3

    def dense(a, b):
        return np.sqrt(((a[:, None] - b) ** 2).sum(-1))

    real_reach = np.sort(dense(real, real), 1)[:, k, None] * (1 + 1e-9)
    sample_reach = np.sort(dense(samples, samples), 1)[:, k] * (1 + 1e-9)
    between = dense(real, samples)
    found = neighbours(real, samples, k)
    assert found.precision == pytest.approx((between <= real_reach).any(0).mean())
    assert found.recall == pytest.approx((between <= sample_reach).any(1).mean())
    assert found.density == pytest.approx((between <= real_reach).sum() / (k * 120))
    assert found.coverage == pytest.approx((between <= real_reach).any(1).mean())


@pytest.mark.parametrize("k", [1, 5])
def test_neighbours_of_equal_and_of_distant_distributions(k):
    x, y = rng().normal(size=(2000, 2)), rng(1).normal(size=(2000, 2))
    found = neighbours(x, y, k)
    assert found.coverage == pytest.approx(1 - 0.5**k, abs=0.05)
    assert found.density == pytest.approx(1, abs=0.1)
    assert neighbours(x, y + 1e3, k) == (0, 0, 0, 0)


def test_vote_of_neighbours_by_hand():
    x = np.array([0.0, 1.0, 2.0, 10.0, 11.0])[:, None]
    labels = np.array([2, 0, 2, 1, 1])
    queries = np.array([0.9, 10.2, 5.0])[:, None]
    assert vote_of_neighbours(queries, x, labels, 1).tolist() == [0, 1, 2]
    assert vote_of_neighbours(queries, x, labels, 3).tolist() == [2, 1, 2]
    assert vote_of_neighbours(queries, x, labels, 2).tolist() == [0, 1, 2]  # the nearest decides
    # of all rows two have label 1 and two have label 2: a tie that the last query's nearest decides
    assert vote_of_neighbours(queries, x, labels, 99).tolist() == [1, 1, 2]


def test_votes_of_neighbours_do_not_depend_on_units():
    labels = rng().integers(0, 3, 400)
    x = rng(1).normal(size=(400, 3)) + 3 * (labels[:, None] == np.arange(3))
    found = vote_of_neighbours(x[:200], x[200:], labels[200:])
    assert (found == labels[:200]).mean() > 0.9
    units = np.array([1e6, 1.0, 1e-6])
    again = vote_of_neighbours(x[:200] * units + 7, x[200:] * units + 7, labels[200:])
    assert (found == again).mean() > 0.99
    constant = np.ones((200, 1))
    with_constant = np.concatenate([x[200:], constant], 1)
    same = vote_of_neighbours(np.concatenate([x[:200], constant], 1), with_constant, labels[200:])
    assert (same == found).all()


def mean_normal_distance(mean, sd):
    """E|Z| for normal Z."""
    from_spread = sd * math.sqrt(2 / math.pi) * math.exp(-(mean**2) / (2 * sd**2))
    return from_spread + mean * math.erf(mean / (sd * math.sqrt(2)))


def test_energy_distance_between_gaussians():
    exact = 2 * mean_normal_distance(1, math.hypot(1, 1.5)) - mean_normal_distance(0, math.sqrt(2))
    exact -= mean_normal_distance(0, 1.5 * math.sqrt(2))
    found = [
        energy_distance(rng(i).normal(size=500), rng(100 + i).normal(1, 1.5, size=700))
        for i in range(30)
    ]
    assert abs(np.mean(found) - exact) < 4.5 * np.std(found) / math.sqrt(30)
    assert np.std(found) < 0.2 * exact


def test_energy_distance_has_no_bias():
    found = [energy_distance(*rng(i).normal(size=(2, 6, 2))) for i in range(1500)]
    error = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found)) < 4.5 * error
    assert error < 0.02  # the error of the biased estimator is 0.6


@pytest.mark.parametrize("dim", [2, 30])
def test_energy_distance_by_definition(dim):
    x, y = rng().normal(size=(40, dim)), rng(1).normal(size=(50, dim))

    def total(a, b):
        return np.sqrt(((a[:, None] - b) ** 2).sum(-1)).sum()

    exact = 2 * total(x, y) / 2000 - total(x, x) / (40 * 39) - total(y, y) / (50 * 49)
    assert energy_distance(x, y) == pytest.approx(exact)
    with pytest.raises(ValueError, match="two rows"):
        energy_distance(x[:1], y)


@pytest.mark.parametrize("shape", [(), (2,), (5, 6)])
def test_metrics_do_not_depend_on_row_order_or_offset(shape):
    # multiples of 2^-9 stay exact in float32 at 8192
    sets = [np.round(rng(i).normal(size=(200, *shape)) * 512) / 512 for i in range(3)]
    sets = [s.astype(np.float32) for s in sets]

    def metrics(a, b, c):
        return [*neighbours(a, b), energy_distance(a, b), *copying(a, b, c)]

    expected = metrics(*sets)
    shuffled = [s[rng(9).permutation(200)] for s in sets]
    np.testing.assert_allclose(metrics(*shuffled), expected, rtol=1e-9)
    shifted = [s + np.float32(8192) for s in sets]
    np.testing.assert_allclose(metrics(*shifted), expected, rtol=1e-6)


# generation


def test_copying_by_hand():
    train, test, samples = np.zeros(1), np.array([1.0, 2, 3, 4]), np.array([0.5, -2, 5])
    found = copying(samples, train, test)
    assert found.nearer == pytest.approx((4 + 2.5 + 0) / 12)
    assert found.near_copies == pytest.approx(1 / 3)  # only 0.5 is below the first percentile


@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_copying_is_the_mann_whitney_test(decimals):
    train, test, samples = (
        np.round(rng(i).normal(size=n), decimals) for i, n in enumerate((30, 80, 110))
    )
    found = copying(samples * 1.3, train, test)
    distance = [np.abs(x[:, None] - train).min(1) for x in (samples * 1.3, test)]
    u, p = scipy.stats.mannwhitneyu(*distance, method="asymptotic", use_continuity=False)
    assert found.nearer == pytest.approx(1 - u / (110 * 80))
    assert 2 * scipy.stats.norm.sf(abs(found.z)) == pytest.approx(p)


def test_duplicates_are_equal_in_every_scalar():
    train = np.array([[0.0, 1], [2, 3], [0.1, 0.2], [-0.0, 5]])
    x = np.array([[-0.0, 1], [2, 3.5], [0.1, 0.2], [1, 0], [0.0, 5]], np.float32)
    assert duplicates(x, train) == 3 / 5


def test_throughput_counts_events(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module("generation").time, "perf_counter", lambda: now[0])

    class Clockwork:
        def __init__(self, *seconds):
            self.seconds = list(seconds)

        def sample(self, key, n, y=None):
            now[0] += self.seconds.pop(0)
            return jnp.zeros(n)

    assert throughput(Clockwork(0.7, 0.2, 0.1, 0.3, 0.2, 0.2), KEY, 50) == (
        pytest.approx(250),
        pytest.approx(0.5),
    )
    assert throughput(Clockwork(0.1, 0.2, 0.2), KEY, 50, repeats=2).compile_seconds == 0
    assert throughput(Clockwork(9, 4), KEY, 8) == (2, 5)  # long calls are not repeated


def test_short_calls_are_timed_on_more_events(monkeypatch):
    monkeypatch.setattr(module("measure"), "_TIMED_SCALARS", 4000)
    sizes, notes = [], {}

    class Instant:
        model = Gaussian(2)

        def sample(self, key, n, y):
            assert len(y) == n
            sizes.append(n)
            return jnp.zeros((n, 2))

    timing(Instant(), KEY, 7, np.zeros((7, 1)), notes)
    assert set(sizes) == {7, 700}
    timing(Instant(), KEY, 100, np.zeros((100, 1)), notes)
    assert max(sizes) == 2000
    assert notes["generation.events_per_second"] == "2,000 events per call"


# representation


def test_round_trip():
    x = np.zeros((3, 2, 2))
    back = x.copy()
    back[0, 1, 0], back[2, 0, 0], back[2, 1, 1] = 0.5, -2, 1
    assert round_trip(back, x) == (2, 0.5)


def test_ks_distance_matches_scipy():
    u = rng().beta(1.2, 0.9, size=(101, 3))
    u = np.concatenate([u, 1 - u], 1)  # the largest difference occurs above u and below it
    exact = [scipy.stats.kstest(u[:, j], "uniform").statistic for j in range(6)]
    np.testing.assert_allclose(ks_distance(u), exact)


def test_largest_correlation_matches_numpy(monkeypatch):
    x = rng().normal(size=(200, 6)) @ rng(1).normal(size=(6, 6)) + 1e4
    exact = np.abs(np.corrcoef(x.T) - np.eye(6)).max()
    assert largest_correlation(x) == pytest.approx(exact)
    assert largest_correlation(x[:, :1]) == 0
    monkeypatch.setattr(module("representation"), "_COORDINATES", 3)
    assert 0 < largest_correlation(x) <= exact * (1 + 1e-9)


def test_noise_fit_compares_each_leaf_with_its_distribution():
    noise = {"a": Normal((2,)), "b": Uniform(), "c": Bits((3,))}
    r = rng()
    values = {"a": r.normal(size=(4000, 2)), "b": r.random(4000), "c": np.ones((4000, 3))}
    found, level = noise_fit(noise, values), chance_levels(4000, 3)
    assert found.ks_max < level.ks_max
    assert found.correlation < level.correlation
    off = noise_fit(noise, {**values, "a": values["a"] + 0.2})
    assert off.ks_max == pytest.approx(2 * scipy.stats.norm.cdf(0.1) - 1, abs=level.ks_max)
    with pytest.raises(ValueError, match="no Normal or Uniform"):
        noise_fit(Bits((3,)), values["c"])


def test_chance_levels_hold():
    n, d, repeats = 300, 4, 400
    level = chance_levels(n, d)
    found = [noise_fit(Uniform((d,)), rng(i).random((n, d))) for i in range(repeats)]
    ks, mean, correlation = np.array(found).T
    # at most 0.05 by the bounds, which are tight: within 4.5 standard errors, and not near 0
    assert 0.005 < (ks > level.ks_max).mean() < 0.1
    assert 0.005 < (correlation > level.correlation).mean() < 0.1
    assert mean.mean() == pytest.approx(level.ks_mean, rel=0.05)
