"""Random affine and elastic distortion of a batch, on its device, in one `grid_sample`.

Both distortions move the sampling grid linearly in their parameters, so the grids of a whole
batch are one matrix product: `parameters (B, 2, K) @ basis (K, 28 * 28)`, where the basis holds
the coordinates x, y and 1 (affine) and one bump per control point (elastic).

Shapes: B batch on this worker, K = 3 + C * C basis functions, C control points along a side.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mnist_ocr.digits.canonical import IMAGE_SIZE
from mnist_ocr.training.recipes import Augmentation

NUM_CONTROL_POINTS = 5
"""Along a side of the elastic field; the outer ones lie on the image's border."""


class BatchAugmenter:
    """Distorts batches reproducibly, whatever the number of workers.

    The parameters of the *global* batch are drawn from a generator seeded by (seed, epoch, step),
    and each worker takes its own slice of them.

    Args:
        augmentation: How far to distort.
        device: Where the batches are; the parameters are drawn there as well.
        seed: The run's seed.
    """

    def __init__(self, augmentation: Augmentation, device: torch.device, seed: int) -> None:
        self.augmentation = augmentation
        self.seed = seed
        self.generator = torch.Generator(device)
        self.basis = _build_basis().to(device)

    def __call__(
        self, images: Tensor, *, epoch: int, step: int, batch_size: int, offset: int = 0
    ) -> Tensor:
        """Distort this worker's part of a global batch; what comes in from outside is black.

        Args:
            images: (B, 1, 28, 28) float32, rows `offset` to `offset + B` of the global batch.
            epoch: Epoch of the batch.
            step: Step of the batch within its epoch.
            batch_size: Size of the global batch.
            offset: Position of `images` in it.

        Returns:
            (B, 1, 28, 28) float32, channels last.
        """
        # SeedSequence mixes the three numbers well (a sum or product of them would collide).
        mixed = np.random.SeedSequence([self.seed, epoch, step]).generate_state(1, np.uint64)
        self.generator.manual_seed(int(mixed[0]))
        parameters = self._draw_parameters(batch_size)[offset : offset + len(images)]
        grids = (parameters @ self.basis).view(-1, 2, IMAGE_SIZE, IMAGE_SIZE).movedim(1, -1)
        return F.grid_sample(images, grids, mode="bilinear", align_corners=False)

    def _draw_parameters(self, batch_size: int) -> Tensor:
        """Draw (batch_size, 2, K) float32: row 0 makes the sampled x, row 1 the sampled y."""
        limits = self.augmentation
        device = self.generator.device
        uniform = torch.rand(6, batch_size, generator=self.generator, device=device) * 2 - 1
        angle = uniform[0] * math.radians(limits.max_rotation_deg)
        scale_x, scale_y = 1 + uniform[1:3] * limits.max_scaling
        shear = uniform[3] * limits.max_shear
        shift = uniform[4:6] * limits.max_shift_px * 2 / IMAGE_SIZE
        cos, sin = angle.cos(), angle.sin()
        # Rotation times [[scale_x, shear], [0, scale_y]], then the shift.
        affine = torch.stack(
            [
                torch.stack([cos * scale_x, cos * shear - sin * scale_y, shift[0]]),
                torch.stack([sin * scale_x, sin * shear + cos * scale_y, shift[1]]),
            ]
        ).permute(2, 0, 1)
        elastic = torch.randn(
            batch_size, 2, NUM_CONTROL_POINTS**2, generator=self.generator, device=device
        )
        return torch.cat([affine, elastic * (limits.elastic_px * 2 / IMAGE_SIZE)], dim=2)


def _build_basis() -> Tensor:
    """Build (K, 28 * 28) float32: x, y, 1 and the bumps, at `grid_sample`'s pixel centres."""
    centres = (torch.arange(IMAGE_SIZE) * 2 + 1) / IMAGE_SIZE - 1
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    bumps = F.interpolate(
        torch.eye(NUM_CONTROL_POINTS**2).view(-1, 1, NUM_CONTROL_POINTS, NUM_CONTROL_POINTS),
        size=(IMAGE_SIZE, IMAGE_SIZE),
        mode="bicubic",
        align_corners=True,
    )
    return torch.cat(
        [x.reshape(1, -1), y.reshape(1, -1), torch.ones(1, x.numel()), bumps.flatten(1)]
    )
