"""MNIST's geometry."""

import cv2
import numpy as np
import pytest

from mnist_ocr.digits.canonical import (
    CENTRE,
    INK_SIZE,
    canonicalize_page,
    is_blank,
    normalize_polarity,
)


def draw_seven(height: int, width: int, thickness: int = 3) -> np.ndarray:
    """A seven, white on black, that leaves a margin."""
    page = np.zeros((height, width), np.uint8)
    corners = [
        (width // 4, height // 4),
        (3 * width // 4, height // 4),
        (width // 2, 3 * height // 4),
    ]
    cv2.polylines(page, [np.array(corners)], isClosed=False, color=255, thickness=thickness)
    return page


def ink_box(image: np.ndarray) -> tuple[int, int]:
    rows, columns = np.nonzero(image > 127)
    return rows.max() - rows.min() + 1, columns.max() - columns.min() + 1


@pytest.mark.parametrize("shape", [(8, 8), (60, 40), (30, 200), (500, 300)])
def test_ink_fills_mnists_box_and_is_centred(shape: tuple[int, int]) -> None:
    """Longer side of the ink 20 pixels, aspect kept, centre of mass in pixel 14."""
    page = draw_seven(*shape, thickness=max(1, min(shape) // 12))
    image = canonicalize_page(page)
    assert image.shape == (28, 28)
    height, width = ink_box(image)
    assert INK_SIZE - 2 <= max(height, width) <= INK_SIZE
    before_height, before_width = ink_box(page)
    assert height == pytest.approx(width * before_height / before_width, abs=2)
    moments = cv2.moments(image)
    assert abs(moments["m10"] / moments["m00"] - CENTRE) <= 0.5
    assert abs(moments["m01"] / moments["m00"] - CENTRE) <= 0.5


def test_image_of_mnists_size_goes_straight_in() -> None:
    """28x28 is taken as it is, wherever its ink lies."""
    page = np.zeros((28, 28), np.uint8)
    page[2:6, 3:20] = 200
    assert (canonicalize_page(page) == page).all()


@pytest.mark.parametrize("shape", [(28, 28), (90, 60)])
def test_dark_ink_on_light_paper_is_the_same_digit(shape: tuple[int, int]) -> None:
    """Polarity and brightness of the paper do not matter; the page given is not changed."""
    page = draw_seven(*shape)
    negative = 255 - page
    before = negative.copy()
    assert (canonicalize_page(negative) == canonicalize_page(page)).all()
    assert (negative == before).all()
    faint = (200 - page * 0.3).astype(np.uint8)
    assert ink_box(canonicalize_page(faint)) == ink_box(canonicalize_page(page)) or shape == (
        28,
        28,
    )


def test_polarity_is_judged_image_by_image() -> None:
    """A batch may mix both."""
    page = draw_seven(28, 28)
    images = normalize_polarity(np.stack([page, 255 - page]))
    assert (images[0] == images[1]).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (28, 28), (64, 64)])
def test_blank_page_stays_blank(shape: tuple[int, int]) -> None:
    """Paper without ink, of any brightness and size, is no digit."""
    for brightness in (0, 128, 255):
        assert is_blank(canonicalize_page(np.full(shape, brightness, np.uint8))[None])[0]


def test_thin_stroke_on_a_large_page_is_ink() -> None:
    """What area averaging makes faint is brightened again, as in MNIST."""
    page = np.full((1000, 1000), 255, np.uint8)
    cv2.ellipse(page, (500, 500), (300, 400), 0, 0, 360, 0, 2)
    assert canonicalize_page(page).max() == 255


@pytest.mark.parametrize("shape", [(600, 600), (1000, 30), (1, 100_000)])
def test_page_with_two_specks_is_no_error(shape: tuple[int, int]) -> None:
    """A fax of nothing but dust."""
    page = np.full(shape, 255, np.uint8)
    page[0, 1] = page[-1, -2] = 0
    assert canonicalize_page(page).shape == (28, 28)


def test_any_page_gives_an_image() -> None:
    """No size or content raises."""
    generator = np.random.default_rng(0)
    for _ in range(200):
        height, width = generator.integers(1, 80, 2)
        page = generator.integers(0, 256, (height, width), np.uint8)
        assert canonicalize_page(page).shape == (28, 28)
