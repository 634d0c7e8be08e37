"""Which images are held out: drawn once for all, so that every run has the same."""

import hashlib

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


def split_scans(
    images: NDArray[np.uint8], labels: NDArray[np.int64]
) -> tuple[Indices, Indices, Indices]:
    """Split by a hash of the pixels: an image stays where it was when others come or go.

    Of a digit with three images or more, each split has one; a few images may change sides for
    that in a small dataset that grows.

    Args:
        images: (N, 28, 28) uint8, no two alike.
        labels: (N,) int64.

    Returns:
        Sorted indices to train on, to validate on, and to test on.
    """
    digests = [hashlib.sha256(image.tobytes()).digest()[:8] for image in images]
    place = np.frombuffer(b"".join(digests), ">u8") / 2**64  # evenly from 0 to 1
    parts: list[list[Indices]] = [[], [], []]
    for digit in range(10):
        indices = np.flatnonzero(labels == digit)
        indices = indices[np.argsort(place[indices], kind="stable")]
        ends = np.searchsorted(place[indices], [SCANS_HELD_OUT, 2 * SCANS_HELD_OUT])
        if len(indices) >= 3:
            first = np.clip(ends[0], 1, len(indices) - 2)
            ends = np.array([first, np.clip(ends[1], first + 1, len(indices) - 1)])
        else:
            ends = np.array([0, 0])
        for part, members in zip(parts, np.split(indices, ends), strict=True):
            part.append(members)
    test, validation, train = (np.sort(np.concatenate(part)) for part in parts)
    return train, validation, test
