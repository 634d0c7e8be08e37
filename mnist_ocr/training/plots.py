"""Curves and confusion as pictures: numbers in, a `Figure` out; no display is needed.

Coordinates are pixels of the page, y downwards. Colours are of Okabe and Ito's palette, which
colour-blind people can tell apart (Color Universal Design, 2008).
"""

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm, to_rgba
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from mnist_ocr.training.metrics import EpochMetrics

PAGE_WIDTH, MARGIN = 1080, 36
DPI = 144
"""Nine points are 18 pixels then, which a laptop shows in a size that one can read."""

BLUE, SKY, VERMILION = "#0072B2", "#56B4E9", "#D55E00"
INK, GREY, PALE = "#1a1a1a", "#666666", "#e9e9e9"
TITLE_PT, TEXT_PT, SMALL_PT = 13, 9, 8

MAX_EPOCHS_WITH_MARKERS = 30
MAX_TICKS = 7


def render_png(figure: Figure) -> bytes:
    """Draw a figure as a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def new_page(height: int, title: str, subtitle: str) -> tuple[Figure, Axes]:
    """Start a page with a title and a grey line below it, which is cut to fit.

    Returns:
        The figure, and axes over all of it whose unit is the pixel, from the upper left.
    """
    figure = Figure((PAGE_WIDTH / DPI, height / DPI), dpi=DPI, facecolor="white")
    page = figure.add_axes((0, 0, 1, 1), autoscale_on=False)
    page.set(xlim=(0, PAGE_WIDTH), ylim=(height, 0))
    page.set_axis_off()
    room = PAGE_WIDTH - 2 * MARGIN
    heading = write(page, MARGIN, 40, title, size=TITLE_PT, weight="bold")
    heading.set_fontsize(TITLE_PT * min(1, room / heading.get_window_extent().width))
    # What the font lacks would be a warning on the terminal, and a line feed a second line.
    known = get_font(findfont(FontProperties())).get_charmap()
    subtitle = "".join(letter if ord(letter) in known else "□" for letter in subtitle)
    line = write(page, MARGIN, 74, subtitle, color=GREY)
    length = len(subtitle)
    while (width := line.get_window_extent().width) > room:
        length = int(length * room / width) - 1
        line.set_text(f"{subtitle[: length // 2]}…{subtitle[-(length // 2) :]}")
    return figure, page


def write(
    page: Axes,
    x: float,
    y: float,
    content: str,
    *,
    align: str = "left",
    color: str = INK,
    size: float = TEXT_PT,
    weight: str = "normal",
) -> Text:
    """Write a line of text whose digits are centred on `y`; a `$` in a name is no formula."""
    baseline = y + 0.365 * size * DPI / 72  # half the height of a digit
    return page.text(
        x, baseline, content, ha=align, va="baseline", color=color, fontsize=size, weight=weight,
        parse_math=False,
    )  # fmt: skip


def plot_curves(history: Sequence[EpochMetrics], source: str) -> Figure:
    """Draw error and loss over the epochs, on logarithmic axes.

    Args:
        history: At least one epoch, in order.
        source: Which model this is, for the line below the title.
    """
    accuracy, num_epochs = history[-1].validation_accuracy, history[-1].epoch
    title = f"{accuracy:.2%} of the validation images read rightly after {num_epochs:,} epoch"
    figure, page = new_page(560, title if num_epochs == 1 else title + "s", source)
    epochs = [each.epoch for each in history]
    for left, name, scale, offset, heading, unit in (
        (84, "accuracy", -100, 100, "Images misread", "%"),
        (610, "loss", 1, 0, "Loss (nats)", ""),
    ):
        write(page, left, 124, heading, weight="bold")
        panel = figure.add_axes((left / PAGE_WIDTH, 118 / 560, 270 / PAGE_WIDTH, 294 / 560))
        curves = {
            split: [offset + scale * getattr(each, f"{split}_{name}") for each in history]
            for split in ("train", "validation")
        }
        _plot_panel(panel, epochs, curves, unit)
    note = (
        "Train: mean over the epoch, of images as the recipe distorts them. "
        "Validation: held-out images at the end of the epoch."
    )
    write(page, MARGIN, 530, note, color=GREY, size=SMALL_PT)
    return figure


def _plot_panel(
    panel: Axes, epochs: Sequence[int], curves: Mapping[str, Sequence[float]], unit: str
) -> None:
    """Draw both curves over the epochs, each with its name and last value at its end."""
    marker = "o" if len(epochs) <= MAX_EPOCHS_WITH_MARKERS else ""
    colors = {"train": VERMILION, "validation": BLUE}
    for name, values in curves.items():
        panel.plot(
            epochs, values, color=colors[name], marker=marker, markersize=3.5, linewidth=1.8,
            markerfacecolor="white" if name == "train" else None, clip_on=False, label=name,
        )  # fmt: skip
    scale_logarithmically(panel, [value for values in curves.values() for value in values], unit)
    margin = 0.5 if len(epochs) == 1 else 0.02 * (epochs[-1] - epochs[0])
    panel.set_xlim(epochs[0] - margin, epochs[-1] + margin)
    round_epochs = MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]).tick_values(1, epochs[-1])
    panel.set_xticks([1, *(epoch for epoch in round_epochs if 1 < epoch <= epochs[-1])])
    panel.set_xlabel("epoch", color=GREY, fontsize=TEXT_PT)
    style_panel(panel)

    ends = {name: panel.transData.transform((epochs[-1], v[-1])) for name, v in curves.items()}
    low, high = sorted(ends, key=lambda name: float(ends[name][1]))
    # Two lines of text need 24 pixels: what ends closer is labelled a little apart.
    push = max(0.0, 24 - (ends[high][1] - ends[low][1])) / 2
    for name, shift in ((low, -push), (high, push)):
        panel.annotate(
            f"{name} {curves[name][-1]:.2g}{unit}", (epochs[-1], curves[name][-1]), (14, shift),
            textcoords="offset pixels", va="center", color=colors[name], fontsize=TEXT_PT,
            annotation_clip=False,
        )  # fmt: skip


def style_panel(panel: Axes) -> None:
    """Leave of the axes what one reads: pale lines, grey numbers, the bottom."""
    panel.tick_params(which="both", length=0, labelsize=SMALL_PT, labelcolor=GREY, pad=6)
    panel.grid(axis="y", color=PALE, linewidth=1)
    panel.set_axisbelow(True)
    for side, spine in panel.spines.items():
        spine.set(visible=side == "bottom", color=GREY, linewidth=0.8)


def scale_logarithmically(panel: Axes, values: Sequence[float], unit: str) -> None:
    """Make the y axis logarithmic, down to 0 if a value is 0, with few and round ticks."""
    positive = [value for value in values if value > 0] or [1.0]
    low, high = min(positive) / 1.4, max(positive) * 1.4
    ticks = _round_numbers(low, high)
    if len(positive) < len(values):
        panel.set_yscale("symlog", linthresh=low, linscale=0.4)
        low, ticks = 0, [0, *ticks]
    else:
        panel.set_yscale("log")
    panel.set_ylim(low, high)
    panel.yaxis.set_major_locator(FixedLocator(ticks))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}{unit}"))


def _round_numbers(low: float, high: float) -> list[float]:
    """At most `MAX_TICKS` round numbers from `low` to `high`, evenly spread by their logarithm."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for mantissas in ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 5), (1, 3), (1,)):
        numbers = [float(f"{m}e{e}") for e in exponents for m in mantissas]
        numbers = [number for number in numbers if low <= number <= high]
        if len(numbers) <= MAX_TICKS:
            return numbers
    return numbers[:: math.ceil(len(numbers) / MAX_TICKS)]


def plot_confusion(
    confusion: NDArray[np.int64], num_images: NDArray[np.int64], title: str, source: str
) -> Figure:
    """Draw the confusion matrix so that the errors stand out: what is right stays grey.

    Args:
        confusion: (10, 10) counts: row is the true digit, column the one read.
        num_images: (10,) images of each digit; those in no column were not read.
        title: One sentence: what the reader should see.
        source: Which model and dataset this is, for the line below.
    """
    unread = num_images - confusion.sum(axis=1)
    table = np.column_stack([confusion, unread]) if unread.any() else confusion
    errors = table.copy()
    errors[range(10), range(10)] = 0
    figure, page = new_page(700, title, _describe_commonest(errors) + source)
    left, right_end, top, height = 110, 930, 172, 49
    width = (right_end - left) / table.shape[1]
    colors = _plot_cells(page, errors, (left, right_end, top + height * 10, top))

    size = min(TEXT_PT, 52 / len(f"{table.max():,}"))  # what just fits into a cell, if bold
    for (digit, read), count in np.ndenumerate(table):
        is_dark = colors[digit, read, :3] @ (0.3, 0.6, 0.1) < 0.5
        write(
            page, left + width * (read + 0.5), top + height * (digit + 0.5),
            f"{count:,}" if count else "·",
            align="center", size=size,
            color="white" if is_dark else GREY if digit == read or not count else INK,
            weight="bold" if errors[digit, read] else "normal",
        )  # fmt: skip
    for digit, total in enumerate(num_images):
        y = top + height * (digit + 0.5)
        write(page, left - 20, y, str(digit), align="right", weight="bold")
        recall = f"{confusion[digit, digit] / total:.2%}" if total else "-"
        write(page, PAGE_WIDTH - MARGIN, y, recall, align="right", color=GREY)
        x = left + width * (digit + 0.5)
        write(page, x, top - 20, str(digit), align="center", weight="bold")
    if unread.any():
        write(page, right_end - width / 2, top - 20, "not read", align="center", size=SMALL_PT)
    write(page, left, top - 52, "digit read", color=GREY)
    write(page, left - 20, top - 20, "true", color=GREY, align="right")
    write(page, PAGE_WIDTH - MARGIN, top - 20, "recall", color=GREY, align="right")
    return figure


def _plot_cells(
    page: Axes, errors: NDArray[np.int64], extent: tuple[float, float, float, float]
) -> NDArray[np.float64]:
    """Colour the cells of a (10, 10 or 11) table of errors: the more, the darker.

    Returns:
        The colours, with a last axis of red, green, blue and opacity, 0-1.
    """
    # The square root keeps single errors visible beside a frequent one.
    scale = PowerNorm(0.5, vmin=0, vmax=max(4, errors.max()))
    colors = np.array(colormaps["Oranges"](0.05 + 0.8 * scale(errors)))
    colors[errors == 0] = to_rgba("#f8f8f8")
    colors[range(10), range(10)] = to_rgba(PALE)
    page.imshow(colors, aspect="auto", interpolation="nearest", origin="upper", extent=extent)
    left, right, bottom, top = extent
    page.hlines(np.linspace(top, bottom, 11), left, right, color="white", linewidth=1.5)
    lines = np.linspace(left, right, errors.shape[1] + 1)
    page.vlines(lines, top, bottom, color="white", linewidth=1.5)
    return colors


def _describe_commonest(errors: NDArray[np.int64]) -> str:
    """Say which digit is most often read as which; nothing if no mistake happened twice."""
    digit, read = np.unravel_index(errors[:, :10].argmax(), (10, 10))
    count = errors[digit, read]
    return f"Most often a {digit} is read as {read} ({count:,} times)  ·  " if count > 1 else ""
