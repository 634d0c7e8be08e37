"""Labelled digits to train and evaluate on, in three splits that share no image.

`mnist`   60,000 + 10,000 images, read from `DATA_ROOT/MNIST/raw`, downloaded there if absent.
`digits`  scikit-learn's bundled 1,797 scans of 8x8 pixels, brought to MNIST's geometry as any scan
          would be; it needs no network and no file.
"""

import hashlib
import logging
import math
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from mnist_ocr.digits.canonical import canonicalize_page
from mnist_ocr.errors import UsageError

logger = logging.getLogger(__name__)

DATASETS = ("mnist", "digits")

SPLIT_SEED = 0
"""Every run holds out the same images, whatever its own seed: results can be compared."""

MNIST_NUM_VALIDATION = 5_000
DIGITS_NUM_VALIDATION = 200
DIGITS_NUM_TEST = 797

DOWNLOAD_TIMEOUT_S = 10.0


class DatasetUnavailableError(ConnectionError):
    """The dataset is not on disk, and its host does not answer."""


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

    def pixel_statistics(self) -> tuple[float, float]:
        """Mean and standard deviation of the training pixels, on a scale from 0 to 1."""
        mean, std = cv2.meanStdDev(self.train.images.reshape(len(self.train.images), -1))
        return float(mean.item()) / 255, float(std.item()) / 255

    def describe(self) -> dict[str, Any]:
        """What `model.json` records: name, size of each split, and a sha256 of all of it."""
        digest = hashlib.sha256()
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        for split in splits.values():
            digest.update(split.images.tobytes())
            digest.update(split.labels.tobytes())
        sizes = {f"num_{name}": len(split.labels) for name, split in splits.items()}
        return {"dataset": self.name, **sizes, "sha256": digest.hexdigest()}


def load_dataset(name: str, data_root: str) -> Dataset:
    """Load a dataset, downloading it first where it has to be.

    Args:
        name: One of `DATASETS`.
        data_root: Folder that holds `MNIST/raw/`; `digits` ignores it.

    Raises:
        UsageError: The name is unknown, or a file on disk is not what its name says.
        DatasetUnavailableError: The dataset is not on disk and cannot be downloaded.
    """
    if name == "mnist":
        return _load_mnist(Path(data_root).expanduser())
    if name == "digits":
        return _load_digits()
    raise UsageError(f"Unknown dataset {name!r}. Choose one of: {', '.join(DATASETS)}.")


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
    rest, test = _split_by_label(labels, DIGITS_NUM_TEST)
    train, validation = _split_by_label(labels[rest], DIGITS_NUM_VALIDATION)
    indices = {"train": rest[train], "validation": rest[validation], "test": test}
    return {name: (pages[own], labels[own]) for name, own in indices.items()}


def _load_digits() -> Dataset:
    splits = {
        name: Split(np.stack([canonicalize_page(page) for page in pages]), labels)
        for name, (pages, labels) in load_digit_pages().items()
    }
    return Dataset("digits", **splits)


def _load_mnist(data_root: Path) -> Dataset:
    folder = data_root / "MNIST" / "raw"
    files = [folder / name for name in _MNIST_SHAPES]
    if not all(file.exists() for file in files):
        _download_mnist(folder)
    images, labels, test_images, test_labels = (_read_idx(file) for file in files)
    train, validation = _split_by_label(labels, MNIST_NUM_VALIDATION)
    return Dataset(
        "mnist",
        train=Split(images[train], labels[train].astype(np.int64)),
        validation=Split(images[validation], labels[validation].astype(np.int64)),
        test=Split(test_images, test_labels.astype(np.int64)),
    )


_MNIST_SHAPES: dict[str, tuple[int, ...]] = {
    "train-images-idx3-ubyte": (60_000, 28, 28),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (10_000,),
}


def _read_idx(file: Path) -> NDArray[np.uint8]:
    """Read a file of MNIST's format: bytes 0, 0, 8 (uint8), rank, big-endian sizes, the values."""
    shape = _MNIST_SHAPES[file.name]
    header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">i4").tobytes()
    content = file.read_bytes()
    size = len(header) + math.prod(shape)
    if len(content) != size or not content.startswith(header):
        raise UsageError(
            f"{file} is not the MNIST file of that name: it has {len(content):,} bytes, {size:,} "
            "are expected. Delete it to have it downloaded, or copy it again, uncompressed."
        )
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)


def _download_mnist(folder: Path) -> None:
    """Download MNIST's four files; each appears in `folder` whole or not at all."""
    from torchvision.datasets import MNIST

    logger.info("downloading MNIST to %s", folder)
    with tempfile.TemporaryDirectory() as temporary:
        try:
            with _socket_timeout(DOWNLOAD_TIMEOUT_S):
                raw_folder = Path(MNIST(temporary, download=True).raw_folder)
        except (OSError, RuntimeError, HTTPException) as error:
            reason = " ".join(str(error).split())
            raise DatasetUnavailableError(
                f"MNIST is not in {folder} and cannot be downloaded: {reason}. Either download it "
                f"elsewhere and pass --data-root ROOT, where ROOT/MNIST/raw holds "
                f"{', '.join(_MNIST_SHAPES)}; or pass --dataset digits, which needs no download."
            ) from error
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in _MNIST_SHAPES:
                partial = folder / f".{name}.tmp"
                shutil.copyfile(raw_folder / name, partial)
                partial.replace(folder / name)
        except OSError as error:
            raise UsageError(
                f"Cannot write MNIST to {folder}: {error}. Pass a --data-root that can be written."
            ) from error


@contextmanager
def _socket_timeout(timeout_s: float) -> Iterator[None]:
    """Bound how long a host may be silent: torchvision's download has no timeout of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(timeout_s)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _split_by_label(
    labels: NDArray[np.int64] | NDArray[np.uint8], num_held_out: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split indices at random so that each digit has its share on both sides.

    Returns:
        Sorted indices kept, and sorted indices held out (`num_held_out` of them).
    """
    shuffled = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    by_label = shuffled[np.argsort(labels[shuffled], kind="stable")]
    held_out = by_label[np.arange(num_held_out) * len(labels) // num_held_out]
    return np.setdiff1d(by_label, held_out), np.sort(held_out)
