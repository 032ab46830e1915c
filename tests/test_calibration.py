"""Calibration against scikit-learn, sums by hand and statistical checks."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.special import log_softmax
from sklearn import metrics

from jaxgen.metrics import Calibration, calibration, reliability_figure

HAND = np.log([[0.8, 0.2], [0.9, 0.1], [0.45, 0.55], [0.3, 0.7]])  # confidences 0.8, 0.9, 0.55, 0.7


def drawn(n, classes, seed=0, sharper=1.0):
    """log p(y|x) and labels drawn from it; with ``sharper`` > 1, log p(y|x) is overconfident."""
    rng = np.random.default_rng(seed)
    scores = 2 * rng.normal(size=(n, classes))
    y = (scores + rng.gumbel(size=scores.shape)).argmax(1)
    return log_softmax(sharper * scores, 1), y


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [2, 10])
def test_scores_are_those_of_scikit_learn(classes, dtype):
    log_p, y = drawn(500, classes)
    found = calibration(log_p.astype(dtype), y)
    p = np.exp(log_p)
    assert found.events == 500
    assert found.accuracy == metrics.accuracy_score(y, p.argmax(1))
    assert found.log_loss == pytest.approx(metrics.log_loss(y, p), rel=1e-5)
    brier = ((p - (y[:, None] == np.arange(classes))) ** 2).sum(1)
    assert found.brier == pytest.approx(brier.mean(), rel=1e-5)
    if classes == 2:
        assert found.brier == pytest.approx(2 * metrics.brier_score_loss(y, p[:, 1]), rel=1e-5)
    assert found.brier_se == pytest.approx(brier.std(ddof=1) / 500**0.5, rel=1e-5)
    each = -log_p[np.arange(500), y]
    assert found.log_loss_se == pytest.approx(each.std(ddof=1) / 500**0.5, rel=1e-5)
    right = found.accuracy
    assert found.accuracy_se == pytest.approx((right * (1 - right) / 499) ** 0.5)


def test_calibration_error_by_hand():
    # two bins hold two events each: (0.5, 0.75] with one right, (0.75, 1] with two right
    found = calibration(HAND, [0, 0, 0, 1], bins=4)
    assert found.bin_count == (0, 0, 2, 2)
    np.testing.assert_allclose(found.bin_confidence, [np.nan, np.nan, 0.625, 0.85])
    np.testing.assert_allclose(found.bin_accuracy, [np.nan, np.nan, 0.5, 1])
    assert found.expected_calibration_error == pytest.approx((2 * 0.125 + 2 * 0.15) / 4)
    doubt = np.sqrt([0.55 * 0.45 + 0.7 * 0.3, 0.8 * 0.2 + 0.9 * 0.1])
    assert found.expected_calibration_error_ref == pytest.approx(
        np.sqrt(2 / np.pi) * doubt.sum() / 4
    )


def test_bins_are_open_below_and_closed_above():
    log_p = np.log([[0.5, 0.5], [0.75, 0.25], [1 - 1e-9, 1e-9], [0.75 + 1e-9, 0.25 - 1e-9]])
    assert calibration(log_p, [0, 0, 0, 0], bins=4).bin_count == (0, 1, 1, 2)
    assert calibration(np.array([[0, -np.inf]]), [0], bins=4).bin_count == (0, 0, 0, 1)
    assert calibration(np.zeros((3, 1)), [0, 0, 0], bins=1).bin_count == (3,)


def test_the_reference_is_the_error_of_true_probabilities():
    errors, references = [], []
    for seed in range(200):
        found = calibration(*drawn(300, 3, seed))
        errors.append(found.expected_calibration_error)
        references.append(found.expected_calibration_error_ref)
    # 8 % is more than four standard errors of these means
    assert np.mean(errors) == pytest.approx(np.mean(references), rel=0.08)
    found = calibration(*drawn(300, 3, sharper=3.0))
    assert found.expected_calibration_error > 3 * found.expected_calibration_error_ref


def test_an_event_of_probability_zero_has_infinite_loss():
    found = calibration(np.array([[0, -np.inf], [0, -np.inf]]), [0, 1])
    assert found.log_loss == np.inf
    assert np.isnan(found.log_loss_se)
    assert found.accuracy == 0.5
    assert found.brier == 1.0
    assert calibration(np.array([[0, -np.inf]]), [0]).log_loss == 0


@pytest.mark.parametrize("names", [("b", "a", "c"), (7, 3, 5)])
def test_names_in_place_of_numbers(names):
    log_p, y = drawn(50, 3)
    expected = calibration(log_p, y, 1)
    named = np.array(names)[y]
    assert calibration(log_p, named, 1, labels=names) == expected
    assert calibration(log_p, named.tolist(), 1, labels=np.array(names)) == expected


def test_it_prints_as_a_table():
    found = calibration(HAND, [0, 0, 0, 1])
    assert str(found).splitlines()[0] == "accuracy           0.75 ± 0.25"
    assert "nats per event" in str(found)
    assert "by chance" in str(found)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (([0.1, 0.9], [0, 1]), r"log_p must have shape \(n, classes\).*got \(2,\)"),
        ((np.zeros((0, 2)), []), r"log_p must have shape .* got \(0, 2\)"),
        ((np.zeros((2, 0)), [0, 0]), r"log_p must have shape .* got \(2, 0\)"),
        (([[0, -np.inf], [np.nan, 0]], [0, 0]), "NaN, first in row 1"),
        (([[np.inf, -np.inf]], [0]), "in row 0 they sum to inf"),
        (([[-np.inf, -np.inf]], [0]), "in row 0 they sum to 0"),
        (([[0.8, 0.2]], [0]), "log_p must hold the logarithms of probabilities.* sum to 3.447"),
        ((HAND, [0, 1, 1]), r"y must have shape \(4,\), .* got \(3,\)"),
        ((HAND, [[0], [1], [1], [0]]), r"y must have shape \(4,\), .* got \(4, 1\)"),
        ((HAND, [0, 1, 2, 0]), "y must be 0 to 1; row 2 is 2"),
        ((HAND, [0, -1, 1, 0]), "y must be 0 to 1; row 1 is -1"),
        ((HAND, [0.0, 1.0, 1.0, 0.0]), "y must hold whole numbers, 0 to 1, or names"),
        ((HAND, ["a", "b", "b", "a"]), "y must hold whole numbers, 0 to 1, or names"),
        ((HAND, [0, 1, 1, 0], 0), "bins must be at least 1, got 0"),
    ],
)
def test_errors(arguments, why):
    with pytest.raises(ValueError, match=why):
        calibration(*arguments)


def test_errors_of_names():
    y = ["a", "b", "b", "a"]
    for labels in (("a",), ("a", "a"), ("a", "b", "c")):
        with pytest.raises(ValueError, match="labels must be 2 different names"):
            calibration(HAND, y, labels=labels)
    with pytest.raises(ValueError, match="unknown label 'b'; known are 'a', 'z'"):
        calibration(HAND, y, labels=("a", "z"))


def test_figures():
    one, other = calibration(*drawn(300, 3)), calibration(*drawn(300, 3, sharper=3.0), bins=8)
    assert isinstance(one, Calibration)
    for found, names in ((one, ["model"]), ({"right": one, "too sure": other},) * 2):
        figure = reliability_figure(found)
        assert isinstance(figure, Figure)
        upper, lower = figure.axes
        shown = [text.get_text().split(":")[0] for text in upper.get_legend().get_texts()]
        assert shown == ["calibrated", *names]
        assert len(lower.patches) == len(names)
    for bad in ({}, dict.fromkeys("abcde", one)):
        with pytest.raises(ValueError, match="found must hold 1 to 4 calibrations"):
            reliability_figure(bad)
