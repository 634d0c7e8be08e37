"""What the pictures show, read from the artists of their figures, and that they are drawn."""

import itertools

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from mnist_ocr.training.confidence_plots import plot_reliability, plot_risk_coverage
from mnist_ocr.training.digit_grids import (
    MAX_ERRORS,
    plot_errors,
    plot_predictions,
    plot_samples,
    rank_errors,
)
from mnist_ocr.training.metrics import EpochMetrics
from mnist_ocr.training.plots import (
    MAX_TICKS,
    PAGE_WIDTH,
    _round_numbers,
    plot_confusion,
    plot_curves,
    render_png,
)

LONG_NAME = "s3://bucket/" + "a-folder-of-scans-" * 30 + "$1$ \N{CJK UNIFIED IDEOGRAPH-6570}\nend"
LABELS = np.arange(400, dtype=np.int64) % 10
IMAGES = np.random.default_rng(0).integers(0, 256, (400, 28, 28), dtype=np.uint8)


def texts_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def decode(figure: Figure) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(render_png(figure), np.uint8), cv2.IMREAD_COLOR)


def build_history(errors: list[float]) -> list[EpochMetrics]:
    return [
        EpochMetrics(
            epoch=epoch,
            train_loss=4 * error,
            train_accuracy=1 - 2 * error,
            validation_loss=3 * error,
            validation_accuracy=1 - error,
            learning_rate=0.01,
            images_per_s=1000.0,
            seconds=1.0,
            num_workers=1,
        )
        for epoch, error in enumerate(errors, 1)
    ]


def misread(num_errors: int) -> np.ndarray:
    """Readings of `LABELS` with the first `num_errors` wrong."""
    digits = LABELS.astype(np.int8)
    digits[:num_errors] = (digits[:num_errors] + 3) % 10
    return digits


def build_confusion(digits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    confusion = np.zeros((10, 10), np.int64)
    np.add.at(confusion, (LABELS[digits >= 0], digits[digits >= 0]), 1)
    return confusion, np.bincount(LABELS)


def all_pages(source: str) -> dict[str, Figure]:
    """Each kind of page, at its most crowded and its emptiest."""
    crowded = np.full((10, 10), 123_456)
    counts = {split: [123_456] * 10 for split in ("train", "validation", "test")}
    confidences = np.ones(400, np.float32)
    unread = np.full(400, -1, np.int8)
    one = LABELS == 3
    sure, right = 1 - np.random.default_rng(0).random(30_000) ** 9 / 2, np.arange(30_000) > 90
    return {
        "1 epoch": plot_curves(build_history([0.02]), source),
        "3 epochs": plot_curves(build_history([0.3, 0.28, 0.27]), source),
        "100 epochs": plot_curves(build_history([0.3 * 0.94**i for i in range(100)]), source),
        "no errors left": plot_curves(build_history([0.2, 0.01, 0.0, 0.0]), source),
        "never an error": plot_curves(build_history([0.0] * 3), source),
        "crowded matrix": plot_confusion(crowded, np.full(10, 9_999_999), "All read", source),
        "empty matrix": plot_confusion(np.zeros((10, 10), int), np.zeros(10, int), "None", source),
        "200 errors": plot_errors(IMAGES, LABELS, misread(200), confidences, source),
        "1 error": plot_errors(IMAGES, LABELS, misread(1), confidences, source),
        "no errors": plot_errors(IMAGES, LABELS, misread(0), confidences, source),
        "all wrong": plot_predictions(IMAGES, LABELS, misread(400), source),
        "none read": plot_predictions(IMAGES, LABELS, unread, source),
        "one digit": plot_predictions(IMAGES[one], LABELS[one], misread(0)[one], source),
        "many confidences": plot_reliability(sure, right, source),
        "overconfident": plot_reliability(np.ones(400), LABELS > 3, source),
        "3 confidences": plot_reliability(np.array([0, 0.5, 1]), right[90:93], source),
        "nothing read": plot_reliability(np.zeros(0), np.zeros(0, bool), source),
        "risk of many": plot_risk_coverage(sure, right, source),
        "risk of 3": plot_risk_coverage(sure[:3], right[90:93], source),
        "risk of 1": plot_risk_coverage(sure[:1], right[:1], source),
        "no risk": plot_risk_coverage(np.ones(400), LABELS >= 0, source),
        "samples": plot_samples(IMAGES, LABELS, counts, source),
    }


@pytest.fixture(scope="module")
def pages() -> dict[str, tuple[Figure, np.ndarray]]:
    """All pages, drawn, and their pictures."""
    return {name: (figure, decode(figure)) for name, figure in all_pages(LONG_NAME).items()}


def test_no_text_leaves_the_page_or_covers_another(
    pages: dict[str, tuple[Figure, np.ndarray]],
) -> None:
    """Whatever the numbers and names, all text is on the page and can be read."""
    for name, (figure, _) in pages.items():
        texts = [text for text in figure.findobj(Text) if text.get_text().strip(" ·")]
        boxes = [text.get_window_extent() for text in texts]
        for text, box in zip(texts, boxes, strict=True):
            assert 0 <= box.x0 <= box.x1 <= PAGE_WIDTH, (name, text)
            assert 0 <= box.y0 <= box.y1 <= figure.bbox.height, (name, text)
        for (a, first), (b, second) in itertools.combinations(enumerate(boxes), 2):
            overlap_x = min(first.x1, second.x1) - max(first.x0, second.x0)
            overlap_y = min(first.y1, second.y1) - max(first.y0, second.y0)
            # A box has room for g and Å: those of neighbouring lines may touch.
            assert overlap_x <= 0 or overlap_y <= 6, (name, texts[a], texts[b])


def test_pages_are_pictures_of_their_size(pages: dict[str, tuple[Figure, np.ndarray]]) -> None:
    """Each page is a PNG of the page's width, no higher than a laptop, of more than one colour."""
    for name, (figure, picture) in pages.items():
        assert picture.shape == (round(figure.bbox.height), PAGE_WIDTH, 3), name
        assert len(picture) <= 900, name
        assert len(np.unique(picture)) > 20, name


def test_curves_are_the_history() -> None:
    """Error in per cent and loss of both splits, one point an epoch, labelled at their ends."""
    figure = plot_curves(build_history([0.2, 0.1, 0.04]), "models/cnn")
    lines = [line for axes in figure.axes[1:] for line in axes.lines]
    drawn = [np.column_stack(line.get_data()) for line in lines]
    expected = [[40, 20, 8], [20, 10, 4], [0.8, 0.4, 0.16], [0.6, 0.3, 0.12]]
    for points, values in zip(drawn, expected, strict=True):
        np.testing.assert_allclose(points, np.column_stack([[1, 2, 3], values]))
    texts = texts_of(figure)
    assert {"train 8%", "validation 4%", "train 0.16", "validation 0.12"} <= set(texts)
    assert "96.00% of the validation images read rightly after 3 epochs" in texts


def test_an_error_of_0_is_drawn() -> None:
    """A logarithmic axis has no 0: with one among the values it ends in it."""
    panel = plot_curves(build_history([0.1, 0.01, 0.0]), "models/cnn").axes[1]
    assert panel.get_ylim()[0] == 0
    assert "0%" in [label.get_text() for label in panel.get_yticklabels()]
    assert np.isfinite(panel.transData.transform([(3, 0)])).all()


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.2), (0.02, 40), (1e-9, 2), (2.2, 4.6)])
def test_ticks_are_few_and_round(low: float, high: float) -> None:
    """Two to seven ticks within the range, whatever it is."""
    ticks = _round_numbers(low, high)
    assert 2 <= len(ticks) <= MAX_TICKS
    assert all(low <= tick <= high for tick in ticks)
    assert {float(f"{tick:e}".split("e")[0]) for tick in ticks} <= {1, 1.5, 2, 3, 4, 5, 7}


def test_drawn_counts_are_the_confusion() -> None:
    """Every count stands in its cell, row by row; a dot is 0; unread images have a column."""
    digits = misread(30)
    digits[7] = -1
    confusion, num_images = build_confusion(digits)
    page = plot_confusion(confusion, num_images, "A title", "models/cnn").axes[0]
    (cells,) = page.images
    left, right, bottom, top = cells.get_extent()
    drawn = np.full((10, 11), -1)
    for text in page.texts:
        x, y = text.get_position()
        if left < x < right and top < y < bottom:
            row, column = (y - top) / (bottom - top) * 10, (x - left) / (right - left) * 11
            drawn[int(row), int(column)] = int(text.get_text().replace("·", "0").replace(",", ""))
    assert (drawn[:, :10] == confusion).all()
    assert (drawn[:, 10] == (np.arange(10) == 7)).all()


def test_errors_are_what_one_sees_of_the_matrix() -> None:
    """What is right is grey however frequent; of errors the more frequent is the darker."""
    confusion = np.diag(np.full(10, 1000))
    confusion[5, 3], confusion[4, 9] = 5, 1
    figure = plot_confusion(confusion, confusion.sum(axis=1), "A title", "models/cnn")
    colors = np.asarray(figure.axes[0].images[0].get_array())[..., :3]
    saturation = np.ptp(colors, axis=2)
    assert (saturation > 0.2).sum() == 2
    assert colors[5, 3].sum() < colors[4, 9].sum()
    assert texts_of(figure)[1].startswith("Most often a 5 is read as 3 (5 times)")


def test_errors_are_ranked_by_confidence() -> None:
    """The most confident mistakes come first; what was not read is no confident mistake."""
    labels = np.array([1, 2, 3, 4, 5])
    digits = np.array([1, 3, 4, 5, -1], np.int8)
    confidences = np.array([1, 0.5, 0.9, 0.7, np.nan], np.float32)
    assert rank_errors(labels, digits, confidences).tolist() == [2, 3, 1]


def test_error_page_shows_the_most_confident_mistakes_in_order() -> None:
    """Each has its image, reading, confidence, truth and index; no more than fit on the page."""
    confidences = np.linspace(0.5, 0.9, 400, dtype=np.float32)
    figure = plot_errors(IMAGES, LABELS, misread(200), confidences, "models/cnn")
    texts = texts_of(figure)
    assert texts[0] == f"200 of 400 images misread: the {MAX_ERRORS} most confident mistakes"
    expected = list(range(199, 199 - MAX_ERRORS, -1))
    assert [int(text[1:]) for text in texts if text.startswith("#")] == expected
    drawn = [np.asarray(image.get_array()) for image in figure.axes[0].images]
    assert (np.array(drawn) == IMAGES[expected]).all()
    assert texts[2:6] == ["read 2", f"{confidences[199]:.1%}", "true 9", "#199"]


def test_no_mistakes_is_said() -> None:
    """Without a mistake the page says so."""
    figure = plot_errors(IMAGES, LABELS, misread(0), np.ones(400, np.float32), "models/cnn")
    assert texts_of(figure)[0] == "No mistakes among the 400 images read"


def test_predictions_show_each_digit_and_mark_what_is_wrong() -> None:
    """Eleven images of each true digit, the same each time; a frame around each misread one."""
    digits = misread(200)
    page = plot_predictions(IMAGES, LABELS, digits, "models/cnn").axes[0]
    drawn = [
        int(np.flatnonzero((image.get_array() == IMAGES).all(axis=(1, 2)))[0])
        for image in page.images
    ]
    assert np.bincount(LABELS[drawn]).tolist() == [11] * 10
    again = plot_predictions(IMAGES, LABELS, digits, "models/cnn").axes[0]
    assert (np.array([i.get_array() for i in again.images]) == IMAGES[drawn]).all()
    assert len(page.patches) == (digits[drawn] != LABELS[drawn]).sum() > 0
    readings = [text.get_text() for text in page.texts if text.get_position()[0] > 150]
    assert readings == [str(digit) for digit in digits[drawn]]


def test_images_are_drawn_pixel_for_pixel() -> None:
    """Each pixel of an image is a square of 4 x 4 pixels, black where there is ink."""
    picture = decode(plot_errors(IMAGES, LABELS, misread(1), np.ones(400, np.float32), "x"))
    expected = np.kron(255 - IMAGES[0], np.ones((4, 4), np.uint8))
    windows = np.lib.stride_tricks.sliding_window_view(picture[..., 0], expected.shape)
    # A colour map has 256 steps, but not quite the 256 of a byte.
    assert any(np.abs(window - expected.astype(int)).max() <= 1 for window in windows[:, 36])


def test_samples_show_the_counts() -> None:
    """Each digit has its number of images beside a bar of that length, split by split."""
    counts = {"train": [80] * 9 + [0], "validation": [10] * 9 + [0], "test": [10] * 9 + [0]}
    has_images = LABELS < 9
    page = plot_samples(IMAGES[has_images], LABELS[has_images], counts, "scans").axes[0]
    texts = [text.get_text() for text in page.texts]
    assert texts[0] == "900 images, none of digit 9"
    assert texts.count("100") == 9
    assert "no images" in texts
    widths = [patch.get_width() for patch in page.patches][3:]
    assert widths[:3] == pytest.approx([160, 20, 20])
    assert widths[-3:] == [0, 0, 0]
