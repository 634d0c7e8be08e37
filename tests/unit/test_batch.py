"""Two views of a page, how far the ink is trusted, and what is blank."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mnist_ocr.digits.batch import ImageBatch, prepare_images
from mnist_ocr.digits.canonical import canonicalize_page, is_canonical, view_page, view_pages
from mnist_ocr.digits.cleaning import rate_trust
from mnist_ocr.errors import ObjectError


def draw_seven(size: int, ink: int = 255, paper: int = 0, side: float = 0.6) -> np.ndarray:
    """A 7 of `side` of a square page."""
    page = np.full((size, size), paper, np.uint8)
    low, high = (1 - side) / 2 * size, (1 + side) / 2 * size
    points = np.array([(low, low), (high, low), (low + 0.4 * side * size, high)])
    cv2.polylines(page, [np.rint(points).astype(int)], False, ink, max(1, size // 12))
    return page


def add_noise(page: np.ndarray, deviation: float, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, deviation, page.shape)
    return np.clip(page + noise, 0, 255).astype(np.uint8)


def prepare(*pages: np.ndarray) -> ImageBatch:
    return prepare_images(pages, len(pages))


def correlate(first: np.ndarray, second: np.ndarray) -> float:
    """Best correlation of two images over shifts of one pixel."""
    shifts = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    moved = [np.roll(second, shift, (0, 1)).ravel() for shift in shifts]
    return max(float(np.corrcoef(image, first.ravel())[0, 1]) for image in moved)


def test_image_in_mnists_form_has_one_view_and_full_trust() -> None:
    """Both views are the image itself."""
    image = canonicalize_page(draw_seven(60))
    batch = prepare(image, image)
    assert (batch.images == image).all()
    assert (batch.raw == image).all()
    assert (batch.trust == 1).all()


def test_what_cannot_be_read_keeps_its_place() -> None:
    """An error and a blank page are all zeros, without trust's being asked, between good pages."""
    good = draw_seven(60)
    missing = ObjectError("missing", "no such file")
    contents = [good, missing, b"no image", np.full((40, 40), 200, np.uint8), good]
    batch = prepare_images(iter(contents), 5)
    assert batch.status == ["ok", "missing", "not_an_image", "blank", "ok"]
    assert batch.is_ok.tolist() == [True, False, False, False, True]
    assert not batch.images[1:4].any()
    assert not batch.raw[1:4].any()
    assert (batch.images[0] == batch.images[4]).all()
    assert (batch.raw[0] == batch.raw[4]).all()


@pytest.mark.parametrize(("num_bytes", "most"), [(10, 32), (5_000_000, 4), (30_000_000, 1)])
@pytest.mark.parametrize("num_errors", [0, 3])
def test_few_files_are_held_at_once(num_bytes: int, most: int, num_errors: int) -> None:
    """32, or those that make 16 MiB; they are let go of before others are fetched."""
    alive = [0]

    class File(bytes):
        def __init__(self, _: int) -> None:
            alive[0] += 1
            assert alive[0] <= most

        def __del__(self) -> None:
            alive[0] -= 1

    contents = (
        ObjectError("missing", "") if i < num_errors else File(num_bytes) for i in range(80)
    )
    batch = prepare_images(contents, 80)
    assert batch.status == ["missing"] * num_errors + ["not_an_image"] * (80 - num_errors)
    assert alive == [0]


@pytest.mark.parametrize(
    "shape", [(28, 28), (1, 1), (1, 20), (20, 1), (30, 17), (64, 64), (90, 40), (200, 130)]
)
def test_pages_of_a_stack_do_not_touch(shape: tuple[int, int]) -> None:
    """Blank, clean, noisy and dark pages that are viewed together come out as each alone."""
    seven = cv2.resize(draw_seven(100), shape[::-1], interpolation=cv2.INTER_AREA)
    pages = [seven, np.full(shape, 90, np.uint8), 255 - seven]
    pages += [add_noise(seven // 2 + 60, deviation, 1) for deviation in (2, 20)]
    pages += [add_noise(200 - seven // 2, 5, seed) for seed in range(40)]
    for together, page in zip(view_pages(pages), pages, strict=True):
        alone = view_page(page)
        assert (together.canonical == alone.canonical).all()
        assert (together.raw == alone.raw).all()
        assert together.trust == pytest.approx(alone.trust, abs=1e-6)


def test_framed_pages_keep_their_places() -> None:
    """More framed pages than are cleaned at once, among others, each get their own views."""
    noisy = [add_noise(draw_seven(28, 200, 40, 0.5 + i / 200), 5, i) for i in range(70)]
    pages = [page for i, framed in enumerate(noisy) for page in (framed, draw_seven(30 + i))]
    batch = prepare(*pages)
    for i, page in enumerate(pages):
        assert (batch.images[i] == canonicalize_page(page)).all()
        assert (batch.raw[i] == view_page(page).raw).all()


def test_raw_view_of_a_clean_page_is_the_page() -> None:
    """Bright ink on black at full range, merely out of place, is left as it is."""
    page = np.roll(canonicalize_page(draw_seven(60)), 3, 0)
    batch = prepare(page)
    assert (batch.raw[0] == page).all()
    assert (batch.images[0] != page).any()


def test_raw_view_of_a_framed_page_is_the_page() -> None:
    """28x28 pixels stay where they are, with their noise; ink is white, and the range is full."""
    page = add_noise(draw_seven(28, ink=60, paper=200), 12)
    light = 255 - page.astype(float)
    expected = (light - light.min()) / (light.max() - light.min()) * 255
    raw = prepare(page).raw[0]
    assert np.abs(raw - expected).max() <= 1


def test_raw_view_is_the_page_itself_where_nothing_has_to_be_corrected() -> None:
    """Light ink on noise that spans black to white: the noise stays, and so does the page."""
    page = add_noise(draw_seven(28), 60)
    assert (page.min(), page.max()) == (0, 255)
    before = page.copy()
    batch = prepare(page)
    assert (batch.raw[0] == before).all()
    assert (batch.images[0] != before).any()
    assert (page == before).all()


@given(arrays(np.uint8, (28, 28)), st.integers(0, 60), st.floats(0.3, 0.7))
@settings(max_examples=50)
def test_raw_view_does_not_depend_on_brightness(page: np.ndarray, offset: int, gain: float) -> None:
    """The negative, an offset and a gain of a framed page's pixels give its raw view, rounded."""
    noisy = add_noise(draw_seven(28, ink=200, paper=40), 15, int(page.sum()))
    raw = view_page(noisy).raw.astype(int)
    assert np.abs(view_page(255 - noisy).raw - raw).max() <= 1
    changed = np.rint(noisy * gain + offset).astype(np.uint8)
    assert np.abs(view_page(changed).raw - raw).max() <= 1 + 1 / gain


@pytest.mark.parametrize("size", [12, 20, 48, 120, 400])
@pytest.mark.parametrize("side", [0.3, 0.6, 0.95])
def test_raw_view_lies_as_the_canonical_one(size: int, side: float) -> None:
    """On clean paper both views show the same ink in the same place, within a pixel."""
    view = view_page(draw_seven(size, ink=30, paper=220, side=side))
    assert correlate(view.canonical, view.raw) > 0.8


def test_raw_view_is_not_cleaned() -> None:
    """A ruled line leaves the canonical view, and stays in the raw one."""
    page = draw_seven(100, ink=30, paper=220)
    expected = canonicalize_page(page)
    cv2.line(page, (0, 60), (99, 60), 90, 2)
    view = view_page(page)
    assert correlate(view.canonical, expected) > 0.95
    assert view.raw[:, 0].max() > 60


def test_paper_goes_on_beyond_the_page() -> None:
    """A digit near a corner of unevenly lit paper has no false edge in its raw view."""
    page = draw_seven(100, ink=30, paper=220, side=0.4)[25:, 25:]
    page = np.rint(page * np.linspace(0.8, 1, page.shape[1])).astype(np.uint8)
    steps = np.abs(np.diff(view_page(page).raw[:, :3].astype(int), axis=1))
    assert steps.max() <= 12


@given(arrays(np.uint8, st.tuples(st.integers(1, 60), st.integers(1, 60))))
@settings(max_examples=100)
def test_any_page_has_two_views(page: np.ndarray) -> None:
    """Shapes, ranges, and MNIST's form of the canonical view hold whatever is on the page."""
    view = view_page(page)
    assert view.canonical.shape == view.raw.shape == (28, 28)
    assert view.canonical.dtype == view.raw.dtype == np.uint8
    assert 0 <= view.trust <= 1
    if view.canonical.any():
        assert is_canonical(view.canonical[None])[0]
    else:
        assert view.trust == 0


@pytest.mark.parametrize("size", [28, 64])
def test_trust_falls_with_noise(size: int) -> None:
    """The clearer the ink, the more it is trusted; noise alone never makes a digit blank."""
    page = draw_seven(size, ink=220, paper=30)
    batch = prepare(*[add_noise(page, deviation) for deviation in (1, 10, 30, 90)])
    assert batch.is_ok.all()
    assert (np.diff(batch.trust) < 0).all()
    assert batch.trust[0] > 0.8
    assert batch.trust[-1] < 0.3


def test_fog_hides_no_digit() -> None:
    """What has high contrast but is no clearer than its surroundings is doubted, not blank."""
    generator = np.random.default_rng(0)
    pages = []
    for _ in range(20):
        blotches = cv2.resize(
            generator.normal(0, 45, (7, 7)), (28, 28), interpolation=cv2.INTER_CUBIC
        )
        pages.append(np.clip(draw_seven(28, 190, 100) + blotches, 0, 255).astype(np.uint8))
    batch = prepare(*pages)
    assert batch.is_ok.all()
    assert np.median(batch.trust) < 0.4


def test_stray_stroke_lowers_trust() -> None:
    """Ink that reaches the page's edge may be no part of the digit."""
    page = draw_seven(28)
    crossed = page.copy()
    cv2.line(crossed, (0, 20), (20, 0), 255, 1)
    batch = prepare(page, crossed)
    assert batch.trust[1] < 0.7 * batch.trust[0]


positive = st.floats(0, 1e6)


@given(positive, positive, positive, positive, st.booleans())
@settings(max_examples=100)
def test_trust_is_monotone(
    distinctness: float, more: float, grain: float, coarser: float, is_cut: bool
) -> None:
    """More distinct ink, less grain and no contact with the edge never lower trust."""
    trust = rate_trust(distinctness, grain, is_cut)
    assert 0 <= trust <= 1
    assert rate_trust(distinctness + more, grain, is_cut) >= trust
    assert rate_trust(distinctness, grain + coarser, is_cut) <= trust
    assert rate_trust(distinctness, grain, False) >= trust


@pytest.mark.parametrize("size", [28, 64, 200])
@pytest.mark.parametrize("deviation", [1, 4, 10])
def test_rough_paper_is_blank(size: int, deviation: float) -> None:
    """Grain, a slope of light and JPEG on an empty page are no ink."""
    slope = np.linspace(150, 230, size)[:, None].repeat(size, 1)
    page = add_noise(slope, deviation, seed=size)
    compressed = cv2.imdecode(cv2.imencode(".jpg", page, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], 0)
    assert prepare(page, compressed).status == ["blank", "blank"]


@pytest.mark.parametrize("size", [48, 130, 250])
@pytest.mark.parametrize("inset", [0, 3])
def test_empty_box_is_blank(size: int, inset: int) -> None:
    """What grain leaves of a box's borders is no digit."""
    page = np.full((size, size), 210, np.uint8)
    cv2.rectangle(page, (inset, inset), (size - 1 - inset, size - 1 - inset), 90, size // 48)
    assert prepare(*[add_noise(page, 4, seed) for seed in range(5)]).status == ["blank"] * 5


def test_line_through_a_broad_stroke_is_removed() -> None:
    """A ruled line is told by its own thickness, not by that of the strokes it runs into."""
    page = np.full((120, 120), 210, np.uint8)
    cv2.ellipse(page, (60, 60), (30, 34), 0, 0, 360, 50, 16)
    clean = canonicalize_page(page)
    for y in (22, 62, 102):
        cv2.line(page, (0, y), (119, y), 90, 2)
    assert correlate(canonicalize_page(page), clean) > 0.9


@pytest.mark.parametrize("width", [200, 400, 600])
def test_digit_in_a_long_strip_is_found(width: int) -> None:
    """Ink that is small beside the strip's length, not beside its height, is no speck."""
    strip = np.full((30, width), 220, np.uint8)
    strip[:, 60:90] = draw_seven(30, ink=30, paper=220)
    batch = prepare(add_noise(strip, 2))
    assert batch.status == ["ok"]
    alone = prepare(add_noise(draw_seven(60, ink=30, paper=220), 2))
    assert correlate(batch.images[0], alone.images[0]) > 0.7
