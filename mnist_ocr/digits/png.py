"""What a PNG's chunks say, and no more of them than make pixels."""

import struct
import zlib
from typing import Final

from mnist_ocr.digits.headers import MAX_SEGMENTS, Header, fail

_U16, _U32 = struct.Struct(">H"), struct.Struct(">I")
_PNG_HEADER: Final = struct.Struct(">16xIIBB")
_PNG_CHUNK: Final = struct.Struct(">I4s")
_PNG_DEPTHS: Final = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""Bits a sample by colour type (PNG specification 11.2.1)."""
_PNG_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_MAX_DEFLATE_RATIO: Final = 1032
"""Of deflate: two bits may stand for 258 bytes (zlib Technical Details, "Maximum Compression
Factor")."""
_CHEAP_BYTES: Final = 256 * 1024**2
"""What is inflated in half a second."""
_INFLATED_AT_ONCE: Final = 16 * 1024  # compressed bytes, of up to 17 MB
_PNG_GREY_STEPS: Final = {1: 255, 2: 85, 4: 17, 8: 1, 16: 1}
"""What the decoder multiplies grey levels by."""
_PNG_KEPT: Final = frozenset([b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"])


def read_png(data: bytes) -> Header:
    """Check the chunks that make pixels, and pass on no others.

    The decoder ignores a damaged tRNS, prints about odd metadata, inflates compressed text and
    composes animations: of these it sees nothing.
    """
    width, height, depth, colour = _PNG_HEADER.unpack_from(data)
    if data[12:16] != b"IHDR" or depth not in _PNG_DEPTHS.get(colour, ()):
        fail("corrupt", f"The PNG file has no valid header: {depth} bits, colour type {colour}.")
    transparent_grey, is_thinned = None, False
    kept, at = [(0, 8)], 8
    for _ in range(MAX_SEGMENTS):
        start = at
        length, kind = _PNG_CHUNK.unpack_from(data, at)
        at += length + 12
        if kind not in _PNG_KEPT:
            is_thinned = True
            continue
        kept.append((start, at))
        if zlib.crc32(data[start + 4 : at - 4]) != _U32.unpack_from(data, at - 4)[0]:
            fail("corrupt", f"The PNG file is damaged near byte {start:,}: copy it again.")
        if kind == b"tRNS" and colour == 0:
            (level,) = _U16.unpack_from(data, start + 8)
            transparent_grey = (level & ((1 << depth) - 1)) * _PNG_GREY_STEPS[depth]
        if kind == b"IEND":
            break
    else:
        fail("too_large", f"The PNG file has over {MAX_SEGMENTS:,} chunks: save it again.")
    if len(data) * _MAX_DEFLATE_RATIO > _CHEAP_BYTES:
        pixels = [part for part in kept if data[part[0] + 4 : part[0] + 8] == b"IDAT"]
        # a byte for each row's filter; interlaced images have more, shorter rows
        num_bytes = 2 * height * (width * depth * _PNG_CHANNELS[colour] // 8 + 2)
        _check_inflated(data, pixels, num_bytes)
    if is_thinned:
        data = b"".join(data[start:end] for start, end in kept)
    return Header(width, height, data, transparent_grey=transparent_grey)


def _check_inflated(data: bytes, chunks: list[tuple[int, int]], max_bytes: int) -> None:
    """Refuse pixels that inflate to far more than the header says; the decoder would inflate all.

    What cannot take long is let through.
    """
    num_packed = sum(end - start for start, end in chunks)
    if num_packed * _MAX_DEFLATE_RATIO < max(_CHEAP_BYTES, 2 * max_bytes):
        return
    inflater, view = zlib.decompressobj(), memoryview(data)
    for start, end in chunks:
        for at in range(start + 8, end - 4, _INFLATED_AT_ONCE):
            piece = view[at : min(at + _INFLATED_AT_ONCE, end - 4)]
            try:
                max_bytes -= len(inflater.decompress(piece))
            except zlib.error:
                return  # the decoder says the same
            if max_bytes < 0:
                fail("corrupt", "The PNG file holds more pixels than its header says.")
