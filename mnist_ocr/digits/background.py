"""Paper, whatever light falls on it: is its ink darker, and how bright is the page without ink.

Both are judged at `cleaning.COARSE_SIZE`. Shapes: (c, d) coarse page, (h, w) the page to be freed;
N pages of one shape: (N, c, d), (N, h, w).
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray

BORDER_WEIGHT = 1.5
"""Weight of the border's brightness beside the skewness of all pixels, in telling polarity."""

STROKE_SHARE = 0.4
"""Width of what is opened, over the page's longer side: broader than strokes."""

MAX_CLEAN_GRAIN = 0.2
"""Mean difference of a pixel from the mean around it, over that of all pixels, times the share of
ink: above are noisy pages whose noise is cut off at 0, below are crowded crops."""

Floats = NDArray[np.float32]


def is_ink_dark(coarse: MatLike) -> bool:
    """Whether the ink on (c, d) uint8 is darker than its paper.

    Paper is what most pixels are, and most of the border: deviations from the plane of least
    squares (light falls off) are skewed towards the ink, and the border lies opposite.
    """
    planes, _, border = _build_planes(*coarse.shape)
    values = coarse.ravel().astype(np.float32)
    flat = values - planes.dot(values).dot(planes)
    low, high, _, _ = cv2.minMaxLoc(flat)
    if high - low < 1:
        return False
    skewness = float((flat * flat).dot(flat)) * flat.size**0.5 / float(flat.dot(flat)) ** 1.5
    return bool(
        skewness < BORDER_WEIGHT * (2 * float(border.dot(flat)) - low - high) / (high - low)
    )


@lru_cache(maxsize=128)
def _build_planes(height: int, width: int) -> tuple[Floats, Floats, Floats]:
    """What is alike for all pages of a shape.

    Returns:
        (3, c * d) orthonormal planes: level, rising to the bottom, to the right; (2, c, d) the
        same two by 1 from edge to edge; (c * d,) weights of the mean of the border.
    """
    y, x = ((np.arange(n, dtype=np.float32) + 0.5) / n - 0.5 for n in (height, width))
    ones = np.ones((height, width), np.float32)
    slopes = np.stack([ones * y[:, None], ones * x]).astype(np.float32)
    planes = np.stack([ones, *slopes]).reshape(3, -1)
    norms = np.sqrt((planes**2).sum(1, keepdims=True))
    border = ones.copy()
    border[1:-1, 1:-1] = 0
    return planes / np.maximum(norms, 1e-6), slopes, border.ravel() / border.sum()


def is_paper_clean(work: MatLike) -> bool:
    """Whether paper is exactly 0, so that even the faintest pixel is ink: as in MNIST."""
    num_ink = cv2.countNonZero(work)
    if num_ink >= 0.85 * work.size:
        return False
    num_faint = num_ink - cv2.countNonZero(cv2.threshold(work, 38, 1, cv2.THRESH_BINARY)[1])
    if num_faint >= 0.2 * work.size:
        return False
    share = num_ink / work.size
    if share < 0.3:
        return True
    # noise that is cut off at 0 leaves half of the paper clean
    rough = cv2.norm(work, cv2.GaussianBlur(work, (3, 3), 0), cv2.NORM_L1)
    return rough * share < MAX_CLEAN_GRAIN * cv2.norm(work, cv2.NORM_L1)


def subtract_background(
    works: Sequence[MatLike], coarse: Sequence[MatLike]
) -> list[tuple[MatLike, MatLike, float]]:
    """Make paper 0, of all pages at once: on small ones calls take more time than pixels do.

    Args:
        works: N pages of one shape (h, w), uint8, ink brighter than paper; N is at most 128.
        coarse: The same pages as (c, d) uint8.

    Returns:
        For each page its (h, w) uint8 ink, the same smoothed, the paper's standard deviation.
    """
    if not works:
        return []
    given, shrunk = np.array(works, np.uint8), np.array(coarse, np.float32)
    plane = _fit_tilt(shrunk)
    flat = shrunk - plane
    square = np.ones((int(STROKE_SHARE * max(flat.shape[1:])) | 1,) * 2, np.uint8)
    # what is bright and narrower than the square is taken off
    opened = _filter(flat, lambda image: cv2.morphologyEx(image, cv2.MORPH_OPEN, square))
    opened = _cap_by_border(opened)
    above = flat - opened
    paper = _find_paper(above)
    num_paper = paper.sum(1)
    # opening gives the darkest paper around; its mean is what has to go
    offset = np.einsum("ij,ij->i", above.reshape(paper.shape), paper) / num_paper
    light = opened + plane + offset[:, None, None].astype(np.float32)
    background = _to_bytes(_resize(light, given.shape, cv2.INTER_LINEAR))
    common = np.minimum(given, background)
    rest = _resize(np.maximum(given, background) - common, flat.shape, cv2.INTER_NEAREST)
    rest = np.maximum(rest.reshape(paper.shape), 255 * (~paper).view(np.uint8))
    rest.sort(kind="stable")  # bytes are sorted by radix: a third of the time of a partition
    medians = [float(page[num // 2]) for page, num in zip(rest, num_paper.tolist(), strict=True)]
    inks = given - common
    smooth = _filter(inks, lambda image: cv2.GaussianBlur(image, (3, 3), 0))
    return list(zip(inks, smooth, [1.48 * median for median in medians], strict=True))


def _filter(pages: MatLike, function: Callable[[MatLike], MatLike]) -> MatLike:
    """Filter (N, h, w) as the channels of one image."""
    image = np.ascontiguousarray(pages.transpose(1, 2, 0))
    return np.ascontiguousarray(function(image).reshape(image.shape).transpose(2, 0, 1))


def _fit_tilt(coarse: Floats) -> Floats:
    """The (N, c, d) planes, 0 on average, by which light falls off.

    Medians, so that neither ink nor the edge of a shadow counts.
    """
    _, height, width = coarse.shape
    lag_y, lag_x = min(4, height - 1), min(4, width - 1)
    down = _median(coarse[:, lag_y:] - coarse[:, : height - lag_y]) * (height / max(lag_y, 1))
    right = _median(coarse[:, :, lag_x:] - coarse[:, :, : width - lag_x]) * (width / max(lag_x, 1))
    _, (rising_down, rising_right), _ = _build_planes(height, width)
    return np.asarray(down[:, None, None] * rising_down + right[:, None, None] * rising_right)


def _median(values: MatLike) -> MatLike:
    """The upper median of each page. A fifth of the time that `np.median` takes."""
    flat = values.reshape(len(values), -1)
    middle = flat.shape[1] // 2
    flat.partition(middle)
    return flat[:, middle]


def _cap_by_border(opened: MatLike) -> MatLike:
    """Lower what is bright only in the middle of the page: broad ink. Light reaches the border."""
    columns = np.maximum(opened[:, 0], opened[:, -1])
    rows = np.maximum(opened[:, :, 0], opened[:, :, -1])
    return np.minimum(opened, np.maximum(rows[:, :, None], columns[:, None]))


def _find_paper(above: MatLike) -> NDArray[np.bool_]:
    """Where there is no ink, given what is brighter than the darkest paper around: (N, c * d)."""
    ink = _to_bytes(above)
    otsu = [cv2.threshold(page, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[0] for page in ink]
    limits = np.array([[int(0.7 * threshold)] for threshold in otsu], np.uint8)
    return np.asarray(ink.reshape(len(ink), -1) <= limits)


def _to_bytes(values: MatLike) -> MatLike:
    """Rounded, cut off at 0 and 255."""
    flat = values.reshape(len(values), -1)
    return cv2.addWeighted(flat, 1, flat, 0, 0, dtype=cv2.CV_8U).reshape(values.shape)


def _resize(pages: MatLike, shape: tuple[int, ...], interpolation: int) -> MatLike:
    if pages.shape == shape:
        return pages
    size = shape[2], shape[1]
    return np.array([cv2.resize(page, size, interpolation=interpolation) for page in pages])
