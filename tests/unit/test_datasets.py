import urllib.error
from pathlib import Path

import numpy as np
import pytest

from mnist_ocr.errors import UsageError
from mnist_ocr.training.datasets import (
    Dataset,
    DatasetUnavailableError,
    load_dataset,
    load_digit_pages,
)

TRUNCATED = bytes([0, 0, 8, 3]) + np.array([60_000, 28, 28], ">i4").tobytes() + bytes(1000)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits", "ignored")


def test_digits_need_no_file_and_come_as_mnist_images(digits: Dataset) -> None:
    """The embedded dataset has MNIST's form: 28x28, white ink on black, full contrast."""
    for split in (digits.train, digits.validation, digits.test):
        assert split.images.shape == (len(split.labels), 28, 28)
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int64
        assert (split.images.max(axis=(1, 2)) > 200).all()
        assert split.images[:, 0].mean() < 20
    assert len(digits.train.labels) + len(digits.validation.labels) == 1000
    assert len(digits.test.labels) == 797


def test_splits_share_no_page() -> None:
    """No page is in two splits, and together they are all 1,797."""
    splits = load_digit_pages()
    assert sum(len(labels) for _, labels in splits.values()) == 1797
    pages = [{page.tobytes() for page in pages} for pages, _ in splits.values()]
    assert not pages[0] & pages[1]
    assert not pages[0] & pages[2]
    assert not pages[1] & pages[2]


def test_digit_pages_are_the_scans_behind_the_images(digits: Dataset) -> None:
    """Raw pages are 8x8 uint8 from 0 to 255, in the order and with the labels of the images."""
    pages, labels = load_digit_pages()["test"]
    assert pages.shape == (797, 8, 8)
    assert pages.dtype == np.uint8
    assert (pages.min(), pages.max()) == (0, 255)
    assert (labels == digits.test.labels).all()


def test_every_split_holds_its_share_of_each_digit(digits: Dataset) -> None:
    """Splits are stratified: each holds every digit in proportion, within one image."""
    everything = np.concatenate([digits.train.labels, digits.validation.labels, digits.test.labels])
    share = np.bincount(everything) / len(everything)
    for split in (digits.validation, digits.test):
        counts = np.bincount(split.labels, minlength=10)
        assert np.abs(counts - share * len(split.labels)).max() <= 1.5


def test_loading_twice_gives_the_same_splits(digits: Dataset) -> None:
    """The split is fixed, and its sha256 says so."""
    assert load_dataset("digits", "elsewhere").describe() == digits.describe()


def test_description_depends_on_every_label(digits: Dataset) -> None:
    """One changed label gives another sha256."""
    changed = load_dataset("digits", "")
    changed.test.labels[0] += 1
    assert changed.describe()["sha256"] != digits.describe()["sha256"]
    assert changed.describe()["num_test"] == 797


def test_pixel_statistics_are_those_of_the_training_pixels(digits: Dataset) -> None:
    """Mean and deviation are on a scale from 0 to 1."""
    pixels = digits.train.images / 255
    assert digits.pixel_statistics() == pytest.approx((pixels.mean(), pixels.std()))


def test_unknown_dataset_names_the_known_ones() -> None:
    """A wrong name is answered with the right ones."""
    with pytest.raises(UsageError, match=r"'emnist'.*mnist, digits"):
        load_dataset("emnist", "")


@pytest.mark.test_data
def test_mnist_is_read_from_disk(test_data: Path) -> None:
    """55,000 + 5,000 + 10,000 images, as torchvision reads them, with MNIST's known statistics."""
    from torchvision.datasets import MNIST

    mnist = load_dataset("mnist", str(test_data / "mnist"))
    assert [len(split.labels) for split in (mnist.train, mnist.validation, mnist.test)] == [
        55_000,
        5_000,
        10_000,
    ]
    reference = MNIST(test_data / "mnist", train=False)
    assert (mnist.test.images == reference.data.numpy()).all()
    assert (mnist.test.labels == reference.targets.numpy()).all()
    assert mnist.pixel_statistics() == pytest.approx((0.1307, 0.3081), abs=5e-4)


@pytest.fixture
def unreachable_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


@pytest.mark.usefixtures("unreachable_host")
def test_unreachable_host_names_both_ways_out_and_writes_nothing(tmp_path: Path) -> None:
    """Without a download the error says where files may be put, and which dataset needs none."""
    with pytest.raises(DatasetUnavailableError, match=r"--data-root ROOT.*--dataset digits"):
        load_dataset("mnist", str(tmp_path / "data"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"not MNIST at all", TRUNCATED])
def test_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    """A truncated or foreign file is named, with what to do, and never read as images."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for stem in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{stem}-ubyte").write_bytes(content)
    with pytest.raises(UsageError, match=r"train-images-idx3-ubyte is not .* Delete it"):
        load_dataset("mnist", str(tmp_path))
