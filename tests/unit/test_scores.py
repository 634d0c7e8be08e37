"""Scores of confidence: known answers, and what they must not depend on."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from sklearn import metrics

from mnist_ocr.digits.classifier import Predictions
from mnist_ocr.training.scores import (
    NUM_BINS,
    ConfidenceBins,
    Scores,
    SelectiveError,
    bin_confidences,
    brier_score,
    compute_scores,
    count_errors,
    log_loss,
    selective_risk,
)


def build_predictions(num_images: int) -> tuple[np.ndarray, Predictions]:
    """Labels and readings of them: many of equal confidence, a tenth wrong, some not read."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, num_images)
    probabilities = rng.dirichlet(np.full(10, 0.3), num_images).astype(np.float32)
    digit = np.where(rng.random(num_images) < 0.9, labels, (labels + 1) % 10).astype(np.int8)
    confidence = rng.integers(1, 8, num_images).astype(np.float32) / 8
    unread = rng.random(num_images) < 0.05
    digit[unread], confidence[unread], probabilities[unread] = -1, np.nan, np.nan
    status = np.where(unread, "blank", "ok")
    return labels, Predictions(digit, confidence, probabilities, status, [None] * num_images)


def take(predictions: Predictions, order: np.ndarray) -> Predictions:
    return Predictions(
        predictions.digit[order],
        predictions.confidence[order],
        predictions.probabilities[order],
        predictions.status[order],
        [predictions.error[i] for i in order],
    )


def test_proper_scores_are_those_of_scikit_learn() -> None:
    """Also where the true digit was given no probability at all."""
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(10, 0.2), 200).astype(np.float32)
    labels = rng.integers(0, 10, 200)
    probabilities[0] = np.arange(10) == (labels[0] + 1) % 10
    classes = np.arange(10)
    expected = metrics.log_loss(labels, probabilities, labels=classes)
    assert log_loss(probabilities, labels) == pytest.approx(expected, rel=1e-5)
    expected = metrics.brier_score_loss(labels, probabilities, labels=classes, scale_by_half=False)
    assert brier_score(probabilities, labels) == pytest.approx(expected, rel=1e-5)


def test_calibrated_confidence_has_no_calibration_error() -> None:
    """Of images with confidence c a share of c is right: what is left is chance."""
    rng = np.random.default_rng(0)
    confidences = 1 - rng.random(300_000) ** 4 / 2
    assert bin_confidences(confidences, rng.random(300_000) < confidences).ece < 0.002


def test_overconfidence_is_the_calibration_error() -> None:
    """Confidence that is 9 points too high everywhere is off by 9 points."""
    rng = np.random.default_rng(0)
    accuracy = rng.uniform(0.5, 0.9, 300_000)
    bins = bin_confidences(accuracy + 0.09, rng.random(300_000) < accuracy)
    assert bins.ece == pytest.approx(0.09, abs=0.002)
    assert (bins.confidence > bins.accuracy_intervals()[1]).all()


def test_errors_of_opposite_sign_do_not_cancel() -> None:
    """Fifteen bins: in the lower ones too little confidence, in the upper ones too much."""
    confidences = np.repeat([0.7, 0.9], [80, 70])
    is_right = np.tile([True] * 4 + [False], 30)  # 80% of either
    assert bin_confidences(confidences, is_right).ece == pytest.approx(0.1)


def test_bins_have_equal_mass() -> None:
    """The least confident first; with fewer images than bins each has its own."""
    confidences = np.random.default_rng(0).permutation(np.arange(1000) / 1000)
    bins = bin_confidences(confidences, confidences >= 0.5)
    assert (len(bins.num_images), bins.num_images.sum()) == (NUM_BINS, 1000)
    assert set(bins.num_images) == {66, 67}
    assert (np.diff(bins.confidence) > 0).all()
    assert bins.num_right.sum() == 500
    few = bin_confidences(np.array([0.9, 0.6]), np.array([True, False]))
    assert few.confidence.tolist() == [0.6, 0.9]
    assert few.num_right.tolist() == [0, 1]


def test_intervals_are_those_of_clopper_and_pearson() -> None:
    """0, 5 and 10 of 10: 0-30.85%, 18.71-81.29%, 69.15-100%."""
    bins = ConfidenceBins(np.full(3, 10), np.array([0.0, 5.0, 10.0]), np.full(3, 0.5))
    low, high = bins.accuracy_intervals()
    np.testing.assert_allclose(low, [0, 0.18709, 0.69150], atol=1e-5)
    np.testing.assert_allclose(high, [0.30850, 0.81291, 1], atol=1e-5)


def test_risk_is_the_share_of_errors_among_the_most_confident() -> None:
    """By hand: right, wrong, right, wrong from the most confident down."""
    errors = count_errors(np.array([0.6, 0.9, 0.7, 0.8]), np.array([False, True, True, False]))
    assert errors.tolist() == [0, 0, 1, 1, 2]
    assert selective_risk(errors).tolist() == [0, 1 / 2, 1 / 3, 1 / 2]


def test_equal_confidences_share_their_errors() -> None:
    """Of one error among three of equal confidence, a third is in each."""
    errors = count_errors(np.array([0.9, 0.5, 0.5, 0.5]), np.array([True, False, True, True]))
    np.testing.assert_allclose(errors, [0, 0, 1 / 3, 2 / 3, 1])


def test_aurc_of_the_best_order_is_its_closed_form() -> None:
    """30 errors, the least confident of 1,000; without any order it is the error rate."""
    num_images, num_errors = 1000, 30
    is_right = np.arange(num_images) >= num_errors
    best = selective_risk(count_errors(np.arange(num_images) / num_images, is_right)).mean()
    j = np.arange(1, num_errors + 1)
    assert best == pytest.approx((j / (num_images - num_errors + j)).sum() / num_images)
    constant = selective_risk(count_errors(np.full(num_images, 0.9), is_right))
    np.testing.assert_allclose(constant, num_errors / num_images)


def test_order_of_the_images_changes_nothing() -> None:
    """Though many images have the same confidence."""
    labels, predictions = build_predictions(500)
    expected = compute_scores(labels, predictions)
    order = np.random.default_rng(1).permutation(500)
    scores = compute_scores(labels[order], take(predictions, order))
    assert scores.selective == expected.selective
    for name in ("nll", "brier", "ece", "aurc"):
        assert getattr(scores, name) == pytest.approx(getattr(expected, name), rel=1e-9)


def test_coverage_is_rounded_up() -> None:
    """99% of 10,000 are 9,900, not 9,901 for want of precision; 99% of 30 are all."""
    for num_images, kept in ((10_000, [9900, 9500]), (30, [30, 29]), (1, [1, 1])):
        scores = compute_scores(*build_predictions(num_images))
        assert [each.num_images for each in scores.selective] == kept


def test_images_not_read_are_the_least_confident_errors() -> None:
    """They are in AURC and coverage, and not in NLL, Brier and ECE."""
    labels, predictions = build_predictions(400)
    is_read = predictions.digit >= 0
    read = np.flatnonzero(is_read)
    scores, of_read = (
        compute_scores(labels, predictions),
        compute_scores(labels[read], take(predictions, read)),
    )
    assert (scores.nll, scores.brier, scores.ece) == (of_read.nll, of_read.brier, of_read.ece)
    confidences = np.where(is_read, predictions.confidence, 0)
    risk = selective_risk(count_errors(confidences, predictions.digit == labels))
    assert scores.aurc == risk.mean()
    assert risk[-1] - of_read.aurc > (~is_read).mean() / 2


def test_confidence_is_not_the_largest_probability() -> None:
    """Calibration error and order are those of `confidence`, whatever the probabilities."""
    labels, predictions = build_predictions(400)
    other = replace(predictions, probabilities=predictions.probabilities[:, ::-1])
    scores, others = compute_scores(labels, predictions), compute_scores(labels, other)
    assert scores.nll != others.nll
    assert (scores.ece, scores.aurc) == (others.ece, others.aurc)


def test_if_nothing_was_read_there_is_no_number_to_print() -> None:
    """Nor a NaN in JSON."""
    labels, predictions = build_predictions(20)
    nothing = replace(predictions, digit=np.full(20, -1, np.int8))
    scores = compute_scores(labels, nothing)
    assert json.loads(json.dumps(asdict(scores), allow_nan=False))["nll"] is None
    assert scores.format().splitlines() == [
        "NLL - nats · Brier - · ECE - · AURC 1.000000",
        "most confident 99%: 20 errors in 20 (100.00%)",
        "most confident 95%: 19 errors in 19 (100.00%)",
    ]


def test_printed_figures_are_in_line() -> None:
    """Counts with thousands separators; a decimal where images of equal confidence are parted."""
    kept = (SelectiveError(99, 9900, 1234.0, 0.12), SelectiveError(95, 9500, 0.5, 0.0001))
    lines = Scores(0.0123, 0.0051, 0.00144, 0.00012, kept).format().splitlines()
    assert lines == [
        "NLL 0.0123 nats · Brier 0.0051 · ECE 0.14% · AURC 0.000120",
        "most confident 99%: 1,234 errors in 9,900 (12.00%)",
        "most confident 95%:   0.5 errors in 9,500 (0.01%)",
    ]
