"""Describing a dataset before anything is trained on it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mnist_ocr.storage import open_store
from mnist_ocr.training.config import ExploreConfig
from mnist_ocr.training.datasets import load_dataset
from mnist_ocr.training.digit_grids import plot_samples
from mnist_ocr.training.plots import render_png


@dataclass(frozen=True)
class Exploration:
    """What is in a dataset."""

    dataset: str
    split_method: str
    """How the images were split: `by writer` or `stratified`, ..."""
    skipped: Mapping[str, int]
    """Objects or rows that could not be used, by reason."""
    shape: tuple[int, ...]
    """Height and width of every image, in pixels."""
    dtype: str
    mean: float
    """Of the pixels of the training images, 0-1."""
    deviation: float
    """Standard deviation of the same pixels, on the same scale."""
    counts: Mapping[str, tuple[int, ...]]
    """For `train`, `validation` and `test`, the number of images of each digit 0-9."""
    picture: str
    """Absolute path or URI of `samples.png`."""

    def format(self) -> str:
        """Lay out the counts for a person to read, and the rest below them."""
        rows = {str(digit): [own[digit] for own in self.counts.values()] for digit in range(10)}
        rows["total"] = [sum(own) for own in self.counts.values()]
        num_images = sum(rows["total"])
        header = f"{'digit':>5}" + "".join(f"{split:>12}" for split in self.counts) + "   share"
        lines = [
            f"{name:>5}" + "".join(f"{n:>12,}" for n in row) + f"{sum(row) / num_images:>8.2%}"
            for name, row in rows.items()
        ]
        height, width = self.shape
        about = [
            f"{num_images:,} images of {self.dataset}, {height}x{width} {self.dtype}, split "
            f"{self.split_method}; training pixels: mean {self.mean:.4f}, "
            f"deviation {self.deviation:.4f} (0-1)"
        ]
        if self.skipped:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.skipped.items())
            about.append(f"skipped {sum(self.skipped.values()):,}: {reasons}")
        return "\n".join([header, *lines, *about, self.picture])


def explore(config: ExploreConfig) -> Exploration:
    """Count a dataset's images, measure their pixels, and write a picture of samples.

    Raises:
        UsageError: The dataset is not one, or the picture cannot be written.
        DatasetUnavailableError: The dataset cannot be downloaded.
        StorageUnreachableError: The store of the dataset or picture does not answer.
    """
    dataset = load_dataset(config)
    counts = {
        name: tuple(np.bincount(split.labels, minlength=10).tolist())
        for name, split in dataset.splits.items()
    }
    mean, deviation = dataset.pixel_statistics()
    images, labels = dataset.train
    source = f"{config.dataset_name}  ·  split {dataset.split_method}  ·  training images"
    store = open_store(config.output_uri or f"explore/{config.dataset_name}")
    store.write("samples.png", render_png(plot_samples(images, labels, counts, source)))
    return Exploration(
        dataset=config.dataset,
        split_method=dataset.split_method,
        skipped=dict(dataset.skipped),
        shape=images.shape[1:],
        dtype=str(images.dtype),
        mean=mean,
        deviation=deviation,
        counts=counts,
        picture=store.uri_of("samples.png"),
    )
