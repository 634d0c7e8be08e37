"""What a batch of digits goes through before the network sees it: mild for some, heavy for others.

Every image is distorted; of a share of them (the heavy part) each corruption befalls some.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mnist_ocr.training.corruptions import CORRUPTIONS, Corruption
from mnist_ocr.training.distortion import Distorter
from mnist_ocr.training.draws import Draw, seed_generator
from mnist_ocr.training.recipes import Augmentation

CORRUPTION_SHARE = 0.15
"""Share of the heavy images that each corruption befalls: one or two an image."""

MAX_HEAVY_STRENGTH = 2.0
"""How much further than the others the heavy images are distorted, at most."""


class BatchAugmenter:
    """Augments batches reproducibly, whatever the number of workers.

    The parameters of the *global* batch are drawn from a seeded generator, and each worker takes
    its own rows of them.

    Args:
        augmentation: What to do.
        device: Where the batches are; the parameters are drawn there as well.
    """

    def __init__(self, augmentation: Augmentation, device: torch.device) -> None:
        self.augmentation = augmentation
        self.generator = torch.Generator(device)
        self.distorter = Distorter(augmentation, device)

    def __call__(
        self, images: Tensor, seed: Sequence[int], *, batch_size: int, offset: int = 0
    ) -> Tensor:
        """Augment this worker's part of a global batch.

        Args:
            images: (B, 1, 28, 28) float32, rows `offset` to `offset + B` of the global batch.
            seed: Numbers that the result depends on, such as the run's seed, epoch and step.
            batch_size: Size of the global batch.
            offset: Position of `images` in it.

        Returns:
            (B, 1, 28, 28) float32, channels last.
        """
        seed_generator(self.generator, *seed)
        end = offset + len(images)
        draw = Draw(self.generator, batch_size, slice(offset, end))
        strength = torch.ones(len(images), device=images.device)
        num_heavy = round(batch_size * self.augmentation.heavy_share)
        # spread, so that all workers have as many to damage; the batch's order is random
        heavy = torch.arange(num_heavy, device=images.device) * batch_size // max(num_heavy, 1)
        families = self.augmentation.families
        if num_heavy and "distortion" in families:
            is_heavy = torch.zeros(batch_size, dtype=torch.bool, device=images.device)
            is_heavy = is_heavy.index_fill(0, heavy, True)[offset:end]
            strength = torch.where(is_heavy, draw.uniform(1, MAX_HEAVY_STRENGTH), strength)
        images = self.distorter(images, draw, strength)
        for family, corrupt in CORRUPTIONS.items():
            if num_heavy and family in families:
                self._damage(corrupt, images, heavy, offset, batch_size)
        return images

    def _damage(
        self, corrupt: Corruption, images: Tensor, heavy: Tensor, offset: int, batch_size: int
    ) -> None:
        """Let a corruption befall some of the heavy images, in place.

        Args:
            corrupt: One family.
            images: Rows `offset` and following of the global batch.
            heavy: (H,) int64, rows of the global batch.
            offset: Position of `images` in it.
            batch_size: Size of the global batch.
        """
        count = round(len(heavy) * CORRUPTION_SHARE)
        order = torch.randperm(len(heavy), generator=self.generator, device=images.device)
        chosen = heavy[order[:count]] - offset
        rows: slice | Tensor = slice(None)
        if len(images) < batch_size:  # some are another worker's; to find them a GPU has to wait
            rows = ((chosen >= 0) & (chosen < len(images))).nonzero()[:, 0]
        own = chosen[rows]
        images[own] = corrupt(images[own], Draw(self.generator, count, rows))
