"""zip: where its members lie, and what they hold.

Position: `START-END-CRC`: bytes from the local header to at most the next one, and the CRC-32.
"""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from itertools import groupby, pairwise
from typing import Any, BinaryIO

from mnist_ocr.digits.decoding import MAX_BYTES
from mnist_ocr.errors import ObjectError
from mnist_ocr.labelling.members import STORE_ERRORS, Content, Member
from mnist_ocr.labelling.range_reader import LimitedReader

LOCAL_HEADER = struct.Struct("<4s2xHH4xIIIHH")
"""Signature, flags, method, CRC-32, compressed size, size, length of name, length of extra field
(APPNOTE.TXT 4.3.7)."""

MAX_DIRECTORY_BYTES = 64 * 1024**2
"""An entry has 46 bytes and a name, and takes 400 in memory."""

MAX_HEADER_BYTES = LOCAL_HEADER.size + 2 * 65535

LOCAL_SIGNATURE = b"PK\3\4"

_ENCRYPTED, _STREAMED, _UTF8 = 1, 8, 0x800
"""Flags."""


def list_members(file: BinaryIO) -> Iterator[Member]:
    """Every file of the archive, in the order of its bytes; the directory is held in memory.

    Raises:
        ObjectError: `truncated`, after the members before the cut, `corrupt`, `too_large`,
            `unsupported` or `not_an_image`.
    """
    limited: Any = LimitedReader(file, MAX_DIRECTORY_BYTES)
    try:
        archive = zipfile.ZipFile(limited)
    except STORE_ERRORS as error:
        if isinstance(error, ObjectError) and error.status == "too_large":
            reason = f"The zip's directory has more than {MAX_DIRECTORY_BYTES:,} bytes"
            raise ObjectError("too_large", f"{reason}: split the zip, or pack a tar.") from error
        raise
    except (zipfile.BadZipFile, ValueError, OverflowError, OSError, struct.error) as error:
        file.seek(0)
        if file.read(4) != LOCAL_SIGNATURE:
            reason = f"The file is no zip, whatever its name says: {error}."
            raise ObjectError("not_an_image", reason) from error
        yield from _list_truncated(file)
        reason = "The zip has no directory at its end: copy it again. Members may be missing."
        raise ObjectError("truncated", reason) from error
    except NotImplementedError as error:
        raise ObjectError("unsupported", f"The zip cannot be read: {error}.") from error
    infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    if infos and infos[0].header_offset < 0:
        raise ObjectError("corrupt", "The zip has lost its first bytes: copy it again.")
    starts = sorted({info.header_offset for info in infos} | {archive.start_dir})
    next_start = dict(pairwise(starts))
    for start, group in groupby(infos, lambda info: info.header_offset):
        # entries that are the same twice are one member
        same = {info.filename: info for info in group}.values()
        for info in same:
            furthest = start + MAX_HEADER_BYTES + info.compress_size
            if info.filename.endswith("/"):  # not is_dir, which needs a name
                continue
            member = _describe(info, min(next_start.get(start, start), furthest))
            if len(same) > 1:  # a bomb: few bytes, decompressed again and again
                reason = "Several names in the zip's directory lead to the same bytes."
                member = member._replace(status="corrupt", error=reason)
            yield member


def _list_truncated(file: BinaryIO) -> Iterator[Member]:
    """By their own headers; a member that was written as a stream has its sizes behind it."""
    start = 0
    while True:
        file.seek(start)
        header = file.read(LOCAL_HEADER.size)
        if len(header) < LOCAL_HEADER.size or not header.startswith(LOCAL_SIGNATURE):
            return
        _, flags, method, crc, packed, size, name_length, extra_length = LOCAL_HEADER.unpack(header)
        end = start + LOCAL_HEADER.size + name_length + extra_length + packed
        name = file.read(name_length)
        file.seek(end - 1)
        if flags & _STREAMED or not file.read(1):
            return
        info = zipfile.ZipInfo(name.decode("utf-8" if flags & _UTF8 else "cp437", "replace"))
        info.flag_bits, info.compress_type, info.CRC = flags, method, crc
        info.compress_size, info.file_size, info.header_offset = packed, size, start
        if not info.filename.endswith("/"):
            yield _describe(info, end)
        start = end


def _describe(info: zipfile.ZipInfo, end: int) -> Member:
    position = f"{info.header_offset}-{end}-{info.CRC:x}"
    return Member(info.filename, info.file_size, position, *_find_problem(info))


def _find_problem(info: zipfile.ZipInfo) -> tuple[str, str]:
    if info.flag_bits & _ENCRYPTED:
        return "unsupported", "The member is encrypted: pack it without a password."
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        method = f"compressed by method {info.compress_type}"
        return "unsupported", f"The member is {method}: pack it stored or deflated."
    if max(info.file_size, info.compress_size) > MAX_BYTES:
        return "too_large", f"{info.file_size:,} bytes; images may have up to {MAX_BYTES:,}."
    return "", ""


def locate(position: str, size: int) -> tuple[int, int]:
    """First byte of a member's local header, and at most the next member's."""
    start, end, _ = position.split("-")
    return int(start), int(end)


def extract(data: bytes, position: str, size: int) -> Content:
    """A member's content, out of the bytes that `locate` names; never more than `size` bytes.

    Raises:
        ObjectError: `corrupt`.
    """
    try:
        signature, _, method, _, _, _, name_length, extra_length = LOCAL_HEADER.unpack_from(data)
        if signature != LOCAL_SIGNATURE:
            raise ObjectError("corrupt", "There is no member where the zip's directory says.")
        start = LOCAL_HEADER.size + name_length + extra_length
        if method == zipfile.ZIP_STORED:
            content = data[start : start + size]
        else:
            content = zlib.decompressobj(-15).decompress(memoryview(data)[start:], size + 1)
    except (zlib.error, struct.error) as error:
        raise ObjectError("corrupt", f"The zip's member is damaged: {error}.") from error
    if len(content) != size or zlib.crc32(content) != int(position.rpartition("-")[2], 16):
        raise ObjectError("corrupt", "The zip's member does not have its size and checksum.")
    return content
