"""Synthetic non-digits, on which a network learns to be undecided (Hendrycks et al. 2019).

Scribbles, two digits, digits cut and put together wrongly, textures and empty pages. No letters:
whether the network tells those from digits is measured, not taught.

Shapes: n images, (n, 1, 28, 28) float32 from 0 to 1.
"""

import torch
from torch import Tensor

from mnist_ocr.digits.canonical import IMAGE_SIZE
from mnist_ocr.training.corruptions import draw_lines, draw_texture
from mnist_ocr.training.draws import Draw


def draw_outliers(first: Tensor, second: Tensor, draw: Draw) -> Tensor:
    """Make as many non-digits as there are pairs of digits.

    Args:
        first: (n, 1, 28, 28) float32, digits to make some of them from.
        second: As many other digits.
        draw: For these images.
    """
    kinds = torch.stack(
        [
            _scribble(draw),
            _scribble(draw),
            _set_side_by_side(first, second, draw),
            _shuffle_quarters(first, second, draw),
            draw_texture(first, draw) * draw.uniform(0, 1, 1, 1, 1),
        ]
    )
    choice = draw.uniform(0, len(kinds), 1).long().clamp(max=len(kinds) - 1)
    rows = torch.arange(len(first), device=first.device)
    return kinds[choice[:, 0], rows].contiguous(memory_format=torch.channels_last)


def _scribble(draw: Draw) -> Tensor:
    """Two or three pen strokes, each a quadratic curve of four pieces, in a digit's frame."""
    points = draw.uniform(4, 24, 3, 3, 2)  # (n, stroke, point, axis)
    t = torch.linspace(0, 1, 5, device=points.device)[:, None]
    start, middle, end = (points[:, :, i, None] for i in range(3))
    curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end
    ends = torch.stack([curve[:, :, :-1], curve[:, :, 1:]], dim=3).flatten(1, 2)
    width = draw.uniform(0.6, 1.6, 1).expand(-1, 12)
    level = torch.ones_like(width).clone()
    level[:, 8:] *= draw.chance(0.6, 1)
    return draw_lines(ends, width, level)


def _set_side_by_side(first: Tensor, second: Tensor, draw: Draw) -> Tensor:
    """Two digits of half the width, or one above the other."""
    left, right = (_squeeze(images) for images in (first, second))
    beside = torch.cat([left, right], dim=3)
    return torch.where(draw.chance(0.25, 1, 1, 1), beside.mT, beside)


def _squeeze(images: Tensor) -> Tensor:
    """The middle 20 columns averaged to 14."""
    return torch.nn.functional.interpolate(
        images[..., 4:-4], size=(IMAGE_SIZE, IMAGE_SIZE // 2), mode="area"
    )


def _shuffle_quarters(first: Tensor, second: Tensor, draw: Draw) -> Tensor:
    """A digit's quarters in another order, some of them from another digit."""
    middle = IMAGE_SIZE // 2
    swapped = first.roll(middle, 2)  # upper half below the lower
    crossed = torch.where(draw.chance(0.5, 1, 1, 1), first.roll(middle, 3), swapped)
    halves = torch.cat([crossed[..., :middle], second.flip(2)[..., middle:]], dim=3)
    return torch.where(draw.chance(0.5, 1, 1, 1), crossed, halves)
