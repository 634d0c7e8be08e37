"""Which images are held out: drawn once for all, so that every run has the same."""

import numpy as np
from numpy.typing import NDArray

from mnist_ocr.training.mnist import Writers

SPLIT_SEED = 0
"""Every run holds out the same images, whatever its own seed: results can be compared."""

SCANS_HELD_OUT = 0.1
"""Share of each digit's scans that is for validation; as many are for the test."""

Indices = NDArray[np.int64]


def split_by_label(
    labels: NDArray[np.int64] | NDArray[np.uint8], num_held_out: int
) -> tuple[Indices, Indices]:
    """Split indices at random so that each digit has its share on both sides.

    Returns:
        Sorted indices kept, and sorted indices held out (`num_held_out` of them).
    """
    shuffled = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    by_label = shuffled[np.argsort(labels[shuffled], kind="stable")]
    held_out = by_label[np.arange(num_held_out) * len(labels) // num_held_out]
    return np.setdiff1d(by_label, held_out), np.sort(held_out)


def split_by_writer(writers: Writers, num_held_out: int) -> tuple[Indices, Indices]:
    """Split indices so that nobody wrote on both sides, and each partition has its share.

    Returns:
        Sorted indices kept, and sorted indices held out (`num_held_out` of them, give or take the
        images of half a writer in each partition).
    """
    generator = np.random.default_rng(SPLIT_SEED)
    is_held_out = np.zeros(len(writers.writer), bool)
    for partition in np.unique(writers.partition):
        members = writers.writer[writers.partition == partition]
        names, counts = np.unique(members, return_counts=True)
        order = generator.permutation(len(names))
        wanted = num_held_out * len(members) / len(is_held_out)
        num_writers = np.abs(counts[order].cumsum() - wanted).argmin() + 1
        is_held_out |= np.isin(writers.writer, names[order[:num_writers]])
    return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)


def split_scans(labels: NDArray[np.int64]) -> tuple[Indices, Indices, Indices]:
    """Split indices at random, digit by digit; one of three images or more is in every split.

    Returns:
        Sorted indices to train on, to validate on, and to test on.
    """
    generator = np.random.default_rng(SPLIT_SEED)
    parts = []
    for digit in range(10):
        indices = generator.permutation(np.flatnonzero(labels == digit))
        num = max(1, round(len(indices) * SCANS_HELD_OUT)) if len(indices) >= 3 else 0
        parts.append(np.split(indices, [num, 2 * num]))
    validation, test, train = (np.sort(np.concatenate(each)) for each in zip(*parts, strict=True))
    return train, validation, test
