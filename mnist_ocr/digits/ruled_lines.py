"""Ruled lines and the borders of boxes: thin, straight, across the page."""

import cv2
import numpy as np
from cv2.typing import MatLike

MIN_SIDE = 24
"""Shorter side, in pixels, of a page on which lines are looked for."""

MIN_RUN = 0.4
"""Length of an unbroken run within a line, over the page's: a line may slope by two degrees."""

MIN_LENGTH, EDGE_TO_EDGE = 0.85, 0.97
"""Length of a line over the page's: a side of a box; a ruled line, which the page cuts off."""

MAX_THICKNESS = 0.06
"""Thickness of a line over the page's other side."""


def find_lines(ink: MatLike, mask: MatLike, threshold: float) -> MatLike | None:
    """Find lines from edge to edge, or three sides of a box, which may end before.

    Args:
        ink: (h, w) uint8, paper near 0.
        mask: (h, w) uint8, 1 on strokes of the digit and on lines.
        threshold: Brightness of a line's ink, which may be fainter than the digit's.

    Returns:
        (h, w) uint8, 1 on lines but where a stroke crosses them; None where there are none.
    """
    height, width = mask.shape
    _, _, wide, tall = cv2.boundingRect(mask)
    is_wide, is_tall = wide >= MIN_LENGTH * width, tall >= MIN_LENGTH * height
    if min(height, width) < MIN_SIDE or not (is_wide or is_tall):
        return None
    # where the mask does not reach there are faint sides of a box at most, if it has others
    across, num_across, num_across_cut = down, num_down, num_down_cut = mask, 0, 0
    if is_wide:
        across, num_across, num_across_cut = _find_horizontal(ink, mask, threshold)
    if is_tall or num_across:
        down, num_down, num_down_cut = _find_horizontal(
            cv2.transpose(ink), cv2.transpose(mask), threshold
        )
    if num_down and not is_wide:
        across, num_across, num_across_cut = _find_horizontal(ink, mask, threshold)
    is_box = num_across > 0 and num_down > 0 and num_across + num_down >= 3
    is_across, is_down = is_box or num_across_cut > 0, is_box or num_down_cut > 0
    if is_across and is_down:
        return cv2.bitwise_or(across, cv2.transpose(down))
    if is_across:
        return across
    return cv2.transpose(down) if is_down else None


def _find_horizontal(ink: MatLike, mask: MatLike, threshold: float) -> tuple[MatLike, int, int]:
    """Horizontal lines but where a stroke crosses them, their number, how many are cut off."""
    height, width = mask.shape
    run = round(MIN_RUN * width)
    # a faint line is broken by noise: averaged along its length it is not
    _, bright = cv2.threshold(cv2.blur(ink, (width // 8 | 1, 1)), threshold, 1, cv2.THRESH_BINARY)
    if cv2.minMaxLoc(cv2.reduce(bright, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S))[1] < run:
        return mask, 0, 0
    runs = cv2.morphologyEx(bright, cv2.MORPH_OPEN, np.ones((1, run), np.uint8))
    if cv2.boundingRect(runs)[2] < MIN_LENGTH * width:
        return mask, 0, 0
    num_parts, labels, stats, _ = cv2.connectedComponentsWithStats(
        runs, connectivity=8, ltype=cv2.CV_16U
    )
    is_line = np.zeros(num_parts, np.uint8)
    num_lines, num_cut, thickest = 0, 0, 1
    for i, (left, top, length, tall, _) in enumerate(stats.tolist()):  # a handful; 0 is paper
        if i == 0 or length < MIN_LENGTH * width:
            continue
        part = labels[top : top + tall, left : left + length] == i
        # a quantile, as the better part of it may be broad strokes
        thickness = np.partition(part.sum(0), length // 4)[length // 4]
        if thickness > max(1.5, MAX_THICKNESS * height):
            continue
        # averaging has lengthened it
        columns = np.flatnonzero(ink[top : top + tall].max(0) > 1.5 * threshold)
        length = columns[-1] - columns[0] + 1 if columns.size else 0
        if length >= MIN_LENGTH * width:
            is_line[i] = 1
            num_lines += 1
            num_cut += bool(length >= EDGE_TO_EDGE * width)
            thickest = max(thickest, round(thickness))
    if num_lines == 0:
        return mask, 0, 0
    lines = is_line.take(np.asarray(labels, np.uint16))
    strokes = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((2 * thickest + 2, 1), np.uint8))
    return cv2.subtract(lines, strokes), num_lines, num_cut
