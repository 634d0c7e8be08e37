"""MNIST's geometry, and the ink on any page."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mnist_ocr.digits.batch import prepare_images
from mnist_ocr.digits.canonical import CENTRE, INK_SIZE, canonicalize_page, is_canonical
from mnist_ocr.training.mnist import read_mnist

SHAPES = {  # strokes in a box of 1x1, as a person draws them
    "0": [[(0.5, 0), (0.9, 0.3), (0.9, 0.7), (0.5, 1), (0.1, 0.7), (0.1, 0.3), (0.5, 0)]],
    "1": [[(0.5, 0), (0.5, 1)]],
    "1 with a foot": [[(0.2, 0.3), (0.5, 0), (0.5, 1)], [(0, 1), (1, 1)]],
    "2": [[(0, 0.2), (0.5, 0), (1, 0.3), (0, 1), (1, 1)]],
    "4": [[(0.7, 1), (0.7, 0), (0, 0.7), (1, 0.7)]],
    "5": [[(1, 0), (0, 0)], [(0, 0), (0, 0.45), (0.8, 0.5), (0.9, 0.8), (0.5, 1), (0, 0.9)]],
    "7": [[(0, 0), (1, 0), (0.4, 1)]],
}


def draw(name: str, size: int = 60, thickness: int = 5, margin: int = 20) -> np.ndarray:
    """A digit, white on black, in a box of (size, 3/4 size) with a margin around its strokes."""
    box, edge = np.array([0.75 * size, size]), margin + thickness // 2
    page = np.zeros((size + 2 * edge + 1, int(0.75 * size) + 2 * edge + 1), np.uint8)
    for stroke in SHAPES[name]:
        points = np.rint(np.array(stroke) * box + edge).astype(int)
        cv2.polylines(page, [points], isClosed=False, color=255, thickness=thickness)
    return page


def lay_on_paper(page: np.ndarray, seed: int, contrast: float = 120.0) -> np.ndarray:
    """Dark ink on light paper, with uneven light and grain."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[: page.shape[0], : page.shape[1]] / max(page.shape)
    light = 1 - 0.4 * (generator.random() * y + generator.random() * x)
    paper = (225 - contrast * (page / 255)) * light
    return np.clip(paper + generator.normal(0, 2, page.shape), 0, 255).astype(np.uint8)


def correlate(first: np.ndarray, second: np.ndarray) -> float:
    """Best correlation of two images over shifts of one pixel."""
    shifts = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return max(
        float(np.corrcoef(np.roll(second, shift, (0, 1)).ravel(), first.ravel())[0, 1])
        for shift in shifts
    )


def ink_box(image: np.ndarray) -> tuple[int, int]:
    rows, columns = np.nonzero(image > 127)
    return rows.max() - rows.min() + 1, columns.max() - columns.min() + 1


names = st.sampled_from(list(SHAPES))
drawings = st.builds(draw, names, st.integers(30, 100), st.integers(3, 8), st.integers(8, 30))
pages = st.builds(
    lay_on_paper, drawings, st.integers(0, 2**32 - 1), st.floats(60, 180, allow_nan=False)
)
sizes = st.one_of(st.integers(1, 40), st.integers(1, 2000))


def test_mnist_passes_unchanged(test_data: Path) -> None:
    """All 70,000 images of MNIST are in MNIST's geometry, and come back as the same bits."""
    mnist = read_mnist(str(test_data / "mnist"))
    images = np.concatenate([mnist.images, mnist.test_images])
    assert is_canonical(images).all()
    batch = prepare_images(list(images[-1000:]), 1000)
    assert (batch.images == images[-1000:]).all()
    assert batch.is_ok.all()


def test_moved_mnist_comes_back(test_data: Path) -> None:
    """Turned to dark on light and moved, MNIST's images come back (97 in 100, but for rounding)."""
    images = read_mnist(str(test_data / "mnist")).images[:300]
    moved = [canonicalize_page(255 - np.pad(image, ((3, 20), (11, 2)))) for image in images]
    difference = np.abs(np.stack(moved).astype(int) - images).max((1, 2))
    assert (difference <= 1).mean() >= 0.97


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("size", [12, 40, 200, 900])
def test_ink_fills_mnists_box_and_is_centred(name: str, size: int) -> None:
    """Longer side of the ink 20 pixels, aspect kept, centre of mass in pixel 14."""
    page = draw(name, size, thickness=max(1, size // 10), margin=size // 3)
    image = canonicalize_page(page)
    height, width = ink_box(image)
    assert INK_SIZE - 2 <= max(height, width) <= INK_SIZE
    before_height, before_width = ink_box(page)
    assert width == pytest.approx(height * before_width / before_height, abs=2)
    moments = cv2.moments(image)
    assert abs(moments["m10"] / moments["m00"] - CENTRE) <= 0.52
    assert abs(moments["m01"] / moments["m00"] - CENTRE) <= 0.52
    assert is_canonical(image[None]).all()


@given(arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40))))
@settings(max_examples=100)
def test_any_array_gives_an_image_once_and_for_all(page: np.ndarray) -> None:
    """No content raises; the image of an image is itself."""
    before = page.copy()
    image = canonicalize_page(page)
    assert image.shape == (28, 28)
    assert image.dtype == np.uint8
    assert (page == before).all()
    assert (canonicalize_page(image) == image).all()


@given(sizes, sizes, st.integers(0, 2**32 - 1))
@settings(max_examples=30)
@example(1, 100_000, 0)
@example(2000, 2000, 0)
def test_any_size_gives_an_image(height: int, width: int, seed: int) -> None:
    """No size raises, whether the page holds noise, dust or a step of light."""
    generator = np.random.default_rng(seed)
    noise = generator.integers(0, 256, (height, width), np.uint8)
    dust = np.where(generator.random((height, width)) < 0.001, 0, 255).astype(np.uint8)
    step = np.repeat(np.linspace(40, 220, height).astype(np.uint8)[:, None], width, 1)
    for page in (noise, dust, step):
        assert canonicalize_page(page).shape == (28, 28)


def draw_column(*ink: tuple[int, int]) -> np.ndarray:
    page = np.zeros((17, 2), np.uint8)
    page[tuple(zip(*ink, strict=True))] = 255
    return page


@given(pages)
@settings(max_examples=60)
# enlarged, it is longer than 20 pixels, and its brightest pixel lies beyond
@example(draw_column((2, 1), (9, 1), (12, 0), (12, 1)))
def test_page_is_done_once(page: np.ndarray) -> None:
    """Idempotent: the image of a page is its own image, to the bit."""
    image = canonicalize_page(page)
    assert is_canonical(image[None]).all()
    assert (canonicalize_page(image) == image).all()


@given(pages)
@settings(max_examples=60)
def test_polarity_does_not_matter(page: np.ndarray) -> None:
    """The negative of ink on lit, grainy paper gives the same image, but for rounding."""
    assert correlate(canonicalize_page(255 - page), canonicalize_page(page)) > 0.99


@given(drawings, st.integers(0, 2**32 - 1), st.integers(0, 40), st.floats(0.4, 1))
@settings(max_examples=60)
def test_brightness_does_not_matter(
    drawing: np.ndarray, seed: int, offset: int, gain: float
) -> None:
    """Nor do an offset and a gain of all its pixels."""
    page = lay_on_paper(drawing, seed, 100)
    changed = np.rint(page * gain * 0.8 + offset).astype(np.uint8)
    assert correlate(canonicalize_page(changed), canonicalize_page(page)) > 0.9


@given(drawings, *[st.integers(0, 25)] * 4)
@settings(max_examples=60)
def test_place_and_padding_do_not_matter(
    drawing: np.ndarray, top: int, bottom: int, left: int, right: int
) -> None:
    """Clean ink, moved or with more paper, gives the same bits while the page is not shrunk."""
    padded = np.pad(drawing, ((top, bottom), (left, right)))
    first, second = canonicalize_page(drawing), canonicalize_page(padded)
    if max(padded.shape) <= 128:
        assert (first == second).all()
    assert correlate(first, second) > 0.6


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("move", [np.flipud, np.fliplr, np.rot90, np.transpose])
def test_what_makes_another_digit_is_left(
    name: str, move: Callable[[np.ndarray], np.ndarray]
) -> None:
    """A page turned or mirrored gives the image turned or mirrored: a 6 never becomes a 9."""
    page = lay_on_paper(draw(name, 60, 6), seed=0)
    assert correlate(canonicalize_page(move(page)), move(canonicalize_page(page))) > 0.9


@given(st.floats(-0.6, 0.6))
@settings(max_examples=20)
def test_slant_is_left(slant: float) -> None:
    """A leaning stroke leans as much as before: a 1 and a 7 differ in little else."""
    page = np.zeros((120, 120), np.uint8)
    half = round(40 * slant)
    cv2.line(page, (60 - half, 20), (60 + half, 100), 255, 6)
    height, width = ink_box(canonicalize_page(page))
    before_height, before_width = ink_box(page)
    assert width / height == pytest.approx(before_width / before_height, abs=0.1)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("thickness", [2, 5, 9])
def test_tight_crop_loses_no_stroke(name: str, thickness: int) -> None:
    """A bar or stem from edge to edge is the digit's where the crop is tight, not a ruled line."""
    page = draw(name, 60, thickness, margin=25)
    loose = canonicalize_page(page)
    rows, columns = np.nonzero(page)
    tight = page[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    if name == "1":  # ink alone, without paper, is no digit
        tight = np.pad(tight, 1)
    assert correlate(canonicalize_page(tight), loose) > 0.9
    assert correlate(canonicalize_page(255 - tight), loose) > 0.9


@pytest.mark.parametrize("name", SHAPES)
def test_ruled_lines_boxes_and_specks_are_no_ink(name: str) -> None:
    """What else is on a form does not reach the image."""
    drawing = draw(name, 60, 6, margin=30)
    height, width = drawing.shape
    expected = canonicalize_page(drawing)
    ruled, boxed, dusty = drawing.copy(), drawing.copy(), drawing.copy()
    for y in (12, 55, height - 12):
        cv2.line(ruled, (0, y), (width, y + 2), 150, 2)
    cv2.rectangle(boxed, (3, 3), (width - 4, height - 4), 200, 2)
    for x in range(10, width, 25):
        cv2.circle(dusty, (x, 8), 1, 255, -1)
    for page in (ruled, boxed, dusty):
        assert correlate(canonicalize_page(lay_on_paper(page, seed=0)), expected) > 0.8


def test_shadow_is_no_ink() -> None:
    """The edge of a shadow across the page leaves the digit alone."""
    drawing = draw("5", 80, 8, margin=25)
    page = lay_on_paper(drawing, seed=0).astype(float)
    page[:, : page.shape[1] // 2] *= 0.6
    page = cv2.GaussianBlur(page, (5, 5), 0).astype(np.uint8)
    assert correlate(canonicalize_page(page), canonicalize_page(drawing)) > 0.85


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (28, 28), (64, 64), (600, 300)])
def test_blank_page_is_blank(shape: tuple[int, int]) -> None:
    """Paper of any brightness, its grain and the light on it are no digit."""
    pages = [np.full(shape, brightness, np.uint8) for brightness in (0, 128, 255)]
    pages.append(lay_on_paper(np.zeros(shape, np.uint8), seed=0))
    batch = prepare_images(pages, len(pages))
    assert batch.status == ["blank"] * len(pages)
    assert not batch.images.any()


def test_empty_form_is_blank() -> None:
    """Ruled lines and a box without a digit are no ink either; an upright alone may be a 1."""
    ruled, boxed, upright = (np.zeros((100, 100), np.uint8) for _ in range(3))
    for y in (20, 60):
        cv2.line(ruled, (0, y), (99, y), 200, 2)
    cv2.rectangle(boxed, (3, 3), (96, 96), 200, 2)
    cv2.line(upright, (50, 0), (50, 99), 200, 3)
    for page, is_blank in ((ruled, True), (boxed, True), (upright, False)):
        assert canonicalize_page(page).any() != is_blank
        assert canonicalize_page(lay_on_paper(page, seed=0)).any() != is_blank


def test_thin_stroke_on_a_large_page_is_ink() -> None:
    """What area averaging makes faint is brightened again, as in MNIST."""
    page = np.full((1000, 1000), 255, np.uint8)
    cv2.ellipse(page, (500, 500), (300, 400), 0, 0, 360, 0, 2)
    assert canonicalize_page(page).max() == 255


def test_small_digit_on_a_large_page_is_sharp() -> None:
    """The digit is cut out at the page's own resolution."""
    drawing = draw("4", 60, 6, margin=20)
    page = lay_on_paper(np.pad(drawing, ((300, 100), (50, 500))), seed=0)
    assert correlate(canonicalize_page(page), canonicalize_page(drawing)) > 0.95
