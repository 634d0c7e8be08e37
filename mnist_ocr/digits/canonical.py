"""Grey page -> (28, 28) in MNIST geometry: white ink on black. The only place of pixel conventions.

A page of exactly 28x28 is taken for a digit already in MNIST's frame and goes straight in. Any
other is cropped to its ink, scaled to 20x20 with its aspect kept, and placed so that its centre of
mass is that of the frame: MNIST's own recipe (LeCun et al. 1998; reconstructed in QMNIST, Yadav and
Bottou 2019). Dark ink on light paper is inverted at any size.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

IMAGE_SIZE = 28
"""Side of an MNIST image, in pixels."""

INK_SIZE = 20
"""Longer side of a digit's ink in an MNIST image, in pixels."""

CENTRE = 14
"""Row and column (from 0) of the pixel that holds the centre of mass of an MNIST image's ink."""

MIN_CONTRAST = 8
"""Grey levels between the darkest and the lightest pixel below which a page is blank: what is left
of 8-bit paper after sensor noise and JPEG, and less than any legible stroke."""

PREPROCESSING_VERSION = 1
"""Raised with every change of what this module, or decoding, returns for some input."""

Image = NDArray[np.uint8]


def canonicalize_page(page: Image) -> Image:
    """A grey page of any size as an MNIST image.

    Args:
        page: (H, W) uint8, H and W at least 1.

    Returns:
        (28, 28) uint8, white ink on black; a blank page gives a constant image.
    """
    image: Image = normalize_polarity(fit_page(page)[None].copy())[0]
    return image


def normalize_polarity(images: Image) -> Image:
    """Invert, in place, the images whose border is nearer to their lightest than darkest pixel.

    Args:
        images: (N, H, W) uint8, writeable.

    Returns:
        The same array: white ink on black.
    """
    # in uint16 since the sum of two bytes does not fit a byte
    extremes = images.min((1, 2)).astype(np.uint16) + images.max((1, 2))
    border = np.concatenate(
        [images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], axis=1
    )
    light = border.mean(1) * 2 > extremes
    if light.any():
        images[light] = 255 - images[light]
    return images


def is_blank(images: Image) -> NDArray[np.bool_]:
    """Which of (N, H, W) uint8 images hold nothing: (N,) bool."""
    return np.asarray(images.max((1, 2)) - images.min((1, 2)) < MIN_CONTRAST)


def fit_page(page: Image) -> Image:
    """A grey page of any size in MNIST's frame; one of 28x28 as it is, whatever its polarity.

    Args:
        page: (H, W) uint8, H and W at least 1.

    Returns:
        (28, 28) uint8; all zeros for a blank page.
    """
    if page.shape == (IMAGE_SIZE, IMAGE_SIZE):
        return page
    ink = normalize_polarity(page[None].copy())[0]
    if is_blank(ink[None])[0]:
        return np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    _, mask = cv2.threshold(ink, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    left, top, width, height = cv2.boundingRect(mask)
    scale = INK_SIZE / max(width, height)
    crop = ink[top : top + height, left : left + width].astype(np.float32) - ink.min()
    crop = cv2.resize(
        crop,
        (max(1, round(width * scale)), max(1, round(height * scale))),
        interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR,
    )
    # brightened after averaging, so that a stroke of one pixel on a large page is still ink
    return _centre_mass(np.rint(crop * (255 / crop.max())).astype(np.uint8))


def _centre_mass(crop: Image) -> Image:
    """Place ink of at most 20x20 by the integer shift that puts its centre of mass in pixel 14."""
    height, width = crop.shape
    moments = cv2.moments(crop)
    top = _clip(round(CENTRE - moments["m01"] / moments["m00"]), IMAGE_SIZE - height)
    left = _clip(round(CENTRE - moments["m10"] / moments["m00"]), IMAGE_SIZE - width)
    image = np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    image[top : top + height, left : left + width] = crop
    return image


def _clip(offset: int, largest: int) -> int:
    return min(max(offset, 0), largest)
