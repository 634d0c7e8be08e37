"""tar: where its members lie. WebDataset's shards are such files.

Position: offset of the data, in bytes.
"""

import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from mnist_ocr.errors import ObjectError
from mnist_ocr.labelling.members import Content, Member

MAX_PADDING = 64 * 1024
"""Bytes of zeros between an archive's end and another that was appended to it; tar's own padding
goes up to 10 KiB."""


def list_members(file: BinaryIO) -> Iterator[Member]:
    """Every file of the archive, in its order.

    Raises:
        ObjectError: `truncated`, `corrupt` or `not_an_image`, after the members before the damage.
    """
    try:
        # not TarFile.open, which would look for compression; and a TarFile keeps what it has listed
        archive = tarfile.TarFile(fileobj=file, errors="surrogateescape", encoding="utf-8")
        while info := _next(archive, file):
            end = info.offset_data + info.size
            if info.isreg() and not info.issparse():
                file.seek(max(end - 1, 0))
                if not file.read(1):
                    raise ObjectError("truncated", f"The tar ends within its member {info.name!r}.")
                yield Member(info.name, info.size, str(info.offset_data))
            elif info.isreg():
                yield _refuse(info, "A sparse file")
            elif info.islnk() or info.issym():
                yield _refuse(info, f"A link to {info.linkname!r}")
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        raise _explain(file, error) from error


def _refuse(info: tarfile.TarInfo, what: str) -> Member:
    error = f"{what} inside an archive is not followed: pack the file itself."
    return Member(info.name, info.size, str(info.offset_data), "unsupported", error)


def _next(archive: tarfile.TarFile, file: BinaryIO) -> tarfile.TarInfo | None:
    """The next member, also behind the end of an archive that another was appended to."""
    info = archive.next()
    archive.members.clear()  # type: ignore[attr-defined]
    if info:
        return info
    start = archive.offset
    for offset in range(start, start + MAX_PADDING, tarfile.BLOCKSIZE):
        file.seek(offset)
        block = file.read(tarfile.BLOCKSIZE)
        if not block and offset > start:
            return None
        if len(block) < tarfile.BLOCKSIZE:
            raise ObjectError("truncated", "The tar ends without its end mark: copy it again.")
        if any(block):
            if offset == start:
                raise tarfile.ReadError(f"no header at byte {start:,}")
            archive.offset = offset
            file.seek(offset)
            return _next(archive, file)
    return None


def _explain(file: BinaryIO, error: Exception) -> ObjectError:
    reason = str(error).removesuffix(".")
    if "unexpected end" in reason:
        return ObjectError("truncated", "The tar ends too early: copy it again.")
    if isinstance(error, tarfile.ReadError) and not file.tell() > 2 * tarfile.BLOCKSIZE:
        return ObjectError("not_an_image", f"The file is no tar, whatever its name says: {reason}.")
    return ObjectError("corrupt", f"The tar is damaged: {reason}. Members may be missing.")


def locate(position: str, size: int) -> tuple[int, int]:
    """First byte of a member, and the one behind its last."""
    return int(position), int(position) + size


def extract(data: bytes, position: str, size: int) -> Content:
    """A member's content, out of the bytes that `locate` names."""
    return data
