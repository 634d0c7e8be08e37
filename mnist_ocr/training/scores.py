"""How far a model's confidence can be trusted: is it true, and does it put the errors last?

A *proper score* (log loss, Brier) judges all ten probabilities, the calibration error what the
confidence says, and selective risk the order that it puts the images in.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from mnist_ocr.digits.classifier import Predictions

NUM_BINS = 15
"""Of equal mass; Guo et al. 2017 (arXiv:1706.04599) take as many, of equal width."""

COVERAGES = (99, 95)
"""Per cent of the images: the most confident ones."""


@dataclass(frozen=True)
class SelectiveError:
    """What goes wrong if only the most confident images are kept."""

    coverage: int
    """Share kept, in per cent of all images."""
    num_images: int
    """How many that is, rounded up."""
    num_errors: float
    """Errors among them; no whole number if only some images of equal confidence are kept."""
    error_rate: float
    """Share of errors among them: the selective risk."""


@dataclass(frozen=True)
class Scores:
    """How far a model's confidence can be trusted on a dataset's images.

    Images that were not read have no probabilities: the first three figures leave them out (None if
    there is no other image). In the rest they are errors, and less confident than all others.
    """

    nll: float | None
    """Negative log-likelihood of the true digits, in nats per image."""
    brier: float | None
    """Brier score, summed over the ten classes: 0 to 2."""
    ece: float | None
    """Expected calibration error of `confidence`, 0 to 1, in bins of equal mass."""
    aurc: float
    """Area under the risk-coverage curve, 0 to 1."""
    selective: tuple[SelectiveError, ...]
    """Errors at each of `COVERAGES`."""

    def format(self) -> str:
        """Lay out the figures for a person to read."""
        nll, brier, ece = (
            "-" if score is None else format(score, spec)
            for score, spec in ((self.nll, ".4f"), (self.brier, ".4f"), (self.ece, ".2%"))
        )
        errors = [format_errors(kept.num_errors) for kept in self.selective]
        width = max(map(len, errors))
        return "\n".join(
            [
                f"NLL {nll} nats · Brier {brier} · ECE {ece} · AURC {self.aurc:.6f}",
                *(
                    f"most confident {kept.coverage}%: {count:>{width}} in {kept.num_images:,} "
                    f"({kept.error_rate:.2%})"
                    for kept, count in zip(self.selective, errors, strict=True)
                ),
            ]
        )


def compute_scores(labels: NDArray[np.int64], predictions: Predictions) -> Scores:
    """Compare predictions with at least one true digit.

    Args:
        labels: (N,) int64, 0-9.
        predictions: Of the same N images; where `digit` is -1 the image was not read.
    """
    confidences, is_right = judge_predictions(labels, predictions)
    is_read = predictions.digit >= 0
    probabilities = predictions.probabilities[is_read]
    has_read = bool(is_read.any())
    errors = count_errors(confidences, is_right)
    return Scores(
        nll=log_loss(probabilities, labels[is_read]) if has_read else None,
        brier=brier_score(probabilities, labels[is_read]) if has_read else None,
        ece=bin_confidences(confidences[is_read], is_right[is_read]).ece if has_read else None,
        aurc=float(np.mean(selective_risk(errors))),
        selective=select_most_confident(errors),
    )


def judge_predictions(
    labels: NDArray[np.int64], predictions: Predictions
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Say how sure each reading was, and whether it was right.

    Returns:
        (N,) float64 confidence, 0 for an image that was not read; (N,) bool, then False.
    """
    is_read = predictions.digit >= 0
    confidences = np.where(is_read, predictions.confidence, 0).astype(np.float64)
    return confidences, predictions.digit == labels


def log_loss(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Mean negative log-likelihood of the labels, in nats (as scikit-learn's `log_loss`).

    Args:
        probabilities: (N, 10) float32. Each counts as at least 1.2e-7, the precision of float32, so
            that an error without any doubt costs 16 nats and not infinitely many.
        labels: (N,) int64, 0-9.
    """
    of_truth = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(of_truth.clip(np.finfo(np.float32).eps, 1)).mean())


def brier_score(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Mean squared distance of the probabilities from the truth, summed over the classes: 0 to 2.

    Brier 1950, eq. 2; scikit-learn's `brier_score_loss(scale_by_half=False)`.

    Args:
        probabilities: (N, 10) float32.
        labels: (N,) int64, 0-9.
    """
    truth = np.eye(probabilities.shape[1])[labels]
    return float(((probabilities - truth) ** 2).sum(axis=1).mean())


def count_errors(
    confidences: NDArray[np.float64], is_right: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Count the errors among the k most confident images, for every k.

    Images of equal confidence could stand in any order: the count is the mean over all of them.

    Args:
        confidences: (N,) float64, at least one.
        is_right: (N,) bool.

    Returns:
        (N + 1,) float64, for k = 0 to N.
    """
    _, group, sizes = np.unique(-confidences, return_inverse=True, return_counts=True)
    num_errors = np.bincount(group, weights=~is_right)
    ends, errors = (np.concatenate([[0], each.cumsum()]) for each in (sizes, num_errors))
    return np.asarray(np.interp(np.arange(len(confidences) + 1), ends, errors))


def selective_risk(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of errors among the k most confident images: the risk-coverage curve.

    Geifman & El-Yaniv 2017, arXiv:1705.08500. Its mean is the AURC (Geifman, Uziel & El-Yaniv 2019,
    arXiv:1805.08206).

    Args:
        errors: (N + 1,) float64 of `count_errors`.

    Returns:
        (N,) float64, 0 to 1, for k = 1 to N.
    """
    return errors[1:] / np.arange(1, len(errors))


def select_most_confident(errors: NDArray[np.float64]) -> tuple[SelectiveError, ...]:
    """What goes wrong at each of `COVERAGES`, given the (N + 1,) float64 of `count_errors`."""
    sizes = [-(-(len(errors) - 1) * coverage // 100) for coverage in COVERAGES]
    return tuple(
        SelectiveError(coverage, size, float(errors[size]), float(errors[size] / size))
        for coverage, size in zip(COVERAGES, sizes, strict=True)
    )


@dataclass(frozen=True)
class ConfidenceBins:
    """Images in bins of equal mass, the least confident first: B bins, each with an image."""

    num_images: NDArray[np.int64]
    """(B,) images in each; they differ by one at most."""
    num_right: NDArray[np.float64]
    """(B,) of them read rightly; where a bin ends among equal confidences, their mean."""
    confidence: NDArray[np.float64]
    """(B,) mean confidence, 0 to 1."""

    @property
    def ece(self) -> float:
        """Expected calibration error, 0 to 1: how far accuracy is from confidence, by image.

        Naeini et al. 2015, with bins of equal mass (Nguyen & O'Connor 2015, arXiv:1508.05154): of
        equal width, all but a few would be empty, as most images are read with near certainty.
        """
        gaps = np.abs(self.num_right - self.num_images * self.confidence)
        return float(gaps.sum() / self.num_images.sum())

    def accuracy_intervals(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lower and upper ends, (B,) each, of 95% intervals of the accuracy.

        Clopper & Pearson 1934, "The use of confidence or fiducial limits illustrated in the case of
        the binomial", as quantiles of beta distributions.
        """
        right, wrong = self.num_right, self.num_images - self.num_right
        # A beta distribution without mass on one side: the interval ends at 0 or 1.
        low = np.where(right > 0, betaincinv(np.maximum(right, 1e-9), wrong + 1, 0.025), 0)
        high = np.where(wrong > 0, betaincinv(right + 1, np.maximum(wrong, 1e-9), 0.975), 1)
        return low, high


def bin_confidences(
    confidences: NDArray[np.float64], is_right: NDArray[np.bool_]
) -> ConfidenceBins:
    """Sort images into `NUM_BINS` bins of equal mass, or as many as there are images.

    Args:
        confidences: (N,) float64, 0 to 1, at least one.
        is_right: (N,) bool.
    """
    num_bins = min(NUM_BINS, len(confidences))
    ends = len(confidences) * np.arange(num_bins + 1) // num_bins
    num_images = np.diff(ends)
    num_right = num_images - np.diff(count_errors(-confidences, is_right)[ends])
    total = np.concatenate([[0], np.sort(confidences).cumsum()])
    return ConfidenceBins(num_images, num_right, np.diff(total[ends]) / num_images)


def format_errors(num_errors: float) -> str:
    """`2 errors`, with a decimal only if it is no whole number."""
    count = f"{num_errors:,.0f}" if num_errors == round(num_errors) else f"{num_errors:,.1f}"
    return f"{count} error" if num_errors == 1 else f"{count} errors"
