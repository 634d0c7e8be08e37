"""Grey page -> (28, 28) in MNIST geometry: white ink on black. The only place of pixel conventions.

MNIST's own recipe (LeCun et al. 1998; reconstructed in QMNIST, Yadav and Bottou 2019): the ink's
bounding box is scaled to 20x20 with its aspect kept, averaging areas, then shifted by whole pixels
so that its centre of mass lies in pixel 14. An image that is so already comes back as it is; on any
other the ink is first told from the paper (`cleaning`).
"""

import math

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray

from mnist_ocr.digits.cleaning import extract_ink

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

PREPROCESSING_VERSION = 2
"""Raised with every change of what this module, `cleaning` or decoding returns for some input."""

Image = NDArray[np.uint8]


def canonicalize_page(page: Image) -> Image:
    """A grey page of any size as an MNIST image.

    Args:
        page: (H, W) uint8, H and W at least 1.

    Returns:
        (28, 28) uint8, white ink on black, brightest pixel 255; all zeros for a blank page.
    """
    if page.shape == (IMAGE_SIZE, IMAGE_SIZE) and is_canonical(page[None])[0]:
        return page
    return redraw_page(page)


def redraw_page(page: Image) -> Image:
    """`canonicalize_page` for a page that `is_canonical` has turned down."""
    ink = extract_ink(page)
    return np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.uint8) if ink is None else fit_ink(ink)


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


def fit_ink(ink: Image) -> Image:
    """Scale and place ink as MNIST does.

    Args:
        ink: (H, W) uint8, paper 0; H and W at least 1.

    Returns:
        (28, 28) uint8; all zeros where there is none.
    """
    image = np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    brightest = int(ink.max())
    if brightest == 0:
        return image
    crop = _crop(ink, 0)
    if not INK_SIZE - 1 <= max(crop.shape) <= INK_SIZE:
        crop = _scale(_crop(crop, MIN_INK * brightest // 255))
    peak = int(crop.max())
    scaled = crop if peak >= MIN_PEAK else cv2.convertScaleAbs(crop, alpha=255 / peak)
    height, width = scaled.shape
    moments = cv2.moments(scaled)
    top = _clip(_shift(moments["m01"] / moments["m00"]), IMAGE_SIZE - height)
    left = _clip(_shift(moments["m10"] / moments["m00"]), IMAGE_SIZE - width)
    image[top : top + height, left : left + width] = scaled
    return image


def _scale(crop: MatLike) -> MatLike:
    """Bring the longer side to 20 pixels, and strokes to 255."""
    height, width = crop.shape
    scale = INK_SIZE / max(height, width)
    scaled: MatLike = crop.astype(np.float32)
    if scale > 1:
        # with paper around it, into which the edge of a stroke can fade
        scaled = cv2.copyMakeBorder(scaled, 1, 1, 1, 1, cv2.BORDER_CONSTANT)
        height, width = height + 2, width + 2
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    interpolation = cv2.INTER_LANCZOS4 if scale > 1 else cv2.INTER_AREA
    scaled = np.maximum(cv2.resize(scaled, size, interpolation=interpolation), 0)
    # brightened after averaging, so that a stroke of one pixel on a large page is still ink
    image = cv2.convertScaleAbs(scaled, alpha=SATURATION * 255 / float(scaled.max()))
    return _crop(image, 30)[:INK_SIZE, :INK_SIZE] if scale > 1 else image


def _crop(ink: MatLike, threshold: float) -> MatLike:
    """The bounding box of what is brighter."""
    _, mask = cv2.threshold(ink, threshold, 1, cv2.THRESH_BINARY)
    left, top, width, height = cv2.boundingRect(mask)
    return ink[top : top + height, left : left + width]


def _shift(centre_of_mass: float) -> int:
    return math.floor(CENTRE + 0.5 - centre_of_mass)


def _clip(offset: int, largest: int) -> int:
    return min(max(offset, 0), largest)
