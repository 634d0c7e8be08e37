"""Random affine and elastic distortion of a batch, on its device, in one `grid_sample`.

Both distortions move the sampling grid linearly in their parameters, so the grids of a whole
batch are one matrix product: `parameters (n, 2, K) @ basis (K, 28 * 28)`, where the basis holds
the coordinates x, y and 1 (affine) and one bump per control point (elastic).

Shapes: n images, K = 3 + C * C basis functions, C control points along a side.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mnist_ocr.digits.canonical import IMAGE_SIZE
from mnist_ocr.training.draws import Draw
from mnist_ocr.training.recipes import Augmentation

NUM_CONTROL_POINTS = 5
"""Along a side of the elastic field; the outer ones lie on the image's border."""


class Distorter:
    """Rotates, scales, shears, shifts and warps digits; what comes in from outside is black.

    Args:
        limits: How far to distort.
        device: Where the images are.
    """

    def __init__(self, limits: Augmentation, device: torch.device) -> None:
        self.limits = limits
        self.basis = _build_basis().to(device)

    def __call__(self, images: Tensor, draw: Draw, strength: Tensor) -> Tensor:
        """Distort each image by its own parameters.

        Args:
            images: (n, 1, 28, 28) float32.
            draw: For these images.
            strength: (n,) float32; the limits are multiplied by it.

        Returns:
            (n, 1, 28, 28) float32, channels last.
        """
        parameters = self._draw_parameters(draw, strength)
        grids = (parameters @ self.basis).view(-1, 2, IMAGE_SIZE, IMAGE_SIZE).movedim(1, -1)
        return F.grid_sample(images, grids, mode="bilinear", align_corners=False)

    def _draw_parameters(self, draw: Draw, strength: Tensor) -> Tensor:
        """Draw (n, 2, K) float32: row 0 makes the sampled x, row 1 the sampled y."""
        limits = self.limits
        uniform = (draw.uniform(-1, 1, 6) * strength[:, None]).T
        angle = uniform[0] * math.radians(limits.max_rotation_deg)
        scale_x, scale_y = (uniform[1:3] * math.log1p(limits.max_scaling)).exp()
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
        elastic = draw.normal(2, NUM_CONTROL_POINTS**2)
        elastic = elastic * (strength * limits.elastic_px * 2 / IMAGE_SIZE)[:, None, None]
        return torch.cat([affine, elastic], dim=2)


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
