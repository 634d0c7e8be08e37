"""Measuring a model on a dataset's images, as a user would run it, and drawing what it does."""

import logging
import math
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnist_ocr.digits.classifier import DigitClassifier, Predictions
from mnist_ocr.errors import ObjectError, UsageError
from mnist_ocr.storage import open_store
from mnist_ocr.training.confidence_plots import plot_reliability, plot_risk_coverage
from mnist_ocr.training.config import EvaluateConfig
from mnist_ocr.training.datasets import Dataset, Split, load_dataset
from mnist_ocr.training.digit_grids import plot_errors, plot_predictions
from mnist_ocr.training.metrics import METRICS, EpochMetrics, parse_history
from mnist_ocr.training.plots import plot_confusion, plot_curves, render_png
from mnist_ocr.training.scores import Scores, compute_scores, judge_predictions

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """How well a model reads the images of a dataset."""

    model_uri: str
    dataset: str
    split: str
    """Which images: `train`, `validation`, `test` or `all`."""
    num_images: int
    num_errors: int
    """Images not read rightly: as another digit, or not at all."""
    accuracy: float
    """Share of the images read rightly."""
    recall: tuple[float | None, ...]
    """For each digit 0-9, the share of its images read rightly; None if it has no images."""
    confusion: tuple[tuple[int, ...], ...]
    """10 x 10 counts: row is the true digit, column the one read."""
    scores: Scores
    """How far the confidence can be trusted."""
    images_per_s: float
    """Speed of reading, without loading."""
    pictures: tuple[str, ...]
    """The pictures' absolute paths or URIs."""

    def format(self) -> str:
        """Lay out the confusion matrix, accuracy and scores for a person to read."""
        width = max(6, *(len(str(count)) + 1 for counts in self.confusion for count in counts))
        header = "true\\read" + "".join(f"{digit:>{width}}" for digit in range(10)) + "   recall"
        rows = [
            f"{digit:>9}"
            + "".join(f"{count:>{width}}" for count in counts)
            + ("        -" if recall is None else f"{recall:>9.2%}")
            for digit, (counts, recall) in enumerate(zip(self.confusion, self.recall, strict=True))
        ]
        num_unread = self.num_images - sum(map(sum, self.confusion))
        unread = f", {num_unread:,} not read at all" if num_unread else ""
        summary = (
            f"{self.accuracy:.2%} of {self.num_images:,} {self.dataset} "
            f"{_name_images(self.split)} read rightly{unread}, {self.images_per_s:,.0f} images/s"
        )
        lines = [header, *rows, summary, self.scores.format()]
        if num_unread:
            lines.append(
                "those not read are the least confident errors; NLL, Brier and ECE leave them out"
            )
        return "\n".join([*lines, *self.pictures])


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Read a dataset's images with a model, compare with their labels, and write pictures.

    The pictures are `confusion.png`, `reliability.png`, `risk_coverage.png`, `predictions.png`,
    `errors.png` and, if the model directory records its training, `curves.png`.

    Raises:
        UsageError: The model directory or the dataset is not one, the split has no images, or the
            pictures cannot be written to the `output_uri` that was asked for.
        DatasetUnavailableError: The dataset cannot be downloaded.
        StorageUnreachableError: The store of the model, dataset or pictures does not answer.
    """
    classifier = DigitClassifier.load(config.model_uri)
    images, labels = select_split(load_dataset(config), config.split)
    if not len(labels):
        raise UsageError(
            f"{config.dataset} has no {_name_images(config.split)}. Pass --split all, or add scans."
        )
    start = time.perf_counter()
    predictions = classifier.predict(images)
    seconds = time.perf_counter() - start
    confusion = count_confusion(labels, predictions.digit)
    right, num_images = confusion.diagonal(), np.bincount(labels, minlength=10)
    return Evaluation(
        model_uri=config.model_uri,
        dataset=config.dataset,
        split=config.split,
        num_images=len(labels),
        num_errors=len(labels) - int(right.sum()),
        accuracy=float(right.sum() / len(labels)),
        recall=tuple(
            r / n if n else None for r, n in zip(right.tolist(), num_images.tolist(), strict=True)
        ),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        scores=compute_scores(labels, predictions),
        images_per_s=len(labels) / seconds,
        pictures=_write_pictures(config, Split(images, labels), predictions),
    )


def select_split(dataset: Dataset, name: str) -> Split:
    """The split of that name; `all` is train, validation and test, in this order."""
    if name != "all":
        return dataset.splits[name]
    images, labels = zip(*dataset.splits.values(), strict=True)
    return Split(np.concatenate(images), np.concatenate(labels))


def count_confusion(labels: NDArray[np.int64], digits: NDArray[np.int8]) -> NDArray[np.int64]:
    """Count how often each digit was read as which.

    Args:
        labels: (N,) int64, 0-9.
        digits: (N,) int8, 0-9, or -1 where an image was not read: it is in no column.

    Returns:
        (10, 10) int64: row is the true label, column the digit read.
    """
    read = digits >= 0
    return np.bincount(labels[read] * 10 + digits[read], minlength=100).reshape(10, 10)


def _write_pictures(
    config: EvaluateConfig, split: Split, predictions: Predictions
) -> tuple[str, ...]:
    """Draw and write each picture; return their addresses."""
    (images, labels), digits, which = split, predictions.digit, _name_images(config.split)
    model_uri = config.model_uri.rstrip("/")
    source = f"{which} of {config.dataset_name}  ·  {model_uri}"
    confidences, is_right = judge_predictions(labels, predictions)
    is_read = digits >= 0
    figures = {
        "confusion.png": plot_confusion(
            count_confusion(labels, digits),
            np.bincount(labels, minlength=10),
            f"{(digits == labels).mean():.2%} of {len(labels):,} {which} read rightly",
            source,
        ),
        "reliability.png": plot_reliability(confidences[is_read], is_right[is_read], source),
        "risk_coverage.png": plot_risk_coverage(confidences, is_right, source),
        "predictions.png": plot_predictions(images, labels, digits, source),
        "errors.png": plot_errors(images, labels, digits, predictions.confidence, source),
    }
    if history := _read_history(config.model_uri):
        figures = {"curves.png": plot_curves(history, model_uri)} | figures
    store = open_store(
        config.output_uri or f"{model_uri}/evaluation/{config.dataset_name}-{config.split}"
    )
    try:
        for name, figure in figures.items():
            store.write(name, render_png(figure))
    except UsageError as error:
        if config.output_uri:
            raise
        logger.warning("no pictures: %s Pass --output-uri.", error)
        return ()
    return tuple(map(store.uri_of, figures))


def _read_history(model_uri: str) -> list[EpochMetrics]:
    """What the model directory tells of the training; nothing if that is absent or damaged."""
    store = open_store(model_uri)
    try:
        lines = store.read(METRICS).decode(errors="replace")
    except ObjectError as error:
        logger.info("curves.png is left out: %s", error)
        return []
    history = {each.epoch: each for each in parse_history(lines) if _is_finite(each)}
    if not history:
        logger.info("curves.png is left out: %s has no readable line", store.uri_of(METRICS))
    return [history[epoch] for epoch in sorted(history)]


def _is_finite(metrics: EpochMetrics) -> bool:
    return all(isinstance(v, (int, float)) and math.isfinite(v) for v in vars(metrics).values())


def _name_images(split: str) -> str:
    return "images" if split == "all" else f"{split} images"
