"""The report of a model: its numbers, its text and its figure."""

import importlib
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from matplotlib.figure import Figure

import jaxgen
from jaxgen.compose import PerClass
from jaxgen.core.model import Model, Traits
from jaxgen.core.random import Normal, Uniform
from jaxgen.metrics.report import Report, evaluate
from jaxgen.models.box import Box
from jaxgen.models.discrete import Bernoulli
from jaxgen.models.gaussian import Gaussian
from jaxgen.models.gaussian_mixture import GaussianMixture
from jaxgen.training.fitted import Fitted

KEY = jax.random.key(20)
TRUE_MEAN, TRUE_SCALE = [1.0, 2.0], [[1.0, 0.0], [0.8, 0.5]]


def module(name):
    """A submodule of ``jaxgen.metrics``."""
    return importlib.import_module(f"jaxgen.metrics.{name}")


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


class Replay(Model):
    """Returns training events with a small jitter."""

    dim: int
    traits = Traits(density="none")

    @property
    def event_shape(self):
        return (self.dim,)

    def noise(self):
        return Uniform(), Normal((self.dim,))

    def push(self, params, noise, y=None):
        i = (noise[0] * len(params["x"])).astype(int)
        return params["x"][i] + params["jitter"] * noise[1]


class Shifted(Model):
    """A normal around the condition."""

    dim: int

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
    return normal(TRUE_MEAN, TRUE_SCALE)


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
    model = normal([1.5, 2.0], TRUE_SCALE)
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
    x = np.asarray(truth.sample(KEY, 3000))

    def measured(seed):
        report = evaluate(truth, x, key=jax.random.key(seed), n_samples=3000, max_rows=200)
        return report.accuracy, report.representation, report.generation.finite

    assert measured(0) == measured(0)
    assert measured(0)[0].energy_distance != measured(1)[0].energy_distance


@pytest.mark.parametrize("jitter", [0.0, 1e-3])
def test_a_model_that_replays_its_training_data_is_flagged(jitter):
    x = rng().normal(size=(3000, 2)).astype(np.float32)
    train, test = x[:1000].astype(np.float64) + 1e-9, x[1000:]
    model = Fitted(Replay(2), {"x": np.float32(train), "jitter": np.float32(jitter)})
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
    assert report.notes["accuracy.log_likelihood"] == "0 over events of positive density"
    assert report.representation.round_trip_max < 1e-6
    assert report.notes["representation.round_trip_max"] == "over 2 events of positive density"
    report = evaluate(truth, x[1:3], p_data=box, key=KEY, n_samples=3000)
    law = scipy.stats.multivariate_normal(
        TRUE_MEAN, np.array(TRUE_SCALE) @ np.transpose(TRUE_SCALE)
    )
    inside = law.cdf([1, 1], lower_limit=[0, 0])
    assert report.accuracy.inside_support == pytest.approx(inside, abs=0.03)
    assert report.notes["accuracy.kl"] == "without 1 test events outside p_data's support"
    assert report.accuracy.kl == pytest.approx(-float(truth.log_prob(x[1:2])[0]))
    report = evaluate(truth, x[2:], p_data=box, key=KEY, n_samples=3000)
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


def test_labels_are_compared_with_those_of_real_events():
    names = np.array(["apple", "pear", "plum"])
    y = np.repeat(np.arange(3), [300, 200, 100])[rng().permutation(600)]
    x = rng(1).normal(size=(600, 2)) + 8 * np.array([[0, 0], [1, 0], [0, 1]])[y]
    model = PerClass(Gaussian(2), 3)
    fitted = jaxgen.fit(model, x, names[y], key=KEY)
    settings = {"key": KEY, "n_samples": 600, "max_rows": 600}
    report = evaluate(fitted, x, names[y], x_train=x, y_train=names[y], **settings)
    found = report.labels
    assert found.accuracy > 0.99
    assert found.accuracy_ref == 0.5
    assert found.fidelity > 0.99
    assert found.fidelity_ref > 0.99
    assert "LABELS" in str(report)
    assert report.to_dict()["labels"]["fidelity_ref"] == found.fidelity_ref
    turned = jax.tree_util.tree_map(lambda v: v[::-1], fitted.params["model"])
    params = {**fitted.params, "model": turned}
    swapped = Fitted(model, params, labels=fitted.labels)  # "apple" and "plum" are exchanged
    wrong = evaluate(swapped, x, names[y], **settings).labels
    assert wrong.fidelity == pytest.approx(1 / 3, abs=0.02)
    assert wrong.fidelity_ref > 0.99
    assert wrong.accuracy == pytest.approx(1 / 3, abs=0.02)
    without = evaluate(fitted, x, **settings)
    assert without.labels.accuracy is None
    assert without.notes["labels.accuracy"] == "needs y_test"


def test_discrete_images_are_flattened(tmp_path):
    bits = Bernoulli((4, 5))
    params = bits.init(KEY, rng().integers(0, 2, size=(100, 4, 5)).astype(np.float64))
    x = np.asarray(Fitted(bits, params).sample(KEY, 400))
    report = evaluate(Fitted(bits, params), x, x_train=x, key=KEY, n_samples=400)
    assert report.accuracy.coverage > 0.8
    assert report.generation.duplicates_ref == 1
    report.plot(tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 10_000


def test_distances_in_feature_space(truth):
    x, settings = np.asarray(truth.sample(KEY, 3000)), {"n_samples": 3000, "max_rows": 400}
    found = evaluate(truth, x, key=KEY, features=lambda x: 10 * x, **settings).accuracy
    plain = evaluate(truth, x, key=KEY, **settings).accuracy
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
    lost = f"without {(x[:, 0] > 1).sum()} of 400 events, whose noise is not finite"
    assert report.notes["representation.ks_max"] == lost
    assert isinstance(report.plot(), Figure)


def test_noise_that_pull_does_not_compute_from_the_event_is_left_out():
    class Blurred(Gaussian):
        """A Gaussian plus a small error, of which pull returns the median."""

        def noise(self):
            return {"z": super().noise(), "error": Uniform((self.dim,))}

        def push(self, params, noise, y=None):
            return super().push(params, noise["z"]) + 1e-3 * (noise["error"] - 0.5)

        def pull(self, params, x, y=None):
            return {"z": super().pull(params, x), "error": jnp.full(self.dim, 0.5)}

    model = Fitted(Blurred(2), {"mean": jnp.zeros(2), "scale_tril": jnp.eye(2)})
    report = evaluate(model, rng().normal(size=(400, 2)), key=KEY, n_samples=400)
    assert report.representation.ks_max < report.representation.ks_max_ref
    note = "without noise that pull does not compute from x"
    assert report.notes["representation.ks_max"] == note
    assert report.evidence["noise"].shape == (400, 2)


def test_plot_of_two_dimensions_has_labels_and_units(honest, tmp_path):
    figure = honest.plot(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").exists()
    labels = [text for ax in figure.axes for text in (ax.get_xlabel(), ax.get_ylabel())]
    assert len(figure.axes) == 9  # eight panels and a colour bar
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

    assert sys.modules["jaxgen.metrics"].Report is Report
