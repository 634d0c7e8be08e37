"""From two views' logits to probabilities and a confidence."""

from dataclasses import asdict

import numpy as np
import pytest

from mnist_ocr.digits.calibration import (
    Calibration,
    Threshold,
    Trend,
    Views,
    compute_energy,
    compute_log_odds,
    softmax,
)

CALIBRATION = Calibration(
    temperature=0.8,
    view_weights=(-0.9, 0.4, 1.3),
    clean=Trend(0.3, 1.2),
    cleaned=Trend(0.1, 0.9),
    not_a_digit_below=0.2,
)


@pytest.fixture
def views() -> Views:
    """Of 50 images; of the first ten both views are the same."""
    generator = np.random.default_rng(0)
    canonical, raw = generator.normal(0, 3, (2, 50, 10)).astype(np.float32)
    raw[:10] = canonical[:10]
    return Views(canonical, raw, generator.random(50, np.float32))


def take(views: Views, rows: np.ndarray) -> Views:
    return Views(*(each[rows] for each in views))


def test_probabilities_sum_to_1_and_lie_between_those_of_the_views(views: Views) -> None:
    """A weighted mean, whatever the weights."""
    probabilities, confidence = CALIBRATION.read(views)
    assert probabilities.dtype == confidence.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    each = np.stack([softmax(logits, 0.8) for logits in views[:2]])
    assert (probabilities >= each.min(0) - 1e-6).all()
    assert (probabilities <= each.max(0) + 1e-6).all()
    np.testing.assert_allclose(probabilities[:10], each[0, :10], atol=1e-6)


def test_unfitted_calibration_takes_the_mean_and_its_largest_probability(views: Views) -> None:
    """Without a fit both views count alike, and confidence is the largest probability."""
    probabilities, confidence = Calibration().read(views)
    np.testing.assert_allclose(
        probabilities, (softmax(views.canonical) + softmax(views.raw)) / 2, atol=1e-6
    )
    np.testing.assert_allclose(confidence, probabilities.max(1), atol=1e-6)


def test_neighbours_in_a_batch_do_not_matter(views: Views) -> None:
    """The same bits in any order and split."""
    order = np.random.default_rng(1).permutation(50)
    whole = CALIBRATION.read(views)
    for rows in (order, order[:7], order[7:]):
        for one, other in zip(CALIBRATION.read(take(views, rows)), whole, strict=True):
            assert (one == other[rows]).all()


def test_confidence_grows_with_the_largest_probability(views: Views) -> None:
    """It orders images as the weighted mean of both views does: clean ones, and the others."""
    is_clean = views.find_clean()
    for rows in (is_clean, ~is_clean):
        probabilities, confidence = CALIBRATION.read(take(views, rows))
        assert len(confidence)
        assert (np.argsort(confidence) == np.argsort(probabilities.max(1))).all()


def test_view_of_more_energy_counts_more(views: Views) -> None:
    """Energy tells which view looks like what training showed."""
    surer = views._replace(canonical=views.canonical + 5)
    each = np.stack([softmax(logits, 0.8) for logits in views[:2]])[:, 10:]

    def distance(views: Views) -> float:
        return float(np.abs(CALIBRATION.read(views).probabilities[10:] - each[0]).sum())

    assert distance(surer) < distance(views)


def test_extreme_logits_are_finite() -> None:
    """No overflow and no certainty that nothing can be fitted to."""
    logits = np.array([[1e4, -1e4] + [0.0] * 8, [0.0] * 10], np.float32)
    views = Views(logits, logits[::-1].copy(), np.ones(2, np.float32))
    for reading in (CALIBRATION.read(views), Calibration().read(views)):
        assert np.isfinite(reading.probabilities).all()
        np.testing.assert_allclose(reading.probabilities.sum(1), 1, atol=1e-6)
        assert ((reading.confidence > 0) & (reading.confidence <= 1)).all()
    assert np.isfinite(compute_log_odds(softmax(logits))).all()
    assert compute_energy(logits)[1] == pytest.approx(np.log(10))


def test_no_images_give_no_reading() -> None:
    """An empty batch is not an error."""
    nothing = np.zeros((0, 10), np.float32)
    probabilities, confidence = CALIBRATION.read(Views(nothing, nothing, np.zeros(0, np.float32)))
    assert probabilities.shape == (0, 10)
    assert confidence.shape == (0,)


@pytest.mark.parametrize(
    ("max_risk", "confidence"),
    [(0.001, None), (0.0019, None), (0.002, 0.98), (0.004, 0.98), (0.005, 0.9), (0.5, 0.9)],
)
def test_threshold_is_that_of_the_largest_risk_up_to_the_one_asked(
    max_risk: float, confidence: float | None
) -> None:
    """Never of a larger risk; none where not even the smallest will do."""
    thresholds = (Threshold(0.002, 0.98, {}, {}), Threshold(0.005, 0.9, {}, {}))
    calibration = Calibration(thresholds=thresholds)
    found = calibration.find_threshold(max_risk)
    assert (found and found.confidence) == confidence
    assert calibration.min_risk == 0.002
    assert Calibration().min_risk is None


def test_calibration_is_json_and_back() -> None:
    """`asdict` and `from_json` are inverse."""
    assert Calibration.from_json(asdict(CALIBRATION)) == CALIBRATION
