"""Ink from paper: a grey page -> the digit's ink alone, bright on zero. Geometry is `canonical`'s.

Polarity, uneven light (`background`), paper texture, specks, ruled lines and box borders
(`ruled_lines`) are settled on a page shrunk to `WORK_SIZE`; light is judged at `COARSE_SIZE`.

Shapes: (H, W) page as given; (h, w) at work size; (c, d) coarse.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray

from mnist_ocr.digits.background import is_ink_dark, is_paper_clean, subtract_background
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

MIN_DISTINCTNESS = 0.7, 1.5, 1.5, 6.0, 6.0
"""(ink / noise) * (ink / range of the whole page) below which ink is taken for texture, by the
number of the page's edges that it touches: shadows end at edges. Blank pages with grain and texture
come to 0.8 (99 of 100), pencil with a contrast of 30 on such paper to 0.9 and more."""

CLEAR_CONTRAST = 42
"""Grey levels between ink and paper from which a page is never blank for its texture: no paper is
so rough, but a digit may be hidden in noise or fog."""

SMOOTHED_NOISE = 8
"""Standard deviation of paper, of 255, from which ink is sought on a smoothed page."""

TINY_TRUST = 0.8
"""Trust of ink on a page too small to tell it from paper by anything but brightness."""

MIN_INK_SIDE = 0.06
"""Longer side of the ink over the page's shorter one below which all there is are specks: on a
strip a digit is as small beside the longer one as dust."""

MIN_INK_AREA = 0.004
"""Area of the ink over that of a form below which it is what is left of the form's own lines."""

MIN_PART, MIN_PART_WITHIN = 0.03, 0.01
"""Area of a separate part, over that of the largest, below which it is a speck: outside and inside
the largest one's bounding box."""

SQUARE = np.ones((3, 3), np.uint8)
"""A pixel and its eight neighbours."""

Image = NDArray[np.uint8]
Mask = MatLike
"""uint8, 1 where it holds."""


class Ink(NamedTuple):
    """What a page shows, and how much of it is ink."""

    page: MatLike
    """(h, w) uint8, the page itself, brighter ink on darker paper, from 0 to 255."""
    ink: MatLike
    """(h, w) uint8, the digit alone, in the same place: 0 where there is paper."""
    trust: float
    """From 0 to 1: how clearly it stands out."""


class _Sheet(NamedTuple):
    """A page on its way."""

    page: Image
    """(H, W), as given."""
    gain: float
    """By how much its contrast was raised."""
    work: MatLike
    """(h, w) uint8, brighter ink on darker paper, from 0 to 255."""
    coarse: MatLike
    """(c, d) uint8, the same."""
    is_clean: bool
    """Whether paper is 0, or the page too small to tell."""


def extract_inks(pages: Sequence[Image], is_crop: bool = False) -> list[Ink | None]:
    """The digit on each page, without anything else that is there.

    Args:
        pages: (H, W) uint8 each, all of one shape, H and W at least 1; 128 pages at most.
        is_crop: Whether they were cut out around a digit already.

    Returns:
        For each, the page at h, w of at most `WORK_SIZE`, or the part of it that the digit is on;
        None for a blank page.
    """
    sheets = [_lay_out(page) for page in pages]
    dirty = [sheet for sheet in sheets if sheet is not None and not sheet.is_clean]
    freed = iter(subtract_background([s.work for s in dirty], [s.coarse for s in dirty]))
    found: list[Ink | None] = []
    for sheet in sheets:
        if sheet is None:
            found.append(None)
        elif sheet.is_clean:
            smooth = cv2.GaussianBlur(sheet.work, (3, 3), 0)
            found.append(_find_digit(sheet, sheet.work, smooth, 0.0, is_crop))
        else:
            found.append(_find_digit(sheet, *next(freed), is_crop))
    return found


def _lay_out(page: Image) -> _Sheet | None:
    """Bring a page to work size, full contrast and bright ink; None if it has no contrast."""
    work = _shrink(page, WORK_SIZE)
    low, high, _, _ = cv2.minMaxLoc(work)
    if high - low < MIN_CONTRAST:
        return None
    gain = 255 / (high - low)
    if gain > 1:
        work = cv2.convertScaleAbs(work, alpha=gain, beta=-low * gain)
    coarse = _shrink(work, COARSE_SIZE, MIN_SHORTER)
    if is_ink_dark(coarse):
        work, coarse = np.invert(work), np.invert(coarse)
    is_clean = max(work.shape) < MIN_SIDE or is_paper_clean(work)
    return _Sheet(page, gain, work, coarse, is_clean)


def _find_digit(
    sheet: _Sheet, ink: MatLike, smooth: MatLike, noise: float, is_crop: bool
) -> Ink | None:
    """The digit, given what `subtract_background` makes of the page, or would of a clean one."""
    page, gain, work, _, is_clean = sheet
    longer = max(work.shape)
    if longer < MIN_SIDE:
        return Ink(work, work, TINY_TRUST)
    grain = cv2.norm(ink, smooth, cv2.NORM_L1) / ink.size
    if noise <= SMOOTHED_NOISE:
        smooth = ink
    _, strong = cv2.threshold(smooth, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    level = cv2.mean(smooth, mask=strong)[0]
    if level < MIN_CONTRAST * gain:
        return None
    threshold = 0 if is_clean else min(max(4 * noise, 0.15 * level), 0.5 * level)
    _, dirty = cv2.threshold(smooth, threshold, 1, cv2.THRESH_BINARY)
    mask = _select_digit(_remove_lines(ink, dirty, max(0.2 * level, 1.5 * noise)))
    x, y, width, height = box = cv2.boundingRect(mask)
    if max(width, height) < MIN_INK_SIDE * min(work.shape):
        return None
    if not is_crop and max(page.shape) > WORK_SIZE and max(width, height) < 0.6 * longer:
        return extract_inks([_crop(page, box, max(page.shape) / longer)], is_crop=True)[0]
    num_cut = (x == 0) + (y == 0) + (x + width == mask.shape[1]) + (y + height == mask.shape[0])
    distinctness = level / max(noise, 0.5 * gain) * level / 255
    if distinctness < MIN_DISTINCTNESS[num_cut] and level < CLEAR_CONTRAST * gain:
        return None
    trust = rate_trust(distinctness, grain / level, num_cut > 0)
    # the edges of strokes are grey
    mask = cv2.dilate(mask, SQUARE)
    if not is_clean:
        ink = cv2.addWeighted(ink, 1, ink, 0, -noise)
    ink = np.multiply(ink, mask)
    return Ink(work, ink, trust) if cv2.countNonZero(ink) else None


def rate_trust(distinctness: float, grain: float, is_cut: bool) -> float:
    """How far the ink that was told from paper is to be trusted, from 0 to 1.

    A product of what says that the mask may be wrong. The shape of each factor is a guess that
    ranks well (`benchmarks/canonicalize.py`); the weight of the whole is fitted with the model.

    Args:
        distinctness: `MIN_DISTINCTNESS`'s.
        grain: Mean difference of a pixel from the mean around it, over that of ink from paper:
            what is left where noise is cut off at black, and paper seems to be clean.
        is_cut: Whether the ink reaches the page's edge: as a stray line does, or a tight crop.
    """
    return distinctness / (distinctness + 2) / (1 + (grain / 0.15) ** 2) * (0.6 if is_cut else 1)


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


def _remove_lines(ink: MatLike, mask: Mask, threshold: float) -> Mask:
    """Take ruled lines and the borders of boxes off the mask, where a digit remains without them.

    A digit cropped tightly has strokes from edge to edge, too: 7, 1 with a foot, 4. Without them
    the rest still touches an edge, and then nothing is taken.
    """
    lines = find_lines(ink, mask, threshold)
    if lines is None:
        return mask
    rest = _select_digit(cv2.subtract(mask, cv2.dilate(lines, SQUARE)))
    x, y, width, height = cv2.boundingRect(rest)
    bottom, right = mask.shape
    margin_y, margin_x = max(1, 0.03 * bottom), max(1, 0.03 * right)
    is_clear = (
        margin_x <= x <= right - margin_x - width and margin_y <= y <= bottom - margin_y - height
    )
    is_digit = cv2.countNonZero(rest) >= MIN_INK_AREA * rest.size
    if is_digit and max(width, height) >= 0.2 * max(mask.shape):
        return rest if is_clear else mask
    # an empty form, unless it is a single upright: that may be a 1
    return np.zeros_like(mask) if cv2.boundingRect(lines)[2] > 0.5 * right else mask


def _select_digit(mask: Mask) -> Mask:
    """Keep the main part and what may belong to it: no specks, nothing that the page cuts off."""
    if cv2.connectedComponents(mask, connectivity=8, ltype=cv2.CV_16U)[0] <= 2:
        return mask  # most are: counting alone takes half the time
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8, ltype=cv2.CV_16U)
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
