"""What encoded bytes say about their image, before a decoder sees them.

Format, size and completeness are read here in microseconds, so that a decompression bomb, half a
file or a web page saved as .png costs nothing. No parser trusts what it reads: whatever points
outside the data raises, and counts as truncated.
"""

import re
import struct
from dataclasses import dataclass
from typing import Final, NoReturn

DECODE_STATUSES: Final = {
    "empty": "there are no bytes",
    "not_an_image": "the bytes are not PNG, JPEG, TIFF, BMP, GIF or WebP",
    "unsupported": "a variant of its format that is not read",
    "truncated": "the file ends before its image does",
    "corrupt": "the file contradicts its format or its checksum",
    "too_large": "decoding it needs more memory than a worker has",
}
"""Why there is no page, with a gloss for each."""


class UnreadableImageError(ValueError):
    """Encoded bytes that give no page.

    Attributes:
        status: The reason, a key of `DECODE_STATUSES`.
    """

    def __init__(self, status: str, error: str) -> None:
        assert status in DECODE_STATUSES, status
        super().__init__(error)
        self.status = status


@dataclass(slots=True)
class Header:
    """What must be known before the pixels are decoded, or cannot be seen in them."""

    width: int
    """Pixels across of the largest raster that the decoder fills; may exceed the page's."""
    height: int
    encoded: bytes
    """What the decoder is given."""
    is_opaque: bool = False
    """8 bits a sample and no transparency, so that the decoder may convert to grey itself."""
    transparent_grey: int | None = None
    """PNG: the one grey level, as decoded, that is transparent."""
    is_white_zero: bool = False
    """TIFF: 0 is white and 16-bit samples still say so."""
    is_premultiplied: bool = False
    """TIFF: colours come multiplied by alpha."""


MAX_SEGMENTS: Final = 65_536
"""Chunks or segments that a file is walked through: bounds the time of a hostile one."""


def fail(status: str, error: str) -> NoReturn:
    """Raise `UnreadableImageError`."""
    raise UnreadableImageError(status, error)


_U16 = struct.Struct(">H")
_JPEG_MARKER: Final = re.compile(rb"\xff([^\x00\xff])")
_JPEG_NEXT_SEGMENT: Final = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
_JPEG_FRAME: Final = struct.Struct(">2xBHHB")
_JPEG_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # not DHT, JPG, DAC
_JPEG_STANDALONE: Final = frozenset([0x01, *range(0xD0, 0xD9)])  # TEM, RST0-7, SOI
_EOI, _SOS, _APP14 = 0xD9, 0xDA, 0xEE
_MAX_SCANS: Final = 50
"""Each goes over all pixels, 30 ms for the largest page, and may take a few bytes of the file;
encoders write about 10."""


def read_jpeg(data: bytes) -> Header:
    """Walk the segments up to the first scan, over junk between them as libjpeg does."""
    header, num_components, is_adobe, at = Header(0, 0, data, is_opaque=True), 0, False, 2
    for _ in range(MAX_SEGMENTS):
        found = _JPEG_MARKER.search(data, at)
        if found is None:
            raise IndexError
        marker, at = found[1][0], found.end()
        if marker in (_SOS, _EOI):
            break
        if marker in _JPEG_STANDALONE:
            continue
        if marker in _JPEG_FRAMES:
            bits, header.height, header.width, num_components = _JPEG_FRAME.unpack_from(data, at)
            if bits != 8:
                fail("unsupported", f"The JPEG file has {bits} bits a sample: save it with 8.")
        is_adobe |= marker == _APP14 and data.startswith(b"Adobe", at + 2)
        at += _U16.unpack_from(data, at)[0]
    if data.count(b"\xff\xda") > _MAX_SCANS:
        _check_scans(data, at)
    # libjpeg leaves CMYK as stored; the decoder takes 0 for full ink, which only Adobe's marker
    # vouches for
    if num_components == 4 and not is_adobe:
        fail("unsupported", "The JPEG file is CMYK without Adobe's marker: save it as RGB.")
    if data.rfind(b"\xff\xd9") < at - 2:
        raise IndexError
    return header


def _check_scans(data: bytes, at: int) -> None:
    """Count the scans behind the first one; what looks like some may be other data."""
    num_scans, marker = 1, _SOS
    while num_scans <= _MAX_SCANS and marker != _EOI:
        at += _U16.unpack_from(data, at)[0]
        found = _JPEG_NEXT_SEGMENT.search(data, at)
        if found is None:
            return
        marker, at = found[1][0], found.end()
        num_scans += marker == _SOS
    if num_scans > _MAX_SCANS:
        fail("too_large", f"The JPEG file has more than {_MAX_SCANS} scans: save it again.")


_BMP_HEADER: Final = struct.Struct("<10xII")
_BMP_CORE_SIZE: Final = 12
_BYTE_MASKS: Final = {0xFF, 0xFF00, 0xFF0000, 0xFF000000}


def read_bmp(data: bytes) -> Header:
    """Read both headers and see whether all rows are there; bytes for alpha are mostly padding."""
    pixels, header_size = _BMP_HEADER.unpack_from(data)
    compression = size = 0
    if header_size == _BMP_CORE_SIZE:
        width, height, bits = struct.unpack_from("<HH2xH", data, 18)
    else:
        width, height, bits, compression, size = struct.unpack_from("<ii2xHII", data, 18)
    height = abs(height)  # negative: stored from the top down
    if bits not in (1, 4, 8, 16, 24, 32) or compression > 3:
        fail("unsupported", f"The BMP file has {bits} bits a pixel, compression {compression}.")
    if compression == 3 and bits == 32:  # bit fields: right in OpenCV only in these cases
        masks = struct.unpack_from("<3I", data, 54)
        is_usual = masks == (0xFF0000, 0xFF00, 0xFF)
        if not is_usual and (header_size < 56 or not set(masks) <= _BYTE_MASKS):
            fail("unsupported", "The BMP file has unusual bit fields: save it with 24 bits.")
    if compression not in (1, 2):  # neither 8-bit nor 4-bit run lengths
        size = (width * bits + 31) // 32 * 4 * (height - 1) + (width * bits + 7) // 8
    if pixels + size > len(data):
        raise IndexError
    return Header(width, height, data, is_opaque=True)


_GIF_IMAGE, _GIF_EXTENSION, _GIF_TRAILER = 0x2C, 0x21, b";"
_MAX_BLOCKS: Final = 1_000_000  # the largest page, incompressible, takes 212,000 of 255 bytes


def read_gif(data: bytes) -> Header:
    """Walk the blocks to the end of the first frame, and pass on no others.

    The decoder would take the last frame's word for whether the first is transparent.
    """
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + _color_table_bytes(flags)
    num_blocks = 0
    while num_blocks < _MAX_BLOCKS:
        kind = data[at]
        if kind == _GIF_IMAGE:
            left, top, columns, rows, flags = struct.unpack_from("<4HB", data, at + 1)
            at += 11 + _color_table_bytes(flags)
        elif kind == _GIF_EXTENSION:
            at += 2
        else:
            fail("corrupt", f"The GIF file has no frame at byte {at:,}: copy it again.")
        while (length := data[at]) and num_blocks < _MAX_BLOCKS:
            at += 1 + length
            num_blocks += 1
        at += 1
        num_blocks += 1
        if kind == _GIF_IMAGE and not length:
            encoded = data[:at] + _GIF_TRAILER
            return Header(max(width, left + columns), max(height, top + rows), encoded)
    fail("too_large", f"The GIF file has over {_MAX_BLOCKS:,} blocks: save it again.")


def _color_table_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def read_webp(data: bytes) -> Header:
    """Read the first chunk: a canvas, or a lossless or lossy bitstream (RFC 9649)."""
    size, kind = struct.unpack_from("<4xI4x4s", data)
    if size + 8 > len(data):
        raise IndexError
    if kind == b"VP8X":
        low = struct.unpack_from("<HBHB", data, 24)
        width, height = (low[0] | low[1] << 16) + 1, (low[2] | low[3] << 16) + 1
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        fail("corrupt", f"The WebP file starts with a chunk {kind!r}: save it again.")
    return Header(width, height, data)
