"""Pages that users have: phone photos of digits, letters, blank paper, specks."""

import cv2
import numpy as np
from numpy.typing import NDArray

Page = NDArray[np.uint8]


def photograph(digit: Page, rng: np.random.Generator, size: int = 160) -> bytes:
    """A (28, 28) digit written on paper and photographed: perspective, shadow, grain, JPEG."""
    ink = cv2.resize(digit, (size, size), interpolation=cv2.INTER_CUBIC).astype(np.float32) / 255
    ink = cv2.GaussianBlur(1 / (1 + np.exp(-(ink - 0.5) * 12)), (0, 0), 1)
    corners = np.array([[0, 0], [size, 0], [size, size], [0, size]], np.float32)
    moved = corners + rng.uniform(-0.06, 0.06, (4, 2)).astype(np.float32) * size
    tilt = cv2.getPerspectiveTransform(corners, moved)
    ink = cv2.warpPerspective(ink - ink.min(), tilt, (size, size))
    return _photograph(_light(rng, size) * (1 - 0.65 * ink), rng)


def draw_blank(rng: np.random.Generator, size: int = 160) -> bytes:
    """The same paper without anything on it."""
    return _photograph(_light(rng, size), rng)


def draw_specks(rng: np.random.Generator, size: int = 160) -> bytes:
    """The same paper with a few dots of dust."""
    page = _light(rng, size)
    for _ in range(4):
        x, y = rng.integers(10, size - 10, 2).tolist()
        cv2.circle(page, (x, y), 1, 60.0, -1)
    return _photograph(page, rng)


def draw_letter(letter: str) -> bytes:
    """A printed letter, 48 x 48 pixels."""
    page = np.full((48, 48), 245, np.uint8)
    cv2.putText(page, letter, (10, 36), cv2.FONT_HERSHEY_COMPLEX, 1.1, 20, 2, cv2.LINE_AA)
    return cv2.imencode(".png", page)[1].tobytes()


def _light(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """Paper that gets darker to one side, with the soft edge of a shadow."""
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    edge = x * rng.uniform(0.5, 1) + y * rng.uniform(-0.5, 0.5) - rng.uniform(0.2, 0.6)
    shadow = 1 - 0.25 / (1 + np.exp(-edge * 12))
    return np.asarray(225 * shadow * (1 - 0.15 * y), np.float32)


def _photograph(page: NDArray[np.float32], rng: np.random.Generator) -> bytes:
    grainy = np.clip(page + rng.normal(0, 3, page.shape), 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", grainy)[1].tobytes()
