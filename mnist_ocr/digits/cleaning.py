"""Ink from paper: a grey page -> the digit's ink alone, bright on zero. Geometry is `canonical`'s.

Polarity, uneven light, paper texture, specks, ruled lines and box borders are settled here, on a
page shrunk to `WORK_SIZE`; the light on it is judged at `COARSE_SIZE`.

Shapes: (H, W) page as given; (h, w) at work size; (c, d) coarse.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray

from mnist_ocr.digits.ruled_lines import find_lines

WORK_SIZE = 128
"""Longer side, in pixels, of what is cleaned: six times the resolution of MNIST's frame."""

COARSE_SIZE = 32
"""Longer side, in pixels, at which polarity and background are judged."""

MIN_SHORTER = 16
"""Shorter side of the coarse page, in pixels: a slip with a 1 on it has paper left and right."""

MIN_SIDE = 16
"""Longer side, in pixels, from which paper can be told from ink by anything but brightness."""

MIN_CONTRAST = 8
"""Grey levels between ink and paper below which a page is blank: what is left of 8-bit paper after
sensor noise and JPEG, and less than any legible stroke."""

MIN_DISTINCTNESS, MIN_DISTINCTNESS_AT_EDGE = 0.7, 1.5
"""(ink / noise) * (ink / range of the whole page) below which ink is taken for texture; more is
asked of ink that touches the page's edge, where shadows end. Blank pages with grain, texture and
shadows come to 0.8 (99 of 100), pencil with a contrast of 30 on such paper to 0.9 and more."""

MIN_INK_SIDE = 0.06
"""Longer side of the ink over that of the page below which all there is are specks."""

MIN_PART, MIN_PART_WITHIN = 0.03, 0.01
"""Area of a separate part, over that of the largest, below which it is a speck: outside and inside
the largest one's bounding box."""

BORDER_WEIGHT = 1.5
"""Weight of the border's brightness beside the skewness of all pixels, in telling polarity."""

Image = NDArray[np.uint8]
Mask = MatLike
"""uint8, 1 where it holds."""


def extract_ink(page: Image) -> Image | None:
    """The digit on a page, without anything else that is there.

    Args:
        page: (H, W) uint8, H and W at least 1.

    Returns:
        (h, w) uint8, h and w at most `WORK_SIZE`: 0 where there is paper; None for a blank page.
    """
    return _extract(page, is_crop=False)


def _extract(page: Image, is_crop: bool) -> Image | None:
    work = _shrink(page, WORK_SIZE)
    low, high, _, _ = cv2.minMaxLoc(work)
    if high - low < MIN_CONTRAST:
        return None
    gain = 255 / (high - low)
    if gain > 1:
        work = cv2.convertScaleAbs(work, alpha=gain, beta=-low * gain)
    coarse = _shrink(work, COARSE_SIZE, MIN_SHORTER).astype(np.float32)
    if is_ink_dark(coarse):
        work, coarse = cv2.bitwise_not(work), 255 - coarse
    longer = max(work.shape)
    if longer < MIN_SIDE:
        return np.asarray(work, np.uint8)
    is_clean = _is_clean(work)
    ink, noise = (work, 0.0) if is_clean else _subtract_background(work, coarse)
    smooth = cv2.GaussianBlur(ink, (3, 3), 0) if noise > 8 else ink
    _, strong = cv2.threshold(smooth, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    level = cv2.mean(smooth, mask=strong)[0]
    distinctness = level / max(noise, 0.5 * gain) * level / 255
    if level < MIN_CONTRAST * gain or distinctness < MIN_DISTINCTNESS:
        return None
    threshold = 0 if is_clean else min(max(4 * noise, 0.15 * level), 0.5 * level)
    _, mask = cv2.threshold(smooth, threshold, 1, cv2.THRESH_BINARY)
    mask = _select_digit(_remove_lines(ink, mask, max(0.2 * level, 1.5 * noise)))
    x, y, width, height = box = cv2.boundingRect(mask)
    if max(width, height) < MIN_INK_SIDE * longer:
        return None
    if not is_crop and max(page.shape) > WORK_SIZE and max(width, height) < 0.6 * longer:
        return _extract(_crop(page, box, max(page.shape) / longer), is_crop=True)
    is_at_edge = x == 0 or y == 0 or x + width == mask.shape[1] or y + height == mask.shape[0]
    if is_at_edge and distinctness < MIN_DISTINCTNESS_AT_EDGE:
        return None
    # the edges of strokes are grey
    mask = cv2.dilate(mask, np.ones((3, 3), np.uint8))
    return np.asarray(cv2.multiply(cv2.addWeighted(ink, 1, ink, 0, -noise), mask), np.uint8)


def _shrink(page: MatLike, longest: int, shortest: int = 1) -> MatLike:
    """Average areas, to sides of at most `longest` and, where there are as many, `shortest`."""
    height, width = page.shape
    scale = longest / max(height, width)
    if scale >= 1:
        return page
    size = [max(min(side, shortest), round(side * scale)) for side in (width, height)]
    return cv2.resize(page, size, interpolation=cv2.INTER_AREA)


def _crop(page: Image, box: Sequence[int], scale: float) -> Image:
    """What lies in and around a box that was found on a page shrunk by `scale`."""
    x, y, width, height = box
    margin = 0.4 * max(width, height)
    top, left = max(0, int((y - margin) * scale)), max(0, int((x - margin) * scale))
    bottom, right = int((y + height + margin) * scale) + 1, int((x + width + margin) * scale) + 1
    return page[top:bottom, left:right]


def _is_clean(work: MatLike) -> bool:
    """Whether paper is exactly 0, so that even the faintest pixel is ink: as in MNIST."""
    num_ink = cv2.countNonZero(work)
    num_faint = num_ink - cv2.countNonZero(cv2.threshold(work, 38, 1, cv2.THRESH_BINARY)[1])
    return num_ink < 0.85 * work.size and num_faint < 0.2 * work.size


def is_ink_dark(coarse: MatLike) -> bool:
    """Whether the ink on (c, d) float32 is darker than its paper.

    Paper is what most pixels are, and most of the border: deviations from the plane of least
    squares (light falls off) are skewed towards the ink, and the border lies opposite.
    """
    height, width = coarse.shape
    y = np.arange(height, dtype=np.float32) - (height - 1) / 2
    x = np.arange(width, dtype=np.float32) - (width - 1) / 2
    rows = cv2.reduce(coarse, 1, cv2.REDUCE_AVG)[:, 0]
    columns = cv2.reduce(coarse, 0, cv2.REDUCE_AVG)[0]
    slope_y, slope_x = (y @ rows) / max(y @ y, 1), (x @ columns) / max(x @ x, 1)
    flat = coarse - ((cv2.mean(rows)[0] + slope_y * y)[:, None] + slope_x * x)
    low, high, _, _ = cv2.minMaxLoc(flat)
    if high - low < 1:
        return False
    deviations = flat.ravel()
    squares = deviations * deviations
    skewness = (squares @ deviations) / deviations.size / (squares.sum() / squares.size) ** 1.5
    inner = flat[1:-1, 1:-1]
    inner_sum = cv2.sumElems(inner)[0] if inner.size else 0.0
    border_mean = -inner_sum / (flat.size - inner.size)  # the sum of all is 0
    return bool(skewness < BORDER_WEIGHT * (2 * border_mean - low - high) / (high - low))


def _subtract_background(work: MatLike, coarse: MatLike) -> tuple[MatLike, float]:
    """Make paper 0, whatever light falls on it; also the paper's deviation, robustly."""
    tilt = _fit_tilt(coarse)
    flat = coarse - _build_tilt(tilt, coarse.shape)
    size = 13 * max(coarse.shape) // COARSE_SIZE | 1  # broader than strokes
    opened = cv2.morphologyEx(flat, cv2.MORPH_OPEN, np.ones((size, size), np.uint8))
    opened = _spread_from_border(opened)
    above = flat - opened
    ink = cv2.convertScaleAbs(above)
    otsu, _ = cv2.threshold(ink, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    _, paper = cv2.threshold(ink, 0.7 * otsu, 1, cv2.THRESH_BINARY_INV)
    # opening gives the darkest paper around; its mean is what has to go
    weights = paper.astype(np.float32)
    near = cv2.GaussianBlur(weights, (0, 0), 2.5)
    light = opened + cv2.GaussianBlur(above * weights, (0, 0), 2.5) / (near + 1e-3)
    lit = cv2.resize(light, work.shape[::-1]) + _build_tilt(tilt, work.shape)
    background = cv2.convertScaleAbs(np.maximum(lit, 0))
    rest = cv2.absdiff(work, background)
    rest = cv2.resize(rest, coarse.shape[::-1], interpolation=cv2.INTER_NEAREST)[paper > 0]
    return cv2.subtract(work, background), 1.48 * _median(rest)


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
    middle = values.size // 2
    return float(np.partition(values, middle, axis=None)[middle]) if values.size else 0.0


def _build_tilt(tilt: tuple[float, float], shape: tuple[int, ...]) -> MatLike:
    """The plane of such a tilt, 0 in the middle: float32 of the shape given."""
    y, x = (
        ((np.arange(n, dtype=np.float32) + 0.5) / n - 0.5) * np.float32(rise)
        for n, rise in zip(shape, tilt, strict=True)
    )
    return np.asarray(y[:, None] + x, np.float32)


def _spread_from_border(opened: MatLike) -> MatLike:
    """Lower what is bright only in the middle of the page: broad ink. Light reaches the border."""
    low, high, _, _ = cv2.minMaxLoc(opened)
    if high - low < 40:
        return opened
    light = np.full_like(opened, low)
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        light[edge] = opened[edge]
    kernel = np.ones((5, 5), np.uint8)
    for _ in range(max(opened.shape)):
        grown = cv2.min(cv2.dilate(light, kernel), opened)
        if np.array_equal(grown, light):
            break
        light = grown
    return light


def _remove_lines(ink: MatLike, mask: Mask, threshold: float) -> Mask:
    """Take ruled lines and the borders of boxes off the mask, where a digit remains without them.

    A digit cropped tightly has strokes from edge to edge, too: 7, 1 with a foot, 4. Without them
    the rest still touches an edge, and then nothing is taken.
    """
    lines = find_lines(ink, mask, threshold)
    if lines is None:
        return mask
    rest = _select_digit(cv2.subtract(mask, cv2.dilate(lines, np.ones((3, 3), np.uint8))))
    x, y, width, height = cv2.boundingRect(rest)
    bottom, right = mask.shape
    margin_y, margin_x = max(1, 0.03 * bottom), max(1, 0.03 * right)
    is_clear = (
        margin_x <= x <= right - margin_x - width and margin_y <= y <= bottom - margin_y - height
    )
    if max(width, height) >= 0.2 * max(mask.shape):
        return rest if is_clear else mask
    # an empty form, unless it is a single upright: that may be a 1
    return np.zeros_like(mask) if cv2.boundingRect(lines)[2] > 0.5 * right else mask


def _select_digit(mask: Mask) -> Mask:
    """Keep the main part and what may belong to it: no specks, nothing that the page cuts off."""
    num_parts, labels, stats, _ = cv2.connectedComponentsWithStats(
        mask, connectivity=8, ltype=cv2.CV_16U
    )
    if num_parts <= 2:
        return mask
    left, top, width, height, area = stats.T
    right, bottom = left + width, top + height
    is_cut = (left == 0) | (top == 0) | (right == mask.shape[1]) | (bottom == mask.shape[0])
    area[0] = 0  # the paper
    main = np.where(is_cut, 0.3 * area, area).argmax()
    is_within = (left >= left[main]) & (right <= right[main])
    is_within &= (top >= top[main]) & (bottom <= bottom[main])
    least = np.where(is_within, MIN_PART_WITHIN, MIN_PART) * area[main]
    is_kept = (area > 0) & (area >= least)
    if not is_cut[main]:
        is_kept &= ~is_cut
    return np.asarray(is_kept.view(np.uint8).take(labels))
