"""Fits the calibration of a trained network, on images that training did not see.

Four populations are read as a user's images would be, both views: the validation images (`clean`),
a scan of each (`scanned`), a heavily disturbed copy of each (`shifted`), and pages that hold no
digit (`outliers`). Digits give the temperature and the views' weights; outliers teach the
confidence, too: any digit read from them is wrong. A risk is promised on clean and on scanned
images, each by itself; what the same threshold does to the others is measured.

Shapes: N images of a population.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from mnist_ocr.digits.batch import prepare_images
from mnist_ocr.digits.calibration import (
    MIN_PROBABILITY,
    Calibration,
    Trend,
    Views,
    compute_log_odds,
)
from mnist_ocr.digits.classifier import compute_views
from mnist_ocr.training.datasets import Split
from mnist_ocr.training.risk_control import (
    Judged,
    choose_rejection,
    choose_thresholds,
    measure,
)
from mnist_ocr.training.scans import draw_scans
from mnist_ocr.training.shifts import make_outliers, shift_images

Pages = NDArray[np.uint8] | list[NDArray[np.uint8]]

NO_DIGIT = -1
"""Label of an outlier."""

NUM_FOLDS = 5
"""Thresholds are chosen on confidences that were fitted on the other folds' images."""

MAX_IMAGES = 10_000
"""Validation images used: a fit on more takes memory and time, and gains little."""

OUTLIER_SHARE = 0.1
"""Outliers per validation image."""

OUTLIER_WEIGHT = 0.1
"""Of an outlier in the confidence's fit: as if one page in 300 held no digit. More rank no better,
and clean digits come out less confident than right."""

RIDGE = 1.0
"""Precision of the normal priors."""


class Population(NamedTuple):
    """Images read, and what they show."""

    views: Views
    labels: NDArray[np.int64]
    """(N,) 0-9, or `NO_DIGIT`."""
    folds: NDArray[np.int64]
    """(N,) 0 to `NUM_FOLDS` - 1; a digit, its scan and its disturbed copy are in one fold."""

    def take(self, rows: NDArray[np.bool_]) -> "Population":
        """Some of its images."""
        return Population(
            Views(*(each[rows] for each in self.views)), self.labels[rows], self.folds[rows]
        )


def fit_calibration(
    compute_logits: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    validation: Split,
    seed: int,
) -> Calibration:
    """Fit everything, and measure what it is worth on folds left out.

    Args:
        compute_logits: (N, 28, 28) uint8 to (N, 10) float32, by the final weights.
        validation: Images that training did not see.
        seed: Seeds the disturbances, the outliers and the folds.
    """
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(validation.labels))[:MAX_IMAGES])
    images, labels = validation.images[chosen], validation.labels[chosen]
    folds = rng.permutation(len(labels)) % NUM_FOLDS
    outliers = make_outliers(images, max(NUM_FOLDS, round(len(labels) * OUTLIER_SHARE)), seed)
    no_digits = np.full(len(outliers), NO_DIGIT)
    pages: dict[str, tuple[Pages, NDArray[np.int64], NDArray[np.int64]]] = {
        "clean": (images, labels, folds),
        "scanned": (draw_scans(images, seed), labels, folds),
        "shifted": (shift_images(images, seed), labels, folds),
        "outliers": (outliers, no_digits, np.arange(len(outliers)) % NUM_FOLDS),
    }
    populations = {
        name: _read_pages(compute_logits, *population) for name, population in pages.items()
    }
    scores = _cross_fit(populations)
    return replace(
        fit_confidence(populations),
        not_a_digit_below=choose_rejection(scores),
        thresholds=choose_thresholds(scores),
        measured={name: measure(each) for name, each in scores.items()},
    )


def _read_pages(
    compute_logits: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    pages: Pages,
    labels: NDArray[np.int64],
    folds: NDArray[np.int64],
) -> Population:
    """As a user's images are read; blank ones are left out."""
    batch = prepare_images(pages, len(pages))
    rows = batch.is_ok
    return Population(compute_views(batch, compute_logits), labels[rows], folds[rows])


def _cross_fit(populations: Mapping[str, Population]) -> dict[str, Judged]:
    """Each image's confidence, from a fit without its fold."""
    parts: dict[str, list[Judged]] = {name: [] for name in populations}
    for fold in range(NUM_FOLDS):
        rest = {name: each.take(each.folds != fold) for name, each in populations.items()}
        calibration = fit_confidence(rest)
        for name, population in populations.items():
            parts[name].append(score(calibration, population.take(population.folds == fold)))
    return {
        name: Judged(*map(np.concatenate, zip(*each, strict=True))) for name, each in parts.items()
    }


def score(calibration: Calibration, population: Population) -> Judged:
    """Confidences, and which digits are right."""
    probabilities, confidence = calibration.read(population.views)
    return Judged(confidence, probabilities.argmax(1) == population.labels)


def fit_confidence(populations: Mapping[str, Population]) -> Calibration:
    """Temperature and views' weights on digits, then the confidence on all.

    Images that had MNIST's form have a trend of their own, or a network that knows no damage would
    doubt what it reads best. What else was tried beside the log-odds: docs/design.md.
    """
    calibration = fit_views([each for name, each in populations.items() if name != "outliers"])
    views, labels, _ = _join(populations.values())
    probabilities = calibration.weigh(views)
    log_odds = compute_log_odds(probabilities)
    is_right = probabilities.argmax(1) == labels
    weights = np.where(labels == NO_DIGIT, OUTLIER_WEIGHT, 1.0)
    is_clean = views.find_clean()
    clean, cleaned = (
        fit_trend(log_odds[rows], is_right[rows], weights[rows]) for rows in (is_clean, ~is_clean)
    )
    return replace(calibration, clean=clean, cleaned=cleaned)


def fit_trend(
    log_odds: NDArray[np.float64], is_right: NDArray[np.bool_], weights: NDArray[np.float64]
) -> Trend:
    """The logistic function of greatest likelihood (Platt 1999).

    A prior pulls towards "confidence = largest probability", which few images hardly change. The
    targets are Platt's, right and wrong with one more image of each, so that no mistake at all is
    no certainty.

    Args:
        log_odds: (N,), of the largest probability.
        is_right: (N,), whether that is the digit.
        weights: (N,), what each image counts.
    """
    num_right, num_wrong = weights[is_right].sum(), weights[~is_right].sum()
    targets = np.where(is_right, (num_right + 1) / (num_right + 2), 1 / (num_wrong + 2))

    def compute_loss(coefficients: NDArray[np.float64]) -> float:
        offset, slope = coefficients
        predicted = offset + slope * log_odds
        losses = np.logaddexp(0, predicted) - targets * predicted
        return float(weights @ losses + RIDGE / 2 * (offset**2 + (slope - 1) ** 2))

    # more certain probabilities must not make less confident
    found = minimize(compute_loss, (0, 1), bounds=[(None, None), (0, None)])
    return Trend(*found.x.tolist())


def fit_views(populations: Sequence[Population]) -> Calibration:
    """The temperature and views' weights of greatest likelihood (Guo et al. 2017).

    A standard normal prior on the temperature's logarithm and the weights; where no digit was
    misread, the likelihood says nothing of the doubt there should be, and the defaults remain.
    """
    views, labels, _ = _join(populations)
    rows = np.arange(len(labels))

    def build(parameters: NDArray[np.float64]) -> Calibration:
        log_temperature, *weights = parameters.tolist()
        return Calibration(temperature=math.exp(log_temperature), view_weights=tuple(weights))

    def compute_loss(parameters: NDArray[np.float64]) -> float:
        likelihoods = build(parameters).weigh(views)[rows, labels]
        losses = -np.log(np.maximum(likelihoods, MIN_PROBABILITY))
        return float(losses.sum() + RIDGE / 2 * parameters @ parameters)

    if (Calibration().weigh(views).argmax(1) == labels).all():
        return Calibration()
    return build(minimize(compute_loss, np.zeros(4), method="L-BFGS-B").x)


def _join(populations: Iterable[Population]) -> Population:
    views, labels, folds = zip(*populations, strict=True)
    return Population(
        Views(*map(np.concatenate, zip(*views, strict=True))),
        np.concatenate(labels),
        np.concatenate(folds),
    )
