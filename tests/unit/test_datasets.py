import gzip
import shutil
import urllib.error
from pathlib import Path

import numpy as np
import pytest

from mnist_ocr.errors import UsageError
from mnist_ocr.training.config import DatasetConfig
from mnist_ocr.training.datasets import Dataset, Split, load_dataset, load_digit_pages, mix_datasets
from mnist_ocr.training.mnist import WRITERS_FILE, DatasetUnavailableError, Writers, read_mnist
from mnist_ocr.training.splits import split_by_writer

TRUNCATED = bytes([0, 0, 8, 3]) + np.array([60_000, 28, 28], ">i4").tobytes() + bytes(1000)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset(DatasetConfig(dataset="digits"))


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
    assert (
        load_dataset(DatasetConfig(dataset="digits", data_root="elsewhere")).describe()
        == digits.describe()
    )


def test_description_depends_on_every_label(digits: Dataset) -> None:
    """One changed label gives another sha256."""
    changed = load_dataset(DatasetConfig(dataset="digits"))
    changed.test.labels[0] += 1
    assert changed.describe()["sha256"] != digits.describe()["sha256"]
    assert changed.describe()["num_test"] == 797


def test_pixel_statistics_are_those_of_the_training_pixels(digits: Dataset) -> None:
    """Mean and deviation are on a scale from 0 to 1."""
    pixels = digits.train.images / 255
    assert digits.pixel_statistics() == pytest.approx((pixels.mean(), pixels.std()))


def test_unknown_dataset_names_the_known_ones() -> None:
    """A wrong name is answered with the right ones."""
    with pytest.raises(UsageError, match=r"'emnist'. Choose mnist or digits, or pass a folder"):
        load_dataset(DatasetConfig(dataset="emnist"))
    with pytest.raises(UsageError, match=r"The folder /no/such/scans does not exist. Pass"):
        load_dataset(DatasetConfig(dataset="/no/such/scans"))
    with pytest.raises(UsageError, match=r"data_root is s3://bucket, but .* local folder"):
        load_dataset(DatasetConfig(data_root="s3://bucket"))


@pytest.fixture(scope="module")
def mnist(test_data: Path) -> Dataset:
    return load_dataset(DatasetConfig(data_root=str(test_data)))


@pytest.mark.test_data
def test_mnist_is_read_from_disk(mnist: Dataset, test_data: Path) -> None:
    """All images, as torchvision reads them, with MNIST's known statistics."""
    from torchvision.datasets import MNIST

    assert len(mnist.train.labels) + len(mnist.validation.labels) == 60_000
    reference = MNIST(test_data / "mnist", train=False)
    assert (mnist.test.images == reference.data.numpy()).all()
    assert (mnist.test.labels == reference.targets.numpy()).all()
    assert mnist.pixel_statistics() == pytest.approx((0.1307, 0.3081), abs=5e-4)


@pytest.mark.test_data
def test_mnist_is_validated_on_writers_held_out(mnist: Dataset, test_data: Path) -> None:
    """Nobody wrote on both sides; both halves of MNIST and all digits keep their share."""
    raw = read_mnist(str(test_data / "mnist"))  # the writers lie beside this folder, too
    assert raw.writers is not None
    rows = {image.tobytes(): i for i, image in enumerate(raw.images)}
    train = [rows[image.tobytes()] for image in mnist.train.images]
    validation = [rows[image.tobytes()] for image in mnist.validation.images]
    assert len({*train, *validation}) == 60_000
    writer, partition = raw.writers.writer, raw.writers.partition
    assert not set(writer[train]) & set(writer[validation])
    assert 4_900 <= len(validation) <= 5_200
    assert np.bincount(mnist.validation.labels).min() > 400
    assert (partition[validation] == 0).mean() == pytest.approx((partition == 0).mean(), abs=0.02)
    description = mnist.describe()
    assert (description["split_method"], description["split_seed"]) == ("by writer", 0)
    again = load_dataset(DatasetConfig(data_root=str(test_data / "mnist")))
    assert again.describe() == description


@pytest.mark.test_data
def test_mnist_without_writers_is_stratified(test_data: Path, tmp_path: Path) -> None:
    """Where nobody says who wrote what, exactly 5,000 images are held out, and that is recorded."""
    (tmp_path / "MNIST").symlink_to(test_data / "mnist/MNIST")
    mnist = load_dataset(DatasetConfig(data_root=str(tmp_path)))
    assert (len(mnist.train.labels), len(mnist.validation.labels)) == (55_000, 5_000)
    assert mnist.describe()["split_method"] == "stratified"


@pytest.mark.test_data
def test_writers_that_do_not_fit_are_refused(test_data: Path, tmp_path: Path) -> None:
    """Another length, other digits, another format, a truncated file: never silently ignored."""
    (tmp_path / "MNIST").symlink_to(test_data / "mnist/MNIST")
    file = tmp_path / WRITERS_FILE
    file.parent.mkdir()
    shutil.copyfile(test_data / WRITERS_FILE, file)
    content = file.read_bytes()
    lines = gzip.decompress(content).decode().splitlines(keepends=True)
    for damaged, match in [
        (content[:1000], "cannot be read"),
        (b"", "has 0 rows"),
        (b"no gzip", "cannot be read"),
        (gzip.compress(b"a\tb\tc\n"), "cannot be read"),
        (gzip.compress("".join(lines[:-1]).encode(), 1), "59,999 rows for 60,000 images"),
        (gzip.compress("".join(lines[::-1]).encode(), 1), r"differ from MNIST's in \d\d,\d+ rows"),
    ]:
        file.write_bytes(damaged)
        with pytest.raises(UsageError, match=rf"tsv.gz does not tell .*{match}.* delete it"):
            load_dataset(DatasetConfig(data_root=str(tmp_path)))


def test_writers_are_held_out_whole_and_in_proportion() -> None:
    """Of 40 + 20 writers of 10 images, a quarter is 10 + 5 writers, none of them divided."""
    writer = np.repeat(np.arange(60), 10)
    kept, held_out = split_by_writer(Writers((writer >= 40).astype(np.int64), writer), 150)
    assert sorted([*kept, *held_out]) == list(range(600))
    assert not set(writer[kept]) & set(writer[held_out])
    assert (len(set(writer[held_out])), (writer[held_out] >= 40).sum()) == (15, 50)


def make_dataset(name: str, num_train: int, first: int = 0) -> Dataset:
    """Images that differ: the number of each is in its pixels; ten to validate and ten to test."""
    images = np.zeros((num_train + 20, 28, 28), np.uint8)
    images[:, 0, :4] = np.arange(first, first + len(images), dtype="<i4").view((np.uint8, 4))
    labels = np.arange(len(images)) % 10
    parts = [slice(0, num_train), slice(num_train, num_train + 10), slice(num_train + 10, None)]
    return Dataset(name, *(Split(images[part], labels[part]) for part in parts))


@pytest.mark.parametrize(
    ("num_own", "num_other", "weight"),
    [(100, 5_000, 0.5), (100, 5_000, 0.9), (5_000, 100, 0.5), (70, 70, 0.3), (100, 5_000, 0.995)],
)
def test_mixing_holds_the_weight_and_loses_no_image(
    num_own: int, num_other: int, weight: float
) -> None:
    """The side that is too small is repeated, each image as often as any other, within one."""
    own, other = make_dataset("scans", num_own), make_dataset("mnist", num_other, 10_000)
    mixed = mix_datasets(own, other, weight)
    numbers = mixed.train.images[:, 0, :4].copy().view("<i4").ravel()
    assert (numbers >= 10_000).sum() == pytest.approx(weight * len(numbers), abs=1)
    images, times = np.unique(numbers, return_counts=True)
    assert images.tolist() == [*range(num_own), *range(10_000, 10_000 + num_other)]
    for side in (times[:num_own], times[num_own:]):
        assert side.max() - side.min() <= 1
    assert min(times[:num_own].min(), times[num_own:].min()) == 1
    assert (mixed.train.labels == numbers % 10).all()
    assert (mixed.validation, mixed.test) == (own.validation, own.test)
    assert mixed.name == "scans+mnist"
    assert mixed.describe()["mixed_with"] == {"mnist": weight}


def test_mixing_leaves_out_what_is_held_out(caplog: pytest.LogCaptureFixture) -> None:
    """An image that is validated or tested on does not come back through the other dataset."""
    own, other = make_dataset("scans", 50), make_dataset("mnist", 65, first=0)
    mixed = mix_datasets(own, other, 0.5)
    trained = {image.tobytes() for image in mixed.train.images}
    assert not trained & {image.tobytes() for image in own.validation.images}
    assert not trained & {image.tobytes() for image in own.test.images}
    assert mixed.skipped == {"held_out": 15}
    assert "left out 15 images of mnist" in caplog.text


def test_mixing_little_into_a_small_dataset_takes_a_sample() -> None:
    """Instead of millions of copies: every own image, and the share, remain."""
    own, other = make_dataset("scans", 100), make_dataset("mnist", 5_000, 10_000)
    mixed = mix_datasets(own, other, 0.01)
    numbers = mixed.train.images[:, 0, :4].copy().view("<i4").ravel()
    assert len(numbers) == 200_000
    assert (numbers >= 10_000).sum() == 2_000
    assert set(range(100)) <= set(numbers.tolist())


@pytest.fixture
def unreachable_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


@pytest.mark.usefixtures("unreachable_host")
def test_unreachable_host_names_both_ways_out_and_writes_nothing(tmp_path: Path) -> None:
    """Without a download the error says where files may be put, and which dataset needs none."""
    with pytest.raises(DatasetUnavailableError, match=r"--data-root ROOT.*--dataset digits"):
        load_dataset(DatasetConfig(data_root=str(tmp_path / "data")))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"not MNIST at all", TRUNCATED])
def test_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    """A truncated or foreign file is named, with what to do, and never read as images."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for stem in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{stem}-ubyte").write_bytes(content)
    with pytest.raises(UsageError, match=r"train-images-idx3-ubyte is not .* Delete it"):
        load_dataset(DatasetConfig(data_root=str(tmp_path)))
