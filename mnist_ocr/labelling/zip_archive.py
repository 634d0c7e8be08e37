"""zip: where its members lie, and what they hold.

Position: `START-END-CRC`: bytes from the local header to at most the next one, and the CRC-32.
"""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from itertools import pairwise
from typing import BinaryIO

from mnist_ocr.digits.decoding import MAX_BYTES
from mnist_ocr.errors import ObjectError
from mnist_ocr.labelling.members import Content, Member

LOCAL_HEADER = struct.Struct("<4s2xHH16xHH")
"""Signature, flags, method, length of name, length of extra field (APPNOTE.TXT 4.3.7)."""

MAX_HEADER_BYTES = LOCAL_HEADER.size + 2 * 65535

_ENCRYPTED = 1


def list_members(file: BinaryIO) -> Iterator[Member]:
    """Every file of the archive, in the order of its bytes; the directory is held in memory.

    Raises:
        ObjectError: `truncated`, `corrupt`, `too_large` or `not_an_image`: there is no directory.
    """
    file.seek(0)
    has_start = file.read(4) == b"PK\3\4"
    try:
        archive = zipfile.ZipFile(file)
    except ObjectError:
        raise
    except (zipfile.BadZipFile, ValueError, OverflowError, OSError, struct.error) as error:
        raise _explain(has_start, error) from error
    except NotImplementedError as error:
        raise ObjectError("unsupported", f"The zip cannot be read: {error}.") from error
    infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    starts = sorted({info.header_offset for info in infos} | {archive.start_dir})
    next_start = dict(pairwise(starts))
    seen: set[tuple[int, str]] = set()
    for info in infos:
        start = info.header_offset
        if info.is_dir() or (start, info.filename) in seen:
            continue
        seen = {each for each in seen if each[0] == start} | {(start, info.filename)}
        furthest = start + MAX_HEADER_BYTES + info.compress_size
        end = min(next_start.get(start, start), furthest)
        yield Member(
            info.filename, info.file_size, f"{start}-{end}-{info.CRC:x}", *_find_problem(info)
        )


def _explain(has_start: bool, error: Exception) -> ObjectError:
    if has_start:
        return ObjectError(
            "truncated", "The zip has no directory at its end: copy it again, or repair it."
        )
    return ObjectError("not_an_image", f"The file is no zip, whatever its name says: {error}.")


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
        signature, _, method, name_length, extra_length = LOCAL_HEADER.unpack_from(data)
        if signature != b"PK\3\4":
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
