"""Every metric against a closed form, a hand-made set or a dense oracle; then the whole report."""

import importlib
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from matplotlib.figure import Figure

from jaxgen.evaluate.accuracy import (
    bits_per_dim,
    energy_distance,
    kl_divergence,
    mean_and_error,
    neighbours,
)
from jaxgen.evaluate.distances import blocks, nearest, squared_radii
from jaxgen.evaluate.generation import copying, duplicates, throughput
from jaxgen.evaluate.measure import timing
from jaxgen.evaluate.report import Report, evaluate
from jaxgen.evaluate.representation import (
    chance_levels,
    ks_distance,
    largest_correlation,
    noise_fit,
    round_trip,
)
from jaxgen.fitted import Fitted
from jaxgen.model import Model
from jaxgen.models.box import Box
from jaxgen.models.discrete import Bernoulli
from jaxgen.models.gaussian import Gaussian
from jaxgen.models.gaussian_mixture import GaussianMixture
from jaxgen.random import Bits, Normal, Uniform

KEY = jax.random.key(20)


def module(name):
    """A module of the package, whose name in jaxgen is that of the function it exports."""
    return importlib.import_module(f"jaxgen.evaluate.{name}")


def normal(mean, scale):
    mean, scale = jnp.asarray(mean, jnp.float32), jnp.asarray(scale, jnp.float32)
    return Fitted(Gaussian(len(mean)), {"mean": mean, "scale_tril": scale})


@pytest.fixture(autouse=True, scope="module")
def short_timing():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module("measure"), "_TIMED_SCALARS", 1000)
        yield


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


def test_squared_radii_leave_the_row_itself_out():
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
    real = np.array([0.0, 1.0, 3.0, 10.0])  # radii 1, 1, 2, 7
    samples = np.array([0.5, 2.5, 30.0, 60.0])  # radii 2, 2, 27.5, 30
    found = neighbours(real, samples, k=1)
    assert found.precision == 2 / 4  # .5 and 2.5
    assert found.recall == 4 / 4  # 10 lies in the ball round 30
    assert found.density == 3 / 4  # .5 in the balls of 0 and 1, 2.5 in that of 3
    assert found.coverage == 3 / 4  # all but the ball of 10


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
def test_neighbours_of_one_distribution_and_of_two_far_ones(k):
    x, y = rng().normal(size=(2000, 2)), rng(1).normal(size=(2000, 2))
    found = neighbours(x, y, k)
    assert found.coverage == pytest.approx(1 - 0.5**k, abs=0.05)
    assert found.density == pytest.approx(1, abs=0.1)
    assert neighbours(x, y + 1e3, k) == (0, 0, 0, 0)


def mean_normal_distance(mean, sd):
    """E|Z| for Z normal."""
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
    assert error < 0.02  # the biased estimator is off by .6


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
def test_order_of_rows_and_a_large_offset_leave_metrics_alone(shape):
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
    assert found.near_copies == pytest.approx(1 / 3)  # only .5 is below the 1st percentile


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
    assert notes["generation.events_per_second"] == "2,000 events a call"


# representation


def test_round_trip():
    x = np.zeros((3, 2, 2))
    back = x.copy()
    back[0, 1, 0], back[2, 0, 0], back[2, 1, 1] = 0.5, -2, 1
    assert round_trip(back, x) == (2, 0.5)


def test_ks_distance_matches_scipy():
    u = rng().beta(1.2, 0.9, size=(101, 3))
    u = np.concatenate([u, 1 - u], 1)  # the distance is reached above u and below it
    exact = [scipy.stats.kstest(u[:, j], "uniform").statistic for j in range(6)]
    np.testing.assert_allclose(ks_distance(u), exact)


def test_largest_correlation_matches_numpy(monkeypatch):
    x = rng().normal(size=(200, 6)) @ rng(1).normal(size=(6, 6)) + 1e4
    exact = np.abs(np.corrcoef(x.T) - np.eye(6)).max()
    assert largest_correlation(x) == pytest.approx(exact)
    assert largest_correlation(x[:, :1]) == 0
    monkeypatch.setattr(module("representation"), "_COORDINATES", 3)
    assert 0 < largest_correlation(x) <= exact * (1 + 1e-9)


def test_noise_fit_compares_each_leaf_with_its_own_law():
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
    # at most .05 by the bounds, which are close: 4.5 standard errors above it, and not near 0
    assert 0.005 < (ks > level.ks_max).mean() < 0.1
    assert 0.005 < (correlation > level.correlation).mean() < 0.1
    assert mean.mean() == pytest.approx(level.ks_mean, rel=0.05)


# the report


class Replay(Model):
    """Gives back training events, moved by a little."""

    dim: int
    jitter: float = 0.0
    density = "none"

    @property
    def event_shape(self):
        return (self.dim,)

    def noise(self):
        return Uniform(), Normal((self.dim,))

    def push(self, params, noise, y=None):
        i = (noise[0] * len(params["x"])).astype(int)
        return params["x"][i] + self.jitter * noise[1]


class Shifted(Model):
    """A normal round its condition."""

    dim: int
    invertible = True

    @property
    def event_shape(self):
        return (self.dim,)

    @property
    def y_shape(self):
        return (self.dim,)

    def log_prob(self, params, x, y=None):
        return jax.scipy.stats.norm.logpdf(x, y, params["scale"]).sum()

    def noise(self):
        return Normal((self.dim,))

    def push(self, params, noise, y=None):
        return y + params["scale"] * noise

    def pull(self, params, x, y=None):
        return (x - y) / params["scale"]


@pytest.fixture(scope="module")
def truth():
    return normal([1.0, 2.0], [[1.0, 0.0], [0.8, 0.5]])


@pytest.fixture(scope="module")
def honest(truth):
    x = np.asarray(truth.sample(jax.random.key(3), 6000))
    kept = {"x_train": x[3000:], "p_data": truth, "n_samples": 3000, "max_rows": 1500}
    return evaluate(truth, x[:3000], key=KEY, **kept)


def test_report_of_the_true_model(honest):
    a, g, r = honest.accuracy, honest.generation, honest.representation
    entropy = math.log(2 * math.pi * math.e) + math.log(0.5)
    assert abs(a.log_likelihood + entropy) < 4.5 * a.log_likelihood_se
    assert a.log_likelihood_se == pytest.approx(1 / math.sqrt(3000), rel=0.1)
    assert a.bits_per_dim == pytest.approx(-a.log_likelihood / 2 / math.log(2))
    assert a.bits_per_dim_se == pytest.approx(a.log_likelihood_se / 2 / math.log(2))
    assert a.log_likelihood_ref == pytest.approx(-entropy, abs=0.1)
    assert (a.kl, a.zero_density, a.inside_support) == (0, 0, 1)
    for name in ("precision", "recall", "density", "coverage"):
        assert getattr(a, name) == pytest.approx(getattr(a, name + "_ref"), abs=0.06)
    assert abs(a.energy_distance) < 0.02
    assert abs(a.energy_distance_ref) < 0.02
    assert g.finite == 1
    assert abs(g.nearer_train_z) < 4.5
    assert g.near_copies < 0.03
    assert g.duplicates == g.duplicates_ref == 0
    assert g.events_per_second > 1000
    assert g.compile_seconds >= 0
    assert r.round_trip_max < 1e-5
    assert r.round_trip_median <= r.round_trip_max
    assert r.ks_mean <= r.ks_max < 1.5 * r.ks_max_ref
    assert r.correlation < 1.5 * r.correlation_ref
    assert "representation" not in honest.notes


def test_report_of_a_wrong_model(truth):
    x = np.asarray(truth.sample(jax.random.key(3), 3000))
    model = normal([1.5, 2.0], [[1.0, 0.0], [0.8, 0.5]])
    report = evaluate(model, x, p_data=truth, key=KEY, n_samples=3000, max_rows=1500)
    a, r = report.accuracy, report.representation
    exact = (0.5**2 + 0.8**2) / 2  # |L^-1 (mean - mean')|^2 / 2
    assert abs(a.kl - exact) < 4.5 * a.kl_se
    assert a.energy_distance > 5 * abs(a.energy_distance_ref)
    assert a.coverage < a.coverage_ref
    shift = 2 * scipy.stats.norm.cdf(0.8 / 2) - 1
    assert r.ks_max == pytest.approx(shift, abs=0.05)
    assert report.generation.nearer_train is None
    assert report.notes["generation.nearer_train"] == "needs x_train"
    assert report.reference == "half of test against the rest"


def test_report_reads_and_serialises(honest):
    text = str(honest)
    assert text == repr(honest)
    for part in ("ACCURACY", "GENERATION", "REPRESENTATION", "nats/event", "bits/dim", "Gaussian("):
        assert part in text
    assert max(map(len, text.splitlines())) < 140
    data = json.loads(json.dumps(honest.to_dict()))
    assert data["accuracy"]["kl"] == 0
    assert data["representation"]["ks_max"] == honest.representation.ks_max
    assert "evidence" not in data
    with pytest.raises(AttributeError):
        honest.n_test = 3


def test_same_key_same_report(truth):
    x = np.asarray(truth.sample(KEY, 300))

    def measured(seed):
        report = evaluate(truth, x, key=jax.random.key(seed), n_samples=200)
        return report.accuracy, report.representation, report.generation.finite

    assert measured(0) == measured(0)
    assert measured(0)[0].energy_distance != measured(1)[0].energy_distance


@pytest.mark.parametrize("jitter", [0.0, 1e-3])
def test_a_model_that_replays_its_training_data_is_flagged(jitter):
    x = rng().normal(size=(3000, 2)).astype(np.float32)
    train, test = x[:1000].astype(np.float64) + 1e-9, x[1000:]
    model = Fitted(Replay(2, jitter), {"x": jnp.asarray(train, jnp.float32)})
    report = evaluate(model, test, x_train=train, key=KEY, n_samples=1000, max_rows=1000)
    g = report.generation
    assert g.nearer_train > 0.9
    assert g.nearer_train_z > 20
    assert g.near_copies > (0.9 if jitter == 0 else 0.1)
    assert g.duplicates == (1 if jitter == 0 else 0)
    assert report.accuracy.log_likelihood is None
    assert report.notes["accuracy.log_likelihood"] == "Replay has no log_prob"
    assert report.representation is None
    assert "Replay: no pull" in str(report)


def test_events_of_zero_density_are_counted(truth):
    box = Fitted(Box(2), {"low": jnp.zeros(2), "high": jnp.ones(2)})
    x = np.array([[0.5, 0.5], [0.2, 0.1], [2.0, 0.5], [0.5, -1.0]])
    report = evaluate(box, x, key=KEY, n_samples=50)
    assert report.accuracy.zero_density == 2
    assert report.accuracy.log_likelihood == -np.inf
    assert report.notes["accuracy.log_likelihood"] == "0 over the events of positive density"
    assert report.representation.round_trip_max < 1e-6
    assert report.notes["representation.round_trip_max"] == "over 2 events of positive density"
    report = evaluate(truth, x[1:3], p_data=box, key=KEY, n_samples=4000)
    inside = (np.asarray(truth.sample(jax.random.key(8), 20_000)) - 0.5).__abs__().max(1) <= 0.5
    assert report.accuracy.inside_support == pytest.approx(inside.mean(), abs=0.03)
    assert report.notes["accuracy.kl"] == "1 test events outside p_data's support left out"
    assert report.accuracy.kl == pytest.approx(-float(truth.log_prob(x[1:2])[0]))
    report = evaluate(truth, x[2:], p_data=box, key=KEY, n_samples=4000)
    assert report.accuracy.kl is None
    assert report.accuracy.precision is None
    assert "more than k = 5" in report.notes["accuracy.precision"]


def test_a_model_without_pull_says_so():
    params = {"logits": jnp.zeros(2), "mean": jnp.array([[0.0, 0.0], [3.0, 3.0]])}
    params["scale_tril"] = jnp.stack([jnp.eye(2)] * 2)
    model = Fitted(GaussianMixture(2, 2), params)
    report = evaluate(model, model.sample(KEY, 200), key=KEY, n_samples=200)
    assert report.representation is None
    assert report.to_dict()["representation"] is None
    assert "GaussianMixture: no pull" in str(report)


def test_a_conditional_model_is_sampled_at_the_test_conditions():
    model = Fitted(Shifted(2), {"scale": jnp.ones(2)})
    y = rng().normal(size=(600, 2)).astype(np.float32) * 20
    x = y + rng(1).normal(size=(600, 2)).astype(np.float32)
    report = evaluate(model, x, y, x_train=x[:300], y_train=y[:300], key=KEY, n_samples=500)
    a = report.accuracy
    assert report.n_samples == 500
    assert a.log_likelihood == pytest.approx(-math.log(2 * math.pi * math.e), abs=0.2)
    assert a.log_likelihood_ref == pytest.approx(a.log_likelihood, abs=0.2)
    assert a.coverage > 0.9
    assert report.representation.ks_max < 1.5 * report.representation.ks_max_ref
    wrong = evaluate(model, x, y[::-1], x_train=x, key=KEY, n_samples=500).accuracy
    assert wrong.log_likelihood < -100
    assert wrong.log_likelihood_ref is None
    assert isinstance(report.plot(), Figure)


def test_discrete_images_are_flattened(tmp_path):
    class Faint(Bernoulli):  # stands for any model that only bounds its density
        density = "bound"

    bits = Bernoulli((4, 5))
    params = bits.init(KEY, rng().integers(0, 2, size=(100, 4, 5)).astype(np.float64))
    x = np.asarray(Fitted(bits, params).sample(KEY, 400))
    report = evaluate(Fitted(Faint((4, 5)), params), x, x_train=x, key=KEY, n_samples=400)
    assert report.accuracy.coverage > 0.8
    assert report.generation.duplicates_ref == 1
    assert report.notes["accuracy.log_likelihood"] == "a lower bound"
    report.plot(tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 10_000


def test_distances_in_feature_space(truth):
    x = np.asarray(truth.sample(KEY, 400))
    found = evaluate(truth, x, key=KEY, n_samples=400, features=lambda x: 10 * x).accuracy
    plain = evaluate(truth, x, key=KEY, n_samples=400).accuracy
    assert found.energy_distance == pytest.approx(10 * plain.energy_distance, rel=1e-3)


def test_samples_that_are_not_finite_are_counted_and_left_out():
    class Broken(Gaussian):
        def push(self, params, noise, y=None):
            return jnp.where(noise[0] > 0, jnp.nan, super().push(params, noise))

        def pull(self, params, x, y=None):
            return jnp.where(x[0] > 1, jnp.inf, super().pull(params, x))

    model = Fitted(Broken(2), {"mean": jnp.zeros(2), "scale_tril": jnp.eye(2)})
    x = rng().normal(size=(400, 2))
    report = evaluate(model, x, key=KEY, n_samples=1000)
    assert report.generation.finite == pytest.approx(0.5, abs=0.08)
    assert 0 < report.accuracy.coverage < 0.8
    assert math.isnan(report.representation.round_trip_max)
    lost = f"{(x[:, 0] > 1).sum()} of 400 events left out: no finite noise"
    assert report.notes["representation.ks_max"] == lost
    assert isinstance(report.plot(), Figure)


def test_plot_of_two_dimensions_has_labels_and_units(honest, tmp_path):
    figure = honest.plot(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").exists()
    labels = [text for ax in figure.axes for text in (ax.get_xlabel(), ax.get_ylabel())]
    assert len(figure.axes) == 7  # six panels and the colour bar
    assert sum("nat" in text for text in labels) == 3


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"key": 3}, TypeError, "key"),
        ({"x_test": np.zeros((5, 3))}, ValueError, "x must have shape"),
        ({"x_test": np.zeros((0, 2))}, ValueError, "x_test must have one batch dimension"),
        ({"x_test": np.zeros((2, 3, 2))}, ValueError, "x_test must have one batch dimension"),
        ({"y_test": np.zeros(5)}, ValueError, "unconditional"),
        ({"x_train": np.zeros((0, 2))}, ValueError, "x_train"),
        ({"n_samples": 0}, ValueError, "n_samples"),
        ({"max_rows": 2.5}, TypeError, "max_rows"),
        ({"k": 0}, ValueError, "k must be at least 1"),
    ],
)
def test_wrong_arguments_are_named(truth, change, error, match):
    arguments = {"x_test": np.zeros((5, 2)), "key": KEY, **change}
    with pytest.raises(error, match=match):
        evaluate(truth, **arguments)


def test_report_is_exported():
    import sys

    assert sys.modules["jaxgen.evaluate"].Report is Report
