"""How far a job is: a line redrawn on a terminal, a log line every ten seconds elsewhere."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Self, TextIO, TypeVar

if TYPE_CHECKING:
    from mnist_ocr.labelling.manifest import ListingMonitor
    from mnist_ocr.labelling.summary import Receipt

logger = logging.getLogger(__name__)

LOOK_INTERVAL_S = 1.0
"""Seconds between two looks at how far the listing is."""

REDRAW_S, LOG_S = 0.25, 10.0
"""Seconds between two lines, on a terminal and in a log."""

RATE_WINDOW_S = 10.0
"""Seconds over which the rate is taken."""

R = TypeVar("R", bound="Receipt")


@dataclass(frozen=True)
class Progress:
    """Where a job stands."""

    num_done: int = 0
    """Rows committed, those of earlier runs of the job included."""
    num_listed: int = 0
    """Objects on record in the manifest."""
    is_listed: bool = False
    """Whether the listing has ended: these are the rows that there will be."""
    num_errors: int = 0
    """Rows of this run whose status is neither ok, blank nor not_a_digit."""
    num_waiting_shards: int = 0
    """Listed and not done, those at work included."""


def follow(
    receipts: Generator[R, None, None],
    earlier: Sequence["Receipt"],
    listing: "ListingMonitor",
    on_progress: Callable[[Progress], None],
) -> Iterator[R]:
    """Pass receipts on, and say after each how far the job is.

    Args:
        receipts: Of this run. Closed if `on_progress` raises, which has the workers end.
        earlier: Receipts of earlier runs.
        listing: Of the job.
        on_progress: Is told.
    """
    num_done, num_shards = sum(receipt.num_images for receipt in earlier), len(earlier)
    num_errors, look_after = 0, monotonic()
    with closing(receipts):
        for receipt in receipts:
            num_done += receipt.num_images
            num_shards += 1
            num_errors += receipt.num_errors
            if monotonic() >= look_after:
                listing.look()
                look_after = monotonic() + LOOK_INTERVAL_S
            num_waiting = max(listing.num_shards - num_shards, 0)  # the last look may be older
            on_progress(
                Progress(num_done, listing.num_listed, listing.has_ended, num_errors, num_waiting)
            )
            yield receipt
    on_progress(Progress(num_done, num_done, True, num_errors))


class ProgressDisplay:
    """Shows the latest progress, from a thread of its own, while its `with` block runs.

    Args:
        stream: Where to draw; if it is no terminal, lines go to the log instead.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._started = monotonic()
        self._history = deque[tuple[float, Progress]]()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._show, name="progress", daemon=True)

    def update(self, progress: Progress) -> None:
        """Take note of progress; cheap, and shown with the next line."""
        now = monotonic()
        while len(self._history) > 2 and self._history[0][0] < now - RATE_WINDOW_S:
            self._history.popleft()
        self._history.append((now, progress))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _show(self) -> None:
        while not self._end.wait(REDRAW_S if self._is_terminal else LOG_S):
            self._draw()
        if self._history:
            self._draw()
        if self._is_terminal:
            self._stream.write("\n")

    def _draw(self) -> None:
        line = format_progress(list(self._history), monotonic() - self._started)
        if self._is_terminal:
            self._stream.write(f"\r\033[K{line}")  # to the line's start, and clear it
            self._stream.flush()
        else:
            logger.info("%s", line)


def format_progress(history: list[tuple[float, Progress]], elapsed_s: float) -> str:
    """One line: done/listed, images/s, errors, and time to go once all are listed.

    Args:
        history: Times in seconds and what was known then; the rate is between first and last.
        elapsed_s: Since the command began; shown until the first shard is done.
    """
    if not history:
        return f"starting workers, {elapsed_s:.0f} s"
    (first_time, first), (last_time, last) = history[0], history[-1]
    total = f"{last.num_listed:,}" + ("" if last.is_listed else " listed so far")
    parts = [f"{last.num_done:,} / {total}"]
    if last_time > first_time and last.num_done > first.num_done:
        rate = (last.num_done - first.num_done) / (last_time - first_time)
        parts.append(f"{rate:,.0f} images/s")
        to_go = last.num_listed - last.num_done
        if last.is_listed and to_go > 0:
            seconds = round(to_go / rate)
            parts.append(f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} to go")
    parts.append(f"{last.num_errors:,} errors")
    return " · ".join(parts)
