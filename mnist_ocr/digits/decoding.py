"""Encoded bytes -> a grey page, as a person would see it on paper, or one reason why not.

PNG, JPEG, TIFF, BMP, GIF and WebP; the first frame or page of files with many. Bit depths are
scaled to 8, palettes and colours become grey (Rec. 601), transparent parts show the paper, EXIF
(in PNG: the eXIf chunk) and TIFF orientations are applied. BMP's alpha is ignored: mostly it is
padding.

Decoding is OpenCV's; `headers` refuses beforehand what would hurt it. What stays undetected:
damage inside JPEG or CCITT-compressed pixels, which have no checksum.
"""

import functools
import struct
from collections.abc import Callable
from typing import Final

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray

from mnist_ocr.digits.headers import (
    DECODE_STATUSES,
    Header,
    UnreadableImageError,
    fail,
    read_bmp,
    read_gif,
    read_jpeg,
    read_webp,
)
from mnist_ocr.digits.png import read_png
from mnist_ocr.digits.tiff import read_orientation, read_tiff

__all__ = [
    "DECODE_STATUSES",
    "MAX_BYTES",
    "MAX_PIXELS",
    "UnreadableImageError",
    "decode_image",
    "name_format",
]

Image = NDArray[np.uint8]

MAX_PIXELS: Final = 36_000_000
"""Pixels of the largest page: A4 at 600 dpi is 34.8 million. The hungriest kind, 16-bit RGBA, was
measured at 16 bytes a pixel beside the file; with the largest file, and 250 MB for Python, OpenCV
and the model, a worker stays below 1 GB."""

MAX_BYTES: Final = 128 * 1024**2
"""Bytes of the largest file: a page of `MAX_PIXELS` fits as uncompressed 8-bit RGB."""

_MAX_SIDE: Final = 1_000_000  # libpng's limit; OpenCV's is 2**20
_GREY: Final = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION


def decode_image(data: bytes) -> Image:
    """Decode an image file of untrusted origin.

    Turns OpenCV's own log off for the process: it would repeat each error on stderr. A line that
    libjpeg or libpng itself prints about a damaged file remains.

    Args:
        data: The whole file.

    Returns:
        (H, W) uint8 page, 0 black to 255 white.

    Raises:
        UnreadableImageError: There is no page; `status` says why in a word.
    """
    header = _read_header(data)
    _silence_opencv()
    flags = _GREY if header.is_opaque else cv2.IMREAD_UNCHANGED
    encoded = np.frombuffer(header.encoded, np.uint8)
    try:
        image, kinds, metadata = cv2.imdecodeWithMetadata(encoded, flags)
    except cv2.error:
        image = None
    if image is None:
        fail("corrupt", "The pixels cannot be decoded: copy the file again, or save it anew.")
    page = _to_grey(image, header)
    if cv2.IMAGE_METADATA_EXIF in kinds:
        exif = metadata[list(kinds).index(cv2.IMAGE_METADATA_EXIF)]
        page = _turn_upright(page, read_orientation(exif.tobytes()))
    return page


def _read_header(data: bytes) -> Header:
    """Tell the format by its first bytes, never by a file's name, and read its header.

    Raises:
        UnreadableImageError: With any status; past this, only the pixels can be bad.
    """
    if not data:
        fail("empty", "The file is empty: 0 bytes.")
    if len(data) > MAX_BYTES:
        fail("too_large", f"The file has {len(data):,} bytes; at most {MAX_BYTES:,} are read.")
    name, read = _find_format(data)
    try:
        header = read(data)
    except (struct.error, IndexError, OverflowError):
        fail("truncated", f"The {name} file ends early, after {len(data):,} bytes: copy it again.")
    width, height = header.width, header.height
    if width < 1 or height < 1:
        fail("corrupt", f"The {name} file claims {width} x {height} pixels: save it again.")
    if width * height > MAX_PIXELS or max(width, height) > _MAX_SIDE:
        fail(
            "too_large",
            f"The {name} file has {width:,} x {height:,} pixels, more than {MAX_PIXELS:,} "
            f"in all or {_MAX_SIDE:,} a side: scale it down or cut it up.",
        )
    return header


def name_format(data: bytes) -> str | None:
    """PNG, JPEG, TIFF, BMP, GIF, WebP, or None, by the first bytes alone."""
    try:
        name, _ = _find_format(data)
    except UnreadableImageError:
        return None
    return name


def _find_format(data: bytes) -> tuple[str, Callable[[bytes], Header]]:  # noqa: RET503  fail() never returns
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG", read_png
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG", read_jpeg
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF", read_tiff
    # "BM" alone begins many a text; the size of the second header, 12 to 124, has three zeros
    if data.startswith(b"BM") and data[15:18] == b"\0\0\0":
        return "BMP", read_bmp
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF", read_gif
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP", read_webp
    fail(
        "not_an_image",
        f"The file is not PNG, JPEG, TIFF, BMP, GIF or WebP: it starts with {data[:12]!r}.",
    )


@functools.cache
def _silence_opencv() -> None:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def _to_grey(image: MatLike, header: Header) -> Image:
    """(H, W), (H, W, 3) BGR or (H, W, 4) BGRA, uint8 or uint16, to (H, W) uint8."""
    alpha: MatLike | None = None
    if header.transparent_grey is not None:
        alpha = np.where(image == header.transparent_grey, 0, 255).astype(np.uint8)
    if image.dtype == np.uint16:
        image = cv2.convertScaleAbs(image, alpha=255 / 65535)
        if header.is_white_zero:  # of 8 bits OpenCV has made black 0 itself
            image = cv2.bitwise_not(image)
    if image.ndim == 3:
        if image.shape[2] == 4:
            alpha = cv2.extractChannel(image, 3)
        image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY if alpha is None else cv2.COLOR_BGRA2GRAY)
    if alpha is not None:
        image = _lay_on_paper(image, alpha, header.is_premultiplied)
    return image.astype(np.uint8, copy=False)


def _lay_on_paper(grey: MatLike, alpha: MatLike, is_premultiplied: bool) -> MatLike:
    """Show what is behind a transparent page: white paper, or black where white shows no ink.

    White is what a viewer shows, and right for a card with its own background. Ink that is all
    light would vanish on it: black paper is taken where white gives ink less than half the range
    and black gives it more.
    """
    on_black = grey if is_premultiplied else cv2.multiply(grey, alpha, scale=1 / 255)
    on_white = cv2.add(on_black, 255 - alpha)
    ink_on_white, ink_on_black = 255 - int(on_white.min()), int(on_black.max())
    return on_white if ink_on_white >= min(128, ink_on_black) else on_black


def _turn_upright(page: Image, orientation: int) -> Image:
    """Undo EXIF orientation 1-8."""
    if orientation >= 5:
        page = page.T
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(page[::rows, ::columns])
