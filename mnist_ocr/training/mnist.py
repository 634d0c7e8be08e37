"""MNIST as its authors made it, and who wrote each of its training images.

The four files are looked for in `DATA_ROOT/MNIST/raw` and `DATA_ROOT/mnist/MNIST/raw`; if they are
in neither, they are downloaded to the first. Writers come from QMNIST's labels (Yadav and Bottou
2019), where those are at hand.
"""

import gzip
import logging
import math
import shutil
import socket
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mnist_ocr.errors import UsageError
from mnist_ocr.storage import is_local, resolve_uri

logger = logging.getLogger(__name__)

WRITERS_FILE = "qmnist/qmnist-train-labels.tsv.gz"
"""Tab-separated, without a header: digit, NIST partition, writer, ...; row i is MNIST's training
image i."""

DOWNLOAD_TIMEOUT_S = 10.0


class DatasetUnavailableError(ConnectionError):
    """The dataset is not on disk, and its host does not answer."""


class Writers(NamedTuple):
    """Who wrote each of N images, all int64."""

    partition: NDArray[np.int64]
    """(N,): half of MNIST's training images were written by census employees (NIST's partition
    hsf_0), half by students (hsf_4)."""
    writer: NDArray[np.int64]
    """(N,): number of the writer, unique over both partitions."""


class Mnist(NamedTuple):
    """MNIST: `images` (60,000, 28, 28) and `test_images` (10,000, 28, 28) uint8, white on black."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    writers: Writers | None
    """Of the training images; None where QMNIST's labels are not at hand."""


def read_mnist(data_root: str) -> Mnist:
    """Read MNIST, after downloading it where it has to be.

    Args:
        data_root: Local folder; it, or the folder that it is in, may hold `qmnist/`.

    Raises:
        UsageError: A file on disk is not what its name says, or the folder cannot be written.
        DatasetUnavailableError: MNIST is not on disk and cannot be downloaded.
    """
    if not is_local(root := resolve_uri(data_root)):
        raise UsageError(
            f"data_root is {data_root}, but MNIST is read from a local folder. Pass one."
        )
    folders = [Path(root, "MNIST/raw"), Path(root, "mnist/MNIST/raw")]
    complete = [each for each in folders if all((each / name).exists() for name in _SHAPES)]
    folder = complete[0] if complete else folders[0]
    if not complete:
        _download(folder)
    images, labels, test_images, test_labels = (_read_idx(folder / name) for name in _SHAPES)
    return Mnist(
        images,
        labels.astype(np.int64),
        test_images,
        test_labels.astype(np.int64),
        _read_writers(Path(root), labels),
    )


def _read_writers(data_root: Path, labels: NDArray[np.uint8]) -> Writers | None:
    """Read QMNIST's labels, if they are at hand."""
    files = [data_root / WRITERS_FILE, data_root.parent / WRITERS_FILE]
    file = next((each for each in files if each.exists()), None)
    if file is None:
        return None
    try:
        lines = gzip.decompress(file.read_bytes()).decode().splitlines()
        rows = np.array([line.split("\t")[:3] for line in lines], np.int64)
    except (OSError, EOFError, zlib.error, ValueError, OverflowError) as error:
        raise _unfit(file, f"it cannot be read ({error})") from error
    if rows.shape != (len(labels), 3):
        raise _unfit(file, f"it has {len(rows):,} rows for {len(labels):,} images")
    if num_wrong := int((rows[:, 0] != labels).sum()):
        raise _unfit(file, f"its digits differ from MNIST's in {num_wrong:,} rows")
    return Writers(partition=rows[:, 1], writer=rows[:, 2])


def _unfit(file: Path, reason: str) -> UsageError:
    return UsageError(
        f"{file} does not tell the writers of MNIST's training images: {reason}. Copy it again, or "
        "delete it to choose the validation images without regard to writers."
    )


_SHAPES: dict[str, tuple[int, ...]] = {
    "train-images-idx3-ubyte": (60_000, 28, 28),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (10_000,),
}


def _read_idx(file: Path) -> NDArray[np.uint8]:
    """Read a file of MNIST's format: bytes 0, 0, 8 (uint8), rank, big-endian sizes, the values."""
    shape = _SHAPES[file.name]
    header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">i4").tobytes()
    content = file.read_bytes()
    size = len(header) + math.prod(shape)
    if len(content) != size or not content.startswith(header):
        raise UsageError(
            f"{file} is not the MNIST file of that name: it has {len(content):,} bytes, {size:,} "
            "are expected. Delete it to have it downloaded, or copy it again, uncompressed."
        )
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)


def _download(folder: Path) -> None:
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
                f"{', '.join(_SHAPES)}; or pass --dataset digits, which needs no download."
            ) from error
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in _SHAPES:
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
