"""What befalls a digit on its way to a scan, by family: each takes images and returns images.

Drawn for every image by itself, and batched on the device. The limits are such that a person still
reads nearly every result. A family left out of training (`--augmentation heavy-no-FAMILY`) shows
what the others teach about it.

Shapes: n images; `images` (n, 1, 28, 28) float32 from 0 to 1, white ink on black; so are results.
"""

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from mnist_ocr.digits.canonical import IMAGE_SIZE
from mnist_ocr.training.draws import Draw

Corruption = Callable[[Tensor, Draw], Tensor]


def change_thickness(images: Tensor, draw: Draw) -> Tensor:
    """A broad or a fine pen: dilated or eroded by up to a pixel on either side."""
    amount = draw.uniform(-0.8, 1, 1, 1, 1)
    grown = F.max_pool2d(images, 3, 1, 1)
    shrunk = -F.max_pool2d(-images, 3, 1, 1)
    return _stretch(
        torch.where(amount > 0, images.lerp(grown, amount), images.lerp(shrunk, -amount))
    )


def lower_resolution(images: Tensor, draw: Draw) -> Tensor:
    """A pen of any breadth, its frame 8 to 20 pixels a side, enlarged in one of three ways."""
    broad = F.max_pool2d(images, 3, 1, 1)
    images = images.lerp(broad, draw.uniform(-1, 1, 1, 1, 1).clamp(min=0))
    size = draw.uniform(8, 20, 1, 1)
    edges = torch.arange(IMAGE_SIZE + 1, device=images.device) / IMAGE_SIZE
    # (n, coarse pixel, pixel): how much of the one lies in the other
    coarse = torch.arange(20, device=images.device)[:, None]
    low, high = coarse / size, (coarse + 1) / size
    overlap = (torch.minimum(high, edges[1:]) - torch.maximum(low, edges[:-1])).clamp(min=0)
    centres = (edges[:-1] + edges[1:]) / 2 * size - 0.5
    distance = (coarse - centres).abs()
    linear, blocks = (1 - distance).clamp(min=0), overlap * IMAGE_SIZE
    choice = draw.uniform(0, 1, 1, 1)
    enlarge = torch.where(
        choice < 0.25, blocks, torch.where(choice < 0.5, linear, _cubic(distance))
    )
    matrices = (enlarge.mT @ (overlap * size)).unsqueeze(1)  # (n, 1, pixel, pixel)
    gain = draw.uniform(1, 1.25, 1, 1, 1)
    return (_stretch(matrices @ images @ matrices.mT) * gain).clamp(0, 1)


def _cubic(distance: Tensor) -> Tensor:
    """Weight at a distance in pixels, by cubic convolution (Keys 1981, a = -0.75)."""
    near = (1.25 * distance - 2.25) * distance**2 + 1
    far = ((-0.75 * distance + 3.75) * distance - 6) * distance + 3
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, 0.0))


def blur(images: Tensor, draw: Draw) -> Tensor:
    """Out of focus, or moved along a line: a Gaussian of any direction and aspect."""
    long = draw.uniform(0.4, 2.5, 1, 1)
    short = 0.3 + (long - 0.3) * draw.uniform(0, 0.7, 1, 1)
    angle = draw.uniform(0, math.pi, 1, 1)
    offsets = torch.arange(-5, 6, device=images.device)
    y, x = offsets[:, None], offsets[None, :]
    along, across = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    kernels = torch.exp(-((along / long) ** 2 + (across / short) ** 2) / 2)
    kernels = kernels / kernels.sum((1, 2), keepdim=True)
    return _stretch(_convolve(images, kernels))


def jitter(images: Tensor, draw: Draw) -> Tensor:
    """Pixels displaced at random by up to two: rough paper, bad copies, frosted glass."""
    reach = draw.uniform(0.4, 1.4, 1, 1, 1) * 2 / IMAGE_SIZE
    centres = (torch.arange(IMAGE_SIZE, device=images.device) * 2 + 1) / IMAGE_SIZE - 1
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    grids = torch.stack([x, y], dim=-1) + draw.normal(IMAGE_SIZE, IMAGE_SIZE, 2) * reach
    return F.grid_sample(images, grids, mode="bilinear", align_corners=False)


def occlude(images: Tensor, draw: Draw) -> Tensor:
    """One or two rectangles of 3 to 8 pixels that hide what is under them."""
    pixels = torch.arange(IMAGE_SIZE, device=images.device) + 0.5
    centre = draw.uniform(3, 25, 2, 2, 1)  # (n, rectangle, axis, 1)
    half = draw.uniform(1.5, 4, 2, 2, 1)
    half[:, 1] *= draw.chance(0.3, 1, 1)  # mostly no second one
    inside = ((pixels - centre).abs() < half).float()  # (n, 2, 2, 28)
    hidden = inside[:, :, 0, :, None] * inside[:, :, 1, None, :]
    level = draw.uniform(-1, 1, 2, 1, 1).clamp(min=0)
    for i in range(2):
        images = images.lerp(level[:, i : i + 1], hidden[:, i : i + 1])
    return images


def add_strokes(images: Tensor, draw: Draw) -> Tensor:
    """Up to three stray lines: scratches, ruled lines, sides of a box, solid or dashed."""
    ends = draw.uniform(-4, IMAGE_SIZE + 4, 3, 2, 2)
    is_ruled = draw.chance(0.4, 3)
    ends[..., 0, 0] = torch.where(is_ruled, -4.0, ends[..., 0, 0])
    ends[..., 1, 0] = torch.where(is_ruled, IMAGE_SIZE + 4.0, ends[..., 1, 0])
    ends[..., 1, 1] = torch.where(is_ruled, ends[..., 0, 1], ends[..., 1, 1])
    is_upright = draw.chance(0.5, 3, 1, 1)
    ends = torch.where(is_upright, ends.flip(-1), ends)
    width, level = draw.uniform(0.3, 0.9, 3), draw.uniform(0.3, 1, 3)
    level[:, 1:] *= draw.chance(0.4, 2)
    dash = draw.uniform(1, 5, 3) * draw.chance(0.3, 3)
    return torch.maximum(images, draw_lines(ends, width, level, dash))


def draw_lines(ends: Tensor, width: Tensor, level: Tensor, dash: Tensor | None = None) -> Tensor:
    """Straight lines with soft edges.

    Args:
        ends: (n, L, 2, 2) float32: L lines from and to (x, y), in pixels.
        width: (n, L) half the width, in pixels.
        level: (n, L) brightness from 0 to 1; 0 is no line.
        dash: (n, L) length of the dashes and of the gaps, in pixels; 0 for a solid line.

    Returns:
        (n, 1, 28, 28) float32, the brightest line at each pixel.
    """
    centres = torch.arange(IMAGE_SIZE, device=ends.device) + 0.5
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    pixels = torch.stack([x, y], dim=-1)  # (28, 28, 2)
    start, end = ends[:, :, None, None, 0], ends[:, :, None, None, 1]
    direction = end - start
    length = direction.norm(dim=-1).clamp(min=1e-3)
    direction = direction / length[..., None]
    offset = pixels - start
    along = (offset * direction).sum(-1)
    nearest = torch.minimum(along.clamp(min=0), length)
    distance = (offset - nearest[..., None] * direction).norm(dim=-1)
    ink = (width[..., None, None] + 0.5 - distance).clamp(0, 1) * level[..., None, None]
    if dash is not None:
        period = dash[..., None, None]
        ink = ink * ((period == 0) | (along.remainder(2 * period + 1e-6) < period))
    brightest: Tensor = ink.amax(1, keepdim=True)
    return brightest


def convolve_at_random(images: Tensor, draw: Draw) -> Tensor:
    """Mixed with a random 3x3 convolution of it (Xu et al. 2021): other edges, other shading."""
    kernels = draw.normal(3, 3)
    mixed = images.lerp(_convolve(images, kernels), draw.uniform(0.2, 0.9, 1, 1, 1))
    return _stretch(mixed - mixed.amin((2, 3), keepdim=True))


def add_background(images: Tensor, draw: Draw) -> Tensor:
    """Uneven paper behind the ink: slopes, shadow edges, clouds and stripes."""
    level = draw.uniform(0.1, 0.7, 1, 1, 1)
    paper = draw_texture(images, draw) * level
    # ink on bright paper stays a little brighter than that
    return (paper + images * (1 - paper * draw.uniform(0.4, 1, 1, 1, 1))).clamp(0, 1)


def draw_texture(images: Tensor, draw: Draw) -> Tensor:
    """Random slopes, edges, clouds and stripes, mixed: as many as `images`, from 0 to 1."""
    pixels = torch.arange(IMAGE_SIZE, device=images.device) / IMAGE_SIZE - 0.5
    y, x = pixels[:, None], pixels[None, :]
    angle = draw.uniform(0, 2 * math.pi, 2, 1, 1)
    along = x * angle.cos() + y * angle.sin()  # (n, 2, 28, 28)
    steepness = draw.uniform(0, 3, 1, 1).exp()
    edge = torch.sigmoid((along[:, 0] - draw.uniform(-0.4, 0.4, 1, 1)) * steepness * 3)
    wave = along[:, 1] * draw.uniform(8, 60, 1, 1) + draw.uniform(0, 2 * math.pi, 1, 1)
    sharpness = draw.uniform(0, 2, 1, 1).exp()
    stripes = torch.sigmoid(wave.sin() * sharpness)
    coarse, fine = draw.normal(1, 4, 4), draw.normal(1, 9, 9)
    size = (IMAGE_SIZE, IMAGE_SIZE)
    clouds = F.interpolate(coarse, size=size, mode="bilinear", align_corners=True)
    clouds = clouds + 0.6 * F.interpolate(fine, size=size, mode="bilinear", align_corners=True)
    parts = torch.stack([edge, stripes, torch.sigmoid(clouds[:, 0])], dim=1)
    weights = draw.uniform(0, 1, 3, 1, 1) ** 4
    mixed = (parts * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
    return _stretch(mixed - mixed.amin((2, 3), keepdim=True))


def change_tone(images: Tensor, draw: Draw) -> Tensor:
    """Another contrast, brightness and gamma; every fourth is dark ink on light paper."""
    curved = images.clamp(0, 1) ** draw.uniform(-1, 1, 1, 1, 1).exp()
    low, contrast = draw.uniform(0, 0.5, 1, 1, 1), draw.uniform(0.2, 1, 1, 1, 1)
    shaded = low + curved * contrast * (1 - low)
    return torch.where(draw.chance(0.25, 1, 1, 1), 1 - shaded, shaded)


def add_noise(images: Tensor, draw: Draw) -> Tensor:
    """Grain, brighter where there is light, and pixels that are black or white."""
    grain = draw.uniform(0.1, 0.65, 1, 1, 1).square()
    shot = draw.uniform(0, 0.5, 1, 1, 1) * draw.chance(0.5, 1, 1, 1)
    size = (1, IMAGE_SIZE, IMAGE_SIZE)
    noisy = images + draw.normal(*size) * (grain + shot * images.clamp(0, 1).sqrt())
    dropped = draw.uniform(0, 0.25, 1, 1, 1) * draw.chance(0.4, 1, 1, 1)
    lottery = draw.uniform(0, 1, *size)
    noisy = torch.where(lottery < dropped / 2, 0, noisy)
    return torch.where(lottery > 1 - dropped / 2, 1, noisy).clamp(0, 1)


CORRUPTIONS: Mapping[str, Corruption] = {
    "thickness": change_thickness,
    "strokes": add_strokes,
    "occlusion": occlude,
    "convolution": convolve_at_random,
    "background": add_background,
    "resolution": lower_resolution,
    "blur": blur,
    "jitter": jitter,
    "tone": change_tone,
    "noise": add_noise,
}
"""By family, in the order in which they befall an image."""


def _convolve(images: Tensor, kernels: Tensor) -> Tensor:
    """Each image with its own kernel (n, k, k)."""
    count, size = kernels.shape[0], kernels.shape[-1]
    if not count:  # of no groups there is no convolution
        return images
    result = F.conv2d(
        images.reshape(1, count, IMAGE_SIZE, IMAGE_SIZE),
        kernels[:, None],
        padding=size // 2,
        groups=count,
    )
    return result.view(images.shape)


def _stretch(images: Tensor) -> Tensor:
    """Brightened so that each image's brightest pixel is 1."""
    return images / images.amax((2, 3), keepdim=True).clamp(min=1e-3)
