"""Digits as a scanner or a phone would show them: pages to calibrate on, not to train on."""

import cv2
import numpy as np
from numpy.typing import NDArray

from mnist_ocr.digits.canonical import IMAGE_SIZE

Image = NDArray[np.uint8]


def draw_scans(images: NDArray[np.uint8], seed: int) -> list[Image]:
    """Ink on paper for each image: uneven light, grain, and the marks of JPEG.

    Args:
        images: (N, 28, 28) uint8, white ink on black.
        seed: The same seed gives the same pages.

    Returns:
        N square pages of 40 to 128 pixels a side, uint8, dark ink on light paper.
    """
    rng = np.random.default_rng(seed)
    return [_draw_scan(image, rng) for image in images]


def _draw_scan(image: Image, rng: np.random.Generator) -> Image:
    size = int(rng.integers(40, 129))
    scale = size * rng.uniform(0.6, 1.0) / IMAGE_SIZE
    free = size - scale * IMAGE_SIZE
    left, top = rng.uniform(0.2, 0.8, 2) * free
    placement = np.array([[scale, 0, left], [0, scale, top]])
    ink = cv2.warpAffine(image, placement, (size, size), flags=cv2.INTER_CUBIC) / np.float32(255)
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    slope_y, slope_x = rng.uniform(-30, 30, 2).astype(np.float32)
    paper = rng.uniform(170, 225) + slope_y * ramp[:, None] + slope_x * ramp
    grain = rng.standard_normal((size, size), np.float32) * np.float32(rng.uniform(0.5, 6))
    page = np.clip(paper * (1 - rng.uniform(0.5, 0.95) * ink) + grain, 0, 255).astype(np.uint8)
    quality = int(rng.integers(50, 96))
    encoded = cv2.imencode(".jpg", page, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE), np.uint8)
