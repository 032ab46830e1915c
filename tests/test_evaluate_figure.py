"""The figure of a report: which panels it has, and whether they can be read."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
from matplotlib.text import Text

from jaxgen.metrics import two_samples
from jaxgen.metrics.panels import Events, names_of
from jaxgen.metrics.report import Report
from jaxgen.metrics.sections import Accuracy, Generation, Labels

LONG = "a quite long name of one measured quantity [GeV per event], number {}"


UNITS = 10.0 ** np.arange(-8, 12, 4)


def rng(seed=0):
    return np.random.default_rng(seed)


def report(test, samples, columns=None, labels=None, names=(), noise=None, scores=True, **model):
    """A report on events without a model: the figure reads arrays."""
    n, m = len(test), len(samples)
    kept = {"event_shape": test.shape[1:], "y_shape": None, "classes": None}
    traits = SimpleNamespace(density="none")
    fitted = SimpleNamespace(
        model=SimpleNamespace(traits=traits, **{**kept, **model}), columns=columns
    )
    log_p = rng(1).normal(size=n) if scores else None
    evidence = {
        "fitted": fitted, "test": test, "samples": samples, "labels": labels, "label_names": names,
        "log_prob_test": log_p, "log_prob_samples": rng(2).normal(size=m if scores else 0),
        "log_prob_train": log_p, "noise": noise, "conditioned": labels is not None,
    }  # fmt: skip
    accuracy = Accuracy(-3.0, 0.1, -2.9, 3.0, 0.1, 2.9, 4, precision=0.9, precision_ref=0.95)
    return Report(
        "Model(" + "x" * 150 + ")", accuracy, Generation(1e7, 0.1), None, {}, n, m, n, 5, "",
        evidence, Labels(0.9, 0.01, 0.3, 0.8, 0.01, 0.9) if labels is not None else None,
    )  # fmt: skip


def normal(n, d, seed=0):
    return rng(seed).normal(size=(n, d))


def with_labels(d):
    y = (np.arange(90) % 3, np.arange(60) % 3)
    return report(normal(90, d), normal(60, d, 1), labels=y, names=("setosa", "versicolor", "rose"))


def images(labelled):
    x = rng().integers(0, 17, size=(300, 8, 8)).astype(float)
    y = (np.arange(200) % 10, np.arange(100) % 10) if labelled else None
    return report(x[:200], x[200:], labels=y, names=tuple(range(10)))


REPORTS = {
    "one feature": lambda: report(normal(300, 1), normal(200, 1, 1), noise=rng().random((300, 1))),
    "wrong noise": lambda: report(
        normal(300, 1), normal(200, 1, 1), noise=rng().beta(2, 5, (300, 1))
    ),
    "without pull or density": lambda: report(normal(300, 1), normal(200, 1, 1), scores=False),
    "two features": lambda: report(normal(300, 2), normal(200, 2), noise=rng().random((300, 2))),
    "five features": lambda: report(normal(300, 5) * UNITS, normal(300, 5, 1) * UNITS),
    "many features": lambda: report(normal(300, 64), normal(300, 64), noise=rng().random((9, 64))),
    "heavy tails": lambda: report(
        rng().standard_cauchy(size=(400, 6)), rng(1).standard_cauchy(size=(400, 6))
    ),
    "long names": lambda: report(
        1.7e9 + normal(300, 7) * 1e8,
        1.7e9 + normal(200, 7, 1) ** 3 * 1e8,
        tuple(map(LONG.format, range(7))),
        noise=rng().random((300, 7)),
    ),
    "bits": lambda: report(rng().integers(0, 2, (300, 3)), rng(1).integers(0, 2, (300, 3))),
    "constant": lambda: report(np.full((30, 2), 0.5), normal(40, 2)),
    "missing": lambda: report(
        np.where(normal(300, 3) > 1, np.nan, normal(300, 3)), normal(200, 3, 1)
    ),
    "labels": lambda: with_labels(4),
    "images": lambda: images(False),
    "images by label": lambda: images(True),
}


def drawn_texts(figure, monkeypatch):
    """The text and the place of each text that is drawn."""
    shown, draw = [], Text.draw

    def record(text, renderer):
        if text.get_visible() and text.get_text().strip():
            shown.append((text.get_text(), text.get_window_extent(renderer)))
        draw(text, renderer)

    monkeypatch.setattr(Text, "draw", record)
    figure.draw_without_rendering()
    return shown


@pytest.mark.parametrize("name", REPORTS)
def test_no_text_covers_another_and_no_panel_is_empty(name, monkeypatch):
    figure = REPORTS[name]().plot()
    texts = drawn_texts(figure, monkeypatch)
    assert len(texts) > 10
    for (a, box_a), (b, box_b) in itertools.combinations(texts, 2):
        overlap = box_a.x0 < box_b.x1 - 1 and box_b.x0 < box_a.x1 - 1
        overlap &= box_a.y0 < box_b.y1 - 1 and box_b.y0 < box_a.y1 - 1
        assert not overlap, (a, b)
    width, height = figure.bbox.size
    for text, box in texts:
        assert min(box.x0, box.y0, width - box.x1, height - box.y1) > -1, text
    for ax in figure.axes:
        assert ax.has_data() or ax.texts, ax.get_title()
    legends = [*figure.legends, *(ax.get_legend() for ax in figure.axes if ax.get_legend())]
    assert legends
    for legend in legends:
        for ax in figure.axes:
            assert not legend.get_window_extent().overlaps(ax.bbox), ax.get_title()


def titles(figure):
    return [ax.get_title() for ax in figure.axes]


def test_panels_show_what_there_is():
    assert len(REPORTS["one feature"]().plot().axes) == 4
    assert len(REPORTS["without pull or density"]().plot().axes) == 2
    many = titles(REPORTS["many features"]().plot())
    assert sum("KS" in title or title == "test data" for title in many) == 12
    assert "Noise" in " ".join(many)
    assert "Noise" not in " ".join(titles(REPORTS["five features"]().plot()))


def test_the_features_and_pairs_that_differ_most_come_first():
    test, samples = normal(500, 20), normal(400, 20, 1)
    samples[:, 7] += 1
    samples[:, 3] = samples[:, 12]  # only the pair shows it
    worst = two_samples.worst_features(test, samples)
    assert worst[0][1] == 7
    expected = [scipy.stats.ks_2samp(test[:, j], samples[:, j]).statistic for j in range(20)]
    np.testing.assert_allclose([found for found, _ in worst], sorted(expected)[::-1])
    distance, *pair = two_samples.worst_pairs(test, samples)[0]
    assert (pair, distance > 0.2) == ([3, 12], True)
    bits = rng().integers(0, 2, (300, 2)), rng(1).integers(0, 2, (300, 2))
    bits[1][:, 1] = bits[1][:, 0]
    assert two_samples.worst_pairs(*bits)[0][0] > 0.15
    labels = [ax.get_xlabel() for ax in report(test, samples).plot().axes]
    assert labels[0] == "x7"


def test_distances_of_equal_samples_are_by_chance():
    level = two_samples.chance_level(400, 300)
    found = [two_samples.ks_between(normal(400, 1, s)[:, 0], normal(300, 1, 1000 + s)[:, 0])
             for s in range(300)]  # fmt: skip
    assert 0.01 < np.mean(np.array(found) > level) < 0.1
    # of a pair too, where six directions make it larger
    distance, *_ = two_samples.worst_pairs(normal(400, 2), normal(300, 2, 1))[0]
    assert distance < 1.5 * level


def test_long_tails_are_cut_and_the_panel_says_so():
    heavy = rng().standard_cauchy(size=(1000, 1)) * 1e5
    events = Events(heavy, normal(1000, 1), ["x0"])
    axis = events.axis(0)
    assert axis.high - axis.low < 0.3 * np.ptp(heavy)
    assert 0 < events.beyond({0: axis})[0] <= 0.02
    assert (
        "not shown: 2.0 %\n(samples 0.0 %)"
        in report(heavy, normal(1000, 1)).plot().axes[0].get_title()
    )
    light = Events(normal(1000, 1), normal(1000, 1, 1), ["x0"])
    assert light.beyond({0: light.axis(0)}) == (0, 0)


def test_whole_numbers_are_bars_of_shares():
    ax = REPORTS["bits"]().plot().axes[0]
    heights = np.array([bar.get_height() for bar in ax.patches])
    assert len(heights) == 4
    assert heights.sum() == pytest.approx(2)
    assert ax.get_ylabel() == "share of events"
    pixels = rng().integers(0, 256, (3000, 1)).astype(float)
    assert Events(pixels, pixels, ["x0"]).axis(0).edges[1] % 1 == 0.5  # no bin gets more values


def test_labels_have_colours_and_markers_or_columns_of_images():
    figure = REPORTS["labels"]().plot()
    pair = next(ax for ax in figure.axes if ax.get_title() == "test data")
    colours = [tuple(c.get_facecolor()[0]) for c in pair.collections if len(c.get_offsets())]
    assert len(set(colours)) == 3
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()][2:5] == ["setosa", "versicolor", "rose"]
    grid = REPORTS["images by label"]().plot().axes[0]
    assert [label.get_text() for label in grid.get_xticklabels()] == list("0123456789")
    sheet = grid.images[0].get_array()
    test = images(True).evidence["test"]
    np.testing.assert_array_equal(sheet[1:9, 1:9], test[0])
    np.testing.assert_array_equal(sheet[10:18, 10:18], test[11])  # the second image of label 1


def test_names_stay_different():
    assert names_of(["a", "b"]) == ["a", "b"]
    found = names_of([LONG.format("x") + str(j) + " " * 40 + "end" for j in range(3)])
    assert len(set(found)) == 3
    assert all(len(line) <= 22 for name in found for line in name.split("\n"))


def test_pairs_are_of_features_that_vary():
    """Pixels of flat images: most are 0 in nearly all events, and the samples are noisy there."""
    test = rng().integers(0, 17, (300, 12)) * (rng(1).random((300, 12)) < 0.6)
    test[:, :9] *= rng(2).random((300, 9)) < 0.05
    samples = rng(3).integers(0, 17, (300, 12))
    assert two_samples.varied(test.astype(float)).tolist() == [9, 10, 11]
    pairs = two_samples.worst_pairs(test.astype(float), samples.astype(float))
    assert sorted(pair for _, *pair in pairs) == [[9, 10], [9, 11], [10, 11]]
    assert len(two_samples.worst_pairs(test[:, :9] * 1.0, samples[:, :9] * 1.0)) == 36
    axes = report(test, samples).plot().axes
    left = next(ax for ax in axes if ax.get_title() == "test data")
    (mesh,) = left.collections
    shares = np.asarray(mesh.get_array()).ravel()
    darkness = np.asarray(mesh.norm(shares[shares > 0]))
    assert (darkness > 0.1).all()  # a share of one event is no white
    assert mesh.norm.vmax >= shares.max()
