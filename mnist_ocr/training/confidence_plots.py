"""Confidence as pictures: is it true (reliability), and does it put the errors last (risk)?

Most images are read with near certainty, so what matters lies close to 100%: the axes are stretched
there, by log-odds or by the logarithm of what is left out.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray
from scipy.special import expit, logit

from mnist_ocr.training.plots import (
    BLUE,
    GREY,
    INK,
    MARGIN,
    PAGE_WIDTH,
    SKY,
    SMALL_PT,
    TEXT_PT,
    VERMILION,
    new_page,
    scale_logarithmically,
    style_panel,
    write,
)
from mnist_ocr.training.scores import (
    ConfidenceBins,
    bin_confidences,
    count_errors,
    format_errors,
    select_most_confident,
    selective_risk,
)

PANEL_LEFT, PANEL_WIDTH, NOTES_LEFT = 96, 640, 784
LEAST, MOST = 0.01, 1 - 1e-6
"""Confidence beyond is drawn there: float32 has little left to tell apart so close to 1."""

ROUND_SHARES = (0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, MOST)
ROUND_COVERAGES = (1, 0, 0.99, 0.9, 0.95, 0.5, 0.999, 0.9999, 0.99999)
"""The most telling first: not all have room."""

MIN_TICK_DISTANCE = 48
"""Pixels between percentages side by side."""


def plot_reliability(
    confidences: NDArray[np.float64], is_right: NDArray[np.bool_], source: str
) -> Figure:
    """Draw the accuracy of bins of equal mass over their confidence, and how many images are where.

    Args:
        confidences: (N,) float64, 0 to 1, of the images read.
        is_right: (N,) bool.
        source: Which model and dataset this is, for the line below the title.
    """
    if not len(confidences):
        return new_page(110, "No image was read", source)[0]
    bins = bin_confidences(confidences, is_right)
    title = f"Confidence and accuracy differ by {bins.ece:.2%} on average"
    figure, page = new_page(760, title, source)
    write(page, MARGIN, 124, "Accuracy", weight="bold")
    write(page, MARGIN, 564, "Images", weight="bold")
    upper = _add_panel(figure, top=148, height=380)
    lower = _add_panel(figure, top=588, height=92)
    num_off = _plot_bins(upper, bins)
    drawn = confidences.clip(LEAST, MOST)
    limits = min(0.4, drawn.min()), max(0.995, drawn.max())
    for panel in (upper, lower):
        _stretch(panel, "x", limits)
    low, high = logit(limits)
    edges = expit(np.linspace(low, high, 65))
    counts, _ = np.histogram(drawn, [0, *edges[1:-1], 1])
    lower.stairs(counts, edges, fill=True, color=SKY)
    scale_logarithmically(lower, [1, 10, *counts[counts > 0]], "")
    upper.tick_params(labelbottom=False)
    lower.set_xlabel("confidence", color=GREY, fontsize=TEXT_PT)
    num_bins = len(bins.num_images)
    notes = [
        (f"● {num_bins} bins of equal mass", "", INK),
        ("|  95% interval of the accuracy", "", INK),
        ("   with the confidence in it", f"{num_bins - num_off}", BLUE),
        ("   without it", f"{num_off}", VERMILION),
        ("╌╌ accuracy = confidence", "", GREY),
        ("", "", INK),
        ("images read", f"{len(confidences):,}", INK),
        ("mean confidence", f"{confidences.mean():.2%}", INK),
        ("accuracy", f"{is_right.mean():.2%}", INK),
        ("calibration error (ECE)", f"{bins.ece:.2%}", INK),
    ]
    _write_notes(page, notes)
    return figure


def _plot_bins(panel: Axes, bins: ConfidenceBins) -> int:
    """Draw each bin's accuracy and its interval, in red if the confidence is outside of it.

    Returns:
        How many are red.
    """
    low, high = bins.accuracy_intervals()
    is_off = (bins.confidence < low) | (bins.confidence > high)
    # An accuracy of 0 or 1 has infinite log-odds: it is drawn at the edge.
    edge = 0.3 / bins.num_images.max()
    limits = max(edge, low.min() / 1.4), 1 - edge
    x = bins.confidence.clip(LEAST, MOST)
    y, low, high = (each.clip(*limits) for each in (bins.num_right / bins.num_images, low, high))
    panel.plot([LEAST, MOST], [LEAST, MOST], color=GREY, linewidth=1, dashes=(4, 3))
    colors = [VERMILION if off else BLUE for off in is_off]
    panel.vlines(x, low, high, color=colors, linewidth=1.4, clip_on=False)
    panel.scatter(x, y, s=25, color=colors, clip_on=False, zorder=3)
    _stretch(panel, "y", limits)
    return int(is_off.sum())


def plot_risk_coverage(
    confidences: NDArray[np.float64], is_right: NDArray[np.bool_], source: str
) -> Figure:
    """Draw the error rate among the most confident images over their share, beside both extremes.

    Args:
        confidences: (N,) float64, at least one; 0 where an image was not read.
        is_right: (N,) bool.
        source: Which model and dataset this is, for the line below the title.
    """
    num_images = len(confidences)
    errors, kept = count_errors(confidences, is_right), np.arange(num_images + 1)
    risk = 100 * selective_risk(errors)
    best = 100 * selective_risk(np.maximum(0, errors[-1] - num_images + kept))
    at_random = np.full(num_images, risk[-1])
    # Where no image is left out there is no logarithm: half of one is.
    position = -np.log10(np.maximum(num_images - kept[1:], 0.5) / num_images)
    marks = {each.coverage: each for each in select_most_confident(errors)}
    title = (
        f"{format_errors(marks[99].num_errors)} in the most confident 99% of {num_images:,} images"
    )
    figure, page = new_page(640, title, source)
    write(page, MARGIN, 124, "Errors among the images kept", weight="bold")
    panel = _add_panel(figure, top=148, height=400)
    panel.plot(position, at_random, color=GREY, linewidth=1.4, dashes=(4, 3))
    panel.plot(position, best, color=GREY, linewidth=1.4)
    panel.plot(position, risk, color=BLUE, linewidth=1.8)
    ranks = [mark.num_images - 1 for mark in marks.values()]
    panel.plot(position[ranks], risk[ranks], "o", color=BLUE, markersize=6, clip_on=False)
    scale_logarithmically(panel, [*risk, *best], "%")
    _mark_coverages(panel, float(position[-1]))
    notes = [
        ("area under the curve (AURC)", "", INK),
        ("── by confidence", f"{risk.mean() / 100:.6f}", BLUE),
        ("── errors last", f"{best.mean() / 100:.6f}", GREY),
        ("╌╌ at random", f"{risk[-1] / 100:.6f}", GREY),
        ("", "", INK),
        *(
            (
                f"● {mark.coverage}%: {format_errors(mark.num_errors)}",
                f"{mark.error_rate:.2%}",
                BLUE,
            )
            for mark in marks.values()
        ),
    ]
    _write_notes(page, notes)
    return figure


def _add_panel(figure: Figure, top: float, height: float) -> Axes:
    """Add axes in the left of the page, at pixels."""
    page_height = figure.bbox.height
    panel = figure.add_axes(
        (
            PANEL_LEFT / PAGE_WIDTH, 1 - (top + height) / page_height,
            PANEL_WIDTH / PAGE_WIDTH, height / page_height,
        )
    )  # fmt: skip
    style_panel(panel)
    return panel


def _stretch(panel: Axes, which: Literal["x", "y"], limits: tuple[float, float]) -> None:
    """Give an axis the scale of log-odds and round shares; the ends of a y axis are 0% and 100%."""
    low, high = logit(limits)
    margin = 0.06 * (high - low) if which == "y" else -1e-9
    shares = [each for each in ROUND_SHARES if low + margin < logit(each) < high - margin]
    names = [f"{100 * share:.10g}%" for share in shares]
    if which == "y":
        shares, names = [*shares, limits[1]], [*names, "100%"]
    panel.set(**{f"{which}scale": "logit", f"{which}lim": limits})
    panel.set(**{f"{which}ticks": shares, f"{which}ticklabels": names})
    (panel.xaxis if which == "x" else panel.yaxis).set_minor_locator(NullLocator())


def _mark_coverages(panel: Axes, end: float) -> None:
    """Name the shares kept along an axis of minus the logarithm of what is left out."""
    positions: dict[float, str] = {}
    for coverage in ROUND_COVERAGES:
        position = -math.log10(1 - coverage) if coverage < 1 else end
        distances = [abs(position - other) * PANEL_WIDTH / end for other in positions]
        if position <= end and min(distances, default=math.inf) >= MIN_TICK_DISTANCE:
            positions[position] = f"{100 * coverage:.10g}%"
    panel.set_xlim(0, end)
    panel.set_xticks(list(positions), list(positions.values()))
    panel.set_xlabel("most confident images kept", color=GREY, fontsize=TEXT_PT)


def _write_notes(page: Axes, notes: Sequence[tuple[str, str, str]]) -> None:
    """Write lines right of the panel: text, figure and colour."""
    for row, (text, figure, color) in enumerate(notes):
        y = 160 + 26 * row
        write(page, NOTES_LEFT, y, text, color=color, size=SMALL_PT)
        write(page, PAGE_WIDTH - MARGIN, y, figure, align="right", color=color, size=SMALL_PT)
