"""Labelled digits to train and evaluate on, in three splits that share no image.

`mnist`    60,000 + 10,000 images (mnist.py). Validation images are those of writers held out, where
           it is known who wrote what.
`digits`   scikit-learn's bundled 1,797 scans of 8x8 pixels, brought to MNIST's geometry as any scan
           would be; it needs no network and no file.
anything else is a folder or a URI of the user's own scans (labelled_scans.py).
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from mnist_ocr.digits.canonical import canonicalize_page
from mnist_ocr.errors import UsageError
from mnist_ocr.storage import is_local, resolve_uri
from mnist_ocr.training.config import DatasetConfig
from mnist_ocr.training.labelled_scans import read_labelled_scans
from mnist_ocr.training.mnist import read_mnist
from mnist_ocr.training.splits import SPLIT_SEED, split_by_label, split_by_writer, split_scans

logger = logging.getLogger(__name__)

DATASETS = ("mnist", "digits")

BY_WRITER, STRATIFIED, BY_CONTENT = "by writer", "stratified", "by content"

MNIST_NUM_VALIDATION = 5_000
DIGITS_NUM_VALIDATION = 200
DIGITS_NUM_TEST = 797

MIN_NUM_SCANS = 20
"""Fewer can be trained on, but a test of two images says nothing."""

NUM_MIXED = 200_000
"""Training images of a mixture that copies of a small side may make up."""


class Split(NamedTuple):
    """Labelled images: `images` (N, 28, 28) uint8, white ink on black; `labels` (N,) int64."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Dataset:
    """A dataset: train on the first split, choose on the second, touch the third once."""

    name: str
    train: Split
    validation: Split
    test: Split
    split_method: str = STRATIFIED
    """How validation images were chosen: `by writer` (nobody wrote on both sides), `stratified` (at
    random, each digit in proportion) or `by content` (by a hash of the pixels)."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """How many objects, rows or images were left out, by reason."""
    mixed_with: Mapping[str, float] = field(default_factory=dict)
    """Datasets that training images were added from, and the share of those."""

    @property
    def splits(self) -> dict[str, Split]:
        """The three splits by name, in order."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def pixel_statistics(self) -> tuple[float, float]:
        """Mean and standard deviation of the training pixels, on a scale from 0 to 1."""
        mean, std = cv2.meanStdDev(self.train.images.reshape(len(self.train.images), -1))
        return float(mean.item()) / 255, float(std.item()) / 255

    def describe(self) -> dict[str, Any]:
        """What `model.json` records: the name, all about the splits, and a sha256 of all images."""
        digest = hashlib.sha256()
        for split in self.splits.values():
            digest.update(split.images.tobytes())
            digest.update(split.labels.tobytes())
        return {
            "dataset": self.name,
            **{f"num_{name}": len(split.labels) for name, split in self.splits.items()},
            "split_method": self.split_method,
            "split_seed": SPLIT_SEED,
            "skipped": dict(self.skipped),
            "mixed_with": dict(self.mixed_with),
            "sha256": digest.hexdigest(),
        }


def load_dataset(config: DatasetConfig) -> Dataset:
    """Load a dataset, downloading it first where it has to be.

    A name in `DATASETS` is never a folder: a folder of that name is `./mnist`.

    Raises:
        UsageError: There is no such dataset, it is not what it should be, or it is too small.
        DatasetUnavailableError: MNIST is not on disk and cannot be downloaded.
        StorageUnreachableError: The store of the scans does not answer.
    """
    name = config.dataset
    if name == "mnist":
        return _load_mnist(config.data_root)
    if name == "digits":
        return _load_digits()
    uri = resolve_uri(name)
    if "/" not in name and is_local(uri) and not Path(uri).exists():
        raise UsageError(
            f"Unknown dataset {name!r}. Choose {' or '.join(DATASETS)}, or pass a folder or s3:// "
            "URI of your own scans, which must exist."
        )
    return _load_scans(config)


def mix_datasets(own: Dataset, other: Dataset, weight: float) -> Dataset:
    """Add another dataset's training images; validation and test images remain `own`'s.

    The side that is too small for `weight` is repeated, in whole copies and a random rest. No image
    of `own` is lost; of `other` those are that `own` holds out, and a random part where an epoch
    would exceed `NUM_MIXED` images by copies.

    Args:
        own: The dataset to train for.
        other: Where to take more training images from.
        weight: Share of `other` among the training images, above 0 and below 1.
    """
    held_out = {im.tobytes() for split in (own.validation, own.test) for im in split.images}
    is_new = np.array([im.tobytes() not in held_out for im in other.train.images])
    images, labels = other.train.images[is_new], other.train.labels[is_new]
    if num_dropped := int((~is_new).sum()):
        logger.warning(
            "left out %d images of %s: %s holds them out", num_dropped, other.name, own.name
        )
    least = len(own.train.labels) / (1 - weight)
    total = max(least, min(len(labels) / weight, NUM_MIXED))
    num_own, num_other = round(total * (1 - weight)), round(total * weight)
    parts = [_repeat(own.train, num_own), _repeat(Split(images, labels), num_other)]
    return Dataset(
        f"{own.name}+{other.name}",
        train=Split(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True))),
        validation=own.validation,
        test=own.test,
        split_method=own.split_method,
        skipped=dict(Counter(own.skipped) + Counter(held_out=num_dropped)),
        mixed_with={other.name: weight},
    )


def _repeat(split: Split, count: int) -> Split:
    """Make a split of `count` images, each in it as often as any other, within one."""
    copies, rest = divmod(count, len(split.labels))
    shuffled = np.random.default_rng(SPLIT_SEED).permutation(len(split.labels))
    indices = np.concatenate([np.tile(np.arange(len(shuffled)), copies), np.sort(shuffled[:rest])])
    return Split(split.images[indices], split.labels[indices])


def load_digit_pages() -> dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Load the `digits` dataset as scanned, before it is brought to MNIST's geometry.

    Returns:
        For each of `train`, `validation` and `test`: pages (N, 8, 8) uint8, white ink on black,
        and labels (N,) int64.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    # Ink is counted from 0 to 16 in blocks of 4x4 binary pixels (Alpaydin and Kaynak 1998).
    pages = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    labels = bunch.target.astype(np.int64)
    rest, test = split_by_label(labels, DIGITS_NUM_TEST)
    train, validation = split_by_label(labels[rest], DIGITS_NUM_VALIDATION)
    indices = {"train": rest[train], "validation": rest[validation], "test": test}
    return {name: (pages[own], labels[own]) for name, own in indices.items()}


def _load_digits() -> Dataset:
    train, validation, test = (
        Split(np.stack([canonicalize_page(page) for page in pages]), labels)
        for pages, labels in load_digit_pages().values()
    )
    return Dataset("digits", train, validation, test)


def _load_mnist(data_root: str) -> Dataset:
    mnist = read_mnist(data_root)
    if mnist.writers is None:
        train, validation = split_by_label(mnist.labels, MNIST_NUM_VALIDATION)
    else:
        train, validation = split_by_writer(mnist.writers, MNIST_NUM_VALIDATION)
    return Dataset(
        "mnist",
        train=Split(mnist.images[train], mnist.labels[train]),
        validation=Split(mnist.images[validation], mnist.labels[validation]),
        test=Split(mnist.test_images, mnist.test_labels),
        split_method=STRATIFIED if mnist.writers is None else BY_WRITER,
    )


def _load_scans(config: DatasetConfig) -> Dataset:
    scans = read_labelled_scans(config)
    train, validation, test = (
        Split(scans.images[indices], scans.labels[indices])
        for indices in split_scans(scans.images, scans.labels)
    )
    return Dataset(config.dataset_name, train, validation, test, BY_CONTENT, dict(scans.skipped))


def check_trainable(dataset: Dataset) -> None:
    """Refuse what can be looked at, but not learned from.

    Raises:
        UsageError: There are too few images, or all are of one digit.
    """
    labels = np.concatenate([split.labels for split in dataset.splits.values()])
    if len(labels) < MIN_NUM_SCANS or not all(len(s.labels) for s in dataset.splits.values()):
        raise UsageError(
            f"{dataset.name} has {len(labels)} usable images. Pass at least {MIN_NUM_SCANS}, three "
            "of one digit, so that some can be held out to validate and test."
        )
    if len(digits := np.unique(labels)) == 1:
        raise UsageError(
            f"Every usable image of {dataset.name} ({len(labels):,}) is labelled {digits[0]}. Pass "
            "images of at least two digits."
        )
