"""Pages of digits: samples of a dataset, what a model read, and its most confident mistakes.

Images are drawn in black on white, each of their pixels as a square of whole pixels of the page.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from mnist_ocr.digits.canonical import IMAGE_SIZE
from mnist_ocr.training.plots import (
    BLUE,
    GREY,
    INK,
    MARGIN,
    SKY,
    SMALL_PT,
    VERMILION,
    new_page,
    write,
)

SAMPLE_SEED = 0
"""The same images are drawn each time, so that two models' pages can be compared."""

NUM_SAMPLES_READ, NUM_SAMPLES_EXPLORED = 11, 10
"""Samples of each digit."""

MAX_ERRORS, ERRORS_PER_ROW = 28, 7

SPLIT_COLORS = {"train": BLUE, "validation": SKY, "test": "#999999"}


def rank_errors(
    labels: NDArray[np.int64], digits: NDArray[np.int8], confidences: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Indices of the images that were read as another digit, the most confident first."""
    wrong = np.flatnonzero((digits != labels) & (digits >= 0))
    return wrong[np.argsort(-confidences[wrong], kind="stable")]


def draw_samples(labels: NDArray[np.int64], num_samples: int) -> list[NDArray[np.int64]]:
    """Draw for each digit the indices of up to `num_samples` of its images, in their order."""
    rng = np.random.default_rng(SAMPLE_SEED)
    shuffled = rng.permutation(len(labels))
    return [np.sort(shuffled[labels[shuffled] == digit][:num_samples]) for digit in range(10)]


def plot_errors(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    digits: NDArray[np.int8],
    confidences: NDArray[np.float32],
    source: str,
) -> Figure:
    """Draw the most confident mistakes, each with its reading, confidence, truth and index.

    Args:
        images: (N, 28, 28) uint8.
        labels: (N,) int64, 0-9.
        digits: (N,) int8, 0-9, or -1 where an image was not read: those are not shown.
        confidences: (N,) float32.
        source: Which model and dataset this is, for the line below the title.
    """
    ranked = rank_errors(labels, digits, confidences)
    if not len(ranked):
        title = f"No mistakes among the {(digits >= 0).sum():,} images read"
        return new_page(110, title, source)[0]
    title = f"{len(ranked):,} of {len(labels):,} images misread"
    if len(ranked) > MAX_ERRORS:
        title += f": the {MAX_ERRORS} most confident mistakes"
    elif len(ranked) > 1:
        title += ", the most confident first"
    top, column_width, row_height, size = 112, 148, 180, 4 * IMAGE_SIZE
    num_rows = -(-min(len(ranked), MAX_ERRORS) // ERRORS_PER_ROW)
    subtitle = f"{source}  ·  # is the index of an image"
    figure, page = new_page(top + num_rows * row_height + 8, title, subtitle)
    for place, index in enumerate(ranked[:MAX_ERRORS].tolist()):
        row, column = divmod(place, ERRORS_PER_ROW)
        x, y = MARGIN + column * column_width, top + row * row_height
        _draw_image(page, images[index], x, y, size)
        reading = f"read {digits[index]}"
        confidence = _format_confidence(float(confidences[index]))
        write(page, x, y + size + 18, reading, color=VERMILION, size=SMALL_PT, weight="bold")
        write(page, x + 66, y + size + 18, confidence, color=VERMILION, size=7)
        write(page, x, y + size + 40, f"true {labels[index]}", size=SMALL_PT, weight="bold")
        write(page, x + 66, y + size + 40, f"#{index}", color=GREY, size=7)
    return figure


def plot_predictions(
    images: NDArray[np.uint8], labels: NDArray[np.int64], digits: NDArray[np.int8], source: str
) -> Figure:
    """Draw random images of each digit, in a row of its own, each with the digit read beside it.

    Args:
        images: (N, 28, 28) uint8.
        labels: (N,) int64, 0-9.
        digits: (N,) int8, 0-9, or -1 where an image was not read.
        source: Which model and dataset this is, for the line below the title.
    """
    samples = draw_samples(labels, NUM_SAMPLES_READ)
    drawn = np.concatenate(samples)
    right = int((digits[drawn] == labels[drawn]).sum())
    title = f"{right} of {len(drawn)} random images read rightly"
    top, row_height, size = 148, 68, 2 * IMAGE_SIZE
    figure, page = new_page(top + 10 * row_height + 14, title, source)
    write(page, MARGIN, top - 24, "true", color=GREY)
    write(page, 110, top - 24, "image and the digit read", color=GREY)
    for digit, indices in enumerate(samples):
        y = top + digit * row_height
        _write_digit(page, digit, y + size / 2, len(indices))
        for column, index in enumerate(indices.tolist()):
            x = 110 + column * 85
            _draw_image(page, images[index], x, y, size)
            reading = str(digits[index]) if digits[index] >= 0 else "-"
            if digits[index] == digit:
                write(page, x + size + 6, y + size / 2, reading, color=GREY)
                continue
            page.add_patch(
                Rectangle((x - 2, y - 3), 80, size + 6, fill=False, edgecolor=VERMILION, lw=1.5)
            )
            write(page, x + size + 6, y + size / 2, reading, color=VERMILION, weight="bold")
    return figure


def plot_samples(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    counts: Mapping[str, Sequence[int]],
    source: str,
) -> Figure:
    """Draw random images of each digit, and how many of it each split has.

    Args:
        images: (N, 28, 28) uint8.
        labels: (N,) int64, 0-9.
        counts: For `train`, `validation` and `test`, the number of images of each digit.
        source: Which dataset this is, for the line below the title.
    """
    totals = np.sum(list(counts.values()), axis=0)
    title = f"{totals.sum():,} images, " + _describe_balance(totals)
    top, row_height, size, bars_left, bars_width = 148, 64, 2 * IMAGE_SIZE, 750.0, 200
    figure, page = new_page(top + 10 * row_height + 14, title, source)
    x = bars_left
    for split, color in SPLIT_COLORS.items():
        page.add_patch(Rectangle((x, top - 31), 14, 14, color=color, lw=0))
        name = write(page, x + 20, top - 24, split, color=INK, size=SMALL_PT)
        x += 20 + name.get_window_extent().width + 18
    for digit, indices in enumerate(draw_samples(labels, NUM_SAMPLES_EXPLORED)):
        y = top + digit * row_height
        _write_digit(page, digit, y + size / 2, len(indices))
        for column, index in enumerate(indices.tolist()):
            _draw_image(page, images[index], 80 + column * 64, y, size)
        x = bars_left
        for split, color in SPLIT_COLORS.items():
            width = bars_width * counts[split][digit] / totals.max()
            page.add_patch(Rectangle((x, y + 14), width, size - 28, color=color, lw=0))
            x += width
        write(page, x + 8, y + size / 2, f"{totals[digit]:,}", size=SMALL_PT)
    return figure


def _describe_balance(totals: NDArray[np.int64]) -> str:
    """Say how evenly the images are spread over the digits."""
    if not totals.all():
        absent = ", ".join(str(digit) for digit in np.flatnonzero(totals == 0))
        return f"none of digit {absent}"
    return f"{totals.min():,} to {totals.max():,} of each digit"


def _draw_image(page: Axes, image: NDArray[np.uint8], x: float, y: float, size: float) -> None:
    """Draw an image, inverted, with its upper left corner at (x, y)."""
    page.imshow(
        image, cmap="gray_r", vmin=0, vmax=255, aspect="auto", interpolation="nearest",
        origin="upper", extent=(x, x + size, y + size, y),
    )  # fmt: skip


def _write_digit(page: Axes, digit: int, y: float, num_images: int) -> None:
    """Name the digit that a row shows."""
    write(page, MARGIN, y, str(digit), weight="bold", size=12)
    if not num_images:
        write(page, 110, y, "no images", color=GREY)


def _format_confidence(confidence: float) -> str:
    """In per cent; what would be rounded to 100% is not said to be certain."""
    return ">99.9%" if confidence >= 0.9995 else f"{confidence:.1%}"
