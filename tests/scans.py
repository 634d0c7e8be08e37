"""Labelled scans that tests write and load: 100 drawings that differ, ten of each digit."""

from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mnist_ocr.training.config import DatasetConfig
from mnist_ocr.training.datasets import Dataset, Split, load_dataset

NUM_IMAGES = 100
LABELS = [i % 10 for i in range(NUM_IMAGES)]


def draw_images(count: int) -> list[bytes]:
    """PNG files in MNIST's geometry that differ from one another."""
    generator = np.random.default_rng(0)
    images = np.zeros((count, 28, 28), np.uint8)
    images[:, 5:24, 5:24] = generator.integers(128, 256, (count, 19, 19), np.uint8)
    return [cv2.imencode(".png", image)[1].tobytes() for image in images]


PNGS = draw_images(NUM_IMAGES)


def write_folder(folder: Path, pngs: list[bytes] = PNGS) -> Path:
    """Class folders; every other image lies in a folder below its class."""
    for i, png in enumerate(pngs):
        path = folder / str(i % 10) / ("2026/" * (i // 10 % 2)) / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png)
    return folder


def write_parquet(path: Path, images: object = None, labels: object = None, **columns) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"image": images or PNGS, "label": labels or LABELS, **columns})
    pq.write_table(table, path, row_group_size=30)
    return path


def load(path: Path | str, **options) -> Dataset:
    return load_dataset(DatasetConfig(dataset=str(path), **options))


def pixels_and_labels(*splits: Split) -> set[tuple[bytes, int]]:
    return {
        (image.tobytes(), label)
        for split in splits
        for image, label in zip(split.images, split.labels.tolist(), strict=True)
    }


EXPECTED = {
    (cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE).tobytes(), label)
    for png, label in zip(PNGS, LABELS, strict=True)
}


def assert_all_there(dataset: Dataset) -> None:
    splits = [dataset.train, dataset.validation, dataset.test]
    assert pixels_and_labels(*splits) == EXPECTED
    train, validation, test = (len(split.labels) for split in splits)
    assert train + validation + test == NUM_IMAGES
    assert 10 <= validation <= 20  # by content, with one of each digit at least
    assert 10 <= test <= 20
    assert all(split.images.shape[1:] == (28, 28) for split in splits)
    assert {split.images.dtype.name for split in splits} == {"uint8"}
    assert {split.labels.dtype.name for split in splits} == {"int64"}
    assert dataset.skipped == {}
