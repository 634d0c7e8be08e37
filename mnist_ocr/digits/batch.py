"""Many encoded images as one array; one that cannot be read becomes a status, not an error."""

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnist_ocr.digits.canonical import IMAGE_SIZE, is_canonical, view_page, view_pages
from mnist_ocr.digits.decoding import UnreadableImageError, decode_image
from mnist_ocr.digits.guards import limited
from mnist_ocr.errors import ObjectError
from mnist_ocr.stopwatch import Stopwatch

OK, BLANK = "ok", "blank"

CHUNK_SIZE, CHUNK_BYTES = 32, 16 * 1024**2
"""Images fetched, then decoded, and their bytes, whichever comes first: enough that taking the time
and setting a timer cost nothing, few enough that large ones fit into memory."""

STACK_SIZE = 64
"""Pages of 28x28 pixels that are cleaned at once: enough to spread the cost of numpy's calls."""


Content = bytes | NDArray[np.uint8] | ObjectError
"""An encoded image, a grey (H, W) page, or why there is none."""


@dataclass
class ImageBatch:
    """N images on their way to the network; what could not be read keeps its place."""

    images: NDArray[np.uint8]
    """(N, 28, 28), the canonical view: white ink on black, cleaned; zeros where there is none."""
    raw: NDArray[np.uint8]
    """(N, 28, 28), the raw view: the page in the same frame, not cleaned; the canonical view itself
    where the page was in MNIST's form already."""
    trust: NDArray[np.float32]
    """(N,) from 0 to 1: how clearly ink stood out from paper; 1 for a page in MNIST's form."""
    status: list[str]
    """`ok`, `blank`, or why there is no image."""
    error: list[str | None]
    """A sentence for a person, where the status is not `ok`."""

    @classmethod
    def build_empty(cls, num_images: int) -> "ImageBatch":
        """All zeros, trusted and `ok`: to be filled in."""
        shape = (num_images, IMAGE_SIZE, IMAGE_SIZE)
        images, raw = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
        trust = np.ones(num_images, np.float32)
        return cls(images, raw, trust, [OK] * num_images, [None] * num_images)

    @property
    def is_ok(self) -> NDArray[np.bool_]:
        """Which images the network may be asked about: (N,) bool."""
        return np.fromiter((status == OK for status in self.status), np.bool_, len(self.status))


def prepare_images(
    contents: Iterable[Content],
    num_images: int,
    watch: Stopwatch | None = None,
    *,
    is_guarded: bool = False,
) -> ImageBatch:
    """Decode and canonicalise; never raises for bad data.

    Args:
        contents: `num_images` encoded images, grey (H, W) uint8 pages, or reasons why not.
        num_images: How many there are; they may come from an iterator.
        watch: Times `fetch`, `decode` and `canonicalise`.
        is_guarded: Limit what decoding may take (guards.py): it may end this process, or raise
            MemoryError. Fetching is free.
    """
    watch = watch or Stopwatch()
    limit = limited if is_guarded else nullcontext
    batch = ImageBatch.build_empty(num_images)
    framed: list[int] = []
    start, rest = 0, iter(contents)  # enumerate would keep its last one
    while chunk := _take_chunk(rest):
        watch.lap("fetch")
        with limit():
            framed += _view_chunk(chunk, start, batch, watch)
        start += len(chunk)
        chunk.clear()  # before the next is fetched
    with limit():
        _view_framed(framed, batch)
    watch.lap("canonicalise")
    return batch


def _view_framed(framed: list[int], batch: ImageBatch) -> None:
    """Both views of pages of 28x28 pixels."""
    images, raw = batch.images, batch.raw
    raw[framed] = images[framed]
    # many at once: MNIST's own images cost next to nothing, others three fifths
    moved = np.array(framed, np.int64)[~is_canonical(images[framed])].tolist()
    for start in range(0, len(moved), STACK_SIZE):
        stack = moved[start : start + STACK_SIZE]
        for i, view in zip(stack, view_pages(images[stack]), strict=True):
            images[i], raw[i], batch.trust[i] = view
    for i in np.flatnonzero(~images.any((1, 2))).tolist():
        if batch.status[i] == OK:
            batch.status[i], batch.error[i] = BLANK, "The page is blank: no ink stands out on it."


def _take_chunk(contents: Iterator[Content]) -> list[Content]:
    chunk: list[Content] = []
    num_bytes = 0
    for content in contents:
        chunk.append(content)
        if not isinstance(content, ObjectError):
            num_bytes += len(content) if isinstance(content, bytes) else content.nbytes
        if len(chunk) == CHUNK_SIZE or num_bytes >= CHUNK_BYTES:
            break
    return chunk


def _view_chunk(chunk: list[Content], start: int, batch: ImageBatch, watch: Stopwatch) -> list[int]:
    """Fill in the batch from `start` on; which pages have 28x28 pixels, and no views yet."""
    framed = []
    for i, content in enumerate(chunk, start):
        page = _decode(content)
        if isinstance(page, Exception):
            batch.status[i], batch.error[i] = page.status, str(page)
        elif page.shape == (IMAGE_SIZE, IMAGE_SIZE):
            batch.images[i] = page
            framed.append(i)
        else:
            watch.lap("decode")
            batch.images[i], batch.raw[i], batch.trust[i] = view_page(page)
            watch.lap("canonicalise")
    watch.lap("decode")
    return framed


def _decode(content: Content) -> NDArray[np.uint8] | ObjectError | UnreadableImageError:
    if not isinstance(content, bytes):
        return content
    try:
        return decode_image(content)
    except UnreadableImageError as reason:
        return reason.with_traceback(None)  # whose frames hold the file
