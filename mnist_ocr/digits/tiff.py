"""What TIFF's image file directory (IFD) says, which is also the form of EXIF."""

import struct
from collections.abc import Collection
from typing import Final

from mnist_ocr.digits.headers import Header, fail

_INTEGERS: Final = {1: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 16: "Q", 17: "q"}
_MAX_COUNT: Final = 65_536
"""Fields in a directory, values in a field: bounds what a hostile file costs."""

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_ORIENTATION, _STRIP_OFFSETS, _SAMPLES, _STRIP_BYTES, _PLANAR = 274, 273, 277, 279, 284
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES = 322, 323, 324, 325
_EXTRA_SAMPLES, _SAMPLE_FORMAT, _JPEG_TABLES = 338, 339, 347
_TIFF_FIELDS: Final = frozenset([
    _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _STRIP_OFFSETS, _SAMPLES, _STRIP_BYTES,
    _PLANAR, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES, _EXTRA_SAMPLES, _SAMPLE_FORMAT,
    _JPEG_TABLES,
])  # fmt: skip
_TIFF_SAMPLES: Final = {0: (1,), 1: (1,), 2: (3, 4), 3: (1,), 5: (4,), 6: (3,), 8: (3,)}
"""Samples a pixel by photometric interpretation: grey, RGB(A), palette, CMYK, YCbCr, Lab."""
_TIFF_COMPRESSIONS: Final = {1, 2, 3, 4, 5, 7, 8, 32773, 32946}
"""None, CCITT, LZW, JPEG, Deflate, PackBits: those that OpenCV's wheels are built with."""


def read_tiff(data: bytes) -> Header:
    """Read the first page's directory; refuse what the decoder cannot read, or reads wrongly."""
    fields = _read_ifd(data, _TIFF_FIELDS)

    def first(tag: int, default: int) -> int:
        return (fields.get(tag) or (default,))[0]

    bits, num_samples, photometric = first(_BITS, 1), first(_SAMPLES, 1), first(_PHOTOMETRIC, -1)
    compression, sample_format = first(_COMPRESSION, 1), first(_SAMPLE_FORMAT, 1)
    # OpenCV mixes up deep samples that are stored plane by plane
    is_interleaved = num_samples == 1 or first(_PLANAR, 1) == 1
    is_deep = bits in (10, 12, 14, 16) and photometric <= 2 and is_interleaved
    if not (
        sample_format == 1
        and compression in _TIFF_COMPRESSIONS
        and num_samples in _TIFF_SAMPLES.get(photometric, ())
        and (bits in (1, 8) or (bits == 4 and photometric == 3) or is_deep)
    ):
        fail(
            "unsupported",
            f"The TIFF file has {num_samples} samples of {bits} bits (format {sample_format}, "
            f"photometric {photometric}, compression {compression}): save it as 8-bit grey or RGB.",
        )
    # libtiff decodes what there is of a strip, and OpenCV takes that for a page
    for offsets, sizes in ((_STRIP_OFFSETS, _STRIP_BYTES), (_TILE_OFFSETS, _TILE_BYTES)):
        strips = zip(fields.get(offsets, ()), fields.get(sizes, ()), strict=False)
        if any(offset + size > len(data) for offset, size in strips):
            raise IndexError
    alpha = first(_EXTRA_SAMPLES, 0)
    return Header(
        max(first(_WIDTH, 0), first(_TILE_WIDTH, 0)),
        max(first(_HEIGHT, 0), first(_TILE_HEIGHT, 0)),
        data,
        is_white_zero=photometric == 0,
        is_premultiplied=alpha == 1 or (alpha == 2 and bits == 8),
    )


def read_orientation(exif: bytes) -> int:
    """How the stored image lies, 1-8 (EXIF 2.3, tag 274); 1, upright, where that cannot be read."""
    try:
        values = _read_ifd(exif.removeprefix(b"Exif\0\0"), (_ORIENTATION,)).get(_ORIENTATION)
    except (struct.error, OverflowError):
        return 1
    return values[0] if values and 1 <= values[0] <= 8 else 1


def _read_ifd(data: bytes, tags: Collection[int]) -> dict[int, tuple[int, ...]]:
    """The integer fields of a TIFF's first directory, or of an EXIF block; BigTIFF too.

    A tag that comes again is ignored, as libtiff does; one that holds no integers, or an absurd
    number of them, is empty.

    Raises:
        struct.error, OverflowError: The data end before what they point to.
    """
    order = "<" if data[:2] == b"II" else ">"
    is_big = struct.unpack_from(order + "H", data, 2)[0] == 43
    start, counter, entry, inline = (8, "Q", "HHQ", 8) if is_big else (4, "H", "HHI", 4)
    pointer = order + ("Q" if is_big else "I")
    (at,) = struct.unpack_from(pointer, data, start)
    (num_fields,) = struct.unpack_from(order + counter, data, at)
    at += struct.calcsize(order + counter)
    fields: dict[int, tuple[int, ...]] = {}
    for _ in range(min(num_fields, _MAX_COUNT)):
        tag, kind, count = struct.unpack_from(order + entry, data, at)
        at += struct.calcsize(order + entry)
        if tag in tags and tag not in fields:
            is_read = kind in _INTEGERS and count <= _MAX_COUNT
            values = f"{order}{count}{_INTEGERS[kind]}" if is_read else ""
            is_inline = struct.calcsize(values) <= inline
            where = at if is_inline else struct.unpack_from(pointer, data, at)[0]
            fields[tag] = struct.unpack_from(values, data, where)
        at += inline
    return fields
