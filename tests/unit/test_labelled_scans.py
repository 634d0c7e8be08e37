from pathlib import Path

import cv2
import numpy as np
import pytest
from scans import (
    EXPECTED,
    NUM_IMAGES,
    PNGS,
    assert_all_there,
    draw_images,
    load,
    pixels_and_labels,
    write_folder,
    write_parquet,
)

from mnist_ocr.errors import ObjectError, StorageUnreachableError, UsageError
from mnist_ocr.local_store import LocalStore
from mnist_ocr.training.datasets import check_trainable


def test_class_folders_give_every_image_in_one_split(tmp_path: Path) -> None:
    """Each file is one image under its folder's digit, nested ones too; some are held out."""
    dataset = load(write_folder(tmp_path / "scans"))
    assert_all_there(dataset)
    for split in dataset.splits.values():
        assert np.bincount(split.labels).min() >= 1
    assert (dataset.name, dataset.split_method) == ("scans", "by content")
    again = load(f"{tmp_path / 'scans'}/")
    assert again.describe() == dataset.describe()


def test_pages_of_other_sizes_become_mnist_images(tmp_path: Path) -> None:
    """Dark ink on a light page of any size comes as white ink in MNIST's frame."""
    for i in range(30):
        page = np.full((60, 90), 240, np.uint8)
        cv2.putText(page, str(i % 2), (20 + i, 50), cv2.FONT_HERSHEY_SIMPLEX, 1 + i / 30, 10, 4)
        path = tmp_path / str(i % 2) / f"{i}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(cv2.imencode(".jpg", page)[1].tobytes())
    images = load(tmp_path).train.images
    assert (images.max((1, 2)) > 200).all()
    assert images[:, 0].mean() < 20


def test_unusable_files_are_counted_by_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is unreadable, blank, without a class or there twice is skipped, in one line."""
    folder = write_folder(tmp_path)
    (folder / "README.txt").write_text("scans of 2026")
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "other").mkdir()
    (folder / "other/a.png").write_bytes(PNGS[0])
    (folder / "3/notes.png").write_text("this is no image")
    (folder / "4/empty.png").touch()
    (folder / "5/cut.png").write_bytes(PNGS[5][:200])
    (folder / "6/gone.png").symlink_to("nowhere")
    (folder / "7/blank.png").write_bytes(cv2.imencode(".png", np.full((50, 50), 255))[1].tobytes())
    (folder / "8/again.png").write_bytes(PNGS[8])
    (folder / "1/is-it-a-2.png").write_bytes(PNGS[12])
    dataset = load(folder)
    assert dataset.skipped == {
        "not_in_a_class_folder": 3,
        "not_an_image": 1,
        "empty": 1,
        "truncated": 1,
        "missing": 1,
        "blank": 1,
        "duplicate": 1,
        "contradicting_labels": 2,
    }
    assert dataset.describe()["skipped"] == dataset.skipped
    used = pixels_and_labels(dataset.train, dataset.validation, dataset.test)
    assert len(used) == NUM_IMAGES - 1
    assert used < EXPECTED
    (message,) = [record.message for record in caplog.records]
    assert "3 not_in_a_class_folder, " in message
    assert "2 contradicting_labels" in message


@pytest.mark.parametrize("name", ["10", "-1", "07", "2026"])
def test_class_folder_outside_0_to_9_is_refused(tmp_path: Path, name: str) -> None:
    """The folder is named with its number of objects, before any is read."""
    folder = write_folder(tmp_path)
    (folder / name).mkdir()
    for i in range(3):
        (folder / name / f"{i}.png").write_bytes(PNGS[i])
    with pytest.raises(UsageError, match=rf"holds {name}/ \(3 objects\), but .* 0/ to 9/. Move"):
        load(folder)


def test_folder_without_classes_says_what_it_holds(tmp_path: Path) -> None:
    """The user may have meant a folder below, or any other."""
    with pytest.raises(UsageError, match="it holds nothing"):
        load(tmp_path)
    (tmp_path / "a.png").write_bytes(PNGS[0])
    write_folder(tmp_path / "train")
    with pytest.raises(UsageError, match=r"no class folders .*it holds train/, a.png. Pass the"):
        load(tmp_path)


def test_nothing_usable_one_digit_and_too_few_are_refused(tmp_path: Path) -> None:
    """Each says how many images there are and what is needed."""
    (tmp_path / "0").mkdir()
    (tmp_path / "0/a.png").write_bytes(b"no")
    with pytest.raises(UsageError, match=r"No usable image .*: 1 not_an_image. Pass PNG"):
        load(tmp_path)
    (tmp_path / "0/b.png").write_bytes(PNGS[0])
    write_folder(tmp_path, PNGS[:19])
    with pytest.raises(UsageError, match=r"has 19 usable images. Pass at least 20"):
        check_trainable(load(tmp_path))
    write_folder(tmp_path, PNGS[:20])
    with pytest.raises(UsageError, match=r"three of one digit"):
        check_trainable(load(tmp_path))
    write_folder(tmp_path, PNGS[:21])
    dataset = load(tmp_path)
    check_trainable(dataset)
    assert [len(split.labels) for split in (dataset.validation, dataset.test)] == [1, 1]


def test_one_digit_can_be_looked_at_but_not_learned(tmp_path: Path) -> None:
    """`explore` and `evaluate` take a folder of one class; training names it."""
    for i, png in enumerate(PNGS[:30]):
        (tmp_path / "7").mkdir(exist_ok=True)
        (tmp_path / f"7/{i}.png").write_bytes(png)
    dataset = load(tmp_path)
    assert sum(len(split.labels) for split in dataset.splits.values()) == 30
    with pytest.raises(UsageError, match=r"\(30\) is labelled 7. Pass images of at least two"):
        check_trainable(dataset)


def test_grown_folder_keeps_what_was_held_out(tmp_path: Path) -> None:
    """Where many images are, none that was tested on is trained on later, nor the other way."""
    write_folder(tmp_path, draw_images(600))
    small = load(tmp_path)
    write_folder(tmp_path, draw_images(900))
    grown = load(tmp_path)
    for name, split in small.splits.items():
        assert pixels_and_labels(split) <= pixels_and_labels(grown.splits[name])


def test_parquet_beside_class_folders_is_left_out(tmp_path: Path) -> None:
    """An index of the images does not replace them."""
    write_parquet(write_folder(tmp_path) / "index.parquet")
    dataset = load(tmp_path)
    assert sum(len(split.labels) for split in dataset.splits.values()) == len(PNGS)
    assert dataset.skipped == {"not_in_a_class_folder": 1}


@pytest.mark.parametrize("status", ["throttled", "changed"])
def test_fault_of_the_store_is_no_skip(
    status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage does not turn into a smaller dataset."""

    class Faulty(LocalStore):
        def read(
            self, name: str, etag: str = "", max_bytes: int | None = None, size: int = -1
        ) -> bytes:
            raise ObjectError(status, "The store asked to slow down.")

    write_folder(tmp_path)
    monkeypatch.setattr("mnist_ocr.training.labelled_scans.open_store", Faulty)
    with pytest.raises(StorageUnreachableError, match=r"slow down\. Run the same command again"):
        load(tmp_path)


def test_digits_without_images_are_named_and_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An empty class folder is no error; a digit of fewer than three images is trained on."""
    folder = write_folder(tmp_path)
    for digit, num_left in (("3", 0), ("7", 0), ("5", 2), ("6", 3)):
        for path in sorted((folder / digit).rglob("*.png"))[num_left:]:
            path.unlink()
    dataset = load(folder)
    assert "has no image of 3, 7:" in caplog.text
    counts = [
        np.bincount(split.labels, minlength=10)[[3, 5, 6, 8]].tolist()
        for split in (dataset.train, dataset.validation, dataset.test)
    ]
    assert [count[:3] for count in counts] == [[0, 2, 1], [0, 0, 1], [0, 0, 1]]
    assert sum(count[3] for count in counts) == 10


def test_store_that_does_not_answer_is_no_skip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage is not counted as unreadable images."""

    class Unreachable(LocalStore):
        def read(
            self, name: str, etag: str = "", max_bytes: int | None = None, size: int = -1
        ) -> bytes:
            raise StorageUnreachableError("no answer")

    monkeypatch.setattr("mnist_ocr.training.labelled_scans.open_store", Unreachable)
    write_parquet(tmp_path / "parquet/a.parquet")
    for folder in (write_folder(tmp_path / "folder"), tmp_path / "parquet"):
        with pytest.raises(StorageUnreachableError, match="no answer"):
            load(folder)


def test_folder_markers_of_a_bucket_are_no_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A console writes empty keys `scans/`, `scans/0/`, even `scans/10/`: nothing is in them."""

    class Marked(LocalStore):
        def list(self, prefix: str = "", start_after: str = ""):
            pages = list(super().list(prefix, start_after))
            for name in ("", "0/", "10/"):
                pages[0].insert(0, pages[0][0]._replace(name=name))
            return iter(pages)

    folder = write_folder(tmp_path)
    monkeypatch.setattr("mnist_ocr.training.labelled_scans.open_store", Marked)
    assert_all_there(load(folder))
