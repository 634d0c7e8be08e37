"""Archives by name: tar, tar.gz, zip, Parquet with images, MNIST's idx; their members as objects.

A member's name is `archive::member`: `digits.tar::7/0001.png`, `train.parquet::41`. Nothing is ever
extracted to a disk, so a member may have any name. An archive within an archive is a member.
"""

import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO, cast

from mnist_ocr.errors import ObjectError, StorageUnreachableError
from mnist_ocr.labelling import idx_archive, parquet_archive, tar_archive, zip_archive
from mnist_ocr.labelling.locator import Locator
from mnist_ocr.labelling.members import Content, Member
from mnist_ocr.labelling.range_reader import GunzipReader, RangeReader
from mnist_ocr.storage import ByteRange, ObjectInfo, Store

SEPARATOR = "::"

MAX_SIZE = 2**63 - 1
"""Bytes that a manifest's column can say; a damaged archive may claim more."""

MIN_LIMIT = 1000
"""Members that even the smallest archive may have; any other no more than bytes."""

READ_ERRORS = (ObjectError, EOFError, zlib.error, gzip.BadGzipFile)
"""What reading from `open_archive` may raise for the archive's own fault."""


@dataclass(frozen=True)
class Format:
    """How members of a kind of archive are listed and read."""

    list_members: Callable[[BinaryIO], Iterator[Member]]
    locate: Callable[[str, int], tuple[int, int]] | None = None
    """(position, size) of a member -> its bytes' start and end; None where it has none."""
    extract: Callable[[bytes, str, int], Content] | None = None
    """(those bytes, position, size) -> content."""
    is_gzipped: bool = False
    """Whether the bytes are those behind the compression of the whole."""
    has_names: bool = True
    """Whether members have names of their own."""


_TAR = (tar_archive.list_members, tar_archive.locate, tar_archive.extract)
_IDX = (idx_archive.list_members, idx_archive.locate, idx_archive.extract)
_FORMATS = {
    r"\.tar": Format(*_TAR),
    r"\.(?:tar\.gz|tgz)": Format(*_TAR, is_gzipped=True),
    r"\.zip": Format(zip_archive.list_members, zip_archive.locate, zip_archive.extract),
    r"\.parquet": Format(parquet_archive.list_members, has_names=False),
    r"(?:[.-]idx3-ubyte|\.idx)": Format(*_IDX, has_names=False),
    r"(?:[.-]idx3-ubyte|\.idx)\.gz": Format(*_IDX, is_gzipped=True, has_names=False),
}
_NAME = re.compile("|".join(f"({pattern})" for pattern in _FORMATS).join(["(?:", ")$"]), re.I)
_MEMBER = re.compile(f"(.+?(?:{'|'.join(_FORMATS)})){SEPARATOR}", re.I | re.S)


@lru_cache(1024)
def find_format(name: str) -> Format | None:
    """What kind of archive an object is by its name, if it is any."""
    match = _NAME.search(name)
    return list(_FORMATS.values())[match.lastindex - 1] if match and match.lastindex else None


def archive_of(name: str) -> str:
    """The archive's name, out of a member's."""
    match = _MEMBER.match(name)
    assert match, f"{name} is no member of an archive"
    return match[1]


def list_archive(store: Store, name: str, info: ObjectInfo, line: str = "") -> Iterator[ObjectInfo]:
    """An archive's members, in its order; what is wrong with it becomes an entry of its own.

    Args:
        store: Where it lies.
        name: Its name there.
        info: What its members are to be named after; its size and etag.
        line: Of the list that names it, if one does.

    Raises:
        StorageUnreachableError: the store does not answer, or asks to slow down.
    """
    form = find_format(info.name)
    assert form, f"{info.name} is no archive"
    is_empty = True
    try:
        if not info.size:
            raise ObjectError("empty", "The archive is empty: 0 bytes.")
        if info.size < 0:
            raise ObjectError("unreadable", "The store does not tell how large the archive is.")
        file = open_archive(store.read_range, info._replace(name=name))
        for num_before, member in enumerate(form.list_members(file)):
            if num_before == max(info.size, MIN_LIMIT):
                raise ObjectError(
                    "corrupt", f"The archive claims more members than it has bytes, {info.size:,}."
                )
            is_empty = False
            position = member.position
            if not form.locate or form.is_gzipped:
                position += f"/{info.size}"  # its reader needs the size of the archive
            locator = Locator(info.etag, position, line, member.status, member.error)
            size = min(member.size, MAX_SIZE)
            yield ObjectInfo(f"{info.name}{SEPARATOR}{member.name}", size, locator.encode())
        if is_empty:
            raise ObjectError("empty", "The archive has no members.")
    except READ_ERRORS as error:
        reason = explain_damage(error)
        if is_empty and isinstance(error, gzip.BadGzipFile):
            reason = ObjectError("not_an_image", "The file is not gzip, whatever its name says.")
        if reason.status == "throttled":
            raise StorageUnreachableError(str(reason)) from error
        locator = Locator("", "", line, reason.status, str(reason))
        yield ObjectInfo(info.name, info.size, locator.encode())


def open_archive(read_range: Callable[[ByteRange], bytes], info: ObjectInfo) -> BinaryIO:
    """An archive as a file, decompressed where it is compressed as a whole.

    Args:
        read_range: Its store's.
        info: Its name in that store, size and etag.
    """
    file: object = RangeReader(
        lambda start, length: read_range(ByteRange(info.name, start, length, info.etag)), info.size
    )
    form = find_format(info.name)
    if form and form.is_gzipped:
        file = GunzipReader(fileobj=cast(BinaryIO, file), mode="rb")
    return cast(BinaryIO, file)


def explain_damage(error: Exception) -> ObjectError:
    """What an error of reading an archive means to a person."""
    if isinstance(error, ObjectError):
        return error
    if isinstance(error, EOFError):
        return ObjectError("truncated", "The compressed archive ends too early: copy it again.")
    reason = str(error).removesuffix(".")
    return ObjectError("corrupt", f"The compressed archive is damaged: {reason}.")
