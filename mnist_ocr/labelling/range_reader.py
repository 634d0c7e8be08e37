"""An object as a file that can be searched, read in few and large requests."""

import gzip
import io
from collections.abc import Callable
from typing import Any, BinaryIO

from mnist_ocr.digits.decoding import MAX_BYTES
from mnist_ocr.errors import ObjectError

CHUNK_BYTES = 8 * 1024**2
"""Bytes of a request when reading goes on where it was."""

JUMP_BYTES = 64 * 1024
"""Bytes of a request after a jump: the directory of a small archive, or a member's header."""

MAX_RATIO = 200
"""Bytes out of one that is compressed with gzip: ten times what images without a stroke come to;
only bombs come near the 1032 of deflate."""

FREE_BYTES = 256 * 1024**2
"""What is decompressed in half a second, whatever it comes from."""

MAX_SKIP_BYTES = 1024**2
"""What is read along rather than jumped over: at 100 MB/s it takes as long as a request."""


class RangeReader(io.RawIOBase):
    """A read-only file over ranged reads; holds one chunk in memory.

    Args:
        read_range: (start, length) -> bytes, fewer only where the object ends.
        size: Of the object, in bytes.
    """

    def __init__(self, read_range: Callable[[int, int], bytes], size: int) -> None:
        self._read_range = read_range
        self._size = size
        self._position = 0
        self._start = 0
        self._chunk = b""

    def seekable(self) -> bool:
        """It is."""
        return True

    def readable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Bytes from the start."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move without a request."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError("negative position")
        self._position = base + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, fewer only at the end.

        Raises:
            ObjectError: the store's, or `too_large`.
        """
        left = max(self._size - self._position, 0)
        size = left if size is None or size < 0 else min(size, left)
        check_read(size)
        if not size:
            return b""
        start = self._position - self._start
        if start < 0 or start + size > len(self._chunk):
            self._fill(size)
            start = self._position - self._start
        data = self._chunk[start : start + size]
        self._position += len(data)
        return data

    def _fill(self, size: int) -> None:
        """Make the chunk hold `size` bytes from the position on."""
        end = self._start + len(self._chunk)
        kept = b""
        if self._size <= CHUNK_BYTES:
            start, length = 0, self._size
        elif 0 <= self._position - end <= MAX_SKIP_BYTES:
            start, length = self._position, max(size, CHUNK_BYTES)
        elif self._start <= self._position < end:
            kept = self._chunk[self._position - self._start :]
            start, length = end, max(size - len(kept), CHUNK_BYTES)
        else:
            start = max(min(self._position, self._size - JUMP_BYTES), 0)
            length = max(self._position - start + size, JUMP_BYTES)
        self._chunk = kept + self._read_range(start, min(length, self._size - start))
        self._start = start - len(kept)


class LimitedReader(io.RawIOBase):
    """A file of which so many bytes are read and no more, by who would keep them all.

    Args:
        file: Can be searched.
        max_bytes: From now on, or since `renew`.
    """

    def __init__(self, file: BinaryIO, max_bytes: int) -> None:
        self._file = file
        self._max_bytes = max_bytes
        self._num_bytes = 0

    def renew(self) -> None:
        """Count from 0."""
        self._num_bytes = 0

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Bytes from the start."""
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move."""
        return self._file.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, fewer only at the end.

        Raises:
            ObjectError: `too_large`.
        """
        check_read(self._num_bytes + max(size, 0), self._max_bytes)
        data = self._file.read(size)
        self._num_bytes += len(data)
        return data


class GunzipReader(gzip.GzipFile):
    """What a gzip file holds; to go backwards starts again at its beginning.

    Reading and searching raise `ObjectError`, `too_large`, for a bomb.
    """

    _position = 0
    """What `tell` says, which takes longer."""

    def read(self, size: int | None = -1) -> bytes:
        """Up to `size` bytes, fewer only at the end.

        Raises:
            ObjectError: `too_large`; a few bytes of gzip may hold gigabytes.
            ValueError: the whole is asked for, as by a tar's header with a size below zero.
        """
        if size is None or size < 0:
            raise ValueError("a size below zero")
        check_read(size)
        return self._count(super().read(size))

    def read1(self, size: int = -1) -> bytes:
        """What is at hand, for readers of text."""
        return self._count(super().read1(size))

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; forwards everything in between is decompressed."""
        if whence == io.SEEK_SET:
            while offset - self._position > CHUNK_BYTES and self.read(CHUNK_BYTES):
                pass
        self._position = super().seek(offset, whence)
        return self._position

    def _count(self, data: bytes) -> bytes:
        self._position += len(data)
        packed: Any = self.fileobj
        if self._position > max(FREE_BYTES, MAX_RATIO * packed.tell()):
            raise ObjectError(
                "too_large",
                f"{packed.tell():,} bytes of gzip hold over {self._position:,}, more than "
                f"{MAX_RATIO} times as many: pack it anew if that is meant.",
            )
        return data


def check_read(size: int, max_bytes: int = MAX_BYTES) -> None:
    """Refuse to hold more than an image may have at once, whatever a damaged file asks for."""
    if size > max_bytes:
        raise ObjectError(
            "too_large", f"A part of {size:,} bytes is to be read at once, at most {max_bytes:,}."
        )
