"""Paper, whatever light falls on it: is its ink darker, and how bright is the page without ink.

Both are judged at `cleaning.COARSE_SIZE`. Shapes: (c, d) coarse page, (h, w) the page to be freed.
"""

from functools import lru_cache

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray

BORDER_WEIGHT = 1.5
"""Weight of the border's brightness beside the skewness of all pixels, in telling polarity."""

STROKE_SHARE = 0.4
"""Width of what is opened, over the page's longer side: broader than strokes."""

Floats = NDArray[np.float32]


def is_ink_dark(coarse: MatLike) -> bool:
    """Whether the ink on (c, d) float32 is darker than its paper.

    Paper is what most pixels are, and most of the border: deviations from the plane of least
    squares (light falls off) are skewed towards the ink, and the border lies opposite.
    """
    planes, _, border = _build_planes(*coarse.shape)
    values = coarse.ravel()
    flat = values - planes.dot(values).dot(planes)
    low, high, _, _ = cv2.minMaxLoc(flat)
    if high - low < 1:
        return False
    skewness = float((flat * flat).dot(flat)) * flat.size**0.5 / float(flat.dot(flat)) ** 1.5
    return skewness < BORDER_WEIGHT * (2 * float(border.dot(flat)) - low - high) / (high - low)


@lru_cache(maxsize=128)
def _build_planes(height: int, width: int) -> tuple[Floats, Floats, Floats]:
    """What is alike for all pages of a shape.

    Returns:
        (3, c * d) orthonormal planes: level, rising to the bottom, to the right; (2, c, d) the
        same two by 1 from edge to edge; (c * d,) weights of the mean of the border.
    """
    y, x = ((np.arange(n, dtype=np.float32) + 0.5) / n - 0.5 for n in (height, width))
    ones = np.ones((height, width), np.float32)
    slopes = np.stack([ones * y[:, None], ones * x])
    planes = np.stack([ones, *slopes]).reshape(3, -1)
    norms = np.sqrt((planes**2).sum(1, keepdims=True))
    border = ones.copy()
    border[1:-1, 1:-1] = 0
    return planes / np.maximum(norms, 1e-6), slopes, border.ravel() / border.sum()


def subtract_background(work: MatLike, coarse: MatLike) -> tuple[MatLike, float]:
    """Make paper 0.

    Args:
        work: (h, w) uint8, ink brighter than paper.
        coarse: (c, d) float32, the same page.

    Returns:
        (h, w) uint8 ink, and the paper's standard deviation, robustly.
    """
    _, (rising_down, rising_right), _ = _build_planes(*coarse.shape)
    down, right = _fit_tilt(coarse)
    plane = cv2.addWeighted(rising_down, down, rising_right, right, 0)
    flat = coarse - plane
    square = _build_square(int(STROKE_SHARE * max(coarse.shape)) | 1)
    opened = _cap_by_border(cv2.morphologyEx(flat, cv2.MORPH_OPEN, square))
    above = flat - opened
    ink = cv2.convertScaleAbs(above)
    otsu, _ = cv2.threshold(ink, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    _, paper = cv2.threshold(ink, 0.7 * otsu, 1, cv2.THRESH_BINARY_INV)
    # opening gives the darkest paper around; its mean is what has to go
    offset = cv2.mean(above, mask=paper)[0]
    light = cv2.addWeighted(opened, 1, plane, 1, offset)
    if work.shape != coarse.shape:
        light = cv2.resize(light, work.shape[::-1])
    background = cv2.addWeighted(light, 1, light, 0, 0, dtype=cv2.CV_8U)
    rest = cv2.absdiff(work, background)
    if work.shape != coarse.shape:
        rest = cv2.resize(rest, coarse.shape[::-1], interpolation=cv2.INTER_NEAREST)
    return cv2.subtract(work, background), 1.48 * _median(rest[paper.view(np.bool_)])


@lru_cache
def _build_square(size: int) -> NDArray[np.uint8]:
    return np.ones((size, size), np.uint8)


def _fit_tilt(coarse: MatLike) -> tuple[float, float]:
    """How much brighter the bottom and the right edge are than the top and the left.

    Medians, so that neither ink nor the edge of a shadow counts.
    """
    height, width = coarse.shape
    lag_y, lag_x = min(4, height - 1), min(4, width - 1)
    down = _median(coarse[lag_y:] - coarse[: height - lag_y]) / max(lag_y, 1)
    right = _median(coarse[:, lag_x:] - coarse[:, : width - lag_x]) / max(lag_x, 1)
    return down * height, right * width


def _median(values: MatLike) -> float:
    """The upper median; 0 of nothing. A fifth of the time that `np.median` takes."""
    flat = values.ravel()
    middle = flat.size // 2
    flat.partition(middle)
    return float(flat[middle]) if flat.size else 0.0


def _cap_by_border(opened: MatLike) -> MatLike:
    """Lower what is bright only in the middle of the page: broad ink. Light reaches the border."""
    columns = np.maximum(opened[0], opened[-1])
    rows = np.maximum(opened[:, 0], opened[:, -1])
    return np.minimum(opened, np.maximum.outer(rows, columns))
