"""The batches of an epoch, whatever the number of workers that share them.

The images stay on the device as uint8; a batch is gathered and distorted there. Order and
distortion are drawn for the *global* batch from (seed, epoch, step), and each worker takes its own
slice: the number of workers changes a run by float noise only, and a run can go on from any epoch.

Shapes: B images of a batch on this worker.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mnist_ocr.training.augmentation import BatchAugmenter
from mnist_ocr.training.datasets import Split
from mnist_ocr.training.recipes import Recipe


class Batch(NamedTuple):
    """This worker's part of a global batch."""

    inputs: Tensor
    """(B, 1, 28, 28) float32 from 0 to 1, distorted."""
    labels: Tensor
    """(B,) int64."""
    global_size: int
    """Images of the batch over all workers."""


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
            self.augmenter = BatchAugmenter(augmentation, device, seed)
        self.batch_size, self.seed = recipe.batch_size, seed
        self.rank, self.world_size = rank, world_size
        batches_per_pass = math.ceil(len(train.labels) / recipe.batch_size)
        self.num_passes = math.ceil(recipe.min_steps_per_epoch / batches_per_pass)
        self.images_per_epoch = len(train.labels) * self.num_passes
        self.steps_per_epoch = math.ceil(self.images_per_epoch / recipe.batch_size)

    def draw_batches(self, epoch: int) -> Iterator[Batch]:
        """This worker's part of each batch of an epoch; the last batch may be smaller."""
        batches = torch.split(self.draw_order(epoch), self.batch_size)
        for step, indices in enumerate(batches):
            size = len(indices)
            start = self.rank * size // self.world_size
            own = indices[start : (self.rank + 1) * size // self.world_size]
            inputs = scale(self.images[own])
            if self.augmenter is not None:
                inputs = self.augmenter(
                    inputs, epoch=epoch, step=step, batch_size=size, offset=start
                )
            yield Batch(inputs, self.labels[own], size)

    def draw_order(self, epoch: int) -> Tensor:
        """Indices of an epoch's images, (images_per_epoch,) int64: each pass takes all of them."""
        rng = np.random.default_rng([self.seed, epoch])
        passes = [rng.permutation(len(self.labels)) for _ in range(self.num_passes)]
        return torch.from_numpy(np.concatenate(passes)).to(self.images.device)


def scale(images: Tensor) -> Tensor:
    """Turn (B, 28, 28) uint8 into (B, 1, 28, 28) float32 from 0 to 1."""
    return images.unsqueeze(1).float() / 255
