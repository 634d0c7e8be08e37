"""Fitting a calibration on images that training did not see."""

import json
from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import pytest

from mnist_ocr.digits.calibration import Calibration, Views
from mnist_ocr.training import calibrating
from mnist_ocr.training.calibrating import (
    NO_DIGIT,
    NUM_FOLDS,
    Population,
    fit_calibration,
    fit_confidence,
    fit_views,
    score,
)
from mnist_ocr.training.config import DatasetConfig
from mnist_ocr.training.datasets import Split, load_dataset
from mnist_ocr.training.scans import draw_scans


def draw_population(num_images: int, temperature: float, seed: int = 0) -> Population:
    """Labels drawn from softmax(logits / temperature); both views are the same."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 4, (num_images, 10)).astype(np.float32)
    noisy = logits / temperature + rng.gumbel(size=logits.shape)
    views = Views(logits, logits, np.ones(num_images, np.float32))
    return Population(views, noisy.argmax(1), np.arange(num_images) % NUM_FOLDS)


def name_populations(digits: Population, outliers: Population) -> dict[str, Population]:
    return {"clean": digits, "scanned": digits, "shifted": digits, "outliers": outliers}


def make_outliers(num_images: int, scale: float) -> Population:
    logits = np.random.default_rng(9).normal(0, scale, (num_images, 10)).astype(np.float32)
    labels = np.full(num_images, NO_DIGIT)
    return Population(Views(logits, logits, np.ones(num_images, np.float32)), labels, labels)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_fitted_temperature_is_that_of_the_data(temperature: float) -> None:
    """The temperature that the labels were drawn with is found again."""
    calibration = fit_views([draw_population(20_000, temperature)])
    assert calibration.temperature == pytest.approx(temperature, rel=0.05)


def test_no_mistake_at_all_leaves_the_views_alone() -> None:
    """A faultless validation set says nothing of doubt, and must not raise confidence."""
    logits = np.eye(10, dtype=np.float32)
    views = Views(logits, logits, np.ones(10, np.float32))
    faultless = Population(views, np.arange(10), np.arange(10))
    assert fit_views([faultless]) == Calibration()
    fitted = fit_confidence(name_populations(faultless, make_outliers(5, 0.1)))
    assert (fitted.read(views).confidence < 0.9).all()


def test_view_that_is_right_is_weighed_more() -> None:
    """By trust: with it the canonical view is right, without it the raw one."""
    digits = draw_population(4000, 1.0)
    noise = draw_population(4000, 1.0, seed=1).views.canonical
    trust = (np.arange(4000) % 2).astype(np.float32)
    is_trusted = trust[:, None] == 1
    right = digits.views.canonical
    views = Views(np.where(is_trusted, right, noise), np.where(is_trusted, noise, right), trust)
    calibration = fit_views([digits._replace(views=views)])
    assert score(calibration, digits._replace(views=views)).is_right.mean() > 0.95 * (
        score(Calibration(), digits).is_right.mean()
    )
    assert calibration.view_weights[1] > 2


def test_confidence_is_the_share_that_is_right() -> None:
    """Also where the network is far too sure of itself; on images that were not fitted on."""
    calibration = fit_confidence(
        name_populations(draw_population(10_000, 3.0), make_outliers(10, 1.0))
    )
    confidence, is_right = score(calibration, draw_population(20_000, 3.0, seed=2))
    for part in np.array_split(np.argsort(confidence), 5):
        assert confidence[part].mean() == pytest.approx(is_right[part].mean(), abs=0.03)


def test_outliers_lower_the_confidence_of_what_looks_like_them() -> None:
    """Of sure outliers more than of others; the digits themselves count more."""
    digits = draw_population(4000, 1.0)
    calm, sure = (
        fit_confidence(name_populations(digits, make_outliers(4000, scale))) for scale in (0.1, 9)
    )
    assert sure.read(digits.views).confidence.mean() < calm.read(digits.views).confidence.mean()


def test_outliers_count_a_tenth() -> None:
    """As many as can be drawn teach doubt, and yet clean digits are not doubted more than right."""
    digits = draw_population(4000, 1.0)
    calibration = fit_confidence(name_populations(digits, make_outliers(1200, 4)))
    confidence, is_right = score(calibration, digits)
    assert confidence.mean() == pytest.approx(is_right.mean(), abs=0.03)


def test_few_images_hardly_change_the_largest_probability() -> None:
    """Ridge: what cannot be known stays as the network says."""
    few = draw_population(4, 1.0)
    calibration = fit_confidence(name_populations(few, make_outliers(1, 1.0)))
    for trend in (calibration.clean, calibration.cleaned):
        assert trend.slope == pytest.approx(1, abs=0.5)
        assert trend.offset == pytest.approx(0, abs=1)


def test_images_that_need_no_cleaning_have_a_confidence_of_their_own() -> None:
    """What a network cannot read once it is damaged says nothing of clean images."""
    clean = draw_population(5000, 1.0)
    damaged = draw_population(5000, 4.0, seed=1)
    raw = damaged.views.raw + 1  # another view, of the same probabilities
    damaged = damaged._replace(views=damaged.views._replace(raw=raw))
    populations = name_populations(damaged, make_outliers(10, 1.0)) | {"clean": clean}
    calibration = fit_confidence(populations)
    assert calibration.temperature > 2  # probabilities are those of all digits
    for population in (clean, damaged):
        confidence, is_right = score(calibration, population)
        assert confidence.mean() == pytest.approx(is_right.mean(), abs=0.02)


@pytest.fixture(scope="module")
def validation() -> Split:
    """100 of the digits that come with scikit-learn."""
    images, labels = load_dataset(DatasetConfig(dataset="digits")).validation
    return Split(images[:100], labels[:100])


def test_calibration_of_a_simple_reader(validation: Split) -> None:
    """The whole fit, on nearest means: honest, the same again, and JSON."""
    means = np.stack([validation.images[validation.labels == d].mean(0) for d in range(10)])

    def compute_logits(images: np.ndarray) -> np.ndarray:
        distances = np.square((images[:, None].astype(np.float32) - means) / 255).sum((2, 3))
        return -distances.astype(np.float32)

    calibration = fit_calibration(compute_logits, validation, seed=0)
    assert calibration == fit_calibration(compute_logits, validation, seed=0)
    assert Calibration.from_json(json.loads(json.dumps(asdict(calibration)))) == calibration
    assert list(calibration.measured) == ["clean", "scanned", "shifted", "outliers"]
    for name in ("clean", "scanned", "shifted"):
        measured = calibration.measured[name]
        accuracy = 1 - measured["num_errors"] / measured["num_images"]
        assert measured["mean_confidence"] == pytest.approx(accuracy, abs=0.15)
    # 100 images without a mistake would promise 3%
    assert calibration.min_risk is None or calibration.min_risk > 0.03


def test_thresholds_come_from_confidences_of_other_folds(
    validation: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each image is scored by a fit on the four other folds; the fit that is kept has all five."""
    seen: list[set[int]] = []

    def fit(populations: Mapping[str, Population]) -> Calibration:
        seen.append({fold for each in populations.values() for fold in each.folds.tolist()})
        return fit_confidence(populations)

    monkeypatch.setattr(calibrating, "fit_confidence", fit)
    fit_calibration(
        lambda images: np.eye(10, dtype=np.float32)[images[:, 14, 14] % 10], validation, 0
    )
    everything = set(range(NUM_FOLDS))
    assert sorted(map(sorted, seen)) == sorted(
        [sorted(everything), *(sorted(everything - {fold}) for fold in range(NUM_FOLDS))]
    )


def test_scans_are_ink_on_paper(validation: Split) -> None:
    """Square pages of many sizes, dark on light, the same for the same seed."""
    images = validation.images[:40]
    scans = draw_scans(images, seed=1)
    assert all((a == b).all() for a, b in zip(scans, draw_scans(images, seed=1), strict=True))
    assert {scan.dtype.name for scan in scans} == {"uint8"}
    sizes = {scan.shape for scan in scans}
    assert len(sizes) > 10
    assert all(height == width and 40 <= height <= 128 for height, width in sizes)
    assert all(np.median(scan) > scan.min() + 50 for scan in scans)
