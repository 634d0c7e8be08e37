"""The batches of an epoch, whatever the number of workers that share them.

The images stay on the device as uint8; a batch is gathered and distorted there. Order and
distortion are drawn for the *global* batch from (seed, epoch, step), and each worker takes its own
slice: the number of workers changes a run by float noise only, and a run can go on from any step.

Shapes: B digits and O synthetic non-digits of a batch on this worker.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mnist_ocr.training.augmentation import BatchAugmenter
from mnist_ocr.training.datasets import Split
from mnist_ocr.training.draws import Draw, seed_generator
from mnist_ocr.training.outliers import draw_outliers
from mnist_ocr.training.recipes import Recipe


class Batch(NamedTuple):
    """This worker's part of a global batch."""

    inputs: Tensor
    """(B + O, 1, 28, 28) float32 from 0 to 1, augmented: digits, then synthetic non-digits."""
    labels: Tensor
    """(B,) int64, of the digits."""
    global_size: int
    """Digits of the batch over all workers."""


class BatchSource:
    """Draws the batches of each epoch.

    Args:
        train: Training images and labels.
        recipe: Batch size, distortion, and the fewest steps of an epoch.
        seed: The run's seed.
        device: Where the images are kept.
        rank: This worker's number.
        world_size: How many workers there are.
    """

    def __init__(
        self,
        train: Split,
        recipe: Recipe,
        *,
        seed: int,
        device: torch.device,
        rank: int,
        world_size: int,
    ) -> None:
        assert len(train.labels) >= recipe.batch_size >= world_size, "images for every worker"
        self.images = torch.tensor(train.images, device=device)
        self.labels = torch.tensor(train.labels, device=device)
        self.augmenter = None
        if (augmentation := recipe.build_augmentation()) is not None:
            self.augmenter = BatchAugmenter(augmentation, device)
        self.batch_size, self.seed = recipe.batch_size, seed
        self.outlier_share = recipe.outlier_share
        self.generator = torch.Generator(device)
        self.rank, self.world_size = rank, world_size
        batches_per_pass = math.ceil(len(train.labels) / recipe.batch_size)
        self.num_passes = math.ceil(recipe.min_steps_per_epoch / batches_per_pass)
        self.images_per_epoch = len(train.labels) * self.num_passes
        self.steps_per_epoch = math.ceil(self.images_per_epoch / recipe.batch_size)

    def draw_batches(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """This worker's part of each batch of an epoch, from step `first` on.

        The last batch may be smaller.
        """
        batches = torch.split(self.draw_order(epoch), self.batch_size)
        for step, indices in enumerate(batches[first:], first):
            size = len(indices)
            rows = self._take_share(size)
            inputs = self._augment(scale(self.images[indices[rows]]), epoch, step, size)
            if num_outliers := round(size * self.outlier_share):
                outliers = self._draw_outliers(indices, num_outliers, epoch, step)
                inputs = torch.cat([inputs, outliers])
            yield Batch(inputs, self.labels[indices[rows]], size)

    def _take_share(self, size: int) -> slice:
        """This worker's rows of `size`."""
        return slice(self.rank * size // self.world_size, (self.rank + 1) * size // self.world_size)

    def _augment(self, inputs: Tensor, epoch: int, step: int, size: int, stream: int = 0) -> Tensor:
        if self.augmenter is None:
            return inputs
        start = self._take_share(size).start
        return self.augmenter(
            inputs, (self.seed, epoch, step, stream), batch_size=size, offset=start
        )

    def _draw_outliers(self, indices: Tensor, count: int, epoch: int, step: int) -> Tensor:
        """This worker's share of a batch's non-digits, made from the batch's first digits."""
        rows = self._take_share(count)
        first, second = (
            scale(self.images[each[:count][rows]]) for each in (indices, indices.flip(0))
        )
        seed_generator(self.generator, self.seed, epoch, step, 1)
        outliers = draw_outliers(first, second, Draw(self.generator, count, rows))
        return self._augment(outliers, epoch, step, count, stream=2)

    def draw_order(self, epoch: int) -> Tensor:
        """Indices of an epoch's images, (images_per_epoch,) int64: each pass takes all of them."""
        rng = np.random.default_rng([self.seed, epoch])
        passes = [rng.permutation(len(self.labels)) for _ in range(self.num_passes)]
        return torch.from_numpy(np.concatenate(passes)).to(self.images.device)


def scale(images: Tensor) -> Tensor:
    """Turn (B, 28, 28) uint8 into (B, 1, 28, 28) float32 from 0 to 1."""
    return images.unsqueeze(1).float() / 255
