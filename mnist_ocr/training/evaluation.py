"""Measuring a model on a dataset's test images, as a user would run it."""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnist_ocr.digits.classifier import DigitClassifier
from mnist_ocr.training.config import EvaluateConfig
from mnist_ocr.training.datasets import load_dataset


@dataclass(frozen=True)
class Evaluation:
    """How well a model reads the test images of a dataset."""

    model_uri: str
    dataset: str
    num_images: int
    accuracy: float
    """Share of the images read rightly."""
    recall: tuple[float, ...]
    """For each digit 0-9, the share of its images read rightly."""
    confusion: tuple[tuple[int, ...], ...]
    """10 x 10 counts: row is the true digit, column the one read."""
    images_per_s: float
    """Speed of reading, without loading."""

    def format(self) -> str:
        """Lay out accuracy, recall and the confusion matrix for a person to read."""
        header = "true\\read" + "".join(f"{digit:>6}" for digit in range(10)) + "   recall"
        rows = [
            f"{digit:>9}" + "".join(f"{count:>6}" for count in counts) + f"{recall:>9.2%}"
            for digit, (counts, recall) in enumerate(zip(self.confusion, self.recall, strict=True))
        ]
        summary = (
            f"{self.accuracy:.2%} of {self.num_images:,} {self.dataset} test images read rightly, "
            f"{self.images_per_s:,.0f} images/s"
        )
        return "\n".join([header, *rows, summary])


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Read a dataset's test images with a model and compare with their labels.

    Raises:
        UsageError: The model directory or the dataset on disk is not one.
        DatasetUnavailableError: The dataset cannot be downloaded.
    """
    classifier = DigitClassifier.load(config.model_uri)
    images, labels = load_dataset(config.dataset, config.data_root).test
    start = time.perf_counter()
    digits = classifier.predict(images).digit
    seconds = time.perf_counter() - start
    confusion = count_confusion(labels, digits)
    right = confusion.diagonal()
    return Evaluation(
        model_uri=config.model_uri,
        dataset=config.dataset,
        num_images=len(labels),
        accuracy=float(right.sum() / len(labels)),
        recall=tuple((right / np.bincount(labels, minlength=10)).tolist()),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        images_per_s=len(labels) / seconds,
    )


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
