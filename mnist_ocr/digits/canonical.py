"""Grey page -> (28, 28) in MNIST geometry: white ink on black. The only place of pixel conventions.

MNIST's own recipe (LeCun et al. 1998; reconstructed in QMNIST, Yadav and Bottou 2019): the ink's
bounding box is scaled to 20x20 with its aspect kept, averaging areas, then shifted by whole pixels
so that its centre of mass lies in pixel 14. An image that is so already comes back as it is; on any
other the ink is first told from the paper (`cleaning`).
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray

from mnist_ocr.digits.cleaning import Ink, extract_inks

IMAGE_SIZE = 28
"""Side of an MNIST image, in pixels."""

INK_SIZE = 20
"""Longer side of a digit's ink in an MNIST image, in pixels."""

CENTRE = 14
"""Row and column (from 0) of the pixel that holds the centre of mass of an MNIST image's ink."""

MIN_PEAK = 250
"""Brightness of an MNIST image's brightest pixel, at least; it is 254 or 255."""

SATURATION = 1.15
"""Brightness of the brightest pixel before it is cut off at 255: strokes are white throughout."""

MIN_INK = 60
"""Brightness from which a row or column belongs to the ink's bounding box: an edge that a quarter
of a pixel of ink reaches into."""

MOMENTS = np.stack([np.ones((IMAGE_SIZE, IMAGE_SIZE)), *np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE]])
MOMENTS = MOMENTS.reshape(3, -1).astype(np.float32)
"""Weights of an image's sum and of its first moments, down and to the right: (3, 28 * 28)."""

PREPROCESSING_VERSION = 3
"""Raised with every change of what this module, `cleaning` or decoding returns for some input."""

Image = NDArray[np.uint8]


class View(NamedTuple):
    """A page in MNIST's frame, twice: (28, 28) uint8 each, white ink on black."""

    canonical: Image
    """The ink alone, in MNIST's geometry; all zeros for a blank page."""
    raw: Image
    """The page with all that is on it, light ink on dark, from 0 to 255: in place if it has 28x28
    pixels, else cut out around the ink, which takes 20 of the 28 pixels and lies as in the
    canonical view."""
    trust: float
    """From 0 to 1: how clearly ink stands out; 1 for a page in MNIST's form, 0 for a blank one."""


def canonicalize_page(page: Image) -> Image:
    """A grey page of any size as an MNIST image.

    Args:
        page: (H, W) uint8, H and W at least 1.

    Returns:
        (28, 28) uint8, white ink on black, brightest pixel 255; all zeros for a blank page; the
        page itself, not a copy, if it has MNIST's form.
    """
    if page.shape == (IMAGE_SIZE, IMAGE_SIZE) and is_canonical(page[None])[0]:
        return page
    return view_page(page).canonical


def view_page(page: Image) -> View:
    """Both views of a page that `is_canonical` has turned down."""
    return view_pages([page])[0]


def view_pages(pages: Sequence[Image]) -> list[View]:
    """Both views of up to 128 pages of one shape: small ones take three fifths of the time."""
    return [_view(page, ink) for page, ink in zip(pages, extract_inks(pages), strict=True)]


def _view(page: Image, found: Ink | None) -> View:
    if found is None:
        blank = np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.uint8)
        return View(blank, blank, 0.0)
    image, window = fit_ink(found.ink)
    if page.shape == (IMAGE_SIZE, IMAGE_SIZE):
        # a copy: where nothing had to be changed it is the caller's own array
        return View(image, np.array(found.page, np.uint8), found.trust)
    return View(image, _cut_out(found, *window), found.trust)


def is_canonical(images: Image) -> NDArray[np.bool_]:
    """Which of (N, 28, 28) uint8 images have MNIST's geometry: (N,) bool.

    True of every image of MNIST: ink of 20 pixels (19 at least) on paper of exactly 0, strokes that
    reach `MIN_PEAK`, the centre of mass in pixel 14 (or out of reach, where the frame ends).
    """
    pixels = images.astype(np.float32)
    ones = np.ones(IMAGE_SIZE, np.float32)
    is_right = images.reshape(len(images), IMAGE_SIZE**2).max(1) >= MIN_PEAK
    longer = np.zeros(len(images), np.int64)
    for profile in (pixels @ ones, ones @ pixels):
        is_ink = profile > 0
        first, last = is_ink.argmax(1), IMAGE_SIZE - 1 - is_ink[:, ::-1].argmax(1)
        longer = np.maximum(longer, last - first + 1)
        total = np.maximum(profile.sum(1), 1)
        offset = profile @ (np.arange(IMAGE_SIZE, dtype=np.float32) - CENTRE) / total
        is_centred = np.abs(offset) <= 0.52
        is_stopped = ((offset > 0) & (first == 0)) | ((offset < 0) & (last == IMAGE_SIZE - 1))
        is_right &= is_centred | is_stopped
    return np.asarray(is_right & (longer <= INK_SIZE) & (longer >= INK_SIZE - 1))


def fit_ink(ink: MatLike) -> tuple[Image, tuple[float, float, float]]:
    """Scale and place ink as MNIST does.

    Args:
        ink: (H, W) uint8, paper 0; H and W at least 1, and at least one pixel is not 0.

    Returns:
        (28, 28) uint8; and the top, left and side of the square of the page, in its pixels, that
        it shows.
    """
    _, brightest, _, _ = cv2.minMaxLoc(ink)
    left, top, width, height = cv2.boundingRect(ink)
    scaled: MatLike = ink[top : top + height, left : left + width]
    if not INK_SIZE - 1 <= max(width, height) <= INK_SIZE:
        left, top, width, height = _find_box(ink, MIN_INK * brightest / 255)
        scaled = _scale(ink[top : top + height, left : left + width])
        _, brightest, _, _ = cv2.minMaxLoc(scaled)  # it may have been cut off
    if brightest < MIN_PEAK:
        scaled = cv2.convertScaleAbs(scaled, alpha=255 / brightest)
    tall, wide = scaled.shape
    corner = np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.float32)
    corner[:tall, :wide] = scaled
    total, down, right = MOMENTS.dot(corner.ravel()).tolist()
    y, x = _centre(down / total, IMAGE_SIZE - tall), _centre(right / total, IMAGE_SIZE - wide)
    image = np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    image[y : y + tall, x : x + wide] = scaled
    pixel = max(width, height) / INK_SIZE
    top_of_frame = top + height / 2 - pixel * (y + tall / 2)
    left_of_frame = left + width / 2 - pixel * (x + wide / 2)
    return image, (top_of_frame, left_of_frame, pixel * IMAGE_SIZE)


def _cut_out(found: Ink, top: float, left: float, side: float) -> Image:
    """A square of the page, which may reach beyond it, as (28, 28)."""
    height, width = found.page.shape
    x, y, wide, tall = cv2.boundingRect(found.ink)
    border, paper = cv2.BORDER_REPLICATE, 0.0  # so that no edge appears
    if x == 0 or y == 0 or x + wide == width or y + tall == height:  # strokes would be drawn out
        border = cv2.BORDER_CONSTANT
        paper = cv2.mean(found.page, mask=cv2.inRange(found.ink, (0,), (0,)))[0]
    frame = (IMAGE_SIZE, IMAGE_SIZE)
    if side < IMAGE_SIZE:
        pixel = side / IMAGE_SIZE
        to_page = np.array(
            [[pixel, 0, left + (pixel - 1) / 2], [0, pixel, top + (pixel - 1) / 2]], np.float32
        )
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        image = cv2.warpAffine(
            found.page, to_page, frame, flags=flags, borderMode=border, borderValue=(paper,)
        )
    else:
        first_y, first_x, size = round(top), round(left), round(side)
        cut = found.page[max(0, first_y) : first_y + size, max(0, first_x) : first_x + size]
        above, below = max(0, -first_y), max(0, first_y + size - height)
        before, after = max(0, -first_x), max(0, first_x + size - width)
        cut = cv2.copyMakeBorder(cut, above, below, before, after, border, value=(paper,))
        image = cv2.resize(cut, frame, interpolation=cv2.INTER_AREA)
    low, high, _, _ = cv2.minMaxLoc(image)
    gain = 255 / max(high - low, 1)
    return np.asarray(cv2.convertScaleAbs(image, alpha=gain, beta=-low * gain), np.uint8)


def _scale(crop: MatLike) -> MatLike:
    """Bring the longer side to 20 pixels, and strokes to 255."""
    height, width = crop.shape
    scale = INK_SIZE / max(height, width)
    scaled: MatLike = crop.astype(np.float32)
    if scale > 1:
        scaled = _build_enlargement(height, scale).dot(scaled)
        scaled = scaled.dot(_build_enlargement(width, scale).T)
    else:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        scaled = cv2.resize(scaled, size, interpolation=cv2.INTER_AREA)
    # brightened after averaging, so that a stroke of one pixel on a large page is still ink
    _, brightest, _, _ = cv2.minMaxLoc(scaled)
    gain = SATURATION * 255 / brightest
    image = cv2.addWeighted(scaled, gain, scaled, 0, 0, dtype=cv2.CV_8U)
    if scale > 1:
        left, top, width, height = _find_box(image, 30)
        image = image[top : top + height, left : left + width][:INK_SIZE, :INK_SIZE]
    return image


@lru_cache(maxsize=256)
def _build_enlargement(side: int, scale: float) -> NDArray[np.float32]:
    """Weights of each of `side` pixels: their product takes a quarter of `resize`'s time."""
    # with paper around the ink, into which the edge of a stroke can fade
    padded = np.eye(side + 2, side, -1, np.float32)
    size = side, round((side + 2) * scale)
    return np.asarray(cv2.resize(padded, size, interpolation=cv2.INTER_LANCZOS4), np.float32)


def _find_box(ink: MatLike, threshold: float) -> Sequence[int]:
    """Left, top, width and height of the bounding box of what is brighter."""
    return cv2.boundingRect(cv2.threshold(ink, threshold, 1, cv2.THRESH_BINARY)[1])


def _centre(centre_of_mass: float, largest: int) -> int:
    """The shift, from 0, that brings the centre of mass to the frame's, as far as it goes."""
    return min(max(math.floor(CENTRE + 0.5 - centre_of_mass), 0), largest)
