"""tar: where its members lie. WebDataset's shards are such files.

Position: offset of the data, in bytes.
"""

import re
import tarfile
from collections.abc import Iterator
from tarfile import BLOCKSIZE, NUL
from typing import Any, BinaryIO

from mnist_ocr.errors import ObjectError
from mnist_ocr.labelling.members import STORE_ERRORS, Content, Member
from mnist_ocr.labelling.range_reader import LimitedReader

MAX_PADDING = 64 * 1024
"""Bytes of zeros between an archive's end and another that was appended to it; tar's own padding
goes up to 10 KiB."""

MAX_HEADER_BYTES = 1024**2
"""Of all that describes one member; names have up to 4 KiB, extended attributes 64."""

MAX_NAME = 4096
"""Characters of a member's name or of what it links to, as in Linux's paths."""

MAX_GLOBAL_BYTES = 64 * 1024
"""Of what holds for all members; tarfile copies it for each."""

MAGIC = slice(257, 262)
"""Where a header says `ustar`; the oldest ones do not."""

_SPECIAL = re.compile(rb" (?:path|size|hdrcharset|GNU\.[^=]*)=")
"""What an extended header may say beside times and owners, which do not matter here."""


def list_members(file: BinaryIO) -> Iterator[Member]:
    """Every file of the archive, in its order.

    Raises:
        ObjectError: `truncated`, `corrupt` or `not_an_image`, after the members before the damage.
    """
    offset = 0
    last: Member | None = None
    found: tuple[Member | None, int] | None
    archive: tarfile.TarFile | None = None
    try:
        while True:
            file.seek(offset)
            header = file.read(BLOCKSIZE)
            if last:
                if not header:
                    _check_is_whole(file, last)
                yield last  # now that the archive goes on behind it
                last = None
            if not any(header):
                offset = _find_appended(file, offset, header)
                if not offset:
                    return
            else:
                # headers that hold for the whole archive are tarfile's business
                is_plain = archive is None or not archive.pax_headers
                found = _read_plain(file, header, offset) if is_plain else None
                if not found:
                    archive = archive or _open(file)
                    found = _read_any(archive, offset)
                last, offset = found
    except STORE_ERRORS:
        raise
    except (tarfile.TarError, ValueError, IndexError, OverflowError, RecursionError) as error:
        if not offset and header[MAGIC] != b"ustar":
            reason = "The file is no tar, whatever its name says."
            raise ObjectError("not_an_image", reason) from error
        if not file.read(1):
            reason = "The tar ends within a header: copy it again."
            raise ObjectError("truncated", reason) from error
        reason = str(error).removesuffix(".")
        raise ObjectError(
            "corrupt", f"The tar is damaged at byte {offset:,}: {reason}. Members may be missing."
        ) from error


def _check_is_whole(file: BinaryIO, member: Member) -> None:
    file.seek(max(int(member.position) + member.size - 1, 0))
    if not file.read(1):
        raise ObjectError("truncated", f"The tar ends within its member {member.name!r}.")


def _find_appended(file: BinaryIO, offset: int, header: bytes) -> int:
    """Where the archive goes on behind its end mark: at one that was appended to it; 0 for no."""
    if len(header) < BLOCKSIZE:
        raise ObjectError("truncated", "The tar ends without its end mark: copy it again.")
    padding = file.read(MAX_PADDING)
    length = len(padding) - len(padding.lstrip(NUL))
    return 0 if length == len(padding) else offset + BLOCKSIZE + length // BLOCKSIZE * BLOCKSIZE


def _read_plain(file: BinaryIO, header: bytes, offset: int) -> tuple[Member, int] | None:
    """A file's header, if there is nothing special about it: four times as fast as tarfile."""
    if header[156:157] == tarfile.XHDTYPE:
        num_bytes = _read_size(header)
        if num_bytes is None or num_bytes > MAX_PADDING:
            return None
        records = file.read(_round_up(num_bytes))
        if _SPECIAL.search(records):
            return None
        offset += BLOCKSIZE + len(records)
        header = file.read(BLOCKSIZE)
    name = header[:100].rstrip(NUL)
    if (
        len(header) < BLOCKSIZE
        or header[156:157] not in (tarfile.REGTYPE, tarfile.AREGTYPE)
        or header[345]  # the name goes on there
        or name.endswith(b"/")
        or NUL in name
        or (num_bytes := _read_size(header)) is None
    ):
        return None
    start = offset + BLOCKSIZE
    member = Member(name.decode(errors="surrogateescape"), num_bytes, str(start))
    return member, start + _round_up(num_bytes)


def _read_size(header: bytes) -> int | None:
    """A header's size, if the header is sound and the size an octal number."""
    size, checksum = header[124:136].strip(b" \0"), header[148:156].strip(b" \0")
    if not (len(header) == BLOCKSIZE and size.isdigit() and checksum.isdigit()):
        return None
    blank = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    return int(size, 8) if int(checksum, 8) == blank else None


def _round_up(num_bytes: int) -> int:
    return -(-num_bytes // BLOCKSIZE) * BLOCKSIZE


def _open(file: BinaryIO) -> tarfile.TarFile:
    # not tarfile.open, which would look for compression
    file.seek(0)
    limited: Any = LimitedReader(file, MAX_HEADER_BYTES)
    archive = tarfile.TarFile(fileobj=limited, errors="surrogateescape", encoding="utf-8")
    archive.firstmember = None  # type: ignore[attr-defined]
    return archive


def _read_any(archive: tarfile.TarFile, offset: int) -> tuple[Member | None, int]:
    """What tarfile makes of a header, or of several for one member."""
    archive.offset = offset
    archive.fileobj.seek(offset)
    archive.fileobj.renew()  # type: ignore[attr-defined]
    info = archive.next()
    archive.members.clear()  # type: ignore[attr-defined]
    if sum(len(key) + len(text) for key, text in archive.pax_headers.items()) > MAX_GLOBAL_BYTES:
        raise tarfile.ReadError("global headers without end")
    if not info:
        raise tarfile.ReadError("no header")
    size, position = info.size, str(info.offset_data)
    if size < 0 or archive.offset <= offset:
        raise tarfile.ReadError("a size below zero")
    if info.isreg() and not info.issparse():
        name = info.pax_headers.get("path", info.name)  # which tarfile strips of slashes
        if len(name) > MAX_NAME:
            error = f"A name of {len(name):,} characters inside an archive, more than {MAX_NAME:,}."
            return Member(name[:MAX_NAME], size, position, "too_large", error), archive.offset
        return Member(name, size, position), archive.offset
    if info.isdir() or info.isdev():
        return None, archive.offset
    what = "A sparse file" if info.isreg() else f"A link to {info.linkname[:MAX_NAME]!r}"
    error = f"{what} inside an archive is not followed: pack the file itself."
    return Member(info.name[:MAX_NAME], size, position, "unsupported", error), archive.offset


def locate(position: str, size: int) -> tuple[int, int]:
    """First byte of a member, and the one behind its last."""
    return int(position), int(position) + size


def extract(data: bytes, position: str, size: int) -> Content:
    """A member's content, out of the bytes that `locate` names."""
    return data
